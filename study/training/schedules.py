"""The learning rate of each optimizer step: scaling with the batch size, warm-up, and decay."""

from __future__ import annotations

import math
from dataclasses import dataclass

from study.settings import Settings

# A schedule is summed at so many points.
SUMMATION_POINTS = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class LearningRate:
    """The learning rate over the ``total_steps`` optimizer steps of a run, counted from 0, and its ``peak``.

    A parameter group's rate is its own peak times :meth:`factor`.
    """

    peak: float
    schedule: str
    total_steps: int
    warmup_steps: int
    polynomial_power: float

    @classmethod
    def of(cls, settings: Settings, total_steps: int) -> LearningRate:
        """The learning rate of a run with these settings; the one place where the warm-up fraction becomes steps."""
        ratio = settings.batch_size / settings.lr_scaling_base_batch_size
        scale = {"none": 1.0, "sqrt": math.sqrt(ratio), "linear": ratio}[settings.lr_scaling]
        return cls(
            peak=settings.learning_rate * scale,
            schedule=settings.lr_schedule,
            total_steps=total_steps,
            warmup_steps=round(settings.warmup_fraction * total_steps),
            polynomial_power=settings.polynomial_power or 1.0,
        )

    def at(self, step: int) -> float:
        """The rate that optimizer step ``step`` uses."""
        return self.peak * self.factor(step)

    def factor(self, step: int) -> float:
        """The share of the peak, in [0, 1], that optimizer step ``step`` uses.

        Warm-up rises linearly from 0 (Vaswani et al. 2017; the first step of a run with warm-up therefore uses a rate
        of 0, as in the reference schedules of Devlin et al. 2019). After it: constant; linear decay to 0; half a cosine
        to 0 (Loshchilov & Hutter 2017, one cycle); polynomial decay to 0. Raises ValueError for an unknown schedule.
        """
        if step < self.warmup_steps:
            return step / self.warmup_steps
        progress = min(1.0, (step - self.warmup_steps) / max(1, self.total_steps - self.warmup_steps))
        if self.schedule == "constant":
            return 1.0
        if self.schedule == "linear":
            return 1.0 - progress
        if self.schedule == "cosine":
            return 0.5 * (1.0 + math.cos(math.pi * progress))
        if self.schedule == "polynomial":
            return float((1.0 - progress) ** self.polynomial_power)
        raise ValueError(f"unknown lr schedule {self.schedule!r}")

    def total(self, steps: int) -> float:
        """The sum of the rates of the first ``steps`` steps, from 100 points of the schedule.

        It bounds how far Adam can move a weight, and so compares rates, schedules and lengths in one number.
        """
        count = min(steps, SUMMATION_POINTS)
        points = [round((index + 0.5) * steps / count - 0.5) for index in range(count)]
        return self.peak * steps * math.fsum(map(self.factor, points)) / max(count, 1)

    @property
    def mean(self) -> float:
        """The mean rate over all steps."""
        return self.total(self.total_steps) / self.total_steps
