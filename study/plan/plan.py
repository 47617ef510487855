"""Which cells does a space hold, and which trajectories train them?

Cells that differ only in when they stop, or in which of their checkpoints validation chooses, are trained once.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from study.stopping import Policy

if TYPE_CHECKING:
    from study.space.reader import Space

SettingValues = Mapping[str, Any]

# What a cell may change without changing how a single weight is trained.
STOPPING_KEYS = ("early_stopping", "checkpoint_metric")
SHORT_NAMES = {"learning_rate": "lr", "warmup_fraction": "warm-up", "batch_size": "batch", "optimizer_steps": "steps"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One combination of the axes. ``epochs`` counts evaluations: a last, shorter epoch is one too."""

    id: str
    name: str
    settings: SettingValues
    trajectory: str
    epochs: int
    optimizer_steps: int
    examples: int

    @property
    def policy(self) -> Policy:
        """When this cell stops."""
        stopping = self.settings["early_stopping"] or {}
        return Policy(max_epochs=self.epochs, checkpoint_metric=self.settings["checkpoint_metric"], **stopping)


@dataclass(frozen=True, slots=True, kw_only=True)
class Trajectory:
    """One run of the loop: ``cells`` are the ids of those it trains, the longest first; the first owns it."""

    id: str
    name: str
    settings: SettingValues
    cells: tuple[str, ...]
    epochs: int
    optimizer_steps: int
    steps_per_epoch: int
    examples: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """One choice of a search's: ``settings`` before any rule, the seed apart, and the ids of its ``cells``, one a seed.

    ``number`` counts the trials of its ``group`` (the values of the ``per`` axes, in words) from 0. Without cells it is
    one that the space no longer holds.
    """

    number: int
    group: str
    settings: SettingValues
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
        """The part of all cells' examples that need not be trained because trajectories are shared."""
        apart = sum(cell.examples for cell in self.cells)
        return 1 - sum(trajectory.examples for trajectory in self.trajectories) / apart if apart else 0.0

    def to_json(self) -> dict[str, Any]:
        """The plan as plain JSON values; :func:`from_json` reads it back."""
        return asdict(self)


def from_json(values: Mapping[str, Any]) -> Plan:
    """The plan that :meth:`Plan.to_json` wrote."""
    return Plan(
        study=values["study"],
        axes=tuple(values["axes"]),
        cells=tuple(Cell(**cell) for cell in values["cells"]),
        trajectories=tuple(
            Trajectory(**{**trajectory, "cells": tuple(trajectory["cells"])}) for trajectory in values["trajectories"]
        ),
        trials=tuple(Trial(**{**trial, "cells": tuple(trial["cells"])}) for trial in values.get("trials", ())),
        open=values.get("open", False),
    )


def stable_id(content: object) -> str:
    """Twelve hexadecimal digits that are the same for equal JSON content on every machine."""
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def label(key: str, value: object) -> str:
    """One setting in a few words, as names of cells and legends show it."""
    if key == "early_stopping":
        if not isinstance(value, Mapping):
            return "no early stopping"
        delta = f" min_delta {value['min_delta']:g}" if value["min_delta"] else ""
        return f"patience {value['patience']} on {value['metric']}{delta}"
    if key == "model":
        return str(value).rstrip("/").rsplit("/", 1)[-1]
    if key == "lr_schedule":
        return str(value)
    if isinstance(value, float):
        return f"{key} {value:g}"
    return f"{key} {'none' if value is None else value}"


def group_of(space: Space, settings: SettingValues) -> str:
    """Which of a space's searches a trial belongs to, in words."""
    keys = [key for axis in space.axes if axis.name in space.search.per for key in axis.values[0]]
    return " · ".join(label(key, settings[key]) for key in keys) or "all"


def make_plan(space: Space, trials: Iterable[Trial] = ()) -> Plan:
    """Lay out ``space``: a grid's combinations, or what the ``trials`` of its search chose.

    Raises nothing of its own: a space that :func:`study.space.reader.read` accepted has a plan.
    """
    sizes = space.data.split_sizes(space.examples)
    data = {**space.data.model_dump(mode="json"), "source": space.identities["data"], "examples": space.examples}
    axes = tuple(dict.fromkeys(key for axis in space.axes for key in axis.values[0]))
    cells: dict[str, Cell] = {}
    members: dict[str, list[Cell]] = {}
    trained: dict[str, SettingValues] = {}

    def add(settings: SettingValues) -> str:
        content = {**settings, "model": space.identities[settings["model"]], "data": data}
        id_, shared = stable_id(content), _trained_part(settings, content)
        if id_ not in cells:
            cell = _cell(settings, id_, stable_id(shared), sizes["train"], axes)
            cells[id_] = cell
            members.setdefault(cell.trajectory, []).append(cell)
            trained.setdefault(cell.trajectory, {key: settings[key] for key in shared if key in settings})
        return id_

    placed = []
    if space.searching:
        for trial in trials:
            ids = tuple(dict.fromkeys(add(settings) for settings in space.chosen(trial.settings)))
            placed.append(replace(trial, group=group_of(space, trial.settings), cells=ids))
    else:
        for settings in space.cells():
            add(settings)
    trajectories = tuple(_trajectory(id_, trained[id_], group, sizes["train"], axes) for id_, group in members.items())
    return Plan(
        study=space.name, axes=axes, cells=tuple(cells.values()), trajectories=trajectories, trials=tuple(placed)
    )


def _trained_part(settings: SettingValues, content: SettingValues) -> dict[str, Any]:
    """The part of a cell's content that decides its weights after each epoch."""
    shared = {key: value for key, value in content.items() if key not in STOPPING_KEYS}
    endless = settings["lr_schedule"] == "constant" and settings["warmup_fraction"] == 0
    if endless and settings["epochs"] is not None:
        del shared["epochs"]
    return shared


def _cell(settings: SettingValues, id_: str, trajectory: str, train_size: int, axes: tuple[str, ...]) -> Cell:
    steps_per_epoch = -(-train_size // settings["batch_size"])
    if settings["epochs"] is not None:
        epochs, steps = settings["epochs"], settings["epochs"] * steps_per_epoch
        examples = epochs * train_size
    else:
        steps = settings["optimizer_steps"]
        whole, rest = divmod(steps, steps_per_epoch)
        epochs = whole + bool(rest)
        examples = whole * train_size + rest * settings["batch_size"]
    return Cell(
        id=id_,
        name=_name(settings, axes),
        settings=settings,
        trajectory=trajectory,
        epochs=epochs,
        optimizer_steps=steps,
        examples=examples,
    )


def _name(settings: SettingValues, axes: tuple[str, ...]) -> str:
    shown = axes or ("model",)
    parts = [(key, settings[key]) for key in shown if settings.get(key) is not None or key != "epochs"]
    # A name has to fit beside the numbers of a table.
    return " · ".join(label(key, value).replace(key, SHORT_NAMES.get(key, key), 1) for key, value in parts)


def _trajectory(
    id_: str, settings: SettingValues, group: list[Cell], train_size: int, axes: tuple[str, ...]
) -> Trajectory:
    longest = sorted(group, key=lambda cell: (-cell.epochs, -(cell.policy.patience or 10**9)))
    first = longest[0]
    return Trajectory(
        id=id_,
        name=_name(first.settings, tuple(key for key in axes if key in settings)),
        settings={**settings, "epochs": first.settings["epochs"]},
        cells=tuple(cell.id for cell in longest),
        epochs=first.epochs,
        optimizer_steps=first.optimizer_steps,
        steps_per_epoch=-(-train_size // settings["batch_size"]),
        examples=first.examples,
    )
