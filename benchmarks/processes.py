"""Contenders in processes of their own, several of which may train at the same time.

They are apart because the settings of one's memory allocator must not affect another.
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
    """One process for each of ``contenders``, with ``threads`` threads; all start each measurement together."""

    def __init__(self, work: Work, contenders: Sequence[Contender], *, threads: int, clock: str) -> None:
        context = multiprocessing.get_context("spawn")
        # An attribute, because it must outlive the start of the processes.
        self.barrier = context.Barrier(len(contenders))
        self.connections: list[Connection] = []
        self.processes = []
        self.micro_batch_size = 0
        for contender in contenders:
            ours, theirs = context.Pipe()
            self.connections.append(ours)
            process = context.Process(
                target=_serve, args=(theirs, work, contender, threads, clock, self.barrier), daemon=True
            )
            process.start()
            theirs.close()
            self.processes.append(process)

    def seconds(self, steps: int) -> float:
        """Seconds until the last process has done its ``steps`` optimizer steps."""
        for connection in self.connections:
            connection.send(steps)
        answers = [connection.recv() for connection in self.connections]
        self.micro_batch_size = min(micro for _, micro in answers)
        slowest: float = max(seconds for seconds, _ in answers)
        return slowest

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for connection in self.connections:
            connection.close()
        for process in self.processes:
            process.join()


def _serve(
    connection: Connection, work: Work, contender: Contender, threads: int, clock: str, barrier: Barrier
) -> None:
    """Answer each number of steps with their seconds and the micro-batch size, until the other side closes."""
    transformers.utils.logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    torch.set_num_threads(threads)
    set_tf32(False)
    if not contender.trainer:
        keep_freed_memory()
    timing = Timing(work, contender, device=find_device(), ready=barrier.wait, clock=CLOCKS[clock])
    while True:
        try:
            steps = connection.recv()
        except EOFError:
            return
        connection.send((timing.seconds(steps), timing.micro_batch_size))
