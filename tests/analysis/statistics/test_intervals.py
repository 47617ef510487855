"""Each statistic agrees with an independent implementation, or with its definition by brute force."""

import itertools
import math

import numpy as np
import pytest
import scipy.stats
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.proportion import proportion_confint

from analysis.statistics import intervals as statistics
from analysis.statistics import multibootstrap


@pytest.mark.parametrize(("events", "trials"), [(0, 5), (5, 5), (3, 10), (1, 1), (0, 1), (17, 320)])
def test_clopper_pearson_is_that_of_scipy_and_statsmodels(events: int, trials: int) -> None:
    found = statistics.clopper_pearson(events, trials)
    theirs = scipy.stats.binomtest(events, trials).proportion_ci(0.95, method="exact")
    assert (found.low, found.high) == pytest.approx((theirs.low, theirs.high))
    low, high = proportion_confint(events, trials, alpha=0.05, method="beta")
    assert (found.low, found.high) == pytest.approx((0.0 if events == 0 else low, 1.0 if events == trials else high))


def test_no_trials_leave_every_share_possible() -> None:
    found = statistics.clopper_pearson(0, 0)
    assert math.isnan(found.value)
    assert (found.low, found.high) == (0, 1)


def test_fishers_test_by_the_hypergeometric_distribution() -> None:
    """2 of 10 against 8 of 10: all tables with these margins that are no likelier than this one."""
    chances = [math.comb(10, k) * math.comb(10, 10 - k) / math.comb(20, 10) for k in range(11)]
    expected = sum(chance for chance in chances if chance <= chances[2] * (1 + 1e-9))
    assert statistics.fisher_exact((2, 10), (8, 10)) == pytest.approx(expected)


def test_mcnemar_is_that_of_statsmodels() -> None:
    rng = np.random.default_rng(0)
    first, second = rng.random(500) < 0.9, rng.random(500) < 0.86
    only_first, only_second, p = statistics.mcnemar_exact(first, second)
    table = [[int((first & second).sum()), only_first], [only_second, int((~first & ~second).sum())]]
    assert p == pytest.approx(float(mcnemar(table, exact=True).pvalue))
    assert statistics.mcnemar_exact(first, first) == (0, 0, 1.0)


def test_a_mean_over_seeds_has_scipys_t_interval() -> None:
    values = [0.9, 0.91, 0.88, 0.93]
    found = statistics.mean_over_seeds(values)
    theirs = scipy.stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((theirs.low, theirs.high))
    assert math.isnan(statistics.mean_over_seeds([0.9]).low)


def test_one_stratum_is_a_mean_over_seeds_and_two_are_welchs_test() -> None:
    first, second = [0.9, 0.91, 0.88, 0.93], [-0.85, -0.8, -0.99]
    one = statistics.mean_over_strata([first])
    assert (one.low, one.high) == pytest.approx(
        (statistics.mean_over_seeds(first).low, statistics.mean_over_seeds(first).high)
    )
    two = statistics.mean_over_strata([first, second])
    welch = scipy.stats.ttest_ind(first, [-x for x in second], equal_var=False).confidence_interval(0.95)
    assert (2 * two.low, 2 * two.high) == pytest.approx((welch.low, welch.high))


def crossed(rng: np.random.Generator, seeds: int, examples: int, mean: float = 0.0) -> statistics.Floats:
    """Scores with a part of the seed, one of the example, and one of both."""
    return (
        mean
        + rng.normal(0, 0.02, (seeds, 1))
        + rng.normal(0, 0.3, (1, examples))
        + rng.normal(0, 0.1, (seeds, examples))
    )


def test_the_multibootstrap_agrees_with_its_closed_form() -> None:
    rng = np.random.default_rng(1)
    scores = crossed(rng, 6, 800)
    drawn = multibootstrap.multibootstrap([scores], multibootstrap.example_weights(800, rng, 4_000), rng).estimate()
    closed = multibootstrap.mean_over_seeds_and_examples(scores)
    assert drawn.value == pytest.approx(closed.value)
    assert drawn.high - drawn.low == pytest.approx(closed.high - closed.low, rel=0.08)


def test_the_multibootstrap_of_no_spread_over_seeds_is_the_examples_standard_error() -> None:
    rng = np.random.default_rng(2)
    scores = np.tile(rng.normal(size=1_000), (3, 1))
    found = multibootstrap.multibootstrap([scores], multibootstrap.example_weights(1_000, rng, 4_000), rng)
    assert found.standard_error == pytest.approx(scores[0].std() / math.sqrt(1_000), rel=0.05)


