"""Means over strata, seeds and examples, with seeds as clusters and intervals that count the sampling of both.

A seed number that is used in several strata is one draw, not several: the same head and the same order of the data
(Dodge et al. 2020 found seeds that are good everywhere). Variances are the two-way clustered ones of Cameron, Gelbach &
Miller (2011), over seed numbers and over examples. Pure functions of scores ``[seeds, examples]``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import scipy.special
import scipy.stats

from analysis.statistics.estimate import LEVEL, Estimate, FloatArray
from analysis.statistics.intervals import POWER, student_t

# Degrees of freedom come from an upper bound of the seeds' variance, at this one-sided level: the few seeds of a study
# may agree by luck, and Satterthwaite's approximation would then rely on the examples alone. The level is for claims at
# 5 %; for a smaller p-value it falls with the power LUCK_POWER of it, since rarer luck has to be ruled out.
LUCK = 0.25
LUCK_POWER = 0.6
# As good as infinitely many degrees of freedom, and the smallest p-value that is computed.
MOST_DEGREES = 1e6
SMALLEST_P = 1e-12
PRECISION = 1e-4


@dataclass(frozen=True, kw_only=True, eq=False)
class SeedScores:
    """The scores of a stratum, or the differences of two of its arms: ``[seeds, examples]``, and the seed numbers.

    All strata of a comparison have the same examples, in the same order.
    """

    seeds: tuple[int, ...]
    scores: FloatArray

    def __post_init__(self) -> None:
        assert len(self.seeds) == len(self.scores) == len(set(self.seeds)) > 0

    @cached_property
    def by_seed(self) -> FloatArray:
        """The mean of each seed, ``[seeds]``."""
        return np.asarray(self.scores.mean(axis=1), dtype=np.float64)

    @cached_property
    def by_example(self) -> FloatArray:
        """The mean of each example, ``[examples]``."""
        return np.asarray(self.scores.mean(axis=0), dtype=np.float64)

    @cached_property
    def interaction(self) -> float:
        """The variance of the mean that the interaction of seeds and examples explains; 0 for one seed."""
        seeds, examples = self.scores.shape
        if seeds < 2 or examples < 2:
            return 0.0
        residuals = self.scores - self.by_seed[:, None] - self.by_example + self.by_seed.mean()
        return float((residuals**2).sum() / ((seeds - 1) * (examples - 1) * seeds * examples))


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusteredMean:
    """A mean with its standard error; ``seeds`` is the smallest number of seeds of a stratum.

    ``degrees_of_freedom``, those of a 95 % interval, are 0 where no stratum has a second seed: the error is then that
    of the examples alone, and the estimate has no interval. ``seed_variance`` is the seeds' part of the squared error,
    and ``seed_degrees`` are its degrees of freedom. ``resolution`` is the weight of one example.
    """

    value: float
    standard_error: float
    examples_error: float
    degrees_of_freedom: float
    seeds: int
    strata: int
    resolution: float
    seed_variance: float = 0.0
    seed_degrees: int = 0

    def estimate(self, level: float = LEVEL) -> Estimate:
        """The mean with Student's t interval, not narrower than one example; without one for a single seed."""
        if self.degrees_of_freedom == 0:
            return Estimate(value=self.value, seeds=self.seeds)
        half = max(student_t(self.degrees_of_freedom, level) * self.standard_error, self.resolution)
        return self._within(half, level)

    def over_examples(self, level: float = LEVEL) -> Estimate:
        """The mean with an interval for the sampling of the examples alone: of these runs, not of new seeds."""
        return self._within(max(student_t(math.inf, level) * self.examples_error, self.resolution), level)

    def _within(self, half: float, level: float) -> Estimate:
        return Estimate(value=self.value, low=self.value - half, high=self.value + half, seeds=self.seeds, level=level)

    @property
    def p_value(self) -> float:
        """The two-sided p-value of a mean of zero; NaN without a second seed."""
        return self._tail(abs(self.value), sides=2)

    @property
    def p_over_examples(self) -> float:
        """The same for these runs alone, whose seeds are taken as they are."""
        if self.examples_error == 0:
            return 1.0
        return float(2 * scipy.stats.norm.sf(abs(self.value) / self.examples_error))

    def p_above(self, bound: float) -> float:
        """The one-sided p-value of a mean of at most ``bound``; NaN without a second seed."""
        return self._tail(self.value - bound, sides=1)

    def p_equivalence(self, margin: float) -> float:
        """The p-value of a mean at least ``margin`` from zero: two one-sided tests (Schuirmann 1987), each doubled.

        Doubled, it is below 5 % only where the 95 % interval lies within the margin. It is 1 where one example weighs
        more than ``margin``, or where all scores are ties, as those of two models that predict one class: such scores
        cannot show that nothing differs.
        """
        if self.resolution > margin or abs(self.value) >= margin or self.standard_error == 0:
            return 1.0
        return self._tail(margin - abs(self.value), sides=2)

    def _tail(self, distance: float, *, sides: int) -> float:
        """The p-value of a distance from the null hypothesis, at the degrees of freedom for a claim at that p-value."""
        if self.degrees_of_freedom == 0:
            return math.nan
        if distance < 0:
            return 1 - self._tail(-distance, sides=sides)
        # Scores that do not differ at all show no more than scores that differ in one example.
        error = max(self.standard_error, self.resolution / student_t(self.degrees_of_freedom, LEVEL))
        low, high = math.log(SMALLEST_P), math.log(0.5)
        while high - low > PRECISION:
            middle = (low + high) / 2
            degrees = self._degrees(2 * math.exp(middle))
            if float(scipy.special.stdtr(degrees, -distance / error)) <= math.exp(middle):
                high = middle
            else:
                low = middle
        return sides * math.exp(high)

    def _degrees(self, p_value: float) -> float:
        """The degrees of freedom for a claim at this two-sided p-value."""
        if self.seed_degrees == 0 or self.seed_variance == 0:
            return min(self.degrees_of_freedom, MOST_DEGREES)
        luck = LUCK * min(1.0, p_value / (1 - LEVEL)) ** LUCK_POWER
        total = max(self.standard_error**2, self.seed_variance)
        return _degrees_of_freedom(self.seed_variance, total, self.seed_degrees, luck)

    @property
    def detectable(self) -> float:
        """The smallest true mean that this design finds with probability :data:`POWER` (Cohen 1988)."""
        df = self.degrees_of_freedom
        if df == 0:
            return math.nan
        return self.standard_error * (student_t(df, LEVEL) + float(scipy.stats.t.ppf(POWER, df)))


