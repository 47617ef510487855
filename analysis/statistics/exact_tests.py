"""Exact conditional tests of how often runs fail, within strata and with seeds as clusters.

Counts are never added up over strata whose conditions differ: given how many runs failed in each stratum, an exact test
asks how the failures would be divided between the arms by chance (Zelen 1971; Mehta, Patel & Gray 1985). A seed number
that is used in several strata is one unit in each arm, so that a seed that fails everywhere counts as one failure.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

from analysis.statistics.estimate import LEVEL, Estimate
from analysis.statistics.intervals import fisher_exact, share_difference

# Relative tolerance in comparing probabilities, as in R's fisher.test.
TOLERANCE = 1e-7


@dataclass(frozen=True, slots=True, kw_only=True)
class FailureStratum:
    """Whether each run of two arms failed, by seed number, all other settings being equal."""

    first: Mapping[int, bool]
    second: Mapping[int, bool]

    @property
    def counts(self) -> tuple[tuple[int, int], tuple[int, int]]:
        """(Failures, runs) of both arms."""
        return (sum(self.first.values()), len(self.first)), (sum(self.second.values()), len(self.second))

    @property
    def informative(self) -> bool:
        """Whether both arms have runs of which some failed and some did not: others cannot show a difference."""
        failures = [*self.first.values(), *self.second.values()]
        return bool(self.first) and bool(self.second) and any(failures) and not all(failures)

    @property
    def difference(self) -> Estimate:
        """The failure rate of the first arm less that of the second, with Newcombe's (1998) interval."""
        return share_difference(*self.counts)

    @property
    def p_value(self) -> float:
        """Fisher's (1934) exact test of this stratum alone."""
        return fisher_exact(*self.counts)


@dataclass(frozen=True, slots=True, kw_only=True)
class ExactTest:
    """A two-sided p-value, and the smallest that these margins could have given; 1 where nothing could be shown."""

    p_value: float
    attainable: float


def stratified_exact(strata: Sequence[FailureStratum]) -> ExactTest:
    """Whether the arms fail equally often, given the failures of each stratum.

    The unit is a seed number in an arm with its failures over all informative strata. Units that are in the same strata
    are exchangeable between the arms. With seeds of its own in each stratum this is Zelen's test, and in a single
    stratum Fisher's.
    """
    informative = [stratum for stratum in strata if stratum.informative]
    blocks: dict[tuple[int, ...], tuple[list[int], list[int]]] = {}
    for arm in (0, 1):
        present: dict[int, list[int]] = {}
        failures: Counter[int] = Counter()
        for place, stratum in enumerate(informative):
            for seed, failed in (stratum.second if arm else stratum.first).items():
                present.setdefault(seed, []).append(place)
                failures[seed] += failed
        for seed, places in present.items():
            blocks.setdefault(tuple(places), ([], []))[arm].append(failures[seed])
    distribution, observed = {0: 1.0}, 0
    for first, second in blocks.values():
        observed += sum(first)
        distribution = _convolve(distribution, _subset_sums(tuple(sorted(first + second)), len(first)))
    probability = distribution[observed]
    p_value = sum(p for p in distribution.values() if p <= probability * (1 + TOLERANCE))
    return ExactTest(p_value=min(1.0, p_value), attainable=_smallest(distribution))


def _smallest(distribution: Mapping[int, float]) -> float:
    least = min(distribution.values())
    return min(1.0, sum(p for p in distribution.values() if p <= least * (1 + TOLERANCE)))


@lru_cache(maxsize=1024)
def _subset_sums(scores: tuple[int, ...], size: int) -> Mapping[int, float]:
    """The probability of each sum of ``size`` of the ``scores``, every subset being equally likely."""
    counts: list[Counter[int]] = [Counter({0: 1}), *(Counter() for _ in range(size))]
    for score in scores:
        for taken in range(size, 0, -1):
            for total, ways in counts[taken - 1].items():
                counts[taken][total + score] += ways
    subsets = math.comb(len(scores), size)
    return {total: ways / subsets for total, ways in counts[size].items()}


def _convolve(first: Mapping[int, float], second: Mapping[int, float]) -> dict[int, float]:
    sums: dict[int, float] = {}
    for a, p in first.items():
        for b, q in second.items():
            sums[a + b] = sums.get(a + b, 0.0) + p * q
    return sums


def common_difference(strata: Sequence[FailureStratum], level: float = LEVEL) -> Estimate | None:
    """The failure rate of the first arm less that of the second over the informative strata; None without any.

    Strata are weighted as by Mantel & Haenszel (1959); the interval combines the strata's Newcombe intervals (MOVER,
    Zou & Donner 2008), so that it has a width also where all runs of an arm failed.
    """
    informative = [stratum for stratum in strata if stratum.informative]
    if not informative:
        return None
    sizes = [(len(stratum.first), len(stratum.second)) for stratum in informative]
    weights = [n * m / (n + m) for n, m in sizes]
    shares = [weight / sum(weights) for weight in weights]
    differences = [share_difference(*stratum.counts, level=level) for stratum in informative]
    value = sum(w * d.value for w, d in zip(shares, differences, strict=True))
    below = sum((w * (d.value - d.low)) ** 2 for w, d in zip(shares, differences, strict=True))
    above = sum((w * (d.high - d.value)) ** 2 for w, d in zip(shares, differences, strict=True))
    seeds = min(min(pair) for pair in sizes)
    return Estimate(value=value, low=value - math.sqrt(below), high=value + math.sqrt(above), seeds=seeds)


def opposite_strata(strata: Sequence[FailureStratum], alpha: float = 1 - LEVEL) -> float:
    """The p-value that arms differ in opposite directions in two strata; 1 where no two strata show that.

    Each stratum's Fisher test is corrected for the strata that could have shown a difference (Tarone 1990): the larger
    of the smallest p-values of the two directions.
    """
    smallest = {True: 1.0, False: 1.0}
    testable = [s for s in strata if s.informative and stratified_exact([s]).attainable <= alpha]
    for stratum in testable:
        direction = stratum.difference.value > 0
        smallest[direction] = min(smallest[direction], stratum.p_value)
    return min(1.0, max(smallest.values()) * max(1, len(testable)))


def cell_exchange(blocks: Sequence[Mapping[str, bool]], draws: int = 4_000, seed: int = 0) -> float:
    """The p-value that failures fall on cells by chance, each block being one seed at otherwise equal settings.

    A block maps its cells, such as model and schedule, to whether the run failed. Outcomes are exchanged within blocks
    (Friedman 1937; Cochran 1950); the statistic is the sum over cells of the squared failures beyond what is expected.
    """
    import numpy as np

    blocks = [block for block in blocks if any(block.values()) and not all(block.values())]
    if not blocks:
        return 1.0
    cells = sorted({cell for block in blocks for cell in block})
    place = {cell: i for i, cell in enumerate(cells)}
    rng = np.random.default_rng(seed)
    failures = np.zeros((draws + 1, len(cells)))
    for block in blocks:
        places = np.array([place[cell] for cell in block])
        outcomes = np.array(list(block.values()), dtype=float)
        failures[0, places] += outcomes
        failures[1:, places] += rng.permuted(np.tile(outcomes, (draws, 1)), axis=1)
    expected = sum(
        np.bincount([place[cell] for cell in block], minlength=len(cells)) * (sum(block.values()) / len(block))
        for block in blocks
    )
    statistics = ((failures - expected) ** 2).sum(axis=1)
    return float((statistics[1:] >= statistics[0] - 1e-9).sum() + 1) / (draws + 1)
