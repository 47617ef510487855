"""The report as Markdown, for a repository, an issue or a paper's appendix."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from analysis.answer import UNDETERMINED, Answer, Command
from analysis.evidence.next_runs import NextRun
from analysis.findings import METHOD, Report
from analysis.rendering.markup import evidence_sentence, markdown_table, markdown_text
from analysis.rendering.sections import (
    by_asked,
    next_run_title,
    not_asked_line,
    proposals_line,
    purposes,
    work_sentence,
)
from analysis.wording import upper_first


def markdown(report: Report) -> str:
    """The whole report; its figures are the files in ``figures/`` beside it."""
    results, opening = report.results, report.overview
    lines = [f"# {markdown_text(results.name)}", "", markdown_text(opening.origin), ""]
    for sentence in opening.warnings:
        lines += [f"> **{markdown_text(sentence)}**", ""]
    lines += ["## What happened", ""]
    lines += [
        f"- **{markdown_text(statement.heading)}.** {markdown_text(statement.text)}"
        for statement in opening.what_happened
    ]
    lines += ["", "## Results", "", markdown_table(opening.main), ""]
    if opening.selection:
        lines += [markdown_text(" ".join(opening.selection)), ""]
    for table in (opening.all_conditions, opening.searches, opening.pruned):
        if table is not None:
            lines += [markdown_table(table), ""]
    lines += ["## Answers", ""]
    asked, not_asked = by_asked(report)
    for number, answer in enumerate(asked.values(), start=1):
        question, verdict, sentence = map(markdown_text, (answer.question, answer.verdict, answer.sentence))
        lines.append(f"{number}. {question} **{verdict}.** {sentence}")
    if not_asked:
        lines += ["", markdown_text(not_asked_line(not_asked))]
    lines += ["", markdown_text(METHOD)]
    runs = report.next_runs
    for answer in asked.values():
        lines += ["", *_section(answer, proposed=bool(runs))]
    lines += ["", *_next_runs(runs), *_not_asked(not_asked), *_state(report)]
    return "\n".join(lines) + "\n"


def _state(report: Report) -> list[str]:
    census = report.results.census
    return [
        "## State of the study",
        "",
        (
            f"Cells: {census.planned:,} planned, {census.complete:,} complete, {census.failed:,} failed, "
            f"{census.running:,} unfinished, {census.missing:,} missing"
            f"{f', {census.pruned:,} of the complete pruned' if census.pruned else ''}."
        ),
    ]


def _next_runs(runs: Sequence[NextRun]) -> list[str]:
    lines = ["## What to run next", ""] if runs else []
    for run in runs:
        lines += [f"### {markdown_text(next_run_title(run))}", "", f"    {run.command.command}", ""]
        lines += [
            markdown_text(work_sentence(run.work)),
            "",
            *(f"- {markdown_text(line)}" for line in purposes(run)),
            "",
        ]
    return lines


def _not_asked(answers: Mapping[str, Answer]) -> list[str]:
    lines = ["## Not asked by this study", ""] if answers else []
    for answer in answers.values():
        lines += [f"- {markdown_text(answer.question)} {markdown_text(answer.sentence)}"]
        lines += _commands(answer.next_commands)
    return [*lines, ""] if answers else []


def _commands(commands: Sequence[Command]) -> list[str]:
    lines = []
    for proposal in commands:
        lines += [f"- {markdown_text(upper_first(proposal.purpose))}", "", f"      {proposal.command}", ""]
    return lines


def _section(answer: Answer, *, proposed: bool) -> list[str]:
    lines = [f"## {markdown_text(answer.question)}", ""]
    lines += [f"**{markdown_text(answer.verdict)}.** {markdown_text(answer.sentence)}", ""]
    lines += [markdown_text(evidence_sentence(answer)), ""]
    for figure in answer.figures:
        lines += [f"![{markdown_text(figure.full_caption)}](figures/{figure.name}.svg)", ""]
    for table in answer.tables:
        lines += [markdown_table(table), ""]
    for title, items in (("Caveats", answer.caveats), ("Methods", answer.methods)):
        if items:
            lines += [f"### {title}", "", *(f"- {markdown_text(item)}" for item in items), ""]
    if answer.next_commands and answer.verdict == UNDETERMINED:
        if proposed:
            lines += [f"[What to run next](#what-to-run-next) {markdown_text(proposals_line(answer))}", ""]
    elif answer.next_commands:
        lines += ["### What could be run", "", *_commands(answer.next_commands)]
    return lines
