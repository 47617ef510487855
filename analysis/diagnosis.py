"""The diagnosis of each trajectory, such as healthy, overfitting or collapsed.

Rules on the recorded history and the predictions on validation, each with a named threshold, so that a reader can
check them by hand.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from analysis.epoch_tests import (
    ERRORS_FROM_CHANCE,
    ERRORS_OF_CHANGE,
    FALL,
    FLAT_LOSS,
    LEAST_GAIN,
    MAJORITY_SHARE,
    RISE_NATS,
    RISE_SHARE,
    EpochTests,
)
from analysis.trajectory_results import TrajectoryResult
from study.records import Epoch
from study.training.schedules import LearningRate

Finding = Literal[
    "healthy",
    "over-confident late",
    "overfitting",
    "declined",
    "declined and recovered",
    "collapsed",
    "collapsed and recovered",
    "never learned",
    "not learned yet",
    "flat, cause open",
    "not shown to have learned",
    "memorised",
    "non-finite",
    "no evaluation",
]
FAILURES: tuple[Finding, ...] = ("collapsed", "never learned", "non-finite")
LEARNED: tuple[Finding, ...] = (
    "healthy",
    "over-confident late",
    "overfitting",
    "declined",
    "declined and recovered",
    "collapsed and recovered",
)
# The findings that say whether the run failed; runs with other findings are counted apart.
DECIDED: tuple[Finding, ...] = (*LEARNED, *FAILURES)
# Failures, and large losses of what was learned that do not end at chance.
UNSTABLE: tuple[Finding, ...] = (*FAILURES, "declined", "declined and recovered", "collapsed and recovered")
# A fall of accuracy that ends counts from here on.
DIP = 0.10

RULES = (
    (
        "Chance is what the best constant prediction scores on validation, whatever the classes' shares. A model is "
        f"better than chance if its accuracy or its loss on validation improves on that by {ERRORS_FROM_CHANCE:g} "
        f"standard errors, the loss paired by example and by at least {LEAST_GAIN:.0%}. It has learned once it is "
        f"better than chance with a training loss below {FLAT_LOSS:g} times that of chance or by {ERRORS_OF_CHANGE:g} "
        "standard errors, or stays better to the end."
    ),
    (
        "Collapsed: the model had learned, and at the end is not better than chance and separates nothing: one class "
        f"for {MAJORITY_SHARE:.0%} of the examples, logits without spread, or a training loss above {FLAT_LOSS:g} "
        "times that of chance. A failed run in the sense of Mosbach et al. (2021)."
    ),
    "Collapsed and recovered: the same during training, but better than chance at the end. Unstable, not failed.",
    (
        "Never learned: separates nothing at the end without having learned before, although a run of the same model "
        "had learned with no larger learning-rate budget (the sum of the rates of all steps, which bounds how far Adam "
        "can move a weight) and no higher peak rate. Failed."
    ),
    (
        "Not learned yet: separates nothing, but every run of the same model that learned had used a larger budget by "
        "then. Not failed."
    ),
    "Flat, cause open: separates nothing, and no other run shows which of these two it is. Counted apart.",
    (
        "Not shown to have learned: the model separates the examples, but this validation split is too small to tell "
        "its score from chance. Neither failed nor learned."
    ),
    (
        "Memorised: training loss is below that of chance, while validation loss is above it beyond its error and "
        "accuracy was never better than chance: the labels do not follow from the texts. Counted apart."
    ),
    (
        f"Overfitting: validation loss ends above its lowest value by more than {RISE_NATS} nats, {RISE_SHARE:.0%} and "
        f"{ERRORS_OF_CHANGE:g} standard errors of the paired difference, while training loss continued to fall "
        f"(Prechelt 1998), and accuracy ends below its best by {100 * FALL:.0f} points or more and "
        f"{ERRORS_OF_CHANGE:g} standard errors. Over-confident late: the same rise of loss with accuracy kept."
    ),
    (
        "Declined: accuracy fell by as much without that: part of what was learned is lost. Declined and recovered: "
        f"accuracy fell by {100 * DIP:.0f} points or more during training, and rose again. Unstable, not failed."
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
    def unstable(self) -> bool:
        """Whether the run failed or lost a large part of what it had learned on the way."""
        return self.finding in UNSTABLE

    @property
    def learned(self) -> bool:
        """Whether the model ended better than chance."""
        return self.finding in LEARNED


# The diagnosis of each trajectory, by its id.
Diagnoses = Mapping[str, Diagnosis]


def diagnose(runs: Sequence[TrajectoryResult], tests: EpochTests) -> tuple[Diagnosis, ...]:
    """The diagnosis of every trajectory, in the same order; runs at chance are compared with their siblings."""
    diagnoses = [_diagnose_by_history(run, tests) for run in runs]
    learners = [
        (diagnosis, _budget_to_learn(diagnosis)) for diagnosis in diagnoses if diagnosis.learned_epoch is not None
    ]
    return tuple(
        _compare_with_siblings(diagnosis, learners) if diagnosis.finding == "flat, cause open" else diagnosis
        for diagnosis in diagnoses
    )


def learning_rate(run: TrajectoryResult) -> LearningRate:
    """The learning rate that the run was trained with."""
    return LearningRate.of(run.settings, run.trajectory.optimizer_steps)


def _diagnose_by_history(run: TrajectoryResult, tests: EpochTests) -> Diagnosis:
    """The diagnosis by a trajectory's own history."""
    epochs = run.epochs
    if not epochs:
        return Diagnosis(run=run, finding="no evaluation")
    if bad := next((epoch for epoch in epochs if _is_non_finite(epoch)), None):
        return Diagnosis(run=run, finding="non-finite", onset_epoch=bad.epoch, onset_examples=bad.examples_seen)
    better = [tests.better_than_chance(run.trajectory.id, epoch) for epoch in epochs]
    separates_nothing = [tests.separates_nothing(epoch, _latest_loss(run, epoch)) for epoch in epochs]
    in_majority_class = [tests.one_class(epoch) for epoch in epochs]
    clearly = [tests.better_than_chance(run.trajectory.id, epoch, ERRORS_OF_CHANGE) for epoch in epochs]
    learned = _learned_epoch(run, better, clearly, FLAT_LOSS * tests.chance.loss)
    diagnosis = Diagnosis(
        run=run,
        finding="flat, cause open",
        learned_epoch=learned,
        majority_start=in_majority_class.index(False) if False in in_majority_class else len(epochs),
        ends_in_majority_class=in_majority_class[-1],
    )
    if learned is None:
        return replace(diagnosis, finding=_finding_at_chance(run, tests, separates_nothing=separates_nothing[-1]))
    collapsed = [nothing and not up for nothing, up in zip(separates_nothing, better, strict=True)]
    later = [i for i in range(learned, len(epochs)) if collapsed[i]]
    if later:
        # Of a run that ends collapsed, the onset is that of its last collapse.
        first = max(i for i in later if i == learned or not collapsed[i - 1]) if collapsed[-1] else later[0]
        finding: Finding = "collapsed" if collapsed[-1] else "collapsed and recovered"
        onset_examples = _last_learning_at(run, epochs[first], FLAT_LOSS * tests.chance.loss)
        return replace(diagnosis, finding=finding, onset_epoch=epochs[first].epoch, onset_examples=onset_examples)
    finding, onset = _after_learning(run, tests)
    if onset is None:
        return replace(diagnosis, finding=finding)
    return replace(diagnosis, finding=finding, onset_epoch=onset.epoch, onset_examples=onset.examples_seen)


