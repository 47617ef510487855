"""Scores of each condition: on validation, by which conditions are ranked, and on test, failed runs included."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import fmean

import numpy as np

from analysis.evidence.conditions import SettingsKey, settings_key
from analysis.evidence.trials import objective_gain
from analysis.results import Results
from analysis.statistics import intervals
from analysis.statistics.clustered_means import mean_over_seeds
from analysis.statistics.estimate import Estimate
from study.plan.cell_results import CellResult
from study.records import Epoch
from study.settings import Settings


@dataclass(frozen=True, slots=True, kw_only=True)
class ConditionScores:
    """All cells of one condition, and the mean scores of those that are complete and not pruned.

    ``gain`` ranks conditions: the mean over seeds of the score by which a user would select one, signed so that more is
    better, where a cell without a finite score counts as the worst. ``validation`` is the mean accuracy of the selected
    checkpoints on validation and ``validation_loss`` their mean loss, ``accuracy`` and ``loss`` their scores on test.
    Of the complete cells, ``at_chance`` have a selected checkpoint that is not better than chance, ``without_score``
    none with a score on test, and ``collapsed`` ended collapsed, never learned, or ended with a non-finite loss.
    """

    settings: Settings
    cells: Sequence[CellResult]
    gain: float
    validation: float
    validation_loss: float
    accuracy: Estimate
    loss: Estimate
    at_chance: int
    without_score: int
    collapsed: int

    @property
    def by_seed(self) -> dict[int, CellResult]:
        """Its complete cells by their seeds."""
        return {result.cell.settings.seed: result for result in self.cells if reached_end(result)}

    @property
    def trajectories(self) -> frozenset[str]:
        """The ids of the trajectories that train its cells."""
        return frozenset(result.cell.trajectory for result in self.cells)

    @property
    def complete(self) -> int:
        """How many of its cells reached their own end."""
        return len(self.by_seed)

    @property
    def pruned(self) -> int:
        """How many of its cells a trial scheduler stopped; their scores are not those of whole runs, and left out."""
        return sum(result.stop_reason == "cut" for result in self.cells)

    @property
    def scored(self) -> bool:
        """Whether any of its cells has a score on test."""
        return self.complete > self.without_score


def reached_end(result: CellResult) -> bool:
    """Whether the cell is complete and was not pruned."""
    return result.state == "complete" and result.stop_reason != "cut"


def ranked_conditions(results: Results) -> list[ConditionScores]:
    """The scores of every condition, the best on validation first, and of equals the one with the lower loss.

    Conditions without a score are last; what is equal is in the plan's order.
    """
    groups: dict[SettingsKey, list[CellResult]] = {}
    for result in results.cells:
        groups.setdefault(settings_key(result.cell.settings, ["seed"]), []).append(result)
    results.predictions.preload([result for result in results.cells if reached_end(result)], ["test"])
    conditions = [_condition_scores(results, group) for group in groups.values()]
    return sorted(conditions, key=_rank)


def _rank(condition: ConditionScores) -> tuple[bool, float, float]:
    loss = condition.validation_loss
    return not condition.scored, -condition.gain, loss if math.isfinite(loss) else math.inf


def ended_collapsed(results: Results, result: CellResult) -> bool:
    """Whether the cell itself ended in a failure of its trajectory, which may have failed after the cell's end."""
    diagnosis = results.diagnoses[result.cell.trajectory]
    return diagnosis.failed and result.last is not None and result.last.epoch >= (diagnosis.onset_epoch or 1)


def _condition_scores(results: Results, group: Sequence[CellResult]) -> ConditionScores:
    complete = [result for result in group if reached_end(result)]
    selected = [(result, result.chosen) for result in complete if result.chosen and result.chosen.test is not None]
    accuracy, loss = _test_scores(results, complete, [epoch for _, epoch in selected])
    return ConditionScores(
        settings=group[0].cell.settings,
        cells=group,
        gain=objective_gain(results, complete) if complete else -math.inf,
        validation=fmean(epoch.validation["accuracy"] for _, epoch in selected) if selected else math.nan,
        validation_loss=fmean(epoch.validation["loss"] for _, epoch in selected) if selected else math.nan,
        accuracy=accuracy,
        loss=loss,
        at_chance=sum(
            not results.epoch_tests.better_than_chance(result.cell.trajectory, epoch) for result, epoch in selected
        ),
        without_score=len(complete) - len(selected),
        collapsed=sum(ended_collapsed(results, result) for result in complete),
    )


def _test_scores(
    results: Results, complete: Sequence[CellResult], selected: Sequence[Epoch]
) -> tuple[Estimate, Estimate]:
    """Mean accuracy and loss on test, with intervals that say something: others are left out."""
    examples = [scores for result in complete if (scores := results.predictions.scores(result, "test")) is not None]
    if examples and len(examples) == len(selected):
        accuracy = mean_over_seeds(np.stack([scores.correct.astype(float) for scores in examples])).estimate()
        loss = mean_over_seeds(np.stack([scores.nll for scores in examples])).estimate()
    else:
        tests = [epoch.test for epoch in selected if epoch.test is not None]
        accuracy, loss = (
            intervals.mean_over_seeds([scores[name] for scores in tests]) for name in ("accuracy", "loss")
        )
    return possible(accuracy, 0, 1), possible(loss, 0, math.inf)


def possible(estimate: Estimate, low: float, high: float) -> Estimate:
    """The estimate with its interval clipped to what is possible, or without one that says nothing.

    With two seeds Student's t may be wider than all that is possible, or, for a loss, reach below zero.
    """
    says_nothing = estimate.low <= low if math.isinf(high) else estimate.high - estimate.low >= high - low
    return replace(estimate, low=math.nan, high=math.nan) if says_nothing else estimate.clipped(low, high)
