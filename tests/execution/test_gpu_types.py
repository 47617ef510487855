"""The types of a cluster's GPUs, as Ray reports them."""

from pathlib import Path
from typing import Any

import pytest
from places import ROOT
from ray_cluster import open_cluster
from study_process import Study

from study.execution.gpu_types import gpu_types

PAPER = str(ROOT / "search_spaces" / "paper.yaml")


def node(alive: bool = True, **resources: float) -> dict[str, Any]:
    return {"Alive": alive, "Resources": {key.replace("_of_", ":"): value for key, value in resources.items()}}


@pytest.mark.parametrize(
    ("nodes", "types"),
    [
        ([], []),
        ([node(CPU=8)], []),
        ([node(CPU=8), node(CPU=8, GPU=8, accelerator_type_of_H100=1)], ["H100"]),
        ([node(GPU=1, accelerator_type_of_L4=1), node(GPU=8, accelerator_type_of_H100=1)], ["L4", "H100"]),
        ([node(GPU=8, accelerator_type_of_H100=1)] * 2, ["H100"]),
        ([node(GPU=1, accelerator_type_of_L4=1), node(alive=False, GPU=1, accelerator_type_of_H100=1)], ["L4"]),
        ([node(GPU=0, accelerator_type_of_L4=1)], []),
        ([node(GPU=1)], [None]),
    ],
)
def test_types_are_those_of_living_nodes_with_gpus_each_once(nodes: list[dict[str, Any]], types: list[str]) -> None:
    assert gpu_types(nodes) == types


def test_a_dry_run_counts_hours_on_the_gpus_of_the_cluster(tmp_path: Path, free_port: int) -> None:
    study = Study(tmp_path / "next")
    study.space["run"] = {"gpu": 1}
    with open_cluster(tmp_path, free_port) as nodes:
        nodes.start_node("--num-cpus=1", "--num-gpus=2", '--resources={"accelerator_type:H200": 1}')
        output = study.run("--dry-run", "--address", nodes.address)
    assert "on one H200" in output
    assert study.results().plan() is None
    output = study.run("--dry-run", "--address", nodes.address, exits=2)
    assert output.startswith(f"no Ray could be reached at {nodes.address}: ")
    assert "on one L4" in study.run("--dry-run", "--address", nodes.address, "--device", "l4")
