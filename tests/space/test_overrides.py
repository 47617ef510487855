"""``--set`` replaces values, makes axes and ranges, and changes the other sections."""

from pathlib import Path

import pytest
from space_files import FULL, SEARCH, SMALL, axis_values, write_space

from study.space.axes import Range
from study.space.reader import read


@pytest.fixture
def small(tmp_path: Path) -> Path:
    return write_space(tmp_path, SMALL)


def test_set_replaces_values_and_makes_axes(small: Path) -> None:
    space = read(small, set=["batch_size=32", "seed=[1, 2]", "name=other", "data.max_length=64", "run.gpu=0.5"])
    assert (space.name, space.data.max_length, space.run.gpu) == ("other", 64, 0.5)
    assert space.fixed["batch_size"] == 32
    assert [axis.name for axis in space.axes] == ["model", "early_stopping", "seed"]
    assert axis_values(read(small, set=["batch_size=[8, 4]"]), "batch_size") == [8, 4]
    assert [axis.name for axis in read(small, set=["batch_size=[8]"]).axes][1] == "batch_size"
    assert read(small, set=["adam_betas=[0.9, 0.98]"]).fixed["adam_betas"] == [0.9, 0.98]
    assert axis_values(read(small, set=["adam_betas=[[0.9, 0.98]]"]), "adam_betas") == [[0.9, 0.98]]


def test_set_makes_ranges_and_changes_the_search(tmp_path: Path) -> None:
    path = write_space(tmp_path, SEARCH)
    space = read(
        path, set=["learning_rate={low: 1e-5, high: 1e-3, log: true}", "search.trials=7", "epochs={low: 1, high: 3}"]
    )
    ranges = {axis.name: axis.range for axis in space.axes if axis.range is not None}
    assert ranges == {
        "learning_rate": Range(low=1e-5, high=1e-3, log=True),
        "epochs": Range(low=1, high=3),
    }
    assert ranges["epochs"].whole
    assert not ranges["learning_rate"].whole
    assert space.search.trials == 7
    assert [axis.name for axis in space.searched] == ["lr_schedule", "learning_rate", "epochs"]
    assert read(path, set=["search=grid"]).search.method == "grid"
    assert len(list(read(path, set=["search=grid"]).cells())) == 4


def test_setting_one_duration_replaces_the_other(tmp_path: Path) -> None:
    steps = read(write_space(tmp_path, SMALL), set=["optimizer_steps=10"])
    assert (steps.fixed["epochs"], steps.fixed["optimizer_steps"]) == (None, 10)
    epochs = read(write_space(tmp_path, FULL), set=["epochs=2"])
    assert (epochs.fixed["epochs"], epochs.fixed["optimizer_steps"]) == (2, None)
    both = read(write_space(tmp_path, SMALL), set=["duration=[{epochs: 1}, {optimizer_steps: 10}]"])
    assert axis_values(both, "duration") == [None, None]
    assert both.axes[-1].values == ({"epochs": 1, "optimizer_steps": None}, {"epochs": None, "optimizer_steps": 10})
