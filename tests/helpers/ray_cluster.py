"""A Ray cluster on this machine: each node is a process with children, and all of them end by their pids."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import psutil

RAY = Path(sys.executable).with_name("ray")
# Joins, waits for so many nodes and leaves.
WAIT = """
import sys, time, ray
ray.init(address=sys.argv[1], log_to_driver=False, logging_level="ERROR")
while sum(node["Alive"] for node in ray.nodes()) < int(sys.argv[2]):
    time.sleep(0.1)
"""


def wait_until(condition: Callable[[], object], *, seconds: float = 60.0) -> None:
    """Wait for ``condition`` to be true, asked again and again."""
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "it did not come about"
        time.sleep(0.05)


def family(pid: int) -> list[psutil.Process]:
    """A process and all that came from it."""
    with contextlib.suppress(psutil.NoSuchProcess):
        process = psutil.Process(pid)
        return [process, *process.children(recursive=True)]
    return []


def kill(processes: Sequence[psutil.Process]) -> None:
    """End processes as a power cut does."""
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.send_signal(signal.SIGKILL)
    psutil.wait_procs(processes, timeout=30)


def training(pid: int) -> list[psutil.Process]:
    """Those of the Ray workers under a process that run a trajectory."""
    found = []
    for process in family(pid):
        with contextlib.suppress(psutil.Error, IndexError):
            if process.cmdline()[0].startswith("ray::ImplicitFunc"):
                found.append(process)
    return found


class Cluster:
    """A head at ``address``, and whoever joined it."""

    def __init__(self, folder: Path, port: int) -> None:
        self.folder = folder
        self.port = port
        self.address = f"127.0.0.1:{port}"
        self.nodes: list[subprocess.Popen[bytes]] = []

    def add(self, *options: str, wrapper: Sequence[str] = ()) -> subprocess.Popen[bytes]:
        """Start a node, the first as the head; returns its process, whose children the others are."""
        place = [f"--address={self.address}"]
        if not self.nodes:
            place = ["--head", f"--port={self.port}", "--include-dashboard=false"]
        command = [*wrapper, str(RAY), "start", *place, "--block", "--disable-usage-stats", *options]
        with (self.folder / f"node-{len(self.nodes)}.log").open("wb") as log:
            process = subprocess.Popen(
                [*command, "--dashboard-agent-listen-port=0", "--node-ip-address=127.0.0.1"],
                stdout=log,
                stderr=log,
                env={**os.environ, "RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": "token"},
                start_new_session=True,
            )
        self.nodes.append(process)
        environment = {**os.environ, "RAY_AUTH_MODE": "token"}
        wait = [sys.executable, "-c", WAIT, self.address, str(len(self.nodes))]
        subprocess.run(wait, check=True, timeout=90, env=environment)
        return process

    def end(self) -> None:
        """End every node."""
        for node in reversed(self.nodes):
            kill(family(node.pid))
            node.wait()


@contextlib.contextmanager
def cluster(folder: Path, port: int) -> Iterator[Cluster]:
    """A cluster without nodes, whose nodes are ended in the end."""
    made = Cluster(folder, port)
    try:
        yield made
    finally:
        made.end()
