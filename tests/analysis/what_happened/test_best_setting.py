"""The best setting by validation and its distances: what chooses never estimates, and each distance has an interval."""

import re
from pathlib import Path

import numpy as np
import pytest
from synthetic_spaces import SMALL, near, results_of
from synthetic_study import Story, StoryOf, collapsing, healthy

from analysis.evidence.condition_scores import ranked_conditions
from analysis.evidence.selected_conditions import cross_fit, trained_apart
from analysis.results import Results
from analysis.what_happened.best_setting import best_setting
from analysis.what_happened.distances import distances
from study.settings import Settings

RATES = SMALL.replace("[tiny-bert, tiny-roberta]", "[tiny-bert]")
REFERENCE = "\nreferences:\n  - match: {learning_rate: 1.0e-3}\n    test_accuracy: 0.9\n    source: x\n"


def told(results: Results) -> tuple[str, str]:
    ranked = ranked_conditions(results)
    return best_setting(results, ranked), distances(results, ranked)


def by_rate(low: float, high: float, spread: float = 0.001) -> StoryOf:
    """These accuracies at the two rates."""

    def story(settings: Settings, rng: np.random.Generator) -> Story:
        return healthy(near(high if settings.learning_rate == 1e-3 else low, rng, spread))

    return story


def test_the_best_setting_has_its_test_score_with_interval_and_seeds(tmp_path: Path) -> None:
    best, distance = told(results_of(tmp_path, by_rate(0.8, 0.9), RATES))
    assert re.match(
        r"lr 0\.001, of 2 settings: validation accuracy 8\d\.\d %, test accuracy (8|9)\d\.\d % "
        r"\(95% interval \d\d\.\d to \d\d\.\d %\), 4 seeds\.$",
        best,
    )
    assert re.match(
        r"Its test accuracy is \d+\.\d points above that of the next best on validation, lr 0\.0005 "
        r"\(95% interval \+\d+\.\d to \+\d+\.\d, 4 seeds\)\. "
        r"The next best on validation is the study's first setting\.$",
        distance,
    )


def test_one_seed_has_the_interval_of_the_examples_and_says_that_seeds_are_missing(tmp_path: Path) -> None:
    best, distance = told(results_of(tmp_path, by_rate(0.8, 0.9), RATES.replace("[0, 1, 2, 3]", "[0]")))
    assert "(95% interval over the test examples alone" in best
    assert best.endswith("1 seed.")
    assert "(95% interval over the test examples alone +" in distance
    assert "With one seed a difference cannot be told from seed chance." in distance


def test_a_difference_that_chance_can_explain_is_said_to_be_one(tmp_path: Path) -> None:
    _, distance = told(results_of(tmp_path, by_rate(0.9, 0.9), RATES.replace("10000", "1000")))
    assert "chance can explain it" in distance


@pytest.mark.parametrize(
    ("text", "relation"),
    [
        (RATES.replace("[5.0e-4, 1.0e-3]", "[1.0e-3, 5.0e-4, 2.0e-4]"), "The best setting is the study's first"),
        (RATES.replace("[5.0e-4, 1.0e-3]", "[5.0e-4, 1.0e-3, 5.0e-5]"), "above that of the default setting, lr 5e-05"),
        (RATES.replace("[5.0e-4, 1.0e-3]", "[2.0e-4, 5.0e-4, 1.0e-3]"), "that of the study's first setting, lr 0.0002"),
        (RATES + REFERENCE, "The best setting is the published setting."),
    ],
)
def test_the_best_is_compared_with_what_is_published_or_default_or_first(
    tmp_path: Path, text: str, relation: str
) -> None:
    def story(settings: Settings, rng: np.random.Generator) -> Story:
        return healthy(near(0.8 + 100 * settings.learning_rate, rng, 0.001))

    assert relation in told(results_of(tmp_path, story, text))[1]


def test_settings_that_only_stop_elsewhere_in_the_same_runs_are_not_compared(tmp_path: Path) -> None:
    text = RATES.replace("axes:\n", "axes:\n  early_stopping: [none, {patience: 1}]\n").replace(
        "[linear]", "[constant]"
    )
    best, distance = told(results_of(tmp_path, by_rate(0.8, 0.9), text))
    assert best.startswith("lr 0.001, of 2 settings")
    assert "the next best on validation, lr 0.0005 (" in distance
    assert told(results_of(tmp_path, by_rate(0.8, 0.9), text.replace("[5.0e-4, 1.0e-3]", "[5.0e-4]")))[1] == ""


def test_runs_of_the_best_setting_that_ended_collapsed_are_counted(tmp_path: Path) -> None:
    def story(settings: Settings, rng: np.random.Generator) -> Story | None:
        return (
            collapsing(0.95)
            if settings.learning_rate == 1e-3 and settings.seed == 1
            else by_rate(0.8, 0.9)(settings, rng)
        )

    best, _ = told(results_of(tmp_path, story, RATES))
    assert "1 of its 4 runs failed; scored is the checkpoint that validation selected." in best


def test_what_the_seeds_choose_is_scored_on_other_seeds(tmp_path: Path) -> None:
    """Of equal settings the best by chance looks better than it is, but not on a seed that did not choose it."""
    rates = [1e-4 * (1 + i) for i in range(12)]
    text = RATES.replace("[5.0e-4, 1.0e-3]", str(rates)).replace("10000", "1000").replace("epochs: 4", "epochs: 1")
    text = text.replace("[0, 1, 2, 3]", "[0, 1]")
    flattered, fair = [], []
    for repeat in range(12):

        def story(settings: Settings, rng: np.random.Generator, repeat: int = repeat) -> Story:
            own = np.random.default_rng([repeat, settings.seed, round(1e4 * settings.learning_rate)])
            return Story(accuracy=[0.8 + float(own.normal(0, 0.04))], train_loss=[0.4], scale=[1.0])

        results = results_of(tmp_path, story, text)
        ranked = ranked_conditions(results)
        fitted = cross_fit(results, trained_apart(ranked), lambda order: (order[0], None))
        assert fitted is not None
        truth = np.mean([condition.accuracy.value for condition in ranked])
        flattered.append(ranked[0].accuracy.value - truth)
        fair.append(fitted.mean.value - truth)
    assert np.mean(flattered) > 0.02
    assert abs(np.mean(fair)) < 0.015


def test_where_other_seeds_choose_another_setting_the_report_says_so(tmp_path: Path) -> None:
    def story(settings: Settings, rng: np.random.Generator) -> Story:
        lucky = settings.learning_rate == 1e-3 and settings.seed == 0
        return healthy(0.97 if lucky else 0.85 if settings.learning_rate == 1e-3 else 0.87)

    best, distance = told(results_of(tmp_path, story, RATES))
    assert best.startswith("lr 0.001")
    assert "With other seeds another setting may be the best" in best
    assert "With each seed scored by what the other seeds choose, the best differs" in distance


def test_without_a_score_nothing_is_claimed(tmp_path: Path) -> None:
    best, distance = told(results_of(tmp_path, lambda settings, rng: None, RATES))
    assert best == "No run has a score on test yet."
    assert distance == ""
