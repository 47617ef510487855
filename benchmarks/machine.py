"""The machine of a measurement, and the rate at which it multiplies matrices."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable

import torch
import transformers

from study.records import Precision
from study.training.devices import device_name

# Sizes of a square matrix: large enough for the device's full rate, small enough for a fraction of a second.
MATRIX_SIZES = {"cpu": 1_536, "cuda": 8_192}


def describe(device: torch.device) -> str:
    """Device, threads and versions, in one line."""
    cores = f"{torch.get_num_threads()} threads, {os.cpu_count()} cores, " if device.type == "cpu" else ""
    return (
        f"{device_name(device)}, {cores}Python {platform.python_version()}, torch {torch.__version__}, "
        f"transformers {transformers.__version__}"
    )


class Matmul:
    """Multiplies square matrices; each product has :attr:`flops` floating-point operations."""

    def __init__(self, device: torch.device, precision: Precision, clock: Callable[[], float]) -> None:
        size = MATRIX_SIZES[device.type]
        dtype = torch.bfloat16 if precision == "bfloat16" else torch.float32
        self.device = device
        self.clock = clock
        self.flops = 2 * size**3
        self.left, self.right = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))

    def seconds(self, steps: int) -> float:
        """Seconds of ``steps`` products."""
        self._wait()
        started = self.clock()
        for _ in range(steps):
            torch.mm(self.left, self.right)
        self._wait()
        return self.clock() - started

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()
