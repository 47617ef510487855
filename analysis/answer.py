"""An answer to a question, and the evidence for it: estimates, tables and figures as data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from analysis.statistics.estimate import Estimate

UNDETERMINED = "undetermined"
MOST_BARS = 12

# How an estimate is written: a share and a difference of shares in percent and in points, any other number as it is.
Unit = Literal["share", "points", "number"]

Value = str | int | float | Estimate | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """Rows of values under ``columns``; ``formats`` says how each column's numbers are written.

    ``%`` percent with one decimal, ``+%`` a difference in percentage points, ``p`` a p-value, ``n`` a plain count,
    ``.3`` three decimals, ``+.3`` the same with a sign, ``g`` as short as possible, and ``t`` text. Of more than
    ``most_rows`` rows the first are shown, and the note says how many are not.
    """

    title: str
    columns: Sequence[str]
    formats: Sequence[str]
    rows: Sequence[Sequence[Value]]
    note: str = ""
    most_rows: int = 200

    def __post_init__(self) -> None:
        assert all(len(row) == len(self.columns) == len(self.formats) for row in self.rows), self.title

    @property
    def shown_rows(self) -> Sequence[Sequence[Value]]:
        """The rows that are shown."""
        return self.rows[: self.most_rows]

    @property
    def full_note(self) -> str:
        """The note, with the number of rows that are not shown."""
        return " ".join(filter(None, (self.note, not_shown(len(self.rows), self.most_rows, "rows"))))


def not_shown(total: int, most: int, things: str) -> str:
    """How many of ``total`` things are left out where at most ``most`` are shown; empty for none."""
    return f"{total - most:,} more {things} are not shown." if total > most else ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One line of a panel. ``group`` decides colour and legend entry; ``marks`` are (x, y) of points to be marked."""

    x: Sequence[float]
    y: Sequence[float]
    group: str
    thin: bool = False
    dots: bool = False
    low: Sequence[float] | None = None
    high: Sequence[float] | None = None
    marks: Sequence[tuple[float, float]] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Panel:
    """One pair of axes. ``levels`` are horizontal lines with a name each; ``diagonal`` draws y = x."""

    title: str
    x_label: str
    y_label: str
    lines: Sequence[Line]
    levels: Sequence[tuple[float, str]] = ()
    diagonal: bool = False
    log_x: bool = False
    y_range: tuple[float, float] | None = None
    percent_y: bool = False
    percent_x: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Bar:
    """One estimate of a :class:`Forest`."""

    label: str
    estimate: Estimate
    group: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Forest:
    """Estimates with their intervals, one below the other; ``reference`` is a vertical line."""

    title: str
    x_label: str
    bars: Sequence[Bar]
    reference: float | None = None
    percent: bool = False


def forests(
    title: str, x_label: str, bars: Sequence[Bar], *, reference: float | None = None, percent: bool = False
) -> list[Forest]:
    """Bars in panels of at most :data:`MOST_BARS`, so that none is taller than a screen."""
    parts = [bars[start : start + MOST_BARS] for start in range(0, len(bars), MOST_BARS)]
    return [
        Forest(
            title=title if len(parts) == 1 else f"{title} ({i} of {len(parts)})",
            x_label=x_label,
            bars=part,
            reference=reference,
            percent=percent,
        )
        for i, part in enumerate(parts, start=1)
    ]


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """Panels under one caption; ``name`` becomes the file's name, and ``mark`` is what a cross means.

    Of more than ``most_panels`` panels the first are shown, and the caption says how many are not.
    """

    name: str
    caption: str
    panels: Sequence[Panel | Forest]
    mark: str = ""
    most_panels: int = 24

    @property
    def shown_panels(self) -> Sequence[Panel | Forest]:
        """The panels that are shown."""
        return self.panels[: self.most_panels]

    @property
    def full_caption(self) -> str:
        """The caption, with the number of panels that are not shown."""
        return " ".join(filter(None, (self.caption, not_shown(len(self.panels), self.most_panels, "panels"))))


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """A command that a person can run, and what it would settle."""

    purpose: str
    command: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """The answer to one question.

    ``verdict`` is yes, no, a named choice or :data:`UNDETERMINED`; ``sentence`` is one that a reader can quote;
    ``estimate`` is the number that the verdict rests on, which ``estimated`` describes and ``unit`` writes; None where
    nothing could be estimated.
    """

    question: str
    verdict: str
    sentence: str
    estimate: Estimate | None = None
    estimated: str = ""
    unit: Unit = "points"
    seeds: int = 0
    tables: Sequence[Table] = ()
    figures: Sequence[Figure] = ()
    methods: Sequence[str] = ()
    caveats: Sequence[str] = ()
    next_commands: Sequence[Command] = ()
