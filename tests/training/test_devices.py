"""Memory that the allocator keeps between steps, and releases after the last."""

import multiprocessing
import platform
import resource
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pytest
import torch

from study.training.devices import keep_freed_memory, release_memory

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
