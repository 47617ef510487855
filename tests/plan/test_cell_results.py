import math
from collections.abc import Sequence
from pathlib import Path

import pytest
from study_builder import StudyBuilder, ended, make_study

from study.plan.cell_results import CellResult, cell_results, unfinished
from study.records import Outcome

NEVER, ONE, TWO = None, {"patience": 1}, {"patience": 2}
FALLING = [0.6, 0.5, 0.4, 0.3]
RISING = [0.6, 0.5, 0.55, 0.6]
NAN = math.nan


def make(path: Path) -> StudyBuilder:
    """One trajectory of four epochs, and three cells that are read off it."""
    return make_study(path, {"early_stopping": [NEVER, ONE, TWO]})


def results(study: StudyBuilder) -> dict[int, CellResult]:
    """By patience; 0 is the cell that never stops early."""
    found = cell_results(study.folder, study.plan)
    return {(result.cell.settings["early_stopping"] or {}).get("patience", 0): result for result in found}


def seen(result: CellResult) -> tuple[str, str | None, int | None]:
    return result.state, result.stop_reason, result.last.epoch if result.last else None


@pytest.mark.parametrize(
    ("losses", "outcome", "never", "one", "two"),
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
def test_where_cells_stand(
    tmp_path: Path,
    losses: Sequence[float],
    outcome: Outcome | None,
    never: tuple[str, str | None, int | None],
    one: tuple[str, str | None, int | None],
    two: tuple[str, str | None, int | None],
) -> None:
    study = make(tmp_path / "study")
    study.train(study.plan.trajectories[0], validation_loss=losses, outcome=outcome)
    found = results(study)
    assert (seen(found[0]), seen(found[1]), seen(found[2])) == (never, one, two)


def test_the_chosen_epoch_is_the_best_before_the_cell_stopped(tmp_path: Path) -> None:
    study = make_study(tmp_path / "study", {"early_stopping": [NEVER, ONE]}, checkpoint_metric="loss")
    study.train(study.plan.trajectories[0], validation_loss=[0.6, 0.7, 0.5, 0.4], outcome=ended())
    found = results(study)
    chosen = {patience: result.chosen.epoch for patience, result in found.items() if result.chosen}
    assert chosen == {0: 4, 1: 1}


def test_without_a_finite_evaluation_nothing_is_chosen(tmp_path: Path) -> None:
    study = make_study(tmp_path / "study", {"seed": [0]}, checkpoint_metric="loss")
    study.train(study.plan.trajectories[0], validation_loss=[NAN], outcome=ended("non-finite"))
    (result,) = cell_results(study.folder, study.plan)
    assert result.last is not None
    assert result.chosen is None


def test_derived_cells_name_the_cell_that_trained_them(tmp_path: Path) -> None:
    study = make(tmp_path / "study")
    found = results(study)
    assert {result.trained_by for result in found.values()} == {found[0].cell.id}


def test_results_stand_in_the_plans_order(tmp_path: Path) -> None:
    study = make_study(tmp_path / "study", {"seed": [2, 0, 1], "early_stopping": [NEVER, ONE]})
    assert [result.cell.id for result in cell_results(study.folder, study.plan)] == [c.id for c in study.plan.cells]


def test_a_trajectory_is_unfinished_while_one_of_its_cells_is(tmp_path: Path) -> None:
    study = make_study(tmp_path / "study", {"seed": [0, 1, 2], "early_stopping": [NEVER, ONE]})
    done, half, fresh = study.plan.trajectories
    study.train(done, validation_loss=FALLING, outcome=ended())
    study.train(half, validation_loss=RISING[:3])
    assert unfinished(study.plan, cell_results(study.folder, study.plan)) == [half, fresh]
