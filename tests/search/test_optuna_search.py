"""Searches choose with equal budgets, remember what they chose, and learn what came of it."""

import itertools
import json
import math
import subprocess
import sys
import time
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import optuna
import pytest
import yaml
from study_builder import StudyBuilder, ended

from study.execution.manifest import StudyError, describe, find_plan
from study.plan.cell_results import cell_results, trial_score
from study.plan.plan import Plan, Trajectory
from study.records import StudyFolder
from study.search.budget import accounts
from study.search.optuna_search import Search
from study.search.trajectory_queue import Queue
from study.space.reader import Space, read

SPACE: Mapping[str, Any] = {
    "data": {"source": "builtin:reviews", "examples": 1000},  # 800 to train on
    "fixed": {"epochs": 2},
    "axes": {
        "model": ["tiny-bert", "tiny-roberta"],
        "learning_rate": {"low": 1e-5, "high": 1e-3, "log": True},
        "lr_schedule": ["constant", {"name": "linear", "warmup_fraction": 0.1}],
        "batch_size": {"low": 8, "high": 64},
        "early_stopping": ["none", {"patience": 1}],
        "seed": [0, 1],
    },
    "search": {"method": "random", "trials": 5, "per": "model"},
}


def make_space(folder: Path, **changes: Any) -> Space:
    """The space above; a change is merged into its section."""
    raw = json.loads(json.dumps(SPACE))
    for key, value in changes.items():
        raw[key] = {**raw.get(key, {}), **value} if isinstance(value, dict) else value
    path = folder / "space.yaml"
    path.write_text(yaml.safe_dump({"name": "searched", **raw}, sort_keys=False))
    return read(path)


@dataclass
class Session:
    """One start of a study, without a cluster: what is trained gets the losses that are asked for."""

    space: Space
    folder: StudyFolder
    plan: Plan
    search: Search
    queue: Queue

    @classmethod
    def start(cls, space: Space, path: Path) -> "Session":
        folder = StudyFolder(path)
        plan = find_plan(folder, space)
        describe(folder, space, plan, tracking_uri=None)
        search = Search(space, plan, folder)
        return cls(space, folder, plan, search, Queue(search, lambda _: None))

    def train(self, trajectory: Trajectory, losses: list[float] | None = None) -> None:
        """Let a trajectory seem to be trained; by default, to a loss that its learning rate decides."""
        near = abs(math.log10(trajectory.settings["learning_rate"]) + 4)
        builder = StudyBuilder(folder=self.folder, plan=self.search.plan)
        losses = losses or [0.6 + near / 10] * trajectory.epochs
        outcome = ended("epochs exhausted" if all(map(math.isfinite, losses)) else "non-finite")
        builder.train(trajectory, validation_loss=losses, outcome=outcome, seed=int(1e6 * near))
        self.queue.ended(trajectory.id)

    def finish(self) -> list[Trajectory]:
        """Train what is left; returns it."""
        trained = []
        while (trajectory := self.queue.take()) is not None:
            self.train(trajectory)
            trained.append(trajectory)
        return trained

    def optuna(self, group: str) -> list[optuna.trial.FrozenTrial]:
        """What Optuna's file holds."""
        storage = f"sqlite:///{self.folder.path / 'optuna.db'}"
        return optuna.load_study(study_name=f"{self.folder.path.name} · {group}", storage=storage).trials


METHODS: Mapping[str, Mapping[str, Any]] = {
    "random": {"method": "random"},
    "tpe": {"method": "optuna"},
    "nsga2": {"method": "optuna", "sampler": "nsga2"},
}


