"""A schedule helps by its shape or by its lower mean rate, as constant runs of that mean rate tell."""

from pathlib import Path

import numpy as np
import pytest
from synthetic_spaces import GRID, results_of
from synthetic_study import Story, StoryOf, collapsing, healthy

from analysis.evidence.comparison import ended_runs
from analysis.evidence.mean_rate import MeanRateComparison, compare_mean_rates
from study.settings import Settings

TEXT = GRID.replace("10000", "4000").replace("[tiny-bert, tiny-roberta]", "[tiny-bert]")


def comparison_of(folder: Path, fails: StoryOf, text: str = TEXT) -> MeanRateComparison:
    results = results_of(folder, fails, text)
    return compare_mean_rates(ended_runs(results), results.diagnoses, "linear")


def failing(*conditions: tuple[str, float], until: int = 8) -> StoryOf:
    """Runs of these schedules and rates collapse, for seeds below ``until``."""

    def tell(settings: Settings, rng: np.random.Generator) -> Story:
        condition = str(settings.lr_schedule), settings.learning_rate
        return collapsing() if condition in conditions and settings.seed < until else healthy()

    return tell


@pytest.mark.parametrize(
    ("failed", "until", "conclusion"),
    [
        ((("constant", 5e-4), ("constant", 1e-3)), 8, "by its shape"),
        ((("constant", 1e-3),), 8, "its lower mean rate suffices"),
        ((("constant", 1e-3),), 3, "undetermined with so few runs"),
        ((), 8, "undetermined with so few runs"),
    ],
)
def test_the_reason_is_told_by_constant_runs_at_the_mean_rate(
    tmp_path: Path, failed: tuple[tuple[str, float], ...], until: int, conclusion: str
) -> None:
    comparison = comparison_of(tmp_path, failing(*failed, until=until))
    assert comparison.available
    assert conclusion in comparison.conclusion()


def test_the_three_arms_are_the_peak_the_decay_and_its_mean(tmp_path: Path) -> None:
    comparison = comparison_of(tmp_path, failing())
    (arms,) = comparison.conditions
    described = [
        (str(arm.settings.lr_schedule), arm.settings.learning_rate)
        for arm in (arms.full_rate, arms.decaying, arms.mean_rate)
    ]
    assert described == [("constant", 1e-3), ("linear", 1e-3), ("constant", 5e-4)]
    (table,) = comparison.tables()
    assert [row[2] for row in table.rows] == [8, 8, 8]


def test_a_study_without_the_mean_rate_shows_no_reason(tmp_path: Path) -> None:
    comparison = comparison_of(tmp_path, failing(), TEXT.replace("[5.0e-4, 1.0e-3]", "[4.0e-4, 1.0e-3]"))
    assert not comparison.available
    assert comparison.tables() == []
    assert "is not known: no constant run has that mean" in comparison.conclusion()


def test_a_lower_rate_that_helps_in_part_leaves_the_shape_open(tmp_path: Path) -> None:
    """Constant runs fail in all seeds at the full rate and in some at the mean rate; decaying ones in none."""

    def tell(settings: Settings, rng: np.random.Generator) -> Story:
        if settings.lr_schedule == "linear":
            return healthy()
        return collapsing() if settings.learning_rate == 1e-3 or settings.seed < 3 else healthy()

    assert "do not show whether the shape adds to that" in comparison_of(tmp_path, tell).conclusion()
