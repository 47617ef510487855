"""The files of a study: where each is, and how it is written so that a crash at any moment leaves it whole.

The study folder is the truth, MLflow a mirror of it:

    STORAGE/.encoded/                                encoded data, shared by studies
    STORAGE/STUDY/study.json, space.yaml, plan.json  what was asked for, with which versions
                  trajectories/ID/config.json        what this trajectory trains
                                  history.jsonl      one record a line, only ever appended to
                                  predictions/epoch-0003-test.parquet
                                  outcome.json       written last: how it ended
                                  attempts.jsonl     which process trained it when, and on what
                                  checkpoints/       where it stands, until it ends
                                  best-model/        its best weights, if asked for
                                  error.log          why it failed
                  optuna.db, mlflow.db, mlartifacts/ what a search chose, the mirror
                  report.html, report.md, figures/   the answers
                  ray/                               Ray Tune's own state, never read again
                  .lock, .mirror.lock, .stop         who runs it, who mirrors it, which run is to stop
"""

from __future__ import annotations

import contextlib
import errno
import json
import math
import os
import shutil
import socket
import time
import uuid
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import numpy as np

from study import __version__
from study.errors import DamagedRecordWarning, StudyError
from study.locks import Holder, Lease, hold, parse_holder
from study.records import (
    FORMAT,
    Attempt,
    Epoch,
    Manifest,
    Outcome,
    Record,
    Split,
    TrajectoryConfig,
    TrajectoryRecords,
    from_line,
    to_line,
)
from study.scoring import Predictions

# Seconds between two sentences of who runs a study that another process waits for.
TELL_SECONDS = 30
# How old the part of a file must be to be left by a writer that was killed on another machine.
PART_SECONDS = 86_400
# How often a file is read that each time is replaced meanwhile.
STALE_READS = 20


@contextlib.contextmanager
def replacing(path: Path, *, first_wins: bool = False) -> Iterator[Path]:
    """Yield a temporary path; what is written there replaces ``path`` when the block ends without an error.

    ``path`` then holds all of the new content or what it held before, even after a power cut, whoever else writes it
    meanwhile. A folder whose process is killed while it is replaced may be missing, never incomplete. Where
    ``first_wins``, a folder that is there by then is left, and OSError raised.
    """
    _remove_parts(path.parent, path.name)
    part = path.with_name(f".{path.name}.{socket.gethostname()}.{os.getpid()}.{uuid.uuid4().hex[:8]}.part")
    aside = part.with_name(f"{part.name}.old")
    try:
        yield part
        _sync(part)
        if part.is_dir() and not first_wins:
            # Not deleted in its place: on NFS a folder whose files are open elsewhere cannot be deleted at once.
            with contextlib.suppress(FileNotFoundError):
                path.rename(aside)
        part.replace(path)
    finally:
        _remove(part)
        _remove(aside)
    _sync_one(path.parent)


def _remove_parts(folder: Path, name: str) -> None:
    """Remove what killed writers of ``name`` in ``folder`` have left.

    Whether a writer on another machine was killed cannot be known; what it leaves is removed after a day.
    """
    for part in folder.glob(f".{name}.*.part*"):
        writer, _, pid = part.name.rpartition(".part")[0].rpartition(".")[0].rpartition(".")
        here = writer.endswith(f".{socket.gethostname()}") and pid.isdecimal()
        with contextlib.suppress(OSError):  # of a part that is renamed at this moment
            if not _is_alive(int(pid)) if here else time.time() - part.stat().st_mtime > PART_SECONDS:
                _remove(part)


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # of another user's
        pass
    return True


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _sync(path: Path) -> None:
    """Make a file, or a folder and all that it holds, durable."""
    for inner in path.iterdir() if path.is_dir() else ():
        _sync(inner)
    _sync_one(path)


