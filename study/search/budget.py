"""How much of its budget has each search spent, and which one is next?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from study.plan.cell_results import CellResult
from study.plan.plan import Plan, group_of
from study.space.reader import Space


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """One search's budget, in what ``unit`` says, and what of it is ``spent`` by its ``trials`` so far.

    ``most`` is how many different trials there are, None where that has no number.
    """

    group: str
    unit: str
    budget: float
    spent: float
    trials: int
    most: int | None

    @property
    def share(self) -> float:
        """The part that is spent; a search that has begun a trial within its budget ends it."""
        return self.spent / self.budget

    @property
    def open(self) -> bool:
        """Whether there is another trial to make, and the budget for it."""
        return self.share < 1 and (self.most is None or self.trials < self.most)


def accounts(space: Space, plan: Plan, results: Sequence[CellResult]) -> list[Account]:
    """Every search's account, in the order of the ``per`` axes.

    A trial that chose what another trial had chosen costs nothing; one that has not ended costs what it was planned to,
    or, in hours, as much as those that have ended did on average.
    """
    unit, budget = space.search.budget
    costs = _costs(unit, results)
    groups = {group_of(space, settings): settings for settings in space.groups()}
    trials: dict[str, dict[tuple[str, ...], None]] = {group: {} for group in groups}
    for trial in plan.trials:
        if trial.cells and trial.group in trials:
            trials[trial.group][trial.cells] = None
    trajectories = {cell.id: cell.trajectory for cell in plan.cells}
    found = []
    for group, chosen in trials.items():
        trained = {trajectories[id_] for cells in chosen for id_ in cells}
        spent = len(chosen) if unit == "trials" else sum(costs[id_] for id_ in trained)
        most = space.choices(groups[group])
        found.append(Account(group=group, unit=unit, budget=budget, spent=spent, trials=len(chosen), most=most))
    return found


def _costs(unit: str, results: Sequence[CellResult]) -> dict[str, float]:
    """What each trajectory costs, by its id: the most of its cells."""
    costs: dict[str, float] = {}
    running: set[str] = set()
    for result in results:
        id_, outcome = result.cell.trajectory, result.outcome
        if unit == "gpu_hours":
            ended = outcome is not None and outcome.status == "complete"
            costs[id_] = outcome.train_seconds * outcome.gpus / 3600 if ended and outcome else 0.0
            if not ended:
                running.add(id_)
        else:
            done = result.state == "complete" and result.last is not None
            examples = result.last.examples_seen if done and result.last else result.cell.examples
            costs[id_] = max(costs.get(id_, 0.0), float(examples))
    ended_costs = [cost for id_, cost in costs.items() if id_ not in running]
    return costs | dict.fromkeys(running, sum(ended_costs) / len(ended_costs) if ended_costs else 0.0)
