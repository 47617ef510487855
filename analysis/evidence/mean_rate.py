"""Failures of a decaying schedule and of constant learning rates with the same peak and with the same mean.

Linear decay without warm-up has half the mean rate of a constant schedule, so a difference between them can be due to
the shape or to the lower mean rate. Constant runs at the decaying runs' mean rate separate the two.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from analysis.answer import Table, Value
from analysis.diagnosis import DECIDED, Diagnoses, learning_rate
from analysis.evidence.comparison import run_strata
from analysis.evidence.conditions import Arm, describe
from analysis.evidence.failures import rate_of
from analysis.statistics.exact_tests import FailureStratum, common_difference, stratified_exact
from analysis.trajectory_results import TrajectoryResult

BASELINE = "constant"
ALPHA = 0.05
# Mean rates within this share of each other are taken as the same.
SAME_RATE = 0.05
# A difference of failure rates that would matter.
SAME_FAILURES = 0.20

RunArm = Arm[TrajectoryResult]


@dataclass(frozen=True, slots=True, kw_only=True)
class ThreeArms:
    """Runs at settings otherwise equal: constant at the decaying runs' peak, decaying, and constant at their mean."""

    full_rate: RunArm
    decaying: RunArm
    mean_rate: RunArm


@dataclass(frozen=True, slots=True, kw_only=True)
class MeanRateComparison:
    """The conditions that have all three kinds of runs; none where the study has no such runs."""

    schedule: str
    conditions: tuple[ThreeArms, ...]
    diagnoses: Diagnoses

    @property
    def available(self) -> bool:
        """Whether the study has such runs."""
        return bool(self.conditions)

    def conclusion(self) -> str:
        """Whether a schedule that helps does so by its shape or by its lower mean rate, as the end of a sentence."""
        if not self.available:
            return "whether by its shape or by its lower mean rate is not known: no constant run has that mean"
        against_mean = [self._stratum(arms.decaying, arms.mean_rate) for arms in self.conditions]
        against_full = [self._stratum(arms.mean_rate, arms.full_rate) for arms in self.conditions]
        if _fails_less(against_mean):
            return "by its shape: constant runs of the same mean rate fail more often"
        if not _fails_less(against_full):
            return "whether by its shape or by its lower mean rate is undetermined with so few runs"
        gap = common_difference(against_mean)
        if gap is None or gap.low > -SAME_FAILURES:
            return "its lower mean rate suffices: constant runs of that mean rate fail as seldom"
        return "a lower constant rate helps too, and these runs do not show whether the shape adds to that"

    def tables(self) -> list[Table]:
        """A table of the three kinds of runs, condition by condition; nothing where the study has no such runs."""
        if not self.available:
            return []
        rows: list[tuple[Value, ...]] = []
        for arms in self.conditions:
            for arm in (arms.full_rate, arms.decaying, arms.mean_rate):
                runs = list(arm.members.values())
                settings = describe(arm.settings, ["model", "lr_schedule", "learning_rate", "batch_size"])
                rows.append((settings, learning_rate(runs[0]).mean, len(runs), rate_of(runs, self.diagnoses)))
        return [
            Table(
                title="The shape, or the lower mean rate?",
                columns=("runs of", "mean learning rate", "runs", "failure rate"),
                formats=("t", "g", "n", "%"),
                rows=rows,
                note="Only conditions that have all three: constant at the full rate, decaying from it, and constant "
                "at the decaying runs' mean rate. The second differs from the first in shape and mean rate, the third "
                "in mean rate alone.",
            )
        ]

    def _stratum(self, first: RunArm, second: RunArm) -> FailureStratum:
        return FailureStratum(first=self._failed(first), second=self._failed(second))

    def _failed(self, arm: RunArm) -> Mapping[int, bool]:
        by_seed = {seed: self.diagnoses[run.trajectory.id] for seed, run in arm.members.items()}
        return {seed: diagnosis.failed for seed, diagnosis in by_seed.items() if diagnosis.finding in DECIDED}


def compare_mean_rates(runs: Sequence[TrajectoryResult], diagnoses: Diagnoses, schedule: str) -> MeanRateComparison:
    """Find constant runs of the peak and of the mean rate of the decaying ``schedule``'s runs."""
    conditions = []
    for stratum in run_strata(runs, ["lr_schedule", "learning_rate"]):
        arms = list(stratum.arms.values())
        constants = [arm for arm in arms if arm.settings.lr_schedule == BASELINE]
        for decaying in (arm for arm in arms if arm.settings.lr_schedule == schedule):
            mean, peak = _mean_rate(decaying), decaying.settings.learning_rate
            at_mean = [arm for arm in constants if abs(_mean_rate(arm) / mean - 1) <= SAME_RATE]
            at_peak = [arm for arm in constants if arm.settings.learning_rate == peak]
            if at_mean and at_peak:
                conditions.append(ThreeArms(full_rate=at_peak[0], decaying=decaying, mean_rate=at_mean[0]))
    return MeanRateComparison(schedule=schedule, conditions=tuple(conditions), diagnoses=diagnoses)


def _mean_rate(arm: RunArm) -> float:
    return learning_rate(next(iter(arm.members.values()))).mean


def _fails_less(strata: Sequence[FailureStratum]) -> bool:
    """Whether the first arm fails less often than the second, beyond chance."""
    difference = common_difference(strata)
    return difference is not None and difference.value < 0 and stratified_exact(strata).p_value < ALPHA
