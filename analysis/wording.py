"""Numbers, estimates, counts and lists as the report's sentences write them."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

from analysis.statistics.estimate import Estimate


def percent(value: float, digits: int = 1) -> str:
    """A share as a percentage; a dash where it is not finite, as in all of these functions."""
    return with_minus(f"{100 * value:.{digits}f} %") if math.isfinite(value) else "–"


def points(value: float, *, signed: bool = False) -> str:
    """A difference of shares in percentage points."""
    return with_minus(f"{100 * value:{'+' if signed else ''}.1f} points") if math.isfinite(value) else "–"


def number(value: float, form: str = ".3f") -> str:
    """A number in Python's format ``form``."""
    return with_minus(f"{value:{form}}") if math.isfinite(value) else "–"


def with_minus(formatted: str) -> str:
    """A formatted number with a minus sign in place of its hyphen, and without a sign before a zero."""
    if re.match(r"[+-]0(\.0*)?(?![\d.])", formatted):
        return formatted[1:]
    return formatted.replace("-", "−", 1) if formatted.startswith("-") else formatted


def share_estimate(estimate: Estimate) -> str:
    """A share with its interval, in percent."""
    return f"{percent(estimate.value)} {_interval(estimate, 100, '.1f', ' %')}"


def points_estimate(estimate: Estimate) -> str:
    """A difference of shares with its interval, in percentage points, signed."""
    return f"{points(estimate.value, signed=True)} {_interval(estimate, 100, '+.1f', '')}"


def number_estimate(estimate: Estimate, form: str = ".3f") -> str:
    """A number with its interval, in Python's format ``form``."""
    return f"{number(estimate.value, form)} {_interval(estimate, 1, form, '')}"


def _interval(estimate: Estimate, factor: float, form: str, unit: str) -> str:
    if not estimate.has_interval:
        return "(no interval)"
    low, high = (with_minus(f"{factor * bound:{form}}") for bound in (estimate.low, estimate.high))
    return f"({100 * estimate.level:.3g}% interval {low} to {high}{unit})"


def duration(seconds: float) -> str:
    """A time in the unit that suits it."""
    for unit, size in (("day", 86_400), ("hour", 3_600), ("minute", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:,.3g} {unit}s"
    return count(round(seconds), "second")


def says_nothing(share: Estimate) -> bool:
    """Whether the interval of a share, or of a difference of shares, spans nearly all that is possible."""
    span = 1 if share.low >= 0 else 2
    return share.has_interval and share.high - share.low >= 0.95 * span


def count(quantity: int, noun: str, plural: str = "") -> str:
    """A count with its noun, such as "1 run" and "2 runs"."""
    return f"{quantity:,} {noun if quantity == 1 else plural or noun + 's'}"


def agree(quantity: int, singular: str, plural: str) -> str:
    """The word that agrees with a count, such as "is" and "are"."""
    return singular if quantity == 1 else plural


def join_words(words: Sequence[str]) -> str:
    """Words in a row, with "and" before the last."""
    return " and ".join([", ".join(words[:-1]), words[-1]]) if len(words) > 1 else "".join(words)


def upper_first(sentence: str) -> str:
    """A sentence with its first letter in upper case."""
    return sentence[:1].upper() + sentence[1:]


def setting_name(key: str) -> str:
    """The name of a setting in words."""
    return key.replace("_", " ")


def p_value(p: float) -> str:
    """A p-value as papers write it."""
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}"
