"""What one node of a cluster says of itself: what it sees of the storage, and which code and hardware it has."""

from __future__ import annotations

import contextlib
import fcntl
import functools
import hashlib
import os
import re
import socket
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import study
from study.errors import NodeError
from study.execution.manifest import git_state, package_versions
from study.locks import NO_LOCKS, kernel_id, user_name
from study.storage import StudyFolder, read_bytes, write_bytes

# Where the kernel lists what is mounted (proc(5), "/proc/pid/mountinfo").
MOUNTS = Path("/proc/self/mountinfo")
# Packages that compute: two versions of one may give different numbers.
COMPUTING = ("encoder-study", "torch", "transformers", "tokenizers")


@dataclass(frozen=True, slots=True, kw_only=True)
class Mount:
    """A mounted file system: its type, as in ``nfs4`` or ``fuse.s3fs``, where it is mounted, and its options."""

    type: str
    point: str
    options: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """A file that holds ``token``, and a file that somebody holds a lock of: what all nodes should see alike."""

    file: str
    token: str
    lock: str

    def sees(self) -> bool:
        """Whether the file is there, with the token in it."""
        return self.token.encode() in (read_bytes(Path(self.file)) or b"")


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeFacts:
    """What a node says of itself.

    ``machine`` is its running kernel's id, ``write_error`` why it cannot write beside the probe's file (empty where it
    can), ``lock`` what became of asking for the lock that is held elsewhere, ``time`` its clock in seconds since 1970,
    ``code`` a hash of the program's own files.
    """

    host: str
    user: str
    machine: str
    sees: bool
    write_error: str
    lock: str
    mount: Mount | None
    free_bytes: int
    free_files: int
    time: float
    versions: dict[str, str]
    code: str
    commit: str


def look(probe: Probe) -> NodeFacts:
    """The facts of the node that this runs on."""
    folder = Path(probe.file).parent
    sees = probe.sees()
    free = _free(folder)
    git = git_state()
    return NodeFacts(
        host=socket.gethostname(),
        user=f"{user_name()} ({os.getuid()})",
        machine=kernel_id(),
        sees=sees,
        write_error=_write_error(folder) if sees else "",
        lock=_ask_for_lock(Path(probe.lock)) if sees else "",
        mount=mount_of(folder, MOUNTS.read_text() if MOUNTS.exists() else ""),
        free_bytes=free[0],
        free_files=free[1],
        time=time.time(),
        versions=package_versions(),
        code=code_hash(),
        commit="" if git is None else git["commit"] + ("+" if git["dirty"] else ""),
    )


def study_probe(folder: StudyFolder) -> Probe:
    """The manifest of a study, and the lock of its run, which this process holds."""
    manifest = folder.manifest()
    assert manifest is not None
    return Probe(file=str(folder.manifest_file), token=manifest.id, lock=str(folder.run_lock_file))


@contextlib.contextmanager
def probing(folder: Path) -> Iterator[Probe]:
    """A probe in ``folder``, whose lock this process holds; it is taken away in the end."""
    name, token = f".probe.{uuid.uuid4().hex[:8]}", uuid.uuid4().hex
    file, lock = folder / name, folder / f"{name}.lock"
    write_bytes(file, token.encode())
    try:
        with lock.open("wb") as held:
            with contextlib.suppress(OSError):  # of a file system without locks, which every node will say
                fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield Probe(file=str(file), token=token, lock=str(lock))
    finally:
        for path in (file, lock):
            path.unlink(missing_ok=True)


def mount_of(path: Path, mounts: str) -> Mount | None:
    """The mount that ``path`` lies on, by the text of /proc/self/mountinfo; None where that says nothing."""
    best: Mount | None = None
    for line in mounts.splitlines():
        left, _, right = line.partition(" - ")
        before, after = left.split(), right.split()
        if len(before) < 6 or len(after) < 2:
            continue
        point = re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), before[4])
        if path.is_relative_to(point) and (best is None or len(point) >= len(best.point)):
            options = dict.fromkeys(",".join([before[5], *after[2:]]).split(","))
            best = Mount(type=after[0], point=point, options=tuple(options))
    return best


@functools.cache
def code_hash() -> str:
    """A hash of this program's own files, which tells two versions apart without git."""
    digest = hashlib.sha256()
    root = Path(study.__file__).parent
    for path in sorted(root.rglob("*.py")):
        digest.update(str(path.relative_to(root)).encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()[:16]


def require_node(probe: Probe, versions: dict[str, str], code: str) -> None:
    """Raise NodeError unless this node sees the probe, and has the driver's code and libraries."""
    host = socket.gethostname()
    if not probe.sees():
        raise NodeError(f"{host} does not see {Path(probe.file).parent}; mount the storage there")
    if different := different_versions(versions, code, package_versions(), code_hash()):
        raise NodeError(f"{host} has {different}; install the same there")


def different_versions(versions: dict[str, str], code: str, others: dict[str, str], other_code: str) -> str:
    """What differs between the driver's and another node's code, of what may change a result; empty where nothing."""
    different = [
        f"{name} {others.get(name, 'missing')} (driver: {versions.get(name, 'missing')})"
        for name in COMPUTING
        if versions.get(name) != others.get(name)
    ]
    if not different and code != other_code:
        different.append(f"other code of encoder-study {other_code} (driver: {code})")
    return ", ".join(different)


def _free(folder: Path) -> tuple[int, int]:
    try:
        free = os.statvfs(folder)
    except OSError:
        return 0, 0
    # Some file systems count no files at all.
    return free.f_bavail * free.f_frsize, free.f_favail if free.f_files else 1_000_000


def _write_error(folder: Path) -> str:
    path = folder / f".probe.{uuid.uuid4().hex[:8]}.node"
    try:
        write_bytes(path, b"")
        path.unlink()
    except OSError as error:
        return error.strerror or str(error)
    return ""


def _ask_for_lock(path: Path) -> str:
    """``refused``, as it should be; ``granted``; or why the file system has no locks."""
    try:
        with path.open("ab") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return "refused"
    except OSError as error:
        return f"no locks ({error.strerror})" if error.errno in NO_LOCKS else error.strerror or str(error)
    return "granted"
