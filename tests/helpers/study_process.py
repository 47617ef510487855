"""A study as a user runs it: a space file in a folder, and ``python -m study.run`` in a process of its own."""

import contextlib
import json
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from mlflow import MlflowClient
from mlflow.entities import Run
from mlflow_store import create_empty_store

from study.plan.plan import Plan, read_plan
from study.records import Epoch
from study.scoring import Predictions
from study.storage import StudyFolder

SMALL: Mapping[str, Any] = {
    "data": {"source": "builtin:reviews", "examples": 300, "max_length": 32},
    "fixed": {"epochs": 3, "batch_size": 32, "learning_rate": 5e-4, "log_every_examples": 64},
    "axes": {"model": ["tiny-bert", "tiny-roberta"], "early_stopping": ["none", {"patience": 1}], "seed": [0]},
    "run": {"checkpoint_every_minutes": 0.001, "gpu": "auto"},
}


def copy_empty_store(folder: StudyFolder) -> None:
    """Put an MLflow store where the study would create its own; tests of the mirror create theirs."""
    if not folder.mlflow_file.exists():
        folder.path.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(create_empty_store(), folder.mlflow_file)


@dataclass
class Study:
    """A space file and the command that runs it; without a ``dashboard``, Ray starts some seconds sooner."""

    folder: Path
    space: dict[str, Any] = field(default_factory=lambda: json.loads(json.dumps(SMALL)))
    dashboard: bool = False

    def start(self, *arguments: str, wrapper: Sequence[str] = (), output: Path | None = None) -> subprocess.Popen[str]:
        """Start the command, as an argument of ``wrapper`` if there is one; it prints to a pipe, or to ``output``."""
        self.folder.mkdir(exist_ok=True)
        (self.folder / "small.yaml").write_text(yaml.safe_dump(self.space, sort_keys=False))
        if "--tracking-uri" not in arguments:
            copy_empty_store(self.results())
        if not self.dashboard and "--address" not in arguments:
            arguments = (*arguments, "--no-dashboard")
        command = [*wrapper, sys.executable, "-m", "study.run", "--space", "small.yaml", *arguments]
        with contextlib.ExitStack() as stack:
            return subprocess.Popen(
                command,
                cwd=self.folder,
                stdout=stack.enter_context(output.open("w")) if output is not None else subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                start_new_session=True,
            )

    def run(self, *arguments: str, exits: int = 0, wrapper: Sequence[str] = (), timeout: float = 240) -> str:
        """Run the command to its end; returns what it printed."""
        process = self.start(*arguments, wrapper=wrapper)
        output, _ = process.communicate(timeout=timeout)
        assert process.returncode == exits, output
        assert "Traceback" not in output
        return output

    def histories(self) -> dict[Path, bytes]:
        """The content of each trajectory's history file."""
        paths = (self.results().path / "trajectories").glob("*/history.jsonl")
        return {path: path.read_bytes() for path in paths}

    def histories_of_ended(self) -> dict[Path, bytes]:
        """The histories of the trajectories that have ended."""
        return {path: content for path, content in self.histories().items() if (path.parent / "outcome.json").exists()}

    def results(self, name: str = "small") -> StudyFolder:
        """The study's folder."""
        return StudyFolder(self.folder / "studies" / name)

    def plan(self, name: str = "small") -> Plan:
        """The plan in the study's folder."""
        plan = read_plan(self.results(name))
        assert plan is not None
        return plan

    def runs(self, name: str = "small", uri: str | None = None) -> list[Run]:
        """The MLflow runs of the study's cells."""
        client = MlflowClient(uri or f"sqlite:///{self.results(name).mlflow_file}")
        experiment = client.get_experiment_by_name(name)
        assert experiment is not None
        runs = client.search_runs([experiment.experiment_id])
        return [run for run in runs if "mlflow.parentRunId" in run.data.tags]


def without_times(epochs: Sequence[Epoch]) -> list[tuple[Any, ...]]:
    """A history without its times."""
    names = [name for name in Epoch.__slots__ if name not in ("time", "train_seconds")]
    return [tuple(getattr(epoch, name) for name in names) for epoch in epochs]


def same_predictions(first: Predictions | None, second: Predictions | None) -> bool:
    """Whether both have the same examples with the same logits, to the bit, or both are missing."""
    if first is None or second is None:
        return first is second
    return np.array_equal(first.example_id, second.example_id) and np.array_equal(first.logits, second.logits)


def assert_same_records(study: Study, reference: Study) -> None:
    """Assert that every trajectory has the history and the predictions that it has in ``reference``, to the bit."""
    for trajectory in study.plan().trajectories:
        folder, expected = (each.results().trajectory(trajectory.id) for each in (study, reference))
        assert without_times(folder.epochs()) == without_times(expected.epochs())
        for epoch in range(1, trajectory.epochs + 1):
            for split in ("validation", "test"):
                assert same_predictions(folder.predictions(epoch, split), expected.predictions(epoch, split))


def assert_mirrored_once(study: Study, uri: str | None = None) -> None:
    """Assert that MLflow has one finished run of each cell, and one point of each metric and step."""
    uri = uri or f"sqlite:///{study.results().mlflow_file}"
    runs = study.runs(uri=uri)
    assert sorted(run.data.tags["cell"] for run in runs) == sorted(cell.id for cell in study.plan().cells)
    assert {run.info.status for run in runs} == {"FINISHED"}
    client = MlflowClient(uri)
    for run in runs:
        for key in run.data.metrics:
            steps = [point.step for point in client.get_metric_history(run.info.run_id, key)]
            assert len(steps) == len(set(steps)), key
