"""Which questions are asked, in which order, and what do they come to for one study?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from analysis.answer import Answer
from analysis.evidence.trials import cut_caveat
from analysis.overview import Overview, overview
from analysis.questions import (
    batch_size,
    calibration,
    collapse_or_overfitting,
    early_stopping,
    lr_schedule,
    stability,
    tuning,
)
from analysis.questions import which_split as validation_or_test
from analysis.results import Results

QUESTIONS = {
    "collapse-or-overfitting": collapse_or_overfitting.answer,
    "lr-schedule": lr_schedule.answer,
    "batch-size": batch_size.answer,
    "calibration": calibration.answer,
    "validation-or-test": validation_or_test.answer,
    "stability": stability.answer,
    "tuning": tuning.answer,
    "early-stopping": early_stopping.answer,
}
# Resampling draws anew in every report, but the same: who reads a study again finds the same intervals.
SEED = 0
# Of a search, a trial that was cut is a trial: all other questions are about whole runs.
TUNING = "tuning"


@dataclass(frozen=True, slots=True, kw_only=True)
class Findings:
    """What a report tells: the results, the opening tables, and the answers by the name of their question."""

    results: Results
    overview: Overview
    answers: Mapping[str, Answer]


def find(results: Results) -> Findings:
    """Ask every question; each draws from a generator of its own, so that none depends on another."""
    caveat = cut_caveat(results)
    streams = np.random.default_rng(SEED).spawn(len(QUESTIONS))
    return Findings(
        results=results,
        overview=overview(results),
        answers={
            name: ask(results, rng) if name == TUNING or not caveat else _with(ask(results, rng), caveat)
            for (name, ask), rng in zip(QUESTIONS.items(), streams, strict=True)
        },
    )


def _with(answer: Answer, caveat: str) -> Answer:
    return replace(answer, caveats=[*answer.caveats, caveat])
