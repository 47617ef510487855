"""The trajectories of a plan trained through Ray or in a bare loop, by shared trajectories or one for each cell."""

from __future__ import annotations

import itertools
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from study.execution.interruption import InterruptHandler
from study.execution.manifest import write_study
from study.execution.placement import Placement
from study.execution.preparation import write_configs
from study.execution.tuner import train
from study.plan.cell_results import cell_results
from study.plan.plan import Plan
from study.records import Epoch, Interval, Precision, Record, TrajectoryConfig
from study.settings import Run
from study.space.space import Space
from study.storage import StudyFolder, TrajectoryFolder
from study.training.trajectory import make_loop

TIMES = ("train_seconds", "time")


@dataclass(slots=True)
class EndTimes:
    """When each trajectory ended (``perf_counter``), by id; a :class:`study.execution.tuner.ProgressListener`."""

    ended_at: dict[str, float] = field(default_factory=dict)

    def say(self, text: str) -> None:
        print(text, file=sys.stderr)

    def on_start(self, trajectory: str) -> None:
        pass

    def on_failure(self, trajectory: str, reason: str) -> None:
        raise AssertionError(f"{trajectory}: {reason}")

    def on_move(self, trajectory: str, reason: str) -> None:
        raise AssertionError(f"{trajectory}: {reason}")

    def on_epoch(self, trajectory: str, epoch: Epoch) -> None:
        pass

    def on_end(self, trajectory: str, *, error: str | None, stopped: bool = False) -> None:
        assert error is None, f"{trajectory}: {error}"
        self.ended_at[trajectory] = time.perf_counter()

    @property
    def between_ends(self) -> dict[str, float]:
        """Seconds from the end of one trajectory to that of the next, where one is trained at a time."""
        order = sorted(self.ended_at, key=self.ended_at.__getitem__)
        return {second: self.ended_at[second] - self.ended_at[first] for first, second in itertools.pairwise(order)}


def through_ray(
    folder: StudyFolder, space: Space, plan: Plan, encoded: Mapping[str, Path], run: Run, precision: Precision
) -> tuple[EndTimes, float]:
    """Train ``plan`` with Tune in the connected Ray; returns when each trajectory ended, and the seconds of all."""
    folder.path.mkdir(parents=True)
    write_study(folder, space, plan, tracking_uri=None)
    listener = EndTimes()
    with folder.run_lock() as lease, InterruptHandler(folder, lease, print) as interrupts:
        started = time.perf_counter()
        write_configs(
            folder,
            plan,
            plan.trajectories,
            space=space,
            encoded=encoded,
            commits={},
            auto_precision=precision,
            gpus=run.gpu or 0.0,
        )
        train(folder, plan.trajectories, run, listener, interrupts, placement=Placement(run, alone=True))
    return listener, time.perf_counter() - started


def bare_seconds(config: TrajectoryConfig) -> float:
    """Seconds of one trajectory in a Python loop that records nothing."""
    started = time.perf_counter()
    for _ in make_loop(config).run():
        pass
    return time.perf_counter() - started


def training_seconds(history: Sequence[Record]) -> float:
    """Seconds that a trajectory spent on training and evaluation, by its records."""
    seconds, last_interval = 0.0, 0.0
    for record in history:
        if isinstance(record, Interval):
            last_interval = record.time
        else:
            seconds += record.train_seconds + record.time - last_interval
    return seconds


def without_sharing(plan: Plan) -> Plan:
    """The same cells, each with a trajectory of its own."""
    shared = {trajectory.id: trajectory for trajectory in plan.trajectories}
    cells = tuple(replace(cell, trajectory=cell.id) for cell in plan.cells)
    trajectories = tuple(
        replace(
            shared[cell.trajectory],
            id=cell.id,
            name=cell.name,
            settings=shared[cell.trajectory].settings.model_copy(update={"epochs": cell.settings.epochs}),
            cells=(cell.id,),
            epochs=cell.epochs,
            optimizer_steps=cell.optimizer_steps,
            examples=cell.examples,
        )
        for cell in plan.cells
    )
    return replace(plan, cells=cells, trajectories=trajectories)


def differing_cells(study: StudyFolder, plan: Plan, other: StudyFolder, other_plan: Plan) -> list[str]:
    """Names of the cells whose stop, scores, selected checkpoint or predictions differ in a bit between the studies."""
    names = []
    for first, second in zip(cell_results(study, plan), cell_results(other, other_plan), strict=True):
        folders = [study.trajectory(first.cell.trajectory), other.trajectory(second.cell.trajectory)]
        histories = [
            [without_times(epoch) for epoch in folder.epochs()[: result.last.epoch if result.last else 0]]
            for folder, result in zip(folders, (first, second), strict=True)
        ]
        selected = [result.chosen.epoch if result.chosen else None for result in (first, second)]
        same = (
            (first.state, first.stop_reason) == (second.state, second.stop_reason)
            and selected[0] == selected[1]
            and repr(histories[0]) == repr(histories[1])
            and (selected[0] is None or same_predictions(folders, selected[0]))
        )
        if not same:
            names.append(first.cell.name)
    return names


def without_times(epoch: Epoch) -> list[Any]:
    """An epoch's values without its times."""
    return [getattr(epoch, name) for name in Epoch.__slots__ if name not in TIMES]


def same_predictions(folders: Sequence[TrajectoryFolder], epoch: int) -> bool:
    """Whether both trajectories predicted the same bits, on validation and on test, after ``epoch``."""
    for split in ("validation", "test"):
        first, second = (folder.predictions(epoch, split) for folder in folders)
        if first is None or second is None or not np.array_equal(first.logits, second.logits):
            return False
    return True
