"""What training leaves of a made-up epoch: predictions of a split by true accuracy, and records of their scores."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.optimize import brentq, minimize_scalar
from scipy.special import log_softmax
from scipy.stats import norm
from study_builder import make_epoch

from analysis.statistics.estimate import FloatArray
from study.plan.plan import Trajectory
from study.records import Interval, Record, Split
from study.scoring import METRICS, Predictions

CREATED = 1_800_000_000.0
# The part of the noise that belongs to the example: fine-tuned encoders agree with one another about this much.
SHARED = 0.8


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """What a model is after an epoch.

    An ``accuracy`` of None means that one class is predicted for every example, NaN that the logits are not finite.
    ``scale`` multiplies log-odds that are calibrated. ``spurious`` is what the log-odds owe to nothing in the label,
    and ``flicker`` the part of the run's noise that each epoch draws anew. ``trace`` is how far the labels move the
    log-odds where one class is predicted, as a multiple of their spread. With a ``loss``, the split's mean loss is
    exactly that, and its accuracy exactly ``accuracy``.
    """

    accuracy: float | None
    scale: float = 1.0
    spurious: float = 0.0
    flicker: float = 0.0
    trace: float = 0.0
    loss: float | None = None


class SyntheticSplit:
    """Labels and difficulties of a split's examples, of which ``positive`` is the share of label 1."""

    def __init__(self, size: int, rng: np.random.Generator, positive: float = 0.5) -> None:
        label = np.arange(size) % 2 if positive == 0.5 else np.arange(size) < round(positive * size)
        self.label: npt.NDArray[np.int64] = rng.permutation(label.astype(np.int64))
        self.noise = rng.normal(size=size)
        self.ids = np.arange(size)
        self.prior = float(np.log(positive / (1 - positive)))

    def predict(self, state: State, run_noise: FloatArray, epoch_noise: FloatArray) -> Predictions:
        """What a model in this state predicts, with the noise of the run and of the epoch."""
        odds = self._odds(state, run_noise, epoch_noise)
        logits = np.stack([-odds / 2, odds / 2], axis=1).astype(np.float32)
        return Predictions(example_id=self.ids, label=self.label, logits=logits)

    def _odds(self, state: State, run_noise: FloatArray, epoch_noise: FloatArray) -> FloatArray:
        """The log-odds of label 1."""
        sign = 2.0 * self.label - 1
        if state.accuracy is None:
            spread = 2.5e-3 if state.trace else 1e-4
            return np.asarray(self.prior + 0.01 + spread * (run_noise + state.trace * sign))
        if not np.isfinite(state.accuracy):
            return np.full(len(sign), np.nan)
        own = np.sqrt(1 - state.flicker) * run_noise + np.sqrt(state.flicker) * epoch_noise
        noise = np.sqrt(SHARED) * self.noise + np.sqrt(1 - SHARED) * own
        if state.loss is not None:
            return sign * _margins(sign * noise, state.accuracy, state.loss)
        signal = _signal(state.accuracy, self.prior)
        odds = 2 * signal * (sign * signal + noise) + state.spurious * own
        return np.asarray(state.scale * (self.prior + odds))


@cache
def _signal(accuracy: float, prior: float) -> float:
    """The distance of the labels' evidence from zero, in standard deviations, that gives this accuracy.

    Where one class is frequent, calibrated answers are never less often right than that class: then next to nothing.
    """
    if prior == 0:
        return float(norm.ppf(accuracy))

    def missing(signal: float) -> float:
        positive = 1 / (1 + np.exp(-prior))
        shift = prior / (2 * signal)
        correct = positive * norm.cdf(signal + shift) + (1 - positive) * norm.cdf(signal - shift)
        return float(correct - accuracy)

    return float(brentq(missing, 0.05, 6.0)) if missing(0.05) < 0 else 0.05


def _margins(noise: FloatArray, accuracy: float, loss: float) -> FloatArray:
    """Log-odds of the labels of which exactly this share is above zero, with exactly this mean loss.

    Of the two scales with that loss, it is the larger one, at which the model is over-confident. Where no scale has so
    low a loss, the wrong answers are less confident.
    """
    order = np.sort(noise)
    wrong = round((1 - accuracy) * len(noise))
    margins = noise - (order[wrong - 1] + order[wrong]) / 2

    def excess(log_scale: float) -> float:
        return float(np.logaddexp(0, -np.exp(log_scale) * margins).mean()) - loss

    while (best := minimize_scalar(excess, bounds=(-3, 4), method="bounded")).fun > -1e-4:
        margins = np.where(margins < 0, 0.95 * margins, margins)
    return np.asarray(np.exp(brentq(excess, best.x, 8.0)) * margins)


def measure(predictions: Predictions) -> dict[str, float]:
    """The scores of predictions that an epoch's record contains."""
    logits = predictions.logits.astype(np.float64)
    if not np.isfinite(logits).all():
        return dict.fromkeys(("loss", "accuracy", "majority_share", "entropy", "confidence", "logit_std"), float("nan"))
    log_p = log_softmax(logits, axis=1)
    predicted = logits.argmax(axis=1)
    n = len(predicted)
    return {
        "loss": float(-log_p[np.arange(n), predictions.label].mean()),
        "accuracy": float((predicted == predictions.label).mean()),
        "majority_share": float(np.bincount(predicted, minlength=2).max() / n),
        "entropy": float(-(np.exp(log_p) * log_p).sum(axis=1).mean()),
        "confidence": float(np.exp(log_p).max(axis=1).mean()),
        "logit_std": float(logits.std(axis=0).mean()),
    }


def epoch_records(
    trajectory: Trajectory, number: int, loss: float, scores: Mapping[Split, Mapping[str, Any]], best: bool
) -> list[Record]:
    """The records of an epoch with this training loss and these scores, ``best`` so far on validation or not."""
    epochs = trajectory.epochs
    seen, step = number * trajectory.examples // epochs, number * trajectory.optimizer_steps // epochs
    rate = trajectory.settings.learning_rate
    interval = Interval(
        examples_seen=seen,
        optimizer_step=step,
        train_loss=loss,
        gradient_norm=1.0,
        learning_rate=rate,
        time=CREATED + 10 * number,
    )
    validation, test = scores["validation"], scores["test"]
    epoch = make_epoch(
        number,
        examples_seen=seen,
        optimizer_step=step,
        train_loss=loss,
        validation={name: validation[name] for name in METRICS},
        test={name: test[name] for name in METRICS} if best else None,
        majority_share=validation["majority_share"],
        entropy=validation["entropy"],
        confidence=validation["confidence"],
        logit_std=validation["logit_std"],
        non_finite_steps=0 if np.isfinite(loss) else 1,
        learning_rate=rate,
        train_seconds=1.0,
        time=CREATED + 10 * number + 1,
    )
    return [replace(interval, examples_seen=seen - 1), interval, epoch]
