"""A study's folder becomes results, whole or partial; a folder without a readable study is named in one line."""

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest
from places import ROOT
from synthetic_spaces import better_by_rate, search_study
from synthetic_study import Story, SyntheticStudy, healthy, make_synthetic, non_finite, plan_of

from analysis.results import Results, ResultsError, read
from study.errors import DamagedRecordWarning
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


def partial_study(folder: Path) -> SyntheticStudy:
    """Seed 0 has ended, 1 has failed after two epochs, 2 is running, 3 was never started."""
    space, plan = plan_of(folder, TEXT)
    running = Story(accuracy=[0.8, 0.85], train_loss=[0.5, 0.4], scale=[1.0] * 2, outcome=None)
    failed = Story(
        accuracy=[0.8, 0.85],
        train_loss=[0.5, 0.4],
        scale=[1.0] * 2,
        outcome=Outcome(status="failed", error="no memory"),
    )
    return make_synthetic(space, plan, lambda settings, rng: (healthy(), failed, running, None)[settings.seed])


@pytest.fixture
def results(tmp_path: Path) -> Results:
    return read(partial_study(tmp_path).write(tmp_path / "studies").path)


def test_the_census_counts_every_planned_cell_once(results: Results) -> None:
    census = results.census
    assert (census.planned, census.complete, census.failed, census.running, census.missing) == (16, 4, 4, 4, 4)
    assert (census.trajectories, census.trajectories_ended, census.derived) == (8, 4, 8)
    assert not census.whole


def test_non_finite_cells_are_complete_and_counted(tmp_path: Path) -> None:
    space, plan = plan_of(tmp_path, TEXT)
    census = make_synthetic(space, plan, lambda settings, rng: non_finite()).results().census
    assert (census.complete, census.non_finite) == (16, 16)


def test_a_folder_and_the_same_study_in_memory_are_equal(tmp_path: Path) -> None:
    study = partial_study(tmp_path)
    from_folder, in_memory = read(study.write(tmp_path / "studies").path), study.results()
    assert from_folder.census == in_memory.census
    assert from_folder.cells == in_memory.cells
    assert from_folder.chance == in_memory.chance
    assert from_folder.space == in_memory.space


def test_published_results_match_their_cells(results: Results) -> None:
    (reference,) = results.space.references
    matched = [result.cell.settings for result in results.cells if reference.matches(result.cell.settings)]
    assert {(settings.model, settings.early_stopping) for settings in matched} == {("tiny-bert", None)}


def test_numbers_that_yaml_reads_as_text_match(tmp_path: Path) -> None:
    text = TEXT.replace("model: tiny-bert, early", "model: tiny-bert, learning_rate: 5e-5, early")
    space, plan = plan_of(tmp_path, text)
    results = read(make_synthetic(space, plan, lambda settings, rng: None).write(tmp_path / "studies").path)
    assert any(results.space.references[0].matches(result.cell.settings) for result in results.cells)


def test_chance_is_that_of_the_validation_labels(results: Results) -> None:
    assert results.chance.accuracy == 0.5
    assert results.chance.loss == pytest.approx(math.log(2))
    assert results.chance.examples == 100


def test_varying_settings_are_those_of_cells_or_of_trajectories(results: Results) -> None:
    assert results.varying == ("model", "early_stopping", "seed")
    assert results.varying_trained == ("model", "seed")
    assert results.condition_keys == ("model",)


def test_frames_have_a_row_for_each_cell_and_epoch(results: Results) -> None:
    cells, epochs = results.cells_frame(), results.epochs_frame()
    assert len(cells) == 16
    assert set(cells["state"]) == {"complete", "failed", "running", "planned"}
    assert len(epochs) == 2 * (4 + 2 + 2)
    complete = cells[cells["state"] == "complete"]
    assert (complete["chosen_test_accuracy"] > 0.8).all()
    assert (epochs["validation_accuracy"] > 0.7).all()
    assert set(epochs["trajectory"]) <= set(cells["trajectory"])


def test_a_folder_without_a_study_is_named(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "nothing"):
        with pytest.raises(ResultsError, match=r"is not a study's folder") as caught:
            read(path)
        assert str(path) in str(caught.value)


def test_a_search_without_trials_is_reported_in_one_line(tmp_path: Path) -> None:
    study = search_study(tmp_path, better_by_rate(), choices=[])
    with pytest.raises(ResultsError, match="no cells yet") as caught:
        read(study.write_plan(tmp_path / "studies").path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("plan.json", "{"),
        ("plan.json", '{"study": "x"}'),
        ("study.json", "[1]"),
        ("space.yaml", "references: [{match: 3}]"),
    ],
)
def test_a_broken_study_is_one_readable_line(tmp_path: Path, file: str, content: str) -> None:
    study = partial_study(tmp_path)
    path = study.write(tmp_path / "studies").path
    (path / file.format(id=study.plan.trajectories[0].id)).write_text(content)
    with pytest.raises(ResultsError, match=r"cannot be read") as caught:
        read(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("file", "content"),
    [("history.jsonl", '{"kind": "epoch"}\n'), ("outcome.json", '{"colour": "red"}')],
)
def test_a_damaged_record_is_named_in_one_line_and_the_others_are_reported(
    tmp_path: Path, file: str, content: str
) -> None:
    study = partial_study(tmp_path)
    path = study.write(tmp_path / "studies").path
    folder = path / "trajectories" / study.plan.trajectories[0].id
    (folder / file).write_text(content)
    with pytest.warns(DamagedRecordWarning, match=f"{folder.name}/{file}.* damaged, so"):
        assert len(read(path).cells) == len(study.plan.cells)
    command = [sys.executable, "-m", "analysis.report", str(path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (line,) = {line for line in done.stderr.splitlines() if "damaged" in line}
    assert line.startswith(str(folder / file))


def test_a_study_in_a_renamed_folder_has_the_name_of_its_plan(tmp_path: Path) -> None:
    path = partial_study(tmp_path).write(tmp_path / "studies").path
    plan = json.loads((path / "plan.json").read_text())
    assert read(path.rename(tmp_path / "moved")).name == plan["study"]
