"""Drops in accuracy are attributed to overfitting or collapse, and failures are counted."""

from collections.abc import Callable
from pathlib import Path

import pytest
from synthetic_spaces import GRID, SMALL, answer_to, near, results_of, table_of
from synthetic_study import Story, at_chance, collapsing, healthy, non_finite, overfitting

from analysis.answer import UNDETERMINED, Panel
from analysis.evidence import learning_curves
from analysis.questions import collapse_or_overfitting

QUESTION = "collapse_or_overfitting"


@pytest.mark.parametrize(
    ("stories", "verdict"),
    [
        ((collapsing, healthy), "collapse"),
        ((overfitting, healthy), "overfitting"),
        ((collapsing, overfitting), "both"),
        ((healthy, healthy), "neither"),
        ((non_finite, healthy), "collapse"),
    ],
)
def test_drops_are_named(tmp_path: Path, stories: tuple[Callable[[], Story], ...], verdict: str) -> None:
    results = results_of(tmp_path, lambda settings, rng: stories[settings.seed % 2]())
    assert answer_to(QUESTION, results).verdict == verdict


def test_failures_are_counted_with_their_interval(tmp_path: Path) -> None:
    results = results_of(tmp_path, lambda settings, rng: collapsing() if settings.seed == 0 else healthy())
    answer = answer_to(QUESTION, results)
    assert answer.estimate is not None
    assert answer.estimate.value == 0.25
    assert answer.estimate.low < 0.25 < answer.estimate.high
    assert any("predicts one class for every example" in method for method in answer.methods)


def test_runs_that_never_learned_give_no_verdict(tmp_path: Path) -> None:
    answer = answer_to(QUESTION, results_of(tmp_path, lambda settings, rng: at_chance()))
    assert answer.verdict == UNDETERMINED


def test_the_resolution_of_a_small_validation_split_is_a_caveat(tmp_path: Path) -> None:
    text = SMALL.replace("10000", "900").replace("[linear]", "[constant, linear]")
    answer = answer_to(QUESTION, results_of(tmp_path, lambda settings, rng: healthy(0.53), text))
    assert any("90 validation examples" in caveat for caveat in answer.caveats)


def test_rows_bars_and_curves_that_are_not_shown_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(learning_curves, "MOST_GROUPS", 3)
    monkeypatch.setattr(collapse_or_overfitting, "MOST_BARS", 6)
    monkeypatch.setattr(collapse_or_overfitting, "MOST_CONDITIONS", 7)

    results = results_of(tmp_path, lambda settings, rng: collapsing() if settings.seed == 0 else healthy(), GRID)
    answer = answer_to(QUESTION, results)
    by_condition, by_run = (table_of(answer, title) for title in ("Failures by condition", "Each run"))
    assert (len(by_condition.shown_rows), len(by_run.shown_rows)) == (7, 60)
    assert by_condition.full_note.endswith("Conditions that failed most come first. 1 more row is not shown.")
    assert by_run.full_note.endswith("4 more rows are not shown.")
    # The worst runs come first where not all are shown.
    assert {row[1] for row in by_run.rows[:8]} == {"collapsed"}
    curves, rates = answer.figures
    assert len(curves.shown_panels) == 6
    assert curves.full_caption.endswith("1 more group is not shown.")
    assert rates.full_caption.endswith("2 more conditions are not shown.")


def test_a_collapse_is_marked_on_both_curves(tmp_path: Path) -> None:
    """On accuracy at its first epoch at chance, on training loss at the last value before the collapse."""
    results = results_of(tmp_path, lambda settings, rng: collapsing(near(0.9, rng)))
    curves = answer_to(QUESTION, results).figures[0]
    accuracy, loss = (panel for panel in curves.panels if panel.title.startswith("tiny-bert"))
    assert isinstance(accuracy, Panel)
    assert isinstance(loss, Panel)
    assert [line.marks for line in accuracy.lines] == [[(line.x[2], line.y[2])] for line in accuracy.lines]
    assert [[y for _, y in line.marks] for line in loss.lines] == [[0.35]] * 8
