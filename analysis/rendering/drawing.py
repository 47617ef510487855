"""Panels drawn into matplotlib's axes, in placeholder colours; every number that is drawn comes from the answer."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import replace

from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullFormatter, NullLocator

from analysis.answer import Forest, Line, Panel
from analysis.statistics.estimate import Estimate
from analysis.wording import says_nothing

# Placeholders; page.css has the colours of the page as --c0 to --c12.
INK, FAINT = "#010203", "#040506"
COLOURS = tuple(f"#0a00{number:02x}" for number in range(1, 14))
PANEL_INCHES = (3.5, 2.5)
# Beside a panel with labelled lines, per letter of the longest label, which is cut at so many letters.
LABEL_INCHES, LABEL_POINTS, LABEL_LETTERS = 0.047, 6.5, 32


def title_lines(panel: Panel | Forest) -> list[str]:
    """The title of a panel, wrapped to its width."""
    return textwrap.wrap(panel.title, 52) or [""]


def label_inches(panel: Panel | Forest) -> float:
    """The width of the labels beside a panel's lines; 0 without any."""
    if not isinstance(panel, Panel) or not panel.label_lines:
        return 0.0
    return LABEL_INCHES * max(len(_line_label(line)) for line in panel.lines)


def _line_label(line: Line) -> str:
    return textwrap.shorten(line.name, LABEL_LETTERS, placeholder=" …")


def draw(axes: Axes, panel: Panel | Forest, colours: Mapping[str, int]) -> None:
    """Draw a panel; ``colours`` has the place in :data:`COLOURS` of each group."""
    axes.set_title("\n".join(title_lines(panel)), loc="left")
    if isinstance(panel, Panel):
        _draw_panel(axes, panel, colours)
    else:
        _draw_forest(axes, panel, colours)


def _draw_panel(axes: Axes, panel: Panel, colours: Mapping[str, int]) -> None:
    _draw_thin_lines(axes, [line for line in panel.lines if line.thin], colours)
    for index, line in enumerate(panel.lines):
        if not line.thin:
            # A line that others may cover is wider than they are.
            covered_by = max(0, min(len(panel.lines), 4) - 1 - index)
            _draw_line(axes, line, COLOURS[colours[line.group]], covered_by=covered_by)
    if marks := [mark for line in panel.lines for mark in line.marks]:
        x, y = zip(*marks, strict=True)
        axes.plot(x, y, color=INK, linestyle="", marker="x", markersize=7, markeredgewidth=1.8, zorder=5)
    for level, name in panel.levels:
        axes.axhline(level, color=INK, linewidth=0.8, linestyle=(0, (2, 2)))
        axes.annotate(name, (1, level), xycoords=("axes fraction", "data"), fontsize=7.5, ha="right", va="bottom",
                      xytext=(0, 1), textcoords="offset points")  # fmt: skip
    if panel.diagonal:
        low = min((x for line in panel.lines for x in line.x), default=0.0)
        axes.plot([low, 1], [low, 1], color=INK, linewidth=0.8, linestyle=(0, (2, 2)))
    axes.set_xlabel(panel.x_label)
    axes.set_ylabel(panel.y_label)
    if panel.log_x:
        sizes = sorted({x for line in panel.lines for x in line.x})
        axes.set_xscale("log")
        axes.set_xticks(sizes, [f"{size:g}" for size in sizes])
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_minor_formatter(NullFormatter())
    else:
        axes.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]))
        axes.xaxis.set_major_formatter(_percent() if panel.percent_x or panel.diagonal else FuncFormatter(_short))
    axes.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]))
    if panel.percent_y:
        axes.yaxis.set_major_formatter(_percent())
    if panel.x_range is not None:
        axes.set_xlim(panel.x_range)
    if panel.y_range is not None:
        axes.set_ylim(panel.y_range)
    if panel.label_lines:
        _label_lines(axes, panel.lines, colours)


def _label_lines(axes: Axes, lines: Sequence[Line], colours: Mapping[str, int]) -> None:
    """Write each line's name beside its end, with room between the names, in the order of the ends."""
    low, high = axes.get_ylim()
    ends = []
    for line in lines:
        points = [point for point in zip(line.x, line.y, strict=True) if math.isfinite(point[1])]
        if points:
            ends.append((points[-1], line))
    ends.sort(key=lambda end: end[0][1])
    gap = 1.25 * LABEL_POINTS / (72 * axes.get_position().height * PANEL_INCHES[1])
    heights = _apart([min(max((y - low) / (high - low), 0.0), 1.0) for (_, y), _ in ends], gap)
    for ((x, y), line), height in zip(ends, heights, strict=True):
        colour = COLOURS[colours[line.group]]
        axes.annotate(
            _line_label(line),
            (x, min(max(y, low), high)),
            xytext=(1.04, height),
            textcoords="axes fraction",
            fontsize=LABEL_POINTS,
            color=colour,
            va="center",
            annotation_clip=False,
            arrowprops={
                "arrowstyle": "-",
                "color": colour,
                "linewidth": 0.5,
                "alpha": 0.7,
                "relpos": (0, 0.5),  # from the middle of the label's left side
                "shrinkA": 1,
                "shrinkB": 1,
            },
        )


