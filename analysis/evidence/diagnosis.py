"""The diagnosis of each trajectory: it learned, overfitted, collapsed, or has not learned yet.

Rules on the recorded history alone, each with a named threshold, so that a reader can check them by hand.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

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
# The findings of which it is known whether the run failed; others would count for one side or the other.
DECIDED: tuple[Finding, ...] = (*LEARNED, *FAILURES)

# Better than chance by more than this, and by three standard errors, on validation: something was learned.
LEARNED_MARGIN = 0.05
# A training loss above this share of the best constant prediction's is that of a model that distinguishes nothing.
FLAT_LOSS = 0.95
# The majority-class share above which a model predicts one class for nearly everything.
ONE_CLASS_SHARE = 0.95
# Validation loss that ends this much (nats), and this share, above its lowest value has risen.
RISE_NATS, RISE_SHARE = 0.02, 0.05
# Validation accuracy that ends this far under its best has declined.
DECLINE = 0.10

RULES = (
    (
        "Chance is what the best constant prediction scores on validation (for two equal classes accuracy 0.5, loss "
        f"ln 2). A model has learned once validation accuracy is above chance by {LEARNED_MARGIN:.0%} and by three "
        f"standard errors, with a training loss under {FLAT_LOSS:g} of chance's; without the latter, only if accuracy "
        "stays there to the end."
    ),
    (
        f"Collapsed: it had learned, and at the end is at chance again with a training loss above {FLAT_LOSS:g} of "
        "chance's. A failed run in the sense of Mosbach et al. (2021): no better than the majority class at the end."
    ),
    "Collapsed and recovered: the same in the middle of training, and better than chance at the end; no failure.",
    (
        "Never learned: at chance at the end and never learned before, although a run of the same model had learned "
        "with no more learning-rate budget (the sum of the rates of all steps, which bounds how far Adam can move a "
        "weight) at a rate no higher. Counted as a failure."
    ),
    (
        "Not learned yet: the same, but every run of the same model that learned had a larger budget by then. No "
        "failure."
    ),
    "Flat, cause open: the same, and no run to compare it with says which of the two it is. Counted apart.",
    (
        f"Overfitting: validation loss ends more than {RISE_NATS} nats and {RISE_SHARE:.0%} above its lowest value, "
        "while the training loss went on falling (Prechelt 1998)."
    ),
    (
        f"Declined: validation accuracy ends {DECLINE:.0%} or more under its best, and it is none of the above: "
        "training came apart in part."
    ),
    (
        "A majority-class start is an opening in which one class is predicted; it is marked, and is no failure when "
        "it ends."
    ),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Diagnosis:
    """A finding, its onset (epoch, and examples seen; None where that has no meaning), and the evidence for it."""

    run: TrajectoryResult
    finding: Finding
    onset_epoch: int | None = None
    onset_examples: int | None = None
    majority_start: int = 0
    one_class: bool = False
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
    alone = [_alone(run, chance) for run in runs]
    learners = [(diagnosis, _budget_to_learn(diagnosis)) for diagnosis in alone if diagnosis.learned_epoch is not None]
    return tuple(
        _against_siblings(diagnosis, learners)
        if diagnosis.finding == "flat, cause open" and diagnosis.run.epochs
        else diagnosis
        for diagnosis in alone
    )


def learning_rate(run: TrajectoryResult) -> LearningRate:
    """The learning rate that the run was trained with."""
    return LearningRate.of(run.settings, run.trajectory.optimizer_steps)


def learned_threshold(chance: Chance) -> float:
    """The validation accuracy above which a model has learned something."""
    error = math.sqrt(chance.accuracy * (1 - chance.accuracy) / chance.examples) if chance.examples else 0.0
    return chance.accuracy + max(LEARNED_MARGIN, 3 * error)


def _alone(run: TrajectoryResult, chance: Chance) -> Diagnosis:
    """The diagnosis by a trajectory's own history."""
    epochs = run.epochs
    if not epochs:
        return Diagnosis(run=run, finding="no evaluation")
    if broken := next((epoch for epoch in epochs if _non_finite(epoch)), None):
        return Diagnosis(run=run, finding="non-finite", onset_epoch=broken.epoch, onset_examples=broken.examples_seen)
    threshold, flat = learned_threshold(chance), FLAT_LOSS * chance.loss
    dead = [epoch.validation["accuracy"] < threshold and _latest_loss(run, epoch) >= flat for epoch in epochs]
    learned = _learned_epoch(run, threshold, flat)
    majority_start = next((i for i, e in enumerate(epochs) if e.majority_share < ONE_CLASS_SHARE), len(epochs))
    one_class = epochs[-1].majority_share >= ONE_CLASS_SHARE
    diagnosis = Diagnosis(
        run=run,
        finding="flat, cause open",
        learned_epoch=learned,
        majority_start=majority_start,
        one_class=one_class,
    )
    if learned is None:
        return diagnosis
    fallen = [i for i in range(learned, len(epochs)) if dead[i]]
    if fallen:
        first = fallen[0] if not dead[-1] else max(i for i in fallen if i == learned or not dead[i - 1])
        finding: Finding = "collapsed" if dead[-1] else "collapsed and recovered"
        onset_examples = _fell_at(run, epochs[first], flat)
        return replace(diagnosis, finding=finding, onset_epoch=epochs[first].epoch, onset_examples=onset_examples)
    finding, onset = _after_learning(epochs)
    if onset is None:
        return replace(diagnosis, finding=finding)
    return replace(diagnosis, finding=finding, onset_epoch=onset.epoch, onset_examples=onset.examples_seen)