def mean_over_strata(strata: Sequence[SeedScores]) -> ClusteredMean:
    """The mean over strata of the means over seeds, every stratum with the same weight."""
    return weighted_sum(strata, [1 / len(strata)] * len(strata))


def mean_over_seeds(scores: FloatArray) -> ClusteredMean:
    """The mean of one stratum's ``[seeds, examples]``."""
    return mean_over_strata([SeedScores(seeds=tuple(range(len(scores))), scores=scores)])


def weighted_sum(strata: Sequence[SeedScores], weights: Sequence[float]) -> ClusteredMean:
    """The sum over strata of ``weights`` times their means over seeds.

    A seed number moves all its strata together. The spread over seeds of a stratum with a single seed is taken as that
    of the others, and strata with the same single seed as moving together.
    """
    return _weighted_sums(strata, np.asarray([weights], dtype=np.float64))[0]


def heterogeneity(strata: Sequence[SeedScores]) -> float:
    """The p-value that all strata have the same mean; NaN for one stratum or without a second seed.

    Each stratum is compared with the mean of the others, and the smallest p-value is corrected for their number
    (Bonferroni), which needs no assumption on how strata with the same seeds move together.
    """
    if len(strata) < 2:
        return math.nan
    contrasts = np.full((len(strata), len(strata)), -1 / (len(strata) - 1))
    np.fill_diagonal(contrasts, 1.0)
    # Of two strata, the second contrast is the first one's opposite.
    p_values = [mean.p_value for mean in _weighted_sums(strata, contrasts[: 1 if len(strata) == 2 else None])]
    if any(map(math.isnan, p_values)):
        return math.nan
    return min(1.0, len(p_values) * min(p_values))


