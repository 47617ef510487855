"""The questions of the report, in its order, and their answers for one study."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib import import_module
from typing import Protocol, cast

import numpy as np

from analysis.answer import Answer
from analysis.evidence.trials import pruned_caveat
from analysis.overview import Overview, overview
from analysis.results import Results

# Each is the name of a module of analysis.questions, which is a Question.
QUESTIONS: tuple[str, ...] = (
    "collapse_or_overfitting",
    "lr_schedule",
    "batch_size",
    "calibration",
    "which_split",
    "stability",
    "tuning",
    "early_stopping",
)
# The same resampling in every report, so that a second report of a study has the same intervals.
SEED = 0


class Question(Protocol):
    """A module that answers one question; ``QUESTION`` is its text.

    ``COUNTS_PRUNED_RUNS`` says that runs which a trial scheduler stopped are part of the evidence; where they are left
    out, the answer gets a caveat.
    """

    QUESTION: str
    COUNTS_PRUNED_RUNS: bool

    def answer(self, results: Results, rng: np.random.Generator) -> Answer:
        """The answer for one study; all randomness comes from ``rng``."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What a report contains: the results, the opening tables, and the answers by the names of their questions."""

    results: Results
    overview: Overview
    answers: Mapping[str, Answer]


def load_question(name: str) -> Question:
    """The question of the module ``name``."""
    return cast("Question", import_module(f"analysis.questions.{name}"))


def answer_all(results: Results) -> Report:
    """Answer every question; each has a generator of its own, so that no answer depends on another question."""
    generators = np.random.default_rng(SEED).spawn(len(QUESTIONS))
    answers = {
        name: _answer(load_question(name), results, rng) for name, rng in zip(QUESTIONS, generators, strict=True)
    }
    return Report(results=results, overview=overview(results), answers=answers)


def _answer(question: Question, results: Results, rng: np.random.Generator) -> Answer:
    answer, caveat = question.answer(results, rng), pruned_caveat(results)
    if question.COUNTS_PRUNED_RUNS or not caveat:
        return answer
    return replace(answer, caveats=[*answer.caveats, caveat])
