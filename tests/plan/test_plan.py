"""The cells of a space, the trajectories that they share, their ids, and what training them takes."""

import dataclasses
import json
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from places import ROOT

from study.ids import stable_id
from study.plan.plan import Cell, Plan, Trajectory, make_plan
from study.settings import Settings
from study.space.reader import read
from study.space.space import Space

SPACES = sorted((ROOT / "search_spaces").glob("*.yaml"))
NEVER, ONE, TWO = "none", {"patience": 1}, {"patience": 2}

# A value other than the default for each setting; those of a pair decide one thing together.
OTHER: Mapping[str, Mapping[str, Any]] = {
    "model": {"model": "tiny-roberta"},
    "epochs": {"epochs": 3},
    "optimizer_steps": {"epochs": None, "optimizer_steps": 10},
    "batch_size": {"batch_size": 32},
    "learning_rate": {"learning_rate": 1e-4},
    "lr_scaling": {"lr_scaling": "sqrt"},
    "lr_scaling_base_batch_size": {"lr_scaling_base_batch_size": 8},
    "lr_schedule": {"lr_schedule": "cosine"},
    "warmup_fraction": {"warmup_fraction": 0.1},
    "polynomial_power": {"lr_schedule": "polynomial", "polynomial_power": 2.0},
    "early_stopping": {"early_stopping": {"patience": 1}},
    "checkpoint_metric": {"checkpoint_metric": "loss"},
    "max_gradient_norm": {"max_gradient_norm": 1.0},
    "weight_decay": {"weight_decay": 0.0},
    "adam_betas": {"adam_betas": [0.9, 0.98]},
    "adam_eps": {"adam_eps": 1e-6},
    "adam_bias_correction": {"adam_bias_correction": False},
    "dropout": {"dropout": 0.0},
    "seed": {"seed": 1},
    "precision": {"precision": "bfloat16"},
    "tf32": {"tf32": True},
    "compile": {"compile": True},
    "micro_batch_size": {"micro_batch_size": 4},
    "log_every_examples": {"log_every_examples": 100},
}
# What decides only when a cell stops, or which of its checkpoints is selected.
SHARED = {"early_stopping", "checkpoint_metric", "epochs"}


def space(
    folder: Path, axes: Mapping[str, Any] | None = None, data: Mapping[str, Any] | None = None, **fixed: Any
) -> Space:
    """A space read from a file, on 100 of the built-in reviews, of which 80 are trained on."""
    decided = {"epochs", *axes} if axes and "duration" in axes else set(axes or ())
    given = {"model": "tiny-bert", "epochs": 2, **fixed}
    document = {
        "data": {"source": "builtin:reviews", "examples": 100, **(data or {})},
        "fixed": {key: value for key, value in given.items() if value is not None and key not in decided},
        "axes": dict(axes or {}),
    }
    path = folder / "space.yaml"
    path.write_text(yaml.safe_dump(document, sort_keys=False))
    return read(path)


def plan(
    folder: Path, axes: Mapping[str, Any] | None = None, data: Mapping[str, Any] | None = None, **fixed: Any
) -> Plan:
    return make_plan(space(folder, axes, data, **fixed))


def cells_of(plan: Plan, trajectory: Trajectory) -> list[Cell]:
    by_id = {cell.id: cell for cell in plan.cells}
    return [by_id[id_] for id_ in trajectory.cells]


def test_cells_that_differ_in_early_stopping_share_a_trajectory(tmp_path: Path) -> None:
    planned = plan(tmp_path, {"early_stopping": [ONE, NEVER, TWO], "checkpoint_metric": ["loss", "accuracy"]})
    (trajectory,) = planned.trajectories
    assert set(trajectory.cells) == {cell.id for cell in planned.cells}
    assert len(planned.cells) == 6
    assert planned.shared_fraction == pytest.approx(5 / 6)


