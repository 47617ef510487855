"""The function that Ray Tune runs in a worker: one trajectory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ray import tune

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
    """Train the trajectory that ``config`` names, with its number of CPU threads, until its ``run`` asks to stop."""
    folder = TrialConfig.from_tune(config).trajectory
    trajectory = folder.config()
    assert trajectory is not None, f"{folder.path} was never planned"
    objective = METRICS[trajectory.objective]

    def report(epoch: Epoch) -> None:
        # The record is text, because Tune keeps windows of every number that it is given.
        score = max(objective.gain(epoch.validation), WORST_GAIN)
        tune.report({"epoch": epoch.epoch, "score": score, "record": to_line(epoch).decode()})

    try:
        with observed(folder) as observer:
            train_trajectory(
                folder,
                cpu_threads=config["cpu_threads"],
                report=report,
                observe=observer.observe,
                stop=StopFile(Path(config["stop_file"]), config["run"]).requested,
            )
    finally:
        release_memory()  # Ray may keep this process for the next trajectory
