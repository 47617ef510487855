"""Intervals and tests of shares, of means and spreads over seeds, and of the best of n trials.

Pure functions of arrays; those that resample take a generator. Standard methods come from scipy and statsmodels, and
each function names the paper that its method comes from.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import lru_cache

import numpy as np
import numpy.typing as npt
import scipy.special
import scipy.stats

from analysis.statistics.estimate import LEVEL, Estimate, FloatArray

DRAWS = 1_000
# Power at which the smallest difference that can be shown is stated (Cohen 1988).
POWER = 0.8


def clopper_pearson(events: int, trials: int, level: float = LEVEL) -> Estimate:
    """A share with its exact interval (Clopper & Pearson 1934); ``seeds`` is the number of trials."""
    if trials == 0:
        return Estimate(value=math.nan, low=0.0, high=1.0, seeds=0)
    tail = (1 - level) / 2
    low = scipy.special.betaincinv(events, trials - events + 1, tail) if events else 0.0
    high = scipy.special.betaincinv(events + 1, trials - events, 1 - tail) if events < trials else 1.0
    return Estimate(value=events / trials, low=float(low), high=float(high), seeds=trials)


def fisher_exact(first: tuple[int, int], second: tuple[int, int]) -> float:
    """The two-sided p-value of two (events, trials) having the same probability (Fisher 1934)."""
    table = [[first[0], first[1] - first[0]], [second[0], second[1] - second[0]]]
    return float(scipy.stats.fisher_exact(table).pvalue)


def share_difference(first: tuple[int, int], second: tuple[int, int], level: float = LEVEL) -> Estimate:
    """The difference first - second of two (events, trials), with Newcombe's (1998, method 10) interval."""
    (p, low, high), (q, lower, upper) = (_wilson(*counts, level) for counts in (first, second))
    value = p - q
    return Estimate(
        value=value,
        low=value - math.hypot(p - low, upper - q),
        high=value + math.hypot(high - p, q - lower),
        seeds=min(first[1], second[1]),
        level=level,
    )


def _wilson(events: int, trials: int, level: float) -> tuple[float, float, float]:
    """A share with its score interval (Wilson 1927)."""
    z = student_t(math.inf, level)
    share, weight = events / trials, z**2 / trials
    middle = (share + weight / 2) / (1 + weight)
    half = z / (1 + weight) * math.sqrt(share * (1 - share) / trials + weight / (4 * trials))
    return share, middle - half, middle + half


def mcnemar_exact(first: npt.NDArray[np.bool_], second: npt.NDArray[np.bool_]) -> tuple[int, int, float]:
    """How many examples only the first, and only the second model classifies correctly, and the exact p-value.

    ``first`` and ``second`` say which of the same examples each classifies correctly. McNemar (1947), two-sided, in its
    binomial form.
    """
    only_first = int((first & ~second).sum())
    only_second = int((~first & second).sum())
    discordant = only_first + only_second
    p = 1.0 if discordant == 0 else float(scipy.stats.binomtest(only_first, discordant, 0.5).pvalue)
    return only_first, only_second, p


def mean_over_seeds(values: Sequence[float], level: float = LEVEL) -> Estimate:
    """A mean over seeds with Student's t interval (1908); no interval for one seed. Non-finite values are an error."""
    sample = np.asarray(values, dtype=np.float64)
    assert np.isfinite(sample).all()
    if len(sample) < 2:
        return Estimate(value=float(sample.mean()) if len(sample) else math.nan, seeds=len(sample))
    half = student_t(len(sample) - 1, level) * sample.std(ddof=1) / math.sqrt(len(sample))
    return Estimate(value=float(sample.mean()), low=sample.mean() - half, high=sample.mean() + half, seeds=len(sample))


def interquartile_mean(values: Sequence[float]) -> float:
    """The mean of the middle half (Agarwal et al. 2021), NaN for nothing."""
    return float(scipy.stats.trim_mean(values, 0.25)) if len(values) else math.nan


def interquartile_mean_interval(
    strata: Sequence[Sequence[float]], rng: np.random.Generator, draws: int = DRAWS, level: float = LEVEL
) -> Estimate:
    """The interquartile mean over all strata's values; seeds are resampled within each (Agarwal et al. 2021)."""
    samples = [np.asarray(values, dtype=np.float64) for values in strata if len(values)]
    if not samples:
        return Estimate(value=math.nan)
    value, seeds = interquartile_mean(np.concatenate(samples).tolist()), min(map(len, samples))
    if seeds < 2:
        return Estimate(value=value, seeds=seeds)
    resampled = [sample[rng.integers(0, len(sample), size=(draws, len(sample)))] for sample in samples]
    means = scipy.stats.trim_mean(np.concatenate(resampled, axis=1), 0.25, axis=1)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return Estimate(value=value, low=float(low), high=float(high), seeds=seeds)


