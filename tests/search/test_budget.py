"""The budget of each search, in trials, examples and GPU hours."""

from pathlib import Path

import pytest
from search_session import Session, make_space
from study_builder import ended

from study.execution.growth import find_plan
from study.search.budget import search_budgets
from study.storage import StudyFolder


def test_budgets_are_known_before_anything_runs(tmp_path: Path) -> None:
    space = make_space(tmp_path)
    budgets = search_budgets(space, find_plan(StudyFolder(tmp_path / "study"), space), [])
    assert [(budget.group, budget.unit, budget.spent, budget.budget, budget.open) for budget in budgets] == [
        ("tiny-bert", "trials", 0, 5, True),
        ("tiny-roberta", "trials", 0, 5, True),
    ]


def test_a_search_ends_when_every_combination_has_been_tried(tmp_path: Path) -> None:
    axes = {"learning_rate": [1e-4, 1e-3], "batch_size": [16], "seed": [0]}
    session = Session.start(make_space(tmp_path, axes=axes, search={"trials": 50}), tmp_path / "study")
    session.finish()
    assert session.queue.done
    assert not session.search.plan.open
    assert len(session.search.plan.cells) == 2 * 2 * 2 * 2  # models, rates, schedules, stopping
    assert [(budget.trials, budget.choices) for budget in session.search.budgets()] == [(8, 8), (8, 8)]
    assert not find_plan(session.folder, session.space).open


def test_a_budget_in_examples_counts_what_was_trained(tmp_path: Path) -> None:
    search = {"trials": None, "examples": 5_000}
    session = Session.start(make_space(tmp_path, search=search, axes={"early_stopping": ["none"]}), tmp_path / "study")
    session.finish()
    for budget in session.search.budgets():
        assert budget.spent == budget.trials * 2 * 2 * 800  # seeds, epochs, examples
        assert budget.spent - 2 * 2 * 800 < 5_000 <= budget.spent


def test_a_budget_in_gpu_hours_counts_seconds_and_the_share_of_the_gpu(tmp_path: Path) -> None:
    space = make_space(tmp_path, search={"trials": None, "gpu_hours": 0.005}, run={"gpu": 0.5})
    session = Session.start(space, tmp_path / "study")
    for trajectory in iter(session.queue.next, None):
        outcome = ended(train_seconds=9.0, gpus=0.5)
        session.builder.train(trajectory, validation_loss=[0.5] * 2, outcome=outcome)
        session.queue.trajectory_ended(trajectory.id)
    for budget in session.search.budgets():
        assert budget.spent == pytest.approx(budget.trials * 2 * 9 * 0.5 / 3600)
        assert budget.trials == 2
