"""The report as one HTML file without scripts, fonts or anything else to be loaded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import resources

from analysis.answer import UNDETERMINED, Answer, Command, Figure, Table
from analysis.evidence.next_runs import NextRun
from analysis.findings import METHOD, Report
from analysis.overview import Overview
from analysis.rendering.markup import evidence_sentence, html_table, html_text
from analysis.rendering.plots import RenderedFigure, for_page, with_id_prefix
from analysis.rendering.sections import (
    by_asked,
    next_run_title,
    not_asked_line,
    proposals_line,
    purposes,
    work_sentence,
)
from analysis.results import Results
from analysis.wording import upper_first

# Nothing may be fetched and nothing may run, whatever text a study holds.
POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'"

# A longer table is collapsed.
OPEN_ROWS = 16


def page(report: Report, figures: Mapping[str, RenderedFigure]) -> str:
    """The whole page; ``figures`` has each rendered figure by its name."""
    results, opening = report.results, report.overview
    asked, not_asked = by_asked(report)
    runs = report.next_runs
    sections = [_section(name, answer, figures, proposed=bool(runs)) for name, answer in asked.items()]
    style = resources.files("analysis.rendering").joinpath("page.css").read_text()
    return "\n".join(
        [
            '<!doctype html><html lang="en"><head><meta charset="utf-8">',
            f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            '<meta name="color-scheme" content="light dark">',
            f"<title>{html_text(results.name)} · report</title><style>{style}</style></head><body><main>",
            f"<header><h1>{html_text(results.name)}</h1><p>{html_text(opening.origin)}</p></header>",
            *(f'<p class="warning" role="note">{html_text(warning)}</p>' for warning in opening.warnings),
            _what_happened(opening),
            _results(opening),
            _summary(asked, not_asked),
            *sections,
            _next_runs(runs),
            _not_asked(not_asked),
            _census(report),
            _footer(results),
            "</main></body></html>",
        ]
    )


def _what_happened(opening: Overview) -> str:
    lines = "".join(
        f"<div><dt>{html_text(statement.heading)}</dt><dd>{html_text(statement.text)}</dd></div>"
        for statement in opening.what_happened
    )
    return f'<section id="what-happened"><h2>What happened</h2><dl class="happened">{lines}</dl></section>'


def _results(opening: Overview) -> str:
    tables = (opening.all_conditions, opening.searches, opening.pruned)
    more = "".join(_collapsed(table.title, html_table(table)) for table in tables if table)
    selection = "".join(f"<p>{html_text(sentence)}</p>" for sentence in opening.selection)
    return f'<section id="results"><h2>Results</h2>{html_table(opening.main)}{selection}{more}</section>'


def _census(report: Report) -> str:
    census = report.results.census
    tiles = [
        ("planned", census.planned),
        ("complete", census.complete),
        ("failed", census.failed),
        ("unfinished", census.running),
        ("missing", census.missing),
        *([("pruned", census.pruned)] if census.pruned else []),
    ]
    counts = "".join(f"<div><dt>cells {name}</dt><dd>{cells:,}</dd></div>" for name, cells in tiles)
    derived = (
        f'<p class="note">{census.complete:,} complete cells come from {census.trajectories_ended:,} ended '
        f"trajectories of {census.trajectories:,}; {census.derived:,} cells are read off a trajectory that another "
        "cell owns.</p>"
    )
    return f'<section id="census"><h2>State of the study</h2><dl class="census">{counts}</dl>{derived}</section>'


def _summary(answers: Mapping[str, Answer], not_asked: Mapping[str, Answer]) -> str:
    lines = [
        f'<li><a href="#{name}">{html_text(answer.question)}</a> '
        f"{_verdict(answer)}<p>{html_text(answer.sentence)}</p></li>"
        for name, answer in answers.items()
    ]
    rest = f'<p class="note"><a href="#not-asked">{html_text(not_asked_line(not_asked))}</a></p>' if not_asked else ""
    method = _collapsed("How the claims are corrected", f"<p>{html_text(METHOD)}</p>")
    return f'<section id="answers"><h2>Answers</h2><ol class="summary">{"".join(lines)}</ol>{rest}{method}</section>'


def _verdict(answer: Answer) -> str:
    kind = "open" if answer.verdict == UNDETERMINED else "settled"
    return f'<strong class="verdict {kind}">{html_text(answer.verdict)}</strong>'


def _section(name: str, answer: Answer, figures: Mapping[str, RenderedFigure], *, proposed: bool) -> str:
    evidence = evidence_sentence(answer)
    return "\n".join(
        [
            f'<section id="{name}"><h2>{html_text(answer.question)}</h2>',
            f'<p class="answer">{_verdict(answer)} {html_text(answer.sentence)}</p>',
            f'<p class="evidence">{html_text(evidence)}</p>',
            _own_commands(answer, proposed=proposed),
            *(_figure(figure, figures[figure.name]) for figure in answer.figures),
            *(_table(table, collapsed=bool(index)) for index, table in enumerate(answer.tables)),
            _list("Caveats", answer.caveats),
            _collapsed("Methods", _items(answer.methods)) if answer.methods else "",
            '<p class="back"><a href="#answers">all answers</a></p></section>',
        ]
    )


def _table(table: Table, *, collapsed: bool) -> str:
    """A table, collapsed where it is long or not the section's first."""
    markup = html_table(table)
    return _collapsed(table.title, markup) if collapsed or len(table.shown_rows) > OPEN_ROWS else markup


