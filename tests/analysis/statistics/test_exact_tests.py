"""Exact tests of failures agree with published examples, with scipy, and with every rearrangement that could be."""

import itertools
import math
from collections.abc import Mapping, Sequence

import numpy as np
import pytest
import scipy.stats
from statsmodels.stats.proportion import confint_proportions_2indep

from analysis.statistics.exact_tests import (
    FailureStratum,
    cell_exchange,
    common_difference,
    opposite_strata,
    stratified_exact,
)

Counts = tuple[tuple[int, int], tuple[int, int]]


def stratum(counts: Counts, *, start: int = 0) -> FailureStratum:
    """A stratum with these (failures, runs) of both arms; seed numbers count from ``start``."""
    arms = [{start + seed: seed < failed for seed in range(runs)} for failed, runs in counts]
    return FailureStratum(first=arms[0], second=arms[1])


def apart(tables: Sequence[Counts]) -> list[FailureStratum]:
    """Strata of which no two share a seed number."""
    return [stratum(counts, start=1_000 * place) for place, counts in enumerate(tables)]


def by_hypergeometric(tables: Sequence[Counts]) -> float:
    """The exact Cochran-Mantel-Haenszel test from scipy's hypergeometric distributions."""
    distribution = np.ones(1)
    for (a, n), (b, m) in tables:
        distribution = np.convolve(distribution, scipy.stats.hypergeom.pmf(np.arange(n + 1), n + m, a + b, n))
    seen = distribution[sum(a for (a, _), _ in tables)]
    return float(distribution[distribution <= seen * (1 + 1e-7)].sum())


def by_rearrangement(strata: Sequence[FailureStratum]) -> float:
    """Every way to deal the seeds of the same strata out between the arms, one by one."""
    arms: list[dict[int, dict[int, bool]]] = []
    for side in ("first", "second"):
        seeds: dict[int, dict[int, bool]] = {}
        for place, each in enumerate(strata):
            for seed, failed in getattr(each, side).items():
                seeds.setdefault(seed, {})[place] = failed
        arms.append(seeds)
    blocks: dict[tuple[int, ...], tuple[list[int], list[int]]] = {}
    for arm, seeds in enumerate(arms):
        for failures in seeds.values():
            blocks.setdefault(tuple(failures), ([], []))[arm].append(sum(failures.values()))
    sums = [
        [sum(chosen) for chosen in itertools.combinations(first + second, len(first))]
        for first, second in blocks.values()
    ]
    totals = [sum(parts) for parts in itertools.product(*sums)]
    counts = {total: totals.count(total) for total in totals}
    seen = counts[sum(sum(first) for first, _ in blocks.values())]
    return sum(count for count in counts.values() if count <= seen) / len(totals)


@pytest.mark.parametrize("counts", [((5, 5), (0, 5)), ((2, 14), (9, 11)), ((1, 3), (2, 40)), ((0, 1), (1, 1))])
def test_one_stratum_is_fishers_test(counts: Counts) -> None:
    (a, n), (b, m) = counts
    expected = scipy.stats.fisher_exact([[a, n - a], [b, m - b]]).pvalue
    assert stratified_exact([stratum(counts)]).p_value == pytest.approx(expected)
    assert stratum(counts).p_value == pytest.approx(expected)


def test_the_rabbits_of_rs_documentation() -> None:
    """Mantelhaen.test(Rabbits, exact = TRUE): S = 16, p-value = 0.03994; deaths without delay and after 1.5 hours."""
    rabbits: list[Counts] = [((6, 6), (5, 5)), ((3, 6), (6, 6)), ((0, 6), (4, 6)), ((1, 6), (0, 6)), ((0, 2), (0, 5))]
    assert stratified_exact(apart(rabbits)).p_value == pytest.approx(0.03994, abs=5e-6)


def test_the_promotions_of_agrestis_textbook() -> None:
    """Categorical Data Analysis (2002, 6.7.2): no black employee of 7, 7 and 8 was promoted; two-sided P = 0.056."""
    promotions: list[Counts] = [((0, 7), (4, 20)), ((0, 7), (4, 17)), ((0, 8), (2, 15))]
    p = stratified_exact(apart(promotions)).p_value
    assert p == pytest.approx(0.056, abs=5e-4)
    assert p == pytest.approx(by_hypergeometric(promotions))


@pytest.mark.parametrize("seed", range(5))
def test_strata_without_common_seeds_are_convolutions(seed: int) -> None:
    rng = np.random.default_rng(seed)
    tables: list[Counts] = []
    for _ in range(6):
        n, m = (int(runs) for runs in rng.integers(1, 8, 2))
        tables.append(((int(rng.integers(0, n + 1)), n), (int(rng.integers(0, m + 1)), m)))
    assert stratified_exact(apart(tables)).p_value == pytest.approx(by_hypergeometric(tables))


@pytest.mark.parametrize("seed", range(8))
def test_seeds_that_are_in_several_strata_are_rearranged_as_a_whole(seed: int) -> None:
    """Two strata with the seeds 0 to 3, of which some are missing here and there."""
    rng = np.random.default_rng(seed)

    def arm() -> Mapping[int, bool]:
        members = {number: bool(rng.random() < 0.5) for number in range(4) if rng.random() < 0.8}
        return members or {0: True}

    strata = [FailureStratum(first={**arm(), 9: True}, second={**arm(), 9: False}) for _ in range(2)]
    assert stratified_exact(strata).p_value == pytest.approx(by_rearrangement(strata))


def test_a_seed_that_fails_everywhere_counts_once() -> None:
    """In ten conditions the first arm fails with seed 0, and only with that."""
    strata = [stratum(((1, 5), (0, 5))) for _ in range(10)]
    assert stratified_exact(strata).p_value == 1.0
    assert stratified_exact(apart([((1, 5), (0, 5))] * 10)).p_value < 0.01


