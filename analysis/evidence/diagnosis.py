"""What became of one trajectory: did it learn, overfit, collapse, or has it not learned yet?

Rules on the recorded history alone, each with a named threshold, so that a reader can check them by hand.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Literal

from analysis.results import Results, Run
from study.records import Epoch
from study.training.schedules import factor, peak_learning_rate

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

# Better than chance by more than this, and by three standard errors, on validation: something was learned.
LEARNED_MARGIN = 0.05
# A training loss above this part of the best constant prediction's is one of a model that tells nothing apart.
FLAT_LOSS = 0.95
# One class is predicted for nearly everything.
ONE_CLASS_SHARE = 0.95
# Validation loss that ends this much (nats), and this part, above its lowest value has risen.
RISE_NATS, RISE_PART = 0.02, 0.05
# Validation accuracy that ends this far under its best has declined.
DECLINE = 0.10
# Points at which a schedule is read to add it up.
SCHEDULE_POINTS = 100

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
        f"Overfitting: validation loss ends more than {RISE_NATS} nats and {RISE_PART:.0%} above its lowest value, "
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
    """A finding, when it set in (epoch, and examples seen; None where that means nothing), and what it rests on."""

    run: Run
    finding: Finding
    onset_epoch: int | None = None
    onset_examples: int | None = None
    majority_start: int = 0
    one_class: bool = False
    learned_epoch: int | None = None

    @property
    def failed(self) -> bool:
        """Whether the run failed: it was trained and ended no better than chance, or on no number."""
        return self.finding in FAILURES

    @property
    def learned(self) -> bool:
        """Whether the model ended better than chance."""
        return self.finding in LEARNED


@lru_cache(maxsize=2)
def diagnose(results: Results) -> tuple[Diagnosis, ...]:
    """The diagnosis of every trajectory, in the plan's order; runs at chance are compared with their siblings."""
    alone = [_alone(run, results) for run in results.runs]
    budgets = {
        run.trajectory.id: learning_rate_budget(run, run.epochs[-1].optimizer_step)
        for run in results.runs
        if run.epochs
    }
    learners = [(one, _budget_to_learn(one)) for one in alone if one.learned_epoch is not None]
    return tuple(
        _against_siblings(one, budgets[one.run.trajectory.id], learners) if one.finding == "flat, cause open" else one
        for one in alone
    )


def peak_rate(run: Run) -> float:
    """The peak learning rate, scaled as the run scaled it."""
    settings = run.settings
    return peak_learning_rate(
        settings["learning_rate"],
        scaling=settings["lr_scaling"],
        batch_size=settings["batch_size"],
        base_batch_size=settings["lr_scaling_base_batch_size"],
    )


def learning_rate_budget(run: Run, steps: int) -> float:
    """The sum of the learning rates of a run's first ``steps`` optimizer steps."""
    settings, total = run.settings, run.trajectory.optimizer_steps
    count = min(steps, SCHEDULE_POINTS)
    points = [round((index + 0.5) * steps / count - 0.5) for index in range(count)]
    factors = [
        factor(
            point,
            schedule=settings["lr_schedule"],
            total_steps=total,
            warmup_fraction=settings["warmup_fraction"],
            polynomial_power=settings["polynomial_power"] or 1.0,
        )
        for point in points
    ]
    return peak_rate(run) * steps * math.fsum(factors) / max(count, 1)


def mean_rate(run: Run) -> float:
    """The mean learning rate over all planned steps."""
    return learning_rate_budget(run, run.trajectory.optimizer_steps) / run.trajectory.optimizer_steps


def learned_threshold(results: Results) -> float:
    """The validation accuracy above which a model has learned something."""
    chance, examples = results.chance_accuracy, results.validation_examples
    error = math.sqrt(chance * (1 - chance) / examples) if examples else 0.0
    return chance + max(LEARNED_MARGIN, 3 * error)


