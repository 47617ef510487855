"""The arithmetic of power agrees with scipy, statsmodels, brute force and the tests that the report makes."""

import itertools

import numpy as np
import pytest
from scipy import stats
from statsmodels.stats.power import TTestPower

from analysis import power
from analysis.power import (
    Assumptions,
    all_against_none,
    detectable_accuracy,
    detectable_rate,
    detectable_rate_over_conditions,
    fewest_seeds,
    fisher_p_values,
    fisher_power,
    noncentrality,
    permutation_power,
)
from analysis.statistics import clustered_means, intervals
from analysis.statistics.clustered_means import SeedScores, mean_over_strata
from analysis.statistics.exact_tests import FailureStratum, stratified_exact


def test_constants_are_those_of_the_report() -> None:
    assert power.POWER == intervals.POWER
    assert power.LUCK == clustered_means.LUCK


@pytest.mark.parametrize(("seeds", "p"), [(1, 1.0), (2, 0.333), (3, 0.100), (4, 0.029), (5, 0.008)])
def test_all_against_none_is_fishers_test(seeds: int, p: float) -> None:
    assert all_against_none(seeds) == pytest.approx(p, abs=5e-4)
    assert all_against_none(seeds) == pytest.approx(stats.fisher_exact([[seeds, 0], [0, seeds]]).pvalue)


@pytest.mark.parametrize(("alpha", "seeds"), [(0.05, 4), (0.01, 5), (0.5, 2)])
def test_the_fewest_seeds_are_the_first_that_can_be_significant(alpha: float, seeds: int) -> None:
    assert fewest_seeds(alpha) == seeds
    assert all_against_none(seeds) < alpha <= all_against_none(seeds - 1)


@pytest.mark.parametrize("runs", [1, 4, 7, 20])
def test_p_values_of_all_tables_are_scipys(runs: int) -> None:
    found = fisher_p_values(runs)
    for first, second in itertools.product(range(runs + 1), repeat=2):
        expected = stats.fisher_exact([[first, runs - first], [second, runs - second]]).pvalue
        assert found[first, second] == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize(("first", "second", "runs"), [(0.0, 0.83, 5), (0.1, 0.7, 10), (0.5, 0.5, 8), (1.0, 0.0, 3)])
def test_the_power_of_fishers_test_is_how_often_it_rejects(first: float, second: float, runs: int) -> None:
    rng = np.random.default_rng(1)
    a, b = rng.binomial(runs, first, 4_000), rng.binomial(runs, second, 4_000)
    tables = {
        (x, y): stats.fisher_exact([[x, runs - x], [y, runs - y]]).pvalue < 0.05
        for x, y in set(zip(a.tolist(), b.tolist(), strict=True))
    }
    rejected = np.mean([tables[x, y] for x, y in zip(a.tolist(), b.tolist(), strict=True)])
    assert fisher_power(first, second, runs) == pytest.approx(rejected, abs=0.025)


@pytest.mark.parametrize("base", [0.0, 0.1, 0.9])
@pytest.mark.parametrize("seeds", [5, 10, 40])
def test_the_detectable_rate_is_the_first_that_is_found_often_enough(base: float, seeds: int) -> None:
    rate = detectable_rate(base, seeds)
    assert rate is not None
    assert (rate > base) == (base <= 0.5)
    assert fisher_power(base, rate, seeds) >= 0.8
    nearer = rate + 0.002 * np.sign(base - rate)
    assert fisher_power(base, nearer, seeds) < 0.8


def test_too_few_seeds_find_no_rate() -> None:
    rng = np.random.default_rng(0)
    for seeds, base in itertools.product((1, 2, 3), (0.0, 0.2, 0.7)):
        assert detectable_rate(base, seeds) is None
        assert detectable_rate_over_conditions(base, seeds, 20, rng) is None
    assert detectable_rate(0.5, 5) is None


@pytest.mark.parametrize(("seeds", "conditions"), [(4, 3), (5, 10), (8, 4)])
def test_seeds_that_fail_anywhere_are_tested_as_the_permutation_test_does(seeds: int, conditions: int) -> None:
    """With a better arm that never fails, the closed form is the power of the simulated test."""
    rate = detectable_rate_over_conditions(0.0, seeds, conditions, np.random.default_rng(0))
    assert rate is not None
    rng = np.random.default_rng(1)
    assert permutation_power(0.0, rate, seeds, conditions, rng) == pytest.approx(0.8, abs=0.04)