def _figure(figure: Figure, rendered: RenderedFigure) -> str:
    panels = "".join(
        f'<div class="panel" role="img" aria-label="{html_text(panel.title)}">'
        f"{with_id_prefix(for_page(svg), f'{figure.name}-{index}')}</div>"
        for index, (panel, svg) in enumerate(zip(figure.shown_panels, rendered.panels, strict=True))
    )
    entries = [
        f'<span><i style="background:var(--c{colour})"></i>{html_text(name)}</span>' for name, colour in rendered.legend
    ]
    if figure.mark:
        entries.append(f"<span><b>×</b>{html_text(figure.mark)}</span>")
    legend = f'<p class="legend">{"".join(entries)}</p>' if len(entries) > 1 else ""
    caption = f"<figcaption>{html_text(figure.full_caption)}</figcaption>"
    return f'<figure>{legend}<div class="panels">{panels}</div>{caption}</figure>'


def _own_commands(answer: Answer, *, proposed: bool) -> str:
    """The commands of an answer; those of one that is undetermined are part of what to run next, if anything is."""
    if not answer.next_commands or (answer.verdict == UNDETERMINED and not proposed):
        return ""
    if answer.verdict == UNDETERMINED:
        return f'<p class="note"><a href="#next">What to run next</a> {html_text(proposals_line(answer))}</p>'
    return f'<div class="next"><h3>What could be run</h3><ul>{_commands(answer.next_commands)}</ul></div>'


def _commands(commands: Sequence[Command]) -> str:
    return "".join(
        f"<li>{html_text(upper_first(proposal.purpose))}<pre><code>{html_text(proposal.command)}</code></pre></li>"
        for proposal in commands
    )


def _next_runs(runs: Sequence[NextRun]) -> str:
    if not runs:
        return ""
    parts = [
        f"<h3>{html_text(next_run_title(run))}</h3><pre><code>{html_text(run.command.command)}</code></pre>"
        f"<p>{html_text(work_sentence(run.work))}</p>{_items(purposes(run))}"
        for run in runs
    ]
    return f'<section id="next"><h2>What to run next</h2><div class="next">{"".join(parts)}</div></section>'


def _not_asked(answers: Mapping[str, Answer]) -> str:
    if not answers:
        return ""
    parts = [
        f"<h3>{html_text(answer.question)}</h3><p>{html_text(answer.sentence)}</p>"
        f"<ul>{_commands(answer.next_commands)}</ul>"
        for answer in answers.values()
    ]
    return f'<section id="not-asked">{_collapsed(not_asked_line(answers), "".join(parts))}</section>'


def _list(title: str, lines: Sequence[str]) -> str:
    return f"<h3>{html_text(title)}</h3>{_items(lines)}" if lines else ""


def _items(lines: Sequence[str]) -> str:
    return f"<ul>{''.join(f'<li>{html_text(line)}</li>' for line in lines)}</ul>"


def _collapsed(title: str, content: str) -> str:
    return f"<details><summary>{html_text(title)}</summary>{content}</details>"


def _footer(results: Results) -> str:
    git = results.manifest.git
    parts = [f"{name} {version}" for name, version in results.manifest.versions.items()]
    if git is not None:
        parts.append(f"commit {git['commit']}{', changed' if git['dirty'] else ''}")
    return (
        "<footer><p>Commands are written for the folder in which this report was made. Intervals are 95 % unless "
        f"stated otherwise; every resampling is seeded.</p><p>{html_text(' · '.join(parts))}</p></footer>"
    )
