"""A difference between models is found on test, excluded, or too small for this study; unlike conditions are told."""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from synthetic_spaces import GRID, MODEL_RATES, SMALL, models_differ, near, results_of, settled_answer, table_of
from synthetic_study import Story, at_chance, healthy, make_synthetic, plan_of

from analysis.answer import NOT_ASKED, UNDETERMINED
from analysis.statistics.intervals import mcnemar_exact
from study.settings import Settings

QUESTION = "which_split"


def test_a_difference_of_two_points_is_found(tmp_path: Path) -> None:
    answer = settled_answer(QUESTION, results_of(tmp_path, models_differ(0.02), SMALL.replace("10000", "30000")))
    assert answer.verdict == "tiny-roberta"
    assert answer.estimate is not None
    assert answer.estimate.low < -0.02 < answer.estimate.high < 0
    assert "over 8 pairs of runs in 2 conditions" in answer.sentence
    assert "agree on that difference" in answer.sentence


def test_an_interval_around_zero_shows_that_neither_is_better(tmp_path: Path) -> None:
    text = SMALL.replace("10000", "60000").replace("3]", "3, 4, 5, 6, 7]")
    answer = settled_answer(QUESTION, results_of(tmp_path, models_differ(0.0), text))
    assert answer.verdict == "neither"
    assert answer.sentence.startswith("Neither model is better by 1.0 points or more")


def test_a_small_test_split_is_undetermined_and_its_smallest_difference_is_reported(tmp_path: Path) -> None:
    answer = settled_answer(QUESTION, results_of(tmp_path, models_differ(0.002), SMALL.replace("10000", "2000")))
    assert answer.verdict == UNDETERMINED
    detectable = re.search(r"detect with 80 % power is ([\d.]+) points", answer.sentence)
    assert detectable
    assert 0.5 < float(detectable[1]) < 10


def test_models_of_which_each_is_better_under_one_schedule_depend_on_the_condition(tmp_path: Path) -> None:
    """Three points for one and three for the other: on the mean, neither is better."""

    def tell(settings: Settings, rng: np.random.Generator) -> Story:
        sign = (settings.model == "tiny-bert") == (settings.lr_schedule == "linear")
        return healthy(near(0.88 + 0.015 * (1 if sign else -1), rng, 0.002))

    answer = settled_answer(QUESTION, results_of(tmp_path, tell, GRID.replace("10000", "30000")))
    assert answer.verdict == "depends on the condition"
    assert len(re.findall(r"(linear|constant) · lr [\d.]+ [+−]\d", answer.sentence)) == 4


def test_conditions_that_differ_in_one_direction_have_one_answer(tmp_path: Path) -> None:
    def tell(settings: Settings, rng: np.random.Generator) -> Story:
        gain = 0.06 if settings.lr_schedule == "linear" else 0.02
        return healthy(near(0.86 + gain * (settings.model == "tiny-bert"), rng, 0.002))

    assert settled_answer(QUESTION, results_of(tmp_path, tell, GRID)).verdict == "tiny-bert"


def test_conditions_with_one_seed_are_kept(tmp_path: Path) -> None:
    """One condition of four has five seeds, and in it the other model is better than in the rest."""

    def tell(settings: Settings, rng: np.random.Generator) -> Story | None:
        replicated = settings.lr_schedule == "linear" and settings.learning_rate == 1e-3
        if not replicated and settings.seed:
            return None
        gain = 0.014 if replicated else -0.03
        return healthy(near(0.88 + gain * (settings.model == "tiny-bert"), rng, 0.002))

    answer = settled_answer(QUESTION, results_of(tmp_path, tell, GRID.replace("3, 4, 5, 6, 7]", "3, 4]")))
    assert answer.verdict == "depends on the condition"
    assert answer.estimate is not None
    assert answer.estimate.value == pytest.approx(-0.019, abs=0.006)
    assert len(re.findall(r"(?:linear|constant) · lr [\d.]+ [+−]\d", answer.sentence)) == 4


def test_conditions_without_a_pair_are_counted_where_the_result_stands(tmp_path: Path) -> None:
    """In one condition the two models have no seed in common."""

    def tell(settings: Settings, rng: np.random.Generator) -> Story | None:
        apart = settings.lr_schedule == "linear" and settings.learning_rate == 1e-3
        if apart and settings.seed % 2 == (settings.model == "tiny-bert"):
            return None
        return models_differ(0.03)(settings, rng)

    answer = settled_answer(QUESTION, results_of(tmp_path, tell, GRID))
    assert answer.verdict == "tiny-roberta"
    assert "over 24 pairs of runs in 3 conditions; 1 condition without such a pair left out" in answer.sentence