@pytest.mark.parametrize(
    ("fixed", "trajectories"),
    [
        ({"lr_schedule": "constant"}, 1),
        ({"lr_schedule": "constant", "warmup_fraction": 0.1}, 3),
        ({"lr_schedule": "linear"}, 3),
        ({"lr_schedule": "cosine"}, 3),
        ({"lr_schedule": "polynomial"}, 3),
    ],
)
def test_fewer_epochs_share_only_where_the_schedule_does_not_depend_on_them(
    tmp_path: Path, fixed: Mapping[str, Any], trajectories: int
) -> None:
    planned = plan(tmp_path, {"epochs": [2, 5, 1]}, **fixed)
    assert len(planned.trajectories) == trajectories
    assert {trajectory.epochs for trajectory in planned.trajectories} == ({5} if trajectories == 1 else {1, 2, 5})


def test_a_number_of_optimizer_steps_is_not_shared_with_another_duration(tmp_path: Path) -> None:
    axes = {
        "duration": [{"epochs": 2}, {"optimizer_steps": 10}, {"optimizer_steps": 5}],
        "early_stopping": [NEVER, ONE],
    }
    planned = plan(tmp_path, axes)
    assert [(trajectory.optimizer_steps, len(trajectory.cells)) for trajectory in planned.trajectories] == [
        (10, 2),
        (10, 2),
        (5, 2),
    ]
    assert len({trajectory.id for trajectory in planned.trajectories}) == 3


def test_the_longest_cell_owns_the_trajectory_and_comes_first(tmp_path: Path) -> None:
    planned = plan(tmp_path, {"early_stopping": [ONE, TWO, NEVER], "epochs": [1, 4, 2], "seed": [0, 1]})
    assert len(planned.trajectories) == 2
    for trajectory in planned.trajectories:
        ordered = cells_of(planned, trajectory)
        assert [(cell.epochs, cell.policy.patience) for cell in ordered] == [
            (epochs, patience) for epochs in (4, 2, 1) for patience in (None, 2, 1)
        ]
        assert planned.owners[trajectory.id] == ordered[0].id
        longest = ordered[0]
        assert (trajectory.epochs, trajectory.optimizer_steps, trajectory.examples) == (4, 20, 320)
        assert (longest.epochs, longest.optimizer_steps, longest.examples) == (4, 20, 320)
        assert trajectory.settings.epochs == 4


def test_a_trajectory_has_its_owners_settings_and_a_name_without_when_its_cells_stop(tmp_path: Path) -> None:
    planned = plan(tmp_path, {"early_stopping": [ONE, NEVER], "learning_rate": [5e-5]})
    (trajectory,) = planned.trajectories
    owner = cells_of(planned, trajectory)[0]
    assert trajectory.settings == owner.settings
    assert trajectory.settings.early_stopping is None
    assert trajectory.settings.learning_rate == 5e-5
    assert trajectory.name == "lr 5e-05"
    assert owner.name == "no early stopping · lr 5e-05"


def test_a_cells_policy_follows_from_its_settings(tmp_path: Path) -> None:
    stopping = {"patience": 2, "min_delta": 0.01, "metric": "accuracy"}
    planned = plan(tmp_path, {"early_stopping": [NEVER, stopping]}, epochs=3, checkpoint_metric="loss")
    never, early = [cell.policy for cell in planned.cells]
    assert (never.max_epochs, never.patience, never.checkpoint_metric) == (3, None, "loss")
    assert (early.max_epochs, early.patience, early.min_delta, early.metric) == (3, 2, 0.01, "accuracy")


