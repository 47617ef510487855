"""What became of each cell?

A cell's result is read off the history of the trajectory that trained it, by the cell's own stopping policy.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Literal

from study.plan.plan import Cell, Plan, Trajectory
from study.records import Epoch, Outcome, StopReason, StudyFolder
from study.stopping import Metric, Scores, decide

# What a trial without a finite score scores: worse than any that has one, and a number, for Optuna drops the others.
WORST_ACCURACY = 0.0
WORST_LOSS = 100.0

State = Literal["complete", "failed", "running", "planned"]


@dataclass(frozen=True, slots=True, kw_only=True)
class CellResult:
    """Where a cell stands.

    ``chosen`` is the epoch whose checkpoint validation chose, ``last`` the one the cell stopped after; both are None
    before the first evaluation (``chosen`` also when none was finite).
    """

    cell: Cell
    state: State
    trained_by: str
    stop_reason: StopReason | None
    last: Epoch | None
    chosen: Epoch | None
    outcome: Outcome | None


def scores(epochs: Sequence[Epoch]) -> list[Scores]:
    """A history's validation scores, as :mod:`study.stopping` takes them."""
    return [Scores(loss=epoch.validation_loss, accuracy=epoch.validation_accuracy) for epoch in epochs]


def cell_result(cell: Cell, *, owner: str, epochs: Sequence[Epoch], outcome: Outcome | None) -> CellResult:
    """Apply the cell's policy to its trajectory's ``epochs``."""
    decision = decide(scores(epochs), cell.policy)
    ended = outcome.stop_reason if outcome is not None else None
    reason: StopReason | None = None
    if ended == "non-finite" and decision.stop_epoch == len(epochs):
        reason = "non-finite"
    elif decision.stopped:
        reason = "stopped early" if decision.early else "epochs exhausted"
    elif ended == "cut":
        reason = "cut"
    state: State = "running" if epochs else "planned"
    if reason is not None:
        state = "complete"
    elif outcome is not None and outcome.status == "failed":
        state = "failed"
    return CellResult(
        cell=cell,
        state=state,
        trained_by=owner,
        stop_reason=reason,
        last=epochs[decision.stop_epoch - 1] if decision.stop_epoch else None,
        chosen=epochs[decision.best_epoch - 1] if decision.best_epoch else None,
        outcome=outcome,
    )


def cell_results(folder: StudyFolder, plan: Plan, *, ended: Mapping[str, CellResult] | None = None) -> list[CellResult]:
    """Where every cell of ``plan`` stands, in the plan's order.

    Nothing is read again of cells that are complete in ``ended``, earlier results by the cells' ids.
    """
    owners = plan.owners
    known = {id_: result for id_, result in (ended or {}).items() if result.state == "complete"}
    asked = dict.fromkeys(cell.trajectory for cell in plan.cells if cell.id not in known)
    histories = {id_: folder.trajectory(id_) for id_ in asked}
    # The outcome is written after the history: read in the other order, a history might lack its end.
    outcomes = {id_: trajectory.outcome() for id_, trajectory in histories.items()}
    epochs = {id_: trajectory.epochs() for id_, trajectory in histories.items()}
    return [
        known[cell.id]
        if cell.id in known
        else cell_result(
            cell,
            owner=owners[cell.trajectory],
            epochs=epochs[cell.trajectory],
            outcome=outcomes[cell.trajectory],
        )
        for cell in plan.cells
    ]


def trial_score(results: Sequence[CellResult], objective: Metric) -> float:
    """The mean over a trial's complete cells of their scores on validation, always a finite number.

    A cell scores what its chosen checkpoint does; one that ends with a single class predicted, what it ends with, and
    one that ends without a number, the worst: what collapses is no good place to search on, however it began.
    """
    return fmean(_cell_score(result, objective) for result in results)


def _cell_score(result: CellResult, objective: Metric) -> float:
    collapsed = result.last is not None and result.last.majority_share == 1
    epoch = result.last if collapsed else result.chosen
    value = getattr(epoch, f"validation_{objective}", math.nan)
    finite = math.isfinite(value) and result.stop_reason != "non-finite"
    return float(value) if finite else WORST_ACCURACY if objective == "accuracy" else WORST_LOSS


def unfinished(plan: Plan, results: Sequence[CellResult], *, cutting: bool = False) -> list[Trajectory]:
    """The trajectories that still have a cell to train, in the plan's order.

    Those that a trial scheduler has cut are done where the study is still ``cutting``, and else go on.
    """
    missing = {
        result.cell.trajectory
        for result in results
        if result.state != "complete" or (result.stop_reason == "cut" and not cutting)
    }
    return [trajectory for trajectory in plan.trajectories if trajectory.id in missing]
