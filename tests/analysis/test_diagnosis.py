"""Each course of a trajectory is distinguished from the others that look like it."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from synthetic_spaces import results_of as results_of_space
from synthetic_study import (
    Story,
    StoryOf,
    at_chance,
    collapsing,
    healthy,
    majority_start,
    non_finite,
    overfitting,
)

from analysis.diagnosis import Diagnosis, count_failures, learning_rate
from analysis.results import Results
from study.records import Outcome
from study.settings import Settings

TEXT = """
data: {source: builtin:reviews, examples: 6000}
fixed: {model: tiny-bert, epochs: 4}
axes:
  learning_rate: [5.0e-5, 5.0e-4, 1.5e-3]
  seed: [0, 1]
"""


def results_of(folder: Path, story_of: StoryOf, text: str = TEXT) -> Results:
    return results_of_space(folder, story_of, text)


def diagnoses_of(folder: Path, story: Story) -> list[Diagnosis]:
    """The diagnoses of a study in which every run has the same story."""
    return list(results_of(folder, lambda settings, rng: story).diagnoses.values())


def diagnoses_at(results: Results, **settings: object) -> list[Diagnosis]:
    """The diagnoses of the runs with these settings."""
    return [
        diagnosis
        for diagnosis in results.diagnoses.values()
        if all(getattr(diagnosis.run.settings, key) == value for key, value in settings.items())
    ]


@pytest.mark.parametrize(
    ("story", "finding", "epoch"),
    [
        (healthy, "healthy", None),
        (overfitting, "overfitting", 2),
        (collapsing, "collapsed", 3),
        (non_finite, "non-finite", 2),
        (majority_start, "healthy", None),
    ],
)
def test_a_story_is_recognised_with_the_epoch_of_its_onset(
    tmp_path: Path, story: Callable[[], Story], finding: str, epoch: int | None
) -> None:
    diagnoses = diagnoses_of(tmp_path, story())
    assert len(diagnoses) == 6
    for diagnosis in diagnoses:
        assert (diagnosis.finding, diagnosis.onset_epoch) == (finding, epoch)
        assert diagnosis.failed == (finding in ("collapsed", "non-finite"))


def test_the_onset_of_a_collapse_is_at_the_last_training_loss_below_chance(tmp_path: Path) -> None:
    diagnosis = diagnoses_of(tmp_path, collapsing())[0]
    assert diagnosis.onset_examples == 2 * 4_800
    assert diagnosis.ends_in_majority_class


def test_a_majority_class_start_is_marked_and_not_a_failure(tmp_path: Path) -> None:
    diagnosis = diagnoses_of(tmp_path, majority_start())[0]
    assert diagnosis.majority_start == 1
    assert not diagnosis.failed
    assert not diagnosis.ends_in_majority_class


def test_not_learned_yet_and_never_learned_differ_by_what_other_runs_needed(tmp_path: Path) -> None:
    """At 5e-4 the model learns: 5e-5 has had less, so it has not learned yet; 1.5e-3 has had more, and never did."""

    def story(settings: Settings, rng: np.random.Generator) -> Story:
        return healthy() if settings.learning_rate == 5e-4 else at_chance()

    # A tenth of the rate for four epochs is less than what the sibling needed for its first.
    results = results_of(tmp_path, story)
    assert {diagnosis.finding for diagnosis in diagnoses_at(results, learning_rate=5e-5)} == {"not learned yet"}
    assert {diagnosis.finding for diagnosis in diagnoses_at(results, learning_rate=1.5e-3)} == {"never learned"}
    assert {diagnosis.failed for diagnosis in diagnoses_at(results, learning_rate=5e-5)} == {False}


def test_a_seed_that_never_learns_beside_one_that_does_has_failed(tmp_path: Path) -> None:
    results = results_of(tmp_path, lambda settings, rng: at_chance() if settings.seed == 1 else healthy())
    assert {diagnosis.finding for diagnosis in diagnoses_at(results, seed=1)} == {"never learned"}


def test_flat_runs_without_runs_to_compare_with_are_left_open(tmp_path: Path) -> None:
    diagnoses = diagnoses_of(tmp_path, at_chance())
    assert {diagnosis.finding for diagnosis in diagnoses} == {"flat, cause open"}
    assert not any(diagnosis.failed for diagnosis in diagnoses)


def test_only_runs_of_the_same_model_are_compared(tmp_path: Path) -> None:
    text = TEXT.replace("model: tiny-bert, ", "").replace("axes:", "axes:\n  model: [tiny-bert, tiny-roberta]")
    results = results_of(
        tmp_path, lambda settings, rng: healthy() if settings.model == "tiny-bert" else at_chance(), text
    )
    assert {diagnosis.finding for diagnosis in diagnoses_at(results, model="tiny-roberta")} == {"flat, cause open"}


def test_a_collapse_that_recovers_is_not_a_failure(tmp_path: Path) -> None:
    story = Story(accuracy=[0.8, 0.85, None, 0.8], train_loss=[0.5, 0.4, 0.694, 0.5], scale=[1.0] * 4)
    diagnosis = diagnoses_of(tmp_path, story)[0]
    assert (diagnosis.finding, diagnosis.onset_epoch, diagnosis.failed) == ("collapsed and recovered", 3, False)


def test_the_onset_of_a_second_collapse_is_that_of_the_last(tmp_path: Path) -> None:
    story = Story(accuracy=[0.8, None, 0.8, None], train_loss=[0.5, 0.694, 0.5, 0.694], scale=[1.0] * 4)
    diagnosis = diagnoses_of(tmp_path, story)[0]
    assert (diagnosis.finding, diagnosis.onset_epoch) == ("collapsed", 4)


def test_wavering_above_chance_at_first_is_not_a_collapse(tmp_path: Path) -> None:
    """Above chance at epoch 1 with a training loss still at ln 2, at chance at 2, and then it learns."""
    story = Story(accuracy=[0.6, None, 0.7, 0.8], train_loss=[0.69, 0.693, 0.6, 0.5], scale=[1.0] * 4)
    diagnosis = diagnoses_of(tmp_path, story)[0]
    assert (diagnosis.finding, diagnosis.learned_epoch) == ("healthy", 3)


def test_a_partial_fall_with_a_rising_training_loss_is_a_decline(tmp_path: Path) -> None:
    story = Story(accuracy=[0.7, 0.8, 0.65, 0.65], train_loss=[0.6, 0.5, 0.62, 0.63], scale=[1.0] * 4)
    diagnosis = diagnoses_of(tmp_path, story)[0]
    assert (diagnosis.finding, diagnosis.onset_epoch) == ("declined", 3)


def test_a_run_without_an_evaluation_has_no_finding(tmp_path: Path) -> None:
    story = Story(accuracy=[], train_loss=[], scale=[], outcome=Outcome(status="failed", error="no memory"))
    assert {diagnosis.finding for diagnosis in diagnoses_of(tmp_path, story)} == {"no evaluation"}


def test_failures_are_counted_with_their_rate(tmp_path: Path) -> None:
    results = results_of(tmp_path, lambda settings, rng: collapsing() if settings.seed else healthy())
    counts = count_failures(results.runs, results.diagnoses)
    assert counts.events_and_trials == (3, 6)
    assert counts.rate.value == 0.5
    assert counts.rate.low < 0.5 < counts.rate.high


@pytest.mark.parametrize("schedule", ["constant", "linear", "cosine"])
@pytest.mark.parametrize("warmup", [0, 0.1])
def test_the_learning_rate_budget_is_the_sum_of_the_rates(tmp_path: Path, schedule: str, warmup: float) -> None:
    text = TEXT.replace("epochs: 4", f"epochs: 4, lr_schedule: {schedule}, warmup_fraction: {warmup}")
    run = results_of(tmp_path, lambda settings, rng: healthy(), text).runs[0]
    rate, total = learning_rate(run), run.trajectory.optimizer_steps
    assert (rate.peak, rate.schedule, rate.total_steps) == (5e-5, schedule, total)
    for steps in (1, 7, 300, total):
        assert rate.total(steps) == pytest.approx(sum(map(rate.at, range(steps))), rel=0.01, abs=1e-7)
