"""The report as Markdown, for a repository, an issue or a paper's appendix."""

from __future__ import annotations

from analysis.answer import Answer
from analysis.findings import Findings
from analysis.rendering.markup import evidence_in_words, markdown_table, markdown_text
from analysis.rendering.page import census_sentences, origin


def markdown(findings: Findings) -> str:
    """The whole report; figures are those that lie in ``figures/`` beside it."""
    results, census, opening = findings.results, findings.results.census, findings.overview
    lines = [f"# {markdown_text(results.name)}", "", markdown_text(origin(results)), ""]
    for sentence in [*census_sentences(census), *opening.warnings]:
        lines += [f"> **{markdown_text(sentence)}**", ""]
    lines += [
        (
            f"Cells: {census.planned:,} planned, {census.complete:,} complete, {census.failed:,} failed, "
            f"{census.running:,} unfinished, {census.missing:,} missing"
            f"{f', {census.pruned:,} of the complete pruned' if census.pruned else ''}."
        ),
        "",
    ]
    if opening.chosen:
        lines += [markdown_text(" ".join(opening.chosen)), ""]
    for table in (opening.searches, opening.pruned):
        if table is not None:
            lines += [markdown_table(table), ""]
    lines += ["## Results", "", markdown_table(opening.main), ""]
    if opening.everything is not None:
        lines += [markdown_table(opening.everything), ""]
    lines += ["## Answers", ""]
    for number, answer in enumerate(findings.answers.values(), start=1):
        question, verdict, sentence = map(markdown_text, (answer.question, answer.verdict, answer.sentence))
        lines.append(f"{number}. {question} **{verdict}.** {sentence}")
    for answer in findings.answers.values():
        lines += ["", *_section(answer)]
    return "\n".join(lines) + "\n"


def _section(answer: Answer) -> list[str]:
    lines = [f"## {markdown_text(answer.question)}", ""]
    lines += [f"**{markdown_text(answer.verdict)}.** {markdown_text(answer.sentence)}", ""]
    lines += [markdown_text(evidence_in_words(answer)), ""]
    for figure in answer.figures:
        lines += [f"![{markdown_text(figure.full_caption)}](figures/{figure.name}.svg)", ""]
    for table in answer.tables:
        lines += [markdown_table(table), ""]
    for title, items in (("What to keep in mind", answer.caveats), ("How this was found", answer.methods)):
        if items:
            lines += [f"### {title}", "", *(f"- {markdown_text(item)}" for item in items), ""]
    if answer.next_commands:
        lines += ["### What would settle it", ""]
        for one in answer.next_commands:
            lines += [f"- {markdown_text(one.purpose)}", "", f"      {one.command}", ""]
    return lines
