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
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure as Canvas

from analysis.answer import Bar, Figure, Forest, Line, Panel
from analysis.rendering.drawing import COLOURS, FAINT, INK, PANEL_INCHES, draw, label_inches, title_lines

# Okabe & Ito (2008) and more, darkened or lightened so that each is legible on white.
ON_PAPER = (
    *("#0072b2", "#d55e00", "#009e73", "#aa4499", "#b8860b", "#3a8fc4", "#7a5230", "#666666", "#96123f"),
    *("#7d7a00", "#4d9221", "#4b2e83", "#9a9a9a"),
)
FINDING_COLOURS: Mapping[str, int] = {
    "healthy": 0,
    "collapsed": 1,
    "overfitting": 4,
    "over-confident late": 9,
    "collapsed and recovered": 3,
    "never learned": 6,
    "not learned yet": 5,
    "declined": 2,
    "declined and recovered": 10,
    "memorised": 11,
    "not shown to have learned": 12,
    "flat, cause open": 7,
    "non-finite": 8,
    "failed": 1,
}
LEFT_INCHES, BOTTOM_INCHES, SIDE_INCHES, TITLE_INCHES = 0.7, 0.46, 0.12, 0.24
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
        panels = [_single(panel, colours) for panel in figure.shown_panels]
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


def _single(panel: Panel | Forest, colours: Mapping[str, int]) -> str:
    """One panel as SVG."""
    width, height = PANEL_INCHES[0], _height(panel)
    canvas = Canvas(figsize=(width, height))
    left = LEFT_INCHES if isinstance(panel, Panel) else SIDE_INCHES
    right = SIDE_INCHES + label_inches(panel)
    title = TITLE_INCHES * len(title_lines(panel))
    bounds = (
        left / width,
        BOTTOM_INCHES / height,
        1 - (left + right) / width,
        1 - (BOTTOM_INCHES + title) / height,
    )
    axes = canvas.add_axes(bounds)
    draw(axes, panel, colours)
    svg = _svg(canvas)
    if isinstance(panel, Panel):
        svg = svg.replace("</svg>", f"{_titles(canvas, axes, panel)}</svg>")
    return svg


def _titles(canvas: Canvas, axes: Axes, panel: Panel) -> str:
    """Over each line a wide one that is not seen, with the line's name where one points at it; lengths in points."""
    scale, parts = 72 / canvas.dpi, []
    for line in panel.lines:
        known = [point for point in zip(line.x, line.y, strict=True) if math.isfinite(point[1])]
        if not known:
            continue
        places = scale * axes.transData.transform(known)
        points = " ".join(f"{x:.1f},{72 * canvas.get_figheight() - y:.1f}" for x, y in places)
        name = html.escape(f"{line.name}: {line.group}" if line.name else line.group)
        parts.append(f'<polyline points="{points}"><title>{name}</title></polyline>')
    style = 'fill="none" stroke="transparent" stroke-width="8" stroke-linecap="round" pointer-events="stroke"'
    return f"<g {style}>{''.join(parts)}</g>"


def _height(panel: Panel | Forest) -> float:
    return PANEL_INCHES[1] if isinstance(panel, Panel) else 0.8 + BAR_INCHES * len(panel.bars)


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
