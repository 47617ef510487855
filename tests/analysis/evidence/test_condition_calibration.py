"""Each condition has its calibration by seed, and rises of accuracy and loss together are corrected for all pairs."""

from pathlib import Path

import numpy as np
import pytest
from synthetic_spaces import SMALL, near, results_of
from synthetic_study import Story, at_chance, healthy

from analysis.evidence.comparison import usable_runs
from analysis.evidence.condition_calibration import ConditionCalibration, calibrations, largest_loss_rise
from analysis.results import Results
from study.settings import Settings

TEXT = SMALL.replace("10000", "20000")


def groups_of(results: Results) -> list[ConditionCalibration]:
    return calibrations(results, usable_runs(results))


def test_a_condition_has_its_runs_by_seed_and_their_temperature(tmp_path: Path) -> None:
    results = results_of(tmp_path, lambda s, rng: at_chance() if s.seed == 0 else healthy(0.9, scale=2.0), TEXT)
    groups = groups_of(results)
    assert len(groups) == 4
    for group in groups:
        assert sorted(group.by_seed) == [1, 2, 3]
        assert group.gaps.seeds == (1, 2, 3)
        assert group.gaps.scores.mean() > 0.02
        assert group.accuracy == pytest.approx(0.9, abs=0.02)
        assert group.temperature.value == pytest.approx(2.0, rel=0.15)
        assert group.scaled_loss < group.loss
        assert group.loss_of_correct is not None
        assert group.loss_of_wrong is not None
        assert group.loss_of_correct < group.loss < group.loss_of_wrong


def conditions_of(
    folder: Path, accuracy: float, scale: float, *, rates: int = 2, seeds: int = 4
) -> list[ConditionCalibration]:
    """Conditions of which that with the highest rate has this accuracy and scale, and the others .88 and 1."""
    values = [1e-4 * number for number in range(1, rates)] + [1e-3]

    def tell(settings: Settings, rng: np.random.Generator) -> Story:
        high = settings.learning_rate == 1e-3
        return healthy(near(accuracy if high else 0.88, rng, 0.001), scale=scale if high else 1.0)

    text = TEXT.replace("[tiny-bert, tiny-roberta]", "[tiny-bert]").replace("[5.0e-4, 1.0e-3]", f"{values}")
    return groups_of(results_of(folder, tell, text.replace("[0, 1, 2, 3]", f"{list(range(seeds))}")))


def rise_p(folder: Path, accuracy: float, scale: float, seeds: int = 4) -> float:
    """The p-value of the largest rise of two such conditions."""
    rise = largest_loss_rise(conditions_of(folder, accuracy, scale, seeds=seeds))
    return 1.0 if rise is None else rise.p_value


def test_accuracy_and_loss_have_to_rise_both(tmp_path: Path) -> None:
    assert rise_p(tmp_path, 0.92, 6.0) < 0.01
    assert rise_p(tmp_path, 0.92, 1.0) == 1.0
    assert rise_p(tmp_path, 0.85, 6.0) == 1.0
    assert rise_p(tmp_path, 0.8805, 6.0) > 0.05


def test_the_p_value_is_corrected_for_all_pairs(tmp_path: Path) -> None:
    """Six conditions have 30 ordered pairs, two have two: pairs in which nothing rises were looked at, too."""
    groups = conditions_of(tmp_path, 0.94, 6.0, rates=6)
    found = largest_loss_rise(groups)
    assert found is not None
    assert found.high is groups[-1]
    alone = largest_loss_rise([found.low, found.high])
    assert alone is not None
    assert found.p_value == pytest.approx(min(1.0, 15 * alone.p_value))


def test_one_seed_has_the_examples_p_value(tmp_path: Path) -> None:
    assert rise_p(tmp_path, 0.92, 6.0, seeds=1) < 0.01
    assert rise_p(tmp_path, 0.881, 6.0, seeds=1) > 0.05


def test_conditions_without_a_common_seed_are_not_compared(tmp_path: Path) -> None:
    def tell(settings: Settings, rng: np.random.Generator) -> Story | None:
        high = settings.learning_rate == 1e-3
        if high == (settings.seed < 2):
            return None
        return healthy(0.95 if high else 0.85, scale=6.0 if high else 1.0)

    rise = largest_loss_rise(
        groups_of(results_of(tmp_path, tell, TEXT.replace("[tiny-bert, tiny-roberta]", "[tiny-bert]")))
    )
    assert rise is not None
    assert rise.p_value == 1.0
