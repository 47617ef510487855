"""A trajectory trained in its own process, which kills itself at a given place, as a power cut would."""

import multiprocessing
import os
import signal
import sys
from pathlib import Path
from typing import Any, Literal, NamedTuple

from torch.optim.optimizer import register_optimizer_step_post_hook

from study.storage import TrajectoryFolder
from study.training.trajectory import train_trajectory

# The server imports torch once; a process that it forks starts like a new one, without threads or used random numbers.
_SERVER = multiprocessing.get_context("forkserver")
_SERVER.set_forkserver_preload(["study.training.trajectory"])


class Place(NamedTuple):
    """After the ``number``-th optimizer step of the process, or before its ``number``-th access to a file."""

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
    counts = {"step": 0, "file": 0}

    def count(what: Literal["step", "file"]) -> None:
        counts[what] += 1
        if kill_at == (what, counts[what]):
            os.kill(os.getpid(), signal.SIGKILL)

    def count_file_access(event: str, arguments: tuple[Any, ...]) -> None:
        if event in ("open", "os.rename", "os.remove", "os.mkdir", "os.rmdir") and str(folder) in str(arguments[0]):
            count("file")

    sys.addaudithook(count_file_access)
    register_optimizer_step_post_hook(lambda *_: count("step"))
    train_trajectory(TrajectoryFolder(folder), cpu_threads=1)
