"""The report as Markdown, for a repository, an issue or a paper's appendix."""

from __future__ import annotations

from analysis.answer import Answer
from analysis.findings import Report
from analysis.rendering.markup import evidence_sentence, markdown_table, markdown_text


def markdown(report: Report) -> str:
    """The whole report; its figures are the files in ``figures/`` beside it."""
    results, census, opening = report.results, report.results.census, report.overview
    lines = [f"# {markdown_text(results.name)}", "", markdown_text(opening.origin), ""]
    for sentence in opening.warnings:
        lines += [f"> **{markdown_text(sentence)}**", ""]
    lines += [
        (
            f"Cells: {census.planned:,} planned, {census.complete:,} complete, {census.failed:,} failed, "
            f"{census.running:,} unfinished, {census.missing:,} missing"
            f"{f', {census.pruned:,} of the complete pruned' if census.pruned else ''}."
        ),
        "",
    ]
    if opening.selection:
        lines += [markdown_text(" ".join(opening.selection)), ""]
    for table in (opening.searches, opening.pruned):
        if table is not None:
            lines += [markdown_table(table), ""]
    lines += ["## Results", "", markdown_table(opening.main), ""]
    if opening.all_conditions is not None:
        lines += [markdown_table(opening.all_conditions), ""]
    lines += ["## Answers", ""]
    for number, answer in enumerate(report.answers.values(), start=1):
        question, verdict, sentence = map(markdown_text, (answer.question, answer.verdict, answer.sentence))
        lines.append(f"{number}. {question} **{verdict}.** {sentence}")
    for answer in report.answers.values():
        lines += ["", *_section(answer)]
    return "\n".join(lines) + "\n"


def _section(answer: Answer) -> list[str]:
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
    if answer.next_commands:
        lines += ["### What would settle it", ""]
        for proposal in answer.next_commands:
            lines += [f"- {markdown_text(proposal.purpose)}", "", f"      {proposal.command}", ""]
    return lines
