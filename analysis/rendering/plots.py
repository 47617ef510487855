"""Figures of answers as SVG; every number that is drawn comes from the answer.

Colours are placeholders at first: :func:`for_page` replaces them by the page's light and dark colours,
:func:`for_paper` by dark colours on white.
"""

from __future__ import annotations

import html
import io
import itertools
import math
import re
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure as Canvas
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullFormatter, NullLocator

from analysis.answer import Bar, Figure, Forest, Line, Panel

# Placeholders; page.css has the colours of the page as --c0 to --c8.
INK, FAINT = "#010203", "#040506"
COLOURS = tuple(f"#0a000{digit}" for digit in range(1, 10))
# Okabe & Ito (2008) and more, darkened or lightened so that each is legible on white.
ON_PAPER = ("#0072b2", "#d55e00", "#009e73", "#aa4499", "#b8860b", "#3a8fc4", "#7a5230", "#666666", "#96123f")
FINDING_COLOURS = {
    "healthy": 0,
    "collapsed": 1,
    "overfitting": 4,
    "collapsed and recovered": 3,
    "never learned": 6,
    "not learned yet": 5,
    "declined": 2,
    "flat, cause open": 7,
    "non-finite": 8,
    "failed": 1,
}
PANEL_INCHES = (3.5, 2.5)
LEFT_INCHES, BOTTOM_INCHES, SIDE_INCHES, TITLE_INCHES = 0.62, 0.46, 0.12, 0.24
BAR_INCHES = 0.36
COLUMNS = 2