@pytest.mark.parametrize(("base", "other"), [(0.0, 0.35), (0.2, 0.6)])
def test_the_permutation_test_has_the_power_of_the_reports_stratified_test(base: float, other: float) -> None:
    """The report's exact test of seed numbers as units, on simulated studies of four conditions and five seeds."""
    rng = np.random.default_rng(2)
    found = 0
    for _ in range(400):
        first, second = (rng.random((4, 5)) < rate for rate in (base, other))
        strata = [
            FailureStratum(first=dict(enumerate(a.tolist())), second=dict(enumerate(b.tolist())))
            for a, b in zip(first, second, strict=True)
        ]
        found += stratified_exact(strata).p_value < 0.05
    assert permutation_power(base, other, 5, 4, np.random.default_rng(3)) == pytest.approx(found / 400, abs=0.08)


def test_more_conditions_lower_the_rate_and_not_the_seeds_that_are_needed() -> None:
    rng = np.random.default_rng(0)
    few, many = (detectable_rate_over_conditions(0.0, 5, conditions, rng) for conditions in (2, 10))
    alone, least = detectable_rate(0.0, 5), detectable_rate_over_conditions(0.1, 5, 10, rng)
    assert alone is not None
    assert few is not None
    assert many is not None
    assert least is not None
    assert alone > few > many
    assert 0.2 < least < 0.6


def test_many_seeds_are_quick_and_find_little() -> None:
    rate = detectable_rate(0.0, 100_000)
    assert rate is not None
    assert rate < 0.02


@pytest.mark.parametrize("degrees", [2, 4, 11.5, 300])
def test_the_noncentrality_is_that_of_statsmodels(degrees: float) -> None:
    """A one-sample t test of n values has n - 1 degrees of freedom and a shift of effect times the root of n."""
    n = degrees + 1
    effect = noncentrality(degrees) / n**0.5
    assert TTestPower().power(effect, n, alpha=0.05) == pytest.approx(0.8, abs=1e-3)


@pytest.mark.parametrize(("seeds", "conditions", "examples"), [(3, 1, 2_000), (5, 4, 1_000), (8, 2, 400)])
def test_the_reports_interval_finds_the_detectable_accuracy(seeds: int, conditions: int, examples: int) -> None:
    """Runs as assumed, compared as the report compares them: the difference is found in about 80 % of studies."""
    assumed = Assumptions(seed_sd=0.01, between=0.08, within=0.05)
    difference = detectable_accuracy(assumed, seeds, conditions, examples)
    assert difference is not None
    rng = np.random.default_rng(4)
    # On 3 % of the examples the arms differ for good, on 2.5 % a run errs by itself.
    for_good, by_itself, studies = max(0.03, difference), 0.0125, 250
    found, disagreement = 0, 0.0
    for _ in range(studies):
        chances = [(for_good - difference) / 2, 1 - for_good, (for_good + difference) / 2]
        arms = rng.choice([-1.0, 0.0, 1.0], size=examples, p=chances)
        strata = []
        for _ in range(conditions):
            luck = rng.normal(0, assumed.seed_sd, size=(2, seeds, 1))
            draws = rng.random((2, seeds, examples))
            runs = (draws < by_itself + np.maximum(luck, 0)) - 1.0 * (draws > 1 - by_itself + np.minimum(luck, 0))
            strata.append(SeedScores(seeds=tuple(range(seeds)), scores=arms + runs[0] - runs[1]))
        disagreement += float((strata[0].scores ** 2).mean()) / studies
        found += mean_over_strata(strata).p_value < 0.05
    assert for_good + 0.045 < disagreement < for_good + 0.075
    assert found / studies == pytest.approx(0.8, abs=0.1)


def test_the_detectable_accuracy_shrinks_with_seeds_conditions_and_examples_and_not_below_an_example() -> None:
    assumed = Assumptions()
    base = detectable_accuracy(assumed, 3, 2, 1_000)
    assert base is not None
    for seeds, conditions, examples in ((5, 2, 1_000), (3, 8, 1_000), (3, 2, 5_000)):
        smaller = detectable_accuracy(assumed, seeds, conditions, examples)
        assert smaller is not None
        assert smaller < base
    assert detectable_accuracy(assumed, 1, 50, 1_000) is None
    alike = Assumptions(seed_sd=0.0, between=0.0, within=0.0)
    assert detectable_accuracy(alike, 3, 2, 50) == 0.02
    assert detectable_accuracy(Assumptions(seed_sd=0.3), 2, 1, 50) is None
