"""The cells of a space, and the trajectories that train them.

Cells that differ only in when they stop, or in which of their checkpoints validation selects, are trained once.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from study.ids import stable_id
from study.plan.labels import cell_name, group_of
from study.settings import Settings
from study.stopping import StoppingPolicy
from study.storage import StudyFolder

if TYPE_CHECKING:
    from study.space.space import Space

# The settings that a cell may change without changing how a single weight is trained.
STOPPING_KEYS = ("early_stopping", "checkpoint_metric")


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One combination of the axes. ``epochs`` counts evaluations: a last, shorter epoch is one too."""

    id: str
    name: str
    settings: Settings
    trajectory: str
    epochs: int
    optimizer_steps: int
    examples: int

    @property
    def policy(self) -> StoppingPolicy:
        """When this cell stops."""
        return self.settings.policy(self.epochs)


@dataclass(frozen=True, slots=True, kw_only=True)
class Trajectory:
    """One run of the loop: ``cells`` are the ids of those it trains, the longest first; the first owns it.

    ``settings`` are the owner's; those that only decide when a cell stops say nothing of the other cells.
    """

    id: str
    name: str
    settings: Settings
    cells: tuple[str, ...]
    epochs: int
    optimizer_steps: int
    steps_per_epoch: int
    examples: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """One choice of a search: its ``settings`` before any rule and without a seed, and the ids of its ``cells``.

    ``number`` counts the trials of its ``group`` (the values of the ``per`` axes, in words) from 0. A trial without
    cells is one that the space no longer holds.
    """

    number: int
    group: str
    settings: Settings
    cells: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """All cells of a space and the trajectories that train them, in the order of the axes, or of a search's ``trials``.

    ``open`` says that a search has not spent its budget yet, so that cells will be added.
    """

    study: str
    axes: tuple[str, ...]
    cells: tuple[Cell, ...]
    trajectories: tuple[Trajectory, ...]
    trials: tuple[Trial, ...] = ()
    open: bool = False

    @property
    def owners(self) -> dict[str, str]:
        """The id of the cell that owns each trajectory, by trajectory id."""
        return {trajectory.id: trajectory.cells[0] for trajectory in self.trajectories}

    @property
    def shared_fraction(self) -> float:
        """The share of all cells' examples that need not be trained because trajectories are shared."""
        apart = sum(cell.examples for cell in self.cells)
        return 1 - sum(trajectory.examples for trajectory in self.trajectories) / apart if apart else 0.0

    def to_json(self) -> dict[str, Any]:
        """The plan as JSON values."""
        return {
            "study": self.study,
            "axes": self.axes,
            "cells": [_to_json(cell) for cell in self.cells],
            "trajectories": [_to_json(trajectory) for trajectory in self.trajectories],
            "trials": [_to_json(trial) for trial in self.trials],
            "open": self.open,
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Plan:
        """The plan that :meth:`to_json` wrote."""
        return cls(
            study=values["study"],
            axes=tuple(values["axes"]),
            cells=tuple(Cell(**_from_json(cell)) for cell in values["cells"]),
            trajectories=tuple(Trajectory(**_from_json(trajectory)) for trajectory in values["trajectories"]),
            trials=tuple(Trial(**_from_json(trial)) for trial in values["trials"]),
            open=values["open"],
        )


def _to_json(item: Cell | Trajectory | Trial) -> dict[str, Any]:
    values = {name: getattr(item, name) for name in item.__slots__}
    return values | {"settings": item.settings.model_dump(mode="json")}


def _from_json(values: Mapping[str, Any]) -> dict[str, Any]:
    found = {**values, "settings": Settings.stored(values["settings"])}
    return found | {"cells": tuple(values["cells"])} if "cells" in values else found


def read_plan(folder: StudyFolder) -> Plan | None:
    """The plan in a study's folder, None where there is none."""
    values = folder.plan()
    return None if values is None else Plan.from_json(values)


def make_plan(space: Space, trials: Iterable[Trial] = ()) -> Plan:
    """Plan ``space``: a grid's combinations, or what the ``trials`` of its search chose.

    Raises nothing of its own: a space that :func:`study.space.reader.read` accepted has a plan.
    """
    planner = _Planner(space)
    placed = []
    if space.searching:
        for trial in trials:
            ids = tuple(dict.fromkeys(planner.cell(settings) for settings in space.chosen(trial.settings)))
            placed.append(replace(trial, group=group_of(space, trial.settings), cells=ids))
    else:
        for settings in space.cells():
            planner.cell(settings)
    return Plan(
        study=space.name,
        axes=planner.axes,
        cells=tuple(planner.cells.values()),
        trajectories=tuple(planner.trajectory(id_) for id_ in planner.members),
        trials=tuple(placed),
    )


class _Planner:
    """Collects the cells of a plan, each once, and which of them share a trajectory."""

    def __init__(self, space: Space) -> None:
        self.axes = tuple(dict.fromkeys(key for axis in space.axes for key in axis.keys))
        self.train_size = space.data.split_sizes(space.examples)["train"]
        self.cells: dict[str, Cell] = {}
        self.members: dict[str, list[Cell]] = {}
        self._identities = space.identities
        self._data = space.data_identity

    def cell(self, settings: Settings) -> str:
        """The id of the cell with these settings, which is planned if it was not."""
        content = {**settings.identity(), "model": self._identities[settings.model], "data": self._data}
        id_ = stable_id(content)
        if id_ not in self.cells:
            cell = self._make(settings, id_, stable_id(_trained_part(settings, content)))
            self.cells[id_] = cell
            self.members.setdefault(cell.trajectory, []).append(cell)
        return id_

    def _make(self, settings: Settings, id_: str, trajectory: str) -> Cell:
        steps_per_epoch = -(-self.train_size // settings.batch_size)
        if settings.epochs is not None:
            epochs, steps = settings.epochs, settings.epochs * steps_per_epoch
            examples = epochs * self.train_size
        else:
            assert settings.optimizer_steps is not None
            steps = settings.optimizer_steps
            whole, rest = divmod(steps, steps_per_epoch)
            epochs = whole + bool(rest)
            examples = whole * self.train_size + rest * settings.batch_size
        return Cell(
            id=id_,
            name=cell_name(settings, self.axes),
            settings=settings,
            trajectory=trajectory,
            epochs=epochs,
            optimizer_steps=steps,
            examples=examples,
        )

    def trajectory(self, id_: str) -> Trajectory:
        """The trajectory that trains the cells planned for it."""
        longest = sorted(self.members[id_], key=lambda cell: (-cell.epochs, -(cell.policy.patience or 10**9)))
        owner = longest[0]
        not_trained = (*STOPPING_KEYS, *(("epochs",) if owner.settings.endless else ()))
        return Trajectory(
            id=id_,
            name=cell_name(owner.settings, [key for key in self.axes if key not in not_trained]),
            settings=owner.settings,
            cells=tuple(cell.id for cell in longest),
            epochs=owner.epochs,
            optimizer_steps=owner.optimizer_steps,
            steps_per_epoch=-(-self.train_size // owner.settings.batch_size),
            examples=owner.examples,
        )


def _trained_part(settings: Settings, content: Mapping[str, Any]) -> dict[str, Any]:
    """The part of a cell's content that decides its weights after each epoch."""
    untrained = {*STOPPING_KEYS, *(("epochs",) if settings.endless else ())}
    return {key: value for key, value in content.items() if key not in untrained}
