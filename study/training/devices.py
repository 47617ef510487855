"""The device: its fast precision, its micro-batch size, its memory and its random generators."""

from __future__ import annotations

import ctypes
import gc
from contextlib import AbstractContextManager, nullcontext, suppress
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from study.records import Precision
from study.settings import LARGEST_MICRO_BATCH

# glibc's malloc.h: how much may lie free at the heap's end, how many blocks may be mapped, how many heaps there may be.
M_TRIM_THRESHOLD, M_MMAP_MAX, M_ARENA_MAX = -1, -4, -8

# Larger micro-batches gain nothing on a CPU, whose caches they leave.
CPU_MICRO_BATCH = 64
# What errors of other classes than torch.OutOfMemoryError say where memory did not suffice.
OUT_OF_MEMORY = (
    "can't allocate memory",
    "bad_alloc",
    "could not create a primitive",
    "could not create a memory",
    "CUDA out of memory",
    "CUDA error: out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED",
)


def find_device() -> torch.device:
    """The accelerator if there is one, otherwise the CPU."""
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


def avoid_cudnn_attention() -> None:
    """Leave attention to torch's own kernels (CUDA only).

    cuDNN's dropout has 16 levels only, so that 0.1 becomes 1/16 or 2/16 (pytorch PR 174245), and it plans each shape
    anew in each thread.
    """
    torch.backends.cuda.enable_cudnn_sdp(False)


def start_micro_batch(wanted: Literal["auto"] | int, batch_size: int, device: torch.device) -> int:
    """The micro-batch size that is tried first."""
    if wanted != "auto":
        return min(wanted, batch_size)
    return min(batch_size, CPU_MICRO_BATCH if device.type == "cpu" else LARGEST_MICRO_BATCH)


def is_out_of_memory(error: RuntimeError) -> bool:
    """Whether torch reports that memory did not suffice.

    It has an exception class for its own allocator on an accelerator alone: not for the CPU, nor for CUDA's libraries
    and contexts. oneDNN does not distinguish it from other reasons; mistaking one of those for it costs a few tries
    with less, after which the same error is raised.
    """
    return isinstance(error, torch.OutOfMemoryError) or any(words in str(error) for words in OUT_OF_MEMORY)


def keep_freed_memory() -> None:
    """Let glibc keep the memory of freed activations for the next step, instead of returning it to the system.

    To be called before the first large allocation of the process; has no effect with another C library.
    """
    with suppress(AttributeError, OSError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(M_ARENA_MAX, 1)
        mallopt(M_MMAP_MAX, 0)
        mallopt(M_TRIM_THRESHOLD, 2**31 - 1)


def release_memory() -> None:
    """Return unused memory to the system and to other processes on the accelerator."""
    gc.collect()
    torch.cuda.empty_cache()  # has no effect in a process that has not used a GPU, and does not start to
    with suppress(AttributeError, OSError):
        ctypes.CDLL(None).malloc_trim(0)


def reset_peak_memory(device: torch.device) -> None:
    """Measure the peak of :func:`memory_bytes` from now on."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def memory_bytes(device: torch.device) -> tuple[int, int] | tuple[None, None]:
    """The most memory that this process held of the accelerator, and all that it has; None on a CPU."""
    if device.type != "cuda":
        return None, None
    free, total = torch.cuda.mem_get_info(device)
    context = total - free - torch.cuda.memory_reserved(device)
    return torch.cuda.max_memory_reserved(device) + max(context, 0), total


def random_state(device: torch.device) -> dict[str, torch.Tensor]:
    """The state of every generator that training on ``device`` draws from."""
    states = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state(device)
    return states


def set_random_state(states: dict[str, torch.Tensor], device: torch.device, *, otherwise: tuple[int, ...] = ()) -> None:
    """Set what :func:`random_state` returned; a generator of ``device`` that it lacks is seeded with ``otherwise``."""
    torch.set_rng_state(states["cpu"])
    if device.type != "cuda":
        return
    if "cuda" in states:
        torch.cuda.set_rng_state(states["cuda"], device)
    else:
        with torch.cuda.device(device):
            torch.cuda.manual_seed(int(np.random.SeedSequence(otherwise).generate_state(1, np.uint64)[0] >> 1))
