"""Nodes that cannot train, end or hang: trajectories move, nothing counts as a failure, and no record changes."""

import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from ray_cluster import Cluster, family, kill_processes, open_cluster, training_workers, wait_until
from study_process import Study, assert_mirrored_once, assert_same_records

import study
from study.records import Attempt

pytestmark = [pytest.mark.faults]

# Gives a node a mount namespace of its own.
OWN_MOUNTS = ["unshare", "-m"]
HIDES = ["unshare", "-m", "sh", "-c", 'mount -t tmpfs tmpfs "$0" && exec "$@"']


def make_study(folder: Path) -> Study:
    """Six trajectories of some seconds, none of which may fail."""
    study = Study(folder)
    study.space["axes"] = {"model": ["tiny-bert", "tiny-roberta"], "seed": [0, 1, 2]}
    study.space["fixed"]["epochs"] = 14
    study.space["run"] = {"gpu": 0, "max_failures": 0, "checkpoint_every_minutes": 5}
    (study.folder / "studies").mkdir(parents=True)
    return study


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Study:
    """The study that the others are compared with."""
    study = make_study(tmp_path_factory.mktemp("nodes") / "undisturbed")
    study.run()
    return study


@pytest.fixture
def cluster(tmp_path: Path, free_port: int) -> Iterator[Cluster]:
    """A cluster whose head has room for one trajectory."""
    with open_cluster(tmp_path, free_port) as nodes:
        nodes.start_node("--num-cpus=1")
        yield nodes


class Output:
    """What a study prints, line by line."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.lines: list[tuple[float, str]] = []
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append((time.monotonic(), line))

    @property
    def text(self) -> str:
        return "".join(line for _, line in self.lines)

    def wait_for(self, pattern: str, *, seconds: float = 120.0) -> float:
        """When the first line that ``pattern`` matches came."""
        wait_until(lambda: re.search(pattern, self.text) or self.process.poll() is not None, seconds=seconds)
        times = [at for at, line in self.lines if re.search(pattern, line)]
        assert times, self.text
        return times[0]

    def end(self, *, exits: int = 0) -> str:
        """Wait for the end; returns all that was printed."""
        assert self.process.wait(timeout=240) == exits, self.text
        self._thread.join()
        assert self.process.stdout is not None
        self.process.stdout.close()
        assert "Traceback" not in self.text
        return self.text


def attempts(study: Study) -> list[list[Attempt]]:
    """The processes that trained each trajectory."""
    return [study.results().trajectory(trajectory.id).attempts() for trajectory in study.plan().trajectories]


def with_other_code(folder: Path) -> list[str]:
    """The wrapper of a node that has another version of the program."""
    shutil.copytree(Path(study.__file__).parent, folder / "study", ignore=shutil.ignore_patterns("__pycache__"))
    with (folder / "study" / "scoring.py").open("a") as file:
        file.write("\n# Another version.\n")
    return ["env", f"PYTHONPATH={folder}"]


@pytest.mark.namespaces
def test_nodes_that_cannot_train_are_left_out_and_cost_no_try(
    undisturbed: Study, tmp_path: Path, cluster: Cluster
) -> None:
    """One node never sees the storage, one loses it, and one that joins late has another version."""
    disturbed = make_study(tmp_path / "disturbed")
    storage = str(disturbed.folder / "studies")
    cluster.start_node("--num-cpus=1", wrapper=[*HIDES, storage])
    loses = cluster.start_node("--num-cpus=1", wrapper=OWN_MOUNTS)
    output = Output(disturbed.start("--address", cluster.address))
    output.wait_for(r"the node \S+ \(\w+\) does not see .*; mount the folder .* it is left out")
    wait_until(lambda: training_workers(loses.pid) and len(disturbed.histories()) == 2)
    cluster.start_node("--num-cpus=1", wrapper=with_other_code(tmp_path / "other"))
    subprocess.run(["nsenter", "-t", str(loses.pid), "-m", "mount", "-t", "tmpfs", "tmpfs", storage], check=True)
    output.wait_for(r"is left out, and what it had runs elsewhere: \S+ does not see")
    output.wait_for(r"is left out, and what it had runs elsewhere: .*other code of encoder-study")
    text = output.end()
    assert "failed" not in text
    assert_same_records(disturbed, undisturbed)
    assert_mirrored_once(disturbed)


def test_a_node_that_will_end_saves_its_trajectories_which_move(
    undisturbed: Study, tmp_path: Path, cluster: Cluster
) -> None:
    moved = make_study(tmp_path / "moved")
    ends = cluster.start_node("--num-cpus=1")
    output = Output(moved.start("--address", cluster.address))
    wait_until(lambda: training_workers(ends.pid) and len(moved.histories()) == 2)
    noticed = time.monotonic()
    ends.send_signal(signal.SIGTERM)
    saved = output.wait_for(r"moves to another node \(\S+ is about to end; the checkpoint is saved\)") - noticed
    text = output.end()
    assert re.search(r"the node \S+ \(\w+\) will end in \d+ s; its trajectories save a checkpoint and move", text)
    assert "failed" not in text
    assert saved < 30, "the node ends 30 s after its notice"
    resumed = [later for of_one in attempts(moved) for later in of_one[1:]]
    assert resumed
    assert all(attempt.optimizer_step > 0 for attempt in resumed)
    assert_same_records(moved, undisturbed)
    assert_mirrored_once(moved)


HOLDS = """
import sys, time
from pathlib import Path
from study.locks import hold

