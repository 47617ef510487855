"""Running sums of one logging interval, kept on the device, and of an epoch, on the host.

Sums are divided once, when a record is made, so that a ragged last batch counts for what it holds.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np
import torch


class IntervalSums:
    """The sums over an interval's optimizer steps, on the device, so that no step waits for it.

    The tensor of :attr:`values` stays where it is: the sum of losses, that of gradient norms, their maximum, and the
    number of steps at which one of the two was not finite.
    """

    def __init__(self, device: torch.device) -> None:
        self.values = torch.zeros(4, dtype=torch.float64, device=device)
        self.loss, self.norm, self.norm_max, self.non_finite = self.values
        self.examples = 0
        self.steps = 0

    def reset(self) -> None:
        """Begin another interval."""
        self.values.zero_()
        self.examples = 0
        self.steps = 0

    def add(self, loss: torch.Tensor, norm: torch.Tensor) -> None:
        """Add a step whose losses sum to ``loss``, with the gradient's ``norm``: the part of it on the device."""
        self.loss += loss
        self.norm += norm
        self.norm_max.copy_(torch.maximum(self.norm_max, norm.to(self.norm_max.dtype)))
        self.non_finite += ~(torch.isfinite(loss) & torch.isfinite(norm))

    def count(self, examples: int) -> None:
        """Count a step over so many examples: the part of it on the host."""
        self.examples += examples
        self.steps += 1

    def to_host(self, *, update_ratio: torch.Tensor, started: float) -> TrainingSums:
        """Copy the sums to the host: the only device sync of an interval, which began at ``started`` (perf_counter)."""
        values = torch.cat([self.values, update_ratio.to(self.values.dtype)[None]]).tolist()
        loss, norm, norm_max, non_finite, ratio = values
        return TrainingSums(
            loss=loss,
            norm=norm,
            norm_max=norm_max,
            non_finite=int(non_finite),
            examples=self.examples,
            steps=self.steps,
            update_ratio=ratio,
            intervals=1,
            seconds=time.perf_counter() - started,
        )


@dataclass(slots=True, kw_only=True)
class TrainingSums:
    """The same as plain numbers, of one interval or of all intervals of an epoch so far.

    ``update_ratio`` adds one number for each of ``intervals``; ``seconds`` is the time spent on training alone.
    """

    loss: float = 0.0
    norm: float = 0.0
    norm_max: float = 0.0
    non_finite: int = 0
    examples: int = 0
    steps: int = 0
    update_ratio: float = 0.0
    intervals: int = 0
    seconds: float = 0.0

    def merge(self, interval: TrainingSums) -> None:
        """Include an interval; a NaN stays NaN."""
        self.loss += interval.loss
        self.norm += interval.norm
        self.norm_max = float(np.maximum(self.norm_max, interval.norm_max))
        self.non_finite += interval.non_finite
        self.examples += interval.examples
        self.steps += interval.steps
        self.update_ratio += interval.update_ratio
        self.intervals += interval.intervals
        self.seconds += interval.seconds
