"""Machines that see one folder through mounts of their own, each with its caches and its locks, and their processes."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import late_file_system
from places import ROOT

# How long NFS with its default mounts may keep a name, a missing one and attributes, at the least.
CACHE_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class Machine:
    """A machine that sees ``folder``, which its processes find at the same path as this process finds the server's."""

    folder: Path
    daemon: subprocess.Popen[str]

    @property
    def wrapper(self) -> list[str]:
        """The command whose arguments are a command to be run on the machine, beside the folder."""
        return ["nsenter", "-m", "-u", "-t", str(self.daemon.pid), "env", "-C", str(self.folder.parent)]

    def start(self, code: str, *arguments: object) -> subprocess.Popen[str]:
        """Start a Python process on the machine; its process id is the one that is returned."""
        return subprocess.Popen(
            [*self.wrapper, sys.executable, "-c", code, *map(str, arguments)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | {"PYTHONPATH": f"{ROOT}:{ROOT / 'tests/helpers'}"},
        )

    def run(self, code: str, *arguments: object) -> str:
        """Run a Python process on the machine to its end; returns what it printed."""
        with running(self.start(code, *arguments)) as process:
            output, errors = process.communicate(timeout=120)
            assert process.returncode == 0, errors
        return output

    def disconnected(self) -> contextlib.AbstractContextManager[None]:
        """Let every access to the folder hang within the block, as on a hard mount whose server is out of reach."""
        return stopped(self.daemon.pid)

    def take_storage_away(self) -> None:
        """Put an empty folder over the folder, as where its mount was lost."""
        subprocess.run([*self.wrapper, "mount", "-t", "tmpfs", "tmpfs", str(self.folder)], check=True)


@contextlib.contextmanager
def open_machine(
    name: str,
    folder: Path,
    *,
    cache_seconds: float = CACHE_SECONDS,
    write_delay: float = 0.0,
    rename_delay: float = 0.0,
) -> Iterator[Machine]:
    """A machine that mounts ``folder``; delays are means, in seconds. The mount ends with the block."""
    delays = [f"--write-delay={write_delay}", f"--rename-delay={rename_delay}"]
    options = [f"--host-name={name}", f"--cache-seconds={cache_seconds}", *delays]
    daemon = subprocess.Popen(
        ["unshare", "-m", "-u", sys.executable, late_file_system.__file__, str(folder), *options],
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,  # Ctrl-C would end it before the tests that use it
    )
    try:
        assert daemon.stdout is not None
        assert daemon.stdout.readline() == "mounted\n"
        yield Machine(folder, daemon)
    finally:
        # Whatever still waits for an answer of the file system gets an error, and the mount ends with its namespace.
        daemon.kill()
        daemon.communicate()


def without_storage(folder: Path) -> list[str]:
    """The command whose arguments are a command that finds ``folder`` empty: a machine that lacks the storage."""
    return ["unshare", "-m", "sh", "-c", 'mount -t tmpfs tmpfs "$0" && exec "$@"', str(folder)]


@contextlib.contextmanager
def running(process: subprocess.Popen[str]) -> Iterator[subprocess.Popen[str]]:
    """A process that is killed with the block."""
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


@contextlib.contextmanager
def stopped(pid: int) -> Iterator[None]:
    """Let a process stand still within the block."""
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)
