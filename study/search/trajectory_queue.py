"""The queue of a search's trajectories.

What was chosen before and has not ended comes first, then what the search chooses, one trial at a time, so that it
knows all results so far.
"""

from __future__ import annotations

from collections.abc import Callable

from study.plan.cell_results import unfinished
from study.plan.plan import Trajectory
from study.search.optuna_search import OptunaSearch


class TrajectoryQueue:
    """Gives out each trajectory once; ``prepare`` is called with one before that, to write its config."""

    def __init__(self, search: OptunaSearch, prepare: Callable[[Trajectory], None]) -> None:
        self.search = search
        self.prepare = prepare
        self.running: set[str] = set()
        self.started: dict[str, tuple[str, ...]] = {}
        self.done = False

    def next(self) -> Trajectory | None:
        """The next trajectory, None where there is none now; ``done`` says whether there will be none any more."""
        while True:
            waiting = self._waiting()
            for trajectory in waiting:
                if trajectory.id not in self.running:
                    self.running.add(trajectory.id)
                    self.started[trajectory.id] = trajectory.cells
                    self.prepare(trajectory)
                    return trajectory
            if waiting or self.search.suggest() is None:
                # A trajectory that ends early returns the rest of its budget, so the search may yet continue.
                self.done = not waiting and not self.running
                return None

    def trajectory_ended(self, id_: str) -> None:
        """Note that a trajectory has ended, or failed."""
        self.running.discard(id_)
        self.search.settle()

    def _waiting(self) -> list[Trajectory]:
        """The trajectories left to train, except those that this run has started with the same cells."""
        plan, pruning = self.search.plan, self.search.space.search.scheduler is not None
        left = unfinished(plan, self.search.results, pruning=pruning)
        return [trajectory for trajectory in left if self.started.get(trajectory.id) != trajectory.cells]
