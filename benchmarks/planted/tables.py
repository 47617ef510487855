"""Tables of what a report says of planted truths: rates of false claims, verdicts, coverage, goals."""

from __future__ import annotations

import textwrap
from collections.abc import Collection, Sequence

from benchmarks.alternation import table
from benchmarks.planted.judge import MARKS, Mark, Rate, TruthTally

# The goals, as shares of studies.
MOST_FALSE_CLAIMS = 0.07
COVERAGE = (0.93, 0.97)
ABOUT_WIDTH = 58
WIDTH = 118


def all_tables(tallies: Sequence[TruthTally], *, sentences: bool = False) -> str:
    """Every table that has rows, and the sentences of wrong verdicts, or with ``sentences`` of all verdicts."""
    shown = MARKS if sentences else MARKS[-1:]
    parts = [
        ("Studies without an effect: claims of one", _null_table(tallies)),
        ("Planted truths: verdicts", _verdict_table(tallies)),
        ("Intervals of 95 %: how many contain the truth", _coverage_table(tallies)),
        (f"{'Verdicts' if sentences else 'Wrong verdicts'}, each with a sentence", _sentences(tallies, shown)),
        ("Goals", _goals(tallies)),
    ]
    return "\n\n".join(f"{title}\n\n{text}" for title, text in parts if text)


def _null_table(tallies: Sequence[TruthTally]) -> str:
    """Studies in which each question claims an effect, and in which any does."""
    nulls = [tally for tally in tallies if tally.truth.null]
    if not nulls:
        return ""
    names = list(dict.fromkeys(name for tally in nulls for name in tally.questions))
    rows = [
        [
            tally.truth.name,
            str(tally.studies),
            *(str(tally.questions[name].marks["wrong"]) if name in tally.questions else "" for name in names),
            str(Rate(events=tally.any_wrong, trials=tally.studies)),
            str(Rate(events=tally.any_wrong_uncorrected, trials=tally.studies)),
        ]
        for tally in nulls
    ]
    heads = [name.replace("_", " ") for name in names]
    return table(["truth", "studies", *heads, "any of them", "any, before correction"], rows)


def _verdict_table(tallies: Sequence[TruthTally]) -> str:
    rows = []
    for tally in tallies:
        if tally.truth.null:
            continue
        for name, question in tally.questions.items():
            if not tally.truth.expect[name].right and not question.marks["wrong"]:
                verdict = "no verdict is right"
            else:
                verdict = " | ".join(tally.truth.expect[name].right) or "no verdict is right"
            total = sum(question.marks.values())
            right = Rate(events=question.marks["right"], trials=total)
            before = question.uncorrected["right"]
            rows.append(
                [
                    tally.truth.name,
                    name,
                    textwrap.shorten(verdict, ABOUT_WIDTH, placeholder="…").replace("|", "or"),
                    *(str(question.marks[mark]) for mark in MARKS),
                    str(right) if tally.truth.expect[name].right else "",
                    str(before) if before != question.marks["right"] else "",
                ]
            )
    heads = ["truth", "question", "right would be", *MARKS, "found (95 %)", "before correction"]
    return table(heads, rows) if rows else ""


def _coverage_table(tallies: Sequence[TruthTally]) -> str:
    rows = [
        [
            tally.truth.name,
            name,
            f"{tally.truth.expect[name].estimate:+g}",
            str(question.intervals),
            str(Rate(events=question.covered, trials=question.intervals)),
        ]
        for tally in tallies
        for name, question in tally.questions.items()
        if question.intervals
    ]
    return table(["truth", "question", "true value", "intervals", "contain it (95 %)"], rows) if rows else ""


def _sentences(tallies: Sequence[TruthTally], marks: Collection[Mark]) -> str:
    """The verdicts with one of these marks, each with the sentence of its first study."""
    lines = []
    for tally in tallies:
        for name, question in tally.questions.items():
            for (mark, verdict), times in question.verdicts.most_common():
                if mark in marks:
                    place = f"{tally.truth.name} ({tally.truth.about}), {name}"
                    number, sentence = question.sentences[mark, verdict]
                    lines.append(f"- {place}: {verdict}, {mark}, {times} of {tally.studies}, first in study {number}")
                    lines.append(textwrap.fill(sentence, WIDTH, initial_indent="  ", subsequent_indent="  "))
    return "\n".join(lines)


def _goals(tallies: Sequence[TruthTally]) -> str:
    """Whether the goals are reached, as far as the studies tell."""
    rows = []
    planted = [tally for tally in tallies if not tally.truth.null]
    if planted:
        wrong = sum(question.marks["wrong"] for tally in planted for question in tally.questions.values())
        judged = sum(question.marks.total() for tally in planted for question in tally.questions.values())
        rows.append(["opposite verdicts of planted truths", "0", f"{wrong} of {judged:,}"])
    nulls = [tally for tally in tallies if tally.truth.null and tally.studies]
    if nulls:
        worst = max(nulls, key=lambda tally: tally.any_wrong / tally.studies)
        rate = Rate(events=worst.any_wrong, trials=worst.studies)
        goal = f"at most {100 * MOST_FALSE_CLAIMS:.0f} %"
        rows.append(["any false claim in a study without an effect, the worst", goal, f"{rate}, {worst.truth.name}"])
        total = Rate(events=sum(each.any_wrong for each in nulls), trials=sum(each.studies for each in nulls))
        rows.append(["any false claim in a study without an effect, all of them", goal, str(total)])
    covered = [question for tally in tallies for question in tally.questions.values() if question.intervals]
    if covered:
        contain = Rate(events=sum(each.covered for each in covered), trials=sum(each.intervals for each in covered))
        goal = f"{100 * COVERAGE[0]:.0f} to {100 * COVERAGE[1]:.0f} %"
        rows.append(["95 % intervals that contain the truth, all", goal, str(contain)])
    for tally in planted:
        question = tally.questions.get("which_split")
        if tally.truth.name.startswith("one_point") and question is not None:
            before = Rate(events=question.uncorrected["right"], trials=tally.studies)
            after = Rate(events=question.marks["right"], trials=tally.studies)
            goal = "70 % before correction" if "5_seeds" in tally.truth.name else "45 % before correction"
            rows.append([tally.truth.about, goal, f"{before} before, {after} after"])
    return table(["goal", "at", "result"], rows) if rows else ""
