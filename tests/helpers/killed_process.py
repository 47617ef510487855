"""Trains a trajectory in a process of its own, which kills itself at a chosen place as a power cut would."""

import multiprocessing
import os
import signal
import sys
from pathlib import Path
from typing import Any, Literal, NamedTuple

from torch.optim.optimizer import register_optimizer_step_post_hook

from study.records import TrajectoryFolder
from study.training.trajectory import train_trajectory

# The server imports torch once; what it forks begins as a new process does, without a thread or a random number drawn.
_SERVER = multiprocessing.get_context("forkserver")
_SERVER.set_forkserver_preload(["study.training.trajectory"])


class Place(NamedTuple):
    """After the ``number``-th optimizer step of the process, or before the ``number``-th thing it does to a file."""

    what: Literal["step", "file"]
    number: int


def run(folder: Path, *, kill_at: Place | None = None) -> int:
    """Train on one thread until the end or the place; returns the process's exit code, -9 where it was killed."""
    process = _SERVER.Process(target=_train, args=(folder, kill_at))
    process.start()
    process.join()
    code = process.exitcode
    assert code is not None
    return code


def _train(folder: Path, kill_at: Place | None) -> None:
    passed = {"step": 0, "file": 0}

    def count(what: Literal["step", "file"]) -> None:
        passed[what] += 1
        if kill_at == (what, passed[what]):
            os.kill(os.getpid(), signal.SIGKILL)

    def look(event: str, arguments: tuple[Any, ...]) -> None:
        if event in ("open", "os.rename", "os.remove", "os.mkdir", "os.rmdir") and str(folder) in str(arguments[0]):
            count("file")

    sys.addaudithook(look)
    register_optimizer_step_post_hook(lambda *_: count("step"))
    train_trajectory(TrajectoryFolder(folder), cpu_threads=1, report=lambda _: None)
