"""An estimate knows whether it has an interval, and what its interval excludes."""

import math

from analysis.statistics.estimate import Estimate


def test_an_interval_is_clipped_to_what_is_possible_and_a_missing_one_stays_missing() -> None:
    assert Estimate(value=0.9, low=0.7, high=1.1).clipped(0, 1) == Estimate(value=0.9, low=0.7, high=1)
    assert math.isnan(Estimate(value=0.9).clipped(0, 1).low)


def test_zero_is_excluded_only_by_a_whole_interval() -> None:
    assert Estimate(value=0.1, low=0.01, high=0.2).excludes_zero
    assert Estimate(value=-0.1, low=-0.2, high=-0.01).excludes_zero
    assert not Estimate(value=0.1, low=-0.01, high=0.2).excludes_zero
    assert not Estimate(value=0.1).excludes_zero
