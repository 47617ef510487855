"""An output stream that outlives the terminal or pipe behind it."""

from __future__ import annotations

import os
import sys
from typing import Any, TextIO, cast

from rich.console import Console

# The width of the output where it is not a terminal, so that tables are not cut.
LOG_WIDTH = 240


def open_console() -> Console:
    """The console of a command that continues when its output is closed."""
    console = Console(highlight=False, markup=False, file=cast("TextIO", DetachableStream(sys.stdout)))
    if not console.is_terminal:
        console.width = LOG_WIDTH
    return console


class DetachableStream:
    """A stream whose reader may go away, as a pipe's or a terminal does: later output is discarded without an error."""

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)

    def write(self, text: str) -> int:
        """Print; returns the number of characters."""
        try:
            return self.stream.write(text)
        except OSError:
            self._detach()
            return len(text)

    def flush(self) -> None:
        """Print what is buffered."""
        try:
            self.stream.flush()
        except OSError:
            self._detach()

    def _detach(self) -> None:
        """Send everything to the null device from now on, buffered output included."""
        os.dup2(os.open(os.devnull, os.O_WRONLY), self.stream.fileno())
