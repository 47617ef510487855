"""Locks: held by one process at a time, and never by one that does not know that it lost it."""

from __future__ import annotations

import errno
import getpass
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from other_process import other_process
from places import ROOT

from study import locks
from study.errors import StudyError
from study.locks import LockLostError, hold, parse_holder

HOLDS = """
import sys
from pathlib import Path
from study import locks
locks.BEAT_SECONDS = 0.2
held = locks.hold(Path(sys.argv[1]))
lease = held.__enter__()
"""


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A lock's file, with heartbeats of a tenth of their time."""
    monkeypatch.setattr(locks, "BEAT_SECONDS", 0.2)
    monkeypatch.setattr(locks, "STILL_SECONDS", 2.0)
    return tmp_path / ".lock"


def is_free(path: Path) -> bool:
    with hold(path, give_up=lambda: True) as lease:
        return lease is not None


def from_another_machine(path: Path, *, beat: int = 0) -> None:
    """Let the lock's file say that a process of another machine holds it."""
    holder = {"attempt": "a", "machine": "another", "user": "ann", "host": "node-7", "pid": 12, "since": "noon"}
    path.write_text(json.dumps(holder | {"beat": beat}))


def test_a_lock_is_exclusive_between_processes_and_freed_when_its_process_is_killed(path: Path) -> None:
    assert is_free(path)
    with other_process(HOLDS, path) as process:
        assert not is_free(path)
        assert not is_free(path)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        waits: list[str] = []
        with hold(path, waiting=waits.append) as lease:
            assert lease is not None
            assert not is_free(path)
        assert waits == []
    assert is_free(path)
    assert path.read_bytes() == b""


def test_who_waits_is_told_who_holds_the_lock_and_gets_it_when_it_is_freed(path: Path) -> None:
    told: list[str] = []
    with other_process(HOLDS, path) as process:
        threading.Timer(1.5, process.kill).start()
        with hold(path, waiting=told.append) as lease:
            assert lease is not None
            assert process.poll() is not None or process.wait(timeout=5) is not None
    who = f"by {getpass.getuser()} on {socket.gethostname()} (process {process.pid}) since 20"
    assert told
    assert all(text.startswith(who) for text in told)


def test_what_an_earlier_version_left_in_the_file_keeps_nobody_waiting(path: Path) -> None:
    path.write_text(json.dumps({"user": "ann", "host": "node-7", "pid": 12, "since": "noon"}))
    assert is_free(path)


def test_a_lock_of_another_machine_is_taken_over_once_its_heartbeat_stands_still(path: Path) -> None:
    """As after the loss of a node, or where locks are kept on one machine: the file system's own is free."""
    from_another_machine(path)
    assert not is_free(path)
    started = time.monotonic()
    with hold(path) as lease:
        assert lease is not None
        assert time.monotonic() - started > 2


def test_a_lock_whose_heartbeat_goes_on_is_not_taken_over(path: Path) -> None:
    from_another_machine(path)
    beats = 0
    until = time.monotonic() + 4

    def beat(_: str) -> None:
        nonlocal beats
        beats += 1
        from_another_machine(path, beat=beats)

    with hold(path, waiting=beat, give_up=lambda: time.monotonic() > until) as lease:
        assert lease is None
    assert beats > 4


def test_a_process_that_stood_still_learns_that_it_lost_the_lock(path: Path) -> None:
    """The kernel says that it still has it: as a server that keeps the lock of a machine that is gone."""
    reports = (
        "\nprint('ready', flush=True); sys.stdin.readline()\ntry:\n lease.check()\nexcept locks.LockLostError as e:"
    )
    reports += "\n print(e, flush=True)\nelse:\n print('held', flush=True)\nheld.__exit__(None, None, None)"
    command = [sys.executable, "-c", HOLDS + reports, str(path)]
    process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        os.kill(process.pid, signal.SIGSTOP)
        with hold(path) as lease:
            assert lease is not None
            os.kill(process.pid, signal.SIGCONT)
            output, _ = process.communicate("go\n", timeout=30)
            assert re.search(rf"is now held by .* \(process {os.getpid()}\) .*; this process.* stops", output)
            lease.check()  # which the other one, when it left, has not touched
    finally:
        process.kill()
        process.wait()


def test_a_lease_whose_file_is_gone_or_another_s_is_lost(path: Path) -> None:
    with hold(path) as lease:
        assert lease is not None
        lease.check()
        time.sleep(0.5)
        lease.check()
        found = parse_holder(path.read_bytes())
        assert found is not None
        assert found.beat >= 1
        from_another_machine(path)
        with pytest.raises(LockLostError, match=r"is now held by ann on node-7 \(process 12\) since noon"):
            lease.check()
        time.sleep(0.5)  # no heartbeat of this process comes between
    assert b"node-7" in path.read_bytes()
    path.write_bytes(b"")
    with hold(path) as lease:
        assert lease is not None
        path.unlink()
        with pytest.raises(LockLostError, match="was deleted while this process held it"):
            lease.check()


def test_a_heartbeat_that_arrives_after_another_took_over_does_not_take_the_lock_back(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As of a machine whose server was out of reach when it wrote."""
    write, may_write = os.pwrite, threading.Event()

    def write_late(descriptor: int, content: bytes, offset: int) -> int:
        if offset:
            may_write.wait(10)
        return write(descriptor, content, offset)

    monkeypatch.setattr("os.pwrite", write_late)
    with hold(path) as lease:
        assert lease is not None
        time.sleep(0.5)
        with hold(path) as later:
            assert later is not None
            may_write.set()
            time.sleep(0.5)
            later.check()
            with pytest.raises(LockLostError):
                lease.check()


def test_a_lock_s_file_can_be_read_whenever_it_is_written(path: Path) -> None:
    """Its content is as long before each beat as after it."""
    with hold(path) as lease:
        assert lease is not None
        first = path.read_bytes()
        time.sleep(0.5)
        later = path.read_bytes()
        holders = parse_holder(first), parse_holder(later)
        assert holders[0] is not None
        assert holders[1] is not None
        assert holders[1].beat > holders[0].beat
        assert len(first) == len(later)


def test_a_lock_of_another_mount_on_this_machine_is_waited_for(path: Path) -> None:
    """As of a pod beside this one: its mount grants locks of its own."""
    with hold(path) as lease:
        assert lease is not None
        holder = json.loads(path.read_bytes())
    holder["machine"] = holder["machine"].rpartition(" ")[0] + " 0"
    path.write_text(json.dumps(holder))
    assert not is_free(path)


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_is_refused(path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """As Lustre without -o flock, and NFSv3 without its lock daemon."""

    def refuse(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("fcntl.flock", refuse)
    with pytest.raises(StudyError, match=r"has no locks \(.*mount it with them .*, or give another --storage"):
        is_free(path)


def test_a_user_without_a_name_holds_a_lock_by_number() -> None:
    """As in a container that runs as any user."""
    code = "import os; from study.locks import user_name\n"
    code += "for name in ('LOGNAME', 'USER', 'LNAME', 'USERNAME'): os.environ.pop(name, None)\n"
    code += "os.setuid(54321) if os.getuid() == 0 else None\nprint(user_name(), os.getuid())"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    user, number = done.stdout.split()
    assert user == (number if os.getuid() == 0 else getpass.getuser())
