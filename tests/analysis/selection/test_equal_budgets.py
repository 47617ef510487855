"""Every model selects from equal budgets, and trials that are incomplete, bad or pruned count as such."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from synthetic_spaces import (
    ASHA,
    AT_CHANCE,
    GRID,
    NO_SCORE,
    OPTUNA,
    SEARCH,
    SIX_CHOICES,
    answer_to,
    best_seed_of_a_bad_trial,
    better_by_rate,
    results_of,
    search_study,
    trial_choice,
)
from synthetic_study import Story, healthy, make_synthetic, pruned, search_of

from analysis.results import Results
from analysis.selection.equal_budgets import equal_budgets
from study.records import Outcome
from study.settings import Settings

EIGHT_CHOICES = [trial_choice(number) for number in range(8)]


def candidate_rates(results: Results) -> dict[str, list[float]]:
    """The learning rates that each model has to select from."""
    candidates = equal_budgets(results).candidates
    return {name: [candidate.settings.learning_rate for candidate in members] for name, members in candidates.items()}


def sizes(results: Results) -> dict[str, int]:
    return {name: len(rates) for name, rates in candidate_rates(results).items()}


def test_every_model_has_the_same_number_of_trials(tmp_path: Path) -> None:
    """tiny-bert's best trials are its last two, which tiny-roberta has not made."""
    text = SEARCH.replace("trials: 6", "trials: 8")
    results = search_study(
        tmp_path, better_by_rate(), text, {"tiny-bert": EIGHT_CHOICES, "tiny-roberta": SIX_CHOICES}
    ).results()
    assert sizes(results) == {"tiny-bert": 6, "tiny-roberta": 6}
    assert any("tiny-bert 8 and tiny-roberta 6. The first 6" in caveat for caveat in equal_budgets(results).caveats)


def test_incomplete_trials_are_left_out_and_counted(tmp_path: Path) -> None:
    def story(settings: Settings, rng: np.random.Generator) -> Story | None:
        if settings.model == "tiny-bert" and settings.learning_rate == SIX_CHOICES[0]["learning_rate"]:
            outcome = Outcome(status="failed", error="no memory")
            return replace(healthy(epochs=1), outcome=outcome) if settings.seed else None
        return better_by_rate()(settings, rng)

    results = search_study(tmp_path, story).results()
    rates = candidate_rates(results)
    assert rates["tiny-bert"] == [choice["learning_rate"] for choice in SIX_CHOICES[1:]]
    assert rates["tiny-roberta"] == [choice["learning_rate"] for choice in SIX_CHOICES[:5]]
    expected = "1 trial of 12 is not complete and is left out, 1 of them because a cell failed."
    assert expected in answer_to("tuning", results).caveats


def test_a_budget_of_examples_has_all_trials_within_it(tmp_path: Path) -> None:
    text = OPTUNA.replace("trials: 6", "examples: 200000")
    choices = {"tiny-bert": EIGHT_CHOICES, "tiny-roberta": SIX_CHOICES}
    study = search_study(tmp_path, better_by_rate(), text, choices)
    results = study.results()
    assert sizes(results) == {"tiny-bert": 8, "tiny-roberta": 6}
    assert "200,000 examples each (8 and 6 trials)" in answer_to("tuning", results).sentence
    open_results = replace(study, plan=replace(study.plan, open=True)).results()
    # While both searches run, what both have spent: six trials of 3 seeds, 4 epochs and 3,200 examples.
    assert sizes(open_results) == {"tiny-bert": 6, "tiny-roberta": 6}


def test_a_search_that_chose_the_model_too_is_unequal_by_design(tmp_path: Path) -> None:
    models = ["tiny-bert", "tiny-bert", "tiny-roberta", "tiny-bert", "tiny-roberta", "tiny-bert"]
    choices = [{**choice, "model": model} for choice, model in zip(SIX_CHOICES, models, strict=True)]
    space, plan = search_of(tmp_path, SEARCH.replace(", per: model", ""), choices)
    results = make_synthetic(space, plan, better_by_rate()).results()
    assert sizes(results) == {"tiny-bert": 2, "tiny-roberta": 2}
    assert any("not equal by design" in caveat for caveat in equal_budgets(results).caveats)


@pytest.mark.parametrize("bad", [NO_SCORE, AT_CHANCE])
def test_bad_trials_count_as_bad_and_are_not_dropped(tmp_path: Path, bad: Story) -> None:
    """The trial of the highest rate is the best for seed 0, and counts as chance for the others."""
    budgets = equal_budgets(search_study(tmp_path, best_seed_of_a_bad_trial(bad)).results())
    trials = budgets.trials["tiny-bert"]
    assert len(trials) == 6
    assert trials[5].validation_accuracy == pytest.approx((0.99 + 2 * 0.5) / 3, abs=0.02)
    assert min(trials, key=lambda trial: trial.gain) is trials[5]


def test_pruned_trials_are_candidates(tmp_path: Path) -> None:
    def story(settings: Settings, rng: np.random.Generator) -> Story:
        best = settings.learning_rate == SIX_CHOICES[2]["learning_rate"]
        return pruned(0.95, epochs=2) if best else healthy(0.7)

    results = search_study(tmp_path, story, ASHA).results()
    assert candidate_rates(results)["tiny-bert"] == [choice["learning_rate"] for choice in SIX_CHOICES]


def test_a_grid_has_the_configurations_that_every_model_has_in_the_order_of_the_plan(tmp_path: Path) -> None:
    def story(settings: Settings, rng: np.random.Generator) -> Story | None:
        missing = settings.model == "tiny-bert" and settings.lr_schedule == "linear" and settings.learning_rate == 1e-3
        return None if missing else healthy()

    results = results_of(tmp_path, story, GRID)
    budgets = equal_budgets(results)
    for candidates in budgets.candidates.values():
        configurations = [(c.settings.lr_schedule, c.settings.learning_rate) for c in candidates]
        assert configurations == [("constant", 5e-4), ("constant", 1e-3), ("linear", 5e-4)]
    assert budgets.description == "3 configurations each"
    assert any("Of 4 planned configurations, 3 have ended runs" in caveat for caveat in budgets.caveats)
