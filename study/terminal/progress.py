"""The progress of a study while it trains: a live table on a terminal, one line per event anywhere else."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Literal, Self

from rich.console import Console, ConsoleRenderable
from rich.live import Live
from rich.table import Table
from rich.text import Text

from study.plan.plan import Trajectory
from study.records import Epoch
from study.scoring import ACCURACY, LOSS

RowState = Literal["waiting", "running", "done", "pruned", "failed"]
STYLES: dict[RowState, str] = {
    "waiting": "dim",
    "running": "",
    "done": "green",
    "pruned": "yellow",
    "failed": "bold red",
}
ORDER: Sequence[RowState] = ("running", "failed", "done", "pruned", "waiting")
ENDED: Sequence[RowState] = ("done", "pruned", "failed")


@dataclass(slots=True, kw_only=True)
class Row:
    """What is known of one trajectory."""

    trajectory: Trajectory
    state: RowState = "waiting"
    epoch: int = 0
    examples: int = 0
    examples_per_second: float | None = None
    train_loss: float | None = None
    best_accuracy: float | None = None
    error: str | None = None


class Progress:
    """A :class:`study.execution.tuner.ProgressListener` of ``trajectories`` on a console; use it as a context.

    ``started`` has the number of epochs that earlier starts have completed, by trajectory id.
    """

    def __init__(
        self,
        trajectories: Sequence[Trajectory],
        console: Console,
        *,
        started: Mapping[str, int] | None = None,
        searching: bool = False,
    ) -> None:
        self.started = started or {}
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

    def add_row(self, trajectory: Trajectory) -> None:
        """Show one more trajectory, which a search has chosen."""
        with self._lock:
            self.rows.setdefault(trajectory.id, Row(trajectory=trajectory))

    def say(self, text: str) -> None:
        """Print a sentence about the whole study, above the table where there is one."""
        self.console.print(f"{time.strftime('%H:%M:%S')}  {text}", markup=False, highlight=False, soft_wrap=True)

    def on_failure(self, trajectory: str, reason: str) -> None:
        """A trajectory has failed, and will be tried again."""
        self.say(f"{self.rows[trajectory].trajectory.name}  failed ({reason}); it resumes from its newest checkpoint")

    def on_move(self, trajectory: str, reason: str) -> None:
        """A trajectory leaves its node, which does not count as a failure."""
        self.say(f"{self.rows[trajectory].trajectory.name}  moves to another node ({reason})")

    def on_start(self, trajectory: str) -> None:
        """A trajectory starts, or resumes."""
        row = self.rows[trajectory]
        restarted = row.state == "running"
        row.state = "running"
        epochs = self.started.get(trajectory)
        self._log(
            row,
            "resumed from its newest checkpoint"
            if restarted
            else f"resumed after epoch {epochs}"
            if epochs
            else "started",
        )

    def on_epoch(self, trajectory: str, epoch: Epoch) -> None:
        """A trajectory has completed an epoch."""
        row = self.rows[trajectory]
        loss, accuracy = epoch.validation[LOSS.name], epoch.validation[ACCURACY.name]
        with self._lock:
            row.epoch, row.examples = epoch.epoch, epoch.examples_seen
            row.train_loss, row.examples_per_second = epoch.train_loss, epoch.examples_per_second
            row.best_accuracy = max(row.best_accuracy or 0.0, accuracy)
        self._log(
            row,
            f"epoch {row.epoch}/{row.trajectory.epochs}  train loss {row.train_loss:.3f}  "
            f"validation loss {loss:.3f}  accuracy {accuracy:.3f}",
        )

    def on_end(self, trajectory: str, *, error: str | None, stopped: bool = False) -> None:
        """A trajectory is done, was stopped by a trial scheduler, or has failed for good."""
        row = self.rows[trajectory]
        row.state, row.error = "failed" if error else "pruned" if stopped else "done", error
        best = "no epoch completed"
        if row.best_accuracy is not None:
            best = f"best validation accuracy {row.best_accuracy:.3f}"
        count = f"[{self._ended} done]" if self.searching else f"[{self._ended}/{len(self.rows)}]"
        self._log(row, f"{f'FAILED: {error}' if error else f'{row.state}, {best}'}  {count}")

    def seconds_left(self) -> float | None:
        """An estimate from the rates so far and the number of trajectories that run at once; None without any rate."""
        rates = [row.examples_per_second for row in self.rows.values() if row.examples_per_second]
        unfinished = [row for row in self.rows.values() if row.state in ("waiting", "running")]
        at_once = sum(row.state == "running" for row in unfinished)
        if not rates or not at_once:
            return None
        examples = sum(row.trajectory.examples - row.examples for row in unfinished)
        return examples / (at_once * sum(rates) / len(rates))

    @property
    def _ended(self) -> int:
        return sum(row.state in ENDED for row in self.rows.values())

    def _log(self, row: Row, text: str) -> None:
        """Print an event on a line of its own, where there is no table."""
        if not self.console.is_terminal:
            self.say(f"{row.trajectory.name}  {text}")

    def _render(self) -> ConsoleRenderable:
        with self._lock:
            return self._table()

    def _table(self) -> Table:
        left = self.seconds_left()
        elapsed = f"{self._ended} of {len(self.rows)} trajectories · {duration(time.monotonic() - self.start)} so far"
        remaining = "first epochs running" if left is None else f"about {duration(left)} left"
        table = Table(
            title=Text(f"{elapsed} · {remaining}"),
            title_justify="left",
            box=None,
            header_style="bold",
            padding=(0, 2, 0, 0),
        )
        table.add_column("trajectory", ratio=1)  # the one column that shrinks on a narrow terminal
        table.add_column("state", no_wrap=True)
        for name in ("epoch", "train loss", "best val. acc.", "examples/s", "left"):
            table.add_column(name, justify="right", no_wrap=True)
        most = max(3, self.console.height - 5)
        rows = sorted(self.rows.values(), key=lambda row: ORDER.index(row.state))
        for row in rows[:most]:
            _add(table, row)
        if len(rows) > most:
            table.add_row(Text(f"{len(rows) - most} more", style="dim"))
        return table


def _add(table: Table, row: Row) -> None:
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
