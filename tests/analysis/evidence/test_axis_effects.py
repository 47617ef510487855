"""Each value of an axis is compared with the others, everything else equal, and axes that vary together are one."""

from pathlib import Path

import numpy as np
import pytest
from synthetic_spaces import GRID, MODEL_RATES, near, results_of
from synthetic_study import Story, healthy

from analysis.evidence.axis_effects import axes_of, axis_effects
from analysis.evidence.comparison import ended_runs
from study.settings import Settings

TEXT = """
data: {source: builtin:reviews, examples: 6000}
fixed: {epochs: 2, model: tiny-bert}
axes:
  learning_rate: [1.0e-4, 3.0e-4, 1.0e-3]
  dropout: [0.0, 0.1]
  seed: [0, 1, 2, 3, 4]
"""


def by_rate(settings: Settings, rng: np.random.Generator) -> Story:
    gain = {1e-4: 0.0, 3e-4: 0.0, 1e-3: 0.06}[settings.learning_rate]
    return healthy(near(0.85 + gain, rng, 0.002), epochs=2)


def test_each_value_is_compared_with_the_mean_of_the_others(tmp_path: Path) -> None:
    results = results_of(tmp_path, by_rate, TEXT)
    rate, dropout = axis_effects(results, ended_runs(results))
    assert (rate.name, dropout.name) == ("learning rate", "dropout")
    assert {value: round(effect.mean.value, 2) for value, effect in rate.by_value.items()} == {
        "lr 0.0001": pytest.approx(-0.03, abs=0.011),
        "lr 0.0003": pytest.approx(-0.03, abs=0.011),
        "lr 0.001": pytest.approx(0.06, abs=0.011),
    }
    assert rate.best == "lr 0.001"
    assert rate.p_value < 0.01
    assert dropout.p_value > 0.05
    # Of two values, one comparison is the other with its sign changed.
    first, second = dropout.by_value.values()
    assert first.mean.value == pytest.approx(-second.mean.value)
    assert dropout.p_value == pytest.approx(first.mean.p_value)
    smallest = min(effect.mean.p_value for effect in rate.by_value.values())
    assert rate.p_value == pytest.approx(3 * smallest)


def test_conditions_without_all_values_are_left_out_and_counted(tmp_path: Path) -> None:
    def tell(settings: Settings, rng: np.random.Generator) -> Story | None:
        missing = settings.learning_rate == 1e-3 and settings.dropout == 0.0
        return None if missing else by_rate(settings, rng)

    results = results_of(tmp_path, tell, TEXT)
    rate, dropout = axis_effects(results, ended_runs(results))
    assert {(len(effect.strata), effect.dropped) for effect in rate.by_value.values()} == {(1, 1)}
    assert {(len(effect.strata), effect.dropped) for effect in dropout.by_value.values()} == {(2, 1)}


def test_an_axis_of_which_one_value_has_ended_has_no_effect(tmp_path: Path) -> None:
    results = results_of(tmp_path, lambda s, rng: by_rate(s, rng) if s.dropout == 0.0 else None, TEXT)
    assert [axis.name for axis in axis_effects(results, ended_runs(results))] == ["learning rate"]


def test_an_interaction_is_found(tmp_path: Path) -> None:
    def tell(settings: Settings, rng: np.random.Generator) -> Story:
        gain = (settings.learning_rate == 1e-3) * (0.05 if settings.dropout == 0.0 else -0.05)
        return healthy(near(0.85 + gain, rng, 0.002), epochs=2)

    results = results_of(tmp_path, tell, TEXT)
    assert axis_effects(results, ended_runs(results))[0].p_interaction < 0.05
    results = results_of(tmp_path, by_rate, TEXT)
    assert axis_effects(results, ended_runs(results))[0].p_interaction > 0.05


def test_settings_that_never_vary_apart_are_one_axis(tmp_path: Path) -> None:
    text = GRID.replace("[constant, linear]", "[constant, {name: linear, warmup_fraction: 0.1}]")
    results = results_of(tmp_path, lambda s, rng: healthy(), text.replace("10000", "1000"))
    assert axes_of(results) == [("model",), ("lr_schedule", "warmup_fraction"), ("learning_rate",)]


def test_a_models_own_settings_are_no_axis(tmp_path: Path) -> None:
    results = results_of(tmp_path, lambda s, rng: healthy(), MODEL_RATES.replace("30000", "1000"))
    assert axes_of(results) == [("model",), ("lr_schedule",), ("batch_size",)]
    model = axis_effects(results, ended_runs(results))[0]
    assert [len(effect.strata) for effect in model.by_value.values()] == [4, 4]
