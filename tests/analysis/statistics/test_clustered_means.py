"""Means over strata, seeds and examples have statsmodels' clustered errors, and intervals that cover the truth."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import pytest
import scipy.stats
import statsmodels.api as sm
from statsmodels.formula.api import ols
from statsmodels.stats.anova import anova_lm

from analysis.statistics import clustered_means
from analysis.statistics.clustered_means import (
    ClusteredMean,
    SeedScores,
    heterogeneity,
    mean_over_seeds,
    mean_over_strata,
    weighted_sum,
)
from analysis.statistics.estimate import FloatArray
from analysis.statistics.intervals import POWER

# Standard deviations of the scores of single examples: of the example itself, and of its interaction with the seed.
OF_EXAMPLES, OF_BOTH = 0.3, 0.1


def crossed(rng: np.random.Generator, seeds: int, examples: int, *, seed_sd: float = 0.02) -> FloatArray:
    """Scores with a part of the seed, one of the example, and one of their interaction; the mean is zero."""
    return np.asarray(
        rng.normal(0, seed_sd, (seeds, 1))
        + rng.normal(0, OF_EXAMPLES, (1, examples))
        + rng.normal(0, OF_BOTH, (seeds, examples))
    )


def strata_of(*scores: FloatArray, seeds: Sequence[Sequence[int]] = ()) -> list[SeedScores]:
    """Strata with the seed numbers 0, 1, ..., or those given."""
    numbers = seeds or [range(len(array)) for array in scores]
    return [SeedScores(seeds=tuple(of), scores=array) for of, array in zip(numbers, scores, strict=True)]


def clustered_error(strata: Sequence[SeedScores], by: str) -> float:
    """The standard error of the mean of all scores by statsmodels, clustered by seed or by example."""
    seed, example = (
        np.concatenate([np.repeat(stratum.seeds, stratum.scores.shape[1]) for stratum in strata]),
        np.concatenate([np.tile(np.arange(stratum.scores.shape[1]), len(stratum.seeds)) for stratum in strata]),
    )
    scores = np.concatenate([stratum.scores.ravel() for stratum in strata])
    groups = seed if by == "seed" else example
    fit: Any = sm.OLS(scores, np.ones(len(scores))).fit(cov_type="cluster", cov_kwds={"groups": groups})
    return float(fit.bse[0])


def interaction_error(scores: FloatArray) -> float:
    """What the interaction of seeds and examples gives the standard error of a mean, by an analysis of variance."""
    seeds, examples = scores.shape
    frame = pd.DataFrame(
        {"y": scores.ravel(), "s": np.repeat(np.arange(seeds), examples), "e": np.tile(np.arange(examples), seeds)}
    )
    residual = anova_lm(ols("y ~ C(s) + C(e)", data=frame).fit()).loc["Residual", "mean_sq"]
    return math.sqrt(float(residual) / scores.size)


@pytest.mark.parametrize("seed_sd", [0.0, 0.02, 0.2])
def test_the_error_of_one_stratum_is_that_of_two_way_clusters(seed_sd: float) -> None:
    """Cameron, Gelbach & Miller (2011): the variances of both clusterings, less what they have in common."""
    scores = crossed(np.random.default_rng(0), 5, 40, seed_sd=seed_sd)
    mean, strata = mean_over_seeds(scores), strata_of(scores)
    of_seeds, of_examples = (clustered_error(strata, by) for by in ("seed", "example"))
    assert mean.value == pytest.approx(scores.mean())
    assert mean.examples_error == pytest.approx(of_examples)
    expected = of_seeds**2 + of_examples**2 - interaction_error(scores) ** 2
    assert mean.standard_error**2 == pytest.approx(max(expected, of_seeds**2, of_examples**2))


def test_the_error_of_strata_with_the_same_seeds_is_clustered_by_seed_number() -> None:
    """A seed that is good in one stratum is good in all: that is one draw of a seed, not three."""
    rng = np.random.default_rng(1)
    common = rng.normal(0, 0.1, (6, 1))
    strata = strata_of(*(common + crossed(rng, 6, 50, seed_sd=0.01) for _ in range(3)))
    mean = mean_over_strata(strata)
    assert mean.examples_error == pytest.approx(clustered_error(strata, "example"))
    shared = sum(interaction_error(stratum.scores) ** 2 for stratum in strata) / 9
    expected = clustered_error(strata, "seed") ** 2 + clustered_error(strata, "example") ** 2 - shared
    assert mean.standard_error == pytest.approx(math.sqrt(expected))
    apart = mean_over_strata(strata_of(*(s.scores for s in strata), seeds=[range(6 * k, 6 * k + 6) for k in range(3)]))
    assert apart.standard_error < 0.8 * mean.standard_error
    assert apart.degrees_of_freedom > 2 * mean.degrees_of_freedom


def test_strata_with_seeds_of_their_own_are_welchs_test() -> None:
    """Without an error of the examples, the difference of two strata is Welch's, but for its degrees of freedom."""
    rng = np.random.default_rng(2)
    first, second = rng.normal(0.1, 0.02, 4), rng.normal(0.0, 0.02, 4)
    scores = [np.repeat(values[:, None], 1_000, axis=1) for values in (first, second)]
    mean = weighted_sum(strata_of(*scores, seeds=[range(4), range(4, 8)]), [1, -1])
    welch = scipy.stats.ttest_ind(first, second, equal_var=False)
    assert mean.value / mean.standard_error == pytest.approx(welch.statistic)
    assert mean.degrees_of_freedom == pytest.approx(6)


