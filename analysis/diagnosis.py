"""The diagnosis of each trajectory, such as healthy, overfitting or collapsed, and counts of failures.

Rules on the recorded history alone, each with a named threshold, so that a reader can check them by hand.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from analysis.statistics.estimate import Estimate
from analysis.statistics.intervals import clopper_pearson
from analysis.trajectory_results import Chance, TrajectoryResult
from study.records import Epoch
from study.training.schedules import LearningRate

Finding = Literal[
    "healthy",
    "overfitting",
    "declined",
    "collapsed",
    "collapsed and recovered",
    "never learned",
    "not learned yet",
    "flat, cause open",
    "non-finite",
    "no evaluation",
]
FAILURES: tuple[Finding, ...] = ("collapsed", "never learned", "non-finite")
LEARNED: tuple[Finding, ...] = ("healthy", "overfitting", "declined", "collapsed and recovered")
# The findings that say whether the run failed; runs with other findings are counted apart.
DECIDED: tuple[Finding, ...] = (*LEARNED, *FAILURES)

# A model has learned if its validation accuracy is above chance by this and by three standard errors.
LEARNED_MARGIN = 0.05
# A training loss above this share of the best constant prediction's loss is flat: the model separates nothing.
FLAT_LOSS = 0.95
# The majority-class share from which on a model predicts one class for nearly every example.
MAJORITY_SHARE = 0.95
# Validation loss that ends this much (nats) and this share above its lowest value has risen.
RISE_NATS, RISE_SHARE = 0.02, 0.05
# Validation accuracy that ends this far below its best has declined.
DECLINE = 0.10

RULES = (
    (
        "Chance is what the best constant prediction scores on validation (for two equal classes accuracy 0.5, loss "
        f"ln 2). A model has learned once validation accuracy is above chance by {LEARNED_MARGIN:.0%} and by three "
        f"standard errors, with a training loss below {FLAT_LOSS:g} of that of chance; without the latter, only if "
        "accuracy stays there to the end."
    ),
    (
        "Collapsed: the model had learned, and at the end is at chance again with a training loss above "
        f"{FLAT_LOSS:g} of that of chance. A failed run in the sense of Mosbach et al. (2021): no better than the "
        "majority class at the end."
    ),
    "Collapsed and recovered: the same in the middle of training, but better than chance at the end; not a failure.",
    (
        "Never learned: at chance at the end without having learned before, although a run of the same model had "
        "learned with no larger learning-rate budget (the sum of the rates of all steps, which bounds how far Adam can "
        "move a weight) and no higher peak rate. Counted as a failure."
    ),
    (
        "Not learned yet: the same, but every run of the same model that learned had a larger budget by then. Not a "
        "failure."
    ),
    "Flat, cause open: the same, but no other run shows which of the two it is. Counted apart.",
    (
        f"Overfitting: validation loss ends more than {RISE_NATS} nats and {RISE_SHARE:.0%} above its lowest value, "
        "while training loss continued to fall (Prechelt 1998)."
    ),
    (
        f"Declined: none of the above, and validation accuracy ends {DECLINE:.0%} or more below its best: a partial "
        "loss of what was learned."
    ),
    (
        "A majority-class start means that the first epochs predict a single class; it is marked, and is not a failure "
        "if it ends."
    ),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Diagnosis:
    """A run's finding, its onset (epoch from 1, and examples seen; None where it has none), and the evidence for it.

    ``majority_start`` is the number of epochs at the start that predict a single class, and ``ends_in_majority_class``
    says whether the last one does. ``learned_epoch`` is the one after which the model had learned.
    """

    run: TrajectoryResult
    finding: Finding
    onset_epoch: int | None = None
    onset_examples: int | None = None
    majority_start: int = 0
    ends_in_majority_class: bool = False
    learned_epoch: int | None = None

    @property
    def failed(self) -> bool:
        """Whether the run failed: it ended no better than chance, or with a non-finite loss."""
        return self.finding in FAILURES

    @property
    def learned(self) -> bool:
        """Whether the model ended better than chance."""
        return self.finding in LEARNED


# The diagnosis of each trajectory, by its id.
Diagnoses = Mapping[str, Diagnosis]


def diagnose(runs: Sequence[TrajectoryResult], chance: Chance) -> tuple[Diagnosis, ...]:
    """The diagnosis of every trajectory, in the same order; runs at chance are compared with their siblings."""
    diagnoses = [_diagnose_by_history(run, chance) for run in runs]
    learners = [
        (diagnosis, _budget_to_learn(diagnosis)) for diagnosis in diagnoses if diagnosis.learned_epoch is not None
    ]
    return tuple(
        _compare_with_siblings(diagnosis, learners) if diagnosis.finding == "flat, cause open" else diagnosis
        for diagnosis in diagnoses
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class FailureCounts:
    """How many of the ``runs`` of one side of a comparison ``failed``."""

    failed: int
    runs: int

    @property
    def events_and_trials(self) -> tuple[int, int]:
        """The counts in the form that :mod:`analysis.statistics.intervals` takes."""
        return self.failed, self.runs

    @property
    def rate(self) -> Estimate:
        """The failure rate with its Clopper-Pearson interval."""
        return clopper_pearson(self.failed, self.runs)


def count_failures(runs: Iterable[TrajectoryResult], diagnoses: Diagnoses) -> FailureCounts:
    """How many of ``runs`` failed."""
    failed = [diagnoses[run.trajectory.id].failed for run in runs]
    return FailureCounts(failed=sum(failed), runs=len(failed))


def learning_rate(run: TrajectoryResult) -> LearningRate:
    """The learning rate that the run was trained with."""
    return LearningRate.of(run.settings, run.trajectory.optimizer_steps)


def learned_threshold(chance: Chance) -> float:
    """The validation accuracy from which on a model has learned something."""
    error = math.sqrt(chance.accuracy * (1 - chance.accuracy) / chance.examples) if chance.examples else 0.0
    return chance.accuracy + max(LEARNED_MARGIN, 3 * error)


def _diagnose_by_history(run: TrajectoryResult, chance: Chance) -> Diagnosis:
    """The diagnosis by a trajectory's own history."""
    epochs = run.epochs
    if not epochs:
        return Diagnosis(run=run, finding="no evaluation")
    if bad := next((epoch for epoch in epochs if _is_non_finite(epoch)), None):
        return Diagnosis(run=run, finding="non-finite", onset_epoch=bad.epoch, onset_examples=bad.examples_seen)
    threshold, flat_loss = learned_threshold(chance), FLAT_LOSS * chance.loss
    collapsed = [epoch.validation["accuracy"] < threshold and _latest_loss(run, epoch) >= flat_loss for epoch in epochs]
    learned = _learned_epoch(run, threshold, flat_loss)
    in_majority_class = [epoch.majority_share >= MAJORITY_SHARE for epoch in epochs]
    diagnosis = Diagnosis(
        run=run,
        finding="flat, cause open",
        learned_epoch=learned,
        majority_start=in_majority_class.index(False) if False in in_majority_class else len(epochs),
        ends_in_majority_class=in_majority_class[-1],
    )
    if learned is None:
        return diagnosis
    later = [i for i in range(learned, len(epochs)) if collapsed[i]]
    if later:
        # Of a run that ends collapsed, the onset is that of its last collapse.
        first = max(i for i in later if i == learned or not collapsed[i - 1]) if collapsed[-1] else later[0]
        finding: Finding = "collapsed" if collapsed[-1] else "collapsed and recovered"
        onset_examples = _last_learning_at(run, epochs[first], flat_loss)
        return replace(diagnosis, finding=finding, onset_epoch=epochs[first].epoch, onset_examples=onset_examples)
    finding, onset = _after_learning(epochs)
    if onset is None:
        return replace(diagnosis, finding=finding)
    return replace(diagnosis, finding=finding, onset_epoch=onset.epoch, onset_examples=onset.examples_seen)


