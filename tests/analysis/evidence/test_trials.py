"""A search's report says how cells were chosen, what that cost, and which trajectories were pruned."""

import re
from dataclasses import replace
from pathlib import Path

import pytest
from synthetic_spaces import (
    ASHA,
    OPTUNA,
    SEARCH,
    SIX_CHOICES,
    SMALL,
    answer_to,
    better_by_rate,
    results_of,
    search_study,
    some_pruned,
)
from synthetic_study import healthy

from analysis.evidence.trials import describe_selection, search_warnings, searches_table, trial_results
from analysis.findings import answer_all
from analysis.rendering.markdown import markdown
from analysis.report import main
from analysis.results import read


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (SEARCH, "random search .* 6 trials for each model, 3 seeds each. Spent so far: tiny-bert 6 trials and tiny-r"),
        (OPTUNA, "Optuna's TPE for the highest accuracy on validation"),
        (OPTUNA.replace("trials: 6", "examples: 500000, objective: loss"), "lowest loss .* 500,000 examples for each"),
        (ASHA, "ASHA, Li et al. 2020.*grace 1 epoch, reduction factor 3"),
    ],
)
def test_the_report_says_how_cells_were_chosen(tmp_path: Path, text: str, expected: str) -> None:
    path = search_study(tmp_path, better_by_rate(), text).write(tmp_path / "studies").path
    assert main([str(path)]) == 0
    for name in ("report.md", "report.html"):
        content = (path / name).read_text().replace("\n", " ").replace("&#x27;", "'")
        assert re.search(expected, content[: content.index("Answers")])


def test_a_grid_names_its_axes_and_has_no_table_of_searches(tmp_path: Path) -> None:
    results = results_of(tmp_path, lambda settings, rng: healthy(), SMALL)
    assert describe_selection(results) == [
        "Chosen as a grid: every combination of model, lr schedule, learning rate and seed that the space allows."
    ]
    assert searches_table(results) is None


def test_an_open_search_is_not_whole_and_has_a_warning(tmp_path: Path) -> None:
    study = search_study(tmp_path, better_by_rate())
    results = replace(study, plan=replace(study.plan, open=True)).results()
    assert not results.census.whole
    assert "The search is open" in markdown(answer_all(results))


def test_a_repeated_choice_is_one_trial_and_costs_once(tmp_path: Path) -> None:
    results = search_study(tmp_path, better_by_rate(), SEARCH, [*SIX_CHOICES, SIX_CHOICES[0]]).results()
    assert len(results.plan.trials) == 14
    assert len(trial_results(results)) == 12
    table = searches_table(results)
    assert table is not None
    assert [row[1:7] for row in table.rows] == [("6 trials", "6 trials", 6, 6, 18, 0)] * 2


def test_pruned_cells_are_named_counted_and_warned_of(tmp_path: Path) -> None:
    path = search_study(tmp_path, some_pruned, ASHA).write(tmp_path / "studies").path
    assert main([str(path)]) == 0
    results = read(path)
    cells = [result for result in results.cells if result.stop_reason == "cut"]
    assert results.census.pruned == len(cells) == 6
    assert results.census.complete == 36
    html, text = (path / "report.html").read_text(), (path / "report.md").read_text()
    for content in (html, text):
        opening = content[: content.index("Answers")]
        assert "6 complete cells of 36 ended because the trial scheduler pruned them" in opening
        assert "pruning hides collapses" in opening
        assert "failure rates cover only the runs that the scheduler did not stop" in opening
        for result in cells:
            assert result.cell.name in opening
    assert "<dt>cells pruned</dt><dd>6</dd>" in html


def test_pruned_runs_have_not_ended_and_are_in_no_failure_rate(tmp_path: Path) -> None:
    results = search_study(tmp_path, some_pruned, ASHA).results()
    assert sum(run.ended for run in results.runs) == 30
    collapse = answer_to("collapse_or_overfitting", results)
    assert "2 of 30 ended runs" in collapse.sentence
    assert any("search.scheduler=none" in proposal.command for proposal in collapse.next_commands)


def test_a_search_without_pruned_cells_has_no_warning(tmp_path: Path) -> None:
    assert search_warnings(search_study(tmp_path, better_by_rate(), ASHA).results()) == []