def test_unequal_seeds_are_weighted_by_stratum_and_summed_by_seed_number() -> None:
    """By hand: seeds 0, 1, 2 and 1, 2; the second stratum has the weight of the first though it has fewer seeds."""
    a, b = np.array([0.0, 3.0, 6.0]), np.array([1.0, 5.0])
    strata = strata_of(*(np.repeat(v[:, None], 10, axis=1) for v in (a, b)), seeds=[(0, 1, 2), (1, 2)])
    mean = mean_over_strata(strata)
    assert mean.value == 3.0
    # Residuals -3, 0, 3 over the root of 3 * 2, and -2, 2 over that of 2 * 1; half of each, by seed number.
    by_seed = [-3 / math.sqrt(6) / 2, -2 / math.sqrt(2) / 2, 3 / math.sqrt(6) / 2 + 2 / math.sqrt(2) / 2]
    assert mean.standard_error == pytest.approx(math.sqrt(sum(part**2 for part in by_seed)))
    assert (mean.seeds, mean.strata) == (2, 2)


def test_a_stratum_with_one_seed_is_kept_and_has_the_spread_of_the_others() -> None:
    rng = np.random.default_rng(3)
    replicated, single = crossed(rng, 4, 60), crossed(rng, 1, 60) + 0.5
    mean = mean_over_strata(strata_of(replicated, single, seeds=[range(4), [9]]))
    assert mean.value == pytest.approx((replicated.mean() + single.mean()) / 2)
    spread = float(replicated.mean(axis=1).var(ddof=1))
    assert mean.standard_error**2 > spread / 4 / 4 + spread / 4
    assert mean.degrees_of_freedom > 0
    assert mean.estimate().has_interval
    # The same single seed in two strata moves both: four times the variance of one, not twice.
    one, two = (
        mean_over_strata(strata_of(replicated, *[single] * 2, seeds=[range(4), [9], [second]])) for second in (10, 9)
    )
    assert two.standard_error > one.standard_error


