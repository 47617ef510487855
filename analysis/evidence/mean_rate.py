"""Failures of a decaying schedule and of constant learning rates with the same peak and with the same mean.

Linear decay without warm-up has half the mean rate of a constant schedule, so a difference between them can be due to
the shape or to the lower mean rate. Constant runs at the decaying runs' mean rate separate the two.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from analysis.answer import Table, Value
from analysis.diagnosis import Diagnoses, FailureCounts, count_failures, learning_rate
from analysis.evidence.comparison import run_strata
from analysis.trajectory_results import TrajectoryResult

BASELINE = "constant"
# Mean rates within this share of each other are taken as the same.
SAME_RATE = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class MeanRateComparison:
    """Failures at settings otherwise equal, where a study has all three kinds of runs; no runs at all where it has not.

    ``full_rate`` runs are constant at the decaying runs' peak rate, ``decaying`` runs decay from it, and ``mean_rate``
    runs are constant at the decaying runs' mean rate. ``schedule`` is the name of the decaying schedule.
    """

    schedule: str
    full_rate: FailureCounts
    decaying: FailureCounts
    mean_rate: FailureCounts

    @property
    def available(self) -> bool:
        """Whether the study has such runs."""
        return self.mean_rate.runs > 0

    def tables(self) -> list[Table]:
        """A table of the three kinds of runs; nothing where the study has no such runs."""
        if not self.available:
            return []
        rows: list[tuple[Value, ...]] = [
            (name, counts.runs, counts.failed, counts.rate)
            for name, counts in (
                (f"{BASELINE}, the full rate", self.full_rate),
                (f"{self.schedule}, from the full rate", self.decaying),
                (f"{BASELINE}, at the mean rate of {self.schedule}", self.mean_rate),
            )
        ]
        table = Table(
            title="The shape, or the lower mean rate?",
            columns=("schedule", "runs", "failed", "failure rate"),
            formats=("t", "n", "n", "%"),
            rows=rows,
            note="Only conditions that have all three. The second row has the shape and the lower mean rate, the third "
            "only the lower mean rate.",
        )
        return [table]


def compare_mean_rates(runs: Sequence[TrajectoryResult], diagnoses: Diagnoses, schedule: str) -> MeanRateComparison:
    """Count failures of the decaying ``schedule`` and of constant rates of the same peak and of the same mean."""
    full_rate: list[TrajectoryResult] = []
    decaying: list[TrajectoryResult] = []
    mean_rate: list[TrajectoryResult] = []
    for stratum in run_strata(runs, ["lr_schedule", "learning_rate"]):
        arms = [list(arm.members.values()) for arm in stratum.arms.values()]
        constants = [arm for arm in arms if arm[0].settings.lr_schedule == BASELINE]
        for decayed in (arm for arm in arms if arm[0].settings.lr_schedule == schedule):
            mean, peak = learning_rate(decayed[0]).mean, decayed[0].settings.learning_rate
            at_mean = [arm for arm in constants if abs(learning_rate(arm[0]).mean / mean - 1) <= SAME_RATE]
            at_peak = [arm for arm in constants if arm[0].settings.learning_rate == peak]
            if at_mean and at_peak:
                full_rate += [run for arm in at_peak for run in arm]
                decaying += decayed
                mean_rate += [run for arm in at_mean for run in arm]
    return MeanRateComparison(
        schedule=schedule,
        full_rate=count_failures(full_rate, diagnoses),
        decaying=count_failures(decaying, diagnoses),
        mean_rate=count_failures(mean_rate, diagnoses),
    )