def _apart(heights: Sequence[float], gap: float) -> list[float]:
    """Ascending ``heights`` moved to be at least ``gap`` apart, and below 1, where the panel's title is."""
    moved: list[float] = []
    for height in heights:
        moved.append(max(height, moved[-1] + gap) if moved else height)
    limit = 1 - gap / 2
    for place in range(len(moved) - 1, -1, -1):
        moved[place] = min(moved[place], limit)
        limit = moved[place] - gap
    return moved


def _draw_thin_lines(axes: Axes, lines: Sequence[Line], colours: Mapping[str, int]) -> None:
    """Many lines, drawn as one collection per group."""
    for group in dict.fromkeys(line.group for line in lines):
        members = [line for line in lines if line.group == group]
        colour = COLOURS[colours[group]]
        paths = [list(zip(line.x, line.y, strict=True)) for line in members]
        axes.add_collection(LineCollection(paths, colors=colour, linewidths=1.0, alpha=0.8))
        dots = [point for line, path in zip(members, paths, strict=True) if line.dots for point in path]
        axes.plot(*zip(*dots, strict=True), color=colour, linestyle="", marker="o", markersize=2.2) if dots else None
    axes.autoscale_view()


def _draw_line(axes: Axes, line: Line, colour: str, *, covered_by: int) -> None:
    marker = "o" if line.dots else None
    wider = 1.6 * covered_by
    axes.plot(line.x, line.y, color=colour, linewidth=1.8 + wider, marker=marker, markersize=4 + wider)
    if line.low is not None and line.high is not None:
        if line.dots:
            axes.vlines(line.x, line.low, line.high, color=colour, linewidth=1.2 + wider, alpha=0.7)
        else:
            axes.fill_between(line.x, line.low, line.high, color=colour, alpha=0.15, linewidth=0)


def _draw_forest(axes: Axes, panel: Forest, colours: Mapping[str, int]) -> None:
    """One estimate a row, its name above it, so that names have the whole width."""
    # Bars that span all that is possible say nothing, and would only make the others small.
    estimates = [_drawn(bar.estimate, share=panel.percent) for bar in panel.bars]
    ends = [end for estimate in estimates for end in (estimate.value, estimate.low, estimate.high)]
    bounds = [end for end in ends if math.isfinite(end)]
    if panel.reference is not None:
        bounds.append(panel.reference)
        axes.axvline(panel.reference, color=INK, linewidth=0.8, linestyle=(0, (2, 2)))
    for row, (bar, estimate) in enumerate(zip(panel.bars, estimates, strict=True)):
        colour = COLOURS[colours[bar.group]]
        if estimate.has_interval:
            axes.hlines(-row, estimate.low, estimate.high, color=colour, linewidth=2.2, alpha=0.8)
        if math.isfinite(estimate.value):
            axes.plot([estimate.value], [-row], color=colour, marker="o", markersize=5)
        axes.annotate(textwrap.shorten(bar.label, 62, placeholder=" …"), (0, -row + 0.24), fontsize=7.5, va="bottom",
                      xycoords=("axes fraction", "data"))  # fmt: skip
    axes.set_ylim(-len(panel.bars) + 0.5, 0.75)
    axes.set_yticks([])
    axes.grid(visible=False, axis="y")
    axes.spines["left"].set_visible(False)
    if bounds:
        margin = 0.04 * (max(bounds) - min(bounds) or 1)
        axes.set_xlim(min(bounds) - margin, max(bounds) + margin)
    axes.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]))
    if panel.percent:
        axes.xaxis.set_major_formatter(_percent())
    axes.set_xlabel(panel.x_label)


def _drawn(estimate: Estimate, *, share: bool) -> Estimate:
    """The estimate, without an interval that says nothing."""
    return replace(estimate, low=math.nan, high=math.nan) if share and says_nothing(estimate) else estimate


def _percent() -> FuncFormatter:
    return FuncFormatter(lambda value, _: f"{100 * value:.3g} %")


def _short(value: float, _: int) -> str:
    """Large numbers in thousands and millions."""
    for unit, suffix in ((1e6, "M"), (1e3, "k")):
        if abs(value) >= unit:
            return f"{value / unit:g}{suffix}"
    return f"{value:g}"
