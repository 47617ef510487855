"""Trial schedulers stop poor trials within their own search, and replay what earlier starts have reported."""

from pathlib import Path
from typing import Any

import pytest
from ray.tune.schedulers import TrialScheduler
from study_builder import ended, make_study

from study.execution.trial_config import TrialConfig
from study.execution.trial_schedulers import CONTROLLER, PerSearchScheduler
from study.settings import Scheduler

ASHA = Scheduler(name="asha", reduction_factor=2)
MEDIAN = Scheduler(name="median")


def make_trial(folder: Path | str, *, epochs: int) -> Any:
    """All that schedulers read of a Ray trial."""
    config = TrialConfig(folder=str(folder), name=Path(folder).name, epochs=epochs).to_tune()
    return type("Trial", (), {"trial_id": Path(folder).name, "config": config})()


class Trials:
    """Trials that report to a scheduler one by one; the first letter of a name is the search."""

    def __init__(self, scheduler: Scheduler, *, epochs: int = 8) -> None:
        self.epochs = epochs
        self.scheduler = PerSearchScheduler(scheduler, lambda trajectory: trajectory[0])
        self.trials: dict[str, Any] = {}

    def report(self, name: str, epoch: int, score: float) -> str:
        """The scheduler's decision after an epoch of a trial."""
        controller: Any = CONTROLLER
        if name not in self.trials:
            self.trials[name] = make_trial(f"/trajectories/{name}", epochs=self.epochs)
            self.scheduler.on_trial_add(controller, self.trials[name])
        return self.scheduler.on_trial_result(controller, self.trials[name], {"epoch": epoch, "score": score})


def test_asha_continues_the_better_half() -> None:
    trials = Trials(ASHA)
    assert trials.report("a1", 1, 0.5) == TrialScheduler.CONTINUE  # there is nothing to compare with
    assert trials.report("a2", 1, 0.6) == TrialScheduler.CONTINUE
    assert trials.report("a3", 1, 0.4) == TrialScheduler.STOP
    assert trials.report("a4", 1, 0.7) == TrialScheduler.CONTINUE
    assert trials.scheduler.stopped == {"a3"}


@pytest.mark.parametrize("scheduler", [ASHA, MEDIAN], ids=["asha", "median"])
def test_trials_of_one_search_do_not_stop_those_of_another(scheduler: Scheduler) -> None:
    trials = Trials(scheduler)
    for number in range(5):
        for epoch in (1, 2):
            trials.report(f"a{number}", epoch, 0.9)
    assert trials.report("b1", 1, 0.1) == TrialScheduler.CONTINUE
    assert trials.report("a9", 1, 0.1) == TrialScheduler.STOP


def test_no_trial_is_stopped_after_its_last_epoch() -> None:
    trials = Trials(ASHA, epochs=1)
    trials.report("a1", 1, 0.5)
    assert trials.report("a2", 1, 0.1) == TrialScheduler.CONTINUE
    assert trials.scheduler.stopped == set()


def test_no_trial_is_stopped_within_the_grace_epochs() -> None:
    trials = Trials(Scheduler(name="asha", reduction_factor=2, grace_epochs=3))
    for epoch in (1, 2, 3):
        trials.report("a1", epoch, 0.5)
    assert [trials.report("a2", epoch, 0.1) for epoch in (1, 2, 3)] == [*["CONTINUE"] * 2, "STOP"]


@pytest.mark.parametrize("scheduler", [ASHA, MEDIAN], ids=["asha", "median"])
def test_reports_of_an_earlier_start_still_count(tmp_path: Path, scheduler: Scheduler) -> None:
    study = make_study(tmp_path, {"learning_rate": [1e-3, 1e-4, 1e-5, 1e-6, 1e-7]})
    for trajectory in study.plan.trajectories[:4]:
        study.train(trajectory, validation_loss=[0.4, 0.3, 0.2, 0.1], outcome=ended())
    restarted = PerSearchScheduler(scheduler, lambda trajectory: "")
    restarted.replay(study.folder, study.plan, "loss")
    new = study.plan.trajectories[4]
    trial = make_trial(study.folder.trajectory(new.id).path, epochs=new.epochs)
    controller: Any = CONTROLLER
    restarted.on_trial_add(controller, trial)
    assert restarted.on_trial_result(controller, trial, {"epoch": 1, "score": -0.9}) == TrialScheduler.STOP
