"""What does an answer say, and on what evidence?"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

UNDETERMINED = "undetermined"
LEVEL = 0.95
MOST_BARS = 12


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """A number with its interval (:data:`LEVEL`) and the number of seeds behind it; NaN bounds mean that none is known.

    ``value`` is a fraction where it is a share or an accuracy; the report writes such numbers as percentages.
    """

    value: float
    low: float = math.nan
    high: float = math.nan
    seeds: int = 0

    def within(self, low: float, high: float) -> Estimate:
        """The same with its interval cut to what is possible: with few seeds Student's t knows no such bounds."""
        known = math.isfinite(self.low) and math.isfinite(self.high)
        return replace(self, low=max(low, self.low), high=min(high, self.high)) if known else self

    @property
    def excludes_zero(self) -> bool:
        """Whether the interval lies wholly above or wholly below zero."""
        return self.low > 0 or self.high < 0


Value = str | int | float | Estimate | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """Rows of values under ``columns``; ``formats`` says how each column's numbers are written.

    ``%`` percent with one decimal, ``+%`` a difference in percentage points, ``p`` a p-value, ``n`` a plain count,
    ``.3`` three decimals, ``+.3`` the same with a sign, ``g`` as short as it goes, and ``t`` text.
    """

    title: str
    columns: Sequence[str]
    formats: Sequence[str]
    rows: Sequence[Sequence[Value]]
    note: str = ""

    def __post_init__(self) -> None:
        assert all(len(row) == len(self.columns) == len(self.formats) for row in self.rows), self.title


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One line of a panel. ``group`` picks colour and legend entry, ``marks`` are (x, y) of points to be marked."""

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
    """Estimates with their intervals, one under the other; ``reference`` draws a vertical line."""

    title: str
    x_label: str
    bars: Sequence[Bar]
    reference: float | None = None
    percent: bool = False


def forests(title: str, x_label: str, bars: Sequence[Bar], *, percent: bool = False) -> list[Forest]:
    """Bars in panels of at most :data:`MOST_BARS`, so that none is taller than a screen."""
    parts = [bars[start : start + MOST_BARS] for start in range(0, len(bars), MOST_BARS)]
    return [
        Forest(
            title=title if len(parts) == 1 else f"{title} ({i} of {len(parts)})",
            x_label=x_label,
            bars=part,
            percent=percent,
        )
        for i, part in enumerate(parts, start=1)
    ]


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """Panels that belong together under one caption; ``name`` becomes the file's name."""

    name: str
    caption: str
    panels: Sequence[Panel | Forest]
    mark: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """A command that a person can run, and what it would settle."""

    purpose: str
    command: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """The answer to one question.

    ``verdict`` is yes, no, a named choice or :data:`UNDETERMINED`; ``sentence`` is one that a reader can quote;
    ``estimate`` is what the verdict rests on, in words ``estimated``, None where nothing could be estimated.
    """

    question: str
    verdict: str
    sentence: str
    estimate: Estimate | None = None
    estimated: str = ""
    percent: bool = True
    seeds: int = 0
    tables: Sequence[Table] = ()
    figures: Sequence[Figure] = ()
    methods: Sequence[str] = ()
    caveats: Sequence[str] = ()
    next_commands: Sequence[Command] = ()
