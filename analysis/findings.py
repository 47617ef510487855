"""The questions of the report, in its order, and their answers for one study."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from importlib import import_module
from typing import Protocol, cast

import numpy as np

from analysis.answer import NOT_ASKED, Answer, Claim, sentences
from analysis.evidence.comparison import ended_runs
from analysis.evidence.conditions import schedule_keys
from analysis.evidence.failures import failures_by_chance
from analysis.evidence.next_runs import NextRun, next_runs
from analysis.evidence.trials import pruned_caveat
from analysis.overview import Overview, overview
from analysis.results import Results
from analysis.statistics.multiplicity import divided_level, holm
from analysis.wording import p_value

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
    "settings_that_matter",
)
ALPHA = 0.05
# The part of the level that goes to claims about failures where a study could show any: four of four runs against none
# of four, p = 0.029, is the smallest design that shows a difference.
FAILURES_SHARE = 0.6

METHOD = (
    "The verdicts hold together: the probability that any claim of an effect is false is held to 5 %. Where some runs "
    f"failed, claims about how often runs fail have {5 * FAILURES_SHARE:g} of these 5 percentage points, and all other "
    f"claims {5 * (1 - FAILURES_SHARE):g}; where none failed, the others have all. Claims about failures hold only "
    "if failures depend on model and schedule at all (a closed test, Marcus, Peritz & Gabriel 1976); the others are "
    "corrected by Holm's (1979) method. What happened to a single run is a fact and not corrected. Tables of single "
    "conditions, pairs and seeds are exploratory: their p-values and intervals stand for each row alone."
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


@dataclass(frozen=True, kw_only=True)
class Report:
    """What a report contains: the results, the opening tables, and the answers by the names of their questions."""

    results: Results
    overview: Overview
    answers: Mapping[str, Answer]

    @property
    def asked(self) -> dict[str, Answer]:
        """The answers to the questions that the study's design asks."""
        return {name: answer for name, answer in self.answers.items() if answer.verdict != NOT_ASKED}

    @cached_property
    def next_runs(self) -> list[NextRun]:
        """What to run next for the questions that the study asks; planned once for all forms of the report."""
        return next_runs(self.results, self.asked.values())


def load_question(name: str) -> Question:
    """The question of the module ``name``."""
    return cast("Question", import_module(f"analysis.questions.{name}"))


def answer_all(results: Results) -> Report:
    """Answer every question; each has a generator of its own, so that no answer depends on another question.

    Claims that do not hold together with those of the other questions leave their question undetermined.
    """
    generators = np.random.default_rng(SEED).spawn(len(QUESTIONS))
    answers = {
        name: _answer(load_question(name), results, rng) for name, rng in zip(QUESTIONS, generators, strict=True)
    }
    adjusted = _adjusted(results, {name: answer.claim for name, answer in answers.items() if answer.claim})
    return Report(
        results=results,
        overview=overview(results),
        answers={name: settle(answer, adjusted.get(name)) for name, answer in answers.items()},
    )


def _answer(question: Question, results: Results, rng: np.random.Generator) -> Answer:
    answer, caveat = question.answer(results, rng), pruned_caveat(results)
    if question.COUNTS_PRUNED_RUNS or not caveat:
        return answer
    return replace(answer, caveats=[*answer.caveats, caveat])


def _adjusted(results: Results, claims: Mapping[str, Claim]) -> dict[str, float]:
    """The p-value of each claim, adjusted for all claims of the report."""
    failures = {name: claim.p_value for name, claim in claims.items() if claim.family == "failures"}
    scores = {name: claim.p_value for name, claim in claims.items() if claim.family == "scores"}
    if len(failures) > 1:
        keys = ["model", *schedule_keys(results.varying)]
        by_chance = failures_by_chance(results, ended_runs(results), keys)
        failures = {name: max(p, by_chance) for name, p in failures.items()}
    some_failed = any(diagnosis.unstable for diagnosis in results.diagnoses.values())
    of_failures, of_scores = divided_level(
        list(failures.values()),
        holm(list(scores.values())),
        first_share=FAILURES_SHARE if some_failed or failures else 0.0,
    )
    return dict(zip([*failures, *scores], [*of_failures, *of_scores], strict=True))


def settle(answer: Answer, adjusted: float | None) -> Answer:
    """The answer with the verdict and the sentence of its claim if that holds; ``adjusted`` is its p-value."""
    if answer.claim is None or adjusted is None:
        return answer
    if adjusted < ALPHA:
        factor = adjusted / answer.claim.p_value if answer.claim.p_value else 1.0
        holds = (claim for claim in answer.claim.wider if factor * claim.p_value < ALPHA)
        made = next(holds, answer.claim)
        return replace(answer, verdict=made.verdict, sentence=made.sentence, next_commands=())
    if answer.claim.p_value < ALPHA:
        alone = f"\u201c{answer.claim.verdict}\u201d ({p_value(answer.claim.p_value)})"
        hint = (
            f"Taken alone, this would be {alone}; together with the report's other claims it does not hold "
            f"({p_value(adjusted)})."
        )
        return replace(answer, sentence=sentences(answer.sentence, hint))
    return answer
