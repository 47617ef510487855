"""The settings that matter are found by analysis of variance in a full grid, and by PED-ANOVA in a sample."""

from pathlib import Path

import numpy as np
import pytest
from synthetic_spaces import GRID, SEARCH, better_by_rate, near, results_of, search_study, trial_choice
from synthetic_study import Story, healthy

from analysis.selection import importance as module
from analysis.selection.importance import importance
from study.settings import Settings


def rate_depends_on_model(settings: Settings, rng: np.random.Generator) -> Story:
    if settings.model == "tiny-bert":
        return healthy(near(0.88, rng))
    return healthy(near(0.93 if settings.learning_rate == 1e-3 else 0.7, rng))


def test_a_full_grid_is_judged_by_analysis_of_variance(tmp_path: Path) -> None:
    (table,) = importance(results_of(tmp_path, rate_depends_on_model, GRID)).tables
    assert table.title == "Shares of the variance of validation accuracy"
    assert {row[0] for row in table.rows[:3]} == {"model × learning_rate", "learning_rate", "model"}
    assert sum(float(str(row[2])) for row in table.rows) == pytest.approx(1)
    # Shares describe; whether a setting matters is another table's test, and a failed run's score no F-test's business.
    assert table.columns == ("setting", "degrees of freedom", "share of variance")


def test_a_sample_is_judged_by_ped_anova(tmp_path: Path) -> None:
    text = GRID + "when:\n  - match: {lr_schedule: linear, learning_rate: 1.0e-3}\n    drop: true\n"

    def story(settings: Settings, rng: np.random.Generator) -> Story:
        return healthy(near(0.9 if settings.learning_rate == 1e-3 else 0.8, rng))

    (table,) = importance(results_of(tmp_path, story, text)).tables
    assert "PED-ANOVA" in table.title
    assert table.rows[0][0] == "learning_rate"


def test_ranges_of_a_search_are_judged_by_ped_anova(tmp_path: Path) -> None:
    choices = [trial_choice(number) for number in range(12)]
    text = SEARCH.replace("high: 1.0e-3", "high: 1.0e-2")
    (table,) = importance(search_study(tmp_path, better_by_rate(), text, choices).results()).tables
    assert "PED-ANOVA" in table.title
    assert table.rows[0][0] == "learning_rate"
    assert "warmup_fraction" in {row[0] for row in table.rows}


def test_settings_that_are_not_shown_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_ROWS", 3)
    (table,) = importance(results_of(tmp_path, rate_depends_on_model, GRID)).tables
    assert len(table.shown_rows) == 3
    assert table.full_note.endswith(f"{len(table.rows) - 3} more rows are not shown.")


def test_too_few_trials_have_no_table(tmp_path: Path) -> None:
    text = SEARCH.replace("[tiny-bert, tiny-roberta]", "[tiny-bert]")
    assert importance(search_study(tmp_path, better_by_rate(), text).results()).tables == ()
