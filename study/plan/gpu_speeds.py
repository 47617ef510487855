"""GPUs and the time that an optimizer step takes on them: measured, or estimated from a datasheet.

A step takes ``layers x layer_seconds + parameters x STEP_BYTES / bandwidth + operations / operations_per_second``. The
kernels of a layer take some time however little they compute, the update reads and writes every parameter, and the rest
grows with the examples. The first and the last rate are fitted to measured steps. A GPU that was not measured has the
layer time of the first one in the table, and reaches the same share of its own peak.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from study.errors import enumerate_names, quote
from study.models.shapes import HUB_SHAPES, EncoderShape

# What was measured: the loop in bfloat16, with captured steps and compiled layers.
MEASURED_SHAPE, MEASURED_TOKENS = HUB_SHAPES["bert-base-uncased"], 128
# Bytes that a step moves for each parameter, counted: AdamW reads weight, gradient and two moments and writes all but
# the gradient (28), the norm reads the gradient (4), a weight is cast to bfloat16 (6) and its gradient cast back (6).
STEP_BYTES = 44
# A backward pass has twice the operations of a forward pass.
TRAINING_PASSES = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Gpu:
    """A kind of GPU: the ``peak`` of dense bfloat16 products per second and the ``bandwidth`` in bytes per second.

    Both are from the datasheet. ``measured`` are seconds of a step by batch size, two or more, on ``date``; it is empty
    where only the datasheet is known. ``source`` is where the figures are from.
    """

    name: str
    peak: float
    bandwidth: float
    source: str
    measured: Mapping[int, float]
    date: str = ""


# The first one stands in for those that were not measured.
GPUS = (
    Gpu(
        name="H100",
        peak=989e12,
        bandwidth=3.35e12,
        source="python -m benchmarks.gpu on an H100 80GB, commit 1123b5b, torch 2.11",
        measured={16: 6.52e-3, 64: 15.25e-3, 256: 49.9e-3},
        date="2026-11-27",
    ),
    Gpu(
        name="H200",
        peak=989e12,
        bandwidth=4.8e12,
        source="python -m benchmarks.gpu on an H200 with ten other processes, commit e825d7b, torch 2.11",
        measured={16: 16 / 2238, 256: 256 / 5164},
        date="2026-11-26",
    ),
    Gpu(name="A100", peak=312e12, bandwidth=2.0e12, source="NVIDIA's datasheet of the A100 SXM", measured={}),
    Gpu(name="L4", peak=121e12, bandwidth=0.3e12, source="NVIDIA's datasheet of the L4", measured={}),
)


def gpu_named(name: str) -> Gpu:
    """The GPU of that name, in any case, its memory apart (``A100-80G``). Raises ValueError for an unknown one."""
    for gpu in GPUS:
        if gpu.name == name.upper().split("-")[0]:
            return gpu
    raise ValueError(f"unknown GPU {quote(name)}; known are {enumerate_names(sorted(gpu.name for gpu in GPUS))}")


@dataclass(frozen=True, slots=True, kw_only=True)
class StepRates:
    """Seconds that a layer's kernels take in a step at least, and floating-point operations per second beyond them."""

    layer_seconds: float
    operations_per_second: float


def step_rates(gpu: Gpu) -> StepRates:
    """The rates of ``gpu``: fitted to its measured steps, or those of the first GPU in the table at its own peak."""
    if gpu.measured:
        return _fitted(gpu)
    known = _fitted(GPUS[0])
    return replace(known, operations_per_second=known.operations_per_second * gpu.peak / GPUS[0].peak)


def _fitted(gpu: Gpu) -> StepRates:
    """The rates with the least sum of squared relative errors over the measured steps."""
    sizes = np.array(list(gpu.measured), dtype=np.float64)
    seconds = np.array(list(gpu.measured.values()))
    operations = TRAINING_PASSES * MEASURED_SHAPE.forward_operations(MEASURED_TOKENS) * sizes
    causes = np.stack([np.full_like(sizes, MEASURED_SHAPE.layers), operations], axis=1)
    rest = seconds - update_seconds(gpu, MEASURED_SHAPE)
    (layer_seconds, operation_seconds), *_ = np.linalg.lstsq(causes / seconds[:, None], rest / seconds, rcond=None)
    return StepRates(layer_seconds=float(layer_seconds), operations_per_second=1 / float(operation_seconds))


def update_seconds(gpu: Gpu, shape: EncoderShape) -> float:
    """Seconds in which a step moves what it reads and writes of each parameter."""
    return shape.parameters * STEP_BYTES / gpu.bandwidth
