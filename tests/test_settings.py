"""Settings: what they accept, what ids are made of, and that a new setting leaves old ids as they are."""

import json
import subprocess
import sys
from collections.abc import Mapping
from typing import Any, ClassVar

import pytest
from places import ROOT
from pydantic import ValidationError

from study.settings import (
    Data,
    EarlyStopping,
    Fractions,
    Reference,
    Run,
    Scheduler,
    Search,
    Section,
    Settings,
    setting_type,
)

SPACES = sorted((ROOT / "search_spaces").glob("*.yaml"))
# Puts a class with one more field in the place of one of the settings', and prints the ids of spaces, as
# {space: [[cell id, trajectory id, early stopping], ...]}. A search is planned with its axes' first and last values.
IDS = """
import json, sys
from pathlib import Path
from typing import Annotated
import study.settings as s
from pydantic import BeforeValidator

section, options, spaces = sys.argv[1], json.loads(sys.argv[2]), sys.argv[3:]
if section == "Settings":
    class Settings(s.Settings):
        newer: int = 0
    s.Settings = Settings
elif section == "Data":
    class Data(s.Data):
        newer: int = 0
    s.Data = Data
elif section == "Fractions":
    class Fractions(s.Fractions):
        newer: int = 0
    class Data(s.Data):
        fractions: Fractions = Fractions()
    s.Fractions, s.Data = Fractions, Data
elif section == "EarlyStopping":
    class EarlyStopping(s.EarlyStopping):
        newer: int = 0
    class Settings(s.Settings):
        early_stopping: Annotated[EarlyStopping | None, BeforeValidator(s._none_word)] = None
    s.EarlyStopping, s.Settings = EarlyStopping, Settings

from study.plan.plan import Trial, make_plan
from study.space.reader import read

ids = {}
for path in spaces:
    space = read(path, set=options)
    trials = []
    for group in space.groups() if space.searching else ():
        for end in (0, -1):
            values = {key: value for axis in space.searched for key, value in axis.values[end].items()}
            settings = s.Settings.model_validate({**space.fixed, **group, **values})
            trials.append(Trial(number=len(trials), group="", settings=settings, cells=()))
    plan = make_plan(space, trials)
    assert {trajectory.id for trajectory in plan.trajectories} == {cell.trajectory for cell in plan.cells}
    ids[Path(path).stem] = [[cell.id, cell.trajectory, cell.settings.early_stopping is not None] for cell in plan.cells]
print(json.dumps(ids))
"""
Ids = Mapping[str, list[tuple[str, str, bool]]]


