"""Axes and ``when`` rules make combinations of complete settings."""

from collections.abc import Sequence
from pathlib import Path

import pytest
from space_files import FULL, SMALL, write_space

from study.settings import EarlyStopping, Settings
from study.space.axes import Axis, Range
from study.space.reader import read


def assert_complete(cells: Sequence[Settings]) -> None:
    """Each of the cells has a valid value of every setting, as if it had been validated alone."""
    for cell in cells:
        values = cell.model_dump(mode="json")
        assert values.keys() == Settings.model_fields.keys()
        assert {Settings.model_validate(values)} == {cell}


def test_the_first_axis_varies_slowest_and_cells_have_every_setting(tmp_path: Path) -> None:
    cells = list(read(write_space(tmp_path, SMALL)).cells())
    assert [(cell.model, cell.batch_size) for cell in cells[::2]] == [
        ("tiny-bert", 16),
        ("tiny-bert", 64),
        ("tiny-roberta", 16),
        ("tiny-roberta", 64),
    ]
    assert cells[0].early_stopping is None
    assert cells[1].early_stopping == EarlyStopping(patience=1, min_delta=0.0, metric="loss")
    assert cells[0].adam_betas == (0.9, 0.999)
    assert_complete(cells)


def test_rules_set_values_and_drop_combinations(tmp_path: Path) -> None:
    cells = list(read(write_space(tmp_path, FULL)).cells())
    assert not any(cell.model == "tiny-bert" and cell.adam_betas == (0.9, 0.98) for cell in cells)
    changed = [cell for cell in cells if cell.model == "org/5e5" and cell.lr_schedule != "polynomial"]
    assert {(cell.learning_rate, cell.epochs, cell.optimizer_steps) for cell in changed} == {(1e-4, 3, None)}
    # Where the rule sets the epochs, both durations become the same combination, which is counted once.
    assert len(cells) == 2 * 3 * 2 + (2 * 2 * 2 + 2 * 2 * 2)
    assert len(set(cells)) == len(cells)
    assert_complete(cells)


def test_a_space_may_have_ten_thousand_cells(tmp_path: Path) -> None:
    path = write_space(tmp_path, SMALL)
    seeds, rates = list(range(50)), [(i + 1) * 1e-5 for i in range(25)]
    space = read(path, set=[f"seed={seeds}", f"learning_rate={rates}"])
    assert sum(1 for _ in space.cells()) == 10_000


@pytest.mark.parametrize(
    ("number", "whole", "real"),
    [(1, True, True), (4, True, True), (5, False, False), (0, False, False), (2.5, False, True), (True, False, False)],
)
def test_a_range_includes_its_ends_and_a_range_of_whole_numbers_no_others(
    number: float, whole: bool, real: bool
) -> None:
    assert (number in Range(low=1, high=4)) == whole
    assert (number in Range(low=1.0, high=4.0)) == real


def test_the_part_of_a_range_is_its_number_and_that_of_a_list_all_that_the_value_decides() -> None:
    values = Settings(model="tiny-bert", epochs=2, lr_schedule="linear", warmup_fraction=0.1).model_dump(mode="json")
    schedule = {"lr_schedule": "linear", "warmup_fraction": 0.1}
    constant = {"lr_schedule": "constant", "warmup_fraction": 0.0}
    assert Axis(name="lr_schedule", values=(constant, schedule)).part(values) == schedule
    assert Axis(name="lr_schedule", values=(constant,)).part(values) is None
    ends = ({"epochs": 1}, {"epochs": 3})
    assert Axis(name="epochs", values=ends, range=Range(low=1, high=3)).part(values) == {"epochs": 2}
    assert Axis(name="epochs", values=ends, range=Range(low=3, high=5)).part(values) is None
