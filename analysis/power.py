"""The smallest differences that a design can show: arithmetic of power, before anything is trained.

Pure functions of numbers of seeds, conditions and test examples, for the tests that the report makes
(:mod:`analysis.statistics.exact_tests`, :mod:`analysis.statistics.clustered_means`). Nothing here imports
``scipy.stats``, because a dry run must not wait for it.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from analysis.statistics.estimate import LEVEL, FloatArray

ALPHA = 1 - LEVEL
# Power at which the smallest difference is stated (Cohen 1988, "Statistical Power Analysis", 2.4).
POWER = 0.8
# Relative tolerance in comparing probabilities, as in R's fisher.test.
TOLERANCE = 1e-7
# More seeds count as this many: the difference that they show is then no larger than what is stated.
MOST_SEEDS, MOST_SIMULATED_SEEDS = 500, 20
# Simulated studies for each power of a permutation test (standard error 1.3 %), and the assignments that it draws where
# there are more.
STUDIES, ASSIGNMENTS = 1_000, 999
# The level of the bound on the seeds' variance, as in :mod:`analysis.statistics.clustered_means`.
LUCK = 0.25


@dataclass(frozen=True, slots=True, kw_only=True)
class Assumptions:
    """What is assumed of runs before they are trained, as fractions.

    ``failure_rate`` is that of the one arm in a typical condition, ``mean_failure_rate`` over all conditions.
    ``seed_sd`` is the standard deviation over seeds of a run's accuracy on unlimited test examples. Two runs disagree
    on ``between`` of the test examples if they are of different arms, on ``within`` if they differ in the seed alone.
    """

    failure_rate: float = 0.0
    mean_failure_rate: float = 0.0
    seed_sd: float = 0.005
    between: float = 0.08
    within: float = 0.05


def all_against_none(seeds: int) -> float:
    """The two-sided p-value of k of k failures against 0 of k (Fisher 1934): the smallest that k seeds can give."""
    return min(1.0, 2 / math.comb(2 * seeds, seeds))


def fewest_seeds(alpha: float = ALPHA) -> int:
    """The smallest k for which k of k failures against 0 of k are significant."""
    return next(seeds for seeds in itertools.count(1) if all_against_none(seeds) < alpha)


@lru_cache(maxsize=8)
def fisher_p_values(runs: int) -> FloatArray:
    """Fisher's exact two-sided p-value (1934) of every pair of failures in two arms, ``[runs + 1, runs + 1]``.

    Given the sum of failures, those of the first arm are hypergeometric; outcomes that are no more probable than what
    was seen count.
    """
    log_choose = _log_choose(runs)
    p_values = np.empty((runs + 1, runs + 1))
    for failures in range(2 * runs + 1):
        first = np.arange(max(0, failures - runs), min(runs, failures) + 1)
        logs = log_choose[first] + log_choose[failures - first]
        p = np.exp(logs - logs.max())
        p /= p.sum()
        ascending = np.sort(p)
        up_to = np.searchsorted(ascending, p * (1 + TOLERANCE), side="right")
        p_values[first, failures - first] = np.minimum(1.0, np.cumsum(ascending)[up_to - 1])
    return p_values


def fisher_power(first: float, second: float, runs: int, alpha: float = ALPHA) -> float:
    """The probability that Fisher's exact test tells two failure rates apart, with ``runs`` in each arm.

    Exact, by enumeration of both binomials.
    """
    rejected = fisher_p_values(runs) < alpha
    return float(_binomial(runs, first) @ rejected @ _binomial(runs, second))


def detectable_rate(base: float, seeds: int) -> float | None:
    """The failure rate nearest to ``base`` that Fisher's test tells from it, in one condition with these ``seeds``.

    Above a ``base`` of at most one half, and below others; None where not even 1, or 0, is far enough.
    """
    runs = min(seeds, MOST_SEEDS)
    return _first_found(base, lambda other: fisher_power(base, other, runs))


def detectable_rate_over_conditions(base: float, seeds: int, conditions: int, rng: np.random.Generator) -> float | None:
    """The same over several conditions together, if runs of one seed fail independently of one another.

    The unit of the test is a seed number in an arm with its failures over all conditions, and units are exchanged
    between the arms, so that not more conditions but only more seeds make a smaller p-value possible. If no run of one
    arm fails, this is Fisher's test of the seeds that fail anywhere (tests/analysis/test_power.py compares the two).
    """
    if base == 0:
        anywhere = detectable_rate(0.0, seeds)
        return None if anywhere is None else 1 - (1 - anywhere) ** (1 / conditions)
    runs = min(seeds, MOST_SIMULATED_SEEDS)
    return _first_found(base, lambda other: permutation_power(base, other, runs, conditions, rng), steps=7)


def permutation_power(
    first: float, second: float, seeds: int, conditions: int, rng: np.random.Generator, alpha: float = ALPHA
) -> float:
    """The probability that a permutation test of seed numbers tells two failure rates apart, by simulation.

    Each seed number has a binomial number of failures over the ``conditions`` in either arm. The p-value is the share
    of assignments of the numbers to the arms that differ by at least as much (Fisher 1935, "The Design of
    Experiments", 21).
    """
    failures = np.concatenate(
        [rng.binomial(conditions, rate, size=(STUDIES, seeds)) for rate in (first, second)], axis=1
    )
    # [studies, assignments], of which the first is what was seen; whole numbers, exact in float32
    differences = abs(failures.astype(np.float32) @ _assignments(seeds, rng).T)
    return float(((differences >= differences[:, :1]).mean(axis=1) < alpha).mean())


def detectable_accuracy(assumed: Assumptions, seeds: int, conditions: int, examples: int) -> float | None:
    """The smallest difference of two arms' accuracies that is found, over ``conditions`` on the same test examples.

    Runs of one seed in several conditions are independent here; with the same luck in all of them, the difference is
    that of one condition. The variance has a part of the seeds, which includes that a run errs on examples of its own,
    and one of the sampling of the examples on which the arms themselves differ. Student's t with Satterthwaite's
    (1946) degrees of freedom and an upper bound of the seeds' part. Never smaller than one example; None for one seed.
    """
    if seeds < 2:
        return None
    of_seeds = (2 * assumed.seed_sd**2 + assumed.within / examples) / (seeds * conditions)
    of_examples = max(0.0, assumed.between - assumed.within) / examples
    freedom = _degrees_of_freedom(of_seeds, of_seeds + of_examples, seeds - 1)
    difference = noncentrality(freedom) * math.sqrt(of_seeds + of_examples)
    return max(difference, 1 / examples) if difference <= 1 else None


def noncentrality(degrees_of_freedom: float, alpha: float = ALPHA, power: float = POWER) -> float:
    """The true difference in standard errors that a two-sided t test finds with this power (Cohen 1988, 2.5).

    Exact, from the noncentral t distribution, without the chance (below 1e-6) of a significant difference with the
    wrong sign.
    """
    from scipy.special import nctdtr, stdtrit

    critical = float(stdtrit(degrees_of_freedom, 1 - alpha / 2))
    return _bisect(0.0, 10 * critical, lambda shift: float(nctdtr(degrees_of_freedom, shift, critical)) <= 1 - power)


def _degrees_of_freedom(of_seeds: float, total: float, degrees: int) -> float:
    """Satterthwaite's, the seeds' variance being bounded from above; a million where the seeds have no variance."""
    from scipy.special import gammaincinv

    upper = of_seeds * degrees / (2 * float(gammaincinv(degrees / 2, LUCK)))  # the quantile of chi-squared
    return min(1e6, ((upper + total - of_seeds) / upper) ** 2 * degrees) if upper > 0 else 1e6


def _first_found(base: float, power_against: Callable[[float], float], steps: int = 12) -> float | None:
    """The rate nearest to ``base``, on the way to the farther of 0 and 1, against which the power is high enough."""

    def found(other: float) -> bool:
        return power_against(other) >= POWER

    end = 1.0 if base <= 0.5 else 0.0
    return _bisect(base, end, found, steps) if found(end) else None


def _bisect(start: float, end: float, reached: Callable[[float], bool], steps: int = 12) -> float:
    """Where on the way from ``start`` to ``end`` something is ``reached`` that holds at the end, to 1 in 2**steps."""
    for _ in range(steps):
        middle = (start + end) / 2
        start, end = (start, middle) if reached(middle) else (middle, end)
    return end


def _assignments(seeds: int, rng: np.random.Generator) -> npt.NDArray[np.float32]:
    """All ways to assign twice ``seeds`` units to two arms as rows of signs, the given one first; a sample of many."""
    given = np.repeat(np.array([1, -1], dtype=np.float32), seeds)
    if math.comb(2 * seeds, seeds) > ASSIGNMENTS + 1:
        return np.stack([given, *rng.permuted(np.tile(given, (ASSIGNMENTS, 1)), axis=1)])
    first = list(itertools.combinations(range(2 * seeds), seeds))
    signs = np.full((len(first), 2 * seeds), -1, dtype=np.float32)
    signs[np.arange(len(first))[:, None], first] = 1
    return signs


def _binomial(runs: int, rate: float) -> FloatArray:
    """The probabilities of 0 to ``runs`` failures."""
    events = np.arange(runs + 1)
    if rate in (0.0, 1.0):
        return np.asarray(events == runs * rate, dtype=np.float64)
    logs = _log_choose(runs) + events * math.log(rate) + (runs - events) * math.log1p(-rate)
    return np.asarray(np.exp(logs), dtype=np.float64)


@lru_cache(maxsize=8)
def _log_choose(runs: int) -> FloatArray:
    """Ln of ``runs`` over k, for each k."""
    factorials = np.append(0.0, np.log(np.arange(1, runs + 1)).cumsum())
    return np.asarray(factorials[-1] - factorials - factorials[::-1], dtype=np.float64)
