"""The device that a trajectory is given: its share of a GPU that works, or the CPU."""

from __future__ import annotations

import os
import socket
import subprocess

import torch

from study.errors import NodeError

# Tests let Ray imagine GPUs on machines that have none, and set this variable to "tests" on its nodes: there a CPU
# stands in for the GPU of a trajectory. Nothing else may set it.
CPU_STANDS_IN = "STUDY_TESTS_LET_A_CPU_STAND_IN_FOR_A_GPU"
# What a process takes of a GPU beside the memory of its tensors: CUDA's context, its libraries, captured graphs.
CONTEXT_BYTES = 2**30


class DeviceError(NodeError):
    """A GPU that was asked for and cannot be used; the message, on one line, says why and what to do."""


def trajectory_device(gpus: float) -> torch.device:
    """The device of a trajectory with ``gpus`` GPUs, or a part of one: the CPU for 0, and never for more.

    Raises DeviceError with torch's own reason where it cannot use the GPU.
    """
    if not gpus or os.environ.get(CPU_STANDS_IN) == "tests":
        return torch.device("cpu")
    device = torch.device("cuda")
    try:
        # Makes the context, which a card that is taken refuses, and runs a kernel, which an old card has none for.
        torch.zeros((), device=device).item()
    except (AssertionError, RuntimeError) as error:
        reason = str(error).strip().splitlines()[0].rstrip(".")
        raise DeviceError(
            f"a trajectory has {gpus:g} GPU, and torch {torch.__version__} cannot use it on {socket.gethostname()}: "
            f"{reason}; fix it, or train on CPUs (--set run.gpu=0)"
        ) from error
    return device


def check_sharing(gpus: float) -> None:
    """Raise DeviceError where ``gpus`` is a part of a GPU, and the one of this process is for one process alone."""
    if 0 < gpus < 1 and (mode := _compute_mode()).startswith(("Exclusive", "Prohibited")):
        raise DeviceError(
            f"a trajectory has {gpus:g} GPU, and the one on {socket.gethostname()} cannot be shared: its compute mode "
            f"is {mode}; give each a whole one (--set run.gpu=1), or change it (nvidia-smi --compute-mode=DEFAULT)"
        )


def _compute_mode() -> str:
    """The compute mode of this process's GPU, as nvidia-smi calls it; empty where it cannot be asked."""
    command = ["nvidia-smi", "--query-gpu=compute_mode", "--format=csv,noheader"]
    if visible := os.environ.get("CUDA_VISIBLE_DEVICES"):
        command.append(f"--id={visible}")
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=30).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""


def hold_to_share(device: torch.device, gpus: float) -> None:
    """Let this process take no more of the memory of ``device`` than a trajectory with ``gpus`` GPUs has.

    A neighbour that asked for more would otherwise fail the others. Ray keeps processes, so that the next trajectory
    may have another share.
    """
    if device.type != "cuda":
        return
    share = 1.0
    if gpus < 1:
        total = torch.cuda.get_device_properties(device).total_memory
        share = max(gpus - CONTEXT_BYTES / total, gpus / 2)
    torch.cuda.set_per_process_memory_fraction(share, device)