def _alone(run: Run, results: Results) -> Diagnosis:
    """What a trajectory's own history says."""
    epochs = run.epochs
    if not epochs:
        return Diagnosis(run=run, finding="no evaluation")
    if broken := next((epoch for epoch in epochs if _non_finite(epoch)), None):
        return Diagnosis(run=run, finding="non-finite", onset_epoch=broken.epoch, onset_examples=broken.examples_seen)
    threshold, flat = learned_threshold(results), FLAT_LOSS * results.chance_loss
    dead = [epoch.validation_accuracy < threshold and _latest_loss(run, epoch) >= flat for epoch in epochs]
    learned = _learned_epoch(run, threshold, flat)
    majority_start = next((i for i, e in enumerate(epochs) if e.majority_share < ONE_CLASS_SHARE), len(epochs))
    one_class = epochs[-1].majority_share >= ONE_CLASS_SHARE
    found = Diagnosis(
        run=run,
        finding="flat, cause open",
        learned_epoch=learned,
        majority_start=majority_start,
        one_class=one_class,
    )
    if learned is None:
        return found
    fallen = [i for i in range(learned, len(epochs)) if dead[i]]
    if fallen:
        first = fallen[0] if not dead[-1] else max(i for i in fallen if i == learned or not dead[i - 1])
        finding: Finding = "collapsed" if dead[-1] else "collapsed and recovered"
        onset_examples = _fell_at(run, epochs[first], flat)
        return replace(found, finding=finding, onset_epoch=epochs[first].epoch, onset_examples=onset_examples)
    finding, onset = _after_learning(epochs)
    if onset is None:
        return replace(found, finding=finding)
    return replace(found, finding=finding, onset_epoch=onset.epoch, onset_examples=onset.examples_seen)


def _learned_epoch(run: Run, threshold: float, flat: float) -> int | None:
    """The epoch by which something was learned: better than chance on validation and in training loss.

    Without the latter only what lasts to the end counts, for a first wavering above chance is no learning to be lost.
    """
    above = [epoch.validation_accuracy >= threshold for epoch in run.epochs]
    firm = [up and _latest_loss(run, epoch) < flat for up, epoch in zip(above, run.epochs, strict=True)]
    if any(firm):
        return firm.index(True) + 1
    lasting = len(above) - next((i for i, up in enumerate(reversed(above)) if not up), len(above))
    return lasting + 1 if lasting < len(above) else None


def _after_learning(epochs: Sequence[Epoch]) -> tuple[Finding, Epoch | None]:
    """The finding of a run that learned and never fell back to chance, and the epoch at which it set in."""
    best = max(epochs, key=lambda epoch: epoch.validation_accuracy)
    last, lowest = epochs[-1], min(epochs, key=lambda epoch: epoch.validation_loss)
    rose = last.validation_loss - lowest.validation_loss > max(RISE_NATS, RISE_PART * lowest.validation_loss)
    if rose and last.train_loss < lowest.train_loss:
        return "overfitting", epochs[lowest.epoch]
    if best.validation_accuracy - last.validation_accuracy >= DECLINE:
        return "declined", next(e for e in epochs[best.epoch :] if e.validation_accuracy < best.validation_accuracy)
    return "healthy", None


def _against_siblings(one: Diagnosis, budget: float, learners: Sequence[tuple[Diagnosis, float]]) -> Diagnosis:
    """Tell a run that never learned from one that has not learned yet, by runs of the same model that learned."""
    siblings = [
        (other, needed) for other, needed in learners if other.run.settings["model"] == one.run.settings["model"]
    ]
    finding: Finding = "flat, cause open"
    if any(needed <= budget and peak_rate(other.run) <= peak_rate(one.run) for other, needed in siblings):
        finding = "never learned"
    elif siblings and all(needed > budget for _, needed in siblings):
        finding = "not learned yet"
    started_dead = finding == "never learned"
    return replace(
        one, finding=finding, onset_epoch=1 if started_dead else None, onset_examples=0 if started_dead else None
    )


def _budget_to_learn(one: Diagnosis) -> float:
    """The learning-rate budget that a run had used when it was first seen to have learned."""
    assert one.learned_epoch is not None
    return learning_rate_budget(one.run, one.run.epochs[one.learned_epoch - 1].optimizer_step)


def _non_finite(epoch: Epoch) -> bool:
    return epoch.non_finite_steps > 0 or not math.isfinite(epoch.validation_loss) or not math.isfinite(epoch.train_loss)


def _latest_loss(run: Run, epoch: Epoch) -> float:
    """The training loss of the epoch's last interval: its mean may still hold what was before a collapse."""
    inside = [interval for interval in run.intervals if interval.examples_seen <= epoch.examples_seen]
    if not inside or inside[-1].optimizer_step <= epoch.optimizer_step - run.trajectory.steps_per_epoch:
        return epoch.train_loss
    return inside[-1].train_loss


def _fell_at(run: Run, epoch: Epoch, flat: float) -> int:
    """Examples seen when the training loss was last below the flat level before the epoch that was found dead."""
    before = [interval for interval in run.intervals if interval.examples_seen <= epoch.examples_seen]
    below = [interval.examples_seen for interval in before if interval.train_loss < flat]
    return below[-1] if below else epoch.examples_seen
