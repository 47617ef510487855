"""Which trajectories does a trial scheduler cut?

Each search of a space has a scheduler of its own: models that learn at different speeds do not cut one another.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ray.tune.execution.tune_controller import TuneController
from ray.tune.experiment import Trial
from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, MedianStoppingRule, TrialScheduler

from study.plan.cell_results import scores
from study.plan.plan import Plan
from study.records import StudyFolder
from study.settings import Scheduler
from study.stopping import Metric, gain

# ASHA asks how long a trial may become, to know its rungs. No trajectory is that long.
MOST_EPOCHS = 10_000
# The median of fewer than this says little.
FEWEST_OTHERS = 3
NEVER_PAUSE = 10**9


def make(scheduler: Scheduler) -> TrialScheduler:
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


class PerGroup(FIFOScheduler):
    """Asks the scheduler of the group that a trial belongs to; ``group`` knows it by the trajectory's id.

    ``cut`` are the ids of those that were cut.
    """

    def __init__(self, scheduler: Scheduler, group: Callable[[str], str]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # Ray's own
        self.kind = scheduler
        self.group = group
        self.schedulers: dict[str, TrialScheduler] = {}
        self.cut: set[str] = set()

    def __getstate__(self) -> dict[str, Any]:
        """Tune keeps a copy on disk, which nothing reads."""
        return {}

    def of(self, trajectory: str) -> TrialScheduler:
        """The scheduler that decides about a trajectory."""
        group = self.group(trajectory)
        if group not in self.schedulers:
            self.schedulers[group] = make(self.kind)
        return self.schedulers[group]

    def remember(self, folder: StudyFolder, plan: Plan, metric: Metric) -> None:
        """Let the schedulers see what earlier runs of the study have reported, as if it came now."""
        for trajectory in plan.trajectories:
            epochs = folder.trajectory(trajectory.id).epochs()
            if epochs and folder.trajectory(trajectory.id).outcome() is not None:
                scheduler, trial = self.of(trajectory.id), _Past(trajectory.id)
                scheduler.on_trial_add(NOBODY, trial)  # type: ignore[arg-type]
                for number, one in enumerate(scores(epochs), start=1):
                    result = {"epoch": number, "score": gain(one, metric)}
                    scheduler.on_trial_result(NOBODY, trial, result)  # type: ignore[arg-type]

    def on_trial_add(self, tune_controller: TuneController, trial: Trial) -> None:
        """Called when a trial is made."""
        self.of(trajectory_of(trial)).on_trial_add(tune_controller, trial)

    def on_trial_result(self, tune_controller: TuneController, trial: Trial, result: dict[str, Any]) -> str:
        """Whether a trial goes on after this epoch; there is nothing to cut after its last."""
        decision = self.of(trajectory_of(trial)).on_trial_result(tune_controller, trial, result)
        if result["epoch"] >= trial.config["trajectory"]["epochs"]:
            return TrialScheduler.CONTINUE
        if decision == TrialScheduler.STOP:
            self.cut.add(trajectory_of(trial))
        return decision

    def on_trial_complete(self, tune_controller: TuneController, trial: Trial, result: dict[str, Any]) -> None:
        """Called when a trial has ended."""
        self.of(trajectory_of(trial)).on_trial_complete(tune_controller, trial, result)

    def on_trial_error(self, tune_controller: TuneController, trial: Trial) -> None:
        """Called when a trial has failed."""
        self.of(trajectory_of(trial)).on_trial_error(tune_controller, trial)

    def on_trial_remove(self, tune_controller: TuneController, trial: Trial) -> None:
        """Called when a trial is taken away before it began."""
        self.of(trajectory_of(trial)).on_trial_remove(tune_controller, trial)


def groups(plan: Plan) -> Mapping[str, str]:
    """The search that each trajectory belongs to, by its id; of a grid, all belong to one."""
    trajectories = {cell.id: cell.trajectory for cell in plan.cells}
    return {trajectories[id_]: trial.group for trial in plan.trials for id_ in trial.cells}


class Nobody:
    """In the place of Tune, of which the median rule asks who waits: nobody."""

    def get_live_trials(self) -> set[Trial]:  # noqa: D102
        return set()


NOBODY = Nobody()


class _Past:
    """A trial of an earlier run: all that schedulers read of one."""

    def __init__(self, trajectory: str) -> None:
        self.trial_id = f"past-{trajectory}"


def trajectory_of(trial: Trial) -> str:
    """The id of the trajectory that a trial is."""
    return Path(trial.config["trajectory"]["folder"]).name
