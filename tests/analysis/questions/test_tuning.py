"""Models are compared as validation selects them on other seeds, at equal budgets; pruned and failed trials count."""

from pathlib import Path
from statistics import fmean

import numpy as np
import pytest
from synthetic_spaces import (
    ASHA,
    AT_CHANCE,
    GRID,
    MODEL_RATES,
    NO_SCORE,
    OPTUNA,
    SEARCH,
    SINGLE_MODEL,
    SIX_CHOICES,
    answer_to,
    best_seed_of_a_bad_trial,
    better_by_rate,
    models_differ,
    near,
    results_of,
    search_study,
    settled_answer,
    table_of,
    trial_choice,
)
from synthetic_study import Story, at_chance, healthy, pruned

from analysis.answer import NOT_ASKED, UNDETERMINED
from study.settings import Settings

QUESTION = "tuning"
SELECTED = "What validation selected"
# tiny-bert has one learning rate; tiny-roberta twenty, which are equally good.
TWENTY_AGAINST_ONE = """
data: {source: builtin:reviews, examples: 4000}
fixed: {epochs: 1}
axes:
  model: [tiny-bert, tiny-roberta]
  learning_rate: {low: 1.0e-5, high: 1.0e-1, log: true}
  seed: [0, 1, 2]
search: {method: random, trials: 20, per: model}
"""


def test_a_model_that_is_better_only_when_tuned_is_better(tmp_path: Path) -> None:
    """tiny-roberta is worse at one rate and better at the other, which validation selects."""

    def tell(settings: Settings, rng: np.random.Generator) -> Story:
        if settings.model == "tiny-bert":
            return healthy(near(0.88, rng))
        return healthy(near(0.93 if settings.learning_rate == 1e-3 else 0.7, rng))

    answer = settled_answer(QUESTION, results_of(tmp_path, tell, GRID))
    assert answer.verdict == "tiny-roberta"
    assert answer.estimate is not None
    assert answer.estimate.low < 0.05 < answer.estimate.high


def test_models_that_are_alike_when_tuned_are_so_within_a_point(tmp_path: Path) -> None:
    """Each is best at its own rate; at either rate they are eight points apart."""

    def tell(settings: Settings, rng: np.random.Generator) -> Story:
        own = (settings.model == "tiny-bert") == (settings.learning_rate == 1e-3)
        return healthy(near(0.9 if own else 0.82, rng, 0.001))

    answer = settled_answer(QUESTION, results_of(tmp_path, tell, GRID.replace("10000", "60000")))
    assert answer.verdict == "neither"
    assert answer.sentence.startswith("When tuned, neither is better by 1.0 points or more")


def test_models_of_which_none_learned_are_not_shown_to_be_alike(tmp_path: Path) -> None:
    """They predict one class, so that every example is a tie."""
    answer = settled_answer(QUESTION, results_of(tmp_path, lambda s, rng: at_chance(), GRID))
    assert answer.verdict == UNDETERMINED


def test_a_luckier_selection_is_not_a_better_model(tmp_path: Path) -> None:
    """Seeds spread by two points; the best of twenty is 2 points above their mean on the seeds that selected it."""
    fitted, naive = [], []
    many = [{"learning_rate": 1e-5 * 1.5**number} for number in range(20)]
    one = [many[0]] * 1 + [{"learning_rate": 0.09 + 1e-4 * number} for number in range(19)]
    for seed in range(8):

        def tell(settings: Settings, rng: np.random.Generator) -> Story:
            worse = settings.model == "tiny-bert" and settings.learning_rate > 0.08
            return healthy(0.88 - 0.1 * worse + rng.normal(0, 0.02), epochs=1)

        study = search_study(tmp_path, tell, TWENTY_AGAINST_ONE, {"tiny-bert": one, "tiny-roberta": many}, seed=seed)
        answer = answer_to(QUESTION, study.results())
        sign = -1 if answer.estimated.startswith("test accuracy of tiny-bert minus") else 1
        assert answer.estimate is not None
        fitted.append(sign * answer.estimate.value)
        scores = {row[0]: row[4] for row in table_of(answer, SELECTED).rows}
        naive.append(float(str(scores["tiny-roberta"])) - float(str(scores["tiny-bert"])))
    assert fmean(naive) - fmean(fitted) > 0.008
    assert abs(fmean(fitted)) < 0.018


def test_fewer_than_three_configurations_are_no_tuning(tmp_path: Path) -> None:
    answer = settled_answer(QUESTION, results_of(tmp_path, models_differ(0.05)))
    assert (answer.verdict, answer.claim) == (UNDETERMINED, None)
    assert "a selection from so few is not tuning" in answer.sentence


def test_complete_grids_have_all_of_their_configurations(tmp_path: Path) -> None:
    """Cells that stop early are read off the same trajectories: they are no configurations without runs."""
    text = GRID + "  early_stopping: [none, {patience: 1}]\n"
    answer = answer_to(QUESTION, results_of(tmp_path, models_differ(0.02), text))
    assert not any("planned configurations" in caveat for caveat in answer.caveats)