def probability_of_improvement(
    pairs: Sequence[tuple[Sequence[float], Sequence[float]]],
    rng: np.random.Generator,
    draws: int = DRAWS,
    level: float = LEVEL,
) -> Estimate:
    """The probability that a run of the first kind beats one of the second in the same stratum (Agarwal et al. 2021).

    The mean over strata of the Mann-Whitney statistic divided by its largest value; ties count half. Seeds are
    resampled within each stratum and kind.
    """
    samples = [
        (np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)) for a, b in pairs if len(a) and len(b)
    ]
    if not samples:
        return Estimate(value=math.nan)

    def wins(a: FloatArray, b: FloatArray) -> FloatArray:
        first, second = a[..., :, None], b[..., None, :]
        return np.asarray(((first > second) + 0.5 * (first == second)).mean(axis=(-2, -1)), dtype=np.float64)

    value = float(np.mean([wins(a, b) for a, b in samples]))
    seeds = min(min(len(a), len(b)) for a, b in samples)
    if seeds < 2:
        return Estimate(value=value, seeds=seeds)
    resampled = np.mean(
        [
            wins(a[rng.integers(0, len(a), (draws, len(a)))], b[rng.integers(0, len(b), (draws, len(b)))])
            for a, b in samples
        ],
        axis=0,
    )
    low, high = np.quantile(resampled, [(1 - level) / 2, (1 + level) / 2])
    return Estimate(value=value, low=float(low), high=float(high), seeds=seeds)


def expected_best(validation: Sequence[float], scores: Sequence[float] | None = None) -> FloatArray:
    """The expected score of the best of n trials by validation, for n from 1 to their number, without replacement.

    The unbiased estimator of Tang et al. (2020, "Showing Your Work Doesn't Always Work"); that of Dodge et al. (2019)
    draws with replacement, so that the best trial is missed too often and the curve lies too low at small numbers of
    trials. ``scores``, where given, are averaged in place of ``validation``: what the trial that validation selects has
    on test.
    """
    ranked_by = np.asarray(validation, dtype=np.float64)
    order = np.argsort(ranked_by, kind="stable")
    averaged = (ranked_by if scores is None else np.asarray(scores, dtype=np.float64))[order]
    return np.asarray(_probabilities_of_best(len(ranked_by)) @ averaged, dtype=np.float64)


@lru_cache(maxsize=8)
def _probabilities_of_best(n: int) -> FloatArray:
    """The probability that the i-th smallest of n is the best of a sample, ``[size of the sample, i]``."""
    below, size = np.arange(n)[None, :], np.arange(1, n + 1)[:, None]
    # It is the best if the sample's other members are among the i below it.
    return np.asarray(np.exp(_log_comb(below, size - 1) - _log_comb(np.array(n), size)), dtype=np.float64)


def spread_ratio(first: Sequence[Mapping[int, float]], second: Sequence[Mapping[int, float]]) -> tuple[Estimate, float]:
    """The ratio of two standard deviations over seeds, for strata of scores by seed number, and its p-value.

    The seeds that all strata of an arm have are turned into independent contrasts (Helmert 1876), each the root mean
    square over the strata, since a seed number moves all of them together. The interval is the F distribution's, which
    assumes normal scores. The p-value does not assume that: contrasts are compared by rank (Mann & Whitney 1947).
    """
    a, b = _contrasts(first), _contrasts(second)
    if min(len(a), len(b)) == 0 or not (a.any() and b.any()):
        return Estimate(value=math.nan), math.nan
    ratio = float((a**2).mean() / (b**2).mean())
    low, high = (ratio / scipy.stats.f.ppf(q, len(a), len(b)) for q in ((1 + LEVEL) / 2, (1 - LEVEL) / 2))
    p = float(scipy.stats.mannwhitneyu(a, b, method="exact" if len({*a, *b}) == len(a) + len(b) else "auto").pvalue)
    estimate = Estimate(value=math.sqrt(ratio), low=math.sqrt(low), high=math.sqrt(high), seeds=min(len(a), len(b)) + 1)
    return estimate, p


def _contrasts(strata: Sequence[Mapping[int, float]]) -> FloatArray:
    """The contrasts of the seeds that all strata have, ``[seeds - 1]``; empty for fewer than two seeds."""
    from scipy.linalg import helmert

    replicated = [scores for scores in strata if len(scores) > 1]
    shared = sorted(set(replicated[0]).intersection(*replicated[1:])) if replicated else []
    if len(shared) < 2:
        return np.zeros(0)
    scores = np.array([[of_stratum[seed] for seed in shared] for of_stratum in replicated])
    return np.asarray(np.sqrt(((scores @ helmert(len(shared)).T) ** 2).mean(axis=0)), dtype=np.float64)


def _log_comb(n: npt.NDArray[np.int64], k: npt.NDArray[np.int64]) -> FloatArray:
    """Ln of n over k; minus infinity where k exceeds n."""
    logs = (
        scipy.special.gammaln(n + 1.0)
        - scipy.special.gammaln(k + 1.0)
        - scipy.special.gammaln(np.maximum(n - k, 0) + 1.0)
    )
    return np.asarray(np.where(k > n, -np.inf, logs), dtype=np.float64)


def student_t(degrees_of_freedom: float, level: float) -> float:
    """Half the width, in standard errors, of a two-sided t interval; normal for infinitely many degrees of freedom."""
    if math.isinf(degrees_of_freedom):
        return float(scipy.special.ndtri((1 + level) / 2))
    return float(scipy.special.stdtrit(degrees_of_freedom, (1 + level) / 2))
