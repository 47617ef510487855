"""What a person has to know while a study trains: nodes that come and go, and that nothing can run."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence

from study.errors import enumerate_names
from study.execution.cluster import live_nodes
from study.settings import Run

# isort: split
from ray.tune.experiment import Trial

# Seconds between two looks, until it is said that nothing runs, and until it is said again.
LOOK_SECONDS, NOTHING_SECONDS, AGAIN_SECONDS = 5.0, 60.0, 600.0


class Watch:
    """Looks at the cluster now and then, and calls ``say`` with a sentence where something has changed."""

    def __init__(self, run: Run, say: Callable[[str], None]) -> None:
        self.needs = _amounts({"CPU": run.cpu, "GPU": run.gpu or 0})
        self.say = say
        self.nodes = _resources()
        self.looked = self.busy = time.monotonic()
        self.said = -AGAIN_SECONDS

    def look(self, trials: Sequence[Trial]) -> None:
        """Called several times a second."""
        now = time.monotonic()
        if now - self.looked < LOOK_SECONDS:
            return
        self.looked = now
        self._compare_nodes()
        waiting = sum(trial.status in (Trial.PENDING, Trial.PAUSED) for trial in trials)
        if not waiting or any(trial.status == Trial.RUNNING for trial in trials):
            self.busy, self.said = now, -AGAIN_SECONDS
        elif now - self.busy > NOTHING_SECONDS and now - self.said > AGAIN_SECONDS:
            self.said = now
            who = f"{waiting} trajectories wait" if waiting > 1 else "a trajectory waits"
            nodes = enumerate_names([_amounts(node) for node in self.nodes.values()]) or "no nodes"
            minutes = (now - self.busy) / 60
            self.say(f"nothing has run for {minutes:.0f} min: {who} for {self.needs}, and the cluster has {nodes}")

    def _compare_nodes(self) -> None:
        before, self.nodes = self.nodes, _resources()
        count = f"the cluster has {len(self.nodes)} now"
        for name in self.nodes.keys() - before.keys():
            self.say(f"the node {name} joined, with {_amounts(self.nodes[name])}; {count}")
        for name in before.keys() - self.nodes.keys():
            self.say(f"the node {name} was lost; {count}, and what it trained resumes elsewhere")


def _resources() -> dict[str, Mapping[str, float]]:
    """The resources of each node by its address and the first letters of its id."""
    return {f"{node['NodeManagerAddress']} ({node['NodeID'][:6]})": node["Resources"] for node in live_nodes()}


def _amounts(resources: Mapping[str, float]) -> str:
    """The CPUs and GPUs among resources, in words."""
    return f"{resources.get('CPU', 0):g} CPU and {resources.get('GPU', 0):g} GPU"
