"""Each interval and test agrees with an independent implementation, or with its definition by brute force."""

import itertools
import math

import numpy as np
import numpy.typing as npt
import pytest
import scipy.stats
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.proportion import confint_proportions_2indep, proportion_confint

from analysis.statistics import intervals


@pytest.mark.parametrize(("events", "trials"), [(0, 5), (5, 5), (3, 10), (1, 1), (0, 1), (17, 320)])
def test_clopper_pearson_agrees_with_scipy_and_statsmodels(events: int, trials: int) -> None:
    ours = intervals.clopper_pearson(events, trials)
    theirs = scipy.stats.binomtest(events, trials).proportion_ci(0.95, method="exact")
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high))
    low, high = proportion_confint(events, trials, alpha=0.05, method="beta")
    assert (ours.low, ours.high) == pytest.approx((0.0 if events == 0 else low, 1.0 if events == trials else high))


def test_no_trials_leave_every_share_possible() -> None:
    share = intervals.clopper_pearson(0, 0)
    assert math.isnan(share.value)
    assert (share.low, share.high) == (0, 1)


def test_fishers_test_is_that_of_the_hypergeometric_distribution() -> None:
    """2 of 10 against 8 of 10: all tables with these margins that are no more probable than this one."""
    probabilities = [math.comb(10, k) * math.comb(10, 10 - k) / math.comb(20, 10) for k in range(11)]
    expected = sum(p for p in probabilities if p <= probabilities[2] * (1 + 1e-9))
    assert intervals.fisher_exact((2, 10), (8, 10)) == pytest.approx(expected)


def test_mcnemar_agrees_with_statsmodels() -> None:
    rng = np.random.default_rng(0)
    first, second = rng.random(500) < 0.9, rng.random(500) < 0.86
    only_first, only_second, p = intervals.mcnemar_exact(first, second)
    table = [[int((first & second).sum()), only_first], [only_second, int((~first & ~second).sum())]]
    assert p == pytest.approx(float(mcnemar(table, exact=True).pvalue))
    assert intervals.mcnemar_exact(first, first) == (0, 0, 1.0)


def test_a_mean_over_seeds_has_scipys_t_interval() -> None:
    values = [0.9, 0.91, 0.88, 0.93]
    ours = intervals.mean_over_seeds(values)
    theirs = scipy.stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high))
    assert math.isnan(intervals.mean_over_seeds([0.9]).low)


def test_the_expected_best_is_the_mean_over_all_samples() -> None:
    validation, test = [0.9, 0.5, 0.92, 0.7, 0.88], [0.89, 0.5, 0.86, 0.72, 0.9]
    for n in range(1, 6):
        samples = list(itertools.combinations(range(5), n))
        best = [max(sample, key=lambda i: validation[i]) for sample in samples]
        curve = intervals.expected_best(validation)[n - 1], intervals.expected_best(validation, test)[n - 1]
        assert curve == pytest.approx((np.mean([validation[i] for i in best]), np.mean([test[i] for i in best])))


def test_the_expected_best_of_many_trials_is_finite() -> None:
    curve = intervals.expected_best(np.random.default_rng(0).random(2_000).tolist())
    assert np.isfinite(curve).all()
    assert (np.diff(curve) > -1e-9).all()


def test_the_interquartile_mean_leaves_a_quarter_out_on_each_side() -> None:
    assert intervals.interquartile_mean([0.0, 1.0, 2.0, 100.0]) == 1.5


def test_the_probability_of_improvement_is_mann_whitneys_statistic() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.normal(0.3, 1, 8).tolist(), rng.normal(0, 1, 6).tolist()
    u = scipy.stats.mannwhitneyu(a, b).statistic
    improvement = intervals.probability_of_improvement([(a, b)], rng)
    assert improvement.value == pytest.approx(u / 48)
    assert 0 <= improvement.low <= improvement.value <= improvement.high <= 1
    assert intervals.probability_of_improvement([([1.0], [1.0])], rng).value == 0.5


def by_seed(values: npt.NDArray[np.float64]) -> dict[int, float]:
    return dict(enumerate(values.tolist()))


def test_unequal_spreads_are_found_and_equal_ones_are_not() -> None:
    rng = np.random.default_rng(0)
    narrow = [by_seed(rng.normal(0.9, 0.002, 10)) for _ in range(3)]
    wide = [by_seed(rng.normal(0.8, 0.02, 10)) for _ in range(3)]
    ratio, p = intervals.spread_ratio(narrow, wide)
    assert ratio.high < 1
    assert p < 0.001
    same, p = intervals.spread_ratio(narrow[:1], narrow[1:])
    assert same.low < 1 < same.high
    assert p > 0.01


def test_a_ratio_of_spreads_of_one_stratum_has_the_f_tests_interval() -> None:
    rng = np.random.default_rng(5)
    a, b = rng.normal(size=7), rng.normal(size=5)
    ratio, _ = intervals.spread_ratio([by_seed(a)], [by_seed(b)])
    f = np.var(a, ddof=1) / np.var(b, ddof=1)
    assert ratio.value == pytest.approx(math.sqrt(f))
    assert ratio.low == pytest.approx(math.sqrt(f / scipy.stats.f.ppf(0.975, 6, 4)))


def test_a_seed_that_moves_all_conditions_counts_once_in_a_spread() -> None:
    """Five seeds whose effect is the same in eight conditions are four contrasts, not thirty-two."""
    rng = np.random.default_rng(1)
    false = 0
    for _ in range(400):
        arms = [[by_seed(rng.normal(0, 0.02, 5))] * 8 for _ in range(2)]
        false += intervals.spread_ratio(*arms)[1] < 0.05
    assert false <= scipy.stats.binom.ppf(1 - 1e-4, 400, 0.05)


def test_a_spread_of_strata_without_common_seeds_is_not_compared() -> None:
    apart = [{0: 0.9, 1: 0.8}, {2: 0.9, 3: 0.7}]
    assert math.isnan(intervals.spread_ratio(apart, [{0: 0.9, 1: 0.8}])[1])


def test_newcombes_interval_equals_that_of_statsmodels() -> None:
    for first, second in [((5, 5), (0, 5)), ((3, 10), (5, 11)), ((0, 4), (0, 4))]:
        ours = intervals.share_difference(first, second)
        theirs = confint_proportions_2indep(*first, *second, method="newcomb", compare="diff")
        assert (ours.low, ours.high) == pytest.approx(theirs)


def test_newcombes_interval_contains_the_difference() -> None:
    difference = intervals.share_difference((1, 20), (9, 20))
    assert difference.value == pytest.approx(-0.4)
    assert difference.low < -0.4 < difference.high < 0


def test_seeds_that_cannot_be_resampled_have_no_interval() -> None:
    rng = np.random.default_rng(0)
    assert math.isnan(intervals.interquartile_mean_interval([[0.9], [0.8]], rng).low)


def test_the_interval_of_an_interquartile_mean_is_around_it() -> None:
    rng = np.random.default_rng(0)
    strata = [rng.normal(0.9, 0.01, 8).tolist() for _ in range(3)]
    estimate = intervals.interquartile_mean_interval(strata, rng)
    assert estimate.value == pytest.approx(intervals.interquartile_mean([x for values in strata for x in values]))
    assert estimate.low < estimate.value < estimate.high
