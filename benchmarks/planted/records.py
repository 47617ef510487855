"""The history of a planted run: intervals and epochs as the loop records them, and the scores of predictions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from benchmarks.planted.course import Course
from benchmarks.planted.noise import Noise
from study.plan.plan import Trajectory
from study.records import Epoch, Interval, Outcome, Record, StopReason
from study.scoring import Scores
from study.training.schedules import LearningRate

STARTED = 1_800_000_000.0
EXAMPLES_PER_SECOND = 500.0


@dataclass(frozen=True, slots=True, kw_only=True)
class EpochScores:
    """What an epoch's record says of predictions."""

    metrics: Scores
    majority_share: float
    entropy: float
    confidence: float
    logit_std: float


def score_odds(odds: npt.NDArray[np.float32], label: npt.NDArray[np.int64]) -> EpochScores:
    """The scores of log-odds of label 1; all NaN where one is not finite."""
    if not np.isfinite(odds).all():
        nan = float("nan")
        return EpochScores(
            metrics={"loss": nan, "accuracy": nan}, majority_share=nan, entropy=nan, confidence=nan, logit_std=nan
        )
    exact = odds.astype(np.float64)
    ones = exact > 0
    correct = ones == (label == 1)
    margin = np.abs(exact)
    ratio = np.exp(-margin)
    confidence, rest = 1 / (1 + ratio), np.log1p(ratio)
    share = int(np.count_nonzero(ones)) / len(label)
    return EpochScores(
        metrics={
            "loss": float((rest + np.where(correct, 0, margin)).sum() / len(label)),
            "accuracy": int(np.count_nonzero(correct)) / len(label),
        },
        majority_share=max(share, 1 - share),
        entropy=float((rest + margin * ratio * confidence).mean()),
        confidence=float(confidence.mean()),
        logit_std=float(exact.std() / 2),
    )


def history_of(
    trajectory: Trajectory,
    course: Course,
    scores: Sequence[EpochScores],
    on_test: Mapping[int, Scores],
    noise: Noise,
    rng: np.random.Generator,
) -> list[Record]:
    """The records of a trajectory's epochs (from 0), each after its intervals."""
    if not scores:
        return []
    ends = _epoch_ends(trajectory)
    per_epoch = [_interval_ends(trajectory, start, end) for start, end in zip([0, *ends], ends, strict=False)]
    edges = [0, *(place for places in per_epoch[: len(scores)] for place in places)]
    in_epochs = np.interp(edges, [0, *ends], np.arange(len(ends) + 1))
    losses = iter(course.train_loss(in_epochs, noise, rng).tolist())
    rate = LearningRate.of(trajectory.settings, trajectory.optimizer_steps)
    history: list[Record] = []
    seen = 0
    for number, (score, places) in enumerate(zip(scores, per_epoch, strict=False)):
        broken = course.end == "non-finite" and number == len(scores) - 1
        started, total = seen, 0.0
        for place in places:
            loss = next(losses)
            total, seen = total + loss * (place - seen), place
            step = _step(trajectory, number, place - started)
            history.append(
                Interval(
                    examples_seen=place,
                    optimizer_step=step,
                    train_loss=float("nan") if broken else loss,
                    gradient_norm=1.0,
                    learning_rate=rate.peak * rate.factor(step - 1),
                    time=STARTED + place / EXAMPLES_PER_SECOND,
                )
            )
        last = history[-1]
        assert isinstance(last, Interval)
        history.append(_epoch(number, last, score, on_test, total / (seen - started), broken=broken))
    return history


def _epoch(
    number: int, last: Interval, score: EpochScores, on_test: Mapping[int, Scores], train_loss: float, *, broken: bool
) -> Epoch:
    """The record of an epoch (from 0) that ended with the interval ``last``."""
    return Epoch(
        epoch=number + 1,
        examples_seen=last.examples_seen,
        optimizer_step=last.optimizer_step,
        train_loss=float("nan") if broken else train_loss,
        validation=score.metrics,
        test=on_test.get(number),
        gradient_norm_mean=1.0,
        gradient_norm_max=2.0,
        update_ratio=1e-3,
        majority_share=score.majority_share,
        entropy=score.entropy,
        confidence=score.confidence,
        logit_std=score.logit_std,
        non_finite_steps=int(broken),
        learning_rate=last.learning_rate,
        train_seconds=last.examples_seen / EXAMPLES_PER_SECOND / (number + 1),
        time=last.time + 1,
    )


def outcome_of(course: Course, *, trained: int, planned: int) -> Outcome | None:
    """How a run with this course ended; None for one that was never started."""
    if course.end == "missing":
        return None
    if course.end == "failed":
        return Outcome(status="failed", epochs=trained, error="planted")
    reason: StopReason = "epochs exhausted" if trained == planned else "stopped early"
    if course.end == "non-finite":
        reason = "non-finite"
    return Outcome(
        status="complete",
        stop_reason=reason,
        epochs=trained,
        train_seconds=float(trained),
        device="CPU",
        precision="float32",
        micro_batch_size=16,
    )


def _train_size(trajectory: Trajectory) -> int:
    """Examples of a whole epoch."""
    whole, rest = divmod(trajectory.optimizer_steps, trajectory.steps_per_epoch)
    size = trajectory.settings.batch_size
    return (trajectory.examples - rest * size) // whole if whole else trajectory.steps_per_epoch * size


def _epoch_ends(trajectory: Trajectory) -> list[int]:
    """Examples seen at the end of each epoch; the last may be shorter."""
    size = _train_size(trajectory)
    return [min(size * (epoch + 1), trajectory.examples) for epoch in range(trajectory.epochs)]


def _interval_ends(trajectory: Trajectory, start: int, end: int) -> list[int]:
    """Examples seen at the end of each interval of an epoch."""
    every = trajectory.settings.log_every_examples
    return [*range(start + every, end, every), end]


def _step(trajectory: Trajectory, epoch: int, within: int) -> int:
    """The optimizer steps after ``within`` examples of an epoch (from 0)."""
    return epoch * trajectory.steps_per_epoch + -(-within // trajectory.settings.batch_size)
