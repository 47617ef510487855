"""What both forms of the report divide alike: questions that are asked and those that are not, and what to run next."""

from __future__ import annotations

from collections.abc import Mapping

from analysis.answer import Answer
from analysis.evidence.next_runs import NextRun, Work
from analysis.findings import Report
from analysis.wording import count, duration, join_words, upper_first


def by_asked(report: Report) -> tuple[dict[str, Answer], dict[str, Answer]]:
    """The answers to the questions that the study's design asks, and those to the others, by name."""
    asked = report.asked
    return asked, {name: answer for name, answer in report.answers.items() if name not in asked}


def not_asked_line(answers: Mapping[str, Answer]) -> str:
    """The questions that the study does not ask, in one line."""
    return "Not asked by this study: " + " ".join(answer.question for answer in answers.values())


def proposals_line(answer: Answer) -> str:
    """What the proposed commands of an undetermined answer would do for it, as the end of a sentence."""
    return f"{join_words(list(dict.fromkeys(command.purpose for command in answer.next_commands)))}."


def next_run_title(run: NextRun) -> str:
    """What the command is for, as a heading."""
    questions = len(dict.fromkeys(question for question, _ in run.purposes))
    if run.separate:
        return f"A separate study, {run.command.overrides['name']}"
    return f"One command for {count(questions, 'undetermined answer')}"


def work_sentence(work: Work | None) -> str:
    """What a command would train, in a sentence; empty where that is not known."""
    if work is None:
        return ""
    trains = (
        f"It trains {count(work.trajectories, 'trajectory', 'trajectories')}: {work.examples:,} examples, "
        f"{work.optimizer_steps:,} optimizer steps"
    )
    if work.seconds is not None:
        device = f" on {join_words(work.devices)}" if work.devices else ""
        trains += f", about {duration(work.seconds)} of training{device} at the speed of this study's runs"
    return f"{trains}{', and what the search chooses' if work.open else ''}."


def purposes(run: NextRun) -> list[str]:
    """What the command does for each question."""
    return [f"{question} {upper_first(purpose)}." for question, purpose in run.purposes]
