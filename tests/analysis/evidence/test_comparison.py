"""Runs are usable where their checkpoint beats chance, and arms are paired by seed and example."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from synthetic_spaces import GRID, MODEL_RATES, SMALL, results_of
from synthetic_study import (
    Story,
    at_chance,
    collapsing,
    healthy,
    make_synthetic,
    non_finite,
    plan_of,
    pruned,
    story,
)

from analysis.answer import NOT_ASKED
from analysis.evidence.comparison import (
    correctness,
    ended_runs,
    example_losses,
    model_pairs,
    model_specific_caveats,
    model_specific_keys,
    model_strata,
    most_seeds,
    paired_differences,
    run_differences,
    run_strata,
    selected_test_accuracies,
    single_model_answer,
    usable_runs,
)
from study.settings import Settings


def test_ended_runs_reached_their_own_end_and_usable_ones_beat_chance_at_their_best(tmp_path: Path) -> None:
    stories = (collapsing(), at_chance(), non_finite(), pruned())
    results = results_of(tmp_path, lambda settings, rng: stories[settings.seed])
    assert {run.settings.seed for run in ended_runs(results)} == {0, 1, 2}
    # What collapsed had a good checkpoint before, and so had what ended without a number.
    assert {run.settings.seed for run in usable_runs(results)} == {0, 2}
    assert len(selected_test_accuracies(usable_runs(results))) == 8


def test_under_imbalance_usable_runs_beat_the_frequent_class(tmp_path: Path) -> None:
    def tell(settings: Settings, rng: np.random.Generator) -> Story:
        return at_chance() if settings.seed else story([0.945] * 4, [0.2, 0.18, 0.17, 0.16])

    results = results_of(tmp_path, tell, positive=0.9)
    assert {run.settings.seed for run in usable_runs(results)} == {0}


def test_differences_are_paired_by_seed_and_example(tmp_path: Path) -> None:
    """Seed 3 has one model only, so that three pairs are left."""

    def tell(settings: Settings, rng: np.random.Generator) -> Story | None:
        better = settings.model == "tiny-roberta"
        return None if settings.seed == 3 and better else healthy(0.9 if better else 0.85)

    results = results_of(tmp_path, tell)
    groups = model_strata(results, usable_runs(results))
    differences = paired_differences(results, groups, "tiny-roberta", "tiny-bert", "test", correctness)
    assert [scores.seeds for scores in differences] == [(0, 1, 2)] * 2
    first = [group.arms[name].members[1] for group in groups[:1] for name in ("tiny-roberta", "tiny-bert")]
    scores = [results.predictions.scores(run.owner, "test") for run in first]
    assert scores[0] is not None
    assert scores[1] is not None
    assert (differences[0].scores[1] == scores[0].correct.astype(float) - scores[1].correct).all()
    losses = paired_differences(results, groups, "tiny-roberta", "tiny-bert", "test", example_losses)
    assert losses[0].scores[1] == pytest.approx(scores[0].nll - scores[1].nll)


def test_arms_without_predictions_have_no_differences(tmp_path: Path) -> None:
    space, plan = plan_of(tmp_path, SMALL)
    results = replace(make_synthetic(space, plan, lambda s, rng: healthy()), predictions={}).results()
    (group, _) = model_strata(results, ended_runs(results))
    arms = [group.arms[name].members for name in ("tiny-roberta", "tiny-bert")]
    assert run_differences(results, arms[0], arms[1], "test", correctness) is None


def test_strata_differ_in_what_is_compared_alone(tmp_path: Path) -> None:
    results = results_of(tmp_path, lambda s, rng: healthy(), GRID.replace("10000", "1000"))
    groups = run_strata(results.runs, ["lr_schedule"])
    assert [(g.settings.model, g.settings.learning_rate) for g in groups] == [
        ("tiny-bert", 5e-4),
        ("tiny-bert", 1e-3),
        ("tiny-roberta", 5e-4),
        ("tiny-roberta", 1e-3),
    ]
    assert {tuple(group.arms) for group in groups} == {("constant", "linear")}
    assert most_seeds(results.runs) == 8


def test_a_models_own_settings_are_part_of_it(tmp_path: Path) -> None:
    results = results_of(tmp_path, lambda s, rng: healthy(), MODEL_RATES.replace("30000", "1000"))
    assert model_specific_keys(results) == ("learning_rate",)
    assert len(model_strata(results, results.runs)) == 4
    assert "its own learning rate" in model_specific_caveats(results)[0]
    assert model_pairs(results) == [("tiny-bert", "tiny-roberta")]
    assert single_model_answer(results, "Which?") is None


def test_one_model_has_nothing_to_be_compared_with(tmp_path: Path) -> None:
    text = SMALL.replace("[tiny-bert, tiny-roberta]", "[tiny-bert]")
    answer = single_model_answer(results_of(tmp_path, lambda s, rng: healthy(), text), "Which?")
    assert answer is not None
    assert (answer.verdict, answer.sentence) == (NOT_ASKED, "The study has one model, tiny-bert.")
    assert "model=" in answer.next_commands[0].command
