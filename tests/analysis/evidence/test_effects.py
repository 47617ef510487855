"""An effect has its mean over conditions, each condition's own, and a test whether these differ."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from synthetic_spaces import NO_SCORE, SMALL, results_of
from synthetic_study import Story, at_chance, healthy, make_synthetic, non_finite, plan_of

from analysis.evidence.effects import HETEROGENEITY_SHARE, Effect, correct_or_chance, effect_of
from analysis.statistics.clustered_means import SeedScores, heterogeneity, mean_over_strata
from analysis.statistics.estimate import FloatArray
from study.settings import Settings


def stratum(mean: float, seed: int, *, seeds: int = 4) -> SeedScores:
    """Differences of 400 examples, with a mean of about ``mean``."""
    rng = np.random.default_rng(seed)
    scores = mean + rng.normal(0, 0.005, (seeds, 1)) + rng.normal(0, 0.2, (seeds, 400))
    return SeedScores(seeds=tuple(range(seeds)), scores=scores)


def effect(*means: float, seeds: int = 4) -> Effect:
    strata = tuple(stratum(mean, number, seeds=seeds) for number, mean in enumerate(means))
    return Effect(names=tuple(f"condition {number}" for number in range(len(means))), strata=strata)


def test_the_mean_is_that_over_strata_at_its_share_of_the_level() -> None:
    two = effect(0.02, 0.03)
    assert two.mean == mean_over_strata(two.strata)
    assert two.p_difference == pytest.approx(two.mean.p_value / (1 - HETEROGENEITY_SHARE))
    assert two.p_heterogeneity == pytest.approx(min(1.0, heterogeneity(two.strata) / HETEROGENEITY_SHARE))
    assert (two.pairs, two.replicated) == (8, True)


def test_conditions_are_opposite_only_if_they_differ_beyond_chance() -> None:
    assert effect(0.1, -0.1).opposite
    assert not effect(0.002, -0.002).opposite
    assert not effect(0.2, 0.05).opposite


def test_conditions_that_differ_are_not_equivalent_though_their_mean_is_zero() -> None:
    assert effect(0.1, -0.1).p_equivalence(0.05) == 1
    assert effect(0.001, -0.001).p_equivalence(0.05) < 0.05


def test_one_seed_tests_nothing() -> None:
    single = effect(0.1, 0.1, seeds=1)
    assert not single.replicated
    assert (single.p_difference, single.p_heterogeneity, single.p_equivalence(0.5)) == (1, 1, 1)
    assert not single.opposite


def test_conditions_without_a_pair_are_counted_where_the_result_stands() -> None:
    found = effect_of([("a", stratum(0.1, 0)), ("b", None), ("c", None)])
    assert found is not None
    assert (found.names, found.dropped) == (("a",), 2)
    assert found.support == "over 4 pairs of runs; 2 conditions without such a pair left out"
    assert effect(0.1, 0.1).support == "over 8 pairs of runs in 2 conditions"
    assert effect_of([("a", None)]) is None


def test_conditions_are_told_from_the_largest_and_counted_where_not_all_are() -> None:
    eight = effect(*(0.1 * number for number in range(8)))
    words = eight.conditions_in_words()
    assert words.startswith("condition 7 +")
    assert words.endswith("; 2 more in the table")


def test_the_table_has_each_condition_the_mean_and_how_alike_they_are() -> None:
    table = effect(0.1, -0.1).table("A title", "accuracy")
    assert [row[0] for row in table.rows] == ["condition 0", "condition 1", "mean over conditions"]
    assert "exploratory" in table.note
    assert "That all conditions are alike: p < 0.001" in table.note
    assert len(effect(0.1).table("A title", "accuracy").rows) == 1


def correct(folder: Path, told: Story, *, without: bool = False) -> FloatArray | None:
    """The correctness of seed 0 that had this story; the others are healthy."""
    space, plan = plan_of(folder, SMALL)

    def tell(settings: Settings, rng: np.random.Generator) -> Story:
        return told if settings.seed == 0 and settings.model == "tiny-bert" else healthy()

    study = make_synthetic(space, plan, tell)
    if without:
        first = plan.trajectories[0].id
        study = replace(study, predictions={k: p for k, p in study.predictions.items() if k[0] != first})
    results = study.results()
    return correct_or_chance(results, results.runs[0].owner)


def test_failed_runs_count_with_what_their_checkpoint_scored(tmp_path: Path) -> None:
    for told, accuracy in ((healthy(0.8), 0.8), (at_chance(), 0.5), (non_finite(), 0.85)):
        scores = correct(tmp_path, told)
        assert scores is not None
        assert scores.mean() == pytest.approx(accuracy, abs=0.03)


def test_a_run_without_any_checkpoint_counts_as_chance(tmp_path: Path) -> None:
    scores = correct(tmp_path, NO_SCORE)
    assert scores is not None
    assert (scores == 0.5).all()
    assert len(scores) == 1_000


@pytest.mark.parametrize("told", [healthy(0.8), non_finite()])
def test_a_checkpoint_whose_predictions_are_missing_counts_as_nothing(tmp_path: Path, told: Story) -> None:
    assert correct(tmp_path, told, without=True) is None


def test_a_study_without_any_predictions_has_no_examples(tmp_path: Path) -> None:
    results = results_of(tmp_path, lambda settings, rng: NO_SCORE)
    assert correct_or_chance(results, results.runs[0].owner) is None
