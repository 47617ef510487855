"""A command as two processes: a worker, and one that waits for it and has the last word where the worker has none.

Some ends leave a process no time for a word of its own: the system kills it to free memory, a library crashes, or ends
it, as Ray's core does when its cluster's head is lost. So the process that was started stays small, passes on what it
is sent, and looks how the worker ended. Its death, by whatever signal, is the worker's too.
"""

from __future__ import annotations

import contextlib
import ctypes
import io
import os
import pickle
import signal
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from signal import Signals
from typing import Any, TypeVar

# Signals that are passed on to the worker. It has a process group of its own, so that a terminal's Ctrl-C, and a signal
# to the command or to its group, reach it once, by being passed on.
PASSED_ON = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGWINCH)
# prctl(2): the signal that a process gets when its parent dies.
PR_SET_PDEATHSIG = 1

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Death:
    """The end of a worker that did not say that it ended: its exit code, negative for the signal that killed it.

    ``asked`` where that signal had been sent to the command, and passed on.
    """

    code: int
    asked: bool

    @property
    def signal(self) -> str | None:
        """The name of the signal that killed it; None where it gave an exit code."""
        return None if self.code >= 0 else next((s.name for s in Signals if s == -self.code), f"signal {-self.code}")


def supervise(work: Callable[[Callable[[T], None]], int], last_words: Callable[[T | None, Death], int]) -> int:
    """Call ``work`` in a process of its own; returns its exit code, in that process and in this one.

    ``work`` may tell once, by the function that it is given, what it has begun. Where its process dies before ``work``
    returns or raises, this one calls ``last_words`` with that, or None, and the death; its result is the exit code.
    Call it from the main thread, before there are others.
    """
    command = os.getpid()
    told, telling = os.pipe()
    stopping = {signal.SIGTSTP} if signal.getsignal(signal.SIGTSTP) != signal.SIG_IGN else set()
    caught = {*PASSED_ON, signal.SIGCHLD, *stopping}
    # Until both processes have their handlers; what arrives meanwhile is delivered then.
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, caught)
    with _caught(caught) as arrivals:
        pid = os.fork()
        if pid:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
            os.close(telling)
            death = _wait(pid, arrivals)
    if not pid:
        os.close(told)
        _become_worker(command)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        try:
            return work(lambda begun: _tell(telling, begun))
        finally:
            _tell(telling, None)
    words = list(_heard(told))
    if words[-1:] != [None]:
        return last_words(words[0] if words else None, death)
    return death.code if death.code >= 0 else 128 - death.code


@contextlib.contextmanager
def _caught(numbers: Iterable[Signals]) -> Iterator[int]:
    """Catch signals; yields a descriptor from which the number of each can be read."""
    arrivals, arriving = os.pipe()
    os.set_blocking(arriving, False)
    waking = signal.set_wakeup_fd(arriving)
    # What was caught before is restored for the worker, and for the last words.
    handlers = {number: signal.signal(number, lambda number, frame: None) for number in numbers}
    try:
        yield arrivals
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(waking)
        os.close(arrivals)
        os.close(arriving)


def _wait(pid: int, arrivals: int) -> Death:
    """Pass on what arrives until the worker ends."""
    passed_on = set()
    while not (ended := os.waitpid(pid, os.WNOHANG))[0]:
        number = Signals(os.read(arrivals, 1)[0])
        if number == signal.SIGTSTP:
            _stop_with(pid)
        elif number in PASSED_ON:
            passed_on.add(number)
            os.kill(pid, number)
    code = os.waitstatus_to_exitcode(ended[1])
    return Death(code=code, asked=-code in passed_on)


def _stop_with(pid: int) -> None:
    """Stop the worker's group and this process, as Ctrl-Z asks, until the shell lets both continue."""
    with contextlib.suppress(OSError):  # of a worker that has ended, or has no group of its own yet
        os.killpg(pid, signal.SIGTSTP)
    handler = signal.signal(signal.SIGTSTP, signal.SIG_DFL)
    # Returns once this process is continued; at once where no shell is there that could continue it.
    signal.raise_signal(signal.SIGTSTP)
    signal.signal(signal.SIGTSTP, handler)
    with contextlib.suppress(OSError):
        os.killpg(pid, signal.SIGCONT)


def _become_worker(command: int) -> None:
    """Leave the terminal's signals to the command's process, and end with it."""
    os.setpgid(0, 0)
    # A terminal with `stty tostop` would stop a group in the background that prints.
    signal.signal(signal.SIGTTOU, signal.SIG_IGN)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != command:  # it died before
            os.kill(os.getpid(), signal.SIGKILL)


def _tell(telling: int, word: object) -> None:
    with contextlib.suppress(BrokenPipeError):  # of a command that was killed where a worker outlives that
        os.write(telling, pickle.dumps(word))


def _heard(told: int) -> Iterator[Any]:
    """What the worker has told; it has ended, though a process that it forked may keep the pipe open."""
    os.set_blocking(told, False)
    try:
        content = io.BytesIO(os.read(told, 65_536))
    except BlockingIOError:
        return
    with contextlib.suppress(EOFError):
        while True:
            yield pickle.load(content)