def ids_of(section: str, *options: str) -> Ids:
    """The ids of all spaces of the repository where ``section`` has one more field."""
    command = [sys.executable, "-c", IDS, section, json.dumps(options), *map(str, SPACES)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    ids: Ids = json.loads(done.stdout)
    assert all(ids.values())
    return ids


@pytest.fixture(scope="module")
def unchanged() -> Ids:
    return ids_of("nothing")


@pytest.mark.parametrize("section", ["Settings", "Data", "Fractions", "EarlyStopping"])
def test_a_new_setting_with_its_default_changes_no_id(section: str, unchanged: Ids) -> None:
    """So no study is trained again because the code has learned something new."""
    assert ids_of(section) == unchanged


@pytest.mark.parametrize(
    ("section", "option"), [("Settings", "newer=1"), ("Data", "data.newer=1"), ("Fractions", "data.fractions.newer=1")]
)
def test_another_value_of_a_new_setting_changes_every_id(section: str, option: str, unchanged: Ids) -> None:
    for name, ids in ids_of(section, option).items():
        assert len(ids) == len(unchanged[name])
        for position in (0, 1):
            assert not {row[position] for row in ids} & {row[position] for row in unchanged[name]}


def test_another_value_of_a_new_field_of_early_stopping_changes_the_ids_of_cells_that_stop_early() -> None:
    """Their trajectories stay the same: when a cell stops changes no weight."""
    option = "early_stopping=[none, {patience: 2%s}]"
    before, after = ids_of("nothing", option % ""), ids_of("EarlyStopping", option % ", newer: 1")
    for name, ids in after.items():
        assert len(ids) == len(before[name])
        for (cell, trajectory, stops_early), (cell_before, trajectory_before, _) in zip(ids, before[name], strict=True):
            assert (cell != cell_before) == stops_early
            assert trajectory == trajectory_before


class Inner(Section):
    """A section whose default was raised from 1 to 3."""

    NEUTRAL: ClassVar[Mapping[str, Any]] = {"size": 1}
    size: int = 3


class Older(Section):
    """A section whose default was raised from 1 to 2 after its first version."""

    NEUTRAL: ClassVar[Mapping[str, Any]] = {"raised": 1}
    name: str
    raised: int = 2
    pair: tuple[int, int] = (1, 2)
    inner: Inner | None = None


@pytest.mark.parametrize(
    ("values", "identity"),
    [
        ({"raised": 1}, {}),
        ({}, {"raised": 2}),
        ({"raised": 3}, {"raised": 3}),
        ({"raised": 1, "pair": (1, 2), "inner": None}, {}),
        ({"raised": 1, "pair": (2, 1)}, {"pair": [2, 1]}),
        ({"raised": 1, "inner": Inner(size=1)}, {"inner": {}}),
        ({"raised": 1, "inner": Inner(size=4)}, {"inner": {"size": 4}}),
    ],
)
def test_an_identity_is_what_differs_from_the_neutral_values(
    values: Mapping[str, Any], identity: Mapping[str, Any]
) -> None:
    """A default that has changed is not neutral: its neutral value is what the code did before the field existed."""
    assert Older(name="a", **values).identity() == {"name": "a", **identity}


def test_what_an_older_version_wrote_has_the_neutral_values_of_later_fields() -> None:
    """Within its sections too: a record without a field was trained with what the code did before the field."""
    stored = Older.stored({"name": "a", "inner": {}})
    assert stored == Older(name="a", raised=1, inner=Inner(size=1))
    assert stored.identity() == {"name": "a", "inner": {}}
    assert Older.stored({"name": "a", "inner": None}).inner is None
    assert Older.stored({"name": "a", "inner": {"size": 3}}).inner == Inner(size=3)


def test_settings_are_equal_and_hashed_by_their_values() -> None:
    given = Settings(model="tiny-bert", epochs=2, early_stopping=EarlyStopping(patience=2))
    parsed = Settings.model_validate(given.model_dump(mode="json"))
    assert given == parsed
    assert len({given, parsed, Settings(model="tiny-bert", epochs=3)}) == 2


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"epochs": 1}, ""),
        ({"optimizer_steps": 1}, ""),
        ({"epochs": 1, "lr_schedule": "polynomial", "polynomial_power": 2.0}, ""),
        ({"epochs": 1, "optimizer_steps": 1}, "epochs and optimizer_steps contradict each other: give one of the two"),
        ({}, "the length of training is missing: give epochs or optimizer_steps"),
        ({"epochs": 1, "polynomial_power": 2.0}, "polynomial_power has no effect on the constant schedule"),
    ],
)
def test_a_contradiction_between_settings_is_described(values: Mapping[str, Any], message: str) -> None:
    assert Settings(model="tiny-bert", **values).contradiction == message


@pytest.mark.parametrize(
    ("values", "endless"),
    [
        ({"epochs": 2}, True),
        ({"optimizer_steps": 10}, False),
        ({"epochs": 2, "warmup_fraction": 0.1}, False),
        ({"epochs": 2, "lr_schedule": "linear"}, False),
    ],
)
def test_a_shorter_cell_is_a_prefix_where_the_schedule_does_not_depend_on_the_length(
    values: Mapping[str, Any], endless: bool
) -> None:
    assert Settings(model="tiny-bert", **values).endless == endless


@pytest.mark.parametrize(
    ("key", "value"), [("epochs", True), ("dropout", 1.0), ("learning_rate", float("inf")), ("seed", -1)]
)
def test_a_setting_refuses_values_that_mean_nothing(key: str, value: object) -> None:
    with pytest.raises(ValidationError):
        setting_type(key).validate_python(value)
    with pytest.raises(ValidationError):
        Settings.model_validate({"model": "tiny-bert", key: value})


@pytest.mark.parametrize(
    "section",
    [Settings, EarlyStopping, Data, Fractions, Run, Search, Scheduler, Reference],
    ids=lambda kind: kind.__name__,
)
def test_every_field_is_documented(section: type[Section]) -> None:
    assert [name for name, field in section.model_fields.items() if not field.description] == []


def test_split_sizes_add_up_to_the_examples() -> None:
    data = Data(source="builtin:reviews")
    for examples in range(10, 200):
        sizes = data.split_sizes(examples)
        assert sum(sizes.values()) == examples
        assert all(
            abs(size - examples * share) <= 1 for size, share in zip(sizes.values(), (0.8, 0.1, 0.1), strict=True)
        )


def test_a_reference_matches_the_settings_it_was_published_for() -> None:
    settings = Settings(model="tiny-bert", epochs=2, early_stopping=EarlyStopping(patience=1))
    early_stopping = {"patience": 1, "min_delta": 0.0, "metric": "loss"}

    def matches(**match: object) -> bool:
        return Reference(match=match, test_loss=0.3, source="somewhere").matches(settings)

    assert matches()
    assert matches(model="tiny-bert", early_stopping=early_stopping, adam_betas=[0.9, 0.999])
    assert not matches(model="tiny-roberta")
    assert not matches(model="tiny-bert", early_stopping={**early_stopping, "patience": 2})
    assert not matches(early_stopping=None)