@pytest.mark.parametrize("seeds", [2, 3, 5, 10])
def test_the_multibootstrap_covers_the_truth_as_often_as_it_says(seeds: int) -> None:
    rng = np.random.default_rng(seeds)
    studies = 400
    weights = multibootstrap.example_weights(200, rng, 300)
    covered = 0
    for _ in range(studies):
        found = multibootstrap.multibootstrap([crossed(rng, seeds, 200, mean=0.1)], weights, rng).estimate()
        covered += found.low <= 0.1 <= found.high
    # Two seeds say little of their spread, and Satterthwaite's approximation then errs to the wide side.
    least, most = scipy.stats.binom.ppf([1e-4, 1 - 1e-4], studies, 0.95)
    assert least <= covered <= (most if seeds > 2 else studies)


def test_one_seed_has_no_interval_anywhere() -> None:
    rng = np.random.default_rng(0)
    scores = rng.normal(size=(1, 50))
    found = multibootstrap.multibootstrap([scores], multibootstrap.example_weights(50, rng), rng)
    assert math.isnan(found.estimate().low)
    assert math.isnan(found.p_value)
    assert math.isnan(found.detectable)
    assert math.isnan(multibootstrap.mean_over_seeds_and_examples(scores).low)
    assert math.isnan(statistics.stratified_bootstrap([[0.9], [0.8]], rng).low)


def test_the_detectable_difference_is_found_four_times_in_five() -> None:
    rng = np.random.default_rng(3)
    error, df = 0.01, 12
    mean = statistics.minimal_detectable_difference(error, df)
    t = scipy.stats.nct.rvs(df, mean / error, size=20_000, random_state=rng)
    found = float((abs(t) > scipy.stats.t.ppf(0.975, df)).mean())
    assert found == pytest.approx(statistics.POWER, abs=0.02)


def test_the_expected_best_is_the_mean_over_all_samples() -> None:
    validation, test = [0.9, 0.5, 0.92, 0.7, 0.88], [0.89, 0.5, 0.86, 0.72, 0.9]
    for n in range(1, 6):
        samples = list(itertools.combinations(range(5), n))
        best = [max(sample, key=lambda i: validation[i]) for sample in samples]
        curve = statistics.expected_best(validation)[n - 1], statistics.expected_best(validation, test)[n - 1]
        assert curve == pytest.approx((np.mean([validation[i] for i in best]), np.mean([test[i] for i in best])))


def test_the_expected_best_of_many_trials_is_finite() -> None:
    curve = statistics.expected_best(np.random.default_rng(0).random(2_000).tolist())
    assert np.isfinite(curve).all()
    assert (np.diff(curve) > -1e-9).all()


def test_the_interquartile_mean_leaves_a_quarter_out_on_each_side() -> None:
    assert statistics.interquartile_mean([0.0, 1.0, 2.0, 100.0]) == 1.5


def test_the_probability_of_improvement_is_mann_whitneys_statistic() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.normal(0.3, 1, 8).tolist(), rng.normal(0, 1, 6).tolist()
    u = scipy.stats.mannwhitneyu(a, b).statistic
    found = statistics.probability_of_improvement([(a, b)], rng)
    assert found.value == pytest.approx(u / 48)
    assert 0 <= found.low <= found.value <= found.high <= 1
    assert statistics.probability_of_improvement([([1.0], [1.0])], rng).value == 0.5


def test_equal_spreads_have_a_ratio_near_one_and_unequal_ones_are_found() -> None:
    rng = np.random.default_rng(0)
    calm = [rng.normal(0.9, 0.002, 10).tolist() for _ in range(3)]
    wild = [rng.normal(0.8, 0.02, 10).tolist() for _ in range(3)]
    ratio, p = statistics.spread_ratio(calm, wild)
    assert ratio.high < 1
    assert p < 0.001
    same, p = statistics.spread_ratio(calm[:1], calm[1:])
    assert same.low < 1 < same.high
    assert p > 0.01


def test_a_ratio_of_spreads_of_one_stratum_has_the_f_tests_interval() -> None:
    rng = np.random.default_rng(5)
    a, b = rng.normal(size=7).tolist(), rng.normal(size=5).tolist()
    ratio, _ = statistics.spread_ratio([a], [b])
    f = np.var(a, ddof=1) / np.var(b, ddof=1)
    assert ratio.value == pytest.approx(math.sqrt(f))
    assert ratio.low == pytest.approx(math.sqrt(f / scipy.stats.f.ppf(0.975, 6, 4)))


def test_newcombes_interval_holds_the_difference() -> None:
    found = statistics.share_difference((1, 20), (9, 20))
    assert found.value == pytest.approx(-0.4)
    assert found.low < -0.4 < found.high < 0