def test_models_with_their_own_learning_rates_are_compared(tmp_path: Path) -> None:
    answer = settled_answer(QUESTION, results_of(tmp_path, models_differ(0.02), MODEL_RATES))
    assert answer.verdict == "tiny-roberta"
    assert any("its own learning rate" in caveat for caveat in answer.caveats)


def test_every_model_selects_from_the_same_number_of_trials(tmp_path: Path) -> None:
    """tiny-bert's best trials are its last two, which tiny-roberta has not made."""
    text = SEARCH.replace("trials: 6", "trials: 8")
    choices = {"tiny-bert": [trial_choice(number) for number in range(8)], "tiny-roberta": SIX_CHOICES}
    answer = answer_to(QUESTION, search_study(tmp_path, better_by_rate(), text, choices).results())
    assert "With 6 trials each, each selected on the other seeds" in answer.sentence
    assert any("complete trials: tiny-bert 8 and tiny-roberta 6. The first 6" in caveat for caveat in answer.caveats)


def test_the_methods_say_whether_models_had_the_same_configurations(tmp_path: Path) -> None:
    same = answer_to(QUESTION, search_study(tmp_path, better_by_rate()).results())
    assert any("the same for all models" in method for method in same.methods)
    choices = {"tiny-bert": SIX_CHOICES, "tiny-roberta": [trial_choice(number) for number in range(1, 7)]}
    own = answer_to(QUESTION, search_study(tmp_path, better_by_rate(), OPTUNA, choices).results())
    assert any("each model's own" in method for method in own.methods)


def test_the_model_that_is_better_at_its_own_best_is_better(tmp_path: Path) -> None:
    def story(settings: Settings, rng: np.random.Generator) -> Story | None:
        return better_by_rate(0.9 if settings.model == "tiny-bert" else 0.8)(settings, rng)

    text = OPTUNA.replace("examples: 4000", "examples: 20000")
    assert settled_answer(QUESTION, search_study(tmp_path, story, text).results()).verdict == "tiny-bert"


@pytest.mark.parametrize("bad", [NO_SCORE, AT_CHANCE])
def test_a_trial_with_one_good_seed_is_not_selected(tmp_path: Path, bad: Story) -> None:
    answer = answer_to(QUESTION, search_study(tmp_path, best_seed_of_a_bad_trial(bad)).results())
    assert not any("7.59375e-05" in str(row[1]) for row in table_of(answer, SELECTED).rows)
    assert any("without a finite score" in caveat for caveat in answer.caveats) == (bad is NO_SCORE)


def test_the_lowest_loss_is_selected_where_the_search_looked_for_it(tmp_path: Path) -> None:
    """The most accurate trial is so over-confident that its loss is the highest."""

    def story(settings: Settings, rng: np.random.Generator) -> Story:
        confident = settings.learning_rate == SIX_CHOICES[5]["learning_rate"]
        return healthy(0.9, scale=6.0) if confident else healthy(0.8)

    by_accuracy, by_loss = (
        table_of(answer_to(QUESTION, search_study(tmp_path, story, text).results()), SELECTED)
        for text in (SEARCH, SEARCH.replace("per: model", "per: model, objective: loss"))
    )
    assert all("7.59375e-05" in str(row[1]) for row in by_accuracy.rows)
    assert not any("7.59375e-05" in str(row[1]) for row in by_loss.rows)


def test_a_pruned_trial_counts_with_what_it_scored(tmp_path: Path) -> None:
    """The best trial was pruned after its second epoch, at which it was the best."""

    def story(settings: Settings, rng: np.random.Generator) -> Story:
        best = settings.learning_rate == SIX_CHOICES[2]["learning_rate"]
        return pruned(0.95, epochs=2) if best else healthy(0.7)

    answer = answer_to(QUESTION, search_study(tmp_path, story, ASHA).results())
    assert all("2.25e-05" in str(row[1]) for row in table_of(answer, SELECTED).rows)
    assert any("2 trials of 12 have a cell that the scheduler pruned" in caveat for caveat in answer.caveats)
    assert not any("halving would have saved" in table.title for table in answer.tables)
    assert any("unknown for models with pruned runs" in caveat for caveat in answer.caveats)


def test_a_search_of_a_single_model_shows_its_trials_and_curves(tmp_path: Path) -> None:
    answer = answer_to(QUESTION, search_study(tmp_path, better_by_rate(), SINGLE_MODEL).results())
    assert answer.verdict == NOT_ASKED
    assert "one model" in answer.sentence
    assert table_of(answer, SELECTED).rows[0][0] == "tiny-bert"
    assert answer.figures[0].name == "expected-best"


def test_one_seed_is_named_as_a_reason_for_no_verdict(tmp_path: Path) -> None:
    text = SEARCH.replace("seed: [0, 1, 2]", "seed: [0]")
    answer = answer_to(QUESTION, search_study(tmp_path, better_by_rate(), text).results())
    assert answer.verdict == UNDETERMINED
    assert "share too few seeds to select on some and to score another" in answer.sentence
