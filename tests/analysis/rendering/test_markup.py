"""Numbers in tables are readable, and no text of a study becomes markup."""

import math

import pytest

from analysis.answer import Answer, Table, Unit
from analysis.rendering.markup import evidence_sentence, format_number, format_value, html_table, markdown_table
from analysis.statistics.estimate import Estimate


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
    assert format_number(value, form) == written


def test_an_estimate_shows_its_interval_if_it_has_one() -> None:
    assert format_value(Estimate(value=0.9, seeds=1), "%") == "90.0 %"
    assert format_value(Estimate(value=0.9, low=0.85, high=0.95, seeds=3), "%") == "90.0 % [85.0, 95.0]"


@pytest.mark.parametrize(
    ("estimate", "form", "written"),
    [
        (Estimate(value=0.742, low=0.0, high=1.0, seeds=2), "%", "74.2 % (too few seeds)"),
        (Estimate(value=0.0, low=0.0, high=0.975, seeds=1), "%", "0.0 % (too few seeds)"),
        (Estimate(value=0.0, low=0.0, high=0.842, seeds=2), "%", "0.0 % [0.0, 84.2]"),
        (Estimate(value=0.1, low=-0.95, high=0.96, seeds=2), "+%", "+10.0 pts (too few seeds)"),
        (Estimate(value=0.1, low=-0.6, high=0.8, seeds=2), "+%", "+10.0 pts [\u221260.0, +80.0]"),
        (Estimate(value=0.464, seeds=2), ".3", "0.464 (too few seeds)"),
        (Estimate(value=0.464, low=-0.1, high=3.3, seeds=2), ".3", "0.464 [\u22120.100, 3.300]"),
        (Estimate(value=math.nan, seeds=2), "%", "\u2013"),
    ],
)
def test_an_interval_that_says_nothing_is_not_written(estimate: Estimate, form: str, written: str) -> None:
    assert format_value(estimate, form) == written
    table = Table(title="t", columns=("x",), formats=(form,), rows=[(estimate,)])
    assert ("too few seeds" in html_table(table)) == ("too few seeds" in written)


def test_a_table_escapes_its_text() -> None:
    table = Table(title="<b>", columns=("a|b",), formats=("t",), rows=[("<i>|\n*x*",)])
    assert "<b>" not in html_table(table)
    assert "&lt;i&gt;|" in html_table(table)
    assert markdown_table(table).splitlines()[-1] == r"| &lt;i&gt;\| \*x\* |"


def test_rows_that_are_not_shown_are_counted_in_both_formats() -> None:
    table = Table(title="t", columns=("x",), formats=("n",), rows=[(n,) for n in range(5)], note="Note.", most_rows=2)
    assert html_table(table).count("<tr><td") == 2
    assert "Note. 3 more rows are not shown." in html_table(table)
    assert markdown_table(table).splitlines()[-4:] == ["| 0 |", "| 1 |", "", "Note. 3 more rows are not shown."]


@pytest.mark.parametrize(
    ("unit", "written"),
    [
        ("share", "The rate: 50.0 % (95% interval 40.0 to 60.0 %); up to 3 seeds per condition."),
        ("points", "The rate: +50.0 points (95% interval +40.0 to +60.0); up to 3 seeds per condition."),
        ("number", "The rate: 0.50 (95% interval 0.40 to 0.60); up to 3 seeds per condition."),
    ],
)
def test_the_unit_of_an_answer_says_how_its_estimate_is_written(unit: Unit, written: str) -> None:
    estimate = Estimate(value=0.5, low=0.4, high=0.6)
    answer = Answer(
        question="?", verdict="yes", sentence="", estimate=estimate, estimated="the rate", unit=unit, seeds=3
    )
    assert evidence_sentence(answer) == written


def test_without_an_estimate_the_evidence_is_the_number_of_seeds() -> None:
    assert evidence_sentence(Answer(question="?", verdict="yes", sentence="")) == "No seeds were compared."
    assert evidence_sentence(Answer(question="?", verdict="yes", sentence="", seeds=1)) == "Up to 1 seed per condition."
