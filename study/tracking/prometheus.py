"""Prometheus gauges of a trajectory while it trains, which the worker's Ray node exports.

Each name is exported with ``ray_`` before it. Ray is imported only where gauges are created, in a Ray worker: the loop,
its tests and the benchmarks run without.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Self

from study.records import Epoch, Interval, Record
from study.scoring import ACCURACY
from study.storage import TrajectoryFolder

# The labels of every gauge: the study's folder, the trajectory's readable name, and the name of its folder.
LABELS = ("study", "trajectory", "id")
GAUGES: Mapping[str, str] = {
    "study_epochs_planned": "Epochs that the trajectory trains at most",
    "study_epochs_done": "Epochs that have ended, their evaluation included",
    "study_examples_seen": "Training examples so far",
    "study_examples_per_second": "Training examples per second of training",
    "study_train_loss": "Mean loss of the last interval's examples, in nats",
    "study_gradient_norm": "Mean gradient norm of the last interval's optimizer steps, before clipping",
    "study_best_validation_accuracy": "Highest validation accuracy of the epochs so far",
    "study_majority_share": "Share of the class predicted most often on validation, after the last epoch",
    "study_non_finite": "1 once a loss or a gradient was not finite, else 0",
}
Publish = Callable[[Mapping[str, float]], None]


class GaugeObserver:
    """Turns a trajectory's records into values of :data:`GAUGES` and gives those that may have changed to ``publish``.

    ``past`` are the epochs of earlier processes, after which this one resumes.
    """

    def __init__(self, publish: Publish, *, epochs_planned: int, past: Iterable[Epoch] = ()) -> None:
        self.publish = publish
        self.last: Record | None = None
        self.before_epoch = 0
        self.best = 0.0
        self.non_finite = False
        publish({"study_epochs_planned": epochs_planned, "study_epochs_done": 0, "study_non_finite": 0})
        for epoch in past:
            self.observe(epoch)

    def observe(self, record: Record) -> None:
        """Publish the values of ``record``."""
        values = {"study_examples_seen": float(record.examples_seen), "study_train_loss": record.train_loss}
        self.non_finite |= not math.isfinite(record.train_loss)
        if isinstance(record, Epoch):
            self.best = max(self.best, record.validation[ACCURACY.name])
            self.non_finite |= record.non_finite_steps > 0
            values["study_epochs_done"] = record.epoch
            values["study_best_validation_accuracy"] = self.best
            values["study_majority_share"] = record.majority_share
            rate = (record.examples_seen - self.before_epoch, record.train_seconds)
            self.before_epoch = record.examples_seen
        else:
            self.non_finite |= not math.isfinite(record.gradient_norm)
            values["study_gradient_norm"] = record.gradient_norm
            # When the first interval of an epoch, or of a process, began is not recorded.
            last = self.last if isinstance(self.last, Interval) else record
            rate = (record.examples_seen - last.examples_seen, record.time - last.time)
        if min(rate) > 0:
            values["study_examples_per_second"] = rate[0] / rate[1]
        self.last = record
        self.publish({**values, "study_non_finite": float(self.non_finite)})

    def end(self) -> None:
        """The trajectory has stopped training; its other values stay."""
        self.publish({"study_examples_per_second": 0.0})


def ascii_label(name: str) -> str:
    """``name`` in ASCII, because any other character in a label makes Ray fail the worker's trajectory."""
    return name.replace(" · ", ", ").encode("ascii", "replace").decode()


class Repeater:
    """Sets the newest values again and again, from a thread of its own; use it as a context.

    Ray exports the gauges that were set since its last export, at most once a second, and drops the others.
    """

    def __init__(self, set_gauges: Publish, *, every_seconds: float = 1.0) -> None:
        self._set_gauges = set_gauges
        self.every_seconds = every_seconds
        self._values: dict[str, float] = {}
        self._lock = threading.Lock()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._repeat, name="metrics", daemon=True)

    def publish(self, values: Mapping[str, float]) -> None:
        """Set these values from now on, and others as before."""
        with self._lock:
            self._values.update(values)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _repeat(self) -> None:
        over = False
        while not over:
            over = self._over.wait(self.every_seconds)
            with self._lock:
                values = dict(self._values)
            self._set_gauges(values)


@contextmanager
def observed(folder: TrajectoryFolder) -> Iterator[GaugeObserver]:
    """An observer whose values the node of this Ray worker exports, for as long as the context lasts."""
    from ray.util.metrics import Gauge

    config = folder.config()
    assert config is not None, f"{folder.path} was never planned"
    values = (folder.study.name, config.name, folder.id)
    labels = {label: ascii_label(value) for label, value in zip(LABELS, values, strict=True)}
    gauges = {name: Gauge(name, description=text, tag_keys=LABELS) for name, text in GAUGES.items()}

    def set_gauges(values: Mapping[str, float]) -> None:
        for name, value in values.items():
            gauges[name].set(value, tags=labels)

    with Repeater(set_gauges) as repeater:
        observer = GaugeObserver(repeater.publish, epochs_planned=config.max_epochs, past=folder.epochs())
        try:
            yield observer
        finally:
            observer.end()
