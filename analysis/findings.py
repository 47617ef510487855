"""Asks every question of a study, in the order of the report."""

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

# Each is a module of analysis.questions, which is a Question.
QUESTIONS = (
    "collapse_or_overfitting",
    "lr_schedule",
    "batch_size",
    "calibration",
    "which_split",
    "stability",
    "tuning",
    "early_stopping",
)
# The same resampling in every report: whoever reads a study again finds the same intervals.
SEED = 0


class Question(Protocol):
    """A module that answers one question; ``QUESTION`` is its text.

    ``COUNTS_PRUNED_RUNS`` says that runs which a trial scheduler stopped are part of the evidence; where they are left
    out, the answer gets a caveat.
    """

    QUESTION: str
    COUNTS_PRUNED_RUNS: bool

    def answer(self, results: Results, rng: np.random.Generator) -> Answer:
        """The answer for one study; whatever is drawn comes from ``rng``."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Findings:
    """What a report says: the results, the opening tables, and the answers by the names of their questions."""

    results: Results
    overview: Overview
    answers: Mapping[str, Answer]


def load_question(name: str) -> Question:
    """The question of the module ``name``."""
    return cast("Question", import_module(f"analysis.questions.{name}"))


def find(results: Results) -> Findings:
    """Ask every question; each draws from a generator of its own, so that none depends on another."""
    streams = np.random.default_rng(SEED).spawn(len(QUESTIONS))
    answers = {name: _ask(load_question(name), results, rng) for name, rng in zip(QUESTIONS, streams, strict=True)}
    return Findings(results=results, overview=overview(results), answers=answers)


def _ask(question: Question, results: Results, rng: np.random.Generator) -> Answer:
    answer, caveat = question.answer(results, rng), pruned_caveat(results)
    if question.COUNTS_PRUNED_RUNS or not caveat:
        return answer
    return replace(answer, caveats=[*answer.caveats, caveat])
