"""The best of n trials as a curve: expected over any n of the trials, or that of the first n."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from analysis.answer import Figure, Line, Panel, Table, Value
from analysis.selection.equal_budgets import EqualBudgets, TrialScore
from analysis.statistics.estimate import Estimate, FloatArray
from analysis.statistics.intervals import expected_best
from study.records import Split

# Resamples of the trials for the band of an expected curve.
DRAWS = 300
# The numbers of trials in the table.
SIZES = (1, 2, 4, 8, 16, 32, 64, 128)

EXPECTED = (
    (
        "Expected best validation after n trials by the unbiased estimator of Tang et al. (2020). That of Dodge et al. "
        "(2019) draws trials with replacement: the best trial is missed too often, and the curve lies too low."
    ),
    "The bands resample trials (bootstrap, pointwise) and say nothing about trials better than any that was made.",
)
SO_FAR = (
    "The best so far is shown in the order of the trials, without a band: the expected best of n trials (Tang et al. "
    "2020) assumes that any n of the trials could have been the first, but here later trials were chosen, or pruned, "
    "for what earlier ones had scored. Another run of the search would have another curve."
)
RUNS = (
    "In the curves every run is a trial, so that seeds are part of the search; failed runs count with what they "
    "scored, and runs without a score as chance."
)
MEANS = (
    "In the curves a trial is the search's, the mean over its seeds; failed runs count with what they scored, and runs "
    "without a score as chance."
)


def methods(budgets: EqualBudgets, *, trials_are_runs: bool) -> list[str]:
    """How the curves are computed, in sentences."""
    estimator = EXPECTED if budgets.exchangeable else (SO_FAR,)
    return [*estimator, RUNS if trials_are_runs else MEANS]


def best_so_far(trials: Sequence[TrialScore], split: Split) -> list[float]:
    """The accuracy on ``split`` of the best of the first n trials, for n from 1; of equals, the earlier trial."""
    accuracies, best = [], 0
    for index, trial in enumerate(trials):
        best = index if trial.gain > trials[best].gain else best
        accuracies.append(trials[best].accuracy(split))
    return accuracies


def best_of_n(trials: Sequence[TrialScore], split: Split, *, exchangeable: bool) -> list[float]:
    """The accuracy on ``split`` of the best of n trials, for n from 1: expected of any n, or that of the first n."""
    if not exchangeable:
        return best_so_far(trials, split)
    accuracies = [trial.accuracy(split) for trial in trials]
    return list(map(float, expected_best([trial.gain for trial in trials], accuracies)))


def curves_table(budgets: EqualBudgets) -> Table:
    """Test accuracy of the best trial by validation, over numbers of trials."""
    fewest = min(map(len, budgets.trials.values()))
    sizes = [size for size in SIZES if size <= fewest]
    rows: list[tuple[Value, ...]] = []
    for name, trials in budgets.trials.items():
        accuracies = best_of_n(trials, "test", exchangeable=budgets.exchangeable)
        rows.append((name, len(trials), *(accuracies[size - 1] for size in sizes)))
    title = "Test accuracy so far of the best by validation after the first n trials"
    if budgets.exchangeable:
        title = "Expected test accuracy of the best by validation after n trials"
    return Table(
        title=title,
        columns=("model", "trials", *(f"n = {size}" for size in sizes)),
        formats=("t", "n", *("%" for _ in sizes)),
        rows=rows,
    )


def curves_figure(budgets: EqualBudgets, rng: np.random.Generator) -> Figure:
    """The same for every number of trials, on validation and on test."""
    expected = budgets.exchangeable
    labels: dict[Split, str] = {
        "validation": "expected validation accuracy" if expected else "validation accuracy so far",
        "test": "its test accuracy",
    }
    panels = [
        Panel(
            title=f"on {split}",
            x_label="trials",
            y_label=y_label,
            lines=_lines(budgets.trials, split, expected, rng),
            percent_y=True,
        )
        for split, y_label in labels.items()
    ]
    caption = "Accuracy of the best trial by validation among the first n, in the order in which they were tried."
    if expected:
        caption = "Expected accuracy of the best trial by validation among n, with pointwise bootstrap bands (95 %)."
    return Figure(name="expected-best" if expected else "best-so-far", caption=caption, panels=panels)


def _lines(
    trials_by_model: Mapping[str, Sequence[TrialScore]], split: Split, exchangeable: bool, rng: np.random.Generator
) -> list[Line]:
    lines = []
    for name, trials in trials_by_model.items():
        band = _band(trials, split, rng) if exchangeable else None
        lines.append(
            Line(
                x=list(range(1, len(trials) + 1)),
                y=best_of_n(trials, split, exchangeable=exchangeable),
                low=[estimate.low for estimate in band] if band else None,
                high=[estimate.high for estimate in band] if band else None,
                group=name,
                dots=len(trials) == 1,
            )
        )
    return lines


def _band(trials: Sequence[TrialScore], split: Split, rng: np.random.Generator) -> list[Estimate]:
    """The bounds of the expected curve for each number of trials; their values are not computed."""
    gains: FloatArray = np.array([trial.gain for trial in trials])
    accuracies: FloatArray = np.array([trial.accuracy(split) for trial in trials])
    curves = []
    for _ in range(DRAWS):
        resample = rng.integers(0, len(gains), len(gains))
        curves.append(expected_best(gains[resample].tolist(), accuracies[resample].tolist()))
    lows, highs = np.quantile(curves, [0.025, 0.975], axis=0)
    return [Estimate(value=math.nan, low=float(low), high=float(high)) for low, high in zip(lows, highs, strict=True)]