def _learned_epoch(run: TrajectoryResult, threshold: float, flat: float) -> int | None:
    """The epoch by which something was learned: better than chance on validation and in training loss.

    Without the latter only what lasts to the end counts: a brief rise above chance is not learning.
    """
    above = [epoch.validation["accuracy"] >= threshold for epoch in run.epochs]
    firm = [up and _latest_loss(run, epoch) < flat for up, epoch in zip(above, run.epochs, strict=True)]
    if any(firm):
        return firm.index(True) + 1
    lasting = len(above) - next((i for i, up in enumerate(reversed(above)) if not up), len(above))
    return lasting + 1 if lasting < len(above) else None


def _after_learning(epochs: Sequence[Epoch]) -> tuple[Finding, Epoch | None]:
    """The finding of a run that learned and never fell back to chance, and the epoch at which it set in."""
    best = max(epochs, key=lambda epoch: epoch.validation["accuracy"])
    last, lowest = epochs[-1], min(epochs, key=lambda epoch: epoch.validation["loss"])
    rose = last.validation["loss"] - lowest.validation["loss"] > max(RISE_NATS, RISE_SHARE * lowest.validation["loss"])
    if rose and last.train_loss < lowest.train_loss:
        return "overfitting", epochs[lowest.epoch]
    if best.validation["accuracy"] - last.validation["accuracy"] >= DECLINE:
        later = epochs[best.epoch :]
        return "declined", next(e for e in later if e.validation["accuracy"] < best.validation["accuracy"])
    return "healthy", None


def _against_siblings(diagnosis: Diagnosis, learners: Sequence[tuple[Diagnosis, float]]) -> Diagnosis:
    """Tell a run that never learned from one that has not learned yet, by runs of the same model that learned."""
    run = diagnosis.run
    rate = learning_rate(run)
    budget = rate.total(run.epochs[-1].optimizer_step)
    siblings = [
        (learning_rate(other.run).peak, needed)
        for other, needed in learners
        if other.run.settings.model == run.settings.model
    ]
    if any(needed <= budget and peak <= rate.peak for peak, needed in siblings):
        return replace(diagnosis, finding="never learned", onset_epoch=1, onset_examples=0)
    if siblings and all(needed > budget for _, needed in siblings):
        return replace(diagnosis, finding="not learned yet")
    return diagnosis


def _budget_to_learn(diagnosis: Diagnosis) -> float:
    """The learning-rate budget that a run had used when it was first seen to have learned."""
    assert diagnosis.learned_epoch is not None
    run = diagnosis.run
    return learning_rate(run).total(run.epochs[diagnosis.learned_epoch - 1].optimizer_step)


def _non_finite(epoch: Epoch) -> bool:
    return (
        epoch.non_finite_steps > 0 or not math.isfinite(epoch.validation["loss"]) or not math.isfinite(epoch.train_loss)
    )


def _latest_loss(run: TrajectoryResult, epoch: Epoch) -> float:
    """The training loss of the epoch's last interval: its mean may still hold what was before a collapse."""
    inside = [interval for interval in run.intervals if interval.examples_seen <= epoch.examples_seen]
    if not inside or inside[-1].optimizer_step <= epoch.optimizer_step - run.trajectory.steps_per_epoch:
        return epoch.train_loss
    return inside[-1].train_loss


def _fell_at(run: TrajectoryResult, epoch: Epoch, flat: float) -> int:
    """Examples seen when the training loss was last below the flat level before the epoch that was found dead."""
    before = [interval for interval in run.intervals if interval.examples_seen <= epoch.examples_seen]
    below = [interval.examples_seen for interval in before if interval.train_loss < flat]
    return below[-1] if below else epoch.examples_seen
