"""Tests of single epochs: better than chance, without any separation, and changes between epochs beyond their error.

Predictions on validation are compared example by example. Where they are missing, as those of epochs that were never
the best so far in older studies, the error is that of unpaired examples, which is larger.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from analysis.predictions import PredictionStore
from analysis.statistics.estimate import FloatArray
from analysis.statistics.probabilities import score_examples
from analysis.trajectory_results import Chance
from study.records import Epoch

# Standard errors beyond which an epoch differs from chance, or from an earlier epoch. Four, because a study has
# hundreds of pairs of epochs and the best epoch is selected among several.
ERRORS_FROM_CHANCE = 3.0
ERRORS_OF_CHANGE = 4.0
# The share of chance's loss that a gain has to reach: the logits of a collapsed model may keep a trace of what it knew,
# which many examples show although it is worth nothing.
LEAST_GAIN = 0.01
# The majority-class share from which on a model predicts one class for nearly every example.
MAJORITY_SHARE = 0.95
# The standard deviation of the logits over examples below which the model tells no example from another.
LOGIT_SPREAD = 0.05
# A training loss above this share of the best constant prediction's loss is flat: the model separates nothing.
FLAT_LOSS = 0.95
# What a rise of loss (nats, and share of the lowest loss) and a fall of accuracy have to reach to matter.
RISE_NATS, RISE_SHARE, FALL = 0.02, 0.05, 0.03


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """A change between two epochs on validation and its standard error."""

    value: float
    error: float

    @property
    def beyond_error(self) -> bool:
        """Whether it is above zero by :data:`ERRORS_OF_CHANGE`."""
        return self.value > ERRORS_OF_CHANGE * self.error


@dataclass(frozen=True, slots=True, kw_only=True)
class EpochTests:
    """Tests of a study's epochs against what a constant prediction scores, and against one another."""

    chance: Chance
    predictions: PredictionStore

    def better_than_chance(self, trajectory: str, epoch: Epoch, errors: float = ERRORS_FROM_CHANCE) -> bool:
        """Whether accuracy or loss on validation improves on the best constant prediction by ``errors`` of its own."""
        if not math.isfinite(epoch.validation["loss"]):
            return False
        gain = self._accuracy_gain(epoch)
        if gain.value > max(errors * gain.error, 0.0):
            return True
        gain = self._loss_gain(trajectory, epoch)
        return gain.value > max(errors * gain.error, LEAST_GAIN * self.chance.loss)

    def worse_than_chance(self, trajectory: str, epoch: Epoch) -> bool:
        """Whether loss on validation is higher than the best constant prediction's, beyond its error."""
        gain = self._loss_gain(trajectory, epoch)
        return gain.value < -ERRORS_FROM_CHANCE * gain.error

    def one_class(self, epoch: Epoch) -> bool:
        """Whether one class is predicted for nearly every example, more than it has of them."""
        return epoch.majority_share >= max(MAJORITY_SHARE, (1 + self.chance.accuracy) / 2)

    def separates_nothing(self, epoch: Epoch, latest_loss: float) -> bool:
        """Whether the outputs hardly depend on the input: one class, logits without spread, or a flat training loss."""
        return self.one_class(epoch) or epoch.logit_std < LOGIT_SPREAD or latest_loss >= FLAT_LOSS * self.chance.loss

    def loss_rose(self, trajectory: str, lowest: Epoch, last: Epoch) -> bool:
        """Whether loss rose by an amount that matters, beyond its error."""
        enough = max(RISE_NATS, RISE_SHARE * lowest.validation["loss"])
        rose = last.validation["loss"] - lowest.validation["loss"] > enough
        return rose and self.loss_rise(trajectory, lowest, last).beyond_error

    def accuracy_fell(self, trajectory: str, best: Epoch, last: Epoch) -> bool:
        """Whether accuracy fell by an amount that matters, beyond its error."""
        fell = best.validation["accuracy"] - last.validation["accuracy"] >= FALL
        return fell and self.accuracy_fall(trajectory, best, last).beyond_error

    def loss_rise(self, trajectory: str, before: Epoch, after: Epoch) -> Change:
        """How much higher the loss of ``after`` is than that of ``before``, in nats per example."""
        value = after.validation["loss"] - before.validation["loss"]
        first, second = self._losses(trajectory, before), self._losses(trajectory, after)
        return Change(value=value, error=self._error(value, first, second, _loss_spread(before), _loss_spread(after)))

    def accuracy_fall(self, trajectory: str, before: Epoch, after: Epoch) -> Change:
        """How much lower the accuracy of ``after`` is than that of ``before``."""
        value = before.validation["accuracy"] - after.validation["accuracy"]
        first, second = self._correct(trajectory, after), self._correct(trajectory, before)
        return Change(
            value=value, error=self._error(value, first, second, _accuracy_spread(after), _accuracy_spread(before))
        )

    def _accuracy_gain(self, epoch: Epoch) -> Change:
        """Accuracy above the majority class's share, which the labels fix; binomial, at the majority's share."""
        share, n = self.chance.accuracy, self.chance.examples
        error = math.sqrt(share * (1 - share) / n) if n else 0.05 / ERRORS_FROM_CHANCE
        return Change(value=epoch.validation["accuracy"] - share, error=error)

    def _loss_gain(self, trajectory: str, epoch: Epoch) -> Change:
        """Loss below that of the best constant prediction, paired by example."""
        value, n = self.chance.loss - epoch.validation["loss"], self.chance.examples
        losses = self._losses(trajectory, epoch)
        if losses is None or n is None:
            return Change(value=value, error=_loss_spread(epoch) / math.sqrt(n) if n else math.inf)
        predictions = self.predictions.of_epoch(trajectory, epoch.epoch, "validation")
        assert predictions is not None
        shares = np.bincount(predictions.label) / len(predictions.label)
        gains = -np.log(shares[predictions.label]) - losses
        return Change(value=value, error=float(gains.std(ddof=1)) / math.sqrt(n))

    def _error(
        self, value: float, first: FloatArray | None, second: FloatArray | None, of_first: float, of_second: float
    ) -> float:
        """The standard error of a difference of means: paired where both are known, otherwise unpaired.

        One example more than was seen to differ is taken to differ, so that ties have an error too.
        """
        n = self.chance.examples
        if first is not None and second is not None:
            difference = np.append(second - first, [-np.sign(value) or 1.0])
            return float(difference.std(ddof=1)) / math.sqrt(len(difference))
        return math.sqrt((of_first**2 + of_second**2) / n) if n else abs(value) / ERRORS_OF_CHANGE / 2

    def _losses(self, trajectory: str, epoch: Epoch) -> FloatArray | None:
        predictions = self.predictions.of_epoch(trajectory, epoch.epoch, "validation")
        return score_examples(predictions).nll if predictions is not None and predictions.finite else None

    def _correct(self, trajectory: str, epoch: Epoch) -> FloatArray | None:
        predictions = self.predictions.of_epoch(trajectory, epoch.epoch, "validation")
        if predictions is None or not predictions.finite:
            return None
        return predictions.correct.astype(np.float64)


def _accuracy_spread(epoch: Epoch) -> float:
    """The standard deviation over examples of correctness."""
    return math.sqrt(epoch.validation["accuracy"] * (1 - epoch.validation["accuracy"]))


def _loss_spread(epoch: Epoch) -> float:
    """About the standard deviation over examples of losses whose mean is known: they are skewed, so twice the mean."""
    return 2 * epoch.validation["loss"]
