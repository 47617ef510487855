"""Failed runs are named, with how they failed; of many, the first few, and of the others what is not smooth."""

from pathlib import Path

import numpy as np
import pytest
from synthetic_spaces import ASHA, GRID, SMALL, results_of, search_study
from synthetic_study import Story, StoryOf, at_chance, collapsing, healthy, non_finite, pruned

from analysis.what_happened.failed_runs import failed_runs
from study.records import Outcome
from study.settings import Settings

TWO_RATES = SMALL.replace("[tiny-bert, tiny-roberta]", "[tiny-bert]").replace("10000", "2000")
ONE_SEED = TWO_RATES.replace("[0, 1, 2, 3]", "[0]")
DECLINING = Story(accuracy=[0.9, 0.9, 0.8, 0.7], train_loss=[0.4, 0.35, 0.4, 0.5], scale=[1.0] * 4)
CRASHED = Story(accuracy=[], train_loss=[], scale=[], outcome=Outcome(status="failed", error="out of memory"))


def at_high_rate(story: Story) -> StoryOf:
    """This story at the higher rate, and a healthy one at the lower."""
    return lambda settings, rng: story if settings.learning_rate == 1e-3 else healthy()


@pytest.mark.parametrize(
    ("story", "told"),
    [
        (collapsing(), "One run of 2 failed: lr 0.001 collapsed at epoch 3."),
        (at_chance(), "One run of 2 failed: lr 0.001 never learned."),
        (non_finite(), "One run of 2 failed: lr 0.001 ended with a non-finite loss at epoch 2."),
        (healthy(), "No run failed."),
        (DECLINING, "No run failed. One run lost part of its accuracy: lr 0.001."),
        (CRASHED, "The one run did not fail. One run was stopped by an error, and counted in no score: lr 0.001."),
        (None, "The one run did not fail."),
    ],
)
def test_what_became_of_one_run_is_told_by_name(tmp_path: Path, story: Story | None, told: str) -> None:
    def story_of(settings: Settings, rng: np.random.Generator) -> Story | None:
        return story if settings.learning_rate == 1e-3 else healthy()

    assert failed_runs(results_of(tmp_path, story_of, ONE_SEED)) == told


def test_runs_of_one_setting_are_told_together(tmp_path: Path) -> None:
    def story(settings: Settings, rng: np.random.Generator) -> Story:
        if settings.learning_rate == 1e-3 and settings.seed:
            return at_chance() if settings.seed == 3 else collapsing()
        return healthy()

    assert failed_runs(results_of(tmp_path, story, TWO_RATES)) == (
        "3 runs of 8 failed: lr 0.001 · seeds 1 and 2 collapsed at epoch 3; lr 0.001 · seed 3 never learned."
    )


def test_of_many_settings_with_failures_the_first_are_named_and_the_others_counted(tmp_path: Path) -> None:
    text = GRID.replace("4, 5, 6, 7]", "4]").replace("10000", "1000")

    def story(settings: Settings, rng: np.random.Generator) -> Story:
        return collapsing() if settings.seed == 4 else healthy()

    told = failed_runs(results_of(tmp_path, story, text))
    assert told.startswith("8 runs of 40 failed: tiny-bert · constant · lr 0.0005 · seed 4 collapsed at epoch 3; ")
    assert told.endswith("; and 4 more in 4 other settings.")
    assert told.count("collapsed at epoch 3") == 4


def test_pruned_runs_have_not_ended_and_are_not_counted(tmp_path: Path) -> None:
    results = search_study(tmp_path, lambda s, rng: collapsing() if s.seed else pruned(), ASHA).results()
    assert failed_runs(results).startswith("24 runs of 24 failed")


def test_a_study_in_which_nothing_has_ended_says_so(tmp_path: Path) -> None:
    assert failed_runs(results_of(tmp_path, lambda settings, rng: None, TWO_RATES)) == "No run has ended yet."