@pytest.mark.parametrize("method", METHODS)
def test_each_model_has_the_same_budget_and_each_trial_all_seeds(tmp_path: Path, method: str) -> None:
    session = Session.start(make_space(tmp_path, search=METHODS[method]), tmp_path / "study")
    session.finish()
    plan = session.search.plan
    assert session.queue.done
    assert not plan.open
    for model in ("tiny-bert", "tiny-roberta"):
        trials = [trial for trial in plan.trials if trial.group == model]
        assert [trial.number for trial in trials] == list(range(len(trials)))
        assert all(len(trial.cells) == 2 for trial in trials)
        assert len({trial.cells for trial in trials}) == 5
    by_id = {result.cell.id: result for result in cell_results(session.folder, plan)}
    assert len(by_id) == 2 * 5 * 2
    for trial in plan.trials:
        scores = [by_id[id_].chosen.validation_accuracy for id_ in trial.cells]  # type: ignore[union-attr]
        held = session.optuna(trial.group)[trial.number]
        assert held.state.name == "COMPLETE"
        assert held.value == pytest.approx(sum(scores) / 2, abs=1e-12)
        assert held.user_attrs["cells"] == list(trial.cells)
        assert held.params["learning_rate"] == trial.settings["learning_rate"]
    assert session.plan.trials == ()
    assert plan == find_plan(session.folder, session.space)


def test_values_come_from_the_whole_of_their_ranges(tmp_path: Path) -> None:
    session = Session.start(make_space(tmp_path, search={"trials": 60, "per": []}), tmp_path / "study")
    while session.search.suggest():
        pass
    settings = [trial.settings for trial in session.search.plan.trials]
    rates = sorted(one["learning_rate"] for one in settings)
    assert 1e-5 <= rates[0] < 3e-5
    assert 3e-4 < rates[-1] <= 1e-3
    assert 5e-5 < rates[30] < 2e-4  # the middle of the logarithms
    assert all(isinstance(one["batch_size"], int) and 8 <= one["batch_size"] <= 64 for one in settings)
    assert {(one["lr_schedule"], one["warmup_fraction"]) for one in settings} == {("constant", 0.0), ("linear", 0.1)}
    assert {one["model"] for one in settings} == {"tiny-bert", "tiny-roberta"}


def test_a_random_search_gives_every_model_the_same_choices_and_another_seed_others(tmp_path: Path) -> None:
    def chosen(seed: int, model: str) -> list[dict[str, Any]]:
        session = Session.start(make_space(tmp_path, search={"seed": seed}), tmp_path / str(seed))
        session.finish()
        trials = [trial for trial in session.search.plan.trials if trial.group == model]
        return [{key: value for key, value in trial.settings.items() if key != "model"} for trial in trials]

    assert chosen(0, "tiny-bert") == chosen(0, "tiny-roberta")
    assert chosen(0, "tiny-bert") != chosen(1, "tiny-bert")


class Killed(BaseException):
    """Nothing that runs catches this."""


class Dying(StudyFolder):
    """A folder whose process dies before it has written a plan."""

    def write_plan(self, plan: Mapping[str, Any]) -> None:
        raise Killed


@pytest.mark.parametrize("method", METHODS)
def test_wherever_it_is_killed_no_choice_is_lost_or_made_twice(tmp_path: Path, method: str) -> None:
    space = make_space(tmp_path, search=METHODS[method])
    undisturbed = Session.start(space, tmp_path / "undisturbed" / "study")
    undisturbed.finish()
    trained: list[str] = []
    for step in itertools.count():
        session = Session.start(space, tmp_path / "killed" / "study")
        if step % 2:  # with the choice in Optuna's file, and not yet in the plan
            session.search.folder = Dying(session.folder.path)
        try:
            trajectory = session.queue.take()
        except Killed:
            continue
        if trajectory is None:
            break
        if step % 3:  # while it trained
            session.train(trajectory)
            trained.append(trajectory.id)
    assert len(trained) == len(set(trained)) == 2 * 5 * 2
    assert {trial.cells for trial in session.search.plan.trials} == {
        trial.cells for trial in undisturbed.search.plan.trials
    } or method != "random"
    for model in ("tiny-bert", "tiny-roberta"):
        assert {trial.state.name for trial in session.optuna(model)} == {"COMPLETE"}


def test_a_choice_that_was_itself_cut_short_is_closed(tmp_path: Path) -> None:
    session = Session.start(make_space(tmp_path), tmp_path / "study")
    storage = f"sqlite:///{session.folder.path / 'optuna.db'}"
    optuna.load_study(study_name="study · tiny-bert", storage=storage).ask()  # without a single value
    again = Session.start(session.space, session.folder.path)
    again.finish()
    assert [trial.state.name for trial in again.optuna("tiny-bert")] == ["FAIL", *["COMPLETE"] * 5]


