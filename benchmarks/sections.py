"""Sections of a long benchmark: each with a limit on its time, and results that are kept as they come."""

from __future__ import annotations

import json
import signal
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
import transformers

from study.training.devices import avoid_cudnn_attention, find_device, release_memory, set_tf32

T = TypeVar("T")

# The result of a section whose time did not suffice, which says nothing of whether it is right.
OUT_OF_TIME = "out of time"


class Results:
    """Appends each result of ``group`` at once; ``ok`` None is a measurement, True or False an assertion."""

    def __init__(self, path: Path, group: str) -> None:
        self.path, self.group = path, group

    def add(self, name: str, value: Any, unit: str = "", *, ok: bool | None = None, note: str = "") -> None:
        row = {"group": self.group, "name": name, "value": value, "unit": unit, "ok": ok, "note": note}
        with self.path.open("a") as file:
            file.write(json.dumps(row, default=str) + "\n")
        print(line(row), flush=True)

    def rows(self) -> list[dict[str, Any]]:
        if not self.path.exists():
            return []
        return [json.loads(text) for text in self.path.read_text().splitlines()]


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where sections run: the device, and whether it is a rehearsal on tiny models."""

    device: torch.device
    rehearse: bool
    imdb: Path | None

    @classmethod
    def find(cls, *, rehearse: bool, imdb: Path | None) -> Place:
        """This process's device, in the state that a trajectory would have it in."""
        device = find_device()
        if device.type == "cpu" and not rehearse:
            raise SystemExit("no GPU was found: --rehearse runs on a CPU")
        transformers.utils.logging.set_verbosity_error()  # type: ignore[no-untyped-call]  # of the library
        set_tf32(False)
        avoid_cudnn_attention()
        return cls(device=device, rehearse=rehearse, imdb=imdb)

    def size(self, real: T, small: T) -> T:
        return small if self.rehearse else real

    @property
    def cuda(self) -> bool:
        return self.device.type == "cuda"

    def wait(self) -> None:
        if self.cuda:
            torch.cuda.synchronize()


class OutOfTimeError(BaseException):
    """A section took longer than it may; not an Exception, so that nothing in between takes it for its own."""


def run_section(
    results: Results, name: str, work: Callable[[Results, Place], None], place: Place, *, seconds: float
) -> bool:
    """Run ``work`` for at most so many seconds; returns whether the device can be used after it."""

    def over(*_: object) -> None:
        raise OutOfTimeError

    started = time.perf_counter()
    usable = True
    signal.signal(signal.SIGALRM, over)
    signal.setitimer(signal.ITIMER_REAL, max(seconds, 0.01))
    try:
        work(results, place)
    except OutOfTimeError:
        results.add(name, OUT_OF_TIME)
    except Exception as error:  # whatever breaks a section is its result
        told = "".join(traceback.format_exception(error)[-6:])[-2_500:]
        results.add(name, f"{type(error).__name__}: {str(error)[:300]}", ok=False, note=told)
        usable = False
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    results.add(name, round(time.perf_counter() - started, 1), "s of section")
    if usable:
        release_memory()
    return usable


def line(row: dict[str, Any]) -> str:
    """A result as a line of the table."""
    mark = "time" if row["value"] == OUT_OF_TIME else {None: "    ", True: "ok  ", False: "FAIL"}[row["ok"]]
    shown = f"{row['value']:,.4g}" if isinstance(row["value"], float) else str(row["value"])
    return f"{mark} {row['group']:<8} {row['name']:<70} {shown} {row['unit']} {row['note']}".rstrip()
