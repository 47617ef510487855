"""Does MLflow show what the study folder holds?

The folder is the truth and this its mirror. Mirroring again, from any process, changes nothing: runs are found again
by their tags, and a point carries the time of its record, so that MLflow's store takes its second copy for the first
(key, step, time and value are its primary key). A run's tag ``records`` counts what it holds already.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import shlex
import shutil
import sys
import tempfile
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

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
from mlflow.entities import Metric, Param, Run, RunTag, ViewType  # noqa: E402
from mlflow.exceptions import MlflowException  # noqa: E402
from mlflow.utils.validation import MAX_PARAM_VAL_LENGTH, MAX_TAG_VAL_LENGTH  # noqa: E402

from study.plan.cell_results import cell_result  # noqa: E402
from study.plan.plan import Cell, Plan, Trajectory, from_json, stable_id  # noqa: E402
from study.records import Epoch, StudyFolder, TrajectoryFolder  # noqa: E402
from study.tracking.run_contents import (  # noqa: E402
    STUDY_FILES,
    TRAJECTORY_FILES,
    Unfinished,
    Wanted,
    milliseconds,
    of_cell,
    of_study,
    without_credentials,
)

T = TypeVar("T")


class TrackingError(RuntimeError):
    """MLflow could not be reached or refused; the message holds no credentials."""


@dataclass(slots=True, kw_only=True)
class _Held:
    """What MLflow holds of one run, as far as this process knows."""

    id: str
    status: str
    tags: dict[str, str]
    params: set[str]


def _held(run: Run) -> _Held:
    return _Held(id=run.info.run_id, status=run.info.status, tags=dict(run.data.tags), params=set(run.data.params))


def _signature(files: Mapping[str, Path]) -> str:
    """Differs when the content of a text or the size of a table does."""
    return stable_id(
        {name: path.stat().st_size if path.suffix == ".parquet" else path.read_text() for name, path in files.items()}
    )


def _stage(files: Mapping[str, Path], folder: Path) -> None:
    """Lay files out as MLflow shall hold them, texts without credentials."""
    for name, source in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if source.suffix == ".parquet":
            shutil.copyfile(source, path)
        else:
            path.write_text(without_credentials(source.read_text()))


def _stamps(folder: Path, names: Sequence[str]) -> list[tuple[int, int] | None]:
    """Changes whenever one of these files does."""
    stamps: list[tuple[int, int] | None] = []
    for name in names:
        try:
            stat = (folder / name).stat()
        except FileNotFoundError:
            stamps.append(None)
        else:
            stamps.append((stat.st_size, stat.st_mtime_ns))
    return stamps


def batched(items: Sequence[T], size: int) -> list[Sequence[T]]:
    """``items`` in parts of at most ``size``: MLflow takes 1,000 metrics, or 100 params or tags, at once."""
    return [items[start : start + size] for start in range(0, len(items), size)]


class Mirror:
    """Mirrors one study's folder to MLflow; any number of mirrors of one folder may work at the same time.

    Without a ``tracking_uri`` the store is a sqlite file in the folder. A study on disk has an ``id`` in its manifest,
    which tells its runs from those of another study of the same name; ``created`` (seconds since 1970) is when its
    run starts, and all else in the manifest, but for its space and tracking, becomes tags.
    Raises ValueError for a URI that MLflow has no store for, :class:`TrackingError` if the sqlite file cannot be made.
    """

    def __init__(self, folder: StudyFolder, *, tracking_uri: str | None) -> None:
        self.folder = StudyFolder(folder.path.resolve())
        self._uri = tracking_uri or f"sqlite:///{self.folder.path / 'mlflow.db'}"
        self._study: tuple[object, dict[str, Any], Plan] | None = None
        self._experiment: str | None = None
        self._runs: dict[str, _Held] = {}
        self._states: dict[str, str] = {}
        self._seen: dict[str, object] = {}
        for name in ("mlflow", "alembic", "urllib3.connectionpool"):
            logging.getLogger(name).setLevel(logging.ERROR)
        if tracking_uri is None:
            # Making a client makes the tables, and of two processes that make them at once both fail.
            with self._failing_clearly(), self._alone():
                self._make_store()
                self._client = MlflowClient(self._uri)
                self._client.search_experiments(max_results=1)
            return
        try:
            self._client = MlflowClient(self._uri)
        except Exception as error:  # MLflow's for an unknown scheme; every database driver has its own
            raise ValueError(without_credentials(f"tracking URI {self._uri}: {error}")) from None

    def _make_store(self) -> None:
        """Make the sqlite file whole or not at all: MLflow does not go on from tables that a killed process began."""
        store, part = self.folder.path / "mlflow.db", self.folder.path / ".mlflow.db.part"
        if not store.exists():
            part.unlink(missing_ok=True)
            MlflowClient(f"sqlite:///{part}").search_experiments(max_results=1)
            part.rename(store)

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
        with self._failing_clearly(), self._alone():
            self._mirror(unfinished="RUNNING")

    def finish(self) -> None:
        """The same when nobody trains (any longer): runs that have not ended are KILLED.

        The study's run is FAILED when a cell has failed. The next :meth:`sync` makes all of them RUNNING again.
        """
        with self._failing_clearly(), self._alone():
            self._mirror(unfinished="KILLED")
            for held in self._runs.values():
                if held.status == "RUNNING":  # of cells that the plan no longer holds
                    self._set_status(held, "KILLED", None)

    @property
    def _on_server(self) -> bool:
        return self._uri.startswith(("http://", "https://"))

    @contextlib.contextmanager
    def _failing_clearly(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # MLflow, requests, SQLAlchemy and every artifact store have their own
            self._experiment = None
            self._runs.clear()
            self._seen.clear()
            logging.getLogger(__name__).debug(without_credentials(traceback.format_exc()))
            raise TrackingError(without_credentials(f"{type(error).__name__}: {error}")) from None

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """Two processes that looked for a run at once would both make it."""
        with (self.folder.path / ".mirror.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _mirror(self, *, unfinished: Unfinished) -> None:
        stamps = _stamps(self.folder.path, STUDY_FILES)
        if self._study is None or stamps != self._study[0]:
            manifest, values = self.folder.manifest(), self.folder.plan()
            assert manifest is not None, f"{self.folder.path} holds no study"
            assert values is not None, f"{self.folder.path} holds no plan"
            self._study = (stamps, manifest, from_json(values))
        _, manifest, plan = self._study
        if self._experiment is None:
            self._experiment = self._find_experiment(plan.study)
            self._find_runs(manifest["id"])
        parent = self._run("study", manifest["id"], plan.study, start=manifest.get("created"), tags={})
        cells = {cell.id: cell for cell in plan.cells}
        trials = {id_: trial.number for trial in plan.trials for id_ in trial.cells}
        for trajectory in plan.trajectories:
            folder = self.folder.trajectory(trajectory.id)
            now = (_stamps(folder.path, TRAJECTORY_FILES), trajectory.cells, unfinished)
            if now != self._seen.get(trajectory.id):
                self._mirror_trajectory(trajectory, folder, cells, trials, parent, manifest["id"], unfinished)
                self._seen[trajectory.id] = now
        states = [self._states[cell.id] for cell in plan.cells]
        whole = (stamps, _stamps(self.folder.path, ["report.html"]), states, unfinished)
        if whole != self._seen.get("study"):
            self._bring(parent, of_study(manifest, plan, states, folder=self.folder.path, unfinished=unfinished))
            self._seen["study"] = whole

    def _mirror_trajectory(
        self,
        trajectory: Trajectory,
        folder: TrajectoryFolder,
        cells: Mapping[str, Cell],
        trials: Mapping[str, int],
        parent: _Held,
        study_id: str,
        unfinished: Unfinished,
    ) -> None:
        # The outcome is written after the history: read in the other order, a history might lack its end.
        outcome, history = folder.outcome(), folder.history()
        epochs = [record for record in history if isinstance(record, Epoch)]
        started = bool(history) or outcome is not None
        for id_ in trajectory.cells:
            result = cell_result(cells[id_], owner=trajectory.cells[0], epochs=epochs, outcome=outcome)
            self._states[id_] = "running" if started and result.state == "planned" else result.state
            if not started:
                continue
            tags = {"mlflow.parentRunId": parent.id, "study_id": study_id}
            start = history[0].time if history else None
            held = self._run(id_, study_id, cells[id_].name, start=start, tags=tags)
            wanted = of_cell(
                result,
                state=self._states[id_],
                history=history,
                folder=folder,
                held=held.tags,
                trial=trials.get(id_),
                unfinished=unfinished,
            )
            self._bring(held, wanted)

    def _bring(self, held: _Held, wanted: Wanted) -> None:
        """Log what is missing of a run: whatever says that a thing is there comes after the thing."""
        params = {key: text for key, text in wanted.params.items() if key not in held.params}
        tags = {key: text[:MAX_TAG_VAL_LENGTH] for key, text in wanted.tags.items()}
        for some in batched([Param(key, text[:MAX_PARAM_VAL_LENGTH]) for key, text in params.items()], 100):
            self._client.log_batch(held.id, params=some)
        held.params |= params.keys()
        for some_points in batched(wanted.metrics, 1_000):
            self._client.log_batch(held.id, metrics=[Metric(*point) for point in some_points])
        self._tag(held, tags)
        if wanted.files and (signature := _signature(wanted.files)) != held.tags.get("artifacts"):
            with tempfile.TemporaryDirectory() as staging:
                _stage(wanted.files, Path(staging))
                self._client.log_artifacts(held.id, staging)
            self._tag(held, {"artifacts": signature})
        if held.status != wanted.status:
            self._set_status(held, wanted.status, wanted.end)

    def _tag(self, held: _Held, tags: Mapping[str, str]) -> None:
        changed = {key: text for key, text in tags.items() if held.tags.get(key) != text}
        for some in batched([RunTag(key, text) for key, text in changed.items()], 100):
            self._client.log_batch(held.id, tags=some)
        held.tags |= changed

    def _set_status(self, held: _Held, status: str, end: float | None) -> None:
        if status == "RUNNING":
            self._client.update_run(held.id, status=status)
        else:
            self._client.set_terminated(held.id, status, milliseconds(end) if end is not None else None)
        held.status = status

    def _find_experiment(self, name: str) -> str:
        experiment = self._client.get_experiment_by_name(name)
        if experiment is None:
            # A server keeps artifacts itself; beside a database they would land in the working directory.
            location = None if self._on_server else (self.folder.path / "mlartifacts").as_uri()
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
        """Learn of all this study's runs, or of one cell's. Of two for one cell the first one counts."""
        query = f"tags.study_id = '{study_id}'" + (f" AND tags.cell = '{cell}'" if cell else "")
        token: str | None = None
        while token != "":
            page = self._client.search_runs(
                [str(self._experiment)], query, ViewType.ACTIVE_ONLY, 1000, ["attributes.start_time ASC"], token
            )
            for run in page:
                self._runs.setdefault(run.data.tags["cell"], _held(run))
            token = page.token or ""

    def _run(self, cell: str, study_id: str, name: str, *, start: float | None, tags: Mapping[str, str]) -> _Held:
        """The run of a cell (``study`` for the parent's), made where there is none yet."""
        if cell not in self._runs:
            self._find_runs(study_id, cell)  # another process may have made it since
        if cell not in self._runs:
            run = self._client.create_run(
                str(self._experiment),
                start_time=milliseconds(start) if isinstance(start, float | int) else None,
                tags={**tags, "study_id": study_id, "cell": cell},
                run_name=without_credentials(name),
            )
            self._runs[cell] = _held(run)
        return self._runs[cell]


class Mirroring:
    """Mirrors in the background, so that neither a slow nor a missing MLflow holds up or ends the training.

    The mirror works every ``every_seconds`` and whenever poked; leaving the context mirrors what is left, for at most
    ``finish_within_seconds``. ``error`` is what went wrong when the mirror last worked, None if nothing did.
    """

    def __init__(self, mirror: Mirror, *, every_seconds: float = 5.0, finish_within_seconds: float = 60.0) -> None:
        self.mirror = mirror
        self.error: str | None = None
        self._every_seconds = every_seconds
        self._finish_within_seconds = finish_within_seconds
        self._poked = threading.Event()
        self._leaving = threading.Event()
        self._thread = threading.Thread(target=self._work, name="mlflow-mirror", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._leaving.set()
        self.poke()
        waited = f"within {self._finish_within_seconds:g} seconds"
        try:
            self._thread.join(self._finish_within_seconds)
        except KeyboardInterrupt:
            waited = "before it was interrupted"
        if self._thread.is_alive():
            self.error = f"MLflow did not take everything {waited}"

    def poke(self) -> None:
        """There is something new; returns at once."""
        self._poked.set()

    def _work(self) -> None:
        while not self._leaving.is_set():
            self._try(self.mirror.sync)
            self._poked.wait(self._every_seconds)
            self._poked.clear()
        self._try(self.mirror.finish)

    def _try(self, work: Callable[[], None]) -> None:
        try:
            work()
            self.error = None
        except TrackingError as error:
            self.error = str(error)
