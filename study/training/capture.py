"""Work on the device that is launched as a CUDA graph, or kernel by kernel where there are no graphs.

The host needs 20 ms to launch the thousand kernels of a base-sized model's step, and a graph of them is launched at
once (CUDA C++ Programming Guide, "CUDA Graphs"). A graph reads and writes the tensors that it was captured with, so
work hands over its results in tensors that stay where they are.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Hashable, Sequence
from contextlib import suppress
from functools import cache
from typing import Protocol

import torch

from study.training.devices import random_state, set_random_state

# Kernels are loaded, and libraries make their buffers, when they are first used; a capture may do neither.
WARM_UPS = 2

Work = Callable[[], None]
Changes = Callable[[], Sequence[torch.Tensor]]


def nothing() -> Sequence[torch.Tensor]:
    """No tensors."""
    return ()


class Launcher(Protocol):
    """Runs work that is the same whenever it has the same key: the same shapes, the same tensors.

    ``captures`` says whether what is launched together is one graph.
    """

    captures: bool

    def run(self, key: Hashable, work: Work, *, changes: Changes = nothing, warm_up: Work | None = None) -> None:
        """Do ``work``.

        Preparing it may do it several times, or in its place ``warm_up``, the part of it that was not launched before;
        so the tensors that this ``changes`` are put back after.
        """

    def prepare(self, key: Hashable, work: Work, *, changes: Changes = nothing) -> None:
        """Do what :meth:`run` would do before the first ``work`` of this key."""

    def clear(self) -> None:
        """Forget what was prepared: a tensor or a shape is another one now."""


class Eager:
    """Launches kernel by kernel."""

    captures = False

    def run(self, key: Hashable, work: Work, *, changes: Changes = nothing, warm_up: Work | None = None) -> None:
        """Do ``work``."""
        work()

    def prepare(self, key: Hashable, work: Work, *, changes: Changes = nothing) -> None:
        """Nothing is to be prepared."""

    def clear(self) -> None:
        """Nothing was prepared."""


class Graphs:
    """Captures work as a CUDA graph where its key is new, and replays it.

    A replay draws the random numbers that the work would have drawn, and leaves the generators where it would have. The
    graphs share one pool of memory, because none keeps anything there from one replay to the next. Where memory does
    not suffice, the error is that of the work.
    """

    captures = True

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.stream = _capturing_stream(device)
        self.graphs: dict[Hashable, torch.cuda.CUDAGraph] = {}

    def run(self, key: Hashable, work: Work, *, changes: Changes = nothing, warm_up: Work | None = None) -> None:
        """Replay the graph of ``work``."""
        self.prepare(key, work, changes=changes, warm_up=warm_up)
        self.graphs[key].replay()

    def prepare(self, key: Hashable, work: Work, *, changes: Changes = nothing, warm_up: Work | None = None) -> None:
        """Capture ``work`` unless it was; weights, moments, gradients and generators are afterwards what they were."""
        if key in self.graphs:
            return
        generators = random_state(self.device)
        changed = list(changes())
        kept = [tensor.detach().clone() for tensor in changed]
        try:
            self._warm_up(warm_up or work)
            self.graphs[key] = self._capture(work)
        finally:
            if kept:
                with torch.no_grad():
                    torch._foreach_copy_(changed, kept)
            set_random_state(generators, self.device)

    def clear(self) -> None:
        """Drop all graphs and their memory."""
        if self.graphs:
            self.graphs.clear()
            gc.collect()
            torch.cuda.empty_cache()

    def _warm_up(self, work: Work) -> None:
        self.stream.wait_stream(torch.cuda.current_stream(self.device))
        with torch.cuda.stream(self.stream):
            for _ in range(WARM_UPS):
                work()
        torch.cuda.current_stream(self.device).wait_stream(self.stream)
        torch.cuda.synchronize(self.device)

    def _capture(self, work: Work) -> torch.cuda.CUDAGraph:
        if not self.graphs:
            gc.collect()  # an earlier trajectory's graph that is collected during a capture would spoil it
        torch.cuda.empty_cache()  # what is cached outside the pool cannot be used in it
        graph = torch.cuda.CUDAGraph()
        pool = next((captured.pool() for captured in self.graphs.values()), None)
        with torch.cuda.stream(self.stream):
            graph.capture_begin(pool) if pool else graph.capture_begin()
            try:
                work()
            except BaseException:
                with suppress(RuntimeError):  # the capture's own, of having been left early
                    graph.capture_end()
                raise
            graph.capture_end()
        return graph


@cache
def _capturing_stream(device: torch.device) -> torch.cuda.Stream:
    """One for all graphs of a process: each stream has a buffer of cuBLAS, which is kept until the process ends."""
    stream: torch.cuda.Stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]  # of torch
    return stream


def make_launcher(device: torch.device, *, capture: bool) -> Launcher:
    """Graphs where the device has them and they are wanted."""
    return Graphs(device) if capture and device.type == "cuda" else Eager()
