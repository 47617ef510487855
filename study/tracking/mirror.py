"""Mirrors a study's folder to MLflow.

The folder is the truth. Mirroring again, from any process, changes nothing: runs are found again by their tags, and a
point carries the time of its record, so that MLflow's store takes its second copy for the first (key, step, time and
value are its primary key). A run's tag ``records`` counts what it has already.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shlex
import shutil
import sys
import tempfile
import traceback
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

# Read by MLflow when it is imported (the first) or called; a user's own values win.
for _name, _value in {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
}.items():
    os.environ.setdefault(_name, _value)

from mlflow import MlflowClient  # noqa: E402
from mlflow.entities import Metric, Param, RunTag, ViewType  # noqa: E402
from mlflow.entities import Run as MlflowRun  # noqa: E402
from mlflow.exceptions import MlflowException  # noqa: E402
from mlflow.utils.validation import MAX_PARAM_VAL_LENGTH, MAX_TAG_VAL_LENGTH  # noqa: E402

from study.credentials import without_credentials  # noqa: E402
from study.errors import TrackingError  # noqa: E402
from study.ids import stable_id  # noqa: E402
from study.locks import Lease  # noqa: E402
from study.plan.cell_results import CellState, cell_result  # noqa: E402
from study.plan.plan import Cell, Plan, Trajectory, read_plan  # noqa: E402
from study.records import Manifest  # noqa: E402
from study.storage import StudyFolder, replacing  # noqa: E402
from study.tracking.run_contents import (  # noqa: E402
    RunContents,
    Unfinished,
    cell_contents,
    milliseconds,
    study_contents,
)

T = TypeVar("T")


@dataclass(slots=True, kw_only=True)
class _KnownRun:
    """What MLflow has of one run, as far as this process knows."""

    id: str
    status: str
    tags: dict[str, str]
    params: set[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Description:
    """What the study folder says of the study, when its files had these ``stamps``."""

    stamps: object
    manifest: Manifest
    plan: Plan
    cells: Mapping[str, Cell]
    trials: Mapping[str, int]


def _known_run(run: MlflowRun) -> _KnownRun:
    return _KnownRun(id=run.info.run_id, status=run.info.status, tags=dict(run.data.tags), params=set(run.data.params))


def _signature(files: Mapping[str, Path]) -> str:
    """A hash that changes with the content of a text or the size of a table."""
    return stable_id(
        {name: path.stat().st_size if path.suffix == ".parquet" else path.read_text() for name, path in files.items()}
    )


def _stage(files: Mapping[str, Path], folder: Path) -> None:
    """Copy files to ``folder`` under their artifact paths, texts without credentials."""
    for name, source in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if source.suffix == ".parquet":
            shutil.copyfile(source, path)
        else:
            path.write_text(without_credentials(source.read_text()))


def _stamps(paths: Sequence[Path]) -> list[tuple[int, int] | None]:
    """Size and time of each file, which change whenever the file does."""
    stamps: list[tuple[int, int] | None] = []
    for path in paths:
        try:
            stat = path.stat()
        except FileNotFoundError:
            stamps.append(None)
        else:
            stamps.append((stat.st_size, stat.st_mtime_ns))
    return stamps


def batched(items: Sequence[T], size: int) -> list[Sequence[T]]:
    """``items`` in parts of at most ``size``: MLflow accepts 1,000 metrics, or 100 params or tags, at once."""
    return [items[start : start + size] for start in range(0, len(items), size)]


class Mirror:
    """Mirrors one study's folder to MLflow; any number of mirrors of one folder may work at the same time.

    Without a ``tracking_uri`` the store is a sqlite file in the folder. Raises ValueError for a URI that MLflow has no
    store for, :class:`TrackingError` if the sqlite file cannot be created.
    """

    def __init__(self, folder: StudyFolder, *, tracking_uri: str | None) -> None:
        self.folder = StudyFolder(folder.path.resolve())
        self._uri = tracking_uri or f"sqlite:///{self.folder.mlflow_file}"
        self._lease: Lease | None = None
        self._described: _Description | None = None
        self._experiment: str | None = None
        self._runs: dict[str, _KnownRun] = {}
        self._states: dict[str, CellState] = {}
        self._mirrored: dict[str, object] = {}
        for name in ("mlflow", "alembic", "urllib3.connectionpool"):
            logging.getLogger(name).setLevel(logging.ERROR)
        if tracking_uri is None:
            # Creating a client creates the tables, and of two processes that create them at once both fail.
            with self._tracking_errors(), self.folder.mirror_lock():
                self._create_store()
                self._client = MlflowClient(self._uri)
                self._client.search_experiments(max_results=1)
            return
        try:
            self._client = MlflowClient(self._uri)
        except Exception as error:  # MLflow's for an unknown scheme; every database driver has its own
            raise ValueError(without_credentials(f"tracking URI {self._uri}: {error}")) from None

    def _create_store(self) -> None:
        """Create the sqlite file as a whole: MLflow cannot continue from tables that a killed process began."""
        if not self.folder.mlflow_file.exists():
            with replacing(self.folder.mlflow_file) as part:
                MlflowClient(f"sqlite:///{part}").search_experiments(max_results=1)

    @property
    def ui_command(self) -> str:
        """The command that opens the MLflow UI on this study, or the address of the server; without credentials."""
        if self._on_server:
            return without_credentials(self._uri)
        program = Path(sys.executable).with_name("mlflow")
        arguments = ["ui", "--backend-store-uri", without_credentials(self._uri), "--port", "5000", "--workers", "1"]
        return shlex.join([str(program), *arguments])

    def sync(self) -> None:
        """Mirror what is new in the folder; runs that have not ended are RUNNING. Raises :class:`TrackingError`."""
        with self._tracking_errors(), self.folder.mirror_lock() as self._lease:
            self._mirror(unfinished="RUNNING")

    def finish(self) -> None:
        """The same when nobody trains (any longer): runs that have not ended are KILLED.

        The study's run is FAILED when a cell has failed. The next :meth:`sync` makes all of them RUNNING again.
        """
        with self._tracking_errors(), self.folder.mirror_lock() as self._lease:
            self._mirror(unfinished="KILLED")
            for run in self._runs.values():
                if run.status == "RUNNING":  # of cells that the plan no longer holds
                    self._set_status(run, "KILLED", None)

    @property
    def _on_server(self) -> bool:
        return self._uri.startswith(("http://", "https://"))

    @contextlib.contextmanager
    def _tracking_errors(self) -> Iterator[None]:
        """Raise TrackingError for any error, and forget what is known of MLflow: it may have changed meanwhile."""
        try:
            yield
        except Exception as error:  # MLflow, requests, SQLAlchemy and every artifact store have their own
            self._experiment = None
            self._runs.clear()
            self._mirrored.clear()
            logging.getLogger(__name__).debug(without_credentials(traceback.format_exc()))
            raise TrackingError(without_credentials(f"{type(error).__name__}: {error}")) from None

    def _describe(self) -> _Description:
        """The study's manifest and plan, read again when their files have changed."""
        stamps = _stamps(self.folder.description_files)
        if self._described is None or stamps != self._described.stamps:
            manifest, plan = self.folder.manifest(), read_plan(self.folder)
            assert manifest is not None, f"{self.folder.path} holds no study"
            assert plan is not None, f"{self.folder.path} holds no plan"
            self._described = _Description(
                stamps=stamps,
                manifest=manifest,
                plan=plan,
                cells={cell.id: cell for cell in plan.cells},
                trials={id_: trial.number for trial in plan.trials for id_ in trial.cells},
            )
        return self._described

    def _mirror(self, *, unfinished: Unfinished) -> None:
        study = self._describe()
        manifest, plan = study.manifest, study.plan
        if self._experiment is None:
            self._experiment = self._find_experiment(plan.study)
            self._find_runs(manifest.id)
        parent = self._run("study", manifest.id, plan.study, start=manifest.created, tags={})
        for trajectory in plan.trajectories:
            files = self.folder.trajectory(trajectory.id).record_files
            current = (_stamps(files), trajectory.cells, unfinished)
            if current != self._mirrored.get(trajectory.id):
                self._mirror_trajectory(trajectory, study, parent, unfinished)
                self._mirrored[trajectory.id] = current
        states = [self._states[cell.id] for cell in plan.cells]
        whole = (study.stamps, _stamps([self.folder.report]), states, unfinished)
        if whole != self._mirrored.get("study"):
            self._log(parent, study_contents(manifest, plan, states, folder=self.folder, unfinished=unfinished))
            self._mirrored["study"] = whole

    def _mirror_trajectory(
        self, trajectory: Trajectory, study: _Description, parent: _KnownRun, unfinished: Unfinished
    ) -> None:
        folder = self.folder.trajectory(trajectory.id)
        records = folder.read()
        for id_ in trajectory.cells:
            result = cell_result(study.cells[id_], owner=trajectory.cells[0], records=records)
            self._states[id_] = result.state
            if result.state == "planned":
                continue
            tags = {"mlflow.parentRunId": parent.id, "study_id": study.manifest.id}
            start = records.history[0].time if records.history else None
            run = self._run(id_, study.manifest.id, result.cell.name, start=start, tags=tags)
            contents = cell_contents(
                result,
                records=records,
                folder=folder,
                known_tags=run.tags,
                trial=study.trials.get(id_),
                unfinished=unfinished,
            )
            self._log(run, contents)

    def _log(self, run: _KnownRun, contents: RunContents) -> None:
        """Log what a run still lacks; a tag that marks something as logged is written after it.

        Raises LockLostError where another process mirrors the study by now.
        """
        assert self._lease is not None
        self._lease.check()
        params = {key: text for key, text in contents.params.items() if key not in run.params}
        tags = {key: text[:MAX_TAG_VAL_LENGTH] for key, text in contents.tags.items()}
        for batch in batched([Param(key, text[:MAX_PARAM_VAL_LENGTH]) for key, text in params.items()], 100):
            self._client.log_batch(run.id, params=batch)
        run.params |= params.keys()
        for points in batched(contents.metrics, 1_000):
            self._client.log_batch(run.id, metrics=[Metric(*point) for point in points])
        self._tag(run, tags)
        if contents.files and (signature := _signature(contents.files)) != run.tags.get("artifacts"):
            with tempfile.TemporaryDirectory() as staging:
                _stage(contents.files, Path(staging))
                self._client.log_artifacts(run.id, staging)
            self._tag(run, {"artifacts": signature})
        if run.status != contents.status:
            self._set_status(run, contents.status, contents.end)

    def _tag(self, run: _KnownRun, tags: Mapping[str, str]) -> None:
        changed = {key: text for key, text in tags.items() if run.tags.get(key) != text}
        for batch in batched([RunTag(key, text) for key, text in changed.items()], 100):
            self._client.log_batch(run.id, tags=batch)
        run.tags |= changed

    def _set_status(self, run: _KnownRun, status: str, end: float | None) -> None:
        if status == "RUNNING":
            self._client.update_run(run.id, status=status)
        else:
            self._client.set_terminated(run.id, status, milliseconds(end) if end is not None else None)
        run.status = status

    def _find_experiment(self, name: str) -> str:
        experiment = self._client.get_experiment_by_name(name)
        if experiment is None:
            # A server keeps artifacts itself; with a database they would be written to the working directory.
            location = None if self._on_server else self.folder.mlflow_artifacts.as_uri()
            try:
                return str(self._client.create_experiment(name, artifact_location=location))
            except MlflowException:  # another study of this name was faster
                experiment = self._client.get_experiment_by_name(name)
                if experiment is None:
                    raise
        if experiment.lifecycle_stage == "deleted":
            self._client.restore_experiment(experiment.experiment_id)
        return str(experiment.experiment_id)

    def _find_runs(self, study_id: str, cell: str | None = None) -> None:
        """Find all runs of this study, or of one cell; of two runs of one cell, the first counts."""
        query = f"tags.study_id = '{study_id}'" + (f" AND tags.cell = '{cell}'" if cell else "")
        token: str | None = None
        while token != "":
            page = self._client.search_runs(
                [str(self._experiment)], query, ViewType.ACTIVE_ONLY, 1000, ["attributes.start_time ASC"], token
            )
            for run in page:
                self._runs.setdefault(run.data.tags["cell"], _known_run(run))
            token = page.token or ""

    def _run(self, cell: str, study_id: str, name: str, *, start: float | None, tags: Mapping[str, str]) -> _KnownRun:
        """The run of a cell (``study`` for the parent's), created where there is none yet."""
        if cell not in self._runs:
            self._find_runs(study_id, cell)  # another process may have created it since
        if cell not in self._runs:
            run = self._client.create_run(
                str(self._experiment),
                start_time=milliseconds(start) if isinstance(start, float | int) else None,
                tags={**tags, "study_id": study_id, "cell": cell},
                run_name=without_credentials(name),
            )
            self._runs[cell] = _known_run(run)
        return self._runs[cell]
