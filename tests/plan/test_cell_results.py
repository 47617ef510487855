"""The state, stop reason and selected epoch of cells, from the records of their trajectory."""

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from study_builder import StudyBuilder, ended, make_history, make_study

from study.plan.cell_results import CellResult, cell_results, search_score, selection_score, unfinished
from study.records import Outcome

NEVER, ONE, TWO = None, {"patience": 1}, {"patience": 2}
FALLING = [0.6, 0.5, 0.4, 0.3]
RISING = [0.6, 0.5, 0.55, 0.6]
NAN = math.nan


def make(path: Path) -> StudyBuilder:
    """One trajectory of four epochs, shared by three cells."""
    return make_study(path, {"early_stopping": [NEVER, ONE, TWO]})


def results(study: StudyBuilder) -> dict[int, CellResult]:
    """By patience; 0 is the cell that never stops early."""
    return {result.cell.policy.patience or 0: result for result in cell_results(study.folder, study.plan)}


def in_short(result: CellResult) -> tuple[str, str | None, int | None]:
    return result.state, result.stop_reason, result.last.epoch if result.last else None


@pytest.mark.parametrize(
    ("losses", "outcome", "never", "patience_1", "patience_2"),
    [
        ([], None, ("planned", None, None), ("planned", None, None), ("planned", None, None)),
        (FALLING[:2], None, ("running", None, 2), ("running", None, 2), ("running", None, 2)),
        (RISING[:3], None, ("running", None, 3), ("complete", "stopped early", 3), ("running", None, 3)),
        (
            FALLING,
            ended(),
            ("complete", "epochs exhausted", 4),
            ("complete", "epochs exhausted", 4),
            ("complete", "epochs exhausted", 4),
        ),
        (
            RISING,
            ended(),
            ("complete", "epochs exhausted", 4),
            ("complete", "stopped early", 3),
            ("complete", "epochs exhausted", 4),
        ),
        (
            [0.6, NAN],
            ended("non-finite"),
            ("complete", "non-finite", 2),
            ("complete", "non-finite", 2),
            ("complete", "non-finite", 2),
        ),
        (
            [0.5, 0.6, NAN],
            ended("non-finite"),
            ("complete", "non-finite", 3),
            ("complete", "stopped early", 2),
            ("complete", "non-finite", 3),
        ),
        (
            RISING[:3],
            Outcome(status="failed", error="lost"),
            ("failed", None, 3),
            ("complete", "stopped early", 3),
            ("failed", None, 3),
        ),
        (
            [],
            Outcome(status="failed", error="lost"),
            ("failed", None, None),
            ("failed", None, None),
            ("failed", None, None),
        ),
    ],
)
def test_the_state_of_cells_that_share_a_trajectory(
    tmp_path: Path,
    losses: Sequence[float],
    outcome: Outcome | None,
    never: tuple[str, str | None, int | None],
    patience_1: tuple[str, str | None, int | None],
    patience_2: tuple[str, str | None, int | None],
) -> None:
    study = make(tmp_path / "study")
    study.train(study.plan.trajectories[0], validation_loss=losses, outcome=outcome)
    by_patience = results(study)
    assert [in_short(by_patience[patience]) for patience in (0, 1, 2)] == [never, patience_1, patience_2]


def test_the_selected_epoch_is_the_best_before_the_cell_stopped(tmp_path: Path) -> None:
    study = make_study(tmp_path / "study", {"early_stopping": [NEVER, ONE]}, checkpoint_metric="loss")
    study.train(study.plan.trajectories[0], validation_loss=[0.6, 0.7, 0.5, 0.4], outcome=ended())
    chosen = {patience: result.chosen.epoch for patience, result in results(study).items() if result.chosen}
    assert chosen == {0: 4, 1: 1}


def test_without_a_finite_evaluation_no_epoch_is_selected(tmp_path: Path) -> None:
    study = make_study(tmp_path / "study", {"seed": [0]}, checkpoint_metric="loss")
    study.train(study.plan.trajectories[0], validation_loss=[NAN], outcome=ended("non-finite"))
    (result,) = cell_results(study.folder, study.plan)
    assert result.last is not None
    assert result.chosen is None


