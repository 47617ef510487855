"""Tune's trial schedulers, one for each search of a space: models that learn at different speeds do not compete."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ray.tune.execution.tune_controller import TuneController
from ray.tune.experiment import Trial
from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, MedianStoppingRule, TrialScheduler

from study.execution.trial_config import TrialConfig, trajectory_of
from study.plan.plan import Plan
from study.scoring import METRICS
from study.settings import Scheduler
from study.storage import StudyFolder

# ASHA needs an upper bound of a trial's length for its rungs; no trajectory is that long.
MOST_EPOCHS = 10_000
# The median of fewer trials than this says little.
FEWEST_OTHERS = 3
NEVER_PAUSE = 10**9


def make_scheduler(scheduler: Scheduler) -> TrialScheduler:
    """Ray's scheduler, by epochs and by the score that trajectories report."""
    how: dict[str, Any] = {"time_attr": "epoch", "metric": "score", "mode": "max"}
    if scheduler.name == "asha":
        return ASHAScheduler(
            **how, max_t=MOST_EPOCHS, grace_period=scheduler.grace_epochs, reduction_factor=scheduler.reduction_factor
        )
    return MedianStoppingRule(
        **how,
        grace_period=scheduler.grace_epochs,
        min_samples_required=FEWEST_OTHERS,
        min_time_slice=NEVER_PAUSE,
    )


class PerSearchScheduler(FIFOScheduler):
    """Delegates to the scheduler of the search that a trial belongs to; ``group`` names it by the trajectory's id.

    ``stopped`` are the ids of the trajectories that a scheduler stopped early.
    """

    def __init__(self, scheduler: Scheduler, group: Callable[[str], str]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # Ray's own
        self.kind = scheduler
        self.group = group
        self.schedulers: dict[str, TrialScheduler] = {}
        self.stopped: set[str] = set()

    def __getstate__(self) -> dict[str, Any]:
        """Tune keeps a copy on disk, which nothing reads."""
        return {}

    def of(self, trajectory: str) -> TrialScheduler:
        """The scheduler of a trajectory's search."""
        group = self.group(trajectory)
        if group not in self.schedulers:
            self.schedulers[group] = make_scheduler(self.kind)
        return self.schedulers[group]

    def replay(self, folder: StudyFolder, plan: Plan, objective: str) -> None:
        """Feed the schedulers what earlier starts of the study have reported, as if it came now."""
        for trajectory in plan.trajectories:
            records = folder.trajectory(trajectory.id).read()
            if records.epochs and records.outcome is not None:
                scheduler, trial = self.of(trajectory.id), _PastTrial(trajectory.id)
                scheduler.on_trial_add(CONTROLLER, trial)  # type: ignore[arg-type]
                for number, scores in enumerate(records.validation, start=1):
                    result = {"epoch": number, "score": METRICS[objective].gain(scores)}
                    scheduler.on_trial_result(CONTROLLER, trial, result)  # type: ignore[arg-type]

    def on_trial_add(self, tune_controller: TuneController, trial: Trial) -> None:
        """Called when a trial is created."""
        self.of(trajectory_of(trial)).on_trial_add(tune_controller, trial)

    def on_trial_result(self, tune_controller: TuneController, trial: Trial, result: dict[str, Any]) -> str:
        """Whether a trial continues after this epoch; after its last there is nothing to stop."""
        decision = self.of(trajectory_of(trial)).on_trial_result(tune_controller, trial, result)
        if result["epoch"] >= TrialConfig.of(trial).epochs:
            return TrialScheduler.CONTINUE
        if decision == TrialScheduler.STOP:
            self.stopped.add(trajectory_of(trial))
        return decision

    def on_trial_complete(self, tune_controller: TuneController, trial: Trial, result: dict[str, Any]) -> None:
        """Called when a trial has ended."""
        self.of(trajectory_of(trial)).on_trial_complete(tune_controller, trial, result)

    def on_trial_error(self, tune_controller: TuneController, trial: Trial) -> None:
        """Called when a trial has failed."""
        self.of(trajectory_of(trial)).on_trial_error(tune_controller, trial)

    def on_trial_remove(self, tune_controller: TuneController, trial: Trial) -> None:
        """Called when a trial is removed before it started."""
        self.of(trajectory_of(trial)).on_trial_remove(tune_controller, trial)


def groups_of_trajectories(plan: Plan) -> Mapping[str, str]:
    """The search that each trajectory belongs to, by its id; empty for a grid."""
    trajectories = {cell.id: cell.trajectory for cell in plan.cells}
    return {trajectories[id_]: trial.group for trial in plan.trials for id_ in trial.cells}


class _EmptyController:
    """Stands for Tune, which the median rule asks for live trials: there are none."""

    def get_live_trials(self) -> set[Trial]:
        return set()


CONTROLLER = _EmptyController()


class _PastTrial:
    """A trial of an earlier start: all that schedulers read of one."""

    def __init__(self, trajectory: str) -> None:
        self.trial_id = f"past-{trajectory}"