def _sync_one(path: Path) -> None:
    """Make a file's content, or the names in a folder, durable."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_bytes(path: Path, content: bytes) -> None:
    """Write ``content`` as a whole or not at all."""
    with replacing(path) as part:
        part.write_bytes(content)


def write_json(path: Path, values: object) -> None:
    """Write JSON values as a whole or not at all."""
    write_bytes(path, (json.dumps(values, indent=1) + "\n").encode())


def read_json(path: Path) -> dict[str, Any] | None:
    """The JSON object in ``path``, None where there is no such file. Raises ValueError for any other content."""
    content = read_bytes(path)
    try:
        return None if content is None else dict(json.loads(content))
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path} is not a JSON object ({error})") from error


def read_bytes(path: Path) -> bytes | None:
    """The content of a file, None where there is no such file."""
    for reads_left in reversed(range(STALE_READS)):
        try:
            try:
                return path.read_bytes()
            except FileNotFoundError:
                # NFS remembers for up to a minute that a file was missing, until its folder is listed.
                if path not in path.parent.iterdir():
                    return None
                return path.read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            # NFS has nothing left of a file that another machine replaces while it is read; the new one is read then.
            if error.errno != errno.ESTALE or not reads_left:
                raise
    raise AssertionError


@dataclass(frozen=True, slots=True)
class TrajectoryFolder:
    """Reads and writes the records of one trajectory."""

    path: Path

    @property
    def id(self) -> str:
        """The trajectory's id."""
        return self.path.name

    @property
    def study(self) -> StudyFolder:
        """The study that the trajectory belongs to."""
        return StudyFolder(self.path.parent.parent)

    @property
    def checkpoints(self) -> Path:
        """The folder of checkpoints, there until the trajectory ends."""
        return self.path / "checkpoints"

    @property
    def best_model(self) -> Path:
        """The folder of the best model, if it was asked for."""
        return self.path / "best-model"

    @property
    def error_log(self) -> Path:
        """The traceback of the last failure."""
        return self.path / "error.log"

    @property
    def _config(self) -> Path:
        return self.path / "config.json"

    @property
    def _history(self) -> Path:
        return self.path / "history.jsonl"

    @property
    def _outcome(self) -> Path:
        return self.path / "outcome.json"

    @property
    def _lock(self) -> Path:
        return self.path / ".lock"

    @property
    def _attempts(self) -> Path:
        return self.path / "attempts.jsonl"

    @property
    def record_files(self) -> tuple[Path, ...]:
        """The files of config, history, outcome and attempts, there or not."""
        return self._config, self._history, self._outcome, self._attempts

    def config(self) -> TrajectoryConfig | None:
        """What the trajectory trains; None before it was planned."""
        values = read_json(self._config)
        return None if values is None else TrajectoryConfig.from_json(values)

    def write_config(self, config: TrajectoryConfig) -> None:
        """Write what the trajectory trains."""
        self.path.mkdir(parents=True, exist_ok=True)
        write_json(self._config, config.to_json())

    def lock(self, *, give_up: Callable[[], bool]) -> contextlib.AbstractContextManager[Lease | None]:
        """Be the only process that trains the trajectory; None where ``give_up`` came to be true before.

        Another one may hold the lock: a worker that was left behind, on a machine that was taken for lost.
        """
        return hold(self._lock, give_up=give_up)

    def read(self) -> TrajectoryRecords:
        """History and outcome, whatever another process writes meanwhile."""
        # The outcome is written after the history: read in the other order, a history might lack its end.
        outcome = self.outcome()
        return TrajectoryRecords(history=self.history(), outcome=outcome)

    def history(self) -> list[Record]:
        """All records, oldest first, of which each epoch follows the one before.

        A line that a crash cut short is left out, and so is a damaged one, with a warning that names it. Where an epoch
        is lost with it, those after it are left out too: the trajectory is then not complete, and resumes.
        """
        records = sorted(self._records().values(), key=lambda record: (record.examples_seen, record.kind == "epoch"))
        epochs = (record for record in records if isinstance(record, Epoch))
        for expected, epoch in enumerate(epochs, start=1):
            if epoch.epoch != expected:
                warnings.warn(
                    f"{self._history} lacks epoch {expected}, so later ones are not used",
                    DamagedRecordWarning,
                    stacklevel=2,
                )
                return records[: records.index(epoch)]
        return records

    def _records(self) -> dict[tuple[str, int], Record]:
        """All records that can be read, by what no other has; of two writers' equal ones the first."""
        content = read_bytes(self._history) or b""
        records: dict[tuple[str, int], Record] = {}
        for number, line in enumerate(content.split(b"\n")[:-1], start=1):
            try:
                record = from_line(line)
            except (ValueError, TypeError, KeyError):
                # The line that a crash cut short ends where the next writer began.
                if not (line.startswith(b"{") and not line.endswith(b"}")):
                    warnings.warn(
                        f"{self._history}, line {number}: damaged, so it is not used",
                        DamagedRecordWarning,
                        stacklevel=3,
                    )
                continue
            records.setdefault((record.kind, record.examples_seen), record)
        return records

    def epochs(self) -> list[Epoch]:
        """The epochs of the history."""
        return [record for record in self.history() if isinstance(record, Epoch)]

    def renew_history(self) -> None:
        """Put the history into a new file, for the one that has just been given :meth:`lock`.

        What a process that lost the lock still writes then reaches the old file, which is gone. On NFS it would go to
        where the history's end was when its machine looked, and destroy what is there by now (open(2), O_APPEND).
        """
        write_bytes(self._history, read_bytes(self._history) or b"")

    def append(self, records: Iterable[Record], *, check: Callable[[], object] = lambda: None) -> None:
        """Append to the history those records that it does not hold yet, and make them durable.

        Nothing is ever taken away: a line that a crash cut short is ended first, and readers leave it out. ``check`` is
        called once the file is open, and raises where the lock is lost: whoever took it then renews the history, so
        what is written after a check goes to a file of the one who held the lock, or to none.
        """
        known = self._records()
        lines = [to_line(record) for record in records if (record.kind, record.examples_seen) not in known]
        _append_lines(self._history, lines, check=check)

    def attempts(self) -> list[Attempt]:
        """The processes that have trained the trajectory, oldest first; damaged lines are left out."""
        attempts = []
        for line in (read_bytes(self._attempts) or b"").splitlines():
            with contextlib.suppress(ValueError, TypeError):
                attempts.append(Attempt(**json.loads(line)))
        return attempts

    def append_attempt(self, attempt: Attempt) -> None:
        """Write that a process has begun to train the trajectory, and on what."""
        _append_lines(self._attempts, [(json.dumps(asdict(attempt)) + "\n").encode()])

    def lock_holder(self) -> Holder | None:
        """Who trains the trajectory, by the file of its lock; None where nobody does."""
        return parse_holder(read_bytes(self._lock) or b"")

    def predictions_path(self, epoch: int, split: Split) -> Path:
        """The file of the predictions of the checkpoint after ``epoch``."""
        return self.path / "predictions" / f"epoch-{epoch:04d}-{split}.parquet"

    def prediction_files(self) -> list[Path]:
        """The files of all predictions that were kept."""
        return sorted(self.path.glob("predictions/*.parquet"))

    def write_predictions(self, epoch: int, split: Split, predictions: Predictions) -> None:
        """Write a split's predictions: columns example_id, label, logit_0, logit_1 and so on."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        columns = {"example_id": predictions.example_id, "label": predictions.label}
        columns |= {f"logit_{k}": np.ascontiguousarray(logit) for k, logit in enumerate(predictions.logits.T)}
        path = self.predictions_path(epoch, split)
        path.parent.mkdir(exist_ok=True)
        sink = pa.BufferOutputStream()
        pq.write_table(pa.table(columns), sink, compression="zstd")
        write_bytes(path, sink.getvalue().to_pybytes())

    def predictions(self, epoch: int, split: Split) -> Predictions | None:
        """A split's predictions after ``epoch``; None on test where that checkpoint was never the best so far."""
        return read_predictions(self.predictions_path(epoch, split))

    def outcome(self) -> Outcome | None:
        """How the trajectory ended; None while it has not, and, with a warning, where the file is damaged."""
        try:
            values = read_json(self._outcome)
            return None if values is None else Outcome.from_json(values)
        except (ValueError, TypeError, KeyError) as error:
            warnings.warn(
                f"{self._outcome}: damaged, so the trajectory resumes ({error})", DamagedRecordWarning, stacklevel=2
            )
            return None

    def write_outcome(self, outcome: Outcome) -> None:
        """Write how the trajectory ended. Everything else must be on disk by then."""
        write_json(self._outcome, outcome.to_json())

    def forget_outcome(self) -> None:
        """Let a trajectory that has ended continue."""
        self._outcome.unlink(missing_ok=True)

    def delete_checkpoints(self) -> None:
        """Delete the checkpoints of a trajectory that has ended."""
        shutil.rmtree(self.checkpoints, ignore_errors=True)


