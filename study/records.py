"""What is on disk of a study, and how is it written so that a crash never leaves half of it?

The study folder is the truth (MLflow mirrors it):

    STUDY/study.json, space.yaml, plan.json          what was asked for, with which versions
    STUDY/trajectories/ID/config.json                what this trajectory trains
                          history.jsonl              one record a line, only ever appended to
                          predictions/epoch-0003-test.parquet
                          outcome.json               written last: how it ended
                          checkpoints/, best-model/  where it stands, until it ends; its best weights, if asked for
                          error.log                  why it failed
    STUDY/optuna.db, mlflow.db, report.html          what a search chose, the mirror, the answers
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

Status = Literal["complete", "failed"]
# "cut" is what a trial scheduler does: the trajectory might have become better.
StopReason = Literal["epochs exhausted", "stopped early", "non-finite", "cut"]
Split = Literal["validation", "test"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    """Training between two points of the examples-seen axis, within one epoch.

    ``train_loss`` (nats) is the mean over the interval's examples, ``gradient_norm`` (before clipping) that over its
    optimizer steps; ``learning_rate`` is the last step's. ``time`` is seconds since 1970.
    """

    examples_seen: int
    optimizer_step: int
    train_loss: float
    gradient_norm: float
    learning_rate: float
    time: float
    kind: Literal["interval"] = "interval"


@dataclass(frozen=True, slots=True, kw_only=True)
class Epoch:
    """One epoch (from 1) and the evaluation after it.

    Losses and entropy are in nats. ``train_loss`` is the mean over the epoch's examples as they were trained on, with
    dropout. ``update_ratio`` is the mean of |change of the weights| / |weights| over the last optimizer step of each
    interval. ``majority_share``, ``entropy``, ``confidence`` and ``logit_std`` describe the predictions on validation:
    the share of the class predicted most often, the mean entropy and mean largest probability, and the standard
    deviation over examples of the logits, averaged over classes. The test scores are None unless this epoch is the
    best so far on validation, by loss or by accuracy.
    """

    epoch: int
    examples_seen: int
    optimizer_step: int
    train_loss: float
    validation_loss: float
    validation_accuracy: float
    test_loss: float | None
    test_accuracy: float | None
    gradient_norm_mean: float
    gradient_norm_max: float
    update_ratio: float
    majority_share: float
    entropy: float
    confidence: float
    logit_std: float
    non_finite_steps: int
    learning_rate: float
    train_seconds: float
    time: float
    kind: Literal["epoch"] = "epoch"


Record = Interval | Epoch


@dataclass(frozen=True, slots=True, kw_only=True)
class Predictions:
    """A split's predictions: example ids ``[n]``, labels ``[n]`` and logits ``[n, classes]`` (float32)."""

    example_id: npt.NDArray[np.int64]
    label: npt.NDArray[np.int64]
    logits: npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How a trajectory ended, and on what: ``device``, ``precision`` and ``micro_batch_size`` as really used.

    ``halved_at`` names the optimizer steps (from 0) at which memory did not suffice and the micro-batch was halved.
    ``peak_memory_bytes`` is the most that the process held of the accelerator's ``device_memory_bytes``, and
    ``utilisation`` the mean share of the time in which the accelerator was busy; None where there is none to measure.
    ``gpus`` is how many accelerators, or what part of one, it had.
    """

    status: Status
    stop_reason: StopReason | None = None
    epochs: int = 0
    train_seconds: float = 0.0
    device: str = ""
    precision: str = ""
    micro_batch_size: int = 0
    halved_at: tuple[int, ...] = ()
    peak_memory_bytes: int | None = None
    device_memory_bytes: int | None = None
    utilisation: float | None = None
    gpus: float = 0.0
    error: str | None = None
    log: str | None = None


def write_atomically(path: Path, content: bytes) -> None:
    """Write ``content`` so that ``path`` holds all of it or what it held before, even after a power cut."""
    # One name for all processes, of which one at a time writes: what a killed one leaves, the next takes up.
    part = path.with_name(f".{path.name}.part")
    try:
        with part.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make renames in ``folder`` durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_json(path: Path, values: object) -> None:
    """Write JSON values atomically."""
    write_atomically(path, (json.dumps(values, indent=1) + "\n").encode())


def read_json(path: Path) -> dict[str, Any] | None:
    """The JSON object in ``path``, None where there is no such file. Raises ValueError where it holds another thing."""
    try:
        return dict(json.loads(path.read_bytes()))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path} holds no JSON object ({error})") from error


@dataclass(frozen=True, slots=True)
class TrajectoryFolder:
    """Reads and writes the records of one trajectory."""

    path: Path

    def config(self) -> dict[str, Any] | None:
        """What the trajectory trains; None before it was planned."""
        return read_json(self.path / "config.json")

    def write_config(self, config: Mapping[str, Any]) -> None:
        """Say what the trajectory trains."""
        self.path.mkdir(parents=True, exist_ok=True)
        write_json(self.path / "config.json", config)

    @contextlib.contextmanager
    def locked(self) -> Iterator[bool]:
        """Whether nobody else trains it, and keep it so: a killed driver's worker may still be at it."""
        with (self.path / ".lock").open("a") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield False
            else:
                yield True

    def history(self) -> list[Record]:
        """All records, oldest first; a line that a crash cut short is left out."""
        try:
            content = (self.path / "history.jsonl").read_bytes()
        except FileNotFoundError:
            return []
        return [from_line(line) for line in content[: content.rfind(b"\n") + 1].splitlines()]

    def epochs(self) -> list[Epoch]:
        """The epochs of the history."""
        return [record for record in self.history() if isinstance(record, Epoch)]

    def append(self, records: Iterable[Record]) -> None:
        """Append to the history those records that it does not hold yet, and make them durable."""
        held = {(record.kind, record.examples_seen) for record in self.history()}
        lines = [to_line(record) for record in records if (record.kind, record.examples_seen) not in held]
        with (self.path / "history.jsonl").open("ab+") as file:
            file.seek(0)
            file.truncate(file.read().rfind(b"\n") + 1)
            file.writelines(lines)
            file.flush()
            os.fsync(file.fileno())
        sync_folder(self.path)

    def predictions_path(self, epoch: int, split: Split) -> Path:
        """Where the predictions of the checkpoint after ``epoch`` are kept."""
        return self.path / "predictions" / f"epoch-{epoch:04d}-{split}.parquet"

    def write_predictions(self, epoch: int, split: Split, predictions: Predictions) -> None:
        """Keep a split's predictions: columns example_id, label, logit_0, logit_1 and so on."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        columns = {"example_id": predictions.example_id, "label": predictions.label}
        columns |= {f"logit_{k}": np.ascontiguousarray(logit) for k, logit in enumerate(predictions.logits.T)}
        path = self.predictions_path(epoch, split)
        path.parent.mkdir(exist_ok=True)
        sink = pa.BufferOutputStream()
        pq.write_table(pa.table(columns), sink, compression="zstd")
        write_atomically(path, sink.getvalue().to_pybytes())

    def predictions(self, epoch: int, split: Split) -> Predictions | None:
        """A split's predictions after ``epoch``, None where that checkpoint was never the best so far."""
        return read_predictions(self.predictions_path(epoch, split))

    def outcome(self) -> Outcome | None:
        """How the trajectory ended; None while it has not."""
        values = read_json(self.path / "outcome.json")
        return Outcome(**{**values, "halved_at": tuple(values.get("halved_at", ()))}) if values is not None else None

    def write_outcome(self, outcome: Outcome) -> None:
        """Say how the trajectory ended. Everything else must be on disk by then."""
        write_json(self.path / "outcome.json", asdict(outcome))

    def forget_outcome(self) -> None:
        """Let a trajectory that has ended go on."""
        (self.path / "outcome.json").unlink(missing_ok=True)