def test_single_seeds_alone_have_an_interval_over_examples_only() -> None:
    scores = np.random.default_rng(4).normal(0.1, 0.3, (1, 400))
    mean = mean_over_strata(strata_of(scores, scores))
    assert not mean.estimate().has_interval
    assert all(map(math.isnan, (mean.p_value, mean.p_above(0), mean.p_equivalence(1), mean.detectable)))
    over_examples = mean_over_seeds(scores).over_examples()
    z = scipy.stats.norm.ppf(0.975) * scores.std(ddof=1) / 20
    assert (over_examples.low, over_examples.high) == pytest.approx((scores.mean() - z, scores.mean() + z))
    p = 2 * scipy.stats.norm.sf(abs(scores.mean()) / (scores.std(ddof=1) / 20))
    assert mean_over_seeds(scores).p_over_examples == pytest.approx(p)


@pytest.mark.parametrize("seeds", [1, 2, 5])
def test_ties_have_an_interval_of_one_example_and_show_no_difference(seeds: int) -> None:
    mean = mean_over_seeds(np.zeros((seeds, 60)))
    interval = mean.over_examples() if seeds == 1 else mean.estimate()
    assert (interval.low, interval.high) == pytest.approx((-1 / 60, 1 / 60))
    assert mean.p_over_examples == 1.0
    assert seeds == 1 or mean.p_value == 1.0


def test_scores_that_differ_alike_in_every_seed_are_not_more_certain_than_one_example() -> None:
    """Every seed gains exactly one example of 50: no seed's spread, and no interval of width zero."""
    scores = np.zeros((3, 50))
    scores[:, 7] = 1.0
    estimate = mean_over_seeds(scores).estimate()
    assert estimate.high - estimate.low >= 2 / 50
    assert not estimate.excludes_zero


def test_examples_that_weigh_more_than_the_margin_and_ties_cannot_show_equivalence() -> None:
    scores = np.zeros((5, 5_000))
    assert mean_over_seeds(scores).p_equivalence(0.01) == 1.0
    scores[:, ::1_000] = np.eye(5)
    assert mean_over_seeds(scores).p_equivalence(0.01) < 0.001
    assert mean_over_seeds(scores[:, ::100]).p_equivalence(0.01) == 1.0


def test_equivalence_at_five_percent_is_an_interval_within_the_margin() -> None:
    rng = np.random.default_rng(5)
    agreed = 0
    for _ in range(200):
        mean = mean_over_seeds(crossed(rng, 4, 400, seed_sd=0.01) + rng.normal(0, 0.01))
        interval = mean.estimate()
        agreed += (mean.p_equivalence(0.04) < 0.05) == (interval.low > -0.04 and interval.high < 0.04)
    assert agreed == 200


def test_a_p_value_below_five_percent_is_an_interval_without_zero() -> None:
    rng = np.random.default_rng(6)
    for _ in range(200):
        mean = mean_over_seeds(crossed(rng, 3, 100) + rng.normal(0, 0.05))
        assert (mean.p_value < 0.05) == mean.estimate().excludes_zero
        above, below = mean.p_above(0.0), 1 - mean.p_above(0.0)
        assert min(above, below) == pytest.approx(mean.p_value / 2)


def covered(studies: int, seeds: int, seed_sd: float, shared: float, strata: int, rng: np.random.Generator) -> int:
    """How many 95 % intervals have the true mean, zero, where seeds move strata together by the share ``shared``."""
    number = 0
    for _ in range(studies):
        common, examples = rng.normal(size=(seeds, 1)), rng.normal(0, OF_EXAMPLES, (1, 80))
        effects = [
            seed_sd * (math.sqrt(shared) * common + math.sqrt(1 - shared) * rng.normal(size=(seeds, 1)))
            for _ in range(strata)
        ]
        scores = [effect + examples + rng.normal(0, OF_BOTH, (seeds, 80)) for effect in effects]
        estimate = mean_over_strata(strata_of(*scores)).estimate()
        number += estimate.low <= 0 <= estimate.high
    return number


@pytest.mark.parametrize(("seeds", "seed_sd", "shared"), [(2, 0.1, 1.0), (3, 0.0, 0.0), (3, 0.1, 0.5), (5, 0.02, 1.0)])
def test_intervals_cover_the_truth_in_a_few_designs(seeds: int, seed_sd: float, shared: float) -> None:
    number = covered(300, seeds, seed_sd, shared, strata=2, rng=np.random.default_rng([seeds, 7]))
    assert number >= scipy.stats.binom.ppf(1e-4, 300, 0.93)


