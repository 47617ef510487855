import ctypes
import multiprocessing
import platform
import resource
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pytest
import torch

from study.devices import give_back_memory, keep_freed_memory

ROUNDS, MEGABYTES = 40, 64
PR_SET_THP_DISABLE = 41  # <linux/prctl.h>


def faults_of_rounds(keep: bool) -> int:
    """Small pages asked of the system while a block is taken, filled and freed."""
    ctypes.CDLL(None).prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0)  # large ones come and go as memory is scarce or not
    torch.set_num_threads(1)
    if keep:
        keep_freed_memory()

    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(ROUNDS):
        torch.ones(MEGABYTES * 2**18)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


def resident_megabytes() -> float:
    """What the process holds now."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 2**20


def megabytes_after_giving_back() -> float:
    keep_freed_memory()
    before = resident_megabytes()
    torch.ones(MEGABYTES * 2**20)
    give_back_memory()
    return resident_megabytes() - before


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library keeps what it likes")
def test_memory_is_kept_for_the_next_step_and_given_back_after_the_last() -> None:
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn"), max_tasks_per_child=1) as process:
        without = process.submit(faults_of_rounds, False).result()
        kept = process.submit(faults_of_rounds, True).result()
        left = process.submit(megabytes_after_giving_back).result()
    assert without > ROUNDS * MEGABYTES * 2**20 / resource.getpagesize() / 2
    assert kept < without / 3
    assert left < MEGABYTES