@pytest.mark.parametrize(
    ("train", "batch_size", "duration", "epochs", "steps", "steps_per_epoch", "examples"),
    [
        (80, 16, {"epochs": 3}, 3, 15, 5, 240),
        (80, 32, {"epochs": 2}, 2, 6, 3, 160),
        (80, 80, {"epochs": 2}, 2, 2, 1, 160),
        (80, 1, {"epochs": 1}, 1, 80, 80, 80),
        (80, 16, {"optimizer_steps": 15}, 3, 15, 5, 240),
        (80, 16, {"optimizer_steps": 7}, 2, 7, 5, 112),
        (80, 16, {"optimizer_steps": 1}, 1, 1, 5, 16),
        # An epoch is two batches of 32 and one of 16: the fourth step is the first of the second epoch.
        (80, 32, {"optimizer_steps": 3}, 1, 3, 3, 80),
        (80, 32, {"optimizer_steps": 4}, 2, 4, 3, 112),
        (80, 32, {"optimizer_steps": 5}, 2, 5, 3, 144),
        (81, 16, {"epochs": 1}, 1, 6, 6, 81),
    ],
)
def test_the_epochs_steps_and_examples_of_a_cell(
    tmp_path: Path,
    train: int,
    batch_size: int,
    duration: Mapping[str, int],
    epochs: int,
    steps: int,
    steps_per_epoch: int,
    examples: int,
) -> None:
    sizes = {80: 100, 81: 101}
    planned = plan(tmp_path, {"duration": [duration]}, {"examples": sizes[train]}, batch_size=batch_size)
    (cell,), (trajectory,) = planned.cells, planned.trajectories
    assert (cell.epochs, cell.optimizer_steps, cell.examples) == (epochs, steps, examples)
    assert (trajectory.epochs, trajectory.optimizer_steps, trajectory.examples) == (epochs, steps, examples)
    assert trajectory.steps_per_epoch == steps_per_epoch


def test_ids_are_the_same_on_every_machine_and_in_every_version(tmp_path: Path) -> None:
    """Results on disk are found by these ids. Where one changes, a default or a neutral value has changed."""
    planned = plan(tmp_path, {"lr_schedule": ["constant", "linear"], "early_stopping": [NEVER, ONE]})
    assert [cell.id for cell in planned.cells] == ["8fca612a867e", "5003770d872f", "2fe611cfab50", "800f24bc0f70"]
    assert [trajectory.id for trajectory in planned.trajectories] == ["5cbc87de18f6", "2fe611cfab50"]
    stopping = {"patience": 3, "min_delta": 0.01, "metric": "accuracy"}
    every_setting = {key: value for values in OTHER.values() for key, value in values.items()}
    (cell,) = plan(
        tmp_path, None, {"split_seed": 1}, **{**every_setting, "epochs": None, "early_stopping": stopping}
    ).cells
    assert cell.settings.identity().keys() == Settings.model_fields.keys() - {"epochs"}
    assert (cell.id, cell.trajectory) == ("e3f7670e97fd", "98192ffb1686")


def test_ids_are_made_of_what_differs_from_the_defaults(tmp_path: Path) -> None:
    data = {"source": "builtin:reviews version 1", "examples": 100}
    planned = plan(tmp_path)
    assert planned.cells[0].id == stable_id({"model": "tiny-bert", "epochs": 2, "data": data})
    assert planned.trajectories[0].id == stable_id({"model": "tiny-bert", "data": data})

    data |= {"max_length": 64, "fractions": {"train": 0.6, "test": 0.3}}
    trained = {"model": "tiny-bert", "epochs": 2, "lr_schedule": "linear", "adam_betas": [0.9, 0.98], "data": data}
    stopping = {"checkpoint_metric": "loss", "early_stopping": {"patience": 2}}
    fractions = {"train": 0.6, "validation": 0.1, "test": 0.3}
    fixed = {"lr_schedule": "linear", "adam_betas": [0.9, 0.98], **stopping}
    planned = plan(tmp_path, None, {"max_length": 64, "fractions": fractions}, **fixed)
    assert planned.cells[0].id == stable_id({**trained, **stopping})
    assert planned.trajectories[0].id == stable_id(trained)


