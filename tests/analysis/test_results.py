"""A study's folder becomes results, whole or half, and a folder that is none is named."""

import json
import math
from pathlib import Path

import pytest
from synthetic_study import Story, Synthetic, healthy, make, non_finite, plan_of

from analysis.results import Results, ResultsError, read
from study.records import Outcome

TEXT = """
data: {source: builtin:reviews, examples: 1000}
fixed: {epochs: 4}
axes:
  model: [tiny-bert, tiny-roberta]
  early_stopping: [none, {patience: 1}]
  seed: [0, 1, 2, 3]
references:
  - match: {model: tiny-bert, early_stopping: none}
    test_accuracy: 0.885
    source: one run
"""


def half_a_study(folder: Path) -> Synthetic:
    """Seed 0 is done, 1 has failed after two epochs, 2 is at its first epoch, 3 was never started."""
    space, plan = plan_of(folder, TEXT)
    begun = Story(accuracy=[0.8, 0.85], train_loss=[0.5, 0.4], scale=[1.0] * 2, outcome=None)
    failed = Story(
        accuracy=[0.8, 0.85],
        train_loss=[0.5, 0.4],
        scale=[1.0] * 2,
        outcome=Outcome(status="failed", error="no memory"),
    )
    return make(space, plan, lambda settings, rng: (healthy(), failed, begun, None)[settings["seed"]])


@pytest.fixture
def results(tmp_path: Path) -> Results:
    return read(half_a_study(tmp_path).write(tmp_path / "studies").path)


def test_the_census_counts_every_planned_cell_once(results: Results) -> None:
    census = results.census
    assert (census.planned, census.complete, census.failed, census.running, census.missing) == (16, 4, 4, 4, 4)
    assert (census.trajectories, census.trajectories_ended, census.derived) == (8, 4, 8)
    assert not census.whole


def test_non_finite_cells_are_complete_and_counted(tmp_path: Path) -> None:
    space, plan = plan_of(tmp_path, TEXT)
    census = make(space, plan, lambda settings, rng: non_finite()).results().census
    assert (census.complete, census.non_finite) == (16, 16)


def test_a_folder_and_the_same_study_in_memory_are_equal(tmp_path: Path) -> None:
    study = half_a_study(tmp_path)
    kept, made = read(study.write(tmp_path / "studies").path), study.results()
    assert kept.census == made.census
    assert kept.cells == made.cells
    assert kept.chance_accuracy == made.chance_accuracy


def test_published_results_find_their_cells(results: Results) -> None:
    (reference,) = results.references
    matched = [result.cell for result in results.cells if reference.matches(result.cell.settings)]
    assert {(cell.settings["model"], cell.settings["early_stopping"]) for cell in matched} == {("tiny-bert", None)}


def test_numbers_that_yaml_takes_for_text_match(tmp_path: Path) -> None:
    text = TEXT.replace("model: tiny-bert, early", "model: tiny-bert, learning_rate: 5e-5, early")
    space, plan = plan_of(tmp_path, text)
    results = read(make(space, plan, lambda settings, rng: None).write(tmp_path / "studies").path)
    assert any(results.references[0].matches(result.cell.settings) for result in results.cells)


def test_chance_is_that_of_the_validation_labels(results: Results) -> None:
    assert results.chance_accuracy == 0.5
    assert results.chance_loss == pytest.approx(math.log(2))


def test_frames_hold_a_row_for_each_cell_and_epoch(results: Results) -> None:
    cells, epochs = results.cells_frame(), results.epochs_frame()
    assert len(cells) == 16
    assert set(cells["state"]) == {"complete", "failed", "running", "planned"}
    assert len(epochs) == 2 * (4 + 2 + 2)


def test_predictions_read_ahead_are_those_read_one_by_one(tmp_path: Path) -> None:
    path = half_a_study(tmp_path).write(tmp_path / "studies").path
    ahead, alone = read(path), read(path)
    ahead.read_ahead(ahead.cells)
    for result in ahead.cells:
        if result.state == "complete":
            first, second = ahead.scored(result, "test"), alone.scored(result, "test")
            assert first is not None
            assert second is not None
            assert (first.nll == second.nll).all()


def test_a_folder_that_is_no_study_is_named(tmp_path: Path) -> None:
    with pytest.raises(ResultsError, match=r"holds no study"):
        read(tmp_path)
    with pytest.raises(ResultsError, match=r"holds no study"):
        read(tmp_path / "nothing")


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("plan.json", "{"),
        ("plan.json", '{"study": "x"}'),
        ("study.json", "[1]"),
        ("space.yaml", "references: [{match: 3}]"),
        ("trajectories/{id}/history.jsonl", '{"kind": "epoch"}\n'),
        ("trajectories/{id}/outcome.json", '{"colour": "red"}'),
    ],
)
def test_a_broken_study_is_one_readable_line(tmp_path: Path, file: str, content: str) -> None:
    study = half_a_study(tmp_path)
    path = study.write(tmp_path / "studies").path
    (path / file.format(id=study.plan.trajectories[0].id)).write_text(content)
    with pytest.raises(ResultsError, match=r"cannot be read") as caught:
        read(path)
    assert "\n" not in str(caught.value)


def test_a_study_of_another_folder_name_is_known_by_its_plan(tmp_path: Path) -> None:
    path = half_a_study(tmp_path).write(tmp_path / "studies").path
    plan = json.loads((path / "plan.json").read_text())
    assert read(path.rename(tmp_path / "moved")).name == plan["study"]
