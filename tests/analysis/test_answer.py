"""Tables and figures show a limited number of rows and panels, and say how many they do not show."""

import pytest

from analysis.answer import BARS_A_PANEL, Bar, Figure, Panel, Table, forests, not_shown, sentences
from analysis.statistics.estimate import Estimate


def test_a_table_counts_the_rows_that_it_does_not_show() -> None:
    table = Table(title="t", columns=("x",), formats=("n",), rows=[(n,) for n in range(12)], note="Note.", most_rows=10)
    assert [row[0] for row in table.shown_rows] == list(range(10))
    assert table.full_note == "Note. 2 more rows are not shown."


def test_a_table_with_few_rows_shows_all_of_them() -> None:
    table = Table(title="t", columns=("x",), formats=("n",), rows=[(1,)])
    assert (table.shown_rows, table.full_note) == (table.rows, "")


def test_a_row_needs_a_value_for_each_column() -> None:
    with pytest.raises(AssertionError, match="the title"):
        Table(title="the title", columns=("x", "y"), formats=("n", "n"), rows=[(1,)])


def test_a_figure_counts_the_panels_that_it_does_not_show() -> None:
    panels = [Panel(title=f"{n}", x_label="x", y_label="y", lines=[]) for n in range(3)]
    figure = Figure(name="f", caption="Caption.", panels=panels, most_panels=2)
    assert list(figure.shown_panels) == panels[:2]
    assert figure.full_caption == "Caption. 1 more panel is not shown."


@pytest.mark.parametrize(
    ("total", "sentence"), [(10, ""), (11, "1 more row is not shown."), (1_211, "1,201 more rows are not shown.")]
)
def test_the_number_of_things_that_are_not_shown(total: int, sentence: str) -> None:
    assert not_shown(total, 10, "row") == sentence


def test_empty_sentences_are_left_out() -> None:
    assert sentences("One.", "", "Two.") == "One. Two."


def test_many_bars_are_divided_into_panels_without_losing_any() -> None:
    bars = [Bar(label=f"{n}", estimate=Estimate(value=n / 100), group="g") for n in range(BARS_A_PANEL + 1)]
    panels = forests("Rates", "share", bars)
    assert [bar for panel in panels for bar in panel.bars] == bars
    assert [panel.title for panel in panels] == ["Rates (1 of 2)", "Rates (2 of 2)"]
    assert [panel.title for panel in forests("Rates", "share", bars[:1])] == ["Rates"]
