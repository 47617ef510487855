"""Tables and text as HTML and as Markdown, escaped so that no text of a study can become markup."""

from __future__ import annotations

import html
import math
import re
from collections.abc import Iterable

from analysis.answer import Answer, Table, Value
from analysis.statistics.estimate import Estimate
from analysis.wording import (
    count,
    number_estimate,
    points_estimate,
    says_nothing,
    share_estimate,
    upper_first,
    with_minus,
)

MISSING = "–"
TOO_FEW = "(too few seeds)"


def format_number(value: float, form: str) -> str:
    """A number in a table's format (see :class:`analysis.answer.Table`); a dash where it is not finite."""
    if not math.isfinite(value):
        return MISSING
    if form == "+%":
        return with_minus(f"{100 * value:+.1f} pts")
    if form == "p":
        return "< 0.001" if value < 0.001 else f"{value:.3f}"
    sign = "+" if form.startswith("+") else ""
    form = form.removeprefix("+")
    if form == "%":
        return with_minus(f"{100 * value:.1f} %")
    if form == "n":
        return f"{int(value):,}"
    if form.startswith("."):
        return with_minus(f"{value:{sign}{form}f}")
    return with_minus(f"{value:{sign}.3g}")


def format_interval(estimate: Estimate, form: str) -> str:
    """An estimate's bounds in brackets, in the estimate's unit; empty for a single seed.

    An interval of several seeds that is missing, or spans all that is possible, says nothing: there are too few.
    """
    known = estimate.has_interval and not (form.endswith("%") and says_nothing(estimate))
    if not known:
        few = estimate.has_interval or (estimate.seeds > 1 and math.isfinite(estimate.value))
        return TOO_FEW if few else ""
    low, high = (format_number(bound, form) for bound in (estimate.low, estimate.high))
    return f"[{_without_unit(low)}, {_without_unit(high)}]"


def _without_unit(formatted: str) -> str:
    return formatted.removesuffix(" %").removesuffix(" pts")


def format_value(value: Value, form: str) -> str:
    """A table's value as plain text."""
    if value is None:
        return MISSING
    if isinstance(value, str):
        return value
    if isinstance(value, Estimate):
        return f"{format_number(value.value, form)} {format_interval(value, form)}".rstrip()
    return format_number(float(value), form)


def evidence_sentence(answer: Answer) -> str:
    """The estimate that the verdict rests on, and its number of seeds, in one sentence."""
    seeds = f"up to {count(answer.seeds, 'seed')} per condition" if answer.seeds else "no seeds were compared"
    if answer.estimate is None or not math.isfinite(answer.estimate.value):
        return f"{upper_first(seeds)}."
    if answer.unit == "share":
        value = share_estimate(answer.estimate)
    elif answer.unit == "points":
        value = points_estimate(answer.estimate)
    else:
        value = number_estimate(answer.estimate, ".2f")
    return f"{upper_first(answer.estimated)}: {value}; {seeds}."


def html_text(value: object) -> str:
    """Any text, safe within HTML and its attributes."""
    return html.escape(str(value), quote=True)


def html_table(table: Table) -> str:
    """A table that scrolls by itself where it is wider than the page."""
    kinds = ["text" if form == "t" else "number" for form in table.formats]
    head = "".join(
        f'<th class="{kind}" scope="col">{html_text(column)}</th>'
        for kind, column in zip(kinds, table.columns, strict=True)
    )
    body = []
    for row in table.shown_rows:
        cells = []
        for kind, form, value in zip(kinds, table.formats, row, strict=True):
            cells.append(f'<td class="{kind}">{_html_value(value, form)}</td>')
        body.append(f"<tr>{''.join(cells)}</tr>")
    note = f'<p class="note">{html_text(table.full_note)}</p>' if table.full_note else ""
    empty = "" if table.rows else f'<tr><td colspan="{len(table.columns)}">nothing to show</td></tr>'
    return (
        f'<div class="table" tabindex="0" role="region" aria-label="{html_text(table.title)}"><table>'
        f"<caption>{html_text(table.title)}</caption><thead><tr>{head}</tr></thead>"
        f"<tbody>{''.join(body)}{empty}</tbody></table></div>{note}"
    )


def _html_value(value: Value, form: str) -> str:
    if not isinstance(value, Estimate):
        return html_text(format_value(value, form))
    bounds = format_interval(value, form)
    interval = f' <span class="interval">{html_text(bounds)}</span>' if bounds else ""
    return html_text(format_number(value.value, form)) + interval


def markdown_text(value: object) -> str:
    """Any text on one line, safe within Markdown and its tables."""
    line = " ".join(str(value).split())
    line = line.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"([\\`*_\[\]|~#])", r"\\\1", line)


def markdown_table(table: Table) -> str:
    """A table as GitHub and pandoc read it, under its title."""
    alignments = ["---" if form == "t" else "---:" for form in table.formats]
    lines = [f"**{markdown_text(table.title)}**", "", _row(map(markdown_text, table.columns)), _row(alignments)]
    lines += [
        _row(markdown_text(format_value(value, form)) for value, form in zip(row, table.formats, strict=True))
        for row in table.shown_rows
    ]
    if table.full_note:
        lines += ["", markdown_text(table.full_note)]
    return "\n".join(lines)


def _row(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"
