"""The queue gives out each trajectory once, also over restarts, failures and kills."""

import itertools
from pathlib import Path

import pytest
from search_session import METHODS, Session, make_space
from study_builder import ended

from study.storage import StudyFolder


class Killed(BaseException):
    """Not caught by anything that runs."""


class KilledBeforePlan(StudyFolder):
    """A folder whose process is killed before it has written a plan."""

    def write_plan(self, plan: object) -> None:
        raise Killed


@pytest.mark.parametrize("method", METHODS)
def test_no_choice_is_lost_or_made_twice_wherever_the_process_is_killed(tmp_path: Path, method: str) -> None:
    space = make_space(tmp_path, search=METHODS[method])
    undisturbed = Session.start(space, tmp_path / "undisturbed" / "study")
    undisturbed.finish()
    trained: list[str] = []
    for step in itertools.count():
        session = Session.start(space, tmp_path / "killed" / "study")
        if step % 2:  # killed with the choice in Optuna's file, and not yet in the plan
            session.search.folder = KilledBeforePlan(session.folder.path)
        try:
            trajectory = session.queue.next()
        except Killed:
            continue
        if trajectory is None:
            break
        if step % 3:  # otherwise killed while it trained
            session.train(trajectory)
            trained.append(trajectory.id)
    assert len(trained) == len(set(trained)) == 2 * 5 * 2
    assert {trial.cells for trial in session.search.plan.trials} == {
        trial.cells for trial in undisturbed.search.plan.trials
    } or method != "random"
    for model in ("tiny-bert", "tiny-roberta"):
        assert {trial.state.name for trial in session.optuna(model)} == {"COMPLETE"}


def test_a_trial_with_a_failed_cell_stays_open_until_the_cell_is_trained(tmp_path: Path) -> None:
    session = Session.start(make_space(tmp_path, search={"trials": 1}), tmp_path / "study")
    failed = session.queue.next()
    assert failed is not None
    session.folder.trajectory(failed.id).path.mkdir(parents=True)
    session.folder.trajectory(failed.id).write_outcome(ended(None, status="failed", error="it broke"))
    session.queue.trajectory_ended(failed.id)
    assert failed not in session.finish()
    assert session.queue.done
    assert session.optuna("tiny-bert")[0].state.name == "RUNNING"
    restarted = Session.start(session.space, session.folder.path)
    assert [trajectory.id for trajectory in restarted.finish()] == [failed.id]
    assert restarted.optuna("tiny-bert")[0].state.name == "COMPLETE"


def test_cells_that_share_a_trajectory_are_trained_once(tmp_path: Path) -> None:
    axes = {"learning_rate": [1e-4], "batch_size": [16], "lr_schedule": ["constant"], "seed": [0]}
    session = Session.start(make_space(tmp_path, axes=axes, search={"trials": 2}), tmp_path / "study")
    assert len(session.finish()) == 2
    assert len(session.search.plan.cells) == 4
    assert [trial.state.name for trial in session.optuna("tiny-bert")][:2] == ["COMPLETE"] * 2


def test_the_queue_is_done_only_when_nothing_is_running(tmp_path: Path) -> None:
    """A trajectory that stops early returns the rest of its budget, so that another trial may follow."""
    axes = {"model": ["tiny-bert"], "seed": [0]}
    session = Session.start(make_space(tmp_path, axes=axes, search={"trials": 2}), tmp_path / "study")
    first, second = session.queue.next(), session.queue.next()
    assert first is not None
    assert second is not None
    assert (session.queue.next(), session.queue.done) == (None, False)
    session.train(first)
    assert (session.queue.next(), session.queue.done) == (None, False)
    session.train(second)
    assert (session.queue.next(), session.queue.done) == (None, True)