def _learned_epoch(run: TrajectoryResult, threshold: float, flat_loss: float) -> int | None:
    """The epoch by which something was learned: better than chance on validation and in training loss.

    Without the latter, accuracy has to stay above chance to the end: a brief rise is not learning.
    """
    above = [epoch.validation["accuracy"] >= threshold for epoch in run.epochs]
    in_both = [up and _latest_loss(run, epoch) < flat_loss for up, epoch in zip(above, run.epochs, strict=True)]
    if any(in_both):
        return in_both.index(True) + 1
    # The length of the history up to its last epoch at chance.
    until_chance = len(above) - next((i for i, up in enumerate(reversed(above)) if not up), len(above))
    return until_chance + 1 if until_chance < len(above) else None


def _after_learning(epochs: Sequence[Epoch]) -> tuple[Finding, Epoch | None]:
    """The finding of a run that learned and never fell back to chance, and the epoch of its onset."""
    best = max(epochs, key=lambda epoch: epoch.validation["accuracy"])
    last, lowest = epochs[-1], min(epochs, key=lambda epoch: epoch.validation["loss"])
    rose = last.validation["loss"] - lowest.validation["loss"] > max(RISE_NATS, RISE_SHARE * lowest.validation["loss"])
    if rose and last.train_loss < lowest.train_loss:
        return "overfitting", epochs[lowest.epoch]
    if best.validation["accuracy"] - last.validation["accuracy"] >= DECLINE:
        after_best = epochs[best.epoch :]
        worse = (epoch for epoch in after_best if epoch.validation["accuracy"] < best.validation["accuracy"])
        return "declined", next(worse)
    return "healthy", None