def by_content(plan: Plan) -> tuple[dict[Settings, str], dict[str, set[str]]]:
    """Each cell's id by its settings, and each trajectory's cells."""
    cells = {cell.settings: cell.id for cell in plan.cells}
    return cells, {trajectory.id: set(trajectory.cells) for trajectory in plan.trajectories}


def test_cells_that_were_trained_when_compile_was_false_keep_their_ids(tmp_path: Path) -> None:
    automatic, without, compiled = (plan(tmp_path, compile=value).cells[0] for value in ("auto", False, True))
    assert automatic.settings.compile == "auto"
    assert plan(tmp_path).cells == (automatic,)
    assert (without.id, without.trajectory) == (automatic.id, automatic.trajectory)
    assert compiled.id != automatic.id
    assert compiled.settings.identity()["compile"] is True


def test_ids_do_not_depend_on_the_order_of_keys_and_axes(tmp_path: Path) -> None:
    axes = {"early_stopping": [NEVER, {"patience": 1, "metric": "loss"}], "batch_size": [16, 32], "seed": [0, 1]}
    turned = {"seed": [1, 0], "batch_size": [32, 16], "early_stopping": [{"metric": "loss", "patience": 1}, NEVER]}
    first = plan(tmp_path, axes, learning_rate=1e-4, weight_decay=0.1)
    other = plan(tmp_path, turned, weight_decay=0.1, learning_rate=1e-4)
    assert by_content(first) == by_content(other)
    assert len(first.cells) == 8
    assert [cell.id for cell in first.cells] != [cell.id for cell in other.cells]


def test_ids_do_not_depend_on_how_a_value_is_written(tmp_path: Path) -> None:
    axes = {"learning_rate": [1e-4]}
    assert by_content(plan(tmp_path, axes, dropout=0)) == by_content(plan(tmp_path, axes, dropout=0.0))
    written = plan(tmp_path, axes, early_stopping="none", batch_size=16)
    assert by_content(plan(tmp_path, axes)) == by_content(written)
    assert by_content(plan(tmp_path, {"learning_rate": [1e-4, 2e-4]}))[1].items() >= by_content(written)[1].items()


@pytest.mark.parametrize("key", Settings.model_fields)
def test_every_setting_changes_the_cells_id_and_where_it_changes_training_the_trajectorys(
    tmp_path: Path, key: str
) -> None:
    (cell,), (trajectory,) = (planned := plan(tmp_path)).cells, planned.trajectories
    (changed,), (retrained,) = (other := plan(tmp_path, None, None, **OTHER[key])).cells, other.trajectories
    assert getattr(changed.settings, key) != getattr(cell.settings, key)
    assert changed.id != cell.id
    assert (retrained.id == trajectory.id) == (key in SHARED)


@pytest.mark.parametrize(
    "data",
    [
        {"examples": 101},
        {"max_length": 64},
        {"split_seed": 1},
        {"fractions": {"train": 0.6, "validation": 0.2, "test": 0.2}},
        {"text_column": "review"},
        {"hub_splits": ["train"]},
    ],
)
def test_other_data_changes_the_ids_of_cells_and_trajectories(tmp_path: Path, data: Mapping[str, Any]) -> None:
    first, other = plan(tmp_path), plan(tmp_path, None, data)
    assert first.cells[0].id != other.cells[0].id
    assert first.trajectories[0].id != other.trajectories[0].id


def test_ids_depend_on_a_data_files_content_and_not_on_its_path(tmp_path: Path) -> None:
    rows = [f'{{"text": "review {i}", "label": {i % 2}}}\n' for i in range(100)]
    ids = {}
    for name, content in {"here": rows, "there": rows, "changed": [*rows[:-1], rows[0]]}.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / f"{name}.jsonl").write_text("".join(content))
        planned = plan(tmp_path / name, None, {"source": f"{name}.jsonl"})
        ids[name] = (planned.cells[0].id, planned.trajectories[0].id)
    assert ids["here"] == ids["there"]
    assert ids["here"][0] != ids["changed"][0]
    assert ids["here"][1] != ids["changed"][1]


