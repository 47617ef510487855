"""How are the trajectories of a plan trained here: through Ray, in a bare loop, shared between cells or apart?"""

from __future__ import annotations

import itertools
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from study.execution.interruption import Signals
from study.execution.preparation import write_configs
from study.execution.tuner import train
from study.plan.cell_results import cell_results
from study.plan.plan import Plan
from study.records import Epoch, Interval, Record, StudyFolder
from study.settings import Run
from study.space.reader import Space
from study.training.trajectory import make_loop

CLOCK = ("train_seconds", "time")


@dataclass(slots=True)
class Watch:
    """When trajectories ended (``perf_counter``), by id; a view as :mod:`study.execution.tuner` takes it."""

    ended_at: dict[str, float] = field(default_factory=dict)

    def started(self, trajectory: str) -> None:
        pass

    def reported(self, trajectory: str, result: Mapping[str, Any]) -> None:
        pass

    def ended(self, trajectory: str, *, error: str | None, cut: bool = False) -> None:
        assert error is None, f"{trajectory}: {error}"
        self.ended_at[trajectory] = time.perf_counter()

    @property
    def between_ends(self) -> dict[str, float]:
        """Seconds from the end of one trajectory to that of the next, where one is trained at a time."""
        order = sorted(self.ended_at, key=self.ended_at.__getitem__)
        return {second: self.ended_at[second] - self.ended_at[first] for first, second in itertools.pairwise(order)}


def through_ray(
    folder: StudyFolder, space: Space, plan: Plan, encoded: Mapping[str, Path], run: Run, precision: str
) -> tuple[Watch, float]:
    """Train ``plan`` by Tune in the Ray that is connected; when trajectories ended, and the seconds of all."""
    folder.path.mkdir(parents=True)
    watch = Watch()
    with Signals(folder, print) as signals:
        started = time.perf_counter()
        write_configs(folder, plan, plan.trajectories, space=space, encoded=dict(encoded), auto_precision=precision)
        train(folder, plan.trajectories, run, watch, signals)
    return watch, time.perf_counter() - started


def bare_seconds(config: Mapping[str, Any], data: Any, settings: Any) -> float:
    """Seconds of one trajectory in a Python loop that keeps nothing."""
    started = time.perf_counter()
    for _ in make_loop(settings, data, config).run():
        pass
    return time.perf_counter() - started


def inside_seconds(history: Sequence[Record]) -> float:
    """Seconds that a trajectory spent on training and evaluating, by its records."""
    seconds, before = 0.0, 0.0
    for record in history:
        if isinstance(record, Interval):
            before = record.time
        else:
            seconds += record.train_seconds + record.time - before
    return seconds


def apart(plan: Plan) -> Plan:
    """The same cells, each with a trajectory of its own."""
    shared = {trajectory.id: trajectory for trajectory in plan.trajectories}
    cells = tuple(replace(cell, trajectory=cell.id) for cell in plan.cells)
    trajectories = tuple(
        replace(
            shared[cell.trajectory],
            id=cell.id,
            name=cell.name,
            settings={**shared[cell.trajectory].settings, "epochs": cell.settings["epochs"]},
            cells=(cell.id,),
            epochs=cell.epochs,
            optimizer_steps=cell.optimizer_steps,
            examples=cell.examples,
        )
        for cell in plan.cells
    )
    return replace(plan, cells=cells, trajectories=trajectories)


def differences(one: StudyFolder, plan: Plan, other: StudyFolder, other_plan: Plan) -> list[str]:
    """Cells whose stop, metrics, chosen checkpoint or predictions are not the same bits in both studies."""
    found = []
    for first, second in zip(cell_results(one, plan), cell_results(other, other_plan), strict=True):
        folders = [one.trajectory(first.cell.trajectory), other.trajectory(second.cell.trajectory)]
        histories = [
            [timeless(epoch) for epoch in folder.epochs()[: result.last.epoch if result.last else 0]]
            for folder, result in zip(folders, (first, second), strict=True)
        ]
        chosen = [result.chosen.epoch if result.chosen else None for result in (first, second)]
        same = (
            (first.state, first.stop_reason) == (second.state, second.stop_reason)
            and chosen[0] == chosen[1]
            and repr(histories[0]) == repr(histories[1])
            and (chosen[0] is None or same_predictions(folders, chosen[0]))
        )
        if not same:
            found.append(first.cell.name)
    return found


def timeless(epoch: Epoch) -> list[Any]:
    """An epoch without what the clock decides."""
    return [getattr(epoch, name) for name in Epoch.__slots__ if name not in CLOCK]


def same_predictions(folders: Sequence[Any], epoch: int) -> bool:
    """Whether both trajectories predicted the same bits, on validation and on test, after ``epoch``."""
    for split in ("validation", "test"):
        one, other = (folder.predictions(epoch, split) for folder in folders)
        if one is None or other is None or not np.array_equal(one.logits, other.logits):
            return False
    return True
