"""Two hundred trajectories on five nodes that come and go by chance: every record is that of an undisturbed study."""

import random
import signal
import subprocess
import time
from pathlib import Path

import psutil
import pytest
from ray_cluster import Cluster, family, kill_processes, open_cluster, training_workers
from study_process import Study, assert_mirrored_once, assert_same_records

pytestmark = [pytest.mark.faults, pytest.mark.slow]

TRAJECTORIES, NODES = 200, 5


def make_study(folder: Path) -> Study:
    """Trajectories of about a second, none of which may fail."""
    study = Study(folder)
    study.space["data"] = {"source": "builtin:reviews", "examples": 120, "max_length": 16}
    study.space["fixed"] |= {"epochs": 3, "batch_size": 16}
    study.space["axes"] = {"model": ["tiny-bert", "tiny-roberta"], "seed": list(range(TRAJECTORIES // 2))}
    study.space["run"] = {"gpu": 0, "max_failures": 0, "checkpoint_every_minutes": 0.01}
    return study


class Chaos:
    """Lets worker nodes of a cluster end, hang and come back, at times that ``rng`` draws."""

    def __init__(self, cluster: Cluster, rng: random.Random) -> None:
        self.cluster = cluster
        self.rng = rng
        self.events: list[str] = []

    @property
    def workers(self) -> list[subprocess.Popen[bytes]]:
        """The nodes that live, but for the head."""
        return [node for node in self.cluster.nodes[1:] if node.poll() is None]

    def disturb(self) -> None:
        """Do one thing to one node."""
        workers = self.workers
        if len(workers) < 2 or (len(workers) < NODES - 1 and self.rng.random() < 0.6):
            self.cluster.start_node("--num-cpus=1")
            self.events.append("join")
            return
        node = self.rng.choice(workers)
        event = self.rng.choice(["lose", "end", "freeze"])
        if event == "lose":
            kill_processes(family(node.pid))
            node.wait()
        elif event == "end":
            node.send_signal(signal.SIGTERM)
        else:
            self._freeze(training_workers(node.pid), self.rng.uniform(1, 5))
        self.events.append(event)

    def _freeze(self, processes: list[psutil.Process], seconds: float) -> None:
        """Stop processes for a while, as a machine that swaps does."""
        for number in (signal.SIGSTOP, signal.SIGCONT):
            for process in processes:
                if process.is_running():
                    process.send_signal(number)
            if number == signal.SIGSTOP:
                time.sleep(seconds)


@pytest.mark.timeout(2400)
def test_nodes_that_come_and_go_change_no_record(tmp_path: Path, free_port: int) -> None:
    undisturbed = make_study(tmp_path / "undisturbed")
    undisturbed.run(timeout=900)
    study = make_study(tmp_path / "disturbed")
    with open_cluster(tmp_path, free_port) as cluster:
        cluster.start_node("--num-cpus=0")
        for _ in range(NODES - 1):
            cluster.start_node("--num-cpus=1")
        chaos = Chaos(cluster, random.Random(0))
        output = tmp_path / "output"
        process = study.start("--address", cluster.address, output=output)
        while process.poll() is None:
            time.sleep(chaos.rng.uniform(2, 15))
            if any(study.histories().values()):
                chaos.disturb()
    text = output.read_text()
    assert process.returncode == 0, text[-5000:]
    print(chaos.events)
    assert {"join", "lose", "end", "freeze"} <= set(chaos.events)
    assert "FAILED" not in text
    assert_same_records(study, undisturbed)
    assert_mirrored_once(study)
    folders = [study.results().trajectory(trajectory.id) for trajectory in study.plan().trajectories]
    assert len(folders) == TRAJECTORIES
    # Nothing is trained again once it has ended: a process that begins later starts where another stopped.
    trained = [attempt for folder in folders for attempt in folder.attempts()]
    assert all(attempt.epochs < 3 for attempt in trained)
    print(f"{len(trained)} processes trained {TRAJECTORIES} trajectories")