def test_no_two_cells_have_one_id_or_one_name(tmp_path: Path) -> None:
    axes = {
        "model": ["tiny-bert", "tiny-roberta"],
        "early_stopping": [NEVER, ONE, TWO],
        "epochs": [1, 2],
        "seed": [0, 1],
    }
    planned = plan(tmp_path, axes)
    assert len({cell.id for cell in planned.cells}) == len({cell.name for cell in planned.cells}) == 24
    assert len({trajectory.id for trajectory in planned.trajectories}) == len(planned.trajectories) == 4
    assert planned.axes == ("model", "early_stopping", "epochs", "seed")


def test_every_cell_is_trained_by_exactly_one_trajectory(tmp_path: Path) -> None:
    axes = {"early_stopping": [NEVER, ONE], "epochs": [1, 2], "lr_schedule": ["constant", "linear"]}
    planned = plan(tmp_path, axes)
    listed = [(id_, trajectory.id) for trajectory in planned.trajectories for id_ in trajectory.cells]
    assert sorted(listed) == sorted((cell.id, cell.trajectory) for cell in planned.cells)


def test_a_plan_is_read_back_from_its_json(tmp_path: Path) -> None:
    axes = {"duration": [{"epochs": 2}, {"optimizer_steps": 7}], "early_stopping": [NEVER, ONE]}
    planned = plan(tmp_path, axes, adam_betas=[0.9, 0.98])
    read_back = Plan.from_json(json.loads(json.dumps(planned.to_json())))
    assert read_back == planned
    assert [cell.policy for cell in read_back.cells] == [cell.policy for cell in planned.cells]
    assert {field.name for field in dataclasses.fields(Plan)} == planned.to_json().keys()


def test_a_plan_from_before_a_setting_existed_has_its_default(tmp_path: Path) -> None:
    planned = plan(tmp_path, {"seed": [0, 1]})
    values = json.loads(json.dumps(planned.to_json()))
    for item in (*values["cells"], *values["trajectories"]):
        del item["settings"]["compile"]
    assert Plan.from_json(values) == planned


@pytest.mark.parametrize("path", SPACES, ids=lambda path: str(path.stem))
def test_the_comment_of_a_space_counts_its_cells(path: Path) -> None:
    head = " ".join(line.removeprefix("#").strip() for line in path.read_text().splitlines() if line.startswith("#"))
    space = read(path)
    if space.searching:
        stated = re.search(r"([\d,]+) trials for each model: at most ([\d,]+) cells", head)
        seeds = next(len(axis.values) for axis in space.axes if axis.name == "seed")
        counted = [space.search.trials, (space.search.trials or 0) * len(space.groups()) * seeds]
    else:
        stated = re.search(r"([\d,]+) cells, ([\d,]+) trajectories", head)
        planned = make_plan(space)
        counted = [len(planned.cells), len(planned.trajectories)]
    assert stated, f"{path.name} does not say how many cells it has"
    assert counted == [int(number.replace(",", "")) for number in stated.groups()]


def counted_calls(space: Space) -> int:
    """How many calls of Python functions planning ``space`` takes."""
    calls = 0

    def count(_frame: object, event: str, _argument: object) -> None:
        nonlocal calls
        calls += event == "call"

    sys.setprofile(count)
    try:
        make_plan(space)
    finally:
        sys.setprofile(None)
    return calls


def test_ten_times_the_cells_take_ten_times_the_work(tmp_path: Path) -> None:
    axes = {"early_stopping": [NEVER, ONE], "batch_size": [8, 16], "lr_schedule": ["constant", "linear"]}
    work = {n: counted_calls(space(tmp_path, {**axes, "seed": list(range(n))})) for n in (12, 125, 1_250)}
    per_cell = {n: calls / (8 * n) for n, calls in work.items()}
    assert per_cell[1_250] < 1.1 * per_cell[12]
    assert per_cell[1_250] < 100
