"""A study on an MLflow server, written as the study's folder.

Only what the mirror uploads is read, so that a report on another machine needs nothing but the tracking server. A
trajectory that has ended has all of its records there. Of a trajectory that is still training the server has only
metrics: its epochs are rebuilt from them, without test scores and predictions, which only ended cells have.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import Run as MlflowRun

from analysis.results import ResultsError
from study.credentials import without_credentials
from study.errors import StudyError
from study.plan.plan import Trajectory, read_plan
from study.records import Epoch
from study.scoring import METRICS
from study.storage import StudyFolder, TrajectoryFolder
from study.tracking.run_contents import EPOCH_METRICS, SPLITS

# Downloads mostly wait for the server; sqlite and the server's workers serve a few at a time.
DOWNLOADS = 4


@contextmanager
def study_from_mlflow(experiment: str, *, tracking_uri: str | None) -> Iterator[Path]:
    """A folder with the newest study of ``experiment``, deleted when the context ends.

    Raises ResultsError where there is no study or the server cannot be reached; its message holds no credentials.
    """
    if not tracking_uri:
        raise ResultsError(f"mlflow:{experiment}: no MLflow server given: use --tracking-uri or $MLFLOW_TRACKING_URI")
    with tempfile.TemporaryDirectory(prefix="study-") as folder:
        path = Path(folder)
        try:
            _write_study(MlflowClient(tracking_uri), experiment, path)
        except ResultsError:
            raise
        except Exception as error:  # MLflow, requests, SQLAlchemy and every artifact store raise errors of their own
            reason = without_credentials(f"{type(error).__name__}: {error}").splitlines()[0]
            server = without_credentials(tracking_uri)
            raise ResultsError(f"mlflow:{experiment} cannot be read from {server}: {reason}") from None
        yield path


def _write_study(client: MlflowClient, name: str, path: Path) -> None:
    experiment = client.get_experiment_by_name(name)
    if experiment is None:
        raise ResultsError(f"MLflow has no experiment named {name!r}")
    parents = _search(client, experiment.experiment_id, "tags.cell = 'study'")
    if not parents:
        raise ResultsError(f"the experiment {name!r} has no study: none of its runs has the tag cell = study")
    newest = parents[-1]
    _download(client, newest, "study", path)
    folder = StudyFolder(path)
    try:
        folder.manifest()  # a study of another format is refused before its records are read
    except StudyError as error:
        raise ResultsError(str(error)) from error
    plan = read_plan(folder)
    if plan is None:
        raise ResultsError(f"the experiment {name!r} has no plan yet: its study has only started")
    runs = {
        run.data.tags["cell"]: run
        for run in _search(client, experiment.experiment_id, f"tags.study_id = '{newest.data.tags['study_id']}'")
    }
    with ThreadPoolExecutor(DOWNLOADS) as workers:
        jobs = [workers.submit(_write_trajectory, client, trajectory, runs, path) for trajectory in plan.trajectories]
        for job in jobs:
            job.result()


def _search(client: MlflowClient, experiment_id: str, query: str) -> list[MlflowRun]:
    """All runs that match, the oldest first."""
    runs: list[MlflowRun] = []
    token: str | None = None
    while token != "":
        page = client.search_runs(
            [experiment_id], query, max_results=1_000, order_by=["attributes.start_time ASC"], page_token=token
        )
        runs += page
        token = page.token or ""
    return runs


def _download(client: MlflowClient, run: MlflowRun, folder: str, to: Path) -> None:
    """Download one of a run's artifact folders to ``to``; nothing where the run has no such folder."""
    if not client.list_artifacts(run.info.run_id, folder):
        return
    to.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=to.parent) as staging:
        shutil.copytree(client.download_artifacts(run.info.run_id, folder, staging), to, dirs_exist_ok=True)


def _write_trajectory(client: MlflowClient, trajectory: Trajectory, runs: Mapping[str, MlflowRun], path: Path) -> None:
    """Write one trajectory: its records where it has ended, else the epochs that its runs' metrics give."""
    owner = runs.get(trajectory.cells[0])
    if owner is None:
        return
    folder = StudyFolder(path).trajectory(trajectory.id)
    _download(client, owner, "trajectory", folder.path)
    if folder.outcome() is not None:
        return
    folder.path.mkdir(parents=True, exist_ok=True)
    epochs = _epochs(client, trajectory, owner)
    for id_ in trajectory.cells:
        if id_ in runs and runs[id_].data.tags.get("status") == "complete":
            epochs = _with_selected(client, runs[id_], epochs, folder)
    folder.append(epochs)


def _epochs(client: MlflowClient, trajectory: Trajectory, run: MlflowRun) -> list[Epoch]:
    """A running trajectory's epochs from the metrics of the run that owns it; only epochs with every metric."""
    names = {**EPOCH_METRICS, "train/learning_rate": "learning_rate"}
    names |= {f"validation/{metric}": f"validation/{metric}" for metric in METRICS}
    by_step: dict[int, dict[str, Any]] = {}
    for key, name in names.items():
        for point in client.get_metric_history(run.info.run_id, key):
            values = by_step.setdefault(point.step, {})
            values[name] = point.value
            if key == "train/epoch":
                values["time"] = point.timestamp / 1000
    return [
        _epoch(trajectory, step, values)
        for step, values in sorted(by_step.items())
        if set(names.values()) <= values.keys()
    ]


def _epoch(trajectory: Trajectory, examples_seen: int, values: Mapping[str, Any]) -> Epoch:
    number = int(values["epoch"])
    fields = {key: value for key, value in values.items() if not key.startswith("validation/")}
    return Epoch(
        **{
            **fields,
            "epoch": number,
            "examples_seen": examples_seen,
            "optimizer_step": min(number * trajectory.steps_per_epoch, trajectory.optimizer_steps),
            "non_finite_steps": int(values["non_finite_steps"]),
            "validation": {metric: values[f"validation/{metric}"] for metric in METRICS},
            "test": None,
        }
    )


def _with_selected(
    client: MlflowClient, run: MlflowRun, epochs: Sequence[Epoch], folder: TrajectoryFolder
) -> list[Epoch]:
    """A complete cell's test scores at its selected epoch, and that checkpoint's predictions."""
    metrics = run.data.metrics
    selected = int(metrics.get("chosen/epoch", 0))
    scores = {name: metrics[f"test/{name}"] for name in METRICS if f"test/{name}" in metrics} or None
    with tempfile.TemporaryDirectory(dir=folder.path) as staging:
        _download(client, run, "predictions", Path(staging) / "predictions")
        for split in SPLITS:
            source = Path(staging) / "predictions" / f"{split}.parquet"
            if selected and source.exists():
                target = folder.predictions_path(selected, split)
                target.parent.mkdir(exist_ok=True)
                shutil.move(source, target)
    return [replace(epoch, test=scores) if epoch.epoch == selected else epoch for epoch in epochs]