@dataclass(frozen=True, slots=True)
class StudyFolder:
    """Reads and writes what a study's folder says of the study as a whole."""

    path: Path

    @property
    def stop_file(self) -> Path:
        """While this file is there, trajectories save themselves and end before they are done."""
        return self.path / ".stop"

    def manifest(self) -> dict[str, Any] | None:
        """Name, time of creation, versions, git commit, space and tracking of the study; None for no study."""
        return read_json(self.path / "study.json")

    def plan(self) -> dict[str, Any] | None:
        """The plan's JSON (see :func:`study.plan.plan.from_json`)."""
        return read_json(self.path / "plan.json")

    def write(self, *, manifest: Mapping[str, Any], plan: Mapping[str, Any], space: str) -> None:
        """Describe the study. The manifest comes last: with it the folder is a study."""
        self.path.mkdir(parents=True, exist_ok=True)
        write_atomically(self.path / "space.yaml", space.encode())
        write_json(self.path / "plan.json", plan)
        write_json(self.path / "study.json", manifest)

    def write_plan(self, plan: Mapping[str, Any]) -> None:
        """Replace the plan alone, to which a search adds cells."""
        write_json(self.path / "plan.json", plan)

    def trajectory(self, id_: str) -> TrajectoryFolder:
        """The folder of one trajectory, there or not."""
        return TrajectoryFolder(self.path / "trajectories" / id_)


def read_predictions(path: Path) -> Predictions | None:
    """The predictions in a Parquet file, None where there is none."""
    import pyarrow.parquet as pq

    if not path.exists():
        return None
    table = pq.read_table(path, use_threads=False)  # files are small, and handing out columns costs more than they do
    logits = [table[name].to_numpy() for name in table.column_names if name.startswith("logit_")]
    return Predictions(
        example_id=table["example_id"].to_numpy(),
        label=table["label"].to_numpy(),
        logits=np.stack(logits, axis=1).astype(np.float32, copy=False),
    )


def to_line(record: Record) -> bytes:
    """A record as one line of JSON; NaN and infinities as Python's ``json`` writes them."""
    return (json.dumps(asdict(record)) + "\n").encode()


def from_line(line: bytes) -> Record:
    """The record of one line."""
    return from_values(json.loads(line))


def from_values(values: Mapping[str, Any]) -> Record:
    """The record of a line's JSON values."""
    kind = Epoch if values["kind"] == "epoch" else Interval
    return kind(**values)
