"""The result of one trajectory, and what chance scores on the same data."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from study.plan.cell_results import CellResult
from study.plan.labels import label
from study.plan.plan import Trajectory
from study.records import Epoch, Interval, Outcome, TrajectoryRecords
from study.scoring import Predictions
from study.settings import Settings


@dataclass(frozen=True, slots=True, kw_only=True)
class TrajectoryResult:
    """A trajectory, the result of the cell that owns it, its records so far, and its outcome (None until it ends)."""

    trajectory: Trajectory
    owner: CellResult
    epochs: tuple[Epoch, ...]
    intervals: tuple[Interval, ...]
    outcome: Outcome | None

    @classmethod
    def of(cls, trajectory: Trajectory, owner: CellResult, records: TrajectoryRecords) -> TrajectoryResult:
        """The result of a trajectory with these ``records``, whose owner's result is ``owner``."""
        return cls(
            trajectory=trajectory,
            owner=owner,
            epochs=records.epochs,
            intervals=records.intervals,
            outcome=records.outcome,
        )

    @property
    def model(self) -> str:
        """Its model in words."""
        return label("model", self.settings.model)

    @property
    def settings(self) -> Settings:
        """The settings of the cell that owns the trajectory."""
        return self.owner.cell.settings

    @property
    def train_seconds(self) -> float:
        """How long its epochs so far were trained for, evaluation apart."""
        return sum(epoch.train_seconds for epoch in self.epochs)

    @property
    def ended(self) -> bool:
        """Whether it reached its own end, a non-finite loss included; a pruned trajectory did not."""
        return self.scored and not self.pruned

    @property
    def pruned(self) -> bool:
        """Whether a trial scheduler stopped it, so that its final result is unknown.

        A trajectory that was stopped at or after its own last epoch lost nothing and is not pruned.
        """
        return self.owner.stop_reason == "cut"

    @property
    def scored(self) -> bool:
        """Whether it has ended or was pruned, so that it has all the scores that it will ever have."""
        return self.outcome is not None and self.outcome.status == "complete" and bool(self.epochs)


@dataclass(frozen=True, slots=True, kw_only=True)
class Chance:
    """What the best constant prediction scores on validation: ``accuracy`` and ``loss`` (nats).

    ``classes`` is the number of classes, ``examples`` the size of validation, None where no predictions are known.
    """

    classes: int
    accuracy: float
    loss: float
    examples: int | None

    @classmethod
    def of(cls, predictions: Predictions | None) -> Chance:
        """Chance on the examples of ``predictions``; two equal classes where there are none."""
        if predictions is None:
            return cls(classes=2, accuracy=0.5, loss=math.log(2), examples=None)
        classes = predictions.logits.shape[1]
        counts = np.bincount(predictions.label, minlength=classes)
        shares = counts[counts > 0] / counts.sum()
        return cls(
            classes=classes,
            accuracy=float(counts.max() / counts.sum()),
            loss=float(-(shares * np.log(shares)).sum()),
            examples=len(predictions.label),
        )
