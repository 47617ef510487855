"""A Ray cluster on this machine, each of whose nodes is a process with children."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import psutil

from study.training.trajectory_device import CPU_STANDS_IN

RAY = Path(sys.executable).with_name("ray")
# Joins, waits for so many nodes and leaves.
WAIT = """
import sys, time, ray
ray.init(address=sys.argv[1], log_to_driver=False, logging_level="ERROR")
while sum(node["Alive"] for node in ray.nodes()) < int(sys.argv[2]):
    time.sleep(0.1)
"""


def wait_until(condition: Callable[[], object], *, seconds: float = 60.0) -> None:
    """Poll ``condition`` until it is true."""
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, f"still not true after {seconds:g} seconds"
        time.sleep(0.05)


def family(pid: int) -> list[psutil.Process]:
    """A process and all of its descendants; empty where it has ended."""
    with contextlib.suppress(psutil.NoSuchProcess):
        process = psutil.Process(pid)
        return [process, *process.children(recursive=True)]
    return []


def kill_processes(processes: Sequence[psutil.Process]) -> None:
    """Kill processes at once, as a power cut would."""
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.send_signal(signal.SIGKILL)
    psutil.wait_procs(processes, timeout=30)


def training_workers(pid: int) -> list[psutil.Process]:
    """The Ray workers under a process that run a trajectory."""
    workers = []
    for process in family(pid):
        with contextlib.suppress(psutil.Error, IndexError):
            if process.cmdline()[0].startswith("ray::ImplicitFunc"):
                workers.append(process)
    return workers


class Cluster:
    """A head node at ``address``, and the nodes that joined it."""

    def __init__(self, folder: Path, port: int, *, cpu_stands_in: bool, token: bool) -> None:
        self.cpu_stands_in = cpu_stands_in
        self.token = token
        self.folder = folder
        self.port = port
        self.address = f"127.0.0.1:{port}"
        self.nodes: list[subprocess.Popen[bytes]] = []

    def start_node(self, *options: str, wrapper: Sequence[str] = ()) -> subprocess.Popen[bytes]:
        """Start a node, the first one as the head; returns the process that has the node's processes as children."""
        place = [f"--address={self.address}"]
        if not self.nodes:
            place = ["--head", f"--port={self.port}", "--include-dashboard=false"]
        # A node with an imagined GPU is refused where the tests hide all of them.
        environment = {name: value for name, value in os.environ.items() if name != "CUDA_VISIBLE_DEVICES"}
        environment["RAY_AUTH_MODE"] = "token" if self.token else "disabled"
        if self.cpu_stands_in:
            environment[CPU_STANDS_IN] = "tests"
        command = [*wrapper, str(RAY), "start", *place, "--block", "--disable-usage-stats", *options]
        with (self.folder / f"node-{len(self.nodes)}.log").open("wb") as log:
            process = subprocess.Popen(
                [*command, "--dashboard-agent-listen-port=0", "--node-ip-address=127.0.0.1"],
                stdout=log,
                stderr=log,
                env=environment | {"RAY_USAGE_STATS_ENABLED": "0"},
                start_new_session=True,
            )
        self.nodes.append(process)
        alive = sum(node.poll() is None for node in self.nodes)
        wait = [sys.executable, "-c", WAIT, self.address, str(alive)]
        subprocess.run(wait, check=True, timeout=90, env=environment)
        return process

    def stop(self) -> None:
        """Kill every node."""
        for node in reversed(self.nodes):
            kill_processes(family(node.pid))
            node.wait()


@contextlib.contextmanager
def open_cluster(folder: Path, port: int, *, cpu_stands_in: bool = True, token: bool = True) -> Iterator[Cluster]:
    """A cluster that has no nodes yet; those that it gets are killed in the end.

    Their GPUs are imagined, and CPUs may stand in for them.
    """
    nodes = Cluster(folder, port, cpu_stands_in=cpu_stands_in, token=token)
    try:
        yield nodes
    finally:
        nodes.stop()
