"""Means over seeds and examples, with intervals that count the chance of both.

The bootstrap of Sellam et al. (2022, "The MultiBERTs"), with corrections for few seeds, and the same interval in closed
form. Pure functions of scores ``[seeds, examples]``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import scipy.stats

from analysis.statistics.estimate import LEVEL, Estimate, FloatArray
from analysis.statistics.intervals import (
    DRAWS,
    minimal_detectable_difference,
    satterthwaite,
    seed_variances,
    strata_with_spread,
    student_t,
)

CHUNK = 50


@dataclass(frozen=True, slots=True, kw_only=True)
class MultiBootstrap:
    """Resampled means over strata, seeds and examples (see :func:`multibootstrap`), and what an interval needs.

    ``draws`` are ``[draws]``; ``seeds`` is the smallest number of seeds of a stratum.
    """

    value: float
    draws: FloatArray
    degrees_of_freedom: float
    seeds: int

    def estimate(self, level: float = LEVEL) -> Estimate:
        """The mean with a t interval; without an interval for one seed, whose spread is unknown."""
        if self.degrees_of_freedom == 0:
            return Estimate(value=self.value, seeds=self.seeds)
        half = student_t(self.degrees_of_freedom, level) * self.standard_error
        return Estimate(value=self.value, low=self.value - half, high=self.value + half, seeds=self.seeds)

    @property
    def standard_error(self) -> float:
        """The draws' standard deviation."""
        return float(self.draws.std(ddof=1))

    @property
    def p_value(self) -> float:
        """The two-sided p-value of a mean of zero; NaN for one seed."""
        if self.degrees_of_freedom == 0:
            return math.nan
        if self.standard_error == 0:
            return 1.0 if self.value == 0 else 0.0
        return float(2 * scipy.stats.t.sf(abs(self.value) / self.standard_error, self.degrees_of_freedom))

    @property
    def detectable(self) -> float:
        """The smallest true mean that this design finds with probability :data:`POWER` (Cohen 1988)."""
        return minimal_detectable_difference(self.standard_error, self.degrees_of_freedom)


def example_weights(examples: int, rng: np.random.Generator, draws: int = DRAWS) -> FloatArray:
    """How often each example is in each resample, over ``examples``: ``[draws, examples]``.

    Scores of the same examples share the weights.
    """
    counts = np.empty((draws, examples))
    for start in range(0, draws, CHUNK):  # counts that fit the processor's cache are several times as fast
        rows = min(CHUNK, draws - start)
        places = rng.integers(0, examples, size=(rows, examples)) + np.arange(rows)[:, None] * examples
        counts[start : start + rows] = np.bincount(places.ravel(), minlength=rows * examples).reshape(rows, examples)
    counts /= examples
    return counts


def multibootstrap(strata: Sequence[FloatArray], weights: FloatArray, rng: np.random.Generator) -> MultiBootstrap:
    """Bootstrap over seeds and examples at once (Sellam et al. 2022, "The MultiBERTs"), for means of scores.

    Each stratum is ``[seeds, examples]``; for a paired comparison it holds the differences between two models that
    share seeds and examples. Examples are resampled alike in all strata (``weights``, see :func:`example_weights`),
    seeds within each stratum. The seeds' deviations are stretched by sqrt(s / (s - 1)), without which a bootstrap of
    few seeds gives too narrow intervals (Rao & Wu 1988); the variance that seeds and examples have in common, which
    both resamplings contain, is subtracted once (Cameron, Gelbach & Miller 2011). The interval is Student's t with
    Satterthwaite's degrees of freedom.
    """
    strata = strata_with_spread(strata)
    draws = np.zeros(len(weights))
    ends = np.cumsum([len(scores) for scores in strata])[:-1]
    for by_seed in np.split(weights @ np.concatenate(strata).T, ends, axis=1):  # [draws, seeds]
        seeds = by_seed.shape[1]
        middle = by_seed.mean(axis=1)
        draws += middle
        if seeds > 1:
            seed_weights = rng.multinomial(seeds, np.full(seeds, 1 / seeds), size=len(weights)) / seeds
            draws += math.sqrt(seeds / (seeds - 1)) * (seed_weights * (by_seed - middle[:, None])).sum(axis=1)
    draws /= len(strata)
    means = [scores.mean(axis=1) for scores in strata]
    value = float(np.mean([mean.mean() for mean in means]))
    variances, df = seed_variances(means)
    seed_part, drawn_variance = float(variances.sum()) / len(strata) ** 2, float(draws.var(ddof=1))
    if df:
        # The interaction of seeds and examples is in both resamplings, and must count once.
        total = max(drawn_variance - sum(map(_interaction, strata)) / len(strata) ** 2, seed_part)
        draws = value + (draws - value) * (math.sqrt(total / drawn_variance) if drawn_variance > 0 else 1.0)
    if df and seed_part > 0:
        # Satterthwaite's approximation: the examples' part of the variance has as many degrees as there are examples.
        df = (total / seed_part) ** 2 * satterthwaite(variances, means)
    elif df:
        df = math.inf
    return MultiBootstrap(value=value, draws=draws, degrees_of_freedom=df, seeds=min(map(len, strata)))


def mean_over_seeds_and_examples(scores: FloatArray, level: float = LEVEL) -> Estimate:
    """The mean of ``[seeds, examples]`` with the interval of :func:`multibootstrap`, in closed form.

    The variances of the means over examples and of those over seeds are added, less what is in both (Cameron, Gelbach
    & Miller 2011), and Student's t has Satterthwaite's (1946) degrees of freedom. Without an interval for one seed.
    """
    seeds, examples = scores.shape
    value = float(scores.mean())
    if seeds < 2:
        return Estimate(value=value, seeds=seeds)
    of_seeds = float(scores.mean(axis=1).var(ddof=1)) / seeds
    of_examples = float(scores.mean(axis=0).var(ddof=1)) / examples
    total = max(of_seeds + of_examples - _interaction(scores), of_seeds)
    df = (total / of_seeds) ** 2 * (seeds - 1) if of_seeds > 0 else math.inf
    half = student_t(df, level) * math.sqrt(total)
    return Estimate(value=value, low=value - half, high=value + half, seeds=seeds)


def _interaction(scores: FloatArray) -> float:
    """The variance of the mean of ``[seeds, examples]`` that their interaction explains; 0 for one seed."""
    seeds, examples = scores.shape
    if seeds < 2:
        return 0.0
    residuals = scores - scores.mean(axis=1, keepdims=True) - scores.mean(axis=0, keepdims=True) + scores.mean()
    return float((residuals**2).sum() / ((seeds - 1) * (examples - 1) * seeds * examples))
