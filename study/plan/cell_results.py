"""What became of each cell: read off the history of the trajectory that trained it, by the cell's stopping policy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Literal

from study.plan.plan import Cell, Plan, Trajectory
from study.records import Epoch, Outcome, StopReason, TrajectoryRecords
from study.scoring import METRICS
from study.stopping import decide
from study.storage import StudyFolder

CellState = Literal["complete", "failed", "running", "planned"]


@dataclass(frozen=True, slots=True, kw_only=True)
class CellResult:
    """Where a cell stands.

    ``chosen`` is the epoch whose checkpoint validation selected, ``last`` the one the cell stopped after; both are
    None before the first evaluation (``chosen`` also when none was finite). A cell is running once its trajectory has
    a record, and planned before. ``trained_by`` is the id of the cell that owns the trajectory.
    """

    cell: Cell
    state: CellState
    trained_by: str
    stop_reason: StopReason | None
    last: Epoch | None
    chosen: Epoch | None
    outcome: Outcome | None

    @property
    def derived(self) -> bool:
        """Whether it was read off a trajectory that another cell owns."""
        return self.trained_by != self.cell.id


def cell_result(cell: Cell, *, owner: str, records: TrajectoryRecords) -> CellResult:
    """Apply the cell's policy to the records of its trajectory, which the cell ``owner`` owns."""
    epochs, outcome = records.epochs, records.outcome
    decision = decide(records.validation, cell.policy)
    ended = outcome.stop_reason if outcome is not None else None
    reason: StopReason | None = None
    if ended == "non-finite" and decision.stop_epoch == len(epochs):
        reason = "non-finite"
    elif decision.stopped:
        reason = "stopped early" if decision.early else "epochs exhausted"
    elif ended == "cut":
        reason = "cut"
    state: CellState = "running" if records.history else "planned"
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

    Cells that are complete in ``ended``, earlier results by the cells' ids, are not read again.
    """
    owners = plan.owners
    known = {id_: result for id_, result in (ended or {}).items() if result.state == "complete"}
    trajectories = dict.fromkeys(cell.trajectory for cell in plan.cells if cell.id not in known)
    records = {id_: folder.trajectory(id_).read() for id_ in trajectories}
    return [
        known[cell.id]
        if cell.id in known
        else cell_result(cell, owner=owners[cell.trajectory], records=records[cell.trajectory])
        for cell in plan.cells
    ]


def search_score(results: Sequence[CellResult], objective: str) -> float:
    """What a search is told of a trial: the mean over its complete cells of ``objective`` on validation, finite.

    A cell scores what its selected checkpoint does; one that ends with a single class predicted, what it ends with, and
    one that ends without a number, the worst: what collapses is a bad place to search on, however it started.
    """
    return fmean(_search_score(result, objective) for result in results)


def _search_score(result: CellResult, objective: str) -> float:
    metric = METRICS[objective]
    if result.stop_reason == "non-finite":
        return metric.worst
    collapsed = result.last is not None and result.last.majority_share == 1
    epoch = result.last if collapsed else result.chosen
    return metric.finite(epoch.validation if epoch else None)


def selection_score(results: Sequence[CellResult], objective: str) -> float:
    """What a user would select a trial by: the mean over its cells of ``objective`` of their selected checkpoints.

    A cell without a finite score counts as the worst. Unlike :func:`search_score`, a run that collapsed counts with the
    checkpoint that is kept of it.
    """
    return fmean(METRICS[objective].finite(result.chosen.validation if result.chosen else None) for result in results)


def unfinished(plan: Plan, results: Sequence[CellResult], *, pruning: bool = False) -> list[Trajectory]:
    """The trajectories that still have a cell to train, in the plan's order.

    Those that a trial scheduler stopped are done while the study is still ``pruning``, and resume otherwise.
    """
    missing = {
        result.cell.trajectory
        for result in results
        if result.state != "complete" or (result.stop_reason == "cut" and not pruning)
    }
    return [trajectory for trajectory in plan.trajectories if trajectory.id in missing]