with hold(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(float(sys.argv[2]))
"""


def test_a_trajectory_that_hangs_or_waits_for_a_lock_is_reported_and_a_hanging_one_ended(
    undisturbed: Study, tmp_path: Path
) -> None:
    hangs = make_study(tmp_path / "hangs")
    hangs.space["run"] |= {"max_failures": 1, "stall_minutes": 0.5}
    waiting = hangs.results().trajectory(undisturbed.plan().trajectories[0].id)
    waiting.path.mkdir(parents=True)
    held = [sys.executable, "-c", HOLDS, str(waiting.path / ".lock"), "90"]
    with subprocess.Popen(held, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        process = hangs.start()
        output = Output(process)
        output.wait_for(r"seed 0  waits for its lock, held by \S+ on \S+ \(process \d+\) since")
        kill_processes(family(holder.pid))
    wait_until(lambda: any(hangs.histories().values()))
    (worker, *_) = training_workers(process.pid)
    worker.send_signal(signal.SIGSTOP)
    output.wait_for(r"failed \(it recorded nothing for \d+ s \(run.stall_minutes\)\); it resumes")
    output.end()
    assert_same_records(hangs, undisturbed)


@pytest.mark.namespaces
def test_a_node_that_fails_whatever_it_is_given_costs_no_cell(tmp_path: Path, cluster: Cluster) -> None:
    """It sees the study, but not the encoded data; nothing says that it is the reason, but that others train."""
    breaks = make_study(tmp_path / "breaks")
    breaks.space["axes"]["seed"] = list(range(6))
    breaks.space["run"]["max_failures"] = 1
    encoded = breaks.folder / "studies" / ".encoded"
    encoded.mkdir()
    cluster.start_node("--num-cpus=1", wrapper=[*HIDES, str(encoded)])
    text = Output(breaks.start("--address", cluster.address)).end()
    assert re.search(r"failed \(FileNotFoundError: .*; it resumes", text)
    assert re.search(r"is left out, and what it had runs elsewhere: 3 trajectories in a row failed there", text), text
    assert len(breaks.histories_of_ended()) == 12


def test_a_cluster_is_checked_by_the_doctor(tmp_path: Path, cluster: Cluster) -> None:
    storage = tmp_path / "studies"
    storage.mkdir()
    cluster.start_node("--num-cpus=1", "--num-gpus=1")
    doctor = [sys.executable, "-m", "study.doctor", "--storage", str(storage), "--address", cluster.address]
    done = subprocess.run(doctor, capture_output=True, text=True, timeout=240, check=False)
    lines = done.stdout.splitlines()
    assert done.returncode == 0, done.stdout + done.stderr
    assert sum("locks hold; encoder-study" in line for line in lines) == 2
    assert sum("sees a new file after" in line for line in lines) == 2
    assert sum("appended to one file in turn, and replaced one at once" in line for line in lines) == 1
    assert sum("has 1 GPU (?), fast with" in line for line in lines) == 1
    assert lines[-1] == "all nodes can train"
    assert not list(storage.iterdir())


def test_a_cluster_without_a_token_is_reported(tmp_path: Path, free_port: int) -> None:
    storage = tmp_path / "studies"
    with open_cluster(tmp_path, free_port, token=False) as nodes:
        nodes.start_node("--num-cpus=1")
        doctor = [sys.executable, "-m", "study.doctor", "--storage", str(storage), "--address", nodes.address]
        environment = {**os.environ, "RAY_AUTH_MODE": "disabled"}
        done = subprocess.run(doctor, capture_output=True, text=True, timeout=240, check=False, env=environment)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "asks for no token, so whoever reaches it can run code on its nodes" in done.stdout