@pytest.mark.slow
@pytest.mark.parametrize("seeds", [2, 3, 5])
@pytest.mark.parametrize("seed_sd", [0.0, 0.02, 0.1])
@pytest.mark.parametrize(("strata", "shared"), [(1, 0.0), (4, 0.0), (4, 0.5), (4, 1.0)])
def test_intervals_cover_the_truth_in_93_to_97_percent(seeds: int, seed_sd: float, strata: int, shared: float) -> None:
    """The upper end is 98 % for two or three seeds: whether they agree by luck cannot be seen, and is allowed for."""
    studies = 1_000
    number = covered(studies, seeds, seed_sd, shared, strata, np.random.default_rng([seeds, strata, 8]))
    least = scipy.stats.binom.ppf(1e-3, studies, 0.94)
    most = scipy.stats.binom.ppf(1 - 1e-3, studies, 0.965 if seeds > 3 else 0.975)
    assert least <= number <= most


def test_conditions_that_differ_are_found_and_alike_ones_are_not() -> None:
    rng = np.random.default_rng(9)
    alike = strata_of(*(crossed(rng, 4, 300) + 0.05 for _ in range(4)))
    assert heterogeneity(alike) > 0.05
    unlike = [*alike[:3], SeedScores(seeds=(0, 1, 2, 3), scores=alike[3].scores - 0.3)]
    assert heterogeneity(unlike) < 0.01
    assert math.isnan(heterogeneity(alike[:1]))
    assert math.isnan(heterogeneity(strata_of(*(stratum.scores[:1] for stratum in alike))))


def test_two_conditions_differ_as_their_difference_does() -> None:
    rng = np.random.default_rng(10)
    pair = strata_of(crossed(rng, 4, 100), crossed(rng, 4, 100) + 0.1)
    assert heterogeneity(pair) == pytest.approx(weighted_sum(pair, [1, -1]).p_value)


def test_alike_conditions_seldom_seem_to_differ() -> None:
    rng = np.random.default_rng(11)
    false = 0
    for _ in range(300):
        common = rng.normal(0, 0.05, (3, 1))
        false += heterogeneity(strata_of(*(common + crossed(rng, 3, 60, seed_sd=0.03) for _ in range(4)))) < 0.05
    assert false <= scipy.stats.binom.ppf(1 - 1e-3, 300, 0.05)


def mean_with(error: float, degrees_of_freedom: float) -> ClusteredMean:
    return ClusteredMean(
        value=0.0,
        standard_error=error,
        examples_error=error,
        degrees_of_freedom=degrees_of_freedom,
        seeds=3,
        strata=1,
        resolution=1e-6,
    )


def test_the_detectable_mean_is_found_with_the_stated_power() -> None:
    error, df = 0.01, 12
    mean = mean_with(error, df).detectable
    t = scipy.stats.nct.rvs(df, mean / error, size=20_000, random_state=np.random.default_rng(3))
    assert float((abs(t) > scipy.stats.t.ppf(0.975, df)).mean()) == pytest.approx(POWER, abs=0.02)


def test_two_seeds_that_agree_by_luck_do_not_make_the_examples_decide(monkeypatch: pytest.MonkeyPatch) -> None:
    """Satterthwaite's degrees of freedom from the estimate itself would be larger, and the interval too narrow."""
    scores = crossed(np.random.default_rng(13), 2, 200, seed_sd=0.0)
    cautious = mean_over_seeds(scores).degrees_of_freedom
    monkeypatch.setattr(clustered_means, "LUCK", 0.99)
    assert cautious < mean_over_seeds(scores).degrees_of_freedom


def test_a_seed_number_occurs_once_in_a_stratum() -> None:
    with pytest.raises(AssertionError):
        SeedScores(seeds=(0, 0), scores=np.zeros((2, 3)))
