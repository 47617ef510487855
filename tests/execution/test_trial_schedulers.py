"""Trial schedulers cut what does badly within its own search, and remember what earlier runs have reported."""

from pathlib import Path
from typing import Any

import pytest
from ray.tune.schedulers import TrialScheduler
from study_builder import ended, make_study

from study.execution.trial_schedulers import NOBODY, PerGroup
from study.settings import Scheduler

ASHA = Scheduler(name="asha", reduction_factor=2)
MEDIAN = Scheduler(name="median")


class Trials:
    """Trials that report to a scheduler by hand; those whose names begin alike belong to one search."""

    def __init__(self, scheduler: Scheduler, *, epochs: int = 8) -> None:
        self.epochs = epochs
        self.scheduler = PerGroup(scheduler, lambda trajectory: trajectory[0])
        self.made: dict[str, Any] = {}

    def report(self, name: str, epoch: int, score: float) -> str:
        """What is decided after an epoch of a trial."""
        if name not in self.made:
            config = {"trajectory": {"folder": f"/trajectories/{name}", "epochs": self.epochs}}
            self.made[name] = type("T", (), {"trial_id": name, "config": config})()
            self.scheduler.on_trial_add(NOBODY, self.made[name])  # type: ignore[arg-type]
        result = {"epoch": epoch, "score": score}
        return self.scheduler.on_trial_result(NOBODY, self.made[name], result)  # type: ignore[arg-type]


def test_asha_lets_the_better_half_go_on() -> None:
    trials = Trials(ASHA)
    assert trials.report("a1", 1, 0.5) == TrialScheduler.CONTINUE  # nobody to compare with
    assert trials.report("a2", 1, 0.6) == TrialScheduler.CONTINUE
    assert trials.report("a3", 1, 0.4) == TrialScheduler.STOP
    assert trials.report("a4", 1, 0.7) == TrialScheduler.CONTINUE


@pytest.mark.parametrize("scheduler", [ASHA, MEDIAN], ids=["asha", "median"])
def test_one_model_does_not_cut_another(scheduler: Scheduler) -> None:
    trials = Trials(scheduler)
    for number in range(5):
        for epoch in (1, 2):
            trials.report(f"a{number}", epoch, 0.9)
    assert trials.report("b1", 1, 0.1) == TrialScheduler.CONTINUE
    assert trials.report("a9", 1, 0.1) == TrialScheduler.STOP


def test_nothing_is_cut_after_its_last_epoch_nor_before_the_grace_is_over() -> None:
    trials = Trials(ASHA, epochs=1)
    trials.report("a1", 1, 0.5)
    assert trials.report("a2", 1, 0.1) == TrialScheduler.CONTINUE
    trials = Trials(Scheduler(name="asha", reduction_factor=2, grace_epochs=3))
    for epoch in (1, 2, 3):
        trials.report("a1", epoch, 0.5)
    assert [trials.report("a2", epoch, 0.1) for epoch in (1, 2, 3)] == [*["CONTINUE"] * 2, "STOP"]


@pytest.mark.parametrize("scheduler", [ASHA, MEDIAN], ids=["asha", "median"])
def test_what_an_earlier_run_has_reported_still_counts(tmp_path: Path, scheduler: Scheduler) -> None:
    study = make_study(tmp_path, {"learning_rate": [1e-3, 1e-4, 1e-5, 1e-6, 1e-7]})
    for trajectory in study.plan.trajectories[:4]:
        study.train(trajectory, validation_loss=[0.4, 0.3, 0.2, 0.1], outcome=ended())
    made = PerGroup(scheduler, lambda trajectory: "")
    made.remember(study.folder, study.plan, "loss")
    left = study.plan.trajectories[4]
    config = {"trajectory": {"folder": str(study.folder.trajectory(left.id).path), "epochs": left.epochs}}
    trial: Any = type("T", (), {"trial_id": "new", "config": config})()
    made.on_trial_add(NOBODY, trial)  # type: ignore[arg-type]
    assert made.on_trial_result(NOBODY, trial, {"epoch": 1, "score": -0.9}) == TrialScheduler.STOP  # type: ignore[arg-type]
