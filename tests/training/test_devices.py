"""Memory that is kept between steps, released, or lacking; and generators that another device left."""

import contextlib
import multiprocessing
import platform
import resource
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pytest
import torch

from study.training.devices import (
    is_out_of_memory,
    keep_freed_memory,
    random_state,
    release_memory,
    set_random_state,
)

MEGABYTES = 256


def resident_megabytes() -> float:
    """The process's resident memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 2**20


def megabytes_kept(keep: bool, release: bool) -> float:
    """The resident memory that remains of a block that was allocated, filled and freed."""
    torch.set_num_threads(1)
    if keep:
        keep_freed_memory()

    before = resident_megabytes()
    torch.ones(MEGABYTES * 2**18)
    if release:
        release_memory()
    return resident_megabytes() - before


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc's allocator has these settings")
def test_freed_memory_is_kept_for_the_next_step_and_released_on_request(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MALLOC_ARENA_MAX", "MALLOC_MMAP_MAX_", "MALLOC_TRIM_THRESHOLD_"):
        monkeypatch.delenv(name, raising=False)  # study.execution.cluster sets them for this process's workers
    cases = {"by default": (False, False), "kept": (True, False), "released": (True, True)}
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn"), max_tasks_per_child=1) as process:
        megabytes = {name: process.submit(megabytes_kept, *case).result() for name, case in cases.items()}
    assert megabytes["kept"] > MEGABYTES * 0.9
    assert megabytes["released"] < MEGABYTES / 4
    assert megabytes["by default"] < MEGABYTES / 4


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (torch.OutOfMemoryError("anything"), True),
        (RuntimeError("CUDA out of memory. Tried to allocate 20.00 MiB."), True),
        (RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), True),
        (RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"), True),
        (RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED"), True),
        (RuntimeError("[enforce fail at alloc_cpu.cpp:117] . DefaultCPUAllocator: can't allocate memory"), True),
        (RuntimeError("std::bad_alloc"), True),
        (RuntimeError("CUDA error: device-side assert triggered"), False),
        (RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"), False),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
    ],
)
def test_a_lack_of_memory_is_distinguished_from_other_errors(error: RuntimeError, expected: bool) -> None:
    assert is_out_of_memory(error) is expected


def test_a_generator_that_a_checkpoint_lacks_is_seeded_from_seed_and_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """A checkpoint of a CPU has no state of a GPU's generator."""
    seeds: list[int] = []
    restored: list[torch.Tensor] = []
    monkeypatch.setattr(torch.cuda, "device", lambda _: contextlib.nullcontext())
    monkeypatch.setattr(torch.cuda, "manual_seed", seeds.append)
    monkeypatch.setattr(torch.cuda, "set_rng_state", lambda state, _: restored.append(state))
    states, cuda = random_state(torch.device("cpu")), torch.device("cuda")
    for otherwise in ((0, 5), (0, 5), (0, 6), (1, 5)):
        torch.rand(3)
        set_random_state(states, cuda, otherwise=otherwise)
        assert torch.equal(torch.get_rng_state(), states["cpu"])
    assert seeds[0] == seeds[1]
    assert len(set(seeds)) == 3
    assert restored == []
    set_random_state({**states, "cuda": states["cpu"]}, cuda)
    assert len(seeds) == 4
    assert restored[0] is states["cpu"]
