"""Failures of two arms are compared within conditions, by two outcomes, and told with what the design cannot show."""

from pathlib import Path

import numpy as np
import pytest
from synthetic_spaces import GRID, results_of
from synthetic_study import Story, StoryOf, collapsing, declining, healthy

from analysis.evidence.comparison import ended_runs, run_strata
from analysis.evidence.failures import FailureComparison, compare_failures, failures_by_chance
from study.settings import Settings

TEXT = GRID.replace("10000", "6000").replace("[5.0e-4, 1.0e-3]", "[1.0e-3]").replace("3, 4, 5, 6, 7]", "3, 4]")


def comparison_of(folder: Path, story_of: StoryOf, text: str = TEXT) -> FailureComparison:
    """Linear against constant."""
    results = results_of(folder, story_of, text)
    groups = run_strata(ended_runs(results), ["lr_schedule"])
    comparison = compare_failures(groups, "linear", "constant", results.diagnoses)
    assert comparison is not None
    return comparison


def test_only_conditions_with_failures_and_successes_are_evidence(tmp_path: Path) -> None:
    def tell(settings: Settings, rng: np.random.Generator) -> Story:
        fails = settings.model == "tiny-bert" and settings.lr_schedule == "constant"
        return collapsing() if fails else healthy()

    comparison = comparison_of(tmp_path, tell)
    assert len(comparison.conditions) == 2
    assert len(comparison.informative) == 1
    assert comparison.p_value == pytest.approx(2 / 252)
    assert comparison.fewer == "linear"
    assert comparison.evidence == (
        "in 1 of 2 conditions (tiny-bert) some runs failed: there 0 of 5 linear runs and 5 of 5 constant runs failed, "
        "p = 0.008"
    )
    assert comparison.difference is not None
    assert comparison.difference.value == -1


def test_two_outcomes_that_are_not_the_same_runs_double_the_p_value(tmp_path: Path) -> None:
    """Declines alone are as clear as collapses alone; with some of either, the clearer outcome is doubled."""

    def declines(settings: Settings, rng: np.random.Generator) -> Story:
        return declining() if settings.lr_schedule == "constant" else healthy()

    def both(settings: Settings, rng: np.random.Generator) -> Story:
        if settings.lr_schedule == "linear":
            return healthy()
        return declining() if settings.seed == 0 else collapsing()

    # No run failed, so that only the second outcome could show anything.
    one = comparison_of(tmp_path, declines)
    assert one.outcome == "unstable"
    assert one.p_value == pytest.approx(2 / 252)
    two = comparison_of(tmp_path, both)
    assert two.outcome == "unstable"
    assert two.p_value == pytest.approx(2 * 2 / 252)
    assert two.test("failed").p_value > two.test("unstable").p_value


def test_runs_that_neither_failed_nor_learned_are_left_out_and_counted(tmp_path: Path) -> None:
    """60 validation examples cannot tell runs of 55 % from chance."""
    text = TEXT.replace("6000", "600")

    def tell(settings: Settings, rng: np.random.Generator) -> Story:
        return healthy(0.55) if settings.seed < 2 else healthy()

    comparison = comparison_of(tmp_path, tell, text)
    assert comparison.undecided == 8
    assert [condition.failed.counts for condition in comparison.conditions] == [((0, 3), (0, 3))] * 2
    assert comparison.evidence == "no run failed in any of the 2 conditions"
    assert (comparison.attainable, comparison.difference, comparison.limits()) == (False, None, "")


def test_a_design_that_could_not_have_shown_a_difference_says_so(tmp_path: Path) -> None:
    text = TEXT.replace("[0, 1, 2, 3, 4]", "[0, 1, 2]")

    def tell(settings: Settings, rng: np.random.Generator) -> Story:
        fails = settings.model == "tiny-bert" and settings.lr_schedule == "constant"
        return collapsing() if fails else healthy()

    comparison = comparison_of(tmp_path, tell, text)
    assert comparison.p_value == pytest.approx(0.1)
    assert not comparison.attainable
    assert comparison.limits().startswith("With 3 seeds per condition, failures of these numbers cannot show")
    assert comparison_of(tmp_path, tell).limits() == ""


def test_arms_that_no_condition_has_both_of_are_not_compared(tmp_path: Path) -> None:
    results = results_of(tmp_path, lambda s, rng: healthy() if s.lr_schedule == "linear" else None, TEXT)
    groups = run_strata(ended_runs(results), ["lr_schedule"])
    assert compare_failures(groups, "linear", "constant", results.diagnoses) is None


def test_the_table_has_each_condition_and_both_outcomes(tmp_path: Path) -> None:
    def tell(settings: Settings, rng: np.random.Generator) -> Story:
        if settings.lr_schedule == "linear" or settings.model == "tiny-roberta":
            return healthy()
        return declining() if settings.seed < 2 else collapsing()

    rows = comparison_of(tmp_path, tell).table(["model"]).rows
    assert [row[:3] for row in rows] == [("tiny-bert", "0 of 5", "3 of 5"), ("tiny-roberta", "0 of 5", "0 of 5")]
    assert [row[5] for row in rows] == ["0 and 5", "the same"]
    assert rows[1][4] is None


def test_failures_that_follow_the_model_are_not_spread_by_chance(tmp_path: Path) -> None:
    def by_model(settings: Settings, rng: np.random.Generator) -> Story:
        return collapsing() if settings.model == "tiny-bert" else healthy()

    def by_chance(settings: Settings, rng: np.random.Generator) -> Story:
        return collapsing() if rng.random() < 0.3 else healthy()

    keys = ["model", "lr_schedule"]
    results = results_of(tmp_path, by_model, TEXT)
    assert failures_by_chance(results, ended_runs(results), keys) < 0.01
    results = results_of(tmp_path, by_chance, TEXT)
    assert failures_by_chance(results, ended_runs(results), keys) > 0.05