def _compare_with_siblings(diagnosis: Diagnosis, learners: Sequence[tuple[Diagnosis, float]]) -> Diagnosis:
    """Decide between "never learned" and "not learned yet", by runs of the same model that learned.

    ``learners`` are these runs, each with the learning-rate budget that it needed.
    """
    run = diagnosis.run
    rate = learning_rate(run)
    budget = rate.total(run.epochs[-1].optimizer_step)
    siblings = [
        (learning_rate(learner.run).peak, needed)
        for learner, needed in learners
        if learner.run.settings.model == run.settings.model
    ]
    if any(needed <= budget and peak <= rate.peak for peak, needed in siblings):
        return replace(diagnosis, finding="never learned", onset_epoch=1, onset_examples=0)
    if siblings and all(needed > budget for _, needed in siblings):
        return replace(diagnosis, finding="not learned yet")
    return diagnosis


def _budget_to_learn(diagnosis: Diagnosis) -> float:
    """The learning-rate budget that a run had used at the first evaluation at which it had learned."""
    assert diagnosis.learned_epoch is not None
    run = diagnosis.run
    return learning_rate(run).total(run.epochs[diagnosis.learned_epoch - 1].optimizer_step)


def _is_non_finite(epoch: Epoch) -> bool:
    return (
        epoch.non_finite_steps > 0 or not math.isfinite(epoch.validation["loss"]) or not math.isfinite(epoch.train_loss)
    )


def _latest_loss(run: TrajectoryResult, epoch: Epoch) -> float:
    """The training loss of the epoch's last interval: the epoch's mean may include steps before a collapse."""
    inside = [interval for interval in run.intervals if interval.examples_seen <= epoch.examples_seen]
    if not inside or inside[-1].optimizer_step <= epoch.optimizer_step - run.trajectory.steps_per_epoch:
        return epoch.train_loss
    return inside[-1].train_loss


def _last_learning_at(run: TrajectoryResult, epoch: Epoch, flat_loss: float) -> int:
    """Examples seen when the training loss was last below the flat level, before the first collapsed epoch."""
    before = [interval for interval in run.intervals if interval.examples_seen <= epoch.examples_seen]
    below = [interval.examples_seen for interval in before if interval.train_loss < flat_loss]
    return below[-1] if below else epoch.examples_seen