def _append_lines(path: Path, lines: list[bytes], *, check: Callable[[], object] = lambda: None) -> None:
    """Append lines to a file, and make them durable; a line that a crash cut short is ended first."""
    try:
        with path.open("ab+") as file:
            check()
            if file.tell():
                file.seek(-1, os.SEEK_END)
                lines = lines if file.read() == b"\n" else [b"\n", *lines]
            file.write(b"".join(lines))  # at once, so that another writer's lines do not come between
            file.flush()
            os.fsync(file.fileno())
    except OSError:
        check()  # on NFS the file of one that lost the lock is stale
        raise
    _sync_one(path.parent)


def read_predictions(path: Path) -> Predictions | None:
    """The predictions in a Parquet file, None where there is none."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    if (content := read_bytes(path)) is None:
        return None
    # Files are small, and handing out columns costs more than they do.
    table = pq.read_table(pa.BufferReader(content), use_threads=False)
    logits = [table[name].to_numpy() for name in table.column_names if name.startswith("logit_")]
    return Predictions(
        example_id=table["example_id"].to_numpy(),
        label=table["label"].to_numpy(),
        logits=np.stack(logits, axis=1).astype(np.float32, copy=False),
    )


@dataclass(frozen=True, slots=True)
class StopFile:
    """The file by which one ``run`` of a study asks its trajectories to save a checkpoint and end before they are done.

    It asks all of them, or those on nodes that are about to end. It is there from the start of the run, and read: on
    NFS, whether a file is there may be known a minute late, and that it was there last time too, but a file that is
    opened is the newest (nfs(5), "close-to-open").
    """

    path: Path
    run: str

    def begin(self) -> None:
        """Ask for nothing yet, whatever an earlier run has left."""
        write_bytes(self.path, f"{self.run}\n".encode())

    def request(self) -> None:
        """Ask the trajectories of this run to stop."""
        self.path.write_text(f"{self.run} stop\n")

    def request_leaving(self, nodes: Iterable[str]) -> None:
        """Ask the trajectories of this run on these nodes, by their ids, to leave them."""
        self.path.write_text(" ".join([self.run, "leave", *sorted(nodes)]) + "\n")

    def requested(self) -> bool:
        """Whether this run has asked all trajectories to stop."""
        return self._content() == [self.run, "stop"]

    def leaving_requested(self, node: str) -> bool:
        """Whether this run has asked the trajectories on a node to leave it."""
        content = self._content()
        return content[:2] == [self.run, "leave"] and node in content[2:]

    def end(self) -> None:
        """Take the file away, unless it is another run's by now."""
        if self._content()[:1] == [self.run]:
            self.path.unlink(missing_ok=True)

    def _content(self) -> list[str]:
        return (read_bytes(self.path) or b"").decode().split()


