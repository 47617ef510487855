"""Stops a study on SIGINT, SIGTERM or SIGHUP, after its trajectories have saved a checkpoint."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any, Self

from study.locks import Lease
from study.storage import StudyFolder

HANDLED_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
# Seconds in which a signal is the same request as the one before: what a scheduler sends to all processes of a job (as
# `ray job stop` does) reaches the driver by itself and once more passed on by the command's first process.
SAME_WITHIN_SECONDS = 0.5


class Interrupted(Exception):
    """The study was asked to stop, and its trajectories have saved their checkpoints or have run out of time to."""


class InterruptHandler:
    """Handles the first signal by asking the study to save and stop, and the second by ending it at once.

    ``lease`` is that of the study's run, which may be taken over by another process. While nothing is training,
    ``saving`` is False and the first signal raises KeyboardInterrupt. A SIGHUP that ``nohup`` has set to be ignored is
    ignored.
    """

    def __init__(self, folder: StudyFolder, lease: Lease, notify: Callable[[str], None]) -> None:
        self.lease = lease
        self.stop = folder.stop_file(lease.holder.attempt)
        self.notify = notify
        self.saving = False
        self.received: str | None = None
        self._received_at = 0.0
        self._previous: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        self.stop.begin()
        for number in HANDLED_SIGNALS:
            self._previous[number] = signal.getsignal(number)
        self.install()
        return self

    def install(self) -> None:
        """Install the handlers, again after Ray has replaced that of SIGTERM."""
        for number in HANDLED_SIGNALS:
            if number != signal.SIGHUP or self._previous[number] != signal.SIG_IGN:
                signal.signal(number, self._receive)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self.stop.end()

    def _receive(self, number: int, frame: FrameType | None) -> None:
        again, now = self.received is not None, time.monotonic()
        if again and now - self._received_at < SAME_WITHIN_SECONDS:
            return
        self.received, self._received_at = signal.Signals(number).name, now
        if again or not self.saving:
            raise KeyboardInterrupt
        self.stop.request()
        self.notify(f"{self.received}: saving checkpoints…; press Ctrl-C again to stop immediately")
