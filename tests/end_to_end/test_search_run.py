"""A search as a user runs it: killed and resumed, pruned and completed, extended."""

import json
import os
import random
import signal
import time
from pathlib import Path
from typing import Any

import optuna
import pytest
from ray_cluster import family, wait_until
from study_process import Study, assert_mirrored_once, assert_same_records

from study.plan.cell_results import cell_results

SPACE: dict[str, Any] = {
    "data": {"source": "builtin:reviews", "examples": 300, "max_length": 32},
    "fixed": {"epochs": 4, "batch_size": 32, "log_every_examples": 64},
    "axes": {
        "model": ["tiny-bert", "tiny-roberta"],
        "learning_rate": {"low": 1e-4, "high": 2e-3, "log": True},
        "early_stopping": ["none", {"patience": 1}],
        "seed": [0, 1],
    },
    "search": {"method": "random", "trials": 3, "per": "model"},
    "run": {"checkpoint_every_minutes": 1e-6},
}


def make_study(folder: Path, **search: Any) -> Study:
    """A search of a few seconds."""
    space = json.loads(json.dumps(SPACE))
    space["search"] |= search
    return Study(folder, space)


def optuna_trials(study: Study, group: str) -> list[optuna.trial.FrozenTrial]:
    """The trials of one search in Optuna's file."""
    storage = f"sqlite:///{study.results().optuna_file}"
    return optuna.load_study(study_name=f"small · {group}", storage=storage).trials


def assert_whole(study: Study, number: int) -> None:
    """Assert that each model has ``number`` trials, complete in Optuna, whose cells are complete and mirrored."""
    plan = study.plan()
    assert not plan.open
    for model in ("tiny-bert", "tiny-roberta"):
        trials = optuna_trials(study, model)
        assert [trial.number for trial in trials] == [trial.number for trial in plan.trials if trial.group == model]
        assert {trial.state.name for trial in trials} == {"COMPLETE"}
        assert len({trial.cells for trial in plan.trials if trial.group == model}) == number
    assert {result.state for result in cell_results(study.results(), plan)} == {"complete"}
    assert_mirrored_once(study)


def kill_drivers(study: Study, *, times: int, seed: int) -> None:
    """Start a search and kill its driver, ``times`` times; then run it to its end."""

    def choices() -> list[Any]:
        return [(trial.number, trial.params) for trial in optuna_trials(study, "tiny-bert")]

    rng = random.Random(seed)
    ended: dict[Path, bytes] = {}
    earlier: list[Any] = []
    for _ in range(times):
        process = study.start()
        wait_until(lambda: study.histories() or process.poll() is not None, seconds=300)  # noqa: B023
        time.sleep(rng.uniform(0.0, 8.0))
        orphans = family(process.pid)[1:]
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        assert process.stdout is not None
        process.stdout.close()
        assert ended.items() <= study.histories_of_ended().items()
        ended = study.histories_of_ended()
        assert choices()[: len(earlier)] == earlier
        earlier = choices()
    study.run()
    assert earlier
    assert choices()[: len(earlier)] == earlier
    assert ended.items() <= study.histories_of_ended().items()
    wait_until(lambda: not any(orphan.is_running() for orphan in orphans))


@pytest.mark.faults
def test_a_killed_search_resumes_and_ends(tmp_path: Path) -> None:
    study = make_study(tmp_path / "killed", method="optuna", trials=2)
    kill_drivers(study, times=1, seed=0)
    assert_whole(study, 2)


@pytest.mark.slow
def test_more_trials_extend_a_search(tmp_path: Path) -> None:
    study = make_study(tmp_path / "grown", method="optuna", trials=2)
    study.run()
    before = study.histories()
    output = study.run("--set", "search.trials=3")
    assert "search     Optuna's TPE, seed 0: 3 trials for each model, each trial with 2 seeds" in output
    assert "2 of 3 trials" in output
    assert before.items() <= study.histories().items()
    assert len(study.histories()) == len(before) + 4
    assert_whole(study, 3)


@pytest.mark.slow
@pytest.mark.faults
def test_a_search_killed_ten_times_equals_an_undisturbed_one(tmp_path: Path) -> None:
    killed, undisturbed = (make_study(tmp_path / name, trials=4) for name in ("killed", "undisturbed"))
    undisturbed.run()
    kill_drivers(killed, times=10, seed=1)
    for study in (killed, undisturbed):
        assert_whole(study, 4)
    assert_same_records(killed, undisturbed)


@pytest.mark.slow
def test_pruned_trajectories_are_named_and_resume_without_the_scheduler(tmp_path: Path) -> None:
    study = make_study(
        tmp_path / "pruned", trials=3, objective="loss", scheduler={"name": "asha", "reduction_factor": 2}
    )
    study.space["axes"] |= {"early_stopping": ["none"], "seed": [0]}
    output = study.run()
    assert "scheduler  asha: stops poor trials early" in output
    names = {trajectory.id: trajectory.name for trajectory in study.plan().trajectories}
    results = cell_results(study.results(), study.plan())
    pruned = {result.cell.id: result for result in results if result.stop_reason == "cut"}
    assert pruned
    for result in pruned.values():
        assert result.last is not None
        assert result.last.epoch < 4
        assert f"{names[result.cell.trajectory]}  pruned, " in output
    assert not list(study.results().path.glob("trajectories/*/checkpoints/*"))
    assert_mirrored_once(study)
    mirrored_as_pruned = {run.data.tags["cell"] for run in study.runs() if run.data.tags["stop_reason"] == "cut"}
    assert mirrored_as_pruned == pruned.keys()
    numbers = {id_: str(trial.number) for trial in study.plan().trials for id_ in trial.cells}
    assert {run.data.tags["cell"]: run.data.tags["trial"] for run in study.runs()} == numbers
    output = study.run("--set", "search.scheduler=none")
    assert f"{6 - len(pruned)} of them done" in output
    complete = cell_results(study.results(), study.plan())
    ends = {(result.stop_reason, result.last and result.last.epoch) for result in complete}
    assert ends == {("epochs exhausted", 4)}
    assert_whole(study, 3)
    selected = {result.cell.id: result.chosen for result in complete}
    for run in study.runs():
        epoch = selected[run.data.tags["cell"]]
        assert epoch is not None
        assert run.data.tags["stop_reason"] == "epochs exhausted"
        assert run.data.metrics["test/accuracy"] == epoch.test_score("accuracy")
        assert run.data.metrics["chosen/epoch"] == epoch.epoch