def test_a_score_is_a_finite_number_whatever_became_of_the_trial(tmp_path: Path) -> None:
    for objective, worst in (("accuracy", 0.0), ("loss", 100.0)):
        space = make_space(tmp_path, search={"trials": 1, "objective": objective}, axes={"seed": [0]})
        session = Session.start(space, tmp_path / objective)
        for losses in ([0.5, math.nan], [0.4, 0.4]):
            trajectory = session.queue.take()
            assert trajectory is not None
            session.train(trajectory, losses)
        values = {model: session.optuna(model)[0].value for model in ("tiny-bert", "tiny-roberta")}
        assert values["tiny-bert"] == worst
        assert values["tiny-roberta"] != worst


def test_a_collapsed_trial_scores_what_it_ends_with(tmp_path: Path) -> None:
    session = Session.start(make_space(tmp_path), tmp_path / "study")
    session.finish()
    result = cell_results(session.folder, session.search.plan)[0]
    assert result.last is not None
    assert result.chosen is not None
    last = replace(result.last, majority_share=1.0, validation_accuracy=0.5)
    chosen = replace(result.chosen, validation_accuracy=0.8)
    assert trial_score([replace(result, last=result.last, chosen=chosen)], "accuracy") == 0.8
    assert trial_score([replace(result, last=last, chosen=chosen)], "accuracy") == 0.5
    assert trial_score([replace(result, last=None, chosen=None)], "accuracy") == 0.0


def test_a_trial_of_which_a_cell_failed_stays_open_and_is_told_when_it_is_mended(tmp_path: Path) -> None:
    session = Session.start(make_space(tmp_path, search={"trials": 1}), tmp_path / "study")
    first = session.queue.take()
    assert first is not None
    session.folder.trajectory(first.id).path.mkdir(parents=True)
    session.folder.trajectory(first.id).write_outcome(ended(None, status="failed", error="it broke"))
    session.queue.ended(first.id)
    assert first not in session.finish()
    assert session.queue.done
    assert session.optuna("tiny-bert")[0].state.name == "RUNNING"
    again = Session.start(session.space, session.folder.path)
    assert [trajectory.id for trajectory in again.finish()] == [first.id]
    assert again.optuna("tiny-bert")[0].state.name == "COMPLETE"


def test_what_a_rule_drops_costs_nothing_and_is_not_in_the_plan(tmp_path: Path) -> None:
    rules = [{"match": {"lr_schedule": "constant"}, "drop": True}]
    session = Session.start(make_space(tmp_path, when=rules), tmp_path / "study")
    session.finish()
    assert len(session.search.plan.trials) == 10
    assert {cell.settings["lr_schedule"] for cell in session.search.plan.cells} == {"linear"}
    assert "PRUNED" in {trial.state.name for trial in session.optuna("tiny-bert")}


def test_when_every_combination_has_been_tried_the_search_ends(tmp_path: Path) -> None:
    axes = {"learning_rate": [1e-4, 1e-3], "batch_size": [16], "seed": [0]}
    session = Session.start(make_space(tmp_path, axes=axes, search={"trials": 50}), tmp_path / "study")
    session.finish()
    assert session.queue.done
    assert not session.search.plan.open
    assert len(session.search.plan.cells) == 2 * 2 * 2 * 2  # models, rates, schedules, stopping
    assert [account.trials for account in session.search.accounts()] == [8, 8]
    assert not find_plan(session.folder, session.space).open


def test_cells_that_share_a_trajectory_are_trained_once(tmp_path: Path) -> None:
    axes = {"learning_rate": [1e-4], "batch_size": [16], "lr_schedule": ["constant"], "seed": [0]}
    session = Session.start(make_space(tmp_path, axes=axes, search={"trials": 2}), tmp_path / "study")
    assert len(session.finish()) == 2
    assert len(session.search.plan.cells) == 4
    assert [trial.state.name for trial in session.optuna("tiny-bert")][:2] == ["COMPLETE"] * 2


