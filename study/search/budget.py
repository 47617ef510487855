"""The budget of each search, and how much of it is spent."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from study.plan.cell_results import CellResult
from study.plan.labels import search_groups
from study.plan.plan import Plan
from study.space.space import Space


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchBudget:
    """One search's ``budget`` in ``unit``, and how much of it is ``spent`` by its ``trials`` so far.

    ``choices`` is how many different trials there are, None where that has no number.
    """

    group: str
    unit: str
    budget: float
    spent: float
    trials: int
    choices: int | None

    @property
    def share(self) -> float:
        """The share that is spent, above 1 where the last trial exceeded the budget."""
        return self.spent / self.budget

    @property
    def open(self) -> bool:
        """Whether there is another trial to make, and the budget for it."""
        return self.share < 1 and (self.choices is None or self.trials < self.choices)


def search_budgets(space: Space, plan: Plan, results: Sequence[CellResult]) -> list[SearchBudget]:
    """Every search's budget, in the order of the ``per`` axes.

    A trial that chose what another trial had chosen costs nothing. One that has not ended costs what it was planned to,
    or, in hours, the mean of those that have ended.
    """
    unit, budget = space.search.budget
    costs = _trajectory_costs(unit, results)
    groups = search_groups(space)
    trials: dict[str, dict[tuple[str, ...], None]] = {group: {} for group in groups}
    for trial in plan.trials:
        if trial.cells and trial.group in trials:
            trials[trial.group][trial.cells] = None
    trajectories = {cell.id: cell.trajectory for cell in plan.cells}
    budgets = []
    for group, chosen in trials.items():
        trained = {trajectories[id_] for cells in chosen for id_ in cells}
        budgets.append(
            SearchBudget(
                group=group,
                unit=unit,
                budget=budget,
                spent=len(chosen) if unit == "trials" else sum(costs[id_] for id_ in trained),
                trials=len(chosen),
                choices=space.choices(groups[group]),
            )
        )
    return budgets


def cost_so_far(unit: str, result: CellResult) -> float:
    """What a cell's trajectory has cost, in ``examples`` that the cell has seen or ``gpu_hours`` of an ended one."""
    if unit == "gpu_hours":
        return result.outcome.train_seconds * result.outcome.gpus / 3600 if result.outcome else 0.0
    return float(result.last.examples_seen) if result.last else 0.0


def _trajectory_costs(unit: str, results: Sequence[CellResult]) -> dict[str, float]:
    """What each trajectory costs, by its id: the most of its cells."""
    costs: dict[str, float] = {}
    running: set[str] = set()
    for result in results:
        id_, cost = result.cell.trajectory, cost_so_far(unit, result)
        if unit == "gpu_hours" and (result.outcome is None or result.outcome.status != "complete"):
            running.add(id_)
        elif unit != "gpu_hours" and result.state != "complete":
            cost = float(result.cell.examples)
        costs[id_] = max(costs.get(id_, 0.0), cost)
    ended = [cost for id_, cost in costs.items() if id_ not in running]
    return costs | dict.fromkeys(running, sum(ended) / len(ended) if ended else 0.0)
