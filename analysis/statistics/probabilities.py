"""How good are predicted probabilities? Losses, calibration and temperature of one set of predictions.

Everything takes logits ``[examples, classes]`` and labels ``[examples]``, and returns one number an example where it
can, so that intervals over seeds and examples can be had (:func:`analysis.statistics.multibootstrap.multibootstrap`).
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

from analysis.statistics.estimate import LEVEL, FloatArray
from study.scoring import Predictions

Ints = npt.NDArray[np.int64]

# Equal-mass bins; Roelofs et al. (2022) find results stable around this number at a few thousand examples.
BINS = 15
# ln T is looked for within these bounds: beyond them a temperature says that the logits hold no scale at all.
LOG_TEMPERATURE = (-3.0, 3.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class ExampleScores:
    """One score an example: ``nll`` in nats, ``brier`` summed over classes, ``confidence`` the largest probability."""

    nll: FloatArray
    brier: FloatArray
    confidence: FloatArray
    correct: npt.NDArray[np.bool_]

    @property
    def gap(self) -> FloatArray:
        """Confidence minus being right: its mean is above zero for an over-confident model, below for the contrary."""
        return self.confidence - self.correct


def score_examples(predictions: Predictions, temperature: float = 1.0) -> ExampleScores:
    """Score predictions, their logits divided by ``temperature``."""
    log_p = log_probabilities(predictions.logits, temperature)
    p = np.exp(log_p)
    rows = np.arange(len(log_p))
    of_label = p[rows, predictions.label]
    return ExampleScores(
        nll=-log_p[rows, predictions.label],
        brier=(p**2).sum(axis=1) - 2 * of_label + 1,
        confidence=p.max(axis=1),
        correct=predictions.logits.argmax(axis=1) == predictions.label,
    )


def log_probabilities(logits: npt.NDArray[Any], temperature: float = 1.0) -> FloatArray:
    """Ln of softmax(logits / temperature), ``[examples, classes]``, in float64."""
    return np.asarray(scipy.special.log_softmax(logits.astype(np.float64) / temperature, axis=1), dtype=np.float64)


def fit_temperature(predictions: Predictions) -> float:
    """The temperature that makes the mean NLL smallest (Guo et al. 2017): above 1 the model was over-confident.

    To be fitted on validation. NLL is convex in 1/T, so a bounded scalar search finds the one minimum; an answer at the
    end of the bounds means that there is none within them.
    """
    logits, label = predictions.logits.astype(np.float64), predictions.label
    own = np.arange(logits.shape[1]) == label[:, None]
    # How far each other class is above the label's; with two classes there is one of them.
    above = logits[~own].reshape(len(label), -1) - logits[own][:, None]

    def loss(log_temperature: float) -> float:
        scaled = above * math.exp(-log_temperature)
        others = scaled[:, 0] if scaled.shape[1] == 1 else scipy.special.logsumexp(scaled, axis=1)
        return float(np.logaddexp(0.0, others).mean())

    found = scipy.optimize.minimize_scalar(loss, bounds=LOG_TEMPERATURE, method="bounded", options={"xatol": 1e-4})
    return math.exp(float(found.x))


def calibration_error(confidence: FloatArray, correct: npt.NDArray[np.bool_], bins: int = BINS) -> float:
    """Expected calibration error over bins of equal mass (Nguyen & O'Connor 2015; Roelofs et al. 2022)."""
    order = np.argsort(confidence, kind="stable")
    gaps = (confidence - correct)[order]
    edges = _edges(len(gaps), bins)
    sums = np.add.reduceat(gaps, edges[:-1])
    return float(abs(sums).sum() / len(gaps))


def calibration_error_interval(
    scored: Sequence[ExampleScores], weights: FloatArray, rng: np.random.Generator, *, level: float = LEVEL
) -> tuple[float, float, float]:
    """The mean calibration error over seeds less its bias, and its pivotal bootstrap interval over seeds and examples.

    ``weights`` are those of :func:`analysis.statistics.multibootstrap.example_weights`, ``[draws, examples]``. A
    sample's calibration error is too large even for a calibrated model (Roelofs et al. 2022), and a resample's by about
    as much again, which is what is taken off (Davison & Hinkley 1997, 2.1 and 5.2). None is below zero.
    """
    value = float(np.mean([calibration_error(one.confidence, one.correct) for one in scored]))
    by_seed = np.stack([_resampled_errors(one, weights) for one in scored], axis=1)
    picked = rng.multinomial(len(scored), np.full(len(scored), 1 / len(scored)), size=len(weights)) / len(scored)
    found = (picked * by_seed).sum(axis=1)
    low, high = np.quantile(found, [(1 - level) / 2, (1 + level) / 2])
    middle, bottom, top = (max(0.0, 2 * value - end) for end in (float(found.mean()), float(high), float(low)))
    return middle, bottom, top


def _resampled_errors(scored: ExampleScores, weights: FloatArray, bins: int = BINS) -> FloatArray:
    """The calibration error in each resample: equal-mass bins are equal parts of the weights' sum."""
    order = np.argsort(scored.confidence, kind="stable")
    ordered = weights[:, order]
    middles = np.cumsum(ordered, axis=1) - ordered / 2
    rows = np.arange(len(weights))[:, None] * bins
    places = rows + np.minimum((middles * bins).astype(np.int64), bins - 1)
    sums = np.bincount(places.ravel(), weights=(ordered * scored.gap[order]).ravel(), minlength=bins * len(weights))
    return np.asarray(abs(sums.reshape(len(weights), bins)).sum(axis=1), dtype=np.float64)


@dataclass(frozen=True, slots=True, kw_only=True)
class ReliabilityBin:
    """Examples of like confidence: their mean confidence, the share that is right, and how many they are."""

    confidence: float
    accuracy: float
    examples: int
    correct: int


def reliability(confidence: FloatArray, correct: npt.NDArray[np.bool_], bins: int = BINS) -> list[ReliabilityBin]:
    """The reliability diagram's points, over bins of equal mass (DeGroot & Fienberg 1983)."""
    order = np.asarray(np.argsort(confidence, kind="stable"), dtype=np.int64)
    edges = _edges(len(order), bins)
    parts: list[Ints] = [order[start:stop] for start, stop in itertools.pairwise(edges)]
    return [
        ReliabilityBin(
            confidence=float(confidence[part].mean()),
            accuracy=float(correct[part].mean()),
            examples=len(part),
            correct=int(correct[part].sum()),
        )
        for part in parts
    ]


def _edges(examples: int, bins: int) -> Ints:
    """Where ``bins`` parts of like size begin, and the end; fewer where there are fewer examples."""
    return np.unique(np.linspace(0, examples, min(bins, examples) + 1).round().astype(np.int64))