@pytest.mark.parametrize(("seeds", "p"), [(2, 1 / 3), (3, 0.1), (4, 1 / 35), (5, 1 / 126)])
def test_all_against_none_in_one_condition(seeds: int, p: float) -> None:
    """2 seeds .333, 3 .100, 4 .029, 5 .008: also where the other nine conditions have no failures at all."""
    quiet = [stratum(((0, seeds), (0, seeds))) for _ in range(9)]
    test = stratified_exact([stratum(((seeds, seeds), (0, seeds))), *quiet])
    assert [test.p_value, test.attainable] == pytest.approx([p, p])


def test_conditions_in_which_all_or_none_failed_show_nothing() -> None:
    """12 of 12 and 2 of 2 at one rate, 0 of 2 and 0 of 12 at another: added up, 12 of 14 against 2 of 14."""
    test = stratified_exact([stratum(((12, 12), (2, 2))), stratum(((0, 2), (0, 12)))])
    assert (test.p_value, test.attainable) == (1.0, 1.0)
    assert stratum(((12, 14), (2, 14))).p_value < 0.001


@pytest.mark.parametrize("same", [False, True])
def test_strata_without_an_effect_are_seldom_significant(same: bool) -> None:
    """Five conditions fail with chances of their own, or, if ``same``, a seed of an arm fails in all or in none."""
    rng = np.random.default_rng(1)
    false = 0
    for _ in range(1_000):
        arms = [rng.random((2, 5)) < chance for chance in (0.9, 0.5, 0.3, 0.1, 0.5)]
        strata = [
            FailureStratum(first=dict(enumerate(first.tolist())), second=dict(enumerate(second.tolist())))
            for first, second in (arms[1:2] * 5 if same else arms)
        ]
        false += stratified_exact(strata).p_value < 0.05
    assert false / 1_000 < 0.05 + 0.02


def test_the_difference_of_one_stratum_has_newcombes_interval() -> None:
    difference = common_difference([stratum(((9, 20), (1, 20)))])
    assert difference is not None
    low, high = confint_proportions_2indep(9, 20, 1, 20, method="newcomb", compare="diff")
    assert (difference.value, difference.low, difference.high) == pytest.approx((0.4, low, high))


def test_the_common_difference_weights_strata_by_mantel_and_haenszel() -> None:
    tables: list[Counts] = [((3, 4), (1, 4)), ((2, 10), (1, 5)), ((0, 6), (0, 6))]
    difference = common_difference(apart(tables))
    assert difference is not None
    weights = [4 * 4 / 8, 10 * 5 / 15]
    assert difference.value == pytest.approx((weights[0] * 0.5 + weights[1] * 0.0) / sum(weights))
    # The third has no failure, hence no weight. MOVER: distances of the strata's bounds, squared, add up.
    shares = [weight / sum(weights) for weight in weights]
    bounds = [confint_proportions_2indep(a, n, b, m, method="newcomb", compare="diff") for (a, n), (b, m) in tables[:2]]
    below = math.hypot(shares[0] * (0.5 - bounds[0][0]), shares[1] * (0.0 - bounds[1][0]))
    above = math.hypot(shares[0] * (bounds[0][1] - 0.5), shares[1] * (bounds[1][1] - 0.0))
    assert difference.low == pytest.approx(difference.value - below)
    assert difference.high == pytest.approx(difference.value + above)
    assert difference.seeds == 4


def test_all_against_none_everywhere_has_an_interval_with_a_width() -> None:
    difference = common_difference([stratum(((5, 5), (0, 5)))] * 3)
    assert difference is not None
    assert [difference.value, difference.high] == pytest.approx([1.0, 1.0])
    assert 0.4 < difference.low < 0.9
    assert common_difference([stratum(((0, 5), (0, 5)))]) is None


def test_opposite_directions_need_evidence_for_both() -> None:
    up, down = stratum(((5, 5), (0, 5))), stratum(((0, 5), (5, 5)))
    assert opposite_strata([up, down]) == pytest.approx(2 / 126)
    assert opposite_strata([up, up, up]) == 1.0
    weak = stratum(((1, 5), (2, 5)))
    assert opposite_strata([up, weak]) == 1.0
    # A stratum of two and two could not have shown anything, so that it is not counted (Tarone 1990).
    assert opposite_strata([up, down, stratum(((2, 2), (0, 2)))]) == pytest.approx(2 / 126)


def test_cells_are_exchanged_within_blocks() -> None:
    """In four blocks the first of two cells fails: of 16 equally likely patterns, two are as one-sided."""
    p = cell_exchange([{"a": True, "b": False}] * 4)
    assert p == pytest.approx(2 / 16, abs=0.02)
    three = [{"a": True, "b": False, "c": False}] * 4
    assert cell_exchange(three) == pytest.approx(3 / 3**4, abs=0.01)


def test_blocks_that_failed_as_a_whole_show_nothing_about_cells() -> None:
    assert cell_exchange([{"a": True, "b": True}, {"a": False, "b": False}]) == 1.0
    assert cell_exchange([]) == 1.0


def test_failures_by_chance_are_seldom_found_to_follow_the_cells() -> None:
    rng = np.random.default_rng(0)
    false = 0
    for _ in range(400):
        blocks = [{cell: bool(rng.random() < chance) for cell in "abcd"} for chance in (0.1, 0.3, 0.5, 0.5, 0.8)]
        false += cell_exchange(blocks, draws=400) < 0.05
    assert false / 400 < 0.05 + 0.03
