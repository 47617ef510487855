"""How good is the best of the first, or of any, n trials?"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from analysis.answer import Figure, Line, Panel, Table, Value
from analysis.selection.equal_budgets import Budget, Score
from analysis.statistics.estimate import Estimate, FloatArray
from analysis.statistics.intervals import expected_best

DRAWS = 300

EXPECTED = (
    (
        "Expected best validation after n trials by Tang et al.'s (2020) unbiased estimator. Dodge et al.'s (2019) "
        "draws trials with replacement: the best of the trials made is missed too often, and the curve lies too low."
    ),
    "The bands resample trials (bootstrap, pointwise), and say nothing of trials better than any that was made.",
)
SO_FAR = (
    "The best so far is shown in the order of the trials, without a band: the expected best of n trials (Tang et al. "
    "2020) holds where any n of the trials could have been the first, and here later trials were chosen, or cut, for "
    "what earlier ones had scored. Another run of the search would have another curve."
)
RUNS = (
    "Trials of the curves are all runs, so that seeds are part of the search; failed runs count with what they scored, "
    "and runs without a score as chance."
)
MEANS = (
    "Trials of the curves are the search's, each the mean over its seeds; failed runs count with what they scored, and "
    "runs without a score as chance."
)


def methods(budget: Budget, *, trials_are_runs: bool) -> list[str]:
    """How the curves were made."""
    how = EXPECTED if budget.exchangeable else (SO_FAR,)
    return [*how, RUNS if trials_are_runs else MEANS]


def best_so_far(trials: Sequence[Score], split: str) -> list[float]:
    """The accuracy on ``split`` of the best of the first n trials, for n from 1; of equals, the earlier."""
    found, best = [], 0
    for index, trial in enumerate(trials):
        best = index if trial.worth > trials[best].worth else best
        found.append(float(getattr(trials[best], split)))
    return found


def curve(trials: Sequence[Score], split: str, *, exchangeable: bool) -> list[float]:
    """What the best of n trials scores on ``split``: expected of any n, or that of the first n."""
    if not exchangeable:
        return best_so_far(trials, split)
    scores = [float(getattr(trial, split)) for trial in trials]
    return list(map(float, expected_best([trial.worth for trial in trials], scores)))


def curves_table(budget: Budget) -> Table:
    """Test accuracy of the best by validation, over numbers of trials."""
    sizes = sorted({n for n in (1, 2, 4, 8, 16, 32, 64, 128) if n <= min(map(len, budget.trials.values()))})
    rows: list[tuple[Value, ...]] = []
    for name, trials in budget.trials.items():
        found = curve(trials, "test", exchangeable=budget.exchangeable)
        rows.append((name, len(trials), *(found[n - 1] for n in sizes)))
    what = "Expected test accuracy" if budget.exchangeable else "Test accuracy so far"
    after = "n trials" if budget.exchangeable else "the first n trials"
    return Table(
        title=f"{what} of the best by validation after {after}",
        columns=("model", "trials", *(f"n = {n}" for n in sizes)),
        formats=("t", "n", *("%" for _ in sizes)),
        rows=rows,
    )


def curves_figure(budget: Budget, rng: np.random.Generator) -> Figure:
    """The same for every number of trials, on validation and on test."""
    known = budget.exchangeable
    labels = {
        "validation": "expected validation accuracy" if known else "validation accuracy so far",
        "test": "its test accuracy",
    }
    panels = [
        Panel(
            title=f"on {split}",
            x_label="trials",
            y_label=y_label,
            lines=_lines(budget.trials, split, known, rng),
            percent_y=True,
        )
        for split, y_label in labels.items()
    ]
    caption = "Accuracy of the best trial by validation among the first n, in the order in which they were tried."
    if known:
        caption = "Expected accuracy of the best trial by validation among n, with pointwise bootstrap bands (95 %)."
    return Figure(name="expected-best" if known else "best-so-far", caption=caption, panels=panels)


def _lines(
    trials: Mapping[str, Sequence[Score]], split: str, exchangeable: bool, rng: np.random.Generator
) -> list[Line]:
    lines = []
    for name, found in trials.items():
        band = _band(found, split, rng) if exchangeable else None
        lines.append(
            Line(
                x=list(range(1, len(found) + 1)),
                y=curve(found, split, exchangeable=exchangeable),
                low=[one.low for one in band] if band else None,
                high=[one.high for one in band] if band else None,
                group=name,
                dots=len(found) == 1,
            )
        )
    return lines


def _band(trials: Sequence[Score], split: str, rng: np.random.Generator) -> list[Estimate]:
    ranks: FloatArray = np.array([trial.worth for trial in trials])
    scores: FloatArray = np.array([getattr(trial, split) for trial in trials])
    curves = []
    for _ in range(DRAWS):
        picked = rng.integers(0, len(ranks), len(ranks))
        curves.append(expected_best(ranks[picked].tolist(), scores[picked].tolist()))
    low, high = np.quantile(curves, [0.025, 0.975], axis=0)
    return [Estimate(value=math.nan, low=float(a), high=float(b)) for a, b in zip(low, high, strict=True)]
