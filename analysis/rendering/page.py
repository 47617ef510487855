"""The report as one HTML file that needs nothing else: no script, no font, no network."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path

from analysis.answer import UNDETERMINED, Answer, Command, Figure, Table
from analysis.findings import Findings
from analysis.rendering.markup import evidence_in_words, html_table, html_text
from analysis.rendering.plots import Drawn, distinct, for_page
from analysis.results import Census, Results
from analysis.wording import count

# Nothing may be fetched and nothing may run, whatever text a study holds.
POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'"

# A longer table is folded away.
OPEN_ROWS = 16


def page(findings: Findings, drawn: Mapping[str, Drawn]) -> str:
    """The whole page; ``drawn`` has each figure by its name."""
    results = findings.results
    sections = [_section(name, answer, drawn) for name, answer in findings.answers.items()]
    style = resources.files("analysis.rendering").joinpath("page.css").read_text()
    everything = findings.overview.everything
    return "\n".join(
        [
            '<!doctype html><html lang="en"><head><meta charset="utf-8">',
            f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            '<meta name="color-scheme" content="light dark">',
            f"<title>{html_text(results.name)} · report</title><style>{style}</style></head><body><main>",
            _header(results),
            _census(findings),
            f'<section id="results"><h2>Results</h2>{html_table(findings.overview.main)}',
            _folded("All conditions", html_table(everything)) if everything else "",
            "</section>",
            _summary(findings.answers),
            *sections,
            _footer(results),
            "</main></body></html>",
        ]
    )


def census_sentences(census: Census) -> list[str]:
    """The state of the study, the worst first; empty where everything is there."""
    said = []
    if not census.whole:
        said.append(
            f"This is a report of part of a study: {census.complete:,} of {count(census.planned, 'planned cell')} are "
            f"complete, {census.failed:,} failed, {census.running:,} have begun and not ended, {census.missing:,} are "
            "missing."
        )
    if census.non_finite:
        said.append(f"{count(census.non_finite, 'complete cell')} ended with a non-finite loss.")
    return said


def origin(results: Results) -> str:
    """When the study started, its size and its data."""
    manifest, data = results.manifest, results.manifest.data
    parts = [
        "started " + time.strftime("%Y-%m-%d", time.gmtime(manifest.created)),
        count(len(results.plan.cells), "cell"),
        f"{len(results.runs):,} trajectories",
    ]
    if data:
        parts.append(f"data {_source(results)}, {data.get('examples')} examples, {data.get('max_length')} tokens")
    return " · ".join(parts)


def _source(results: Results) -> str:
    """The data's name; for a file, its name and the first digits of its content's hash."""
    content = str(results.manifest.data.get("source"))
    if not content.startswith("sha256:"):
        return content[:60]
    name = Path(results.space.data_source).name
    return f"{name} ({content[: len('sha256:') + 12]})".strip()


def _header(results: Results) -> str:
    return f"<header><h1>{html_text(results.name)}</h1><p>{html_text(origin(results))}</p></header>"


def _census(findings: Findings) -> str:
    census, overview = findings.results.census, findings.overview
    tiles = [
        ("planned", census.planned),
        ("complete", census.complete),
        ("failed", census.failed),
        ("unfinished", census.running),
        ("missing", census.missing),
        *([("pruned", census.pruned)] if census.pruned else []),
    ]
    shown = "".join(f"<div><dt>{name}</dt><dd>{number:,}</dd></div>" for name, number in tiles)
    warnings = "".join(
        f'<p class="warning" role="note">{html_text(text)}</p>'
        for text in [*census_sentences(census), *overview.warnings]
    )
    chosen = "".join(f"<p>{html_text(sentence)}</p>" for sentence in overview.chosen)
    tables = "".join(_folded(table.title, html_table(table)) for table in (overview.searches, overview.pruned) if table)
    derived = (
        f'<p class="note">{census.complete:,} complete cells come from {census.trajectories_ended:,} ended '
        f"trajectories of "
        f"{census.trajectories:,}; {census.derived:,} cells stop earlier on a trajectory that another cell owns.</p>"
    )
    body = f'<dl class="census">{shown}</dl>{chosen}{derived}{tables}'
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


def _section(name: str, answer: Answer, drawn: Mapping[str, Drawn]) -> str:
    evidence = evidence_in_words(answer)
    return "\n".join(
        [
            f'<section id="{name}"><h2>{html_text(answer.question)}</h2>',
            f'<p class="answer">{_verdict(answer)} {html_text(answer.sentence)}</p>',
            f'<p class="evidence">{html_text(evidence)}</p>',
            _commands(answer.next_commands),
            *(_figure(figure, drawn[figure.name]) for figure in answer.figures),
            *(_table(table, folded=bool(index)) for index, table in enumerate(answer.tables)),
            _list("What to keep in mind", answer.caveats),
            _folded("How this was found", _items(answer.methods)) if answer.methods else "",
            '<p class="back"><a href="#answers">all answers</a></p></section>',
        ]
    )


def _table(table: Table, *, folded: bool) -> str:
    """A table, folded away where it is long or not the section's first."""
    shown = html_table(table)
    return _folded(table.title, shown) if folded or len(table.rows) > OPEN_ROWS else shown


def _figure(figure: Figure, drawn: Drawn) -> str:
    panels = "".join(
        f'<div class="panel" role="img" '
        f'aria-label="{html_text(panel.title)}">{distinct(for_page(svg), f"{figure.name}-{i}")}</div>'
        for i, (panel, svg) in enumerate(zip(figure.shown_panels, drawn.panels, strict=True))
    )
    names = [
        f'<span><i style="background:var(--c{colour})"></i>{html_text(name)}</span>' for name, colour in drawn.legend
    ]
    if figure.mark:
        names.append(f"<span><b>×</b>{html_text(figure.mark)}</span>")
    legend = f'<p class="legend">{"".join(names)}</p>' if len(names) > 1 else ""
    return (
        f"<figure>{legend}<div "
        f'class="panels">{panels}</div><figcaption>{html_text(figure.full_caption)}</figcaption></figure>'
    )


def _commands(commands: Sequence[Command]) -> str:
    if not commands:
        return ""
    items = "".join(
        f"<li>{html_text(one.purpose)}<pre><code>{html_text(one.command)}</code></pre></li>" for one in commands
    )
    return f'<div class="next"><h3>What would settle it</h3><ul>{items}</ul></div>'


def _list(title: str, lines: Sequence[str]) -> str:
    return f"<h3>{html_text(title)}</h3>{_items(lines)}" if lines else ""


def _items(lines: Sequence[str]) -> str:
    return f"<ul>{''.join(f'<li>{html_text(line)}</li>' for line in lines)}</ul>"


def _folded(title: str, content: str) -> str:
    return f"<details><summary>{html_text(title)}</summary>{content}</details>"


def _footer(results: Results) -> str:
    git = results.manifest.git
    parts = [f"{name} {version}" for name, version in results.manifest.versions.items()]
    if git is not None:
        parts.append(f"commit {git['commit']}{', changed' if git['dirty'] else ''}")
    return (
        "<footer><p>Commands are meant for the folder in which <code>studies/</code> lies. Intervals are 95 % where "
        f"nothing else is said; every resampling is seeded.</p><p>{html_text(' · '.join(parts))}</p></footer>"
    )
