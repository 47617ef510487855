"""How are contenders kept apart, and how do several train at the same moment?

Each has a process of its own, because what one does to its memory allocator must not help or harm another.
"""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Sequence
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Barrier
from types import TracebackType
from typing import Self

import torch
import transformers

from benchmarks.contenders import Contender, Timing, Work
from study.training.devices import find_device, keep_freed_memory, set_tf32

CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}


class Group:
    """One process for each of ``contenders``, which begin each measurement together and take ``threads`` each."""

    def __init__(self, work: Work, contenders: Sequence[Contender], *, threads: int, clock: str) -> None:
        context = multiprocessing.get_context("spawn")
        # Kept, because it must outlive the start of the processes.
        self.barrier = context.Barrier(len(contenders))
        self.lines: list[Connection] = []
        self.processes = []
        self.micro_batch_size = 0
        for contender in contenders:
            ours, theirs = context.Pipe()
            self.lines.append(ours)
            process = context.Process(
                target=_serve, args=(theirs, work, contender, threads, clock, self.barrier), daemon=True
            )
            process.start()
            theirs.close()
            self.processes.append(process)

    def seconds(self, steps: int) -> float:
        """Seconds until the last of the processes has taken its ``steps`` optimizer steps."""
        for line in self.lines:
            line.send(steps)
        answers = [line.recv() for line in self.lines]
        self.micro_batch_size = min(micro for _, micro in answers)
        slowest: float = max(taken for taken, _ in answers)
        return slowest

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for line in self.lines:
            line.close()
        for process in self.processes:
            process.join()


def _serve(line: Connection, work: Work, contender: Contender, threads: int, clock: str, barrier: Barrier) -> None:
    """Answer each number of steps with the seconds they took and the micro-batch, until the other side hangs up."""
    transformers.utils.logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    torch.set_num_threads(threads)
    set_tf32(False)
    if not contender.trainer:
        keep_freed_memory()
    timing = Timing(work, contender, device=find_device(), ready=barrier.wait, clock=CLOCKS[clock])
    while True:
        try:
            steps = line.recv()
        except EOFError:
            return
        line.send((timing.seconds(steps), timing.micro_batch_size))