@dataclass(frozen=True, slots=True)
class StudyFolder:
    """Reads and writes what a study's folder says of the study as a whole."""

    path: Path

    @property
    def name(self) -> str:
        """The study's name, which is the folder's."""
        return self.path.name

    @property
    def exists(self) -> bool:
        """Whether the folder holds a study, of whatever format."""
        return read_bytes(self.manifest_file) is not None

    @property
    def manifest_file(self) -> Path:
        """The file of what the study is, with which the folder is a study."""
        return self.path / "study.json"

    @property
    def space_file(self) -> Path:
        """The space as it was run, after all overrides."""
        return self.path / "space.yaml"

    @property
    def description_files(self) -> tuple[Path, ...]:
        """The files of manifest, space and plan, there or not."""
        return self.manifest_file, self.space_file, self.path / "plan.json"

    @property
    def optuna_file(self) -> Path:
        """The sqlite file of what a search chose."""
        return self.path / "optuna.db"

    @property
    def mlflow_file(self) -> Path:
        """The sqlite file of the mirror, unless a tracking server holds it."""
        return self.path / "mlflow.db"

    @property
    def mlflow_artifacts(self) -> Path:
        """The artifacts of the mirror beside :attr:`mlflow_file`."""
        return self.path / "mlartifacts"

    @property
    def report(self) -> Path:
        """The report as a page."""
        return self.path / "report.html"

    def report_files(self) -> list[Path]:
        """All files of the report that are there."""
        names = [self.report, self.path / "report.md", *self.path.glob("figures/*.svg")]
        return sorted(path for path in names if path.exists())

    @property
    def tune(self) -> Path:
        """Ray Tune's own state, which is thrown away at every start."""
        return self.path / "ray"

    @property
    def run_lock_file(self) -> Path:
        """The file of the lock of :meth:`run_lock`."""
        return self.path / ".lock"

    def stop_file(self, run: str) -> StopFile:
        """The file by which the ``run`` of this id asks its trajectories to stop."""
        return StopFile(self.path / ".stop", run)

    def manifest(self) -> Manifest | None:
        """What the study is; None where the folder holds no study.

        Raises StudyError for a study of another format, ValueError for a file that is not a manifest.
        """
        values = read_json(self.manifest_file)
        if values is None:
            return None
        if (found := values.get("format", 1)) != FORMAT:
            versions = values.get("versions")
            known = versions if isinstance(versions, dict) else {}
            writer = known.get("encoder-study", "an unknown version")
            raise StudyError(
                f"the study in {self.path} has format {found}, which encoder-study {writer} wrote and reads; this is "
                f"version {__version__}, which reads format {FORMAT}: use that version, or train anew with "
                "study.run --fresh"
            )
        try:
            return Manifest(**{name: values[name] for name in Manifest.__slots__ if name in values})
        except TypeError as error:
            raise ValueError(f"{self.manifest_file} is not a manifest: {error}") from error

    def write_manifest(self, manifest: Manifest) -> None:
        """Write what the study is; with this file, the folder is a study."""
        write_json(self.manifest_file, manifest.to_json())

    def plan(self) -> dict[str, Any] | None:
        """The plan's JSON values (see :func:`study.plan.plan.read_plan`)."""
        return read_json(self.path / "plan.json")

    def write_plan(self, plan: object) -> None:
        """Write the plan's JSON values."""
        write_json(self.path / "plan.json", plan)

    def write_space(self, text: str) -> None:
        """Write the space, after all overrides."""
        self.path.mkdir(parents=True, exist_ok=True)
        write_bytes(self.space_file, text.encode())

    def trajectory(self, id_: str) -> TrajectoryFolder:
        """The folder of one trajectory, there or not."""
        return TrajectoryFolder(self.path / "trajectories" / id_)

    @contextlib.contextmanager
    def run_lock(self, *, wait: float = 0, tell: Callable[[str], object] = lambda text: None) -> Iterator[Lease]:
        """Be the only process that runs the study, after waiting for at most ``wait`` seconds.

        ``tell`` is given a sentence of who runs it, at once and each half minute. Raises StudyError with that where the
        time does not suffice.
        """
        started, told = time.monotonic(), -math.inf

        def waiting(who: str) -> None:
            nonlocal told
            if time.monotonic() - told > TELL_SECONDS:
                told = time.monotonic()
                left = wait - (told - started)
                tell(f"the study in {self.path} is being run {who}; waiting for up to {left:.0f} s (--wait-lock)")

        try:
            self.path.mkdir(parents=True, exist_ok=True)
            stack = contextlib.ExitStack()
            lease = stack.enter_context(
                hold(self.run_lock_file, give_up=lambda: time.monotonic() - started >= wait, waiting=waiting)
            )
        except OSError as error:
            raise StudyError(f"the study's folder {self.path} cannot be written to ({error.strerror})") from error
        with stack:
            if lease is None:
                who = parse_holder(self.run_lock_file.read_bytes()) or "by another process"
                raise StudyError(f"the study in {self.path} is being run {who}; wait for it to end")
            yield lease

    def mirror_lock(self) -> contextlib.AbstractContextManager[Lease | None]:
        """Be the only process that mirrors the study: of two that looked for a run at once, both would create it."""
        return hold(self.path / ".mirror.lock")


