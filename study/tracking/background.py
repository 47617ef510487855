"""Mirrors a study to MLflow in a thread, so that a slow or missing server neither delays nor ends the training."""

from __future__ import annotations

import threading
from collections.abc import Callable
from types import TracebackType
from typing import Self

from study.errors import StudyError, TrackingError
from study.storage import StudyFolder
from study.tracking.mirror import Mirror


def mirror_in_background(folder: StudyFolder, tracking_uri: str | None) -> BackgroundMirror:
    """The mirror of a study's folder. Raises StudyError where it cannot be opened."""
    try:
        return BackgroundMirror(Mirror(folder, tracking_uri=tracking_uri))
    except ValueError as error:
        raise StudyError(str(error)) from error
    except TrackingError as error:
        raise StudyError(f"{folder.mlflow_file}: {error}; delete the file, and it is rebuilt from the study") from error


class BackgroundMirror:
    """Runs a mirror every ``every_seconds``; leaving the context mirrors what is left, for a limited time.

    ``error`` is what went wrong when the mirror last ran, None if nothing did.
    """

    def __init__(self, mirror: Mirror, *, every_seconds: float = 5.0, finish_within_seconds: float = 60.0) -> None:
        self.mirror = mirror
        self.error: str | None = None
        self._every_seconds = every_seconds
        self._finish_within_seconds = finish_within_seconds
        self._leaving = threading.Event()
        self._thread = threading.Thread(target=self._run, name="mlflow-mirror", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._leaving.set()
        limit = f"within {self._finish_within_seconds:g} seconds"
        try:
            self._thread.join(self._finish_within_seconds)
        except KeyboardInterrupt:
            limit = "before it was interrupted"
        if self._thread.is_alive():
            self.error = f"MLflow did not take everything {limit}"

    def _run(self) -> None:
        while not self._leaving.is_set():
            self._try(self.mirror.sync)
            self._leaving.wait(self._every_seconds)
        self._try(self.mirror.finish)

    def _try(self, mirror: Callable[[], None]) -> None:
        try:
            mirror()
            self.error = None
        except TrackingError as error:
            self.error = str(error)
