"""How are numbers put into words?"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

from analysis.statistics.estimate import LEVEL, Estimate


def percent(value: float, digits: int = 1) -> str:
    """A share as a percentage."""
    return minus(f"{100 * value:.{digits}f} %") if math.isfinite(value) else "–"


def points(value: float, *, signed: bool = False) -> str:
    """A difference of shares in percentage points."""
    return minus(f"{100 * value:{'+' if signed else ''}.1f} points") if math.isfinite(value) else "–"


def number(value: float, form: str = ".3f") -> str:
    """A number, a dash for none."""
    return minus(f"{value:{form}}") if math.isfinite(value) else "–"


def minus(written: str) -> str:
    """A written number with a minus sign in place of a hyphen (but for an exponent's), and no sign before a zero."""
    if re.match(r"[+-]0(\.0*)?(?![\d.])", written):
        return written[1:]
    return written.replace("-", "−", 1) if written.startswith("-") else written


def share(estimate: Estimate) -> str:
    """A share with its interval."""
    return f"{percent(estimate.value)} {_interval(100 * estimate.low, 100 * estimate.high, '.1f', ' %')}"


def difference(estimate: Estimate) -> str:
    """A difference of shares with its interval, in points, signed."""
    return f"{points(estimate.value, signed=True)} {_interval(100 * estimate.low, 100 * estimate.high, '+.1f', '')}"


def plain(estimate: Estimate, form: str = ".3f") -> str:
    """A number with its interval."""
    return f"{number(estimate.value, form)} {_interval(estimate.low, estimate.high, form, '')}"


def _interval(low: float, high: float, form: str, unit: str) -> str:
    if not (math.isfinite(low) and math.isfinite(high)):
        return "(no interval)"
    return f"({LEVEL:.0%} interval {minus(f'{low:{form}}')} to {minus(f'{high:{form}}')}{unit})"


def count(number_of: int, word: str, plural: str = "") -> str:
    """A number and its noun."""
    return f"{number_of:,} {word if number_of == 1 else plural or word + 's'}"


def listed(words: Sequence[str]) -> str:
    """Words in a row, the last after "and"."""
    return " and ".join([", ".join(words[:-1]), words[-1]]) if len(words) > 1 else "".join(words)


def p_value(p: float) -> str:
    """A p-value as papers write it."""
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}"