@dataclass(frozen=True, slots=True)
class Storage:
    """The folder that holds studies, and the encoded data that they share."""

    path: Path

    @classmethod
    def locate(cls, storage: str) -> Storage:
        """The storage that ``--storage`` names, by path or ``file://`` URI.

        Raises StudyError where it is not a file system's.
        """
        try:
            parts = urlsplit(storage)
            path = Path(unquote(parts.path) if parts.scheme else storage).expanduser().resolve()
        except (RuntimeError, ValueError) as error:  # an unknown user, links in a circle, a malformed URI
            raise StudyError(f"--storage {storage}: not a folder ({error})") from error
        if parts.scheme not in ("", "file"):
            raise StudyError(
                f"--storage {parts.scheme}://…: studies need a file system that all nodes share, with locks, renames "
                "and appends, which a bucket lacks, mounted or not; give a folder on NFS, EFS, Filestore, Lustre or "
                "CephFS"
            )
        return cls(path)

    def create(self) -> Storage:
        """Make the folder if need be. Raises StudyError where it cannot be written to."""
        probe = self.path / f".writable.{os.getpid()}"
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            probe.write_bytes(b"")
            probe.unlink()
        except OSError as error:
            raise StudyError(f"--storage {self.path}: cannot be written to ({error.strerror})") from error
        return self

    @property
    def encoded(self) -> Path:
        """The cache of encoded data."""
        return self.path / ".encoded"

    def study(self, name: str, *, fresh: bool) -> StudyFolder:
        """The folder of the study ``name``: the newest of NAME, NAME.2, NAME.3, or, ``fresh``, the next.

        Raises StudyError for one that cannot be read.
        """
        number = 1
        try:
            while self._numbered(name, number + 1).exists:
                number += 1
            newest = self._numbered(name, number)
            if fresh and newest.exists:
                return self._numbered(name, number + 1)
            newest.manifest()
        except (OSError, ValueError) as error:
            raise StudyError(str(error)) from error
        return newest

    def _numbered(self, name: str, number: int) -> StudyFolder:
        return StudyFolder(self.path / (name if number == 1 else f"{name}.{number}"))
