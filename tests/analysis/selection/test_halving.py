"""Successive halving, replayed on whole runs, stops what it would have stopped and loses what that would have lost."""

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from ray.tune.schedulers.async_hyperband import _Bracket
from synthetic_spaces import results_of as results_of_space
from synthetic_study import Story, StoryOf, healthy, non_finite, pruned

from analysis.results import Results
from analysis.selection.halving import (
    HalvingCurve,
    halve,
    halve_in_turn,
    halving_curve,
    halving_table,
    replay,
    rungs,
)
from study.settings import Settings

# Six runs of up to four epochs: side by side with factor 2, the runs 5, 4 and 3 continue after the first epoch.
RUNS = [
    [0.50, 0.60, 0.70, 0.95],  # the best in the end starts low
    [0.55, 0.56],
    [0.52, 0.90, 0.91, 0.92],
    [0.60, 0.70, 0.71, 0.72],
    [0.61, 0.65, 0.66, 0.67],
    [0.62],
]


def curve_of(gains: Sequence[float], examples: int = 100) -> HalvingCurve:
    best = [max(gains[: i + 1]) for i in range(len(gains))]
    return HalvingCurve(
        gains=gains,
        best=best,
        selected=[list(gains).index(value) + 1 for value in best],
        validation=best,
        test=[value - 0.01 for value in best],
        examples=[examples * (i + 1) for i in range(len(gains))],
    )


@pytest.mark.parametrize(
    ("epochs", "grace", "factor", "expected"),
    [(4, 1, 2, [1, 2, 4]), (10, 1, 3, [1, 3, 9]), (8, 2, 2, [2, 4, 8]), (1, 2, 2, [])],
)
def test_rungs_are_the_grace_epochs_times_powers_of_the_factor(
    epochs: int, grace: int, factor: int, expected: list[int]
) -> None:
    assert rungs(epochs, grace=grace, factor=factor) == expected


def test_side_by_side_the_best_part_at_each_rung_continues() -> None:
    # At epoch 1 the best three of six are 5, 4 and 3; at epoch 2, of 4 and 3, the best one is 3.
    assert halve(RUNS, grace=1, factor=2) == [1, 1, 1, None, 2, None]
    # One of six, rounded down but never to none.
    assert halve(RUNS, grace=1, factor=4) == [1, 1, 1, 1, 1, None]
    assert halve(RUNS[:2], grace=1, factor=4) == [1, None]
    # No run is compared before the grace epochs: then, of five, 2 and 3 are the best two.
    assert halve(RUNS, grace=2, factor=2) == [2, None, None, None, 2, None]


def test_in_turn_each_run_is_compared_with_those_before_it() -> None:
    # 0 comes first everywhere. At epoch 1, 1 is above 0.50; 2 is under the median 0.525; 3 to 5 are above theirs. At
    # epoch 2, 1 is under 0.60 and ends there; 3 is above the median of 0.56 and 0.60, 4 above that of 0.56, 0.60, 0.70.
    # At epoch 4, 3 and 4 are under 0.95 and 0.835, and end there.
    assert halve_in_turn(RUNS, range(6), grace=1, factor=2) == [None, None, 1, None, None, None]
    # From the last to the first, everything is worse than the median of what came before.
    assert halve_in_turn(RUNS, range(5, -1, -1), grace=1, factor=2) == [1, 1, 1, 1, 1, None]


def test_saved_examples_and_lost_accuracy_are_as_counted_by_hand() -> None:
    curves = [curve_of(gains) for gains in RUNS]
    effect = replay(curves, [1, 1, 1, None, 2, None])
    # 4 + 2 + 4 + 4 + 4 + 1 epochs in all, of which 1 + 1 + 1 + 4 + 2 + 1 were trained.
    assert effect.saved == pytest.approx(1 - 10 / 19)
    assert (effect.stopped, effect.lost) == (4, True)
    assert effect.validation_regret == pytest.approx(0.95 - 0.72)
    assert effect.test_regret == pytest.approx(0.94 - 0.71)
    harmless = replay(curves, [None, 1, 1, 1, 1, None])
    assert (harmless.lost, harmless.validation_regret, harmless.test_regret) == (False, 0.0, 0.0)


def test_a_run_that_is_stopped_after_its_selected_checkpoint_is_not_lost() -> None:
    effect = replay([curve_of([0.7, 0.9, 0.8]), curve_of([0.6, 0.6, 0.6])], [2, None])
    assert (effect.lost, effect.validation_regret) == (False, 0.0)


