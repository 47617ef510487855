"""The effect of batch size on accuracy, at equal epochs and at equal numbers of updates."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from analysis.evidence.comparison import RunStratum, selected_test_accuracy
from analysis.evidence.conditions import Arm
from analysis.statistics.estimate import Estimate
from analysis.statistics.intervals import mean_over_strata
from analysis.trajectory_results import TrajectoryResult

# Runs whose numbers of updates differ by at most this share are compared at equal updates.
SAME_STEPS = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchSizeEffect:
    """The accuracy of the ``largest`` batch size less that of the ``smallest``, at equal epochs or equal updates."""

    difference: Estimate
    smallest: int
    largest: int


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchSizeEffects:
    """The effect at equal epochs, at equal steps, and at equal steps as read off histories; None without such runs.

    ``at_steps_of_histories`` is only computed where no runs of equal steps exist.
    """

    at_epochs: BatchSizeEffect | None
    at_steps_of_runs: BatchSizeEffect | None
    at_steps_of_histories: BatchSizeEffect | None

    @property
    def at_steps(self) -> BatchSizeEffect | None:
        """The effect at equal optimizer steps, by whole runs if there are any."""
        return self.at_steps_of_runs or self.at_steps_of_histories


def batch_size_effects(groups: Sequence[RunStratum]) -> BatchSizeEffects:
    """The effects over strata whose arms are batch sizes."""
    at_epochs = _effect([(group, _test_differences(group)) for group in groups if group.settings.epochs is not None])
    at_steps = _effect(
        [(group, _test_differences(group)) for group in groups if group.settings.optimizer_steps is not None]
    )
    histories = None if at_steps else _effect([(group, _history_differences(group)) for group in groups])
    return BatchSizeEffects(at_epochs=at_epochs, at_steps_of_runs=at_steps, at_steps_of_histories=histories)


def arms_by_size(group: RunStratum) -> list[Arm[TrajectoryResult]]:
    """The arms of a stratum, the smallest batch first."""
    return sorted(group.arms.values(), key=lambda arm: arm.settings.batch_size)


def _ends_by_seed(group: RunStratum) -> list[tuple[TrajectoryResult, TrajectoryResult]]:
    """The runs of the smallest and of the largest batch, for each seed that both have."""
    small, *_, large = arms_by_size(group)
    seeds = sorted(small.members.keys() & large.members.keys())
    return [(small.members[seed], large.members[seed]) for seed in seeds]


def _test_differences(group: RunStratum) -> list[float]:
    """Test accuracy of the largest less that of the smallest batch, for each seed."""
    differences = []
    for small, large in _ends_by_seed(group):
        of_small, of_large = selected_test_accuracy(small), selected_test_accuracy(large)
        if of_small is not None and of_large is not None:
            differences.append(of_large - of_small)
    return differences


def _history_differences(group: RunStratum) -> list[float]:
    """The same at equal updates from the histories of constant-rate runs, on validation, after the last epoch."""
    if group.settings.lr_schedule != "constant" or group.settings.warmup_fraction:
        return []
    differences = []
    for small, large in _ends_by_seed(group):
        last = large.epochs[-1]
        near = (epoch for epoch in small.epochs if abs(epoch.optimizer_step / last.optimizer_step - 1) <= SAME_STEPS)
        if (epoch := next(near, None)) is not None:
            differences.append(last.validation["accuracy"] - epoch.validation["accuracy"])
    return differences


def _effect(differences: Sequence[tuple[RunStratum, list[float]]]) -> BatchSizeEffect | None:
    """The mean difference over the strata that have any; None where none has."""
    available = [(group, by_seed) for group, by_seed in differences if by_seed]
    if not available:
        return None
    sizes = {arm.settings.batch_size for group, _ in available for arm in group.arms.values()}
    return BatchSizeEffect(
        difference=mean_over_strata([by_seed for _, by_seed in available]), smallest=min(sizes), largest=max(sizes)
    )
