"""What learning rate does each optimizer step use?

Pure functions from an optimizer step, counted from 0, to the factor by which the peak learning rate is multiplied.
"""

from __future__ import annotations

import math
from typing import Literal

Schedule = Literal["constant", "linear", "cosine", "polynomial"]
Scaling = Literal["none", "sqrt", "linear"]


def warmup_steps(*, total_steps: int, warmup_fraction: float) -> int:
    """Optimizer steps of warm-up; the one place where the fraction becomes steps."""
    return round(warmup_fraction * total_steps)


def factor(
    step: int, *, schedule: Schedule, total_steps: int, warmup_fraction: float = 0.0, polynomial_power: float = 1.0
) -> float:
    """The learning-rate factor, in [0, 1], of optimizer step ``step`` of ``total_steps``, counted from 0.

    Warm-up rises linearly from 0 (Vaswani et al. 2017; the first step of a run with warm-up therefore uses a rate of 0,
    as in the reference schedules of Devlin et al. 2019). After it: constant; linear decay to 0; half a cosine to 0
    (Loshchilov & Hutter 2017, one cycle); polynomial decay to 0 with the given power.

    Raises ValueError for an unknown schedule.
    """
    warmup = warmup_steps(total_steps=total_steps, warmup_fraction=warmup_fraction)
    if step < warmup:
        return step / warmup
    progress = min(1.0, (step - warmup) / max(1, total_steps - warmup))
    if schedule == "constant":
        return 1.0
    if schedule == "linear":
        return 1.0 - progress
    if schedule == "cosine":
        return 0.5 * (1.0 + math.cos(math.pi * progress))
    if schedule == "polynomial":
        return float((1.0 - progress) ** polynomial_power)
    raise ValueError(f"unknown lr schedule {schedule!r}")


def peak_learning_rate(learning_rate: float, *, scaling: Scaling, batch_size: int, base_batch_size: int) -> float:
    """The learning rate at ``batch_size`` when ``learning_rate`` is meant for ``base_batch_size``.

    ``linear`` is the rule of Goyal et al. 2017, ``sqrt`` that of Hoffer et al. 2017 (and of Krizhevsky 2014).
    """
    ratio = batch_size / base_batch_size
    return learning_rate * {"none": 1.0, "sqrt": math.sqrt(ratio), "linear": ratio}[scaling]
