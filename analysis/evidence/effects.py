"""The effect of one setting on accuracy: its mean over conditions, each condition's own, and whether these differ."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from analysis.answer import Table, Value
from analysis.results import Results
from analysis.statistics.clustered_means import (
    ClusteredMean,
    SeedScores,
    heterogeneity,
    mean_over_seeds,
    mean_over_strata,
)
from analysis.statistics.estimate import FloatArray
from analysis.wording import count, p_value, points_estimate
from study.plan.cell_results import CellResult
from study.records import Split

ALPHA = 0.05
# The part of a question's level that goes to the test whether conditions differ; the rest goes to the mean effect.
HETEROGENEITY_SHARE = 0.2

METHODS = (
    (
        "Differences are paired by seed number and example, within each condition, and averaged over conditions with "
        "equal weights. Standard errors are two-way clustered, by seed number over all conditions and by example "
        "(Cameron, Gelbach & Miller 2011; Sellam et al. 2022 resample the same two); Student's t has Satterthwaite's "
        "(1946) degrees of freedom from an upper bound of the seeds' variance, because a few seeds may agree by luck. "
        "No interval is narrower than one example."
    ),
    (
        "Whether conditions differ is tested by comparing each with the mean of the others (Bonferroni), at a fifth of "
        "the question's level. Where they do, in opposite directions, the answer is by condition, not on the mean."
    ),
)


@dataclass(frozen=True, kw_only=True)
class Effect:
    """Differences between two arms by condition, in the same order as ``names``; ``dropped`` conditions have none."""

    names: tuple[str, ...]
    strata: tuple[SeedScores, ...]
    dropped: int = 0

    @cached_property
    def mean(self) -> ClusteredMean:
        """The mean over conditions."""
        return mean_over_strata(self.strata)

    @property
    def pairs(self) -> int:
        """The number of pairs of runs."""
        return sum(len(stratum.seeds) for stratum in self.strata)

    @property
    def replicated(self) -> bool:
        """Whether any condition has a second seed, without which nothing is known of new seeds."""
        return any(len(stratum.seeds) > 1 for stratum in self.strata)

    @cached_property
    def by_condition(self) -> list[ClusteredMean]:
        """Each condition's own mean."""
        return [mean_over_seeds(stratum.scores) for stratum in self.strata]

    @cached_property
    def p_heterogeneity(self) -> float:
        """The p-value that conditions differ, at its share of the question's level; 1 where it cannot be tested."""
        p = heterogeneity(self.strata)
        return 1.0 if math.isnan(p) else min(1.0, p / HETEROGENEITY_SHARE)

    @property
    def p_difference(self) -> float:
        """The two-sided p-value of the mean effect, at its share of the question's level."""
        p = self.mean.p_value
        return 1.0 if math.isnan(p) else min(1.0, p / (1 - HETEROGENEITY_SHARE))

    @property
    def opposite(self) -> bool:
        """Whether conditions differ beyond chance, and in opposite directions."""
        signs = {np.sign(mean.value) for mean in self.by_condition}
        return self.p_heterogeneity < ALPHA and {1.0, -1.0} <= signs

    def p_equivalence(self, margin: float) -> float:
        """The p-value of a mean effect of at least ``margin``; 1 where conditions differ."""
        p = self.mean.p_equivalence(margin)
        return 1.0 if math.isnan(p) or self.p_heterogeneity < ALPHA else p

    @property
    def support(self) -> str:
        """What the effect was measured on, as the end of a sentence."""
        text = f"over {count(self.pairs, 'pair of runs', 'pairs of runs')}"
        if len(self.strata) > 1:
            text += f" in {len(self.strata)} conditions"
        return text + (f"; {count(self.dropped, 'condition')} without such a pair left out" if self.dropped else "")

    def conditions_in_words(self, most: int = 6) -> str:
        """Each condition's effect, the largest first."""
        parts = sorted(zip(self.names, self.by_condition, strict=True), key=lambda part: -part[1].value)
        shown = "; ".join(f"{name} {points_estimate(mean.estimate())}" for name, mean in parts[:most])
        return shown + (f"; {len(parts) - most} more in the table" if len(parts) > most else "")

    def table(self, title: str, difference: str) -> Table:
        """The effect in each condition and over all."""
        rows: list[tuple[Value, ...]] = [
            (name, len(stratum.seeds), mean.estimate(), mean.p_value)
            for name, stratum, mean in zip(self.names, self.strata, self.by_condition, strict=True)
        ]
        mean = self.mean
        note = "The rows of single conditions are exploratory: their p-values are not corrected."
        if len(rows) > 1:
            rows.append(("mean over conditions", mean.seeds, mean.estimate(), mean.p_value))
            note += f" That all conditions are alike: {p_value(heterogeneity(self.strata))}."
        return Table(
            title=title,
            columns=("condition", "seeds", difference, "p"),
            formats=("t", "n", "+%", "p"),
            rows=rows,
            note=note,
            most_rows=60,
        )


def correct_or_chance(results: Results, cell: CellResult, split: Split = "test") -> FloatArray | None:
    """Whether a cell's selected checkpoint classifies each example correctly; chance for a run without a checkpoint.

    None where the checkpoint's predictions are missing, or no run of the study has any.
    """
    scores = results.predictions.scores(cell, split)
    if scores is not None:
        return scores.correct.astype(np.float64)
    if cell.chosen is not None and results.predictions.of_cell(cell, split) is None:
        return None
    # No checkpoint had a finite score on validation, or the selected one has none on this split.
    ended_without = cell.state == "complete" and cell.stop_reason == "non-finite"
    examples = examples_of(results, split)
    return np.full(examples, results.chance.accuracy) if examples and ended_without else None


def examples_of(results: Results, split: Split) -> int:
    """How many examples a split has; 0 where no run has predictions on it."""
    for cell in results.cells:
        predictions = results.predictions.of_cell(cell, split)
        if predictions is not None:
            return len(predictions.label)
    return 0


def effect_of(named: Sequence[tuple[str, SeedScores | None]]) -> Effect | None:
    """The effect over the conditions that have differences; None where none has."""
    available = [(name, scores) for name, scores in named if scores is not None]
    if not available:
        return None
    names, strata = zip(*available, strict=True)
    return Effect(names=tuple(names), strata=tuple(strata), dropped=len(named) - len(available))
