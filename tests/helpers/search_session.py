"""Searches without a cluster: a space, a study folder, and trajectories that seem to be trained."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
import yaml
from study_builder import StudyBuilder, ended

from study.execution.growth import find_plan
from study.execution.manifest import write_study
from study.plan.plan import Plan, Trajectory
from study.records import Manifest
from study.search.optuna_search import OptunaSearch
from study.search.trajectory_queue import TrajectoryQueue
from study.space.reader import read
from study.space.space import Space
from study.storage import StudyFolder

SPACE: Mapping[str, Any] = {
    "data": {"source": "builtin:reviews", "examples": 1000},  # 800 to train on
    "fixed": {"epochs": 2},
    "axes": {
        "model": ["tiny-bert", "tiny-roberta"],
        "learning_rate": {"low": 1e-5, "high": 1e-3, "log": True},
        "lr_schedule": ["constant", {"name": "linear", "warmup_fraction": 0.1}],
        "batch_size": {"low": 8, "high": 64},
        "early_stopping": ["none", {"patience": 1}],
        "seed": [0, 1],
    },
    "search": {"method": "random", "trials": 5, "per": "model"},
}
METHODS: Mapping[str, Mapping[str, Any]] = {
    "random": {"method": "random"},
    "tpe": {"method": "optuna"},
    "nsga2": {"method": "optuna", "sampler": "nsga2"},
}


def make_space(folder: Path, **changes: Any) -> Space:
    """The space above; a change is merged into its section."""
    raw = json.loads(json.dumps(SPACE))
    for key, value in changes.items():
        raw[key] = {**raw.get(key, {}), **value} if isinstance(value, dict) else value
    path = folder / "space.yaml"
    path.write_text(yaml.safe_dump({"name": "searched", **raw}, sort_keys=False))
    return read(path)


@dataclass
class Session:
    """One start of a study; what it trains gets the losses that a test chooses."""

    space: Space
    folder: StudyFolder
    manifest: Manifest
    plan: Plan
    search: OptunaSearch
    queue: TrajectoryQueue

    @classmethod
    def start(cls, space: Space, path: Path) -> "Session":
        folder = StudyFolder(path)
        plan = find_plan(folder, space)
        manifest = write_study(folder, space, plan, tracking_uri=None)
        search = OptunaSearch(space, plan, folder)
        return cls(space, folder, manifest, plan, search, TrajectoryQueue(search, lambda _: None))

    def restart(self, **changes: Any) -> "Session":
        """Start the same study again, with a changed space."""
        path = self.folder.path
        return Session.start(make_space(path.parent, **changes), path)

    @property
    def builder(self) -> StudyBuilder:
        """Writes the records of trajectories that seem to be trained."""
        return StudyBuilder(folder=self.folder, plan=self.search.plan, manifest=self.manifest)

    def train(self, trajectory: Trajectory, losses: list[float] | None = None) -> None:
        """Let a trajectory seem to be trained; by default to a loss that is lowest at a learning rate of 1e-4."""
        distance = abs(math.log10(trajectory.settings.learning_rate) + 4)
        losses = losses or [0.6 + distance / 10] * trajectory.epochs
        outcome = ended("epochs exhausted" if all(map(math.isfinite, losses)) else "non-finite")
        self.builder.train(trajectory, validation_loss=losses, outcome=outcome, seed=int(1e6 * distance))
        self.queue.trajectory_ended(trajectory.id)

    def finish(self) -> list[Trajectory]:
        """Train all trajectories of the queue; returns them."""
        trained = []
        while (trajectory := self.queue.next()) is not None:
            self.train(trajectory)
            trained.append(trajectory)
        return trained

    def optuna(self, group: str) -> list[optuna.trial.FrozenTrial]:
        """The trials in Optuna's file."""
        storage = f"sqlite:///{self.folder.optuna_file}"
        return optuna.load_study(study_name=f"{self.folder.name} · {group}", storage=storage).trials