def test_a_non_finite_score_is_worse_than_every_finite_one() -> None:
    runs = [[0.5, 0.5], [-math.inf, 0.9], [0.6, 0.6]]
    assert halve(runs, grace=1, factor=2) == [1, 1, None]
    assert halve_in_turn(runs, [0, 1, 2], grace=1, factor=2) == [None, 1, None]
    assert halve_in_turn([[-math.inf, 0.1]] * 3, range(3), grace=1, factor=3) == [None] * 3


@pytest.mark.parametrize("factor", [2, 3, 4])
def test_in_turn_stops_what_ray_stops(factor: int) -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        runs = rng.integers(0, 12, size=(12, 9)).astype(float).tolist()
        bracket = _Bracket(1, 10_000, factor, 0)
        expected: list[int | None] = []
        for number, gains in enumerate(runs):
            trial = SimpleNamespace(trial_id=str(number))
            stops = (e for e, gain in enumerate(gains, 1) if bracket.on_result(trial, e, gain) == "STOP")  # type: ignore[arg-type]
            stop = next(stops, None)
            expected.append(stop if stop != len(gains) else None)
        assert halve_in_turn(runs, range(12), grace=1, factor=factor) == expected


# In a study

TEXT = """
data: {source: builtin:reviews, examples: 4000}
fixed: {epochs: 4}
axes:
  model: [tiny-bert, tiny-roberta]
  learning_rate: [1.0e-4, 2.0e-4, 5.0e-4]
  seed: [0, 1]
"""
LATE = Story(accuracy=[0.55, 0.6, 0.9, 0.93], train_loss=[0.6, 0.5, 0.4, 0.3], scale=[1.0] * 4)


def results_of(folder: Path, story_of: StoryOf, text: str = TEXT) -> Results:
    return results_of_space(folder, story_of, text)


def test_a_late_learner_is_reported_as_lost(tmp_path: Path) -> None:
    def story(settings: Settings, rng: np.random.Generator) -> Story:
        late = settings.model == "tiny-bert" and settings.learning_rate == 2e-4
        return LATE if late else healthy(0.8 + settings.seed / 100)

    table = halving_table(results_of(tmp_path, story), np.random.default_rng(0))
    assert table is not None
    rows = {row[:3]: dict(zip(table.columns, row, strict=True)) for row in table.rows}
    assert len(rows) == 12
    late, early = (rows[name, 2, "side by side"] for name in ("tiny-bert", "tiny-roberta"))
    assert (late["runs"], late["best run lost"], early["best run lost"]) == (6, "yes", "no")
    assert late["validation accuracy lost"] == pytest.approx(0.12, abs=0.04)
    assert early["validation accuracy lost"] == 0
    # Of six, three continue after epoch 1, and one after epoch 2.
    assert late["stopped"] == 5
    assert late["examples saved"] == pytest.approx(1 - (3 * 1 + 2 * 2 + 4) / 24)


def test_a_run_with_a_non_finite_loss_can_be_stopped_and_is_not_dropped(tmp_path: Path) -> None:
    results = results_of(tmp_path, lambda settings, rng: non_finite() if settings.seed else healthy(0.8))
    curves = [halving_curve(results, run) for run in results.runs if run.settings.seed == 1]
    assert {curve.gains[-1] for curve in curves} == {-math.inf}
    assert {curve.selected[-1] for curve in curves} == {1}
    table = halving_table(results, np.random.default_rng(0))
    assert table is not None
    assert {row[3] for row in table.rows} == {6}


def test_models_with_few_short_or_pruned_runs_are_left_out(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    few = TEXT.replace("[1.0e-4, 2.0e-4, 5.0e-4]", "[1.0e-4, 2.0e-4]")
    assert halving_table(results_of(tmp_path, lambda s, rng: healthy(), few), rng) is None
    short = TEXT.replace("epochs: 4", "epochs: 1")
    assert halving_table(results_of(tmp_path, lambda s, rng: healthy(epochs=1), short), rng) is None

    def story(settings: Settings, rng: np.random.Generator) -> Story:
        return pruned() if settings.model == "tiny-bert" and settings.seed else healthy()

    table = halving_table(results_of(tmp_path, story), rng)
    assert table is not None
    assert {row[0] for row in table.rows} == {"tiny-roberta"}


def test_equal_curves_have_no_regret() -> None:
    curves = [replace(curve_of([0.5, 0.6]), test=[0.5, 0.6])] * 6
    assert replay(curves, halve([curve.gains for curve in curves], grace=1, factor=3)).test_regret == 0
