"""The function that Ray Tune runs in a worker: one trajectory."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import ray
from ray import tune

from study.errors import NodeEndsError, NodeError
from study.execution.node_facts import require_node
from study.execution.trial_config import TrialConfig
from study.records import Epoch, to_line
from study.scoring import METRICS
from study.storage import StopFile
from study.tracking.prometheus import observed
from study.training.devices import release_memory
from study.training.trajectory import train_trajectory

# Trial schedulers compare numbers; this is below every score.
WORST_GAIN = -1e6


def tune_trainable(config: dict[str, Any]) -> None:
    """Train the trajectory that ``config`` names, with its number of CPU threads, until its ``run`` asks to stop.

    Raises NodeError where this node cannot, and NodeEndsError once a checkpoint is saved on a node that will end.
    """
    require_node(config["probe"], config["versions"], config["code"])
    folder = TrialConfig.from_tune(config).trajectory
    trajectory = folder.config()
    if trajectory is None:
        raise NodeError(f"{socket.gethostname()} does not see {folder.path}; mount the storage there")
    objective = METRICS[trajectory.objective]
    stop = StopFile(Path(config["stop_file"]), config["run"])
    node = ray.get_runtime_context().get_node_id()

    def report(epoch: Epoch) -> None:
        # The record is text, because Tune keeps windows of every number that it is given.
        score = max(objective.gain(epoch.validation), WORST_GAIN)
        tune.report({"epoch": epoch.epoch, "score": score, "record": to_line(epoch).decode()})

    try:
        with observed(folder) as observer:
            outcome = train_trajectory(
                folder,
                cpu_threads=config["cpu_threads"],
                report=report,
                observe=observer.observe,
                stop=lambda: stop.requested() or stop.leaving_requested(node),
            )
    except Exception:
        require_node(config["probe"], config["versions"], config["code"])  # the reason, where the storage is gone
        raise
    finally:
        release_memory()  # Ray may keep this process for the next trajectory
    if outcome is None and not stop.requested():
        raise NodeEndsError(f"{socket.gethostname()} is about to end; the checkpoint is saved")
