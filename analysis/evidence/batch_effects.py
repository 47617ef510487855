"""The effect of batch size on accuracy, each size at the learning rate that validation selects for it.

The best learning rate depends on the batch size (Shallue et al. 2019), so a comparison at one rate compares how well
that rate suits the two sizes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from analysis.evidence.comparison import seed_scores
from analysis.evidence.conditions import describe, settings_key
from analysis.evidence.cross_fitting import held_out
from analysis.evidence.effects import Effect, correct_or_chance, effect_of
from analysis.evidence.trials import objective_gain
from analysis.results import Results
from analysis.statistics.estimate import FloatArray
from analysis.trajectory_results import TrajectoryResult
from study.plan.cell_results import CellResult
from study.settings import Settings

# What decides the learning rate at a batch size: selected for each size, not compared.
RATE_KEYS = ("learning_rate", "lr_scaling")
Length = Literal["epochs", "optimizer steps"]

Members = Mapping[int, CellResult]


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchStratum:
    """Runs that differ in batch size and learning rate alone: the candidates of each size, a rate each, by seed."""

    settings: Settings
    candidates: Mapping[int, Sequence[Members]]

    @property
    def length(self) -> Length:
        """What is equal for all sizes."""
        return "epochs" if self.settings.epochs is not None else "optimizer steps"

    @property
    def most_rates(self) -> int:
        """The largest number of learning rates of a size."""
        return max(map(len, self.candidates.values()))


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchSizeEffect:
    """The accuracy of the ``largest`` batch size less that of the ``smallest``, the same two in every condition."""

    effect: Effect
    smallest: int
    largest: int


def batch_strata(results: Results, runs: Sequence[TrajectoryResult]) -> list[BatchStratum]:
    """The runs in strata of equal settings but batch size, learning rate and seed; only those with several sizes."""
    ignored = ["batch_size", *RATE_KEYS, "seed"]
    strata: dict[object, dict[int, dict[object, dict[int, CellResult]]]] = {}
    settings: dict[object, Settings] = {}
    for run in runs:
        key = settings_key(run.settings, ignored)
        settings.setdefault(key, run.settings)
        by_rate = strata.setdefault(key, {}).setdefault(run.settings.batch_size, {})
        by_rate.setdefault(settings_key(run.settings, ["seed"]), {})[run.settings.seed] = run.owner
    return [
        BatchStratum(
            settings=settings[key],
            candidates={size: list(by_rate.values()) for size, by_rate in sorted(by_size.items())},
        )
        for key, by_size in strata.items()
        if len(by_size) > 1
    ]


def batch_size_effect(results: Results, strata: Sequence[BatchStratum], length: Length) -> BatchSizeEffect | None:
    """The effect over the strata of this length; None where no two sizes can be compared.

    The ends are the two sizes, furthest apart, that most strata have; the others are dropped and counted.
    """
    of_length = [stratum for stratum in strata if stratum.length == length]
    pairs = Counter(
        (small, large)
        for stratum in of_length
        for small in stratum.candidates
        for large in stratum.candidates
        if small < large
    )
    if not pairs:
        return None
    smallest, largest = max(pairs, key=lambda pair: (pairs[pair], pair[1] / pair[0]))
    keys = [key for key in results.condition_keys if key not in ("batch_size", *RATE_KEYS, "epochs", "optimizer_steps")]
    named = [
        (describe(stratum.settings, keys), seed_scores(_differences(results, stratum, smallest, largest)))
        for stratum in of_length
    ]
    effect = effect_of(named)
    return None if effect is None else BatchSizeEffect(effect=effect, smallest=smallest, largest=largest)


def _differences(results: Results, stratum: BatchStratum, smallest: int, largest: int) -> dict[int, FloatArray]:
    if smallest not in stratum.candidates or largest not in stratum.candidates:
        return {}
    small, large = (selected_at(results, stratum.candidates[size]) for size in (smallest, largest))
    differences: dict[int, FloatArray] = {}
    for seed in sorted(small.keys() & large.keys()):
        of_large, of_small = correct_or_chance(results, large[seed]), correct_or_chance(results, small[seed])
        if of_large is not None and of_small is not None:
            differences[seed] = of_large - of_small
    return differences


def selected_at(results: Results, candidates: Sequence[Members]) -> dict[int, CellResult]:
    """For each seed, the run at the rate that validation selects on the other seeds."""
    return held_out(candidates, lambda cells: objective_gain(results, cells))
