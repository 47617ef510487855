"""The space that a study keeps is read back as the space that was run, without its data and models."""

import shutil
from pathlib import Path

import pytest
from places import ROOT
from space_files import FULL, SEARCH, write_reviews, write_space, write_unloadable_model

from study.errors import SpaceError
from study.execution.manifest import data_content
from study.plan.plan import make_plan
from study.records import Manifest
from study.settings import Reference
from study.space.axes import Range
from study.space.reader import read, read_kept
from study.space.recorded import RecordedSpace, read_recorded
from study.space.space import Space
from study.storage import StudyFolder

SPACES = sorted((ROOT / "search_spaces").glob("*.yaml"))
# Axes whose values are names, numbers, lists, mappings, durations and schedules, and a reference.
EVERY_KIND = FULL.replace("axes:\n", "axes:\n  max_gradient_norm: [none, 1]\n  precision: [auto, float32]\n")


def record(space: Space, folder: Path) -> RecordedSpace:
    """What is read back of a space that a study in ``folder`` keeps."""
    study = StudyFolder(folder)
    study.write_space(space.text)
    return read_recorded(study.space_file)


def assert_recorded(recorded: RecordedSpace, space: Space) -> None:
    assert recorded.axes == space.axes
    assert recorded.ranges == {axis.name: axis.range for axis in space.axes if axis.range is not None}
    assert recorded.lists.keys() == {axis.name for axis in space.axes if axis.range is None}
    assert recorded.search == space.search
    assert recorded.references == space.references
    assert recorded.data_source == space.data.source


@pytest.mark.parametrize("path", SPACES, ids=lambda path: str(path.stem))
def test_a_recorded_space_has_the_axes_search_and_references_of_the_space(tmp_path: Path, path: Path) -> None:
    space = read(path)
    assert_recorded(record(space, tmp_path / "study"), space)


def test_a_recorded_space_has_lists_of_every_kind_and_references_in_canonical_form(tmp_path: Path) -> None:
    space = read(write_space(tmp_path, EVERY_KIND))
    recorded = record(space, tmp_path / "study")
    assert_recorded(recorded, space)
    early_stopping = {"patience": 1, "min_delta": 0.0, "metric": "loss"}
    match = {"model": "tiny-bert", "early_stopping": early_stopping}
    assert recorded.references == (Reference(match=match, test_loss=0.3, source="somewhere: else"),)
    assert recorded.lists["early_stopping"] == [None, {**early_stopping, "min_delta": 0.001}]
    assert recorded.lists["duration"] == [{"epochs": 2}, {"optimizer_steps": 50}]
    assert recorded.lists["max_gradient_norm"] == [None, 1.0]
    assert recorded.ranges == {}


def test_a_recorded_space_has_the_ranges_of_its_search(tmp_path: Path) -> None:
    options = ["learning_rate={low: 1e-5, high: 1e-3, log: true}", "batch_size={low: 8, high: 64, step: 8}"]
    space = read(write_space(tmp_path, SEARCH), set=options)
    recorded = record(space, tmp_path / "study")
    assert_recorded(recorded, space)
    assert recorded.ranges == {
        "learning_rate": Range(low=1e-5, high=1e-3, log=True),
        "batch_size": Range(low=8, high=64, step=8),
    }
    assert recorded.ranges["batch_size"].whole
    assert recorded.lists == {"model": ["tiny-bert", "tiny-roberta"], "lr_schedule": ["constant", "linear"]}


def test_a_space_whose_model_folder_and_data_file_are_gone_is_read_back(tmp_path: Path) -> None:
    folder, data = write_unloadable_model(tmp_path / "mine"), write_reviews(tmp_path / "reviews.csv", rows=1_000)
    text = FULL.replace("org/5e5", str(folder)).replace("{model: tiny-bert, early", f"{{model: {folder}, early")
    space = read(write_space(tmp_path, text), data=str(data))
    shutil.rmtree(folder)
    data.unlink()
    with pytest.raises(SpaceError, match=r"does not exist"):
        read(write_space(tmp_path, space.text))
    recorded = record(space, tmp_path / "study")
    assert_recorded(recorded, space)
    assert recorded.lists["model"] == ["tiny-bert", str(folder)]
    assert recorded.references[0].match["model"] == str(folder)
    assert recorded.data_source == str(data)


def manifest_of(space: Space) -> Manifest:
    return Manifest(id="made-up", name=space.name, created=0.0, data=data_content(space), models=space.identities)


@pytest.mark.parametrize("path", SPACES, ids=lambda path: str(path.stem))
def test_a_kept_space_is_the_space_that_was_run(tmp_path: Path, path: Path) -> None:
    space = read(path)
    kept = read_kept(record(space, tmp_path / "study").document, manifest_of(space))
    assert make_plan(kept) == make_plan(space)
    assert (kept.when, kept.search, kept.run, kept.references) == (
        space.when,
        space.search,
        space.run,
        space.references,
    )


def test_a_kept_space_takes_options_when_its_model_folder_and_data_file_are_gone(tmp_path: Path) -> None:
    folder, data = write_unloadable_model(tmp_path / "mine"), write_reviews(tmp_path / "reviews.csv", rows=1_000)
    text = FULL.replace("org/5e5", str(folder)).replace("{model: tiny-bert, early", f"{{model: {folder}, early")
    path, seeds = write_space(tmp_path, text), "seed=[0, 1, 2, 3, 4, 5, 6]"
    space, extended = read(path, data=str(data)), read(path, data=str(data), set=[seeds])
    document = record(space, tmp_path / "study").document
    shutil.rmtree(folder)
    data.unlink()
    kept = read_kept(document, manifest_of(space), set=[seeds])
    assert {cell.id for cell in make_plan(kept).cells} == {cell.id for cell in make_plan(extended).cells}
    with pytest.raises(SpaceError, match="batch_size"):
        read_kept(document, manifest_of(space), set=["batch_size=[900]"])


def test_a_space_that_this_version_did_not_write_is_an_error(tmp_path: Path) -> None:
    path = write_space(tmp_path, "axes: {learning_rat: [1e-4]}\n")
    with pytest.raises(
        SpaceError, match=r"small\.yaml:1:8: axes\.learning_rat: unknown setting; did you mean learning_r"
    ):
        read_recorded(path)
    with pytest.raises(SpaceError, match="no such file"):
        read_recorded(tmp_path / "nowhere.yaml")
