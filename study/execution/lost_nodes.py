"""Keeps the loss of a node from counting as a failure of the trajectory that trained there."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import study.execution.cluster  # noqa: F401  # Ray reads its environment, which is set there, when it is imported

# isort: split
import ray
from ray._private import state
from ray.exceptions import RayActorError, RayError
from ray.tune.experiment import Trial
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

# A process that is cut off is noticed in 2 s, that its node is lost in 15 s (Ray's health checks, with their defaults).
NODE_ANSWERS_WITHIN_SECONDS = 30


@contextmanager
def lost_nodes_not_counted() -> Iterator[None]:
    """Let Tune try a trial again, however often its node is lost.

    Tune itself does not count nodes that announce their end (preempted ones, and those that get SIGTERM), but has no
    hook for those that cannot. A process that dies on a node that lives counts: its trajectory may be the reason.
    """
    died: defaultdict[str, set[str]] = defaultdict(set)

    def handle_error(trial: Trial, error: Any = None) -> None:
        count(trial, error)
        actors = died[trial.trial_id]
        if isinstance(error, RayActorError) and not error.preempted and error.actor_id:
            actors.add(error.actor_id)
        if trial.num_failures > trial.max_failures:
            lost = {actor for actor in actors if _lost_node(actor)}
            trial.run_metadata.num_failures -= len(lost)
            actors -= lost

    replaced: Any = Trial
    count = replaced.handle_error
    replaced.handle_error = handle_error
    try:
        yield
    finally:
        replaced.handle_error = count


def _lost_node(actor: str) -> bool:
    """Whether the node of an actor does not answer any more."""
    known = state.actors(actor)
    strategy = NodeAffinitySchedulingStrategy(known["Address"]["NodeID"], soft=False)
    try:
        ray.get(_answer.options(scheduling_strategy=strategy).remote(), timeout=NODE_ANSWERS_WITHIN_SECONDS)
    except RayError:
        return True
    return False


@ray.remote(num_cpus=0, max_retries=0)
def _answer() -> None:
    """Return from a node."""
