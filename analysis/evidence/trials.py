"""The trials of a search, what they cost, and which of their trajectories a trial scheduler stopped."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from analysis.answer import Table, Value
from analysis.results import Results
from analysis.wording import count, join_words, setting_name
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
    """A trial and the results of its cells, one per seed; ``number`` counts the trials of its ``group`` from 0."""

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
        """Whether every one of its cells is complete, pruned ones included."""
        return all(result.state == "complete" for result in self.cells)


def exchangeable(results: Results) -> bool:
    """Whether every order of the trials was equally likely: none was chosen or pruned for what others scored."""
    search = results.search
    return not search.adaptive and search.scheduler is None


def trial_results(results: Results) -> list[TrialResult]:
    """The distinct trials of all searches, by number; none of a grid.

    A trial that chose what another one of its group had chosen cost nothing and is left out, as is one whose values the
    space no longer holds.
    """
    cells = {result.cell.id: result for result in results.cells}
    trials: dict[tuple[str, tuple[str, ...]], TrialResult] = {}
    for trial in sorted(results.plan.trials, key=lambda trial: trial.number):
        if trial.cells:
            members = tuple(cells[id_] for id_ in trial.cells)
            settings = members[0].cell.settings
            trials.setdefault(
                (trial.group, trial.cells),
                TrialResult(number=trial.number, group=trial.group, settings=settings, cells=members),
            )
    return list(trials.values())


def trials_by_group(results: Results) -> dict[str, list[TrialResult]]:
    """The trials of each search."""
    groups: dict[str, list[TrialResult]] = {}
    for trial in trial_results(results):
        groups.setdefault(trial.group, []).append(trial)
    return groups


def objective_gain(results: Results, cells: Sequence[CellResult]) -> float:
    """What cells are selected by: the mean of the search's objective, as a number of which more is better.

    See :func:`study.plan.cell_results.selection_score`.
    """
    objective = results.search.objective
    return METRICS[objective].signed(selection_score(cells, objective))


def cost_of(trials: Sequence[TrialResult], unit: str) -> float:
    """What trials have cost so far, in ``trials``, ``examples`` or ``gpu_hours``; a shared trajectory costs once."""
    if unit == "trials":
        return len(trials)
    costs: dict[str, float] = {}
    for trial in trials:
        for result in trial.cells:
            id_ = result.cell.trajectory
            costs[id_] = max(costs.get(id_, 0.0), cost_so_far(unit, result))
    return sum(costs.values())


def describe_budget(value: float, unit: str) -> str:
    """A budget, or a part of one, in words."""
    if unit == "gpu_hours":
        return f"{value:,.3g} GPU hours"
    return count(round(value), unit.removesuffix("s"))


def describe_selection(results: Results) -> list[str]:
    """How the cells of the study were chosen, in sentences."""
    search = results.search
    sentences = []
    if search.method != "grid":
        unit, budget = search.budget
        groups = trials_by_group(results)
        seeds = max((len(trial.cells) for trials in groups.values() for trial in trials), default=0)
        per = f"for each {join_words([setting_name(key) for key in search.per])}" if search.per else "in all"
        costs = [f"{group} {describe_budget(cost_of(trials, unit), unit)}" for group, trials in groups.items()]
        sentences.append(
            f"Chosen by {search.chooser} for the {METRICS[search.objective].best_word} "
            f"{search.objective} on validation (search seed {search.seed}): {describe_budget(budget, unit)} {per}, "
            f"{count(seeds, 'seed')} each. Spent so far: {join_words(costs) or 'nothing'}."
        )
    elif results.plan.axes:
        axes = join_words([setting_name(key) for key in results.plan.axes])
        sentences.append(f"Chosen as a grid: every combination of {axes} that the space allows.")
    if search.scheduler is not None:
        scheduler = search.scheduler
        factor = f", reduction factor {scheduler.reduction_factor}" if scheduler.name == "asha" else ""
        grace = count(scheduler.grace_epochs, "epoch")
        sentences.append(f"Trajectories may be pruned by {SCHEDULERS[scheduler.name]}: grace {grace}{factor}.")
    return sentences


def search_warnings(results: Results) -> list[str]:
    """Warnings that belong before every number of an open search or of a study with pruned trajectories."""
    warnings = []
    if results.plan.open:
        warnings.append("The search is open: its budget is not spent, and the trials to come may change every answer.")
    if results.census.pruned:
        warnings.append(
            f"{count(results.census.pruned, 'complete cell')} of {results.census.complete:,} ended because the trial "
            "scheduler pruned them. Their final results are unknown: pruning hides collapses and late learners, and "
            "failure rates cover only the runs that the scheduler did not stop."
        )
    return warnings


def pruned_caveat(results: Results) -> str:
    """The caveat of a question that needs whole runs; empty where nothing was pruned."""
    pruned = sum(run.pruned for run in results.runs)
    if not pruned:
        return ""
    return (
        f"The trial scheduler pruned {pruned:,} of {count(len(results.runs), 'run')}. They are censored and left out "
        "here, counted neither as failed nor as healthy; the remaining runs were selected for their early scores."
    )


def searches_table(results: Results) -> Table | None:
    """The budget and the cost of each search; None for a grid."""
    search = results.search
    if search.method == "grid":
        return None
    unit, budget = search.budget
    rows: list[tuple[Value, ...]] = []
    for group, trials in trials_by_group(results).items():
        cells = [result for trial in trials for result in trial.cells]
        rows.append(
            (
                group,
                describe_budget(budget, unit),
                describe_budget(cost_of(trials, unit), unit),
                len(trials),
                sum(trial.complete for trial in trials),
                len(cells),
                sum(result.state == "failed" for result in cells),
                sum(result.stop_reason == "cut" for result in cells),
            )
        )
    return Table(
        title="What each search has spent",
        columns=("search", "budget", "spent", "trials", "complete", "cells", "failed", "pruned"),
        formats=("t", "t", "t", "n", "n", "n", "n", "n"),
        rows=rows,
        note="Distinct trials: one that repeats an earlier choice costs nothing. A trial is complete when its cells of "
        "all seeds are; a trial that starts within the budget is completed.",
    )


def pruned_table(results: Results) -> Table | None:
    """Every cell that a trial scheduler stopped, by name; None where there is none."""
    pruned = [result for result in results.cells if result.stop_reason == "cut"]
    if not pruned:
        return None
    rows: list[tuple[Value, ...]] = [
        (
            result.cell.name,
            f"{result.last.epoch} of {result.cell.epochs}" if result.last else "",
            result.last.examples_seen if result.last else None,
            result.last.validation["accuracy"] if result.last else None,
            result.last.validation["loss"] if result.last else None,
        )
        for result in pruned
    ]
    return Table(
        title=f"Pruned cells: {len(pruned):,}",
        columns=("cell", "pruned after epoch", "examples seen", "validation accuracy then", "validation loss then"),
        formats=("t", "t", "n", "%", ".3"),
        rows=rows,
        note="Their final results are unknown.",
    )
