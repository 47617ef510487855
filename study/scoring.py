"""Metrics as values: the name of each, which way is better, its worst value, and how predictions give it.

A new metric is one :class:`Metric` in :data:`METRICS`. Settings then accept its name, the loop records it, early
stopping, checkpoints and searches can use it, and MLflow shows it. Epochs that were recorded before it lack it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
from scipy.special import log_softmax

# The scores of one split, by the names of the metrics.
Scores = Mapping[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Predictions:
    """A split's predictions: example ids ``[n]``, labels ``[n]`` and logits ``[n, classes]`` (float32)."""

    example_id: npt.NDArray[np.int64]
    label: npt.NDArray[np.int64]
    logits: npt.NDArray[np.float32]

    @property
    def finite(self) -> bool:
        """Whether every logit is a finite number."""
        return bool(np.isfinite(self.logits).all())

    @property
    def correct(self) -> npt.NDArray[np.bool_]:
        """Whether each example's largest logit is the label's, ``[n]``."""
        return np.asarray(self.logits.argmax(axis=1) == self.label)


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """A score of predictions.

    ``worst`` is the finite score of predictions that have none: Optuna drops trials whose score is NaN. ``compute``
    gets predictions whose logits are finite. ``unit`` says how the score is written.
    """

    name: str
    higher_is_better: bool
    worst: float
    unit: Literal["nats", "share"]
    compute: Callable[[Predictions], float]

    def gain(self, scores: Scores) -> float:
        """The score as a number of which more is better; minus infinity where it is missing or not finite."""
        value = scores.get(self.name, math.nan)
        return self.signed(value) if math.isfinite(value) else -math.inf

    def signed(self, value: float) -> float:
        """``value`` of this metric as a number of which more is better."""
        return value if self.higher_is_better else -value

    def finite(self, scores: Scores | None) -> float:
        """The score, or :attr:`worst` where there is none or it is not finite."""
        value = (scores or {}).get(self.name, math.nan)
        return value if math.isfinite(value) else self.worst

    @property
    def best_word(self) -> Literal["highest", "lowest"]:
        """Which score is the best, in a word."""
        return "highest" if self.higher_is_better else "lowest"


def cross_entropy(predictions: Predictions) -> float:
    """Mean negative log-likelihood of the labels, in nats, summed in float64 and divided once."""
    log_p = log_softmax(predictions.logits.astype(np.float64), axis=1)
    return float(-log_p[np.arange(len(log_p)), predictions.label].sum() / len(log_p))


def correct_share(predictions: Predictions) -> float:
    """Share of the examples whose largest logit is the label's."""
    return int(predictions.correct.sum()) / len(predictions.label)


LOSS = Metric(name="loss", higher_is_better=False, worst=100.0, unit="nats", compute=cross_entropy)
ACCURACY = Metric(name="accuracy", higher_is_better=True, worst=0.0, unit="share", compute=correct_share)
METRICS: Mapping[str, Metric] = {metric.name: metric for metric in (LOSS, ACCURACY)}


def score(predictions: Predictions) -> dict[str, float]:
    """Every metric of ``predictions`` by name; all NaN where a logit is not finite."""
    finite = predictions.finite
    return {name: metric.compute(predictions) if finite else math.nan for name, metric in METRICS.items()}
