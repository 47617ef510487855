"""A study grows and shrinks with its space: only what is new is left to train, and nothing changes unseen."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from study_builder import StudyBuilder, ended

from analysis.results import read as read_results
from study.execution.manifest import StudyError, describe, find_plan
from study.plan.cell_results import cell_results, unfinished
from study.plan.plan import Plan
from study.records import StudyFolder
from study.space.reader import read

SPACE: Mapping[str, Any] = {
    "data": {"source": "builtin:reviews", "examples": 1000},
    "fixed": {"epochs": 2, "weight_decay": 0.01},
    "axes": {"model": ["tiny-bert"], "learning_rate": [1e-4, 1e-3], "seed": [0, 1]},
}


def start(folder: Path, **changes: Mapping[str, Any]) -> tuple[StudyFolder, Plan, list[str]]:
    """Start the study with a changed space; its plan, and the names of what is left to train."""
    raw = json.loads(json.dumps(SPACE))
    for key, values in changes.items():
        raw[key] |= values
    path = folder / "grown.yaml"
    path.write_text(yaml.safe_dump(raw, sort_keys=False))
    space, study = read(path), StudyFolder(folder / "studies" / "grown")
    plan = find_plan(study, space)
    describe(study, space, plan, tracking_uri=None)
    return study, plan, [one.name for one in unfinished(plan, cell_results(study, plan))]


@pytest.fixture
def trained(tmp_path: Path) -> Path:
    """A study whose four cells are done."""
    study, plan, left = start(tmp_path)
    assert len(left) == 4
    for trajectory in plan.trajectories:
        StudyBuilder(folder=study, plan=plan).train(trajectory, validation_loss=[0.5, 0.4], outcome=ended())
    return tmp_path


def test_seeds_values_and_models_are_added(trained: Path) -> None:
    assert start(trained)[2] == []
    assert len(start(trained, axes={"seed": [0, 1, 2]})[2]) == 2
    assert len(start(trained, axes={"learning_rate": [1e-5, 1e-4, 1e-3]})[2]) == 2
    left = start(trained, axes={"model": ["tiny-bert", "tiny-roberta"]})[2]
    assert len(left) == 4
    assert all(name.startswith("tiny-roberta") for name in left)


def test_an_axis_is_added_that_holds_the_value_of_the_old_cells(trained: Path) -> None:
    before = {cell.id for cell in start(trained)[1].cells}
    _, plan, left = start(trained, axes={"lr_schedule": ["constant", "linear"]})
    assert len(left) == 4
    assert all("linear" in name for name in left)
    assert before < {cell.id for cell in plan.cells}


def test_early_stopping_is_added_without_any_training(trained: Path) -> None:
    _, plan, left = start(trained, axes={"early_stopping": ["none", {"patience": 1}]})
    assert len(plan.cells) == 8
    assert left == []


def test_what_is_taken_out_stays_on_disk_leaves_the_report_and_comes_back(trained: Path) -> None:
    study, plan, left = start(trained, axes={"learning_rate": [1e-4]})
    assert left == []
    assert len(plan.cells) == 2
    results = read_results(study.path)
    assert results.census.planned == 2
    assert {result.cell.settings["learning_rate"] for result in results.cells} == {1e-4}
    assert len(list((study.path / "trajectories").iterdir())) == 4
    assert start(trained)[2] == []
    assert read_results(study.path).census.complete == 4


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"fixed": {"weight_decay": 0.1}}, r"weight_decay was 0\.01 and is 0\.1"),
        ({"fixed": {"warmup_fraction": 0.1}}, r"warmup_fraction was 0\.0 and is 0\.1"),
        ({"axes": {"model": ["tiny-roberta"]}}, 'model was "?tiny-bert"? and is "?tiny-roberta"?'),
        ({"axes": {"lr_schedule": ["linear", "cosine"]}}, "lr_schedule was .*constant.* and is .*cosine.*linear"),
        ({"data": {"max_length": 64}}, r"data\.max_length was 128 and is 64"),
        ({"data": {"split_seed": 1}}, r"data\.split_seed was 0 and is 1"),
    ],
)
def test_what_all_cells_share_does_not_change_unseen(
    trained: Path, changes: Mapping[str, Mapping[str, Any]], message: str
) -> None:
    before = (trained / "studies" / "grown" / "plan.json").read_bytes()
    with pytest.raises(StudyError, match=message) as caught:
        start(trained, **changes)
    assert "--fresh" in str(caught.value)
    assert (trained / "studies" / "grown" / "plan.json").read_bytes() == before
