"""Scores of settings on seeds that had no part in selecting them, so that selection does not bias the estimate."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from analysis.evidence.comparison import seed_scores
from analysis.evidence.condition_scores import ConditionScores
from analysis.evidence.effects import correct_or_chance
from analysis.evidence.trials import objective_gain
from analysis.results import Results
from analysis.statistics.clustered_means import ClusteredMean, mean_over_strata
from analysis.statistics.estimate import FloatArray


@dataclass(frozen=True, slots=True, kw_only=True)
class CrossFitted:
    """A mean over seeds, each scored by settings that the other seeds chose.

    ``stable`` says that these were the settings that all seeds together choose, for each of the seeds.
    """

    mean: ClusteredMean
    stable: bool


# Of conditions in the order of their rank, the first and the one that it is compared with, if any; None where there
# are no such two.
Choose = Callable[[Sequence[ConditionScores]], tuple[ConditionScores, ConditionScores | None] | None]


def trained_apart(ranked: Sequence[ConditionScores]) -> list[ConditionScores]:
    """The conditions with a score, without those that only stop elsewhere in the runs of a better one."""
    apart: dict[frozenset[str], ConditionScores] = {}
    for condition in ranked:
        if condition.scored:
            apart.setdefault(condition.trajectories, condition)
    return list(apart.values())


def accuracy_difference(
    results: Results, first: ConditionScores, second: ConditionScores | None, seed: int
) -> FloatArray | None:
    """First - second for each test example with one seed, or the first's score alone; None without predictions."""
    arms = [condition.by_seed.get(seed) for condition in (first, second) if condition is not None]
    scores = [correct_or_chance(results, cell) if cell is not None else None for cell in arms]
    if any(score is None for score in scores):
        return None
    return scores[0] if len(scores) == 1 else scores[0] - scores[1]  # type: ignore[operator]


def cross_fit(results: Results, settings: Sequence[ConditionScores], choose: Choose) -> CrossFitted | None:
    """What ``choose`` compares, chosen by all seeds but one and scored on that one, for each seed in turn.

    None without settings, and where fewer than two seeds can be left out.
    """
    if not settings:
        return None
    whole = choose(settings)
    by_seed: dict[int, FloatArray] = {}
    stable = True
    for seed in sorted({seed for condition in settings for seed in condition.by_seed}):
        order = [condition for condition in settings if seed in condition.by_seed and condition.complete > 1]
        gains = {id(condition): _gain_without(results, condition, seed) for condition in order}
        order.sort(key=lambda condition: -gains[id(condition)])
        chosen = choose(order) if len(order) > 1 else None
        scores = accuracy_difference(results, *chosen, seed) if chosen is not None else None
        if chosen is not None and scores is not None:
            by_seed[seed] = scores
            stable = stable and whole is not None and all(a is b for a, b in zip(chosen, whole, strict=True))
    scores_by_seed = seed_scores(by_seed)
    if len(by_seed) < 2 or scores_by_seed is None:
        return None
    return CrossFitted(mean=mean_over_strata([scores_by_seed]), stable=stable)


def _gain_without(results: Results, condition: ConditionScores, seed: int) -> float:
    """What a user would select the condition by without one seed, as a number of which more is better."""
    others = [result for other, result in condition.by_seed.items() if other != seed]
    return objective_gain(results, others) if others else -math.inf
