"""Which device a trajectory is given: the CPU for 0 GPUs, otherwise a GPU that works, or an error that says why."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from loop_builder import make_settings

from study.data.dataset import prepare
from study.records import TrajectoryConfig
from study.settings import Data
from study.stopping import StoppingPolicy
from study.storage import TrajectoryFolder
from study.training.devices import choose_precision, release_memory
from study.training.trajectory import train_trajectory
from study.training.trajectory_device import (
    CONTEXT_BYTES,
    CPU_STANDS_IN,
    DeviceError,
    check_sharing,
    hold_to_share,
    trajectory_device,
)

CUDA = torch.device("cuda")


@pytest.fixture(scope="module")
def encoded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """50 short reviews."""
    reviews, cache = Data(source="builtin:reviews", examples=50, max_length=16), tmp_path_factory.mktemp("cache")
    return prepare(reviews, identity={"examples": 50}, model="tiny-bert", model_identity="tiny-bert", cache=cache)


def plan(folder: Path, encoded: Path, *, gpus: float) -> TrajectoryFolder:
    """Write to ``folder`` one epoch of a trajectory that has ``gpus`` GPUs."""
    trajectory = TrajectoryFolder(folder)
    trajectory.write_config(
        TrajectoryConfig(
            name="tiny-bert",
            settings=make_settings(epochs=1, batch_size=20),
            encoded=str(encoded),
            policies=(StoppingPolicy(max_epochs=1),),
            optimizer_steps=2,
            gpus=gpus,
        )
    )
    return trajectory


@pytest.fixture
def forbidden_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """A GPU that torch finds, and that nobody may use."""

    def refuse() -> None:
        raise AssertionError("the GPU is used")

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "_lazy_init", refuse)


@pytest.mark.usefixtures("forbidden_gpu")
def test_a_trajectory_without_a_gpu_trains_on_the_cpu_although_there_is_one(tmp_path: Path, encoded: Path) -> None:
    outcome = train_trajectory(plan(tmp_path, encoded, gpus=0.0), cpu_threads=1)
    assert outcome is not None
    assert outcome.device.startswith("CPU")
    release_memory()
    assert choose_precision("auto", trajectory_device(0.0)) == outcome.precision


def test_a_gpu_that_torch_cannot_use_is_an_error_and_not_a_cpu(tmp_path: Path, encoded: Path) -> None:
    """All GPUs are hidden from this process, whatever torch was built for."""
    trajectory = plan(tmp_path, encoded, gpus=1.0)
    with pytest.raises(DeviceError, match=r"has 1 GPU, and torch .* cannot use it on \S+: \S+"):
        train_trajectory(trajectory, cpu_threads=1)
    assert trajectory.outcome() is None
    assert not trajectory.epochs()


@pytest.mark.parametrize(
    "reason",
    [
        "The NVIDIA driver on your system is too old (found version 12020). Please update your GPU driver by …",
        "CUDA error: CUDA-capable device(s) is/are busy or unavailable",
        "CUDA error: no kernel image is available for execution on the device",
    ],
)
def test_the_error_is_torchs_own(monkeypatch: pytest.MonkeyPatch, reason: str) -> None:
    def fail(*_: object, **__: object) -> torch.Tensor:
        raise RuntimeError(f"{reason}\nCUDA kernel errors might be asynchronously reported")

    monkeypatch.setattr(torch, "zeros", fail)
    with pytest.raises(DeviceError) as raised:
        trajectory_device(0.5)
    assert reason in str(raised.value)
    assert "asynchronously" not in str(raised.value)


@pytest.mark.parametrize("value", ["", "0", "1", "true"])
def test_a_cpu_stands_in_for_a_gpu_in_tests_alone(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv(CPU_STANDS_IN, value)
    with pytest.raises(DeviceError):
        trajectory_device(1.0)
    monkeypatch.setenv(CPU_STANDS_IN, "tests")
    assert trajectory_device(1.0).type == "cpu"


def fake_nvidia_smi(folder: Path, script: str) -> None:
    """A program of that name in ``folder``."""
    program = folder / "nvidia-smi"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)


@pytest.mark.parametrize("mode", ["Exclusive_Process", "Prohibited", "Default"])
def test_a_card_for_one_process_cannot_be_shared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: str) -> None:
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
    fake_nvidia_smi(tmp_path, f'test "$3" = --id=3 && echo {mode}')
    if mode == "Default":
        check_sharing(0.5)
    else:
        with pytest.raises(DeviceError, match=rf"0\.5 GPU, .* cannot be shared: its compute mode is {mode}; "):
            check_sharing(0.5)
    for gpus in (0.0, 1.0, 2.0):
        check_sharing(gpus)


@pytest.mark.parametrize("script", ["exit 9", "echo '[N/A]'", None])
def test_a_card_whose_compute_mode_is_unknown_may_be_shared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str | None
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    if script is not None:
        fake_nvidia_smi(tmp_path, script)
    check_sharing(0.5)


def test_a_process_is_held_to_its_share_until_it_trains_with_a_whole_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    total, shares = 80 * CONTEXT_BYTES, list[float]()
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: SimpleNamespace(total_memory=total))
    monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", lambda share, _: shares.append(share))
    for gpus in (0.5, 1.0, 0.01, 2.0):
        hold_to_share(CUDA, gpus)
    hold_to_share(torch.device("cpu"), 0.5)
    assert shares == [0.5 - 1 / 80, 1.0, 0.005, 1.0]


@pytest.fixture
def cuda() -> Iterator[torch.device]:
    """The GPU, all of which this process may use afterwards."""
    yield CUDA
    hold_to_share(CUDA, 1.0)


@pytest.mark.gpu
def test_a_gpu_is_used_up_to_its_share_and_whole_by_the_next(cuda: torch.device) -> None:
    assert trajectory_device(0.25) == cuda
    release_memory()
    half = torch.cuda.get_device_properties(cuda).total_memory // 2
    hold_to_share(cuda, 0.25)
    with pytest.raises(torch.OutOfMemoryError):
        torch.empty(half, dtype=torch.uint8, device=cuda)
    hold_to_share(cuda, 1.0)
    torch.empty(half, dtype=torch.uint8, device=cuda)
    release_memory()


@pytest.mark.gpu
def test_a_trajectory_with_a_gpu_trains_on_it(tmp_path: Path, encoded: Path, cuda: torch.device) -> None:
    outcome = train_trajectory(plan(tmp_path, encoded, gpus=1.0), cpu_threads=1)
    assert outcome is not None
    assert outcome.device == torch.cuda.get_device_name(cuda)


# Trains a trajectory, and exits with 1 if the driver has made a context on the first GPU, whether torch knows or not.
WITHOUT_CONTEXT = """
import ctypes, sys
from pathlib import Path

from study.storage import TrajectoryFolder
from study.training.devices import release_memory
from study.training.trajectory import train_trajectory

outcome = train_trajectory(TrajectoryFolder(Path(sys.argv[1])), cpu_threads=1)
release_memory()
assert outcome.device.startswith("CPU"), outcome.device
driver, flags, active = ctypes.CDLL("libcuda.so.1"), ctypes.c_uint(), ctypes.c_int(-1)
assert driver.cuInit(0) == 0
assert driver.cuDevicePrimaryCtxGetState(0, ctypes.byref(flags), ctypes.byref(active)) == 0
sys.exit(active.value)
"""


@pytest.mark.gpu
def test_a_trajectory_without_a_gpu_makes_no_context_on_one(tmp_path: Path, encoded: Path) -> None:
    plan(tmp_path, encoded, gpus=0.0)
    done = subprocess.run([sys.executable, "-c", WITHOUT_CONTEXT, str(tmp_path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
