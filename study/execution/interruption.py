"""What happens when a study is asked to stop?"""

from __future__ import annotations

import signal
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any, Self

from study.records import StudyFolder

TAKEN_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Interrupted(Exception):
    """The study was asked to stop, and its trajectories have saved themselves."""


class Signals:
    """Takes SIGINT, SIGTERM and SIGHUP: the first asks the study to save and stop, the second ends it at once.

    While nothing is training yet, ``saving`` is False and the first one raises KeyboardInterrupt. A SIGHUP that
    ``nohup`` has told the process to ignore is ignored.
    """

    def __init__(self, folder: StudyFolder, tell: Callable[[str], None]) -> None:
        self.stop_file = folder.stop_file
        self.tell = tell
        self.saving = False
        self.received: str | None = None
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        self.stop_file.unlink(missing_ok=True)
        for number in TAKEN_SIGNALS:
            self._before[number] = signal.getsignal(number)
        self.take()
        return self

    def take(self) -> None:
        """Take the signals, again where Ray took SIGTERM for itself as it started."""
        for number in TAKEN_SIGNALS:
            if number != signal.SIGHUP or self._before[number] != signal.SIG_IGN:
                signal.signal(number, self._receive)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self.stop_file.unlink(missing_ok=True)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        again, self.received = self.received is not None, signal.Signals(number).name
        if again or not self.saving:
            raise KeyboardInterrupt
        self.stop_file.touch()
        self.tell(f"{self.received}: the running trajectories save themselves; once more to stop at once")
