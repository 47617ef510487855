"""How many trajectories share a GPU follows from what one of a kind was seen to need."""

from pathlib import Path

import pytest
from ray_cluster import cluster
from study_process import Study
from synthetic_study import plan_of

from study.execution.gpu_sharing import first_of_each_kind, kind, side_by_side
from study.plan.cell_results import cell_results
from study.records import Outcome

GIB = 2**30


@pytest.mark.parametrize(
    ("peak_gib", "utilisation", "expected"),
    [
        (10, 0.97, 1),  # nothing left of its time
        (10, 0.9, 2),
        (10, 0.3, 4),
        (10, 0.26, 4),
        (30, 0.3, 2),  # memory for two
        (75, 0.1, 1),  # memory for one
        (1, 0.01, 8),  # more would gain nothing
        (10, 0.0, 7),  # seven times 10 GiB are in nine tenths of 80
        (10, None, None),
        (None, 0.3, None),
    ],
)
def test_as_many_as_memory_and_time_allow(peak_gib: int | None, utilisation: float | None, expected: int) -> None:
    outcome = Outcome(
        status="complete",
        peak_memory_bytes=peak_gib and peak_gib * GIB,
        device_memory_bytes=80 * GIB,
        utilisation=utilisation,
    )
    assert side_by_side(outcome) == expected


SPACE = """
data: {source: "builtin:reviews", examples: 3000}
fixed: {epochs: 1}
axes:
  model: [tiny-bert, tiny-roberta]
  batch_size: [16, 64, 1024, 2048]
  seed: [0, 1]
"""


def test_the_first_of_each_kind_is_measured(tmp_path: Path) -> None:
    _, plan = plan_of(tmp_path, SPACE)
    measured = first_of_each_kind(plan.trajectories, {})
    # 1024 and 2048 lie on the device alike, as parts of 512.
    assert [kind(one) for one in measured] == [
        (model, size) for model in ("tiny-bert", "tiny-roberta") for size in (16, 64, 512)
    ]
    known = {kind(one): 2 for one in measured[1:]}
    assert first_of_each_kind(plan.trajectories, known) == [measured[0]]


def test_a_kind_of_one_trajectory_is_not_held_up_to_be_measured(tmp_path: Path) -> None:
    _, plan = plan_of(tmp_path, SPACE.replace("[0, 1]", "[0]").replace(", 2048", ""))
    assert first_of_each_kind(plan.trajectories, {}) == []


@pytest.mark.slow
def test_a_gpu_whose_use_cannot_be_measured_is_not_shared(tmp_path: Path, free_port: int) -> None:
    """Ray counts what it is told; behind this GPU there is a CPU, of which no use is measured."""
    study = Study(tmp_path / "gpu")
    study.space["axes"] = {"model": ["tiny-bert"], "seed": [0, 1, 2]}
    with cluster(tmp_path, free_port) as nodes:
        nodes.add("--num-cpus=2", "--num-gpus=1")
        output = study.run("--address", nodes.address, "--set", "epochs=1")
    assert [result.state for result in cell_results(study.results(), study.plan())] == ["complete"] * 3
    lines = [line for line in output.splitlines() if line.endswith("  started") or "  done, " in line]
    assert ["done" if "  done, " in line else "started" for line in lines] == ["started", "done"] * 3


@pytest.mark.slow
def test_a_grid_is_cut_once_its_use_of_a_gpu_is_measured(tmp_path: Path, free_port: int) -> None:
    """The trajectory that is measured runs to its end, and others are compared with it."""
    study = Study(tmp_path / "gpu")
    del study.space["fixed"]["learning_rate"]
    study.space["axes"] = {"model": ["tiny-bert"], "learning_rate": [1e-6, 1e-2, 2e-2]}
    study.space["search"] = {"objective": "loss", "scheduler": {"name": "asha", "reduction_factor": 2}}
    with cluster(tmp_path, free_port) as nodes:
        nodes.add("--num-cpus=2", "--num-gpus=1")
        study.run("--address", nodes.address)
    results = cell_results(study.results(), study.plan())
    reasons = {result.cell.settings["learning_rate"]: result.stop_reason for result in results}
    assert reasons == {1e-6: "epochs exhausted", 1e-2: "cut", 2e-2: "cut"}
