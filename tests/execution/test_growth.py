"""A study grows and shrinks with its space: only what is new is trained, and what all cells share cannot change."""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml
from space_files import write_unloadable_model
from study_builder import StudyBuilder, ended

from analysis.results import read as read_results
from study.errors import StudyError
from study.execution.growth import find_plan
from study.execution.manifest import write_study
from study.plan.cell_results import cell_results, unfinished
from study.plan.plan import Plan
from study.records import Manifest
from study.space.reader import read
from study.storage import StudyFolder

SPACE: Mapping[str, Any] = {
    "data": {"source": "builtin:reviews", "examples": 1000},
    "fixed": {"epochs": 2, "weight_decay": 0.01},
    "axes": {"model": ["tiny-bert"], "learning_rate": [1e-4, 1e-3], "seed": [0, 1]},
}


class Started(NamedTuple):
    """A study that was started, and the names of its trajectories that are not finished."""

    folder: StudyFolder
    manifest: Manifest
    plan: Plan
    unfinished: list[str]


def start(folder: Path, **changes: Mapping[str, Any]) -> Started:
    """Start the study with a changed space."""
    raw = json.loads(json.dumps(SPACE))
    for key, values in changes.items():
        raw[key] |= values
    path = folder / "grown.yaml"
    path.write_text(yaml.safe_dump(raw, sort_keys=False))
    space, study = read(path), StudyFolder(folder / "studies" / "grown")
    plan = find_plan(study, space)
    manifest = write_study(study, space, plan, tracking_uri=None)
    names = [trajectory.name for trajectory in unfinished(plan, cell_results(study, plan))]
    return Started(study, manifest, plan, names)


def train_all(study: Started) -> None:
    """Let all trajectories seem to be trained."""
    builder = StudyBuilder(folder=study.folder, plan=study.plan, manifest=study.manifest)
    for trajectory in study.plan.trajectories:
        builder.train(trajectory, validation_loss=[0.5, 0.4], outcome=ended())


@pytest.fixture
def trained(tmp_path: Path) -> Path:
    """The folder of a study whose four cells are trained."""
    study = start(tmp_path)
    assert len(study.unfinished) == 4
    train_all(study)
    return tmp_path


def test_seeds_values_and_models_are_added(trained: Path) -> None:
    assert start(trained).unfinished == []
    assert len(start(trained, axes={"seed": [0, 1, 2]}).unfinished) == 2
    assert len(start(trained, axes={"learning_rate": [1e-5, 1e-4, 1e-3]}).unfinished) == 2
    names = start(trained, axes={"model": ["tiny-bert", "tiny-roberta"]}).unfinished
    assert len(names) == 4
    assert all(name.startswith("tiny-roberta") for name in names)


def test_an_axis_with_the_value_of_the_old_cells_may_be_added(trained: Path) -> None:
    before = {cell.id for cell in start(trained).plan.cells}
    study = start(trained, axes={"lr_schedule": ["constant", "linear"]})
    assert len(study.unfinished) == 4
    assert all("linear" in name for name in study.unfinished)
    assert before < {cell.id for cell in study.plan.cells}


def test_early_stopping_is_added_without_any_training(trained: Path) -> None:
    study = start(trained, axes={"early_stopping": ["none", {"patience": 1}]})
    assert len(study.plan.cells) == 8
    assert study.unfinished == []


def test_removed_cells_stay_on_disk_leave_the_report_and_can_return(trained: Path) -> None:
    study = start(trained, axes={"learning_rate": [1e-4]})
    assert study.unfinished == []
    assert len(study.plan.cells) == 2
    results = read_results(study.folder.path)
    assert results.census.planned == 2
    assert {result.cell.settings.learning_rate for result in results.cells} == {1e-4}
    assert len(list((study.folder.path / "trajectories").iterdir())) == 4
    assert start(trained).unfinished == []
    assert read_results(study.folder.path).census.complete == 4


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"fixed": {"weight_decay": 0.1}}, r"weight_decay was 0\.01, is now 0\.1"),
        ({"fixed": {"warmup_fraction": 0.1}}, r"warmup_fraction was 0\.0, is now 0\.1"),
        ({"axes": {"model": ["tiny-roberta"]}}, 'model was "?tiny-bert"?, is now "?tiny-roberta"?'),
        ({"axes": {"lr_schedule": ["linear", "cosine"]}}, "lr_schedule was .*constant.*, is now .*cosine.*linear"),
        ({"data": {"max_length": 64}}, r"data\.max_length was 128, is now 64"),
        ({"data": {"split_seed": 1}}, r"data\.split_seed was 0, is now 1"),
        (
            {"data": {"fractions": {"train": 0.6, "validation": 0.2, "test": 0.2}}},
            r'data\.fractions was {.*"train": 0\.8.*}, is now {.*"train": 0\.6.*}',
        ),
    ],
)
def test_what_all_cells_share_cannot_change(
    trained: Path, changes: Mapping[str, Mapping[str, Any]], message: str
) -> None:
    before = (trained / "studies" / "grown" / "plan.json").read_bytes()
    with pytest.raises(StudyError, match=message) as caught:
        start(trained, **changes)
    assert "--fresh" in str(caught.value)
    assert (trained / "studies" / "grown" / "plan.json").read_bytes() == before


def test_a_model_folder_whose_files_have_changed_is_another_study(tmp_path: Path) -> None:
    model = write_unloadable_model(tmp_path / "mine")
    axes = {"model": ["tiny-bert", str(model)]}
    train_all(start(tmp_path, axes=axes))
    (model / "model.safetensors").write_bytes(b"other weights")
    with pytest.raises(StudyError, match=rf"the files of the model {model} have changed"):
        start(tmp_path, axes=axes)
    assert start(tmp_path, axes={"model": ["tiny-bert"]}).unfinished == []


@pytest.mark.parametrize("path", [("max_length",), ("label_values",), ("fractions",), ("fractions", "test")])
def test_a_study_from_before_a_data_setting_existed_continues_with_its_default(
    trained: Path, path: tuple[str, ...]
) -> None:
    study = start(trained)
    data = json.loads(json.dumps(study.manifest.data))
    section = data
    for key in path[:-1]:
        section = section[key]
    del section[path[-1]]
    study.folder.write_manifest(replace(study.manifest, data=data))
    assert start(trained).unfinished == []


def test_a_study_from_before_a_setting_existed_continues_with_its_default(trained: Path) -> None:
    study = start(trained)
    values = json.loads(json.dumps(study.plan.to_json()))
    for item in (*values["cells"], *values["trajectories"]):
        del item["settings"]["compile"]
    study.folder.write_plan(values)
    assert start(trained).unfinished == []
    study.folder.write_plan(values)
    with pytest.raises(StudyError, match="compile was auto, is now true"):
        start(trained, fixed={"compile": True})


@pytest.mark.parametrize("before", [False, "auto"])
def test_a_study_continues_with_and_without_automatic_compilation(trained: Path, before: Any) -> None:
    """Earlier versions recorded false as the default."""
    study = start(trained)
    values = json.loads(json.dumps(study.plan.to_json()))
    for item in (*values["cells"], *values["trajectories"]):
        item["settings"]["compile"] = before
    for after in ("auto", False):
        study.folder.write_plan(values)
        assert start(trained, fixed={"compile": after}).unfinished == []
    study.folder.write_plan(values)
    with pytest.raises(StudyError, match=f"compile was {str(before).lower()}, is now true"):
        start(trained, fixed={"compile": True})