def _learned_epoch(
    run: TrajectoryResult, better: Sequence[bool], clearly: Sequence[bool], flat_loss: float
) -> int | None:
    """The epoch by which something was learned: better than chance on validation and in training loss.

    Without the latter, clearly better than chance on validation; without either, the run has to stay better than chance
    to the end: a brief rise is not learning.
    """
    in_both = [up and _latest_loss(run, epoch) < flat_loss for up, epoch in zip(better, run.epochs, strict=True)]
    for learned in (in_both, clearly):
        if any(learned):
            return learned.index(True) + 1
    # The length of the history up to its last epoch at chance.
    until_chance = len(better) - next((i for i, up in enumerate(reversed(better)) if not up), len(better))
    return until_chance + 1 if until_chance < len(better) else None


def _finding_at_chance(run: TrajectoryResult, tests: EpochTests, *, separates_nothing: bool) -> Finding:
    """The finding of a run that was never shown to have learned."""
    if separates_nothing:
        return "flat, cause open"
    last = run.epochs[-1]
    fits = last.train_loss < FLAT_LOSS * tests.chance.loss
    return "memorised" if fits and tests.worse_than_chance(run.trajectory.id, last) else "not shown to have learned"


def _after_learning(run: TrajectoryResult, tests: EpochTests) -> tuple[Finding, Epoch | None]:
    """The finding of a run that learned and never fell back to chance, and the epoch of its onset."""
    epochs, trajectory = run.epochs, run.trajectory.id
    best = max(epochs, key=lambda epoch: epoch.validation["accuracy"])
    last, lowest = epochs[-1], min(epochs, key=lambda epoch: epoch.validation["loss"])
    fell = last is not best and tests.accuracy_fell(trajectory, best, last)
    rose = last is not lowest and tests.loss_rose(trajectory, lowest, last)
    if rose and last.train_loss < lowest.train_loss:
        return "overfitting" if fell else "over-confident late", epochs[lowest.epoch]
    if fell:
        after_best = epochs[best.epoch :]
        worse = (epoch for epoch in after_best if epoch.validation["accuracy"] < best.validation["accuracy"])
        return "declined", next(worse)
    dip = _dip(run, tests)
    return ("declined and recovered", dip) if dip else ("healthy", None)


def _dip(run: TrajectoryResult, tests: EpochTests) -> Epoch | None:
    """The first epoch that fell far below the best before it, though the run recovered; None where there is none."""
    best = run.epochs[0]
    for epoch in run.epochs[1:]:
        fall = best.validation["accuracy"] - epoch.validation["accuracy"]
        if fall >= DIP and tests.accuracy_fell(run.trajectory.id, best, epoch):
            return epoch
        best = epoch if fall < 0 else best
    return None


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
