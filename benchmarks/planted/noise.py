"""Noise of examples with heavy tails, and the log-odds that are calibrated under it.

An example of label +1 or -1 has the evidence ``label * signal + noise``. The noise is the sum of the example's own
difficulty, which all runs share, of logistic noise of the run and of logistic noise of the epoch. Densities and
accuracies are tables on a grid, computed once for each kind of noise.
"""

from __future__ import annotations

from functools import cache
from typing import Literal

import numpy as np
import numpy.typing as npt
from scipy import stats

FloatArray = npt.NDArray[np.float64]
Difficulty = Literal["laplace", "student", "normal"]

# How the variance of the noise is divided.
EXAMPLE, RUN, EPOCH = 0.7, 0.2, 0.1
STUDENT_DF = 3
# The grid of the evidence, and that of the signal.
REACH, STEP = 50.0, 0.02
SIGNALS = np.concatenate([np.linspace(0, 6, 241), np.linspace(6, 30, 61)[1:]])


def difficulty_distribution(kind: Difficulty) -> stats.rv_continuous:
    """The distribution of difficulties, of variance 1."""
    if kind == "laplace":
        return stats.laplace(scale=np.sqrt(0.5))
    if kind == "student":
        return stats.t(STUDENT_DF, scale=np.sqrt((STUDENT_DF - 2) / STUDENT_DF))
    return stats.norm()


def logistic(rng: np.random.Generator, size: int | tuple[int, ...]) -> FloatArray:
    """Logistic noise of variance 1."""
    return rng.logistic(scale=np.sqrt(3) / np.pi, size=size)


class Noise:
    """The noise of examples of which ``class_share`` have the label +1, and whose difficulty is of a ``kind``."""

    def __init__(self, kind: Difficulty, class_share: float) -> None:
        self.kind = kind
        self.class_share = class_share
        self.prior = float(np.log(class_share / (1 - class_share)))
        grid = np.arange(-REACH, REACH + STEP / 2, STEP)
        parts = [difficulty_distribution(kind), *[stats.logistic(scale=np.sqrt(3) / np.pi)] * 2]
        density = np.zeros_like(grid)
        density[len(grid) // 2] = 1 / STEP
        for part, variance in zip(parts, (EXAMPLE, RUN, EPOCH), strict=True):
            scale = np.sqrt(variance)
            # Sums of positive numbers: the tails keep their precision, which a Fourier transform would lose.
            density = np.convolve(density, STEP * part.pdf(grid / scale) / scale, mode="same")
        self._log_density = np.log(np.maximum(density / (density.sum() * STEP), 1e-300))
        self._accuracy, self._loss = self._tabulate(grid)

    @property
    def chance_accuracy(self) -> float:
        """The accuracy of the best constant prediction."""
        return max(self.class_share, 1 - self.class_share)

    @property
    def chance_loss(self) -> float:
        """The loss of the best constant prediction, in nats."""
        share = self.class_share
        return float(-(share * np.log(share) + (1 - share) * np.log1p(-share)))

    def signal(self, accuracy: FloatArray | float) -> FloatArray:
        """The signal at which calibrated predictions have this accuracy; 0 for an accuracy below chance."""
        signal: FloatArray = np.asarray(np.interp(accuracy, self._accuracy, SIGNALS))
        return signal

    def loss(self, accuracy: FloatArray | float) -> FloatArray:
        """The loss in nats of calibrated predictions of this accuracy."""
        loss: FloatArray = np.asarray(np.interp(self.signal(accuracy), SIGNALS, self._loss))
        return loss

    def log_odds(self, evidence: FloatArray, signal: FloatArray) -> FloatArray:
        """The calibrated log-odds of the label +1."""
        return self._at(evidence - signal) - self._at(evidence + signal) + self.prior

    def difficulties(self, rng: np.random.Generator, size: int) -> FloatArray:
        """Difficulties of examples, of variance 1."""
        drawn: FloatArray = difficulty_distribution(self.kind).rvs(size, random_state=rng)
        return drawn

    def _at(self, evidence: FloatArray) -> FloatArray:
        """The logarithm of the density, between the points of the grid by a straight line."""
        place = np.clip((evidence + REACH) / STEP, 0, len(self._log_density) - 1.001)
        low = place.astype(np.int64)
        below = self._log_density[low]
        interpolated: FloatArray = below + (place - low) * (self._log_density[low + 1] - below)
        return interpolated

    def _tabulate(self, grid: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Accuracy and loss of calibrated predictions at each of :data:`SIGNALS`."""
        accuracies, losses = [], []
        for signal in SIGNALS:
            plus = self.class_share * np.exp(self._at(grid - signal))
            minus = (1 - self.class_share) * np.exp(self._at(grid + signal))
            total = (plus + minus).sum()
            odds = self.log_odds(grid, signal)
            accuracies.append(np.maximum(plus, minus).sum() / total)
            losses.append((plus * np.logaddexp(0, -odds) + minus * np.logaddexp(0, odds)).sum() / total)
        # Interpolation needs a table that rises: where the signal is too weak for any effect, accuracy is chance.
        return np.maximum.accumulate(accuracies) + 1e-12 * np.arange(len(SIGNALS)), np.array(losses)


@cache
def noise_of(kind: Difficulty, class_share: float) -> Noise:
    """The noise of a kind; its tables are computed once."""
    return Noise(kind, class_share)
