import multiprocessing
import platform
import resource
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pytest
import torch

from study.training.devices import give_back_memory, keep_freed_memory

MEGABYTES = 256


def resident_megabytes() -> float:
    """What the process holds now, in pages of whatever size."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 2**20


def megabytes_held(keep: bool, give_back: bool) -> float:
    """What a block that was taken, filled and freed leaves in the process's hands."""
    torch.set_num_threads(1)
    if keep:
        keep_freed_memory()

    before = resident_megabytes()
    torch.ones(MEGABYTES * 2**18)
    if give_back:
        give_back_memory()
    return resident_megabytes() - before


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library keeps what it likes")
def test_memory_is_kept_for_the_next_step_and_given_back_after_the_last(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MALLOC_ARENA_MAX", "MALLOC_MMAP_MAX_", "MALLOC_TRIM_THRESHOLD_"):
        monkeypatch.delenv(name, raising=False)  # which study.cluster has set for the workers of this process
    ways = {"as the system does": (False, False), "kept": (True, False), "given back": (True, True)}
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn"), max_tasks_per_child=1) as process:
        held = {way: process.submit(megabytes_held, *settings).result() for way, settings in ways.items()}
    assert held["kept"] > MEGABYTES * 0.9
    assert held["given back"] < MEGABYTES / 4
    assert held["as the system does"] < MEGABYTES / 4
