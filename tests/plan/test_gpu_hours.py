"""The GPU hours of trajectories and of searches before anything is trained."""

import itertools
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from study.models.shapes import find_shape
from study.plan.gpu_hours import CostModel
from study.plan.gpu_speeds import GPUS, gpu_named
from study.plan.plan import Trajectory, Trial, make_plan
from study.space.reader import read
from study.space.space import Space

PAPER: dict[str, Any] = {
    "data": {"source": "somebody/reviews", "examples": 50_000},
    "fixed": {"model": "bert-base-uncased", "epochs": 5, "batch_size": 16},
    "run": {"gpu": 1},
}
# Of trajectories of paper.yaml by their parts, without a checkpoint (benchmarks/README.md).
H100_SECONDS = {16: 91.6, 64: 52.1, 256: 44.2, 1024: 49.0, 4096: 44.8}


def make_space(folder: Path, **changes: Any) -> Space:
    """One trajectory of paper.yaml's shape; a change is merged into its section."""
    raw = PAPER | {key: {**PAPER.get(key, {}), **value} for key, value in changes.items()}
    path = folder / "space.yaml"
    path.write_text(yaml.safe_dump(raw, sort_keys=False))
    return read(path)


def costs_of(space: Space, gpu: str = "h100") -> CostModel:
    return CostModel(space=space, shapes={model: find_shape(model) for model in space.models}, gpu=gpu_named(gpu))


def seconds_of(folder: Path, gpu: str = "h100", **changes: Any) -> float:
    """Seconds of the one trajectory of a space."""
    space = make_space(folder, **changes)
    (trajectory,) = make_plan(space).trajectories
    return costs_of(space, gpu).seconds(trajectory)


def test_trajectories_of_paper_yaml_take_what_they_took_on_an_h100(tmp_path: Path) -> None:
    found = {size: seconds_of(tmp_path, fixed={"batch_size": size}) for size in H100_SECONDS}
    assert found == pytest.approx(H100_SECONDS, rel=0.1)
    assert sum(found.values()) == pytest.approx(sum(H100_SECONDS.values()), rel=0.03)


@pytest.mark.parametrize(
    ("less", "more"),
    [
        ({"epochs": 2}, {"epochs": 3}),
        ({"optimizer_steps": 100, "epochs": None}, {"optimizer_steps": 101, "epochs": None}),
        ({"batch_size": 64}, {"batch_size": 16}),
        ({"model": "bert-base-uncased"}, {"model": "roberta-base"}),
        ({"model": "distilbert-base-uncased"}, {"model": "microsoft/deberta-v3-base"}),
        ({"model": "bert-base-uncased"}, {"model": "bert-large-uncased"}),
        ({"compile": True}, {"compile": False}),
        ({"micro_batch_size": 16}, {"micro_batch_size": 4}),
    ],
    ids=str,
)
@pytest.mark.parametrize("gpu", [gpu.name for gpu in GPUS])
def test_what_computes_more_takes_longer(tmp_path: Path, gpu: str, less: Any, more: Any) -> None:
    assert seconds_of(tmp_path, gpu, fixed=less) < seconds_of(tmp_path, gpu, fixed=more)


def test_longer_texts_and_more_of_them_take_longer(tmp_path: Path) -> None:
    usual = seconds_of(tmp_path)
    assert seconds_of(tmp_path, data={"max_length": 64}) < usual < seconds_of(tmp_path, data={"max_length": 256})
    assert seconds_of(tmp_path, data={"examples": 10_000}) < usual


@pytest.mark.parametrize("model", ["roberta-base", "microsoft/deberta-v3-base", "tiny-bert"])
@pytest.mark.parametrize("gpu", [gpu.name for gpu in GPUS])
def test_a_larger_batch_never_costs_more_per_example(tmp_path: Path, gpu: str, model: str) -> None:
    costs = []
    for size in (1, 2, 16, 48, 256, 511, 512, 513, 600, 1024, 4096):
        space = make_space(tmp_path, fixed={"model": model, "batch_size": size, "optimizer_steps": 50, "epochs": None})
        (trajectory,) = make_plan(space).trajectories
        costs.append(costs_of(space, gpu).training_seconds(trajectory) / trajectory.examples)
    assert all(one >= other * (1 - 1e-9) for one, other in itertools.pairwise(costs))


