"""What a study keeps on disk, as dataclasses and as JSON: manifest, configs, histories and outcomes.

:mod:`study.storage` says where each of them lies. Everything that this version writes has :data:`FORMAT`; a study of
another format is refused, because its ids and records mean something else.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from study.scoring import Scores
from study.settings import Settings
from study.stopping import StoppingPolicy

# To be raised when this version could misread what an older one wrote (CONTRIBUTING says when).
FORMAT = 2

Status = Literal["complete", "failed"]
# "cut" is what a trial scheduler does: the trajectory might have become better.
StopReason = Literal["epochs exhausted", "stopped early", "non-finite", "cut"]
Split = Literal["validation", "test"]
Precision = Literal["float32", "bfloat16"]


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

    ``validation`` and ``test`` hold the scores by the metrics' names (:data:`study.scoring.METRICS`); ``test`` is None
    unless this epoch is the best so far on validation, by any of the metrics. ``train_loss`` (nats) is the mean over
    the epoch's examples as they were trained on, with dropout. ``update_ratio`` is the mean of |change of the weights|
    / |weights| over the last optimizer step of each interval. ``majority_share``, ``entropy`` (nats), ``confidence``
    and ``logit_std`` describe the predictions on validation: the share of the class predicted most often, the mean
    entropy and mean largest probability, and the standard deviation over examples of the logits, averaged over
    classes.
    """

    epoch: int
    examples_seen: int
    optimizer_step: int
    train_loss: float
    validation: Scores
    test: Scores | None
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

    def test_score(self, metric: str) -> float | None:
        """The test score by a metric's name, None where this epoch was not scored by it on test."""
        return None if self.test is None else self.test.get(metric)

    @property
    def examples_per_second(self) -> float:
        """Training examples per second of training, evaluation apart."""
        return self.examples_seen / self.epoch / max(self.train_seconds, 1e-9)


Record = Interval | Epoch


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How a trajectory ended, and on what: ``device``, ``precision`` and ``micro_batch_size`` as really used.

    ``halved_at`` lists the optimizer steps (from 0) at which memory did not suffice and the micro-batch was halved.
    ``peak_memory_bytes`` is the most memory that the process held of the accelerator's ``device_memory_bytes``; None
    where there is no accelerator. ``gpus`` is how many GPUs, or what part of one, it had.
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
    gpus: float = 0.0
    error: str | None = None
    log: str | None = None

    def to_json(self) -> dict[str, Any]:
        """The outcome as JSON values."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Outcome:
        """The outcome that :meth:`to_json` wrote."""
        return cls(**{**values, "halved_at": tuple(values["halved_at"])})


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """One process that trained a trajectory, from epoch ``epochs`` and optimizer step ``optimizer_step`` on.

    ``device``, ``precision`` and ``versions`` are what it ran on; ``time`` is when it began, in seconds since 1970.
    """

    host: str
    pid: int
    device: str
    precision: str
    versions: Mapping[str, str]
    epochs: int
    optimizer_step: int
    time: float


@dataclass(frozen=True, slots=True, kw_only=True)
class TrajectoryRecords:
    """The history of a trajectory, oldest record first, and how it ended; None while it has not."""

    history: Sequence[Record] = ()
    outcome: Outcome | None = None

    @property
    def epochs(self) -> tuple[Epoch, ...]:
        """The epochs that have been evaluated."""
        return tuple(record for record in self.history if isinstance(record, Epoch))

    @property
    def intervals(self) -> tuple[Interval, ...]:
        """The records within epochs."""
        return tuple(record for record in self.history if isinstance(record, Interval))

    @property
    def validation(self) -> list[Scores]:
        """The validation scores after each epoch, as :mod:`study.stopping` takes them."""
        return [epoch.validation for epoch in self.epochs]


@dataclass(frozen=True, slots=True, kw_only=True)
class TrajectoryConfig:
    """What a trajectory trains: all that a worker is given.

    ``encoded`` is the folder of encoded data, ``policies`` are those of the trajectory's cells, the owner's first, and
    ``optimizer_steps`` is the length of the longest. ``precision`` is what ``precision: auto`` came to in this study;
    None lets the device decide. ``objective`` is the metric that trial schedulers compare. ``commit`` is that of a hub
    model when the study started, so that all workers load the same files, and ask the hub for none that they have.
    """

    name: str
    settings: Settings
    encoded: str
    policies: tuple[StoppingPolicy, ...]
    optimizer_steps: int
    precision: Precision | None = None
    commit: str | None = None
    objective: str = "accuracy"
    checkpoint_every_minutes: float = 5.0
    gpus: float = 0.0
    keep_best_weights: bool = False

    @property
    def max_epochs(self) -> int:
        """Evaluations of the longest cell."""
        return max(policy.max_epochs or 0 for policy in self.policies)

    def to_json(self) -> dict[str, Any]:
        """The config as JSON values."""
        values = {name: getattr(self, name) for name in self.__slots__}
        policies = [asdict(policy) for policy in self.policies]
        return values | {"settings": self.settings.model_dump(mode="json"), "policies": policies}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> TrajectoryConfig:
        """The config that :meth:`to_json` wrote."""
        settings = Settings.stored(values["settings"])
        policies = tuple(StoppingPolicy(**policy) for policy in values["policies"])
        return cls(**{**values, "settings": settings, "policies": policies})


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """What a study is: its name, the data and models by content, and the versions that it was made with.

    ``id`` tells its MLflow runs from those of another study of the same name, ``created`` is seconds since 1970,
    ``precision`` what ``precision: auto`` came to (None until it is measured), ``tracking`` the tracking URI (None for
    a sqlite file in the study's folder) and ``git`` the code's commit and whether the code differs from it.
    """

    id: str
    name: str
    created: float
    versions: Mapping[str, str] = field(default_factory=dict)
    git: Mapping[str, Any] | None = None
    data: Mapping[str, Any] = field(default_factory=dict)
    models: Mapping[str, str] = field(default_factory=dict)
    precision: Precision | None = None
    tracking: str | None = None
    format: int = FORMAT

    def to_json(self) -> dict[str, Any]:
        """The manifest as JSON values."""
        return asdict(self)


def to_line(record: Record) -> bytes:
    """A record as one line of JSON; NaN and infinities as Python's ``json`` writes them."""
    return (json.dumps(asdict(record)) + "\n").encode()


def from_line(line: bytes | str) -> Record:
    """The record that :func:`to_line` wrote."""
    values = json.loads(line)
    return Epoch(**values) if values["kind"] == "epoch" else Interval(**values)
