"""The answer to a question and its evidence as data: estimates, tables, figures and proposed commands."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from analysis.statistics.estimate import Estimate

UNDETERMINED = "undetermined"
# The verdict of a question that the study's design does not ask, such as that of two models where it has one.
NOT_ASKED = "not asked"
BARS_A_PANEL = 12

# How an estimate is written: a share in percent, a difference of shares in percentage points, a number as it is.
Unit = Literal["share", "points", "number"]

Value = str | int | float | Estimate | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """Rows of values under ``columns``; ``formats`` says how the numbers of each column are written.

    ``%`` percent with one decimal, ``+%`` a difference in percentage points, ``p`` a p-value, ``n`` a plain count,
    ``.3`` three decimals, ``+.3`` the same with a sign, ``g`` as short as possible, and ``t`` text. At most
    ``most_rows`` rows are shown, the first ones, and the note says how many are not.
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
        return sentences(self.note, not_shown(len(self.rows), self.most_rows, "row"))


def not_shown(total: int, most: int, thing: str) -> str:
    """A sentence that says how many of ``total`` things are not shown where at most ``most`` are; empty for none."""
    hidden = total - most
    if hidden <= 0:
        return ""
    return f"1 more {thing} is not shown." if hidden == 1 else f"{hidden:,} more {thing}s are not shown."


def sentences(*parts: str) -> str:
    """The parts that are not empty, in a row."""
    return " ".join(filter(None, parts))


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One line of a panel.

    ``group`` decides colour and legend entry, ``name`` says what the line is, where the group does not. ``low`` and
    ``high`` are the bounds of ``y``, ``marks`` the (x, y) of points that get a cross. ``thin`` is for many lines in one
    panel, ``dots`` marks every point.
    """

    x: Sequence[float]
    y: Sequence[float]
    group: str
    name: str = ""
    thin: bool = False
    dots: bool = False
    low: Sequence[float] | None = None
    high: Sequence[float] | None = None
    marks: Sequence[tuple[float, float]] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Panel:
    """One pair of axes. ``levels`` are horizontal lines, each with its name; ``diagonal`` draws y = x.

    ``label_lines`` writes the names of the lines beside their ends; otherwise one sees them by pointing at a line.
    """

    title: str
    x_label: str
    y_label: str
    lines: Sequence[Line]
    levels: Sequence[tuple[float, str]] = ()
    diagonal: bool = False
    label_lines: bool = False
    log_x: bool = False
    x_range: tuple[float, float] | None = None
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
    """Estimates with their intervals, one below the other; ``reference`` is the place of a vertical line."""

    title: str
    x_label: str
    bars: Sequence[Bar]
    reference: float | None = None
    percent: bool = False


def forests(
    title: str, x_label: str, bars: Sequence[Bar], *, reference: float | None = None, percent: bool = False
) -> list[Forest]:
    """The bars in panels of at most :data:`BARS_A_PANEL` each, so that no panel is taller than a screen."""
    parts = [bars[start : start + BARS_A_PANEL] for start in range(0, len(bars), BARS_A_PANEL)]
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
    """Panels under one caption; ``name`` becomes the file's name, and ``mark`` says what a cross means.

    At most ``most_panels`` panels are shown, the first ones, and the caption says how many are not.
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
        return sentences(self.caption, not_shown(len(self.panels), self.most_panels, "panel"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """A command that a person can run, and its purpose as a verb phrase, such as "adds seeds".

    ``added`` has the values that it adds to settings of the study, ``overrides`` its other ``--set`` options.
    """

    purpose: str
    command: str
    added: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    overrides: Mapping[str, str] = field(default_factory=dict)


# The families in which claims are corrected: how often runs fail, and what they score.
Family = Literal["failures", "scores"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """What an answer claims if its p-value holds together with those of the report's other claims.

    ``verdict`` and ``sentence`` are the answer's in that case. ``p_value`` is that of the claim alone. ``wider`` claims
    say more, the most first, each with the p-value of the least certain thing it says: the first of those that hold
    under this claim's correction is made in its place.
    """

    family: Family
    p_value: float
    verdict: str
    sentence: str
    wider: Sequence[Claim] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """The answer to one question.

    ``verdict`` is a named choice, :data:`UNDETERMINED` or :data:`NOT_ASKED`; ``sentence`` is one that a reader can
    quote. Where there is a ``claim``, these are the verdict and the sentence for a claim that does not hold, and
    :mod:`analysis.findings` decides which of the two stand.
    ``estimate`` is the number that the verdict rests on, None where nothing could be estimated: ``estimated`` describes
    it, and ``unit`` says how it is written. ``seeds`` is the largest number of seeds of a condition.
    """

    question: str
    verdict: str
    sentence: str
    claim: Claim | None = None
    estimate: Estimate | None = None
    estimated: str = ""
    unit: Unit = "points"
    seeds: int = 0
    tables: Sequence[Table] = ()
    figures: Sequence[Figure] = ()
    methods: Sequence[str] = ()
    caveats: Sequence[str] = ()
    next_commands: Sequence[Command] = ()