def test_a_family_that_is_not_captured_waits_for_the_host(tmp_path: Path) -> None:
    """26 ms for each 12 layers of a step of 16 on any GPU; at 256 the GPU decides, without compiled layers."""
    fixed = {"model": "google/electra-base-discriminator", "batch_size": 16}
    assert seconds_of(tmp_path, fixed=fixed) > 12_500 * 26e-3
    assert seconds_of(tmp_path, fixed=fixed) == pytest.approx(seconds_of(tmp_path, "a100", fixed=fixed), rel=0.05)
    large = seconds_of(tmp_path, fixed=fixed | {"batch_size": 256})
    assert large == pytest.approx(1.26 * seconds_of(tmp_path, fixed={"batch_size": 256}), rel=0.1)


def test_hours_count_the_gpus_that_a_trajectory_holds_and_not_those_that_it_shares(tmp_path: Path) -> None:
    hours = {}
    for gpus in (0.5, 1, 2, "auto"):
        space = make_space(tmp_path, run={"gpu": gpus})
        hours[gpus] = costs_of(space).hours(make_plan(space).trajectories)
    assert hours[0.5] == hours[1] == hours["auto"] == hours[2] / 2
    assert hours[1] * 3600 == pytest.approx(seconds_of(tmp_path))


SEARCH: dict[str, Any] = {
    "data": {"source": "somebody/reviews", "examples": 50_000},
    "axes": {
        "model": ["bert-base-uncased", "roberta-base"],
        "epochs": {"low": 2, "high": 5},
        "learning_rate": {"low": 1e-5, "high": 1e-4, "log": True},
        "batch_size": [256, 16, 64],
        "seed": [0, 1, 2],
    },
    "search": {"method": "random", "trials": 4, "per": "model"},
    "run": {"gpu": "auto"},
}


def searched(folder: Path, **changes: Any) -> Space:
    path = folder / "search.yaml"
    path.write_text(yaml.safe_dump({**SEARCH, **changes}, sort_keys=False))
    return read(path)


def chosen(space: Space, **values: Any) -> tuple[Trajectory, ...]:
    """The trajectories of one trial."""
    first = next(space.cells())
    return make_plan(
        space, [Trial(number=0, group="", settings=first.model_copy(update=values), cells=())]
    ).trajectories


def test_a_search_costs_at_most_its_dearest_trials(tmp_path: Path) -> None:
    space = searched(tmp_path)
    costs = costs_of(space)
    for model in space.models:
        dearest = costs.hours(chosen(space, model=model, epochs=5, batch_size=16))
        assert costs.most_hours({"model": model}, trials=4) == pytest.approx(4 * dearest)
        assert costs.hours(chosen(space, model=model, epochs=4, batch_size=64)) < dearest


def test_a_budget_in_examples_costs_at_most_that_of_the_dearest_examples(tmp_path: Path) -> None:
    """Those of few epochs, which share a start among fewer examples."""
    space = searched(tmp_path)
    costs = costs_of(space)
    trial = chosen(space, model="bert-base-uncased", epochs=2, batch_size=16)
    examples = sum(trajectory.examples for trajectory in trial)
    assert costs.most_hours({"model": "bert-base-uncased"}, examples=examples) == pytest.approx(costs.hours(trial))


def test_a_rule_that_makes_trials_dearer_is_counted(tmp_path: Path) -> None:
    space = searched(tmp_path)
    rule = {"match": {"learning_rate": 1e-5}, "set": {"batch_size": 4}}
    ruled = searched(tmp_path, when=[rule])
    group = {"model": "roberta-base"}
    assert costs_of(ruled).most_hours(group, trials=1) > 2 * costs_of(space).most_hours(group, trials=1)


def test_an_excluded_group_costs_nothing(tmp_path: Path) -> None:
    space = searched(tmp_path, when=[{"match": {"model": "roberta-base"}, "drop": True}])
    costs = replace(
        costs_of(space), shapes={model: find_shape(model) for model in ("bert-base-uncased", "roberta-base")}
    )
    assert costs.most_hours({"model": "roberta-base"}, trials=4) == 0
