"""Which of several things is faster, on a machine that is not always equally fast?

They take turns, a short stretch each, and are compared within a turn; what slows the machine down slows all of them.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

# Runs so many steps and returns the seconds they took.
Timed = Callable[[int], float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rates:
    """Steps per second of one contender, one number for each turn."""

    values: tuple[float, ...]

    @property
    def median(self) -> float:
        """The middle one."""
        return statistics.median(self.values)

    def over(self, other: Rates) -> tuple[float, float, float]:
        """Median, lowest and highest of the ratios to ``other`` within each turn."""
        ratios = [one / two for one, two in zip(self.values, other.values, strict=True)]
        return statistics.median(ratios), min(ratios), max(ratios)


def take_turns(contenders: Mapping[str, Timed], *, turns: int, seconds: float) -> dict[str, Rates]:
    """Let each contender run about ``seconds`` a turn; who begins changes from turn to turn."""
    steps = {name: _calibrate(timed, seconds) for name, timed in contenders.items()}
    rates: dict[str, list[float]] = {name: [] for name in contenders}
    names = list(contenders)
    for turn in range(turns):
        shift = turn % len(names)
        for name in [*names[shift:], *names[:shift]]:
            rates[name].append(steps[name] / contenders[name](steps[name]))
    return {name: Rates(values=tuple(values)) for name, values in rates.items()}


def _calibrate(timed: Timed, seconds: float) -> int:
    """Steps that take about ``seconds``, found by taking some; the first call, which warms up, does not count."""
    steps = 1
    timed(steps)
    while True:
        taken = timed(steps)
        if taken >= seconds / 4 or steps >= 2**16:
            return max(1, math.ceil(steps * seconds / taken))
        steps = max(2 * steps, math.ceil(steps * seconds / taken / 2))


def spread(ratio: tuple[float, float, float]) -> str:
    """A ratio as tables show it."""
    middle, low, high = ratio
    return f"{middle:.2f}x ({low:.2f} to {high:.2f})"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown whose columns are aligned for reading as it stands."""
    widths = [max(len(row[column]) for row in [head, *rows]) for column in range(len(head))]
    lines = [" | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in [head, *rows]]
    lines.insert(1, " | ".join("-" * width for width in widths))
    return "\n".join(f"| {line} |" for line in lines)


def since(started: float) -> str:
    """How long it has been since ``started`` (``perf_counter``)."""
    return f"{time.perf_counter() - started:.0f} s"
