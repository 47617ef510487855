"""Numbers are written as a reader takes them, and texts stay texts."""

import math

import pytest

from analysis.answer import Estimate, Table
from analysis.rendering.markup import html_table, markdown_table, number, text
from analysis.wording import difference, listed, p_value, percent, share


@pytest.mark.parametrize(
    ("value", "form", "written"),
    [
        (0.885, "%", "88.5 %"),
        (-0.02, "+%", "\u22122.0 pts"),
        (0.0004, "p", "< 0.001"),
        (0.04, "p", "0.040"),
        (-0.0001, "+.3", "0.000"),
        (1234, "n", "1,234"),
        (5e-5, "g", "5e-05"),
        (math.nan, "%", "\u2013"),
    ],
)
def test_a_number_in_each_format(value: float, form: str, written: str) -> None:
    assert number(value, form) == written


def test_an_estimate_without_an_interval_shows_none() -> None:
    assert text(Estimate(value=0.9, seeds=1), "%") == "90.0 %"
    assert text(Estimate(value=0.9, low=0.85, high=0.95, seeds=3), "%") == "90.0 % [85.0, 95.0]"


def test_an_interval_is_cut_to_what_is_possible_and_none_stays_none() -> None:
    assert Estimate(value=0.9, low=0.7, high=1.1).within(0, 1) == Estimate(value=0.9, low=0.7, high=1)
    assert math.isnan(Estimate(value=0.9).within(0, 1).low)


def test_sentences_have_signs_units_and_intervals() -> None:
    assert difference(Estimate(value=-0.02, low=-0.03, high=0.01)) == (
        "\u22122.0 points (95% interval \u22123.0 to +1.0)"
    )
    assert share(Estimate(value=0.1)) == "10.0 % (no interval)"
    assert percent(math.nan) == "\u2013"
    assert p_value(0.0001) == "p < 0.001"
    assert listed(["a", "b", "c"]) == "a, b and c"
    assert listed([]) == ""


def test_a_table_escapes_what_it_holds() -> None:
    table = Table(title="<b>", columns=("a|b",), formats=("t",), rows=[("<i>|\n*x*",)])
    assert "<b>" not in html_table(table)
    assert "&lt;i&gt;|" in html_table(table)
    assert markdown_table(table).splitlines()[-1] == r"| &lt;i&gt;\| \*x\* |"
