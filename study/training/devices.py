"""What does the device allow: which precision is fast on it, how many examples fit, which generators does it hold?"""

from __future__ import annotations

import ctypes
import gc
from contextlib import AbstractContextManager, nullcontext, suppress
from pathlib import Path
from typing import Any, Literal

import torch

Precision = Literal["float32", "bfloat16"]

# glibc's malloc.h: how much may lie free at the heap's end, how many blocks may be mapped, how many heaps there may be.
M_TRIM_THRESHOLD, M_MMAP_MAX, M_ARENA_MAX = -1, -4, -8

# Larger micro-batches gain nothing on a CPU, whose caches they leave.
CPU_MICRO_BATCH = 64
# The largest that is tried on an accelerator before halving.
LARGEST_MICRO_BATCH = 512
CPU_OUT_OF_MEMORY = ("can't allocate memory", "bad_alloc", "could not create a primitive", "could not create a memory")


def find_device() -> torch.device:
    """The accelerator if there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def device_name(device: torch.device) -> str:
    """What the records call the device."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    models = [line.split(":", 1)[1].strip() for line in _cpu_lines() if line.startswith("model name")]
    return f"CPU ({models[0]})" if models else "CPU"


def _cpu_lines() -> list[str]:
    try:
        return Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return []


def choose_precision(wanted: Literal["auto", "float32", "bfloat16"], device: torch.device) -> Precision:
    """bfloat16 where the device multiplies it faster than float32, unless a precision was named."""
    if wanted != "auto":
        return wanted
    if device.type == "cuda":
        return "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float32"
    flags = {flag for line in _cpu_lines() if line.startswith("flags") for flag in line.split()}
    return "bfloat16" if flags & {"avx512_bf16", "amx_bf16"} else "float32"


def autocast(device: torch.device, precision: Precision) -> AbstractContextManager[Any]:
    """The context in which a forward pass runs: weights stay float32, matrix products run in ``precision``."""
    return torch.autocast(device.type, dtype=torch.bfloat16) if precision == "bfloat16" else nullcontext()


def set_tf32(allowed: bool) -> None:
    """Allow or forbid TensorFloat-32 in float32 matrix products (CUDA only)."""
    torch.backends.cuda.matmul.allow_tf32 = allowed
    torch.backends.cudnn.allow_tf32 = allowed


def start_micro_batch(wanted: Literal["auto"] | int, batch_size: int, device: torch.device) -> int:
    """The micro-batch size that is tried first."""
    if wanted != "auto":
        return min(wanted, batch_size)
    return min(batch_size, CPU_MICRO_BATCH if device.type == "cpu" else LARGEST_MICRO_BATCH)


def is_out_of_memory(error: RuntimeError) -> bool:
    """Whether torch says that memory did not suffice.

    On the CPU it has no exception of its own for that, and oneDNN does not tell it from other reasons; taking one of
    those for it costs a few tries with less, after which the same error is raised.
    """
    return isinstance(error, torch.OutOfMemoryError) or any(words in str(error) for words in CPU_OUT_OF_MEMORY)


def keep_freed_memory() -> None:
    """Let glibc keep what activations leave for those of the next step, instead of asking the system for it each time.

    To be called before the first large allocation of the process; changes nothing where the C library is another.
    """
    with suppress(AttributeError, OSError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(M_ARENA_MAX, 1)
        mallopt(M_MMAP_MAX, 0)
        mallopt(M_TRIM_THRESHOLD, 2**31 - 1)


def give_back_memory() -> None:
    """Give the system, and other processes on the accelerator, what is no longer used."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    with suppress(AttributeError, OSError):
        ctypes.CDLL(None).malloc_trim(0)


class Meter:
    """How much of an accelerator this process uses; right where no other process uses it at the same time.

    Memory is known on CUDA, utilisation where NVIDIA's management library is installed too (nvidia-ml-py).
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.busy: list[float] = []
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)

    def sample(self) -> None:
        """Look at the accelerator once, while it works."""
        if self.device.type == "cuda":
            with suppress(Exception):  # the library has errors of its own, where a part of a GPU has no such number
                self.busy.append(torch.cuda.utilization(self.device) / 100)

    @property
    def utilisation(self) -> float | None:
        """The mean share of the time in which the accelerator was busy."""
        return sum(self.busy) / len(self.busy) if self.busy else None

    def memory_bytes(self) -> tuple[int, int] | tuple[None, None]:
        """The most that this process held of the accelerator, and all that it has."""
        if self.device.type != "cuda":
            return None, None
        free, whole = torch.cuda.mem_get_info(self.device)
        context = whole - free - torch.cuda.memory_reserved(self.device)
        return torch.cuda.max_memory_reserved(self.device) + max(context, 0), whole


def random_state(device: torch.device) -> dict[str, torch.Tensor]:
    """The state of every generator that training on ``device`` draws from."""
    states = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state(device)
    return states


def set_random_state(states: dict[str, torch.Tensor], device: torch.device) -> None:
    """Set what :func:`random_state` returned."""
    torch.set_rng_state(states["cpu"])
    if device.type == "cuda":
        torch.cuda.set_rng_state(states["cuda"], device)
