"""Sentences have numbers with signs, units and intervals, and lists with commas."""

import math

import pytest

from analysis.statistics.estimate import Estimate
from analysis.wording import count, join_words, number, p_value, percent, points_estimate, share_estimate, upper_first


def test_estimates_have_signs_units_and_intervals() -> None:
    assert points_estimate(Estimate(value=-0.02, low=-0.03, high=0.01)) == (
        "\u22122.0 points (95% interval \u22123.0 to +1.0)"
    )
    assert share_estimate(Estimate(value=0.1)) == "10.0 % (no interval)"


def test_a_number_that_is_not_finite_is_a_dash() -> None:
    assert percent(math.nan) == number(math.inf) == "\u2013"


def test_p_values_are_bounded_below() -> None:
    assert p_value(0.0001) == "p < 0.001"
    assert p_value(0.04) == "p = 0.040"


@pytest.mark.parametrize(
    ("words", "joined"), [([], ""), (["a"], "a"), (["a", "b"], "a and b"), (["a", "b", "c"], "a, b and c")]
)
def test_words_are_joined(words: list[str], joined: str) -> None:
    assert join_words(words) == joined


def test_counts_have_the_right_noun() -> None:
    assert [count(n, "run") for n in (0, 1, 1200)] == ["0 runs", "1 run", "1,200 runs"]
    assert count(2, "trajectory", "trajectories") == "2 trajectories"


def test_a_sentence_starts_in_upper_case() -> None:
    assert upper_first("with BERT") == "With BERT"
    assert upper_first("") == ""
