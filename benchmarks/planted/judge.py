"""The judgement of a report's answers by what is planted, and counts of it over studies."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Literal

from scipy.stats import binomtest

from analysis.answer import NOT_ASKED, UNDETERMINED, Answer
from benchmarks.planted.truth import Expectation, Truth

Mark = Literal["right", "undetermined", "other", "wrong"]
MARKS: tuple[Mark, ...] = ("right", "undetermined", "other", "wrong")
# A claim whose own p-value is below this holds before it is corrected for the report's other claims.
ALPHA = 0.05


def judge(verdict: str, sentence: str, expectation: Expectation) -> Mark:
    """Whether a verdict is right; one with a sentence that is never true is wrong."""
    if any(re.search(pattern, sentence) for pattern in expectation.never_says):
        return "wrong"
    if _is_one_of(verdict, expectation.right):
        return "right"
    if expectation.never is not None and _is_one_of(verdict, expectation.never):
        return "wrong"
    if verdict in (UNDETERMINED, NOT_ASKED):
        return "undetermined"
    return "wrong" if expectation.never is None else "other"


def _is_one_of(verdict: str, patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(verdict, pattern) for pattern in patterns)


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """What became of one question in one study.

    ``uncorrected`` is the mark that it would have had without correction for the report's other claims, ``covered``
    whether the estimate's interval has the truth, None where there is no estimate or no truth.
    """

    verdict: str
    sentence: str
    mark: Mark
    uncorrected: Mark
    covered: bool | None


def judge_answers(answers: Mapping[str, Answer], truth: Truth) -> dict[str, Judgement]:
    """The judgement of each question that the truth says something of; questions that are not there are left out."""
    return {
        name: _judge_answer(answers[name], expectation) for name, expectation in truth.expect.items() if name in answers
    }


def _judge_answer(answer: Answer, expectation: Expectation) -> Judgement:
    mark = judge(answer.verdict, answer.sentence, expectation)
    claim, uncorrected = answer.claim, mark
    if claim is not None and claim.p_value < ALPHA:
        uncorrected = judge(claim.verdict, claim.sentence, expectation)
    covered = None
    if answer.estimate is not None and expectation.estimate is not None:
        covered = bool(answer.estimate.low <= expectation.estimate <= answer.estimate.high)
    return Judgement(
        verdict=answer.verdict, sentence=answer.sentence, mark=mark, uncorrected=uncorrected, covered=covered
    )


@dataclass(slots=True, kw_only=True)
class Tally:
    """Counts of one question over studies; ``verdicts`` by mark and verdict, with the first study and sentence."""

    marks: Counter[Mark] = field(default_factory=Counter)
    uncorrected: Counter[Mark] = field(default_factory=Counter)
    verdicts: Counter[tuple[Mark, str]] = field(default_factory=Counter)
    sentences: dict[tuple[Mark, str], tuple[int, str]] = field(default_factory=dict)
    covered: int = 0
    intervals: int = 0

    def add(self, judgement: Judgement, number: int) -> None:
        """Count one more study, which has this number."""
        self.marks[judgement.mark] += 1
        self.uncorrected[judgement.uncorrected] += 1
        self.verdicts[judgement.mark, judgement.verdict] += 1
        self.sentences.setdefault((judgement.mark, judgement.verdict), (number, judgement.sentence))
        if judgement.covered is not None:
            self.intervals += 1
            self.covered += judgement.covered


@dataclass(slots=True, kw_only=True)
class TruthTally:
    """Counts of all questions over the ``studies`` of a truth; ``any_wrong`` of them have a wrong verdict."""

    truth: Truth
    studies: int = 0
    any_wrong: int = 0
    any_wrong_uncorrected: int = 0
    seconds: float = 0.0
    questions: dict[str, Tally] = field(default_factory=dict)

    @property
    def summary(self) -> str:
        """The counts in a line."""
        cost = f"{self.studies} studies, {self.seconds / max(1, self.studies):.2f} s of CPU each"
        wrong = [f"{name} {tally.marks['wrong']}" for name, tally in self.questions.items() if tally.marks["wrong"]]
        return f"{self.truth.name}: {cost}{'; wrong: ' + ', '.join(wrong) if wrong else ''}"

    def add(self, judgements: Mapping[str, Judgement], number: int, seconds: float) -> None:
        """Count one more study, which has this number and took so many seconds."""
        self.studies += 1
        self.seconds += seconds
        self.any_wrong += any(judgement.mark == "wrong" for judgement in judgements.values())
        self.any_wrong_uncorrected += any(judgement.uncorrected == "wrong" for judgement in judgements.values())
        for name, judgement in judgements.items():
            self.questions.setdefault(name, Tally()).add(judgement, number)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rate:
    """A share of ``trials`` with its 95 % Clopper-Pearson interval."""

    events: int
    trials: int

    @property
    def interval(self) -> tuple[float, float]:
        """The bounds."""
        bounds = binomtest(self.events, self.trials).proportion_ci(0.95, method="exact")
        return float(bounds.low), float(bounds.high)

    def __str__(self) -> str:
        """The share in percent."""
        if not self.trials:
            return ""
        low, high = self.interval
        return f"{100 * self.events / self.trials:.1f} % ({100 * low:.1f} to {100 * high:.1f})"
