"""Values of a table as HTML and as Markdown, escaped so that no text of a study can become markup."""

from __future__ import annotations

import html
import math
import re
from collections.abc import Iterable

from analysis.answer import Answer, Table, Value
from analysis.statistics.estimate import Estimate
from analysis.wording import count, difference, minus, plain, share

NOTHING = "–"


def number(value: float, form: str) -> str:
    """A number in a table's format (see :class:`analysis.answer.Table`)."""
    if not math.isfinite(value):
        return NOTHING
    if form == "+%":
        return minus(f"{100 * value:+.1f} pts")
    if form == "p":
        return "< 0.001" if value < 0.001 else f"{value:.3f}"
    sign = "+" if form.startswith("+") else ""
    form = form.removeprefix("+")
    if form == "%":
        return minus(f"{100 * value:.1f} %")
    if form == "n":
        return f"{int(value):,}"
    if form.startswith("."):
        return minus(f"{value:{sign}{form}f}")
    return minus(f"{value:{sign}.3g}")


def interval(estimate: Estimate, form: str) -> str:
    """An estimate's bounds in brackets, in the estimate's unit; empty where there are none."""
    if not (math.isfinite(estimate.low) and math.isfinite(estimate.high)):
        return ""
    low, high = (number(bound, form).removesuffix(" %").removesuffix(" pts") for bound in (estimate.low, estimate.high))
    return f"[{low}, {high}]"


def text(value: Value, form: str) -> str:
    """A table's value as plain text."""
    if value is None:
        return NOTHING
    if isinstance(value, str):
        return value
    if isinstance(value, Estimate):
        return f"{number(value.value, form)} {interval(value, form)}".rstrip()
    return number(float(value), form)


def evidence_in_words(answer: Answer) -> str:
    """What the verdict rests on, and on how many seeds, in one sentence."""
    seeds = f"{count(answer.seeds, 'seed')} of a condition at most" if answer.seeds else "no seeds were compared"
    if answer.estimate is None or not math.isfinite(answer.estimate.value):
        return f"{seeds[0].upper()}{seeds[1:]}."
    if answer.unit == "share":
        value = share(answer.estimate)
    elif answer.unit == "points":
        value = difference(answer.estimate)
    else:
        value = plain(answer.estimate, ".2f")
    return f"{answer.estimated[0].upper()}{answer.estimated[1:]}: {value}; {seeds}."


def html_text(value: object) -> str:
    """Any text, safe within HTML and its attributes."""
    return html.escape(str(value), quote=True)


def html_table(table: Table) -> str:
    """A table that scrolls by itself where it is wider than the page."""
    kinds = ["text" if form == "t" else "number" for form in table.formats]
    head = "".join(
        f'<th class="{k}" scope="col">{html_text(c)}</th>' for k, c in zip(kinds, table.columns, strict=True)
    )
    body = []
    for row in table.shown_rows:
        cells = []
        for kind, form, value in zip(kinds, table.formats, row, strict=True):
            shown = html_text(number(value.value, form) if isinstance(value, Estimate) else text(value, form))
            if isinstance(value, Estimate) and (bounds := interval(value, form)):
                shown += f' <span class="interval">{html_text(bounds)}</span>'
            cells.append(f'<td class="{kind}">{shown}</td>')
        body.append(f"<tr>{''.join(cells)}</tr>")
    note = f'<p class="note">{html_text(table.full_note)}</p>' if table.full_note else ""
    empty = "" if table.rows else f'<tr><td colspan="{len(table.columns)}">nothing to show</td></tr>'
    return (
        f'<div class="table" tabindex="0" role="region" aria-label="{html_text(table.title)}"><table>'
        f"<caption>{html_text(table.title)}</caption><thead><tr>{head}</tr></thead>"
        f"<tbody>{''.join(body)}{empty}</tbody></table></div>{note}"
    )


def markdown_text(value: object) -> str:
    """Any text on one line, safe within Markdown and its tables."""
    line = " ".join(str(value).split())
    line = line.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"([\\`*_\[\]|~#])", r"\\\1", line)


def markdown_table(table: Table) -> str:
    """A table as GitHub and pandoc read it, under its title."""
    rule = ["---" if form == "t" else "---:" for form in table.formats]
    lines = [f"**{markdown_text(table.title)}**", "", _row(markdown_text(c) for c in table.columns), _row(rule)]
    lines += [
        _row(markdown_text(text(value, form)) for value, form in zip(row, table.formats, strict=True))
        for row in table.shown_rows
    ]
    if table.full_note:
        lines += ["", markdown_text(table.full_note)]
    return "\n".join(lines)


def _row(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"