def test_one_seed_has_its_p_value_over_the_examples_and_the_seeds_that_it_would_take(tmp_path: Path) -> None:
    text = SMALL.replace("seed: [0, 1, 2, 3]", "seed: [0]").replace("10000", "50000")
    answer = settled_answer(QUESTION, results_of(tmp_path, models_differ(0.01), text))
    assert (answer.verdict, answer.claim) == (UNDETERMINED, None)
    assert "on test over the examples alone (p " in answer.sentence
    price = r"at a spread over seeds of 0\.5 points, \d+ seeds would find a difference of 1\.0 points with 80 % power"
    assert re.search(price, answer.sentence)
    tiny = settled_answer(QUESTION, results_of(tmp_path, models_differ(0.01), text.replace("50000", "1000")))
    assert "50 seeds would not find a difference of 1.0 points on this many test examples" in tiny.sentence


def test_a_leak_into_one_models_validation_is_a_disagreement_of_the_splits(tmp_path: Path) -> None:
    def tell(settings: Settings, rng: np.random.Generator) -> Story:
        return replace(healthy(near(0.88, rng, 0.002)), leak=0.05 * (settings.model == "tiny-bert"))

    sentence = settled_answer(QUESTION, results_of(tmp_path, tell, GRID)).sentence
    assert re.search(r"The splits disagree on that difference by \+[3-7]\.\d points", sentence)


def test_a_leak_into_all_of_validation_is_a_level_that_is_too_high(tmp_path: Path) -> None:
    def tell(settings: Settings, rng: np.random.Generator) -> Story:
        return replace(healthy(near(0.88, rng, 0.002)), leak=0.05)

    sentence = settled_answer(QUESTION, results_of(tmp_path, tell, GRID)).sentence
    assert "The splits agree on that difference" in sentence
    assert re.search(r"Validation lies [3-7]\.\d points above test over all runs, more than the sampling", sentence)
    without = settled_answer(QUESTION, results_of(tmp_path, models_differ(0.02), GRID)).sentence
    assert "over all runs" not in without


def test_models_that_never_learned_cannot_be_compared(tmp_path: Path) -> None:
    results = results_of(tmp_path, lambda s, rng: at_chance() if s.model == "tiny-bert" else healthy())
    answer = settled_answer(QUESTION, results)
    assert answer.verdict == UNDETERMINED
    assert "No two models have ended runs, better than chance, of the same settings and seeds." in answer.sentence


def test_missing_predictions_are_named_as_such(tmp_path: Path) -> None:
    space, plan = plan_of(tmp_path, SMALL)
    study = replace(make_synthetic(space, plan, models_differ(0.02)), predictions={})
    answer = settled_answer(QUESTION, study.results())
    assert answer.verdict == UNDETERMINED
    assert "none whose predictions of the same examples are kept" in answer.sentence


def test_one_model_is_not_asked_about(tmp_path: Path) -> None:
    text = SMALL.replace("[tiny-bert, tiny-roberta]", "[tiny-bert]")
    assert settled_answer(QUESTION, results_of(tmp_path, lambda s, rng: healthy(), text)).verdict == NOT_ASKED


def test_each_seed_has_its_own_mcnemar_test(tmp_path: Path) -> None:
    results = results_of(tmp_path, models_differ(0.02))
    rows = table_of(settled_answer(QUESTION, results), "McNemar").rows
    assert len(rows) == 8
    first, second = (
        next(run for run in results.runs if run.settings.model == model and run.settings.learning_rate == 5e-4)
        for model in ("tiny-bert", "tiny-roberta")
    )
    correct = [scores.correct for run in (first, second) if (scores := results.predictions.scores(run.owner, "test"))]
    assert tuple(rows[0][3:]) == mcnemar_exact(*correct)


def test_models_with_their_own_learning_rates_are_compared(tmp_path: Path) -> None:
    answer = settled_answer(QUESTION, results_of(tmp_path, models_differ(0.02), MODEL_RATES))
    assert answer.verdict == "tiny-roberta"
    assert any("its own learning rate" in caveat for caveat in answer.caveats)
    assert [row[1] for row in table_of(answer, "by condition").rows] == [5] * 5


def test_three_models_have_three_comparisons_and_one_verdict_corrected_for_them(tmp_path: Path) -> None:
    text = SMALL.replace("[tiny-bert, tiny-roberta]", "[tiny-bert, tiny-roberta, bert-base-uncased]")
    results = results_of(tmp_path, models_differ(0.03), text.replace("10000", "30000"))
    answer = settled_answer(QUESTION, results)
    assert answer.verdict == "tiny-roberta"
    assert len(table_of(answer, "Models compared").rows) == 3
    assert any("3 pairs of models were compared" in caveat for caveat in answer.caveats)
