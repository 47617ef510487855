"""Which numbers may a search try?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

RANGE_KEYS = ("low", "high", "log", "step")


@dataclass(frozen=True, slots=True, kw_only=True)
class Range:
    """The numbers from ``low`` to ``high``, both among them; whole ones if these are.

    ``log`` says that a search tries equal parts of their logarithms equally often, ``step`` that only ``low`` and
    every ``step`` after it count.
    """

    low: float
    high: float
    log: bool = False
    step: float | None = None

    @property
    def whole(self) -> bool:
        """Whether only whole numbers count."""
        return isinstance(self.low, int)

    def __contains__(self, value: object) -> bool:
        """Whether ``value`` is between the ends; a ``step`` that has changed does not put a number out."""
        number = isinstance(value, int if self.whole else int | float) and not isinstance(value, bool)
        return number and self.low <= value <= self.high  # type: ignore[operator]  # a number

    def as_file(self) -> dict[str, Any]:
        """The range as a space file writes it."""
        shown: dict[str, Any] = {"low": self.low, "high": self.high}
        if self.log:
            shown["log"] = True
        if self.step is not None:
            shown["step"] = self.step
        return shown

    def __str__(self) -> str:
        """The range in words."""
        words = f"{self.low:g} to {self.high:g}"
        return words + (" (log)" if self.log else f" in steps of {self.step:g}" if self.step else "")
