"""Which failures of a trial count as tries: those that its trajectory may be the reason of, not those of its node."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import study.execution.cluster  # noqa: F401  # Ray reads its environment, which is set there, when it is imported

# isort: split
import ray
from ray._private import state
from ray.exceptions import RayActorError, RayError, RayTaskError
from ray.tune.experiment import Trial

from study.errors import NodeEndsError, NodeError
from study.execution.node_checks import on_node
from study.execution.placement import Placement, TrialResources

# A process that is cut off is noticed in 2 s, that its node is lost in 15 s (Ray's health checks, with their defaults).
NODE_ANSWERS_WITHIN_SECONDS = 30
# Trajectories that fail in a row on a node that trains none of them, before the node is taken for the reason.
FAILURES_IN_A_ROW = 3


@dataclass(slots=True)
class _Suspicion:
    """The trials that failed on a node in a row, by their ids, and whether others have trained elsewhere meanwhile."""

    failed: dict[str, Trial] = field(default_factory=dict)
    others_train: bool = False


class Failures:
    """Counts the failures of trials while it is :meth:`applied`, and keeps trials off the nodes that cause them.

    Not counted: a trajectory that moved because its node is about to end, a node that was lost, a node that says itself
    that it cannot train, and failures on a node where nothing but failures happened, while others train. A trial that
    failed is tried on another node where there is one. Tune itself does not count nodes that announce their end, and
    has no hook for the others. ``leave_out`` is called with a node that gets no more trials, and the reason.
    """

    def __init__(self, placement: Placement, leave_out: Callable[..., None]) -> None:
        self.placement = placement
        self.leave_out = leave_out
        # Why a trial left its node, by its id, until it fails in another way.
        self.moved: dict[str, str] = {}
        self._died: defaultdict[str, set[str]] = defaultdict(set)
        self._suspicions: dict[str, _Suspicion] = {}

    def on_epoch(self, trial: Trial) -> None:
        """A trial has completed an epoch, so its node is able to train."""
        node = node_of(trial) if self._suspicions else None
        if node is not None:
            self._suspicions.pop(node, None)
            for suspicion in self._suspicions.values():
                suspicion.others_train = True

    def on_failure(self, trial: Trial, error: object) -> None:
        """Tune has counted a failure: take it back where it was not the trajectory's."""
        self.moved.pop(trial.trial_id, None)
        node = node_of(trial)
        cause = getattr(error, "cause", None) if isinstance(error, RayTaskError) else None
        if isinstance(cause, NodeEndsError):
            self._take_back(trial)
            self.moved[trial.trial_id] = str(cause)
            return
        if isinstance(cause, NodeError) and node is not None and self._others():
            self._take_back(trial)
            self.moved[trial.trial_id] = str(cause)
            self.leave_out(node, str(cause), for_good=type(cause) is not NodeError)
            return
        if isinstance(error, RayActorError) and error.preempted:
            return
        if node is not None:
            self._suspect(node, trial)
        actors = self._died[trial.trial_id]
        if isinstance(error, RayActorError) and error.actor_id:
            actors.add(error.actor_id)
        if trial.num_failures > trial.max_failures:
            lost = {actor for actor in actors if not _answers(actor)}
            self._take_back(trial, len(lost))
            actors -= lost

    def _suspect(self, node: str, trial: Trial) -> None:
        """Let a trial avoid the node where it failed, and take the node for the reason where it has failed them all."""
        resources: Any = trial.placement_group_factory
        needs, avoid = self.placement.needs, {*resources.avoid, node}
        changed: Any = trial
        changed.placement_group_factory = TrialResources(needs["CPU"], needs["GPU"], frozenset(avoid))
        suspicion = self._suspicions.setdefault(node, _Suspicion())
        suspicion.failed[trial.trial_id] = trial
        if len(suspicion.failed) >= FAILURES_IN_A_ROW and suspicion.others_train:
            del self._suspicions[node]
            for failed in suspicion.failed.values():
                self._take_back(failed)
            reason = f"{len(suspicion.failed)} trajectories in a row failed there, while others trained"
            self.leave_out(node, reason, for_good=True)

    def _others(self) -> bool:
        """Whether a node may be left out: never the last one of a machine on its own."""
        return len(self.placement.suitable_nodes()) > 1 or not self.placement.alone

    def _take_back(self, trial: Trial, number: int = 1) -> None:
        trial.run_metadata.num_failures = max(0, trial.run_metadata.num_failures - number)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Let Tune count this way."""
        replaced: Any = Trial
        count = replaced.handle_error

        def handle_error(trial: Trial, error: Any = None) -> None:
            count(trial, error)
            self.on_failure(trial, error)

        replaced.handle_error = handle_error
        try:
            yield
        finally:
            replaced.handle_error = count


def node_of(trial: Trial) -> str | None:
    """The id of the node that a trial runs on; None before it has started."""
    actor: Any = trial.temporary_state.ray_actor
    return None if actor is None else _node_of_actor(actor._actor_id.hex())


def pid_of(trial: Trial) -> int | None:
    """The process that trains a trial; None before it has started."""
    actor: Any = trial.temporary_state.ray_actor
    return None if actor is None else state.actors(actor._actor_id.hex()).get("Pid")


def _node_of_actor(actor: str) -> str | None:
    return state.actors(actor).get("Address", {}).get("NodeID") or None


def _answers(actor: str) -> bool:
    """Whether the node of an actor still answers."""
    node = _node_of_actor(actor)
    if node is None:
        return False
    try:
        ray.get(on_node(node, _answer), timeout=NODE_ANSWERS_WITHIN_SECONDS)
    except RayError:
        return False
    return True


@ray.remote
def _answer() -> None:
    """Return from a node."""
