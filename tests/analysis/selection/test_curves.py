"""Curves over trials are expectations where any order was as likely, and otherwise follow the order of the trials."""

from pathlib import Path

import pytest
from synthetic_spaces import (
    ASHA,
    OPTUNA,
    SINGLE_MODEL,
    answer_to,
    better_by_rate,
    search_study,
    table_of,
    trial_choice,
)

from analysis.answer import Answer, Panel
from analysis.selection.curves import best_so_far
from analysis.selection.equal_budgets import TrialScore, equal_budgets


def has_expected_curves(answer: Answer) -> bool:
    return any("expected" in table.title.lower() for table in answer.tables) or any(
        figure.name == "expected-best" for figure in answer.figures
    )


def test_random_trials_have_expected_curves_of_trials_and_not_of_runs(tmp_path: Path) -> None:
    answer = answer_to("tuning", search_study(tmp_path, better_by_rate()).results())
    assert has_expected_curves(answer)
    assert [row[1] for row in table_of(answer, "Expected test accuracy").rows] == [6, 6]
    assert any("the mean over its seeds" in method for method in answer.methods)


@pytest.mark.parametrize("text", [OPTUNA, ASHA])
def test_trials_that_depend_on_one_another_have_curves_in_their_order(tmp_path: Path, text: str) -> None:
    answer = answer_to("tuning", search_study(tmp_path, better_by_rate(), text).results())
    assert not has_expected_curves(answer)
    assert [row[1] for row in table_of(answer, "so far").rows] == [6, 6]
    figure = next(figure for figure in answer.figures if figure.name == "best-so-far")
    panels = [panel for panel in figure.panels if isinstance(panel, Panel)]
    assert len(panels) == len(figure.panels) == 2
    assert all(line.low is None for panel in panels for line in panel.lines)
    assert any("in the order of the trials, without a band" in method for method in answer.methods)


def test_the_best_so_far_is_that_of_the_first_trials(tmp_path: Path) -> None:
    choices = [trial_choice(number) for number in (2, 0, 5, 1, 3)]
    text = OPTUNA.replace("examples: 4000", "examples: 40000")
    results = search_study(tmp_path, better_by_rate(), text, choices).results()
    row = table_of(answer_to("tuning", results), "so far").rows[0]
    trials = equal_budgets(results).trials["tiny-bert"]
    assert list(row[2:]) == [trials[0].test_accuracy, trials[0].test_accuracy, trials[2].test_accuracy]


def test_of_equal_trials_the_earlier_is_the_best_so_far() -> None:
    trials = [TrialScore(gain=1.0, validation_accuracy=0.9, test_accuracy=test) for test in (0.8, 0.7)]
    assert best_so_far(trials, "test") == [0.8, 0.8]


def test_a_search_of_a_single_model_has_curves_too(tmp_path: Path) -> None:
    answer = answer_to("tuning", search_study(tmp_path, better_by_rate(), SINGLE_MODEL).results())
    assert has_expected_curves(answer)
