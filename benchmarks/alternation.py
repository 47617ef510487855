"""Timing of contenders in turns, on a machine whose speed varies.

Each runs for a few seconds a turn, and they are compared within a turn, so that a slow machine slows all of them.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

# Runs a number of steps and returns the seconds that they took.
TimedSteps = Callable[[int], float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rates:
    """Steps per second of one contender, one number for each turn."""

    values: tuple[float, ...]

    @property
    def median(self) -> float:
        """The median over turns."""
        return statistics.median(self.values)

    def over(self, other: Rates) -> tuple[float, float, float]:
        """Median, lowest and highest of the ratios to ``other`` within each turn."""
        ratios = [value / base for value, base in zip(self.values, other.values, strict=True)]
        return statistics.median(ratios), min(ratios), max(ratios)


def take_turns(contenders: Mapping[str, TimedSteps], *, turns: int, seconds: float) -> dict[str, Rates]:
    """Let each contender run about ``seconds`` a turn; each turn starts with another one."""
    steps = {name: _calibrate(timed_steps, seconds) for name, timed_steps in contenders.items()}
    rates: dict[str, list[float]] = {name: [] for name in contenders}
    names = list(contenders)
    for turn in range(turns):
        shift = turn % len(names)
        for name in [*names[shift:], *names[:shift]]:
            rates[name].append(steps[name] / contenders[name](steps[name]))
    return {name: Rates(values=tuple(values)) for name, values in rates.items()}


def _calibrate(timed_steps: TimedSteps, seconds: float) -> int:
    """The number of steps that take about ``seconds``, measured after a first call that warms up."""
    steps = 1
    timed_steps(steps)
    while True:
        elapsed = timed_steps(steps)
        if elapsed >= seconds / 4 or steps >= 2**16:
            return max(1, math.ceil(steps * seconds / elapsed))
        steps = max(2 * steps, math.ceil(steps * seconds / elapsed / 2))


def spread(ratio: tuple[float, float, float]) -> str:
    """A ratio with its lowest and highest value, as tables show it."""
    median, low, high = ratio
    return f"{median:.2f}x ({low:.2f} to {high:.2f})"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table with aligned columns."""
    widths = [max(len(row[column]) for row in [head, *rows]) for column in range(len(head))]
    lines = [" | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in [head, *rows]]
    lines.insert(1, " | ".join("-" * width for width in widths))
    return "\n".join(f"| {line} |" for line in lines)


def elapsed_since(started: float) -> str:
    """The time since ``started`` (``perf_counter``), in words."""
    return f"{time.perf_counter() - started:.0f} s"
