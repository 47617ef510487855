"""Searches choose, remember what they chose and learn its results; a search grows with its space."""

import json
import math
import subprocess
import sys
import time
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import optuna
import pytest
from search_session import METHODS, Session, make_space

from study.errors import StudyError
from study.execution.growth import find_plan
from study.plan.cell_results import cell_results
from study.settings import Settings


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
    results = {result.cell.id: result for result in cell_results(session.folder, plan)}
    assert len(results) == 2 * 5 * 2
    for trial in plan.trials:
        scores = [results[id_].chosen.validation["accuracy"] for id_ in trial.cells]  # type: ignore[union-attr]
        optuna_trial = session.optuna(trial.group)[trial.number]
        assert optuna_trial.state.name == "COMPLETE"
        assert optuna_trial.value == pytest.approx(sum(scores) / 2, abs=1e-12)
        assert optuna_trial.user_attrs["cells"] == list(trial.cells)
        assert optuna_trial.params["learning_rate"] == trial.settings.learning_rate
    assert session.plan.trials == ()
    assert plan == find_plan(session.folder, session.space)


def test_values_come_from_the_whole_of_their_ranges(tmp_path: Path) -> None:
    session = Session.start(make_space(tmp_path, search={"trials": 60, "per": []}), tmp_path / "study")
    while session.search.suggest():
        pass
    choices = [trial.settings for trial in session.search.plan.trials]
    rates = sorted(settings.learning_rate for settings in choices)
    assert 1e-5 <= rates[0] < 3e-5
    assert 3e-4 < rates[-1] <= 1e-3
    assert 5e-5 < rates[30] < 2e-4  # the middle of the logarithms
    sizes = [settings.batch_size for settings in choices]
    assert {type(size) for size in sizes} == {int}
    assert 8 <= min(sizes) <= max(sizes) <= 64
    schedules = {(settings.lr_schedule, settings.warmup_fraction) for settings in choices}
    assert schedules == {("constant", 0.0), ("linear", 0.1)}
    assert {settings.model for settings in choices} == {"tiny-bert", "tiny-roberta"}


def test_a_random_search_gives_every_model_the_same_choices_and_another_seed_others(tmp_path: Path) -> None:
    def choices(seed: int, model: str) -> list[Settings]:
        session = Session.start(make_space(tmp_path, search={"seed": seed}), tmp_path / str(seed))
        session.finish()
        trials = [trial for trial in session.search.plan.trials if trial.group == model]
        return [trial.settings.model_copy(update={"model": "any"}) for trial in trials]

    assert choices(0, "tiny-bert") == choices(0, "tiny-roberta")
    assert choices(0, "tiny-bert") != choices(1, "tiny-bert")


def test_an_incomplete_choice_of_a_killed_process_is_closed(tmp_path: Path) -> None:
    session = Session.start(make_space(tmp_path), tmp_path / "study")
    storage = f"sqlite:///{session.folder.optuna_file}"
    optuna.load_study(study_name="study · tiny-bert", storage=storage).ask()  # without a single value
    session = Session.start(session.space, session.folder.path)
    session.finish()
    assert [trial.state.name for trial in session.optuna("tiny-bert")] == ["FAIL", *["COMPLETE"] * 5]


@pytest.mark.parametrize(("objective", "worst"), [("accuracy", 0.0), ("loss", 100.0)])
def test_optuna_gets_a_finite_score_where_the_loss_is_not(tmp_path: Path, objective: str, worst: float) -> None:
    space = make_space(tmp_path, search={"trials": 1, "objective": objective}, axes={"seed": [0]})
    session = Session.start(space, tmp_path / "study")
    for losses in ([0.5, math.nan], [0.4, 0.4]):
        trajectory = session.queue.next()
        assert trajectory is not None
        session.train(trajectory, losses)
    values = {model: session.optuna(model)[0].value for model in ("tiny-bert", "tiny-roberta")}
    assert values["tiny-bert"] == worst
    assert values["tiny-roberta"] != worst


def test_what_a_rule_drops_costs_nothing_and_is_not_in_the_plan(tmp_path: Path) -> None:
    rules = [{"match": {"lr_schedule": "constant"}, "drop": True}]
    session = Session.start(make_space(tmp_path, when=rules), tmp_path / "study")
    session.finish()
    assert len(session.search.plan.trials) == 10
    assert {cell.settings.lr_schedule for cell in session.search.plan.cells} == {"linear"}
    assert "PRUNED" in {trial.state.name for trial in session.optuna("tiny-bert")}


Study = tuple[Session, Mapping[str, Any]]


@pytest.fixture(params=["random", "tpe"])
def study(request: pytest.FixtureRequest, tmp_path: Path) -> Study:
    """A search that has ended, and its method."""
    method = METHODS[request.param]
    session = Session.start(make_space(tmp_path, search=method), tmp_path / "study")
    session.finish()
    return session, method


def test_more_trials_train_only_what_is_new(study: Study) -> None:
    session, method = study
    extended = session.restart(search={**method, "trials": 7})
    assert extended.search.plan.open
    assert len(extended.finish()) == 2 * 2 * 2
    assert extended.search.plan.trials[:10] == session.search.plan.trials
    assert len(extended.optuna("tiny-bert")) == 7


def test_a_new_seed_is_added_to_every_trial(study: Study) -> None:
    session, method = study
    extended = session.restart(search=method, axes={"seed": [0, 1, 2]})
    new = extended.finish()
    assert {trajectory.settings.seed for trajectory in new} == {2}
    assert len(new) == 10
    assert all(len(trial.cells) == 3 for trial in extended.search.plan.trials)


