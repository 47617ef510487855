"""Which trajectory of a search is trained next?

What was chosen before and has not ended comes first, then what the search chooses, one trial at a time, so that it has
learned of all that has ended by then.
"""

from __future__ import annotations

from collections.abc import Callable

from study.plan.cell_results import unfinished
from study.plan.plan import Trajectory
from study.search.optuna_search import Search


class Queue:
    """Hands out each trajectory once; ``lay_out`` is called with one before that and has its config written."""

    def __init__(self, search: Search, lay_out: Callable[[Trajectory], None]) -> None:
        self.search = search
        self.lay_out = lay_out
        self.running: set[str] = set()
        self.begun: dict[str, tuple[str, ...]] = {}
        self.done = False

    def take(self) -> Trajectory | None:
        """The next trajectory, None where there is none now; ``done`` says whether there will be none any more."""
        while True:
            waiting = self._waiting()
            for trajectory in waiting:
                if trajectory.id not in self.running:
                    self.running.add(trajectory.id)
                    self.begun[trajectory.id] = trajectory.cells
                    self.lay_out(trajectory)
                    return trajectory
            if waiting or self.search.suggest() is None:
                # One that ends sooner than it might have gives the rest of its budget back.
                self.done = not waiting and not self.running
                return None

    def ended(self, id_: str) -> None:
        """A trajectory has ended, or failed."""
        self.running.discard(id_)
        self.search.settle()

    def _waiting(self) -> list[Trajectory]:
        """What is left to train, but for what was tried with the same cells in this run."""
        plan, cutting = self.search.plan, self.search.space.search.scheduler is not None
        left = unfinished(plan, self.search.results, cutting=cutting)
        return [trajectory for trajectory in left if self.begun.get(trajectory.id) != trajectory.cells]
