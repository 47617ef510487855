"""How were the cells chosen, what has each search spent, and which of its trajectories were cut?"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from analysis.answer import Table, Value
from analysis.results import Results
from analysis.wording import count, listed
from study.plan.cell_results import WORST_ACCURACY, WORST_LOSS, CellResult
from study.plan.plan import SettingValues, label
from study.settings import Search
from study.space.ranges import RANGE_KEYS, Range

SCHEDULERS = {
    "asha": "asynchronous successive halving (ASHA, Li et al. 2020)",
    "median": "the median stopping rule (Golovin et al. 2017)",
}
MOST_ROWS = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Tried:
    """A trial and what became of its cells, one a seed; ``number`` counts the trials of its ``group`` from 0."""

    number: int
    group: str
    settings: SettingValues
    cells: tuple[CellResult, ...]

    @property
    def model(self) -> str:
        """Its model in words."""
        return label("model", self.settings["model"])

    @property
    def complete(self) -> bool:
        """Whether every one of its cells is, those that were cut among them."""
        return all(result.state == "complete" for result in self.cells)


def search_of(results: Results) -> Search:
    """How the study chose its cells."""
    return Search.model_validate(results.space.get("search") or {})


def searching(results: Results) -> bool:
    """Whether a search chose the cells, and not a grid."""
    return search_of(results).method != "grid"


def exchangeable(results: Results) -> bool:
    """Whether any order of the trials was as likely as any other: none was chosen, or cut, for what others scored."""
    search = search_of(results)
    return not search.adaptive and search.scheduler is None


def ranges(results: Results) -> dict[str, Range]:
    """The settings that a search draws from a range, which have about as many values as there are trials."""
    axes = _axes(results)
    return {
        name: Range(**{key: value for key, value in axis.items() if key in RANGE_KEYS})
        for name, axis in axes.items()
        if isinstance(axis, Mapping) and "low" in axis
    }


def lists(results: Results) -> dict[str, Sequence[Any]]:
    """The values of each axis that has a list, as the space file writes them."""
    return {name: axis for name, axis in _axes(results).items() if isinstance(axis, list)}


def _axes(results: Results) -> Mapping[str, Any]:
    found = results.space.get("axes")
    return found if isinstance(found, Mapping) else {}


def tried(results: Results) -> list[Tried]:
    """The different trials of all searches, by number; none of a grid.

    One that chose what another of its group had chosen cost nothing and is left out, as is one that the space no longer
    holds.
    """
    cells = {result.cell.id: result for result in results.cells}
    found: dict[tuple[str, tuple[str, ...]], Tried] = {}
    for trial in sorted(results.plan.trials, key=lambda trial: trial.number):
        if trial.cells:
            made = tuple(cells[id_] for id_ in trial.cells)
            one = Tried(number=trial.number, group=trial.group, settings=made[0].cell.settings, cells=made)
            found.setdefault((trial.group, trial.cells), one)
    return list(found.values())


def by_group(results: Results) -> dict[str, list[Tried]]:
    """The trials of each search."""
    found: dict[str, list[Tried]] = {}
    for trial in tried(results):
        found.setdefault(trial.group, []).append(trial)
    return found


def worth(results: Results, cells: Sequence[CellResult]) -> float:
    """What a search makes of cells: the mean of its objective on validation, as a number of which more is better.

    A cell counts with its chosen checkpoint, which is what a user would keep, and without a finite score as the worst
    that there is. (A search gives a run that collapsed what it ended with, so as not to go on there.)
    """
    objective = search_of(results).objective
    scores = [getattr(result.chosen, f"validation_{objective}", math.nan) for result in cells]
    if objective == "accuracy":
        return fmean(score if math.isfinite(score) else WORST_ACCURACY for score in scores)
    return -fmean(score if math.isfinite(score) else WORST_LOSS for score in scores)


def spent(trials: Sequence[Tried], unit: str) -> float:
    """What trials have cost so far, in ``trials``, ``examples`` or ``gpu_hours``; a shared trajectory costs once."""
    if unit == "trials":
        return len(trials)
    costs: dict[str, float] = {}
    for result in (result for trial in trials for result in trial.cells):
        id_, outcome = result.cell.trajectory, result.outcome
        if unit == "gpu_hours":
            costs[id_] = outcome.train_seconds * outcome.gpus / 3600 if outcome else 0.0
        else:
            costs[id_] = max(costs.get(id_, 0.0), float(result.last.examples_seen if result.last else 0))
    return sum(costs.values())


def amount(value: float, unit: str) -> str:
    """A budget, or a part of it, in words."""
    if unit == "gpu_hours":
        return f"{value:,.3g} GPU hours"
    return count(round(value), unit.removesuffix("s"))


def how_chosen(results: Results) -> list[str]:
    """How the cells were chosen, in sentences."""
    search = search_of(results)
    if search.method == "grid":
        axes = listed([key.replace("_", " ") for key in results.plan.axes])
        said = [f"Chosen as a grid: all combinations of {axes} that the space holds."] if axes else []
    else:
        unit, budget = search.budget
        groups = by_group(results)
        seeds = max((len(trial.cells) for trials in groups.values() for trial in trials), default=0)
        each = f"for each {listed([key.replace('_', ' ') for key in search.per])}" if search.per else "in all"
        parts = [f"{group} {amount(spent(trials, unit), unit)}" for group, trials in groups.items()]
        said = [
            (
                f"Chosen by {search.chooser} for the {'highest' if search.objective == 'accuracy' else 'lowest'} "
                f"{search.objective} on validation (search seed {search.seed}): {amount(budget, unit)} {each}, "
                f"{count(seeds, 'seed')} each. Spent so far: {listed(parts) or 'nothing'}."
            )
        ]
    if search.scheduler is not None:
        scheduler = search.scheduler
        factor = f", reduction factor {scheduler.reduction_factor}" if scheduler.name == "asha" else ""
        grace = count(scheduler.grace_epochs, "epoch")
        said.append(f"Trajectories may be cut, by {SCHEDULERS[scheduler.name]}: grace {grace}{factor}.")
    return said


def search_warnings(results: Results) -> list[str]:
    """What a reader has to know before any number of a search, or of a study that was cut."""
    said = []
    if results.plan.open:
        said.append("The search is open: its budget is not spent, and what it chooses next may change every answer.")
    if results.census.cut:
        said.append(
            f"{count(results.census.cut, 'complete cell')} of {results.census.complete:,} ended because the trial "
            "scheduler cut them. What would have become of them is not known: cutting hides collapses and late "
            "learners, so that every failure rate is of the runs that were let live."
        )
    return said


def cut_caveat(results: Results) -> str:
    """Why a question that needs whole runs has fewer of them; empty where nothing was cut."""
    cut = sum(run.cut for run in results.runs)
    if not cut:
        return ""
    return (
        f"{cut:,} of {count(len(results.runs), 'run')} were cut by the trial scheduler. They are censored and left out "
        "here, neither failed nor healthy; what is left was chosen for its early scores."
    )


def searches_table(results: Results) -> Table | None:
    """What each search has spent; None for a grid."""
    search = search_of(results)
    if search.method == "grid":
        return None
    unit, budget = search.budget
    rows: list[tuple[Value, ...]] = []
    for group, trials in by_group(results).items():
        cells = [result for trial in trials for result in trial.cells]
        rows.append(
            (
                group,
                amount(budget, unit),
                amount(spent(trials, unit), unit),
                len(trials),
                sum(trial.complete for trial in trials),
                len(cells),
                sum(result.state == "failed" for result in cells),
                sum(result.stop_reason == "cut" for result in cells),
            )
        )
    return Table(
        title="What each search has spent",
        columns=("search", "budget", "spent", "trials", "complete", "cells", "failed", "cut"),
        formats=("t", "t", "t", "n", "n", "n", "n", "n"),
        rows=rows,
        note="Different trials: one that chose again what had been chosen costs nothing. A trial is complete once the "
        "cells of all its seeds are; a search ends the trial that it began within its budget.",
    )


def cut_table(results: Results) -> Table | None:
    """Every cell that a trial scheduler cut, by name; None where there is none."""
    cut = [result for result in results.cells if result.stop_reason == "cut"]
    if not cut:
        return None
    rows: list[tuple[Value, ...]] = [
        (
            result.cell.name,
            f"{result.last.epoch} of {result.cell.epochs}" if result.last else "",
            result.last.examples_seen if result.last else None,
            result.last.validation_accuracy if result.last else None,
            result.last.validation_loss if result.last else None,
        )
        for result in cut[:MOST_ROWS]
    ]
    left = f" {len(cut) - MOST_ROWS:,} more are not shown." if len(cut) > MOST_ROWS else ""
    return Table(
        title=f"Cells that were cut: {len(cut):,}",
        columns=("cell", "cut after epoch", "examples seen", "validation accuracy then", "validation loss then"),
        formats=("t", "t", "n", "%", ".3"),
        rows=rows,
        note=f"Nothing is known of what they would have become.{left}",
    )
