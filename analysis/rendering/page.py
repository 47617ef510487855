"""The report as one HTML file without scripts, fonts or anything else to be loaded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import resources

from analysis.answer import UNDETERMINED, Answer, Command, Figure, Table
from analysis.findings import Report
from analysis.rendering.markup import evidence_sentence, html_table, html_text
from analysis.rendering.plots import RenderedFigure, for_page, with_id_prefix
from analysis.results import Results

# Nothing may be fetched and nothing may run, whatever text a study holds.
POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'"

# A longer table is collapsed.
OPEN_ROWS = 16


def page(report: Report, figures: Mapping[str, RenderedFigure]) -> str:
    """The whole page; ``figures`` has each rendered figure by its name."""
    results, opening = report.results, report.overview
    sections = [_section(name, answer, figures) for name, answer in report.answers.items()]
    style = resources.files("analysis.rendering").joinpath("page.css").read_text()
    all_conditions = opening.all_conditions
    return "\n".join(
        [
            '<!doctype html><html lang="en"><head><meta charset="utf-8">',
            f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            '<meta name="color-scheme" content="light dark">',
            f"<title>{html_text(results.name)} · report</title><style>{style}</style></head><body><main>",
            f"<header><h1>{html_text(results.name)}</h1><p>{html_text(opening.origin)}</p></header>",
            _census(report),
            f'<section id="results"><h2>Results</h2>{html_table(opening.main)}',
            _collapsed(all_conditions.title, html_table(all_conditions)) if all_conditions else "",
            "</section>",
            _summary(report.answers),
            *sections,
            _footer(results),
            "</main></body></html>",
        ]
    )


def _census(report: Report) -> str:
    census, overview = report.results.census, report.overview
    tiles = [
        ("planned", census.planned),
        ("complete", census.complete),
        ("failed", census.failed),
        ("unfinished", census.running),
        ("missing", census.missing),
        *([("pruned", census.pruned)] if census.pruned else []),
    ]
    counts = "".join(f"<div><dt>{name}</dt><dd>{cells:,}</dd></div>" for name, cells in tiles)
    warnings = "".join(f'<p class="warning" role="note">{html_text(warning)}</p>' for warning in overview.warnings)
    selection = "".join(f"<p>{html_text(sentence)}</p>" for sentence in overview.selection)
    tables = "".join(
        _collapsed(table.title, html_table(table)) for table in (overview.searches, overview.pruned) if table
    )
    derived = (
        f'<p class="note">{census.complete:,} complete cells come from {census.trajectories_ended:,} ended '
        f"trajectories of {census.trajectories:,}; {census.derived:,} cells are read off a trajectory that another "
        "cell owns.</p>"
    )
    body = f'<dl class="census">{counts}</dl>{selection}{derived}{tables}'
    return f'<section id="census"><h2>Cells</h2>{warnings}{body}</section>'


def _summary(answers: Mapping[str, Answer]) -> str:
    lines = [
        f'<li><a href="#{name}">{html_text(answer.question)}</a> '
        f"{_verdict(answer)}<p>{html_text(answer.sentence)}</p></li>"
        for name, answer in answers.items()
    ]
    return f'<section id="answers"><h2>Answers</h2><ol class="summary">{"".join(lines)}</ol></section>'


def _verdict(answer: Answer) -> str:
    kind = "open" if answer.verdict == UNDETERMINED else "settled"
    return f'<strong class="verdict {kind}">{html_text(answer.verdict)}</strong>'


def _section(name: str, answer: Answer, figures: Mapping[str, RenderedFigure]) -> str:
    evidence = evidence_sentence(answer)
    return "\n".join(
        [
            f'<section id="{name}"><h2>{html_text(answer.question)}</h2>',
            f'<p class="answer">{_verdict(answer)} {html_text(answer.sentence)}</p>',
            f'<p class="evidence">{html_text(evidence)}</p>',
            _commands(answer.next_commands),
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


def _commands(commands: Sequence[Command]) -> str:
    if not commands:
        return ""
    items = "".join(
        f"<li>{html_text(proposal.purpose)}<pre><code>{html_text(proposal.command)}</code></pre></li>"
        for proposal in commands
    )
    return f'<div class="next"><h3>What would settle it</h3><ul>{items}</ul></div>'


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
        "<footer><p>Run commands in the folder that contains <code>studies/</code>. Intervals are 95 % unless stated "
        f"otherwise; every resampling is seeded.</p><p>{html_text(' · '.join(parts))}</p></footer>"
    )