def test_a_list_and_a_range_may_get_more_values(study: Study) -> None:
    session, method = study
    schedules = ["constant", {"name": "linear", "warmup_fraction": 0.1}, "cosine"]
    axes = {"lr_schedule": schedules, "learning_rate": {"low": 1e-6, "high": 1e-2, "log": True}}
    extended = session.restart(search={**method, "trials": 6}, axes=axes)
    before = session.optuna("tiny-bert")
    assert len(extended.finish()) == 2 * 2
    after = extended.optuna("tiny-bert")
    assert [trial.number for trial in after] == list(range(6))
    assert len(after) == 6
    assert [trial.value for trial in after[:5]] == [trial.value for trial in before[:5]]


def test_an_axis_with_the_value_of_the_old_cells_may_be_added(study: Study) -> None:
    session, method = study
    before = {cell.id for cell in session.search.plan.cells}
    extended = session.restart(search={**method, "trials": 6}, axes={"weight_decay": {"low": 0.0, "high": 0.1}})
    assert len(extended.finish()) == 2 * 2
    assert before < {cell.id for cell in extended.search.plan.cells}
    assert [trial.params["weight_decay"] for trial in extended.optuna("tiny-bert")[:5]] == [0.01] * 5


def test_a_range_may_get_other_steps(study: Study) -> None:
    session, method = study
    extended = session.restart(search={**method, "trials": 6}, axes={"batch_size": {"low": 8, "high": 64, "step": 8}})
    new = extended.finish()
    assert len(new) == 2 * 2
    assert all(trajectory.settings.batch_size % 8 == 0 for trajectory in new)
    assert len(extended.search.plan.cells) == 2 * 6 * 2


def test_trials_leave_with_a_value_that_is_removed_and_return_with_it(study: Study) -> None:
    session, method = study
    reduced = session.restart(search=method, axes={"early_stopping": ["none"]})
    plan = reduced.search.plan
    assert all(cell.settings.early_stopping is None for cell in plan.cells)
    assert 0 < len(plan.cells) < 20
    assert len(plan.trials) == 10
    assert all(budget.open for budget in reduced.search.budgets())
    restored = session.restart(search=method)
    assert {cell.id for cell in restored.search.plan.cells} == {cell.id for cell in session.search.plan.cells}
    assert restored.finish() == []


def test_another_value_of_a_fixed_setting_is_another_study(study: Study) -> None:
    session, method = study
    with pytest.raises(StudyError, match=r"weight_decay was 0\.01, is now 0\.1"):
        session.restart(search=method, fixed={"epochs": 2, "weight_decay": 0.1})
    with pytest.raises(StudyError, match=r"learning_rate was .*, is now 0\.01 to 0\.1"):
        session.restart(search=method, axes={"learning_rate": {"low": 1e-2, "high": 1e-1}})


@pytest.mark.parametrize("damage", ["deleted", "incomplete", "another file"])
def test_a_damaged_optuna_file_is_rebuilt(study: Study, damage: str) -> None:
    session, method = study
    before = session.optuna("tiny-roberta")
    path = session.folder.optuna_file
    if damage == "deleted":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:3000] if damage == "incomplete" else b"not a database")
    restarted = session.restart(search={**method, "trials": 6})
    restarted.finish()
    after = restarted.optuna("tiny-roberta")
    assert [(trial.number, trial.value, trial.params) for trial in after[:5]] == [
        (trial.number, trial.value, trial.params) for trial in before
    ]
    assert len(after) == 6


def test_cma_es_searches_ranges(tmp_path: Path) -> None:
    axes = {"lr_schedule": ["linear"], "early_stopping": ["none"], "seed": [0]}
    search = {"method": "optuna", "sampler": "cmaes", "trials": 8, "per": ["model", "lr_schedule", "early_stopping"]}
    session = Session.start(make_space(tmp_path, axes=axes, search=search), tmp_path / "study")
    session.finish()
    trials = session.optuna("tiny-bert · linear · no early stopping")
    assert len(trials) == 8
    assert any(key.startswith("cma:") for trial in trials for key in trial.system_attrs)


def test_late_trials_of_tpe_are_nearer_to_the_optimum_than_early_ones(tmp_path: Path) -> None:
    """The made-up losses are lowest at a learning rate of 1e-4."""
    axes = {"model": ["tiny-bert"], "early_stopping": ["none"], "lr_schedule": ["constant"], "seed": [0]}
    early, late = [], []
    for seed in range(3):
        search = {"method": "optuna", "trials": 30, "objective": "loss", "per": [], "seed": seed}
        session = Session.start(make_space(tmp_path, search=search, axes=axes), tmp_path / str(seed))
        session.finish()
        distances = [abs(math.log10(trial.settings.learning_rate) + 4) for trial in session.search.plan.trials]
        early += distances[:10]
        late += distances[10:]
    assert sum(late) / len(late) < 0.8 * sum(early) / len(early)


def test_optunas_dashboard_opens_the_study(tmp_path: Path, free_port: int) -> None:
    session = Session.start(make_space(tmp_path), tmp_path / "study")
    session.finish()
    program = str(Path(sys.executable).with_name("optuna-dashboard"))
    command = [program, f"sqlite:///{session.folder.optuna_file}", "--port", str(free_port)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 60
        while True:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{free_port}/api/studies", timeout=5) as answer:
                    names = {summary["study_name"] for summary in json.load(answer)["study_summaries"]}
                break
            except OSError:
                assert process.poll() is None
                assert time.monotonic() < deadline
                time.sleep(0.2)
    finally:
        process.kill()
        process.wait()
    assert names == {"study · tiny-bert", "study · tiny-roberta"}
