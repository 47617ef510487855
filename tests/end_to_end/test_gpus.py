"""Studies on clusters whose GPUs are imagined: those that cannot be used, join late, never join, or are handed on."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from ray_cluster import Cluster, open_cluster
from study_process import Study

# Connects to the cluster at an address, and prints what it finds as JSON.
CONNECT = """
import json, os, sys
from study.execution.cluster import connect, disconnect, resolve_auto_gpu
from study.execution.node_devices import look_at_devices, run_as_trajectory
from study.settings import Run

cluster, lines = connect(sys.argv[1] or None, verbose=False, dashboard=False), []
"""
PROCESSES = """
run = Run(gpu=0.5)
look_at_devices(run, {}, print)
print(json.dumps([run_as_trajectory(run, lambda: os.getpid()) for _ in range(2)]))
"""
VISIBLE = """
print(json.dumps([run_as_trajectory(Run(gpu=0), lambda: os.environ["CUDA_VISIBLE_DEVICES"]), lines]))
"""
LOCAL = """
print(json.dumps([resolve_auto_gpu(cluster, lines.append), lines]))
"""
# As the autoscaler of Kubernetes does, tells Ray how many nodes may join: four of two GPUs.
AUTOSCALED = """
import ray
from ray.core.generated import autoscaler_pb2
from ray.experimental.internal_kv import _internal_kv_put
from study.execution.placement import Placement

config = autoscaler_pb2.ClusterConfig()
group = config.node_group_configs.add()
group.name, group.max_count, group.resources["GPU"], group.resources["CPU"] = "gpu", 4, 2, 16
key, namespace = ray._raylet.GCS_AUTOSCALER_CLUSTER_CONFIG_KEY, ray._raylet.GCS_AUTOSCALER_STATE_NAMESPACE
before = Placement(Run(cpu=4, gpu=0.5), alone=False).most_at_once()
_internal_kv_put(key.encode(), config.SerializeToString(), namespace=namespace.encode())
after = [Placement(run, alone=False).most_at_once() for run in (Run(cpu=4, gpu=0.5), Run(cpu=4, gpu=1), Run(cpu=10))]
print(json.dumps([resolve_auto_gpu(cluster, lines.append), lines, before, after]))
"""
NEVER = """
print(json.dumps([resolve_auto_gpu(cluster, lines.append, seconds=1), *lines]))
"""


@pytest.fixture
def no_gpu(tmp_path: Path, free_port: int) -> Iterator[Cluster]:
    """A cluster of one node without a GPU, and without a CPU that a trajectory could have."""
    with open_cluster(tmp_path, free_port) as nodes:
        nodes.start_node("--num-cpus=0", "--num-gpus=0")
        yield nodes


def found(cluster: Cluster | None, script: str, **environment: str) -> list[object]:
    """What a driver of the cluster, or of a Ray that it starts, prints."""
    command = [sys.executable, "-c", CONNECT + script, cluster.address if cluster else ""]
    environment = {**os.environ, **environment}
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    values: list[object] = json.loads(done.stdout.splitlines()[-1])
    return values


def test_a_process_without_a_gpu_sees_none_and_nothing_is_waited_for_where_no_node_can_join() -> None:
    assert found(None, VISIBLE, CUDA_VISIBLE_DEVICES="0,1") == ["", []]
    assert found(None, LOCAL) == [0.0, []]


def test_a_process_that_had_a_gpu_ends_and_frees_it(tmp_path: Path, free_port: int) -> None:
    with open_cluster(tmp_path, free_port) as nodes:
        nodes.start_node("--num-cpus=1", "--num-gpus=1")
        first, second = found(nodes, PROCESSES)
    assert first != second


def test_a_gpu_that_cannot_be_used_is_reported_before_anything_is_trained(tmp_path: Path, free_port: int) -> None:
    study = Study(tmp_path / "unusable")
    study.space["fixed"]["precision"] = "float32"
    study.space["run"]["gpu"] = 1
    with open_cluster(tmp_path, free_port, cpu_stands_in=False) as nodes:
        nodes.start_node("--num-cpus=1", "--num-gpus=1")
        output = study.run("--address", nodes.address, exits=2)
    assert "a trajectory has 1 GPU, and torch" in output
    assert "fix it, or train on CPUs (--set run.gpu=0)" in output
    assert not study.histories()


def test_a_study_waits_for_gpus_that_join_late(tmp_path: Path, no_gpu: Cluster) -> None:
    study = Study(tmp_path / "late")
    study.space["axes"] = {"model": ["tiny-bert"]}
    study.space["fixed"]["epochs"] = 1
    process = study.start("--address", no_gpu.address)
    assert process.stdout is not None
    waiting = next(line for line in process.stdout if "no node has a GPU yet" in line)
    assert "--set run.gpu=0 starts on CPUs at once" in waiting
    no_gpu.start_node("--num-cpus=1", "--num-gpus=1")
    output, _ = process.communicate(timeout=240)
    assert process.returncode == 0, output
    assert "training on CPUs" not in output
    outcomes = [study.results().trajectory(trajectory.id).outcome() for trajectory in study.plan().trajectories]
    assert [outcome.gpus for outcome in outcomes if outcome is not None] == [1.0]


def test_a_study_does_not_wait_for_ever(no_gpu: Cluster) -> None:
    gpu, waiting, result = found(no_gpu, NEVER)
    assert gpu == 0.0
    assert "waiting 1 s for one to join" in str(waiting)
    assert result == "no node with a GPU has joined; training on CPUs"


def test_the_autoscaler_is_asked_for_as_many_as_it_may_start(no_gpu: Cluster) -> None:
    assert found(no_gpu, AUTOSCALED) == [1.0, [], None, [16, 8, 6]]