def test_a_budget_in_examples_counts_what_was_trained(tmp_path: Path) -> None:
    search = {"trials": None, "examples": 5_000}
    session = Session.start(make_space(tmp_path, search=search, axes={"early_stopping": ["none"]}), tmp_path / "study")
    session.finish()
    for account in session.search.accounts():
        assert account.spent == account.trials * 2 * 2 * 800  # seeds, epochs, examples
        assert account.spent - 2 * 2 * 800 < 5_000 <= account.spent


def test_a_budget_in_gpu_hours_counts_seconds_and_the_part_of_the_gpu(tmp_path: Path) -> None:
    space = make_space(tmp_path, search={"trials": None, "gpu_hours": 0.005}, run={"gpu": 0.5})
    session = Session.start(space, tmp_path / "study")
    for trajectory in iter(session.queue.take, None):
        builder = StudyBuilder(folder=session.folder, plan=session.search.plan)
        outcome = ended(train_seconds=9.0, gpus=0.5)
        builder.train(trajectory, validation_loss=[0.5] * 2, outcome=outcome)
        session.queue.ended(trajectory.id)
    for account in session.search.accounts():
        assert account.spent == pytest.approx(account.trials * 2 * 9 * 0.5 / 3600)
        assert account.trials == 2


def grown(session: Session, **changes: Any) -> Session:
    """The same study, started with a changed space."""
    path = session.folder.path
    space = make_space(path.parent, **changes)
    return Session.start(space, path)


@pytest.fixture(params=["random", "tpe"])
def study(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Session, Mapping[str, Any]]:
    """A search that has ended."""
    how = METHODS[request.param]
    session = Session.start(make_space(tmp_path, search=how), tmp_path / "study")
    session.finish()
    return session, how


Grown = tuple[Session, Mapping[str, Any]]


def test_more_trials_train_only_what_is_new(study: Grown) -> None:
    session, how = study
    again = grown(session, search={**how, "trials": 7})
    assert again.search.plan.open
    assert len(again.finish()) == 2 * 2 * 2
    assert again.search.plan.trials[:10] == session.search.plan.trials
    assert len(again.optuna("tiny-bert")) == 7


def test_a_seed_is_added_to_every_trial(study: Grown) -> None:
    session, how = study
    again = grown(session, search=how, axes={"seed": [0, 1, 2]})
    new = again.finish()
    assert {trajectory.settings["seed"] for trajectory in new} == {2}
    assert len(new) == 10
    assert all(len(trial.cells) == 3 for trial in again.search.plan.trials)


def test_values_are_added_to_a_list_and_a_range(study: Grown) -> None:
    session, how = study
    schedules = ["constant", {"name": "linear", "warmup_fraction": 0.1}, "cosine"]
    axes = {"lr_schedule": schedules, "learning_rate": {"low": 1e-6, "high": 1e-2, "log": True}}
    again = grown(session, search={**how, "trials": 6}, axes=axes)
    assert len(again.finish()) == 2 * 2
    held, now = session.optuna("tiny-bert"), again.optuna("tiny-bert")
    assert [trial.number for trial in now] == list(range(6))
    assert len(now) == 6
    assert [trial.value for trial in now[:5]] == [trial.value for trial in held[:5]]


def test_an_axis_is_added_that_holds_the_value_of_the_old_cells(study: Grown) -> None:
    session, how = study
    before = {cell.id for cell in session.search.plan.cells}
    again = grown(session, search={**how, "trials": 6}, axes={"weight_decay": {"low": 0.0, "high": 0.1}})
    assert len(again.finish()) == 2 * 2
    assert before < {cell.id for cell in again.search.plan.cells}
    assert [trial.params["weight_decay"] for trial in again.optuna("tiny-bert")[:5]] == [0.01] * 5


def test_a_range_gets_other_steps(study: Grown) -> None:
    session, how = study
    again = grown(session, search={**how, "trials": 6}, axes={"batch_size": {"low": 8, "high": 64, "step": 8}})
    new = again.finish()
    assert len(new) == 2 * 2
    assert all(trajectory.settings["batch_size"] % 8 == 0 for trajectory in new)
    assert len(again.search.plan.cells) == 2 * 6 * 2


