"""What does a measurement run on, and how fast can that multiply matrices?"""

from __future__ import annotations

import os
import platform
from collections.abc import Callable

import torch
import transformers

from study.training.devices import Precision, device_name

# Large enough for the device's full rate, small enough for a fraction of a second.
MATRIX = {"cpu": 1_536, "cuda": 8_192}


def describe(device: torch.device) -> str:
    """Device, threads and versions, in one line."""
    cores = f"{torch.get_num_threads()} threads, {os.cpu_count()} cores, " if device.type == "cpu" else ""
    return (
        f"{device_name(device)}, {cores}Python {platform.python_version()}, torch {torch.__version__}, "
        f"transformers {transformers.__version__}"
    )


class Matmul:
    """Multiplies square matrices: :meth:`seconds` per so many products, each of :attr:`flops`."""

    def __init__(self, device: torch.device, precision: Precision, clock: Callable[[], float]) -> None:
        size = MATRIX[device.type]
        kind = torch.bfloat16 if precision == "bfloat16" else torch.float32
        self.device = device
        self.clock = clock
        self.flops = 2 * size**3
        self.left, self.right = (torch.randn(size, size, device=device).to(kind) for _ in range(2))

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
