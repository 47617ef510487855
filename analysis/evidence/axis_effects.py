"""The effect of each axis of a study on test accuracy, over conditions that are equal in everything else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from analysis.evidence.comparison import RunStratum, model_specific_keys, run_strata, seed_scores
from analysis.evidence.conditions import describe
from analysis.evidence.effects import Effect, correct_or_chance, effect_of
from analysis.results import Results
from analysis.statistics.estimate import FloatArray
from analysis.trajectory_results import TrajectoryResult
from analysis.wording import join_words, setting_name


@dataclass(frozen=True, slots=True, kw_only=True)
class AxisEffect:
    """What the values of one axis, ``keys`` that vary together, do to accuracy: each against the mean of the others."""

    keys: tuple[str, ...]
    by_value: Mapping[str, Effect]

    @property
    def name(self) -> str:
        """The axis in words."""
        if "lr_schedule" in self.keys and len(self.keys) > 1:
            return "schedule with warm-up"
        return join_words([setting_name(key) for key in self.keys])

    @property
    def p_value(self) -> float:
        """The p-value that no value differs from the others, corrected for the number of values (Bonferroni)."""
        p_values = [effect.mean.p_value for effect in self.by_value.values()]
        if not np.isfinite(p_values).all():
            return 1.0  # with one seed, an effect is not told apart from the seed's
        contrasts = 1 if len(self.by_value) == 2 else len(p_values)
        return min(1.0, contrasts * min(p_values))

    @property
    def best(self) -> str:
        """The value that scores most."""
        return max(self.by_value, key=lambda value: self.by_value[value].mean.value)

    @property
    def p_interaction(self) -> float:
        """The p-value that an effect differs between conditions, corrected likewise and at its own level."""
        return min((effect.p_heterogeneity for effect in self.by_value.values()), default=1.0)


def axes_of(results: Results) -> list[tuple[str, ...]]:
    """The settings by which conditions differ, those together that never vary apart; without a model's own settings."""
    own = model_specific_keys(results)
    keys = [key for key in results.condition_keys if key not in own]
    patterns: dict[tuple[int, ...], list[str]] = {}
    for key in keys:
        values = [getattr(run.settings, key) for run in results.runs]
        patterns.setdefault(tuple(values.index(value) for value in values), []).append(key)
    return [tuple(group) for group in patterns.values()]


def axis_effects(results: Results, runs: Sequence[TrajectoryResult]) -> list[AxisEffect]:
    """The effect of every axis that has runs to compare, in the plan's order."""
    own = model_specific_keys(results)
    effects = []
    for keys in axes_of(results):
        ignored = own if "model" in keys else ()
        groups = run_strata(runs, keys, ignored=ignored)
        values = list(dict.fromkeys(describe(run.settings, keys) for run in runs))
        if len(values) < 2:
            continue
        by_value = {}
        for value in values:
            named = [(_condition(results, group, keys), _contrast(results, group, value, values)) for group in groups]
            effect = effect_of([(name, seed_scores(contrast)) for name, contrast in named])
            if effect is not None:
                by_value[value] = effect
        if by_value:
            effects.append(AxisEffect(keys=keys, by_value=by_value))
    return effects


def _condition(results: Results, group: RunStratum, keys: Sequence[str]) -> str:
    return describe(group.settings, [key for key in results.condition_keys if key not in keys])


def _contrast(results: Results, group: RunStratum, value: str, values: Sequence[str]) -> dict[int, FloatArray]:
    """Correctness with ``value`` minus the mean of that with the others, by seed; only in strata with all values."""
    if any(other not in group.arms for other in values):
        return {}
    contrasts = {}
    for seed in sorted(set.intersection(*(set(group.arms[other].members) for other in values))):
        scores = {other: correct_or_chance(results, group.arms[other].members[seed].owner) for other in values}
        own, others = scores[value], [array for other, array in scores.items() if other != value and array is not None]
        if own is not None and len(others) == len(values) - 1:
            contrasts[seed] = own - np.mean(others, axis=0)
    return contrasts
