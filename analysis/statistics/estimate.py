"""A number with its interval, and the number of seeds behind it."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

LEVEL = 0.95

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """A number with its interval (at ``level``) and the number of seeds behind it; NaN bounds mean that none is known.

    ``value`` is a fraction where it is a share or an accuracy; the report writes such numbers as percentages.
    """

    value: float
    low: float = math.nan
    high: float = math.nan
    seeds: int = 0
    level: float = LEVEL

    @property
    def has_interval(self) -> bool:
        """Whether both bounds are known."""
        return math.isfinite(self.low) and math.isfinite(self.high)

    @property
    def excludes_zero(self) -> bool:
        """Whether the interval lies wholly above or wholly below zero."""
        return self.low > 0 or self.high < 0

    def clipped(self, low: float, high: float) -> Estimate:
        """The same with its interval clipped to what is possible: with few seeds, Student's t exceeds it."""
        return replace(self, low=max(low, self.low), high=min(high, self.high)) if self.has_interval else self
