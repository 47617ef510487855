"""What an MLflow store has of a study, read back so that it can be compared, and the server of a study's UI command."""

import shlex
import tempfile
from pathlib import Path
from typing import Any

import mlflow
from mlflow import MlflowClient
from mlflow.entities import Run
from servers import MlflowServer
from study_builder import StudyBuilder

from study.storage import replacing
from study.tracking.mirror import Mirror


def create_empty_store() -> Path:
    """A sqlite file with MLflow's tables, which take seconds to create: once for all tests of all processes."""
    path = Path(tempfile.gettempdir()) / f"encoder-study-tests-mlflow-{mlflow.__version__}.db"
    if not path.exists():
        with replacing(path) as part:
            MlflowClient(f"sqlite:///{part}").search_experiments(max_results=1)
    return path


def make_mirror(study: StudyBuilder, uri: str | None = None) -> Mirror:
    """A mirror of the study to the store ``uri``, or to the file in its folder."""
    return Mirror(study.folder, tracking_uri=uri)


def make_client(study: StudyBuilder, uri: str | None = None) -> MlflowClient:
    """A client of that store."""
    return MlflowClient(uri or f"sqlite:///{study.folder.mlflow_file}")


def runs_by_cell(study: StudyBuilder, uri: str | None = None) -> dict[str, Run]:
    """The run of each cell by its id, the parent's as ``study``; asserts that there is one of each."""
    client = make_client(study, uri)
    experiment = client.get_experiment_by_name(study.plan.study)
    assert experiment is not None
    query = f"tags.study_id = '{study.manifest.id}'"
    runs = list(client.search_runs([experiment.experiment_id], query, max_results=1_000))
    by_cell = {run.data.tags["cell"]: run for run in runs}
    assert len(by_cell) == len(runs)
    return by_cell


def curve(client: MlflowClient, run: Run, key: str) -> dict[int, float]:
    """A metric by examples seen; asserts that there is one point for each."""
    points = client.get_metric_history(run.info.run_id, key)
    by_step = {point.step: point.value for point in points}
    assert len(by_step) == len(points), key
    return by_step


def artifacts(client: MlflowClient, run: Run, path: str | None = None) -> dict[str, int]:
    """The size of each artifact of a run, by its path."""
    sizes: dict[str, int] = {}
    for file in client.list_artifacts(run.info.run_id, path):
        sizes |= artifacts(client, run, file.path) if file.is_dir else {file.path: file.file_size or 0}
    return sizes


def snapshot(study: StudyBuilder, uri: str | None = None) -> dict[str, Any]:
    """Everything that MLflow has of a study, by cell; NaN equals NaN."""
    client = make_client(study, uri)
    return {
        cell: {
            "info": (run.info.run_id, run.info.status, run.info.run_name, run.info.start_time, run.info.end_time),
            "params": run.data.params,
            "tags": run.data.tags,
            "curves": {key: repr(sorted(curve(client, run, key).items())) for key in sorted(run.data.metrics)},
            "artifacts": artifacts(client, run),
        }
        for cell, run in runs_by_cell(study, uri).items()
    }


class UiServer(MlflowServer):
    """The server that a study's ``ui_command`` starts."""

    starts_within_seconds = 60

    def __init__(self, study: StudyBuilder, port: int) -> None:
        super().__init__(study.folder.path, port)
        self.study = study

    def command(self) -> list[str]:
        command = shlex.split(make_mirror(self.study).ui_command)
        assert Path(command[0]).is_absolute()
        command[command.index("--port") + 1] = str(self.port)
        return command
