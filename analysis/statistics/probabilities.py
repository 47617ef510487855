"""Losses, calibration error and temperature of predicted probabilities.

Scores are one number per example where possible, so that intervals over seeds and examples can be computed from them
(:mod:`analysis.statistics.clustered_means`).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy.optimize
import scipy.special

from analysis.statistics.estimate import LEVEL, Estimate, FloatArray
from study.scoring import Predictions

IntArray = npt.NDArray[np.int64]

# Equal-mass bins; Roelofs et al. (2022) find results stable around this number at a few thousand examples.
BINS = 15
# Bounds of ln T in the search: beyond them the logits have no meaningful scale.
LOG_TEMPERATURE = (-3.0, 3.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class ExampleScores:
    """Scores ``[examples]``: ``nll`` in nats, ``brier`` summed over classes, ``confidence`` the largest probability."""

    nll: FloatArray
    brier: FloatArray
    confidence: FloatArray
    correct: npt.NDArray[np.bool_]

    @property
    def gap(self) -> FloatArray:
        """Confidence less correctness: its mean is above zero for an over-confident model, below for the contrary."""
        return self.confidence - self.correct


def score_examples(predictions: Predictions, temperature: float = 1.0) -> ExampleScores:
    """Score predictions, their logits divided by ``temperature``."""
    log_p = log_probabilities(predictions.logits, temperature).T
    p = np.exp(log_p)
    examples = np.arange(log_p.shape[1])
    of_label = p[predictions.label, examples]
    return ExampleScores(
        nll=-log_p[predictions.label, examples],
        brier=(p**2).sum(axis=0) - 2 * of_label + 1,
        confidence=p.max(axis=0),
        correct=predictions.correct,
    )


def log_probabilities(logits: npt.NDArray[Any], temperature: float = 1.0) -> FloatArray:
    """Ln of softmax(logits / temperature), ``[examples, classes]``, in float64."""
    # A class is a row here: numpy is slow at sums and maxima over few columns.
    scaled = np.ascontiguousarray(logits.T, dtype=np.float64) / temperature
    scaled -= scaled.max(axis=0)
    return np.asarray((scaled - np.log(np.exp(scaled).sum(axis=0))).T, dtype=np.float64)


def fit_temperature(predictions: Predictions) -> float:
    """The temperature that makes the mean NLL smallest (Guo et al. 2017): above 1 the model was over-confident.

    To be fitted on validation. NLL is convex in 1/T, so a bounded scalar search finds the one minimum; a temperature at
    an end of the bounds means that there is no minimum within them.
    """
    logits, label = predictions.logits.astype(np.float64), predictions.label
    of_label = np.arange(logits.shape[1]) == label[:, None]
    # How far each other class is above the label's; with two classes there is a single other class.
    above = logits[~of_label].reshape(len(label), -1) - logits[of_label][:, None]

    def loss(log_temperature: float) -> float:
        scaled = above * math.exp(-log_temperature)
        others = scaled[:, 0] if scaled.shape[1] == 1 else scipy.special.logsumexp(scaled, axis=1)
        return float(np.logaddexp(0.0, others).mean())

    optimum = scipy.optimize.minimize_scalar(loss, bounds=LOG_TEMPERATURE, method="bounded", options={"xatol": 1e-4})
    return math.exp(float(optimum.x))


def calibration_error(confidence: FloatArray, correct: npt.NDArray[np.bool_], bins: int = BINS) -> float:
    """Expected calibration error over bins of equal mass (Nguyen & O'Connor 2015; Roelofs et al. 2022)."""
    order = np.argsort(confidence, kind="stable")
    gaps = (confidence - correct)[order]
    edges = _edges(len(gaps), bins)
    sums = np.add.reduceat(gaps, edges[:-1])
    return float(abs(sums).sum() / len(gaps))


def calibration_error_interval(
    by_seed: Sequence[ExampleScores], weights: FloatArray, rng: np.random.Generator, *, level: float = LEVEL
) -> Estimate:
    """The mean calibration error over seeds, its bias subtracted, with its pivotal bootstrap interval.

    ``by_seed`` has the scores of each seed, and ``weights`` are those of :func:`example_weights`, ``[draws,
    examples]``; seeds and examples are resampled.
    A sample's calibration error is too large even for a calibrated model (Roelofs et al. 2022), and a resample's by
    about as much again: that is the bias which is subtracted (Davison & Hinkley 1997, 2.1 and 5.2). No bound is below
    zero.
    """
    seeds = len(by_seed)
    value = float(np.mean([calibration_error(scores.confidence, scores.correct) for scores in by_seed]))
    errors = np.stack([_resampled_errors(scores, weights) for scores in by_seed], axis=1)  # [draws, seeds]
    seed_weights = rng.multinomial(seeds, np.full(seeds, 1 / seeds), size=len(weights)) / seeds
    means = (seed_weights * errors).sum(axis=1)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    middle, bottom, top = (max(0.0, 2 * value - bound) for bound in (float(means.mean()), float(high), float(low)))
    return Estimate(value=middle, low=bottom, high=top, seeds=seeds)


def example_weights(examples: int, rng: np.random.Generator, draws: int) -> FloatArray:
    """How often each example is in each resample, over ``examples``: ``[draws, examples]``."""
    counts = np.stack([np.bincount(rng.integers(0, examples, size=examples), minlength=examples) for _ in range(draws)])
    return np.asarray(counts / examples, dtype=np.float64)


def _resampled_errors(scores: ExampleScores, weights: FloatArray, bins: int = BINS) -> FloatArray:
    """The calibration error in each resample, ``[draws]``: equal-mass bins are equal parts of the weights' sum."""
    order = np.argsort(scores.confidence, kind="stable")
    ordered = weights[:, order]
    middles = np.cumsum(ordered, axis=1) - ordered / 2
    rows = np.arange(len(weights))[:, None] * bins
    places = rows + np.minimum((middles * bins).astype(np.int64), bins - 1)
    sums = np.bincount(places.ravel(), weights=(ordered * scores.gap[order]).ravel(), minlength=bins * len(weights))
    return np.asarray(abs(sums.reshape(len(weights), bins)).sum(axis=1), dtype=np.float64)


@dataclass(frozen=True, slots=True, kw_only=True)
class ReliabilityBin:
    """Examples of similar confidence: their mean confidence, their accuracy, and how many there are and are correct."""

    confidence: float
    accuracy: float
    examples: int
    correct: int


def reliability(confidence: FloatArray, correct: npt.NDArray[np.bool_], bins: int = BINS) -> list[ReliabilityBin]:
    """The reliability diagram's points, over bins of equal mass (DeGroot & Fienberg 1983)."""
    order = np.asarray(np.argsort(confidence, kind="stable"), dtype=np.int64)
    edges = _edges(len(order), bins)
    parts: list[IntArray] = [order[start:stop] for start, stop in itertools.pairwise(edges)]
    return [
        ReliabilityBin(
            confidence=float(confidence[part].mean()),
            accuracy=float(correct[part].mean()),
            examples=len(part),
            correct=int(correct[part].sum()),
        )
        for part in parts
    ]


def _edges(examples: int, bins: int) -> IntArray:
    """Where ``bins`` parts of about equal size start, and the end; fewer parts where there are fewer examples."""
    return np.unique(np.linspace(0, examples, min(bins, examples) + 1).round().astype(np.int64))
