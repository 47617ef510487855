"""Locks that processes of several machines share, and that nobody loses without learning of it.

A lock of the file system ends with its process. But some mounts keep it on one machine (NFS with ``nolock`` or
``local_lock``, many FUSE file systems), one server gives it away when its holder was out of reach for a while, and
another keeps it for a machine that is gone (nfs(5)). So who holds a lock also writes an attempt and a heartbeat into
its file. Who waits takes over once the heartbeat has stood still for a time that it measures itself, and who holds it
reads the file anew before it writes anything else (leases: Gray & Cheriton 1989; fencing: Burrows 2006, "The Chubby
lock service", section 2.4).
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import getpass
import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path

from study.errors import StudyError

# Seconds between heartbeats, and after how many without one a lock is taken over.
BEAT_SECONDS, STILL_SECONDS = 10.0, 60.0
# Seconds between two looks of who waits.
LOOK_SECONDS = 0.5
# Where in a lock's file the beat stands, behind who holds it: far enough for any names of user and host.
BEAT_OFFSET = 1_024
# What a file system without locks answers.
NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)


class LockLostError(StudyError):
    """Another process has taken over: this one has to stop without writing."""


@cache
def kernel_id() -> str:
    """The running kernel: what the processes of one machine have in common."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return socket.gethostname()


def _machine_id(descriptor: int) -> str:
    """What processes have in common that a lock of the file system is sure to keep apart: the kernel and its mount.

    Two pods on one machine may each have a mount of their own, with locks of its own.
    """
    return f"{kernel_id()} {os.fstat(descriptor).st_dev}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Holder:
    """Who holds a lock; ``beat`` grows while it lives, ``progress`` while it gets on with its work.

    Earlier versions wrote neither attempt nor machine.
    """

    user: str
    host: str
    pid: int
    since: str
    attempt: str = ""
    machine: str = ""
    beat: int = 0
    progress: int = 0

    def __str__(self) -> str:
        return f"by {self.user} on {self.host} (process {self.pid}) since {self.since}"


def parse_holder(content: bytes) -> Holder | None:
    """The holder that a lock's file names; None for an empty file, and for one that is being written."""
    try:
        return Holder(**json.loads(content))
    except (ValueError, TypeError):
        return None


class Lease:
    """A lock that is held, until :meth:`release`; its heartbeat is a thread's.

    The holder counts ``progress``, so that others can tell work from a process that merely lives.
    """

    def __init__(self, path: Path, descriptor: int) -> None:
        self.path = path
        self.progress = 0
        self.descriptor = descriptor
        self.holder = Holder(
            attempt=uuid.uuid4().hex,
            user=user_name(),
            host=socket.gethostname(),
            pid=os.getpid(),
            machine=_machine_id(descriptor),
            since=time.strftime("%Y-%m-%d %H:%M:%S %Z"),
        )
        self._ended = threading.Event()
        claim = {key: value for key, value in asdict(self.holder).items() if key not in ("beat", "progress")}
        content = json.dumps(claim)[:-1].ljust(BEAT_OFFSET).encode() + _beat_json(0, 0)
        os.pwrite(descriptor, content, 0)
        os.ftruncate(descriptor, len(content))
        self._thread = threading.Thread(target=self._beat, name=f"heartbeat of {path}", daemon=True)
        self._thread.start()

    def check(self) -> None:
        """Raise LockLostError, naming the one who has it, unless this process still holds the lock."""
        try:
            content = self.path.read_bytes()  # opened anew, because NFS then asks the server
        except FileNotFoundError:
            raise LockLostError(f"{self.path} was deleted while this process held it; it stops") from None
        found = parse_holder(content)
        if found is None or found.attempt != self.holder.attempt:
            who = found or "by another process"
            raise LockLostError(f"{self.path} is now held {who}; this process, which lost it, stops")

    def release(self) -> None:
        """Let others have the lock at once."""
        self._ended.set()
        self._thread.join()
        with contextlib.suppress(OSError, LockLostError):
            self.check()
            os.ftruncate(self.descriptor, 0)

    def _beat(self) -> None:
        beat = 0
        while not self._ended.wait(BEAT_SECONDS):
            beat += 1
            try:
                self.check()
                # The beat alone: one that arrives after another has taken over does not take the lock back.
                os.pwrite(self.descriptor, _beat_json(beat, self.progress), BEAT_OFFSET)
            except LockLostError:
                return
            except OSError:  # of a server out of reach; who waits takes over if that lasts
                continue


def _beat_json(beat: int, progress: int) -> bytes:
    """The end of a lock's file, always as long: cut short while it is read, the lock would seem to be lost."""
    return f', "progress": {progress:>12}, "beat": {beat:>10}}}'.encode()


@contextlib.contextmanager
def hold(
    path: Path,
    *,
    give_up: Callable[[], bool] = lambda: False,
    waiting: Callable[[str], object] = lambda holder: None,
) -> Iterator[Lease | None]:
    """Hold the lock that is the file ``path``; None where ``give_up`` came to be true before.

    ``waiting`` is called again and again with who holds it. Raises StudyError where the file system has no locks.
    """
    # Each write is on the server when it returns; without that, NFS may add to it what it remembers of its page.
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_DSYNC, 0o666)
    try:
        if not _obtain(path, descriptor, give_up, waiting):
            yield None
            return
        lease = Lease(path, descriptor)
        try:
            yield lease
        finally:
            lease.release()
    finally:
        os.close(descriptor)


def _obtain(
    path: Path,
    descriptor: int,
    give_up: Callable[[], bool],
    waiting: Callable[[str], object],
) -> bool:
    """Wait until the lock is free or its holder's heartbeat stands still; False where ``give_up`` came first."""
    seen, since = None, time.monotonic()
    while True:
        locked, content = _try_flock(path, descriptor), path.read_bytes()
        holder = parse_holder(content)
        # Within a mount the lock ends with its holder, so what the file says is of one that was killed.
        if locked and (not content or (holder is not None and holder.machine in ("", _machine_id(descriptor)))):
            return True
        if content != seen:
            seen, since = content, time.monotonic()
        elif time.monotonic() - since > STILL_SECONDS:
            return True
        if give_up():
            return False
        waiting(str(holder or "by another process"))
        time.sleep(LOOK_SECONDS)


def _try_flock(path: Path, descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
        raise StudyError(
            f"the file system of {path.parent} has no locks ({error.strerror}), so two processes could write one "
            "study; mount it with them (NFS without nolock, Lustre with -o flock), or give another --storage"
        ) from error
    return True


def user_name() -> str:
    """The user's name, or number where the machine has no name for it, as in a container."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return str(os.getuid())
