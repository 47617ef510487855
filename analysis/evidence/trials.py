"""The trials of a search: what each came to, what each search has spent, and which trajectories were pruned."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from analysis.answer import Table, Value
from analysis.results import Results
from analysis.wording import count, listed
from study.plan.cell_results import CellResult, selection_score
from study.plan.labels import label
from study.scoring import METRICS
from study.search.budget import cost_so_far
from study.settings import Settings

SCHEDULERS = {
    "asha": "asynchronous successive halving (ASHA, Li et al. 2020)",
    "median": "the median stopping rule (Golovin et al. 2017)",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialResult:
    """A trial and what became of its cells, one a seed; ``number`` counts the trials of its ``group`` from 0."""

    number: int
    group: str
    settings: Settings
    cells: tuple[CellResult, ...]

    @property
    def model(self) -> str:
        """Its model in words."""
        return label("model", self.settings.model)

    @property
    def complete(self) -> bool:
        """Whether every one of its cells is, those that were cut among them."""
        return all(result.state == "complete" for result in self.cells)


def exchangeable(results: Results) -> bool:
    """Whether any order of the trials was as likely as any other: none was chosen, or cut, for what others scored."""
    search = results.search
    return not search.adaptive and search.scheduler is None


def trial_results(results: Results) -> list[TrialResult]:
    """The different trials of all searches, by number; none of a grid.

    One that chose what another of its group had chosen cost nothing and is left out, as is one that the space no longer
    holds.
    """
    cells = {result.cell.id: result for result in results.cells}
    found: dict[tuple[str, tuple[str, ...]], TrialResult] = {}
    for trial in sorted(results.plan.trials, key=lambda trial: trial.number):
        if trial.cells:
            members = tuple(cells[id_] for id_ in trial.cells)
            settings = members[0].cell.settings
            found.setdefault(
                (trial.group, trial.cells),
                TrialResult(number=trial.number, group=trial.group, settings=settings, cells=members),
            )
    return list(found.values())


def by_group(results: Results) -> dict[str, list[TrialResult]]:
    """The trials of each search."""
    found: dict[str, list[TrialResult]] = {}
    for trial in trial_results(results):
        found.setdefault(trial.group, []).append(trial)
    return found


def worth(results: Results, cells: Sequence[CellResult]) -> float:
    """What selection makes of cells: the mean of the search's objective, as a number of which more is better.

    See :func:`study.plan.cell_results.selection_score`.
    """
    objective = results.search.objective
    return METRICS[objective].signed(selection_score(cells, objective))


def spent(trials: Sequence[TrialResult], unit: str) -> float:
    """What trials have cost so far, in ``trials``, ``examples`` or ``gpu_hours``; a shared trajectory costs once."""
    if unit == "trials":
        return len(trials)
    costs: dict[str, float] = {}
    for trial in trials:
        for result in trial.cells:
            id_ = result.cell.trajectory
            costs[id_] = max(costs.get(id_, 0.0), cost_so_far(unit, result))
    return sum(costs.values())


def amount(value: float, unit: str) -> str:
    """A budget, or a part of it, in words."""
    if unit == "gpu_hours":
        return f"{value:,.3g} GPU hours"
    return count(round(value), unit.removesuffix("s"))


def how_chosen(results: Results) -> list[str]:
    """How the cells were chosen, in sentences."""
    search = results.search
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
                f"Chosen by {search.chooser} for the {METRICS[search.objective].best_word} "
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
    if results.census.pruned:
        said.append(
            f"{count(results.census.pruned, 'complete cell')} of {results.census.complete:,} ended because the trial "
            "scheduler cut them. What would have become of them is not known: cutting hides collapses and late "
            "learners, so that every failure rate is of the runs that were let live."
        )
    return said


def pruned_caveat(results: Results) -> str:
    """Why a question that needs whole runs has fewer of them; empty where nothing was cut."""
    cut = sum(run.pruned for run in results.runs)
    if not cut:
        return ""
    return (
        f"{cut:,} of {count(len(results.runs), 'run')} were cut by the trial scheduler. They are censored and left out "
        "here, neither failed nor healthy; what is left was chosen for its early scores."
    )


def searches_table(results: Results) -> Table | None:
    """What each search has spent; None for a grid."""
    search = results.search
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


def pruned_table(results: Results) -> Table | None:
    """Every cell that a trial scheduler cut, by name; None where there is none."""
    cut = [result for result in results.cells if result.stop_reason == "cut"]
    if not cut:
        return None
    rows: list[tuple[Value, ...]] = [
        (
            result.cell.name,
            f"{result.last.epoch} of {result.cell.epochs}" if result.last else "",
            result.last.examples_seen if result.last else None,
            result.last.validation["accuracy"] if result.last else None,
            result.last.validation["loss"] if result.last else None,
        )
        for result in cut
    ]
    return Table(
        title=f"Cells that were cut: {len(cut):,}",
        columns=("cell", "cut after epoch", "examples seen", "validation accuracy then", "validation loss then"),
        formats=("t", "t", "n", "%", ".3"),
        rows=rows,
        note="Their final results are unknown.",
    )