def test_values_that_are_taken_out_take_their_trials_with_them_and_give_them_back(study: Grown) -> None:
    session, how = study
    again = grown(session, search=how, axes={"early_stopping": ["none"]})
    plan = again.search.plan
    assert all(cell.settings["early_stopping"] is None for cell in plan.cells)
    assert 0 < len(plan.cells) < 20
    assert len(plan.trials) == 10
    assert all(account.open for account in again.search.accounts())
    back = grown(session, search=how)
    assert {cell.id for cell in back.search.plan.cells} == {cell.id for cell in session.search.plan.cells}
    assert back.finish() == []


def test_a_fixed_setting_that_changes_is_another_study(study: Grown) -> None:
    session, how = study
    with pytest.raises(StudyError, match=r"weight_decay was 0\.01 and is 0\.1"):
        grown(session, search=how, fixed={"epochs": 2, "weight_decay": 0.1})
    with pytest.raises(StudyError, match=r"learning_rate was .* and is 0\.01 to 0\.1"):
        grown(session, search=how, axes={"learning_rate": {"low": 1e-2, "high": 1e-1}})


@pytest.mark.parametrize("damage", ["lost", "cut", "another file"])
def test_a_damaged_file_of_optunas_is_made_again(study: Grown, damage: str) -> None:
    session, how = study
    held = session.optuna("tiny-roberta")
    path = session.folder.path / "optuna.db"
    if damage == "lost":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:3000] if damage == "cut" else b"no database")
    again = grown(session, search={**how, "trials": 6})
    again.finish()
    now = again.optuna("tiny-roberta")
    assert [(trial.number, trial.value, trial.params) for trial in now[:5]] == [
        (trial.number, trial.value, trial.params) for trial in held
    ]
    assert len(now) == 6


def test_cma_es_searches_ranges(tmp_path: Path) -> None:
    axes = {"lr_schedule": ["linear"], "early_stopping": ["none"], "seed": [0]}
    search = {"method": "optuna", "sampler": "cmaes", "trials": 8, "per": ["model", "lr_schedule", "early_stopping"]}
    session = Session.start(make_space(tmp_path, axes=axes, search=search), tmp_path / "study")
    session.finish()
    held = session.optuna("tiny-bert · linear · no early stopping")
    assert len(held) == 8
    assert any(key.startswith("cma:") for trial in held for key in trial.system_attrs)


def test_tpe_finds_what_is_good(tmp_path: Path) -> None:
    """The made-up losses are lowest at a rate of 1e-4; what TPE tries late is nearer to it than what it tries first."""
    axes = {"model": ["tiny-bert"], "early_stopping": ["none"], "lr_schedule": ["constant"], "seed": [0]}
    early, late = [], []
    for seed in range(3):
        search = {"method": "optuna", "trials": 30, "objective": "loss", "per": [], "seed": seed}
        session = Session.start(make_space(tmp_path, search=search, axes=axes), tmp_path / str(seed))
        session.finish()
        far = [abs(math.log10(trial.settings["learning_rate"]) + 4) for trial in session.search.plan.trials]
        early += far[:10]
        late += far[10:]
    assert sum(late) / len(late) < 0.8 * sum(early) / len(early)


def test_optunas_dashboard_opens_the_study(tmp_path: Path, free_port: int) -> None:
    session = Session.start(make_space(tmp_path), tmp_path / "study")
    session.finish()
    program = str(Path(sys.executable).with_name("optuna-dashboard"))
    command = [program, f"sqlite:///{session.folder.path / 'optuna.db'}", "--port", str(free_port)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 60
        while True:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{free_port}/api/studies", timeout=5) as answer:
                    names = {study["study_name"] for study in json.load(answer)["study_summaries"]}
                break
            except OSError:
                assert process.poll() is None
                assert time.monotonic() < deadline
                time.sleep(0.2)
    finally:
        process.kill()
        process.wait()
    assert names == {"study · tiny-bert", "study · tiny-roberta"}


def test_accounts_tell_what_is_spent_before_anything_runs(tmp_path: Path) -> None:
    space = make_space(tmp_path)
    folder = StudyFolder(tmp_path / "study")
    found = accounts(space, find_plan(folder, space), [])
    assert [(one.group, one.spent, one.budget, one.open) for one in found] == [
        ("tiny-bert", 0, 5, True),
        ("tiny-roberta", 0, 5, True),
    ]