def test_derived_cells_name_the_cell_that_trained_them(tmp_path: Path) -> None:
    by_patience = results(make(tmp_path / "study"))
    assert {result.trained_by for result in by_patience.values()} == {by_patience[0].cell.id}
    assert [by_patience[patience].derived for patience in (0, 1, 2)] == [False, True, True]


def test_results_are_in_the_plans_order(tmp_path: Path) -> None:
    study = make_study(tmp_path / "study", {"seed": [2, 0, 1], "early_stopping": [NEVER, ONE]})
    assert [result.cell.id for result in cell_results(study.folder, study.plan)] == [
        cell.id for cell in study.plan.cells
    ]


def test_a_trajectory_is_unfinished_while_one_of_its_cells_is(tmp_path: Path) -> None:
    study = make_study(tmp_path / "study", {"seed": [0, 1, 2], "early_stopping": [NEVER, ONE]})
    complete, running, planned = study.plan.trajectories
    study.train(complete, validation_loss=FALLING, outcome=ended())
    study.train(running, validation_loss=RISING[:3])
    assert unfinished(study.plan, cell_results(study.folder, study.plan)) == [running, planned]


def test_a_cell_is_running_once_its_trajectory_has_a_record(tmp_path: Path) -> None:
    """Also within the first epoch, before there is an evaluation."""
    study = make(tmp_path / "study")
    folder = study.train(study.plan.trajectories[0], validation_loss=[])
    assert {in_short(result) for result in results(study).values()} == {("planned", None, None)}
    folder.append(make_history(study.plan.trajectories[0], [0.5], seed=0)[:1])
    assert {in_short(result) for result in results(study).values()} == {("running", None, None)}


def test_what_a_trial_scheduler_stopped_resumes_unless_the_study_still_prunes(tmp_path: Path) -> None:
    study = make(tmp_path / "study")
    study.train(study.plan.trajectories[0], validation_loss=RISING[:3], outcome=ended("cut"))
    by_patience = results(study)
    assert [in_short(by_patience[patience]) for patience in (0, 1, 2)] == [
        ("complete", "cut", 3),
        ("complete", "stopped early", 3),
        ("complete", "cut", 3),
    ]
    cells = list(by_patience.values())
    assert unfinished(study.plan, cells, pruning=True) == []
    assert unfinished(study.plan, cells) == list(study.plan.trajectories)


@pytest.fixture
def result(tmp_path: Path) -> CellResult:
    """A complete cell whose selected checkpoint is better than its last."""
    study = make_study(tmp_path / "study", {"seed": [0]}, checkpoint_metric="loss")
    study.train(study.plan.trajectories[0], validation_loss=RISING, outcome=ended())
    (result,) = cell_results(study.folder, study.plan)
    assert result.chosen is not None
    assert result.last is not None
    chosen = replace(result.chosen, validation={"loss": 0.4, "accuracy": 0.8})
    last = replace(result.last, validation={"loss": 0.9, "accuracy": 0.5})
    return replace(result, chosen=chosen, last=last)


def collapsed(result: CellResult) -> CellResult:
    assert result.last is not None
    return replace(result, last=replace(result.last, majority_share=1.0))


def test_a_search_scores_a_cell_by_its_selected_checkpoint_and_a_collapsed_one_by_its_last(result: CellResult) -> None:
    assert search_score([result], "accuracy") == 0.8
    assert search_score([result], "loss") == 0.4
    assert search_score([collapsed(result)], "accuracy") == 0.5
    assert search_score([collapsed(result)], "loss") == 0.9
    assert search_score([result, collapsed(result)], "accuracy") == pytest.approx((0.8 + 0.5) / 2)


@pytest.mark.parametrize(("objective", "worst"), [("accuracy", 0.0), ("loss", 100.0)])
def test_a_search_scores_a_cell_without_a_finite_score_as_the_worst(
    result: CellResult, objective: str, worst: float
) -> None:
    assert search_score([replace(result, last=None, chosen=None)], objective) == worst
    assert search_score([replace(result, stop_reason="non-finite")], objective) == worst
    assert selection_score([replace(result, chosen=None)], objective) == worst


def test_a_user_selects_by_the_selected_checkpoint_whatever_the_cell_ended_with(result: CellResult) -> None:
    assert selection_score([collapsed(result)], "accuracy") == 0.8
    assert selection_score([replace(result, stop_reason="non-finite")], "loss") == 0.4