def _weighted_sums(strata: Sequence[SeedScores], weights: FloatArray) -> list[ClusteredMean]:
    """Several sums over the same strata; ``weights`` are ``[sums, strata]``."""
    values = weights @ np.array([stratum.by_seed.mean() for stratum in strata])
    examples = strata[0].scores.shape[1]
    by_example = weights @ np.stack([stratum.by_example for stratum in strata])
    of_examples = by_example.var(axis=1, ddof=1) / examples if examples > 1 else np.zeros(len(weights))
    of_seeds, df = _seed_variances(strata, weights)
    # What seeds and examples have in common is in both variances, and must count once.
    shared = weights**2 @ np.array([stratum.interaction for stratum in strata])
    totals = np.maximum(np.maximum(of_seeds + of_examples - shared, of_seeds), of_examples)
    return [
        ClusteredMean(
            value=float(value),
            standard_error=math.sqrt(total),
            examples_error=math.sqrt(example_variance),
            degrees_of_freedom=_degrees_of_freedom(float(seed_variance), float(total), df, LUCK),
            seed_variance=float(seed_variance),
            seed_degrees=df,
            seeds=min(len(stratum.seeds) for stratum in strata),
            strata=len(strata),
            resolution=1 / examples,
        )
        for value, total, example_variance, seed_variance in zip(values, totals, of_examples, of_seeds, strict=True)
    ]


def _seed_variances(strata: Sequence[SeedScores], weights: FloatArray) -> tuple[FloatArray, int]:
    """The variances that the seeds give the weighted sums, ``[sums]``, and their degrees of freedom."""
    seeds = {seed: place for place, seed in enumerate(sorted({seed for stratum in strata for seed in stratum.seeds}))}
    # What a stratum adds to a weighted sum with a seed, and which strata have a single seed.
    parts, single = np.zeros((2, len(strata), len(seeds)))
    squares, within = 0.0, 0
    replicated: list[set[int]] = []
    for row, stratum in enumerate(strata):
        places, n = [seeds[seed] for seed in stratum.seeds], len(stratum.seeds)
        if n == 1:
            single[row, places] = 1.0
            continue
        residuals = stratum.by_seed - stratum.by_seed.mean()
        squares, within = squares + float((residuals**2).sum()), within + n - 1
        replicated.append(set(stratum.seeds))
        parts[row, places] = residuals / math.sqrt(n * (n - 1))
    if not within:
        return np.zeros(len(weights)), 0
    variances = ((weights @ parts) ** 2).sum(axis=1) + squares / within * ((abs(weights) @ single) ** 2).sum(axis=1)
    return variances, len(set().union(*replicated)) - _components(replicated)


def _components(groups: Sequence[set[int]]) -> int:
    """How many sets of strata share no seed number with one another; each costs a degree of freedom."""
    merged: list[set[int]] = []
    for group in groups:
        apart = [seeds for seeds in merged if not seeds & group]
        merged = [*apart, group.union(*(seeds for seeds in merged if seeds & group))]
    return len(merged)


def _degrees_of_freedom(of_seeds: float, total: float, df: int, luck: float) -> float:
    """Satterthwaite's (1946), the seeds' part being bounded; the examples' part has as many as there are."""
    if df == 0:
        return 0.0
    if of_seeds == 0:
        return MOST_DEGREES
    upper = of_seeds * df / (2 * float(scipy.special.gammaincinv(df / 2, luck)))  # the quantile of chi-squared
    return min(MOST_DEGREES, ((upper + total - of_seeds) / upper) ** 2 * df)