STYLE: Any = {
    "svg.fonttype": "none",
    "text.parse_math": False,
    "svg.hashsalt": "study",
    "font.family": "sans-serif",
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.labelsize": 8.5,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "grid.color": FAINT,
    "grid.linewidth": 0.6,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.facecolor": "none",
    "figure.facecolor": "none",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class RenderedFigure:
    """A figure as SVG: its panels one by one, all in one picture, and the names of the legend with their colours."""

    panels: Sequence[str]
    whole: str
    legend: Sequence[tuple[str, int]]


def render(figure: Figure) -> RenderedFigure:
    """Draw all panels that ``figure`` shows."""
    colours = _colours(figure)
    with mpl.rc_context(STYLE):
        panels = [_svg(_single(panel, colours)) for panel in figure.shown_panels]
    legend = list(colours.items())
    return RenderedFigure(panels=panels, whole=_together(figure, panels, legend), legend=legend)


def for_page(svg: str) -> str:
    """The SVG with the page's colours, for its HTML."""
    svg = svg.replace(INK, "currentColor").replace(FAINT, "var(--grid)")
    for index, colour in enumerate(COLOURS):
        svg = svg.replace(colour, f"var(--c{index})")
    return svg


def for_paper(svg: str) -> str:
    """The SVG with dark colours on white, for a file."""
    svg = svg.replace(INK, "#1a1a1a").replace(FAINT, "#dddddd")
    for placeholder, colour in zip(COLOURS, ON_PAPER, strict=True):
        svg = svg.replace(placeholder, colour)
    start = svg.index(">", svg.index("<svg")) + 1
    return (
        f'<?xml version="1.0" encoding="utf-8"?>\n{svg[:start]}<rect width="100%" height="100%" '
        f'fill="#ffffff"/>{svg[start:]}'
    )


def _colours(figure: Figure) -> dict[str, int]:
    """A colour for each group, in the order in which groups appear; a finding has the same colour in every figure."""
    groups: dict[str, None] = {}
    for panel in figure.shown_panels:
        members: Sequence[Line | Bar] = panel.lines if isinstance(panel, Panel) else panel.bars
        groups.update(dict.fromkeys(member.group for member in members))
    unused = itertools.cycle(range(len(COLOURS)))
    return {name: FINDING_COLOURS[name] if name in FINDING_COLOURS else next(unused) for name in groups}


def _single(panel: Panel | Forest, colours: Mapping[str, int]) -> Canvas:
    width, height = PANEL_INCHES[0], _height(panel)
    canvas = Canvas(figsize=(width, height))
    left = LEFT_INCHES if isinstance(panel, Panel) else SIDE_INCHES
    title = TITLE_INCHES * len(_title(panel))
    bounds = (
        left / width,
        BOTTOM_INCHES / height,
        1 - (left + SIDE_INCHES) / width,
        1 - (BOTTOM_INCHES + title) / height,
    )
    _draw(canvas.add_axes(bounds), panel, colours)
    return canvas


def _height(panel: Panel | Forest) -> float:
    return PANEL_INCHES[1] if isinstance(panel, Panel) else 0.8 + BAR_INCHES * len(panel.bars)


def _title(panel: Panel | Forest) -> list[str]:
    return textwrap.wrap(panel.title, 52) or [""]


def _together(figure: Figure, panels: Sequence[str], legend: Sequence[tuple[str, int]]) -> str:
    """All panels in one picture, with the legend under them; lengths in points."""
    columns = min(COLUMNS, len(panels))
    width = 72 * PANEL_INCHES[0]
    parts, top = [], 0.0
    for first in range(0, len(panels), columns):
        row = range(first, min(first + columns, len(panels)))
        heights = [72 * _height(figure.shown_panels[index]) for index in row]
        for column, (index, height) in enumerate(zip(row, heights, strict=True)):
            place = f'<svg x="{column * width:.1f}" y="{top:.1f}" width="{width:.1f}" height="{height:.1f}" '
            parts.append(with_id_prefix(panels[index], f"p{index}").replace("<svg ", place, 1))
        top += max(heights)
    entries = [*legend, (figure.mark, -1)] if figure.mark else legend
    for first in range(0, len(entries) if len(entries) > 1 else 0, columns):
        top += 14
        for column, (name, colour) in enumerate(entries[first : first + columns]):
            parts.append(_legend_entry(name, colour, 12 + column * width, top))
    namespaces = 'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
    size = f"0 0 {columns * width:.1f} {top + 10:.1f}"
    return f'<svg {namespaces} viewBox="{size}">{"".join(parts)}</svg>'


def _legend_entry(name: str, colour: int, x: float, y: float) -> str:
    """A name with its colour, or with a cross where ``colour`` is negative."""

    def text(content: str, left: float, size: int) -> str:
        font = f'fill="{INK}" font-size="{size}" font-family="sans-serif"'
        return f'<text x="{left:.1f}" y="{y:.1f}" {font}>{html.escape(content)}</text>'

    if colour < 0:
        return text("×", x + 6, 11) + text(name, x + 24, 8)
    line = f'<rect x="{x:.1f}" y="{y - 4:.1f}" width="18" height="2.5" fill="{COLOURS[colour]}"/>'
    return line + text(name, x + 24, 8)


def with_id_prefix(svg: str, prefix: str) -> str:
    """The SVG with a prefix on its ids, so that several pictures fit on one page."""
    return re.sub(r'(id="|href="#|url\(#)', rf"\g<1>{prefix}-", svg)


def _draw(axes: Axes, panel: Panel | Forest, colours: Mapping[str, int]) -> None:
    axes.set_title("\n".join(_title(panel)), loc="left")
    if isinstance(panel, Panel):
        _draw_panel(axes, panel, colours)
    else:
        _draw_forest(axes, panel, colours)


def _draw_panel(axes: Axes, panel: Panel, colours: Mapping[str, int]) -> None:
    _draw_thin_lines(axes, [line for line in panel.lines if line.thin], colours)
    for line in panel.lines:
        if not line.thin:
            _draw_line(axes, line, COLOURS[colours[line.group]])
        for x, y in line.marks:
            axes.plot([x], [y], color=INK, marker="x", markersize=7, markeredgewidth=1.8, zorder=5)
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
    if panel.y_range is not None:
        axes.set_ylim(panel.y_range)


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


def _draw_line(axes: Axes, line: Line, colour: str) -> None:
    marker = "o" if line.dots else None
    axes.plot(line.x, line.y, color=colour, linewidth=1.8, marker=marker, markersize=4)
    if line.low is not None and line.high is not None:
        if line.dots:
            axes.vlines(line.x, line.low, line.high, color=colour, linewidth=1.2, alpha=0.7)
        else:
            axes.fill_between(line.x, line.low, line.high, color=colour, alpha=0.15, linewidth=0)


def _draw_forest(axes: Axes, panel: Forest, colours: Mapping[str, int]) -> None:
    """One estimate a row, its name above it, so that names have the whole width."""
    estimates = [bar.estimate for bar in panel.bars]
    ends = [end for estimate in estimates for end in (estimate.value, estimate.low, estimate.high)]
    bounds = [end for end in ends if math.isfinite(end)]
    if panel.reference is not None:
        bounds.append(panel.reference)
        axes.axvline(panel.reference, color=INK, linewidth=0.8, linestyle=(0, (2, 2)))
    for row, bar in enumerate(panel.bars):
        colour, estimate = COLOURS[colours[bar.group]], bar.estimate
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


def _percent() -> FuncFormatter:
    return FuncFormatter(lambda value, _: f"{100 * value:.3g} %")


def _short(value: float, _: int) -> str:
    """Large numbers in thousands and millions."""
    for unit, suffix in ((1e6, "M"), (1e3, "k")):
        if abs(value) >= unit:
            return f"{value / unit:g}{suffix}"
    return f"{value:g}"


def _svg(canvas: Canvas) -> str:
    """The picture as an SVG element without a size, and without ids that another picture would repeat."""
    file = io.StringIO()
    svg_canvas: Any = FigureCanvasSVG(canvas)
    svg_canvas.print_svg(file, metadata={"Date": None, "Creator": None})
    text = file.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"\s*<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r'<svg ([^>]*?)\s?width="[^"]*"', r"<svg \1", text, count=1)
    text = re.sub(r'<svg ([^>]*?)height="[^"]*" ', r"<svg \1", text, count=1)
    text = re.sub(r' id="(?:[a-zA-Z.]+_\d+|[a-z]+\d_\d+)"', "", text)
    return re.sub(r"\n\s*", "\n", text)
