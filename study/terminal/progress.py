"""What does a person see while a study trains?

A table that keeps itself up to date on a terminal, one line per event anywhere else.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Literal, Self, TextIO

from rich.console import Console, ConsoleRenderable
from rich.live import Live
from rich.table import Table
from rich.text import Text

from study.plan.plan import Trajectory

State = Literal["waiting", "running", "done", "cut", "failed"]
STYLES: dict[State, str] = {"waiting": "dim", "running": "", "done": "green", "cut": "yellow", "failed": "bold red"}
ORDER: Sequence[State] = ("running", "failed", "done", "cut", "waiting")
ENDED: Sequence[State] = ("done", "cut", "failed")


@dataclass(slots=True, kw_only=True)
class Row:
    """What is known of one trajectory."""

    trajectory: Trajectory
    state: State = "waiting"
    epoch: int = 0
    examples: int = 0
    examples_per_second: float | None = None
    train_loss: float | None = None
    best_accuracy: float | None = None
    error: str | None = None


class Lasting:
    """A stream that may go away, as a pipe's reader or a terminal does: what is printed then is lost, and no error."""

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)

    def write(self, text: str) -> int:
        """Print; returns the number of characters."""
        try:
            return self.stream.write(text)
        except OSError:
            self._leave()
            return len(text)

    def flush(self) -> None:
        """Print what is held back."""
        try:
            self.stream.flush()
        except OSError:
            self._leave()

    def _leave(self) -> None:
        """Let what comes from now on, and what the stream holds back, go nowhere."""
        os.dup2(os.open(os.devnull, os.O_WRONLY), self.stream.fileno())


class Progress:
    """A :class:`study.execution.tuner.View` of ``trajectories`` on a console; use it as a context.

    ``begun`` has the epochs that some ended in earlier runs; a search adds trajectories to those that are known.
    """

    def __init__(
        self,
        trajectories: Sequence[Trajectory],
        console: Console,
        *,
        begun: Mapping[str, int] | None = None,
        searching: bool = False,
    ) -> None:
        self.begun = begun or {}
        self.searching = searching
        self.rows = {trajectory.id: Row(trajectory=trajectory) for trajectory in trajectories}
        self.console = console
        self.start = time.monotonic()
        self._lock = threading.RLock()
        self._live = Live(get_renderable=self._render, console=console, refresh_per_second=2, transient=True)

    def __enter__(self) -> Self:
        if self.console.is_terminal:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.console.is_terminal:
            self._live.stop()

    def add(self, trajectory: Trajectory) -> None:
        """There is one more, of a search."""
        with self._lock:
            self.rows.setdefault(trajectory.id, Row(trajectory=trajectory))

    def say(self, text: str) -> None:
        """A line of its own, above the table where there is one."""
        self.console.print(text, markup=False, highlight=False)

    def started(self, trajectory: str) -> None:
        """A trajectory begins, or goes on after a failure."""
        row = self.rows[trajectory]
        again = row.state == "running"
        row.state = "running"
        epochs = self.begun.get(trajectory)
        self._line(
            row,
            "goes on after a failure" if again else f"goes on after epoch {epochs}" if epochs else "started",
        )

    def reported(self, trajectory: str, result: Mapping[str, Any]) -> None:
        """A trajectory has ended an epoch."""
        row = self.rows[trajectory]
        with self._lock:
            row.epoch, row.examples = result["epoch"], result["examples_seen"]
            row.train_loss, row.examples_per_second = result["train_loss"], result["examples_per_second"]
            row.best_accuracy = max(row.best_accuracy or 0.0, result["validation_accuracy"])
        self._line(
            row,
            f"epoch {row.epoch}/{row.trajectory.epochs}  train loss {row.train_loss:.3f}  "
            f"validation loss {result['validation_loss']:.3f}  accuracy {result['validation_accuracy']:.3f}",
        )

    def ended(self, trajectory: str, *, error: str | None, cut: bool = False) -> None:
        """A trajectory is done, was cut by a trial scheduler, or has failed for good."""
        row = self.rows[trajectory]
        row.state, row.error = "failed" if error else "cut" if cut else "done", error
        best = (
            f"best validation accuracy {row.best_accuracy:.3f}" if row.best_accuracy is not None else "no epoch ended"
        )
        ended = sum(row.state in ENDED for row in self.rows.values())
        counted = f"[{ended} done]" if self.searching else f"[{ended}/{len(self.rows)}]"
        self._line(row, f"{f'FAILED: {error}' if error else f'{row.state}, {best}'}  {counted}")

    def seconds_left(self) -> float | None:
        """An estimate from the rates so far and the number of trajectories that run at once; None without any rate."""
        rates = [row.examples_per_second for row in self.rows.values() if row.examples_per_second]
        going = [row for row in self.rows.values() if row.state in ("waiting", "running")]
        at_once = sum(row.state == "running" for row in going)
        if not rates or not at_once:
            return None
        left = sum(row.trajectory.examples - row.examples for row in going)
        return left / (at_once * sum(rates) / len(rates))

    def _line(self, row: Row, text: str) -> None:
        if not self.console.is_terminal:
            self.console.print(
                f"{time.strftime('%H:%M:%S')}  {row.trajectory.name}  {text}",
                markup=False,
                highlight=False,
                soft_wrap=True,
            )

    def _render(self) -> ConsoleRenderable:
        with self._lock:
            return self._table()

    def _table(self) -> Table:
        now, left = time.monotonic(), self.seconds_left()
        ended = sum(row.state in ENDED for row in self.rows.values())
        spent = f"{ended} of {len(self.rows)} trajectories · {duration(now - self.start)} so far"
        table = Table(
            title=Text(
                f"{spent} · {'about ' + duration(left) + ' left' if left is not None else 'first epochs running'}"
            ),
            title_justify="left",
            box=None,
            header_style="bold",
            padding=(0, 2, 0, 0),
        )
        table.add_column("trajectory", ratio=1)  # the one column that gives way where the terminal is narrow
        table.add_column("state", no_wrap=True)
        for name in ("epoch", "train loss", "best val. acc.", "examples/s", "left"):
            table.add_column(name, justify="right", no_wrap=True)
        room = max(3, self.console.height - 5)
        rows = sorted(self.rows.values(), key=lambda row: ORDER.index(row.state))
        for row in rows[:room]:
            self._add(table, row)
        if len(rows) > room:
            table.add_row(Text(f"and {len(rows) - room} more", style="dim"))
        return table

    def _add(self, table: Table, row: Row) -> None:
        rate = row.examples_per_second if row.state == "running" else None
        left = (row.trajectory.examples - row.examples) / rate if rate else None
        table.add_row(
            Text(row.trajectory.name, no_wrap=True, overflow="ellipsis"),
            row.state if row.error is None else f"{row.state}: {row.error[:40]}",
            f"{row.epoch}/{row.trajectory.epochs}",
            "" if row.train_loss is None else f"{row.train_loss:.3f}",
            "" if row.best_accuracy is None else f"{row.best_accuracy:.3f}",
            "" if rate is None else f"{rate:,.0f}",
            "" if left is None else duration(left),
            style=STYLES[row.state],
        )


def duration(seconds: float) -> str:
    """A time span as people say it: ``45 s``, ``12 min``, ``3 h 20 min``, ``2 d 4 h``."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 100:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return f"{hours} h {minutes} min" if minutes else f"{hours} h"
    return f"{hours // 24} d {hours % 24} h"
