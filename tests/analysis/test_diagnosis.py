"""Each course of a trajectory is distinguished from the others that look like it."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from synthetic_spaces import results_of as results_of_space
from synthetic_study import (
    Story,
    StoryOf,
    at_chance,
    collapsing,
    collapsing_at_the_end,
    declining,
    healthy,
    majority_start,
    make_synthetic,
    memorised,
    non_finite,
    over_confident_late,
    overfitting,
    plan_of,
    recovering,
    story,
)

from analysis.diagnosis import DECIDED, FAILURES, LEARNED, UNSTABLE, Diagnosis, Finding, learning_rate
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


def diagnoses_of(folder: Path, told: Story, *, examples: int = 6_000, positive: float = 0.5) -> list[Diagnosis]:
    """The diagnoses of a study of so many examples in which every run has the same story."""
    space, plan = plan_of(folder, TEXT.replace("6000", f"{examples}"))
    results = make_synthetic(space, plan, lambda settings, rng: told, positive=positive).results()
    return list(results.diagnoses.values())


def diagnoses_at(results: Results, **settings: object) -> list[Diagnosis]:
    """The diagnoses of the runs with these settings."""
    return [
        diagnosis
        for diagnosis in results.diagnoses.values()
        if all(getattr(diagnosis.run.settings, key) == value for key, value in settings.items())
    ]


@pytest.mark.parametrize(
    ("tell", "finding", "epoch"),
    [
        (healthy, "healthy", None),
        (over_confident_late, "over-confident late", 2),
        (overfitting, "overfitting", 3),
        (declining, "declined", 3),
        (recovering, "declined and recovered", 2),
        (lambda: recovering(at=None), "collapsed and recovered", 2),
        (collapsing, "collapsed", 3),
        (collapsing_at_the_end, "collapsed", 4),
        (memorised, "memorised", None),
        (non_finite, "non-finite", 2),
        (majority_start, "healthy", None),
        (at_chance, "flat, cause open", None),
        (lambda: healthy(0.53), "not shown to have learned", None),
    ],
)
def test_a_story_is_recognised_with_the_epoch_of_its_onset(
    tmp_path: Path, tell: Callable[[], Story], finding: Finding, epoch: int | None
) -> None:
    diagnoses = diagnoses_of(tmp_path, tell())
    assert len(diagnoses) == 6
    for diagnosis in diagnoses:
        assert diagnosis.finding == finding
        # The first epoch after the best one is not the same in all runs of a story of overfitting.
        assert diagnosis.onset_epoch in ((2, 3) if finding == "overfitting" else (epoch,))
        assert diagnosis.failed == (finding in FAILURES)
        assert diagnosis.unstable == (finding in UNSTABLE)
        assert diagnosis.learned == (finding in LEARNED)


def test_a_finding_is_a_failure_or_shows_that_the_run_learned_or_decides_nothing() -> None:
    assert set(DECIDED) == set(FAILURES) | set(LEARNED)
    assert not set(FAILURES) & set(LEARNED)
    assert set(FAILURES) < set(UNSTABLE) < set(DECIDED)


@pytest.mark.parametrize("flicker", [0.0, 0.5])
@pytest.mark.parametrize("examples", [600, 6_000, 50_000])
def test_runs_that_keep_what_they_learned_are_healthy_whatever_the_size_of_validation(
    tmp_path: Path, examples: int, flicker: float
) -> None:
    steady = story([0.86, 0.89, 0.9, 0.9], [0.4, 0.3, 0.25, 0.2], flicker=flicker)
    assert {diagnosis.finding for diagnosis in diagnoses_of(tmp_path, steady, examples=examples)} == {"healthy"}


def test_a_rise_of_loss_that_sixty_examples_cannot_show_is_no_finding(tmp_path: Path) -> None:
    for told in (over_confident_late(), overfitting()):
        assert {diagnosis.finding for diagnosis in diagnoses_of(tmp_path, told, examples=600)} == {"healthy"}


def test_a_rise_of_loss_while_training_loss_does_not_fall_is_not_overfitting(tmp_path: Path) -> None:
    told = story([0.9, 0.9, 0.84, 0.8], [0.3, 0.25, 0.35, 0.4], scale=[1.0, 1.0, 2.0, 3.0])
    assert {diagnosis.finding for diagnosis in diagnoses_of(tmp_path, told)} == {"declined"}


@pytest.mark.parametrize("examples", [600, 6_000, 50_000])
@pytest.mark.parametrize("trace", [0.0, 0.3])
def test_one_class_for_every_text_is_a_collapse_even_if_the_logits_keep_a_trace(
    tmp_path: Path, examples: int, trace: float
) -> None:
    """With 5,000 examples, a loss one ten-thousandth below that of chance is far beyond its error."""
    told = story([0.85, 0.9, None, None], [0.5, 0.35, 0.694, 0.694], trace=trace)
    assert {d.finding for d in diagnoses_of(tmp_path, told, examples=examples)} == {"collapsed"}


def test_a_collapse_within_the_last_interval_is_found_though_training_loss_was_low_before(tmp_path: Path) -> None:
    for diagnosis in diagnoses_of(tmp_path, collapsing_at_the_end()):
        assert (diagnosis.finding, diagnosis.onset_epoch, diagnosis.failed) == ("collapsed", 4, True)


def test_a_collapse_to_answers_at_random_is_found_by_the_training_loss(tmp_path: Path) -> None:
    """The logits differ from text to text and say nothing: accuracy one half, training loss ln 2."""
    told = story([0.85, 0.9, 0.5, 0.5], [0.5, 0.35, 0.694, 0.694], spurious=0.6)
    assert {diagnosis.finding for diagnosis in diagnoses_of(tmp_path, told)} == {"collapsed"}


@pytest.mark.parametrize(
    ("tell", "finding"),
    [
        (lambda: healthy(0.945), "healthy"),
        (lambda: collapsing(0.95), "collapsed"),
        (lambda: collapsing_at_the_end(0.95), "collapsed"),
        (at_chance, "flat, cause open"),
        (lambda: over_confident_late(0.95), "over-confident late"),
        (lambda: majority_start(0.99), "healthy"),
    ],
)
def test_classes_of_90_to_10_have_the_same_findings(tmp_path: Path, tell: Callable[[], Story], finding: str) -> None:
    """The training losses of the stories are for equal classes; with 90 to 10, those of a constant are at 0.325."""
    told = tell()
    losses = [0.47 * loss for loss in told.train_loss]
    diagnoses = diagnoses_of(tmp_path, replace(told, train_loss=losses), examples=10_000, positive=0.9)
    assert {diagnosis.finding for diagnosis in diagnoses} == {finding}
    if finding == "healthy":
        assert {diagnosis.ends_in_majority_class for diagnosis in diagnoses} == {False}


def test_a_model_that_is_right_because_one_class_is_rare_has_not_collapsed(tmp_path: Path) -> None:
    """At 97 to 3, a model of 99 % predicts the frequent class for more than 95 % of the examples."""
    told = replace(healthy(0.99), accuracy=[0.99] * 4, train_loss=[0.09, 0.07, 0.06, 0.05])
    for diagnosis in diagnoses_of(tmp_path, told, examples=20_000, positive=0.97):
        assert (diagnosis.finding, diagnosis.majority_start, diagnosis.ends_in_majority_class) == ("healthy", 0, False)


def test_a_study_without_the_predictions_of_later_epochs_has_the_same_findings(tmp_path: Path) -> None:
    """Older studies kept predictions only of epochs that were the best so far."""
    stories = (healthy(), overfitting(loses=0.1), declining(), collapsing(), over_confident_late(), memorised())
    space, plan = plan_of(tmp_path, TEXT.replace("6000", "20000").replace("[0, 1]", "[0, 1, 2, 3, 4, 5]"))
    study = make_synthetic(space, plan, lambda settings, rng: stories[settings.seed])
    scored = {key[:2] for key in study.predictions if key[2] == "test"}
    older = replace(study, predictions={key: kept for key, kept in study.predictions.items() if key[:2] in scored})
    assert len(older.predictions) < len(study.predictions)
    old, new = (s.results().diagnoses for s in (older, study))
    assert [d.finding for d in old.values()] == [d.finding for d in new.values()]


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

    def tell(settings: Settings, rng: np.random.Generator) -> Story:
        return healthy() if settings.learning_rate == 5e-4 else at_chance()

    # A tenth of the rate for four epochs is less than what the sibling needed for its first.
    results = results_of(tmp_path, tell)
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
    told = story([0.8, 0.85, None, 0.8], [0.5, 0.4, 0.694, 0.5])
    diagnosis = diagnoses_of(tmp_path, told)[0]
    assert (diagnosis.finding, diagnosis.onset_epoch, diagnosis.failed) == ("collapsed and recovered", 3, False)


def test_the_onset_of_a_second_collapse_is_that_of_the_last(tmp_path: Path) -> None:
    told = story([0.8, None, 0.8, None], [0.5, 0.694, 0.5, 0.694])
    diagnosis = diagnoses_of(tmp_path, told)[0]
    assert (diagnosis.finding, diagnosis.onset_epoch) == ("collapsed", 4)


def test_wavering_above_chance_at_first_is_not_a_collapse(tmp_path: Path) -> None:
    """Above chance at epoch 1 with a training loss still at ln 2, at chance at 2, and then it learns."""
    told = story([0.6, None, 0.7, 0.8], [0.69, 0.693, 0.6, 0.5])
    diagnosis = diagnoses_of(tmp_path, told)[0]
    assert (diagnosis.finding, diagnosis.learned_epoch) == ("healthy", 3)


def test_a_partial_fall_with_a_rising_training_loss_is_a_decline(tmp_path: Path) -> None:
    told = story([0.7, 0.8, 0.65, 0.65], [0.6, 0.5, 0.62, 0.63])
    diagnosis = diagnoses_of(tmp_path, told)[0]
    assert (diagnosis.finding, diagnosis.onset_epoch) == ("declined", 3)


def test_a_run_without_an_evaluation_has_no_finding(tmp_path: Path) -> None:
    told = story([], [], outcome=Outcome(status="failed", error="no memory"))
    assert {diagnosis.finding for diagnosis in diagnoses_of(tmp_path, told)} == {"no evaluation"}


@pytest.mark.parametrize("schedule", ["constant", "linear", "cosine"])
@pytest.mark.parametrize("warmup", [0, 0.1])
def test_the_learning_rate_budget_is_the_sum_of_the_rates(tmp_path: Path, schedule: str, warmup: float) -> None:
    text = TEXT.replace("epochs: 4", f"epochs: 4, lr_schedule: {schedule}, warmup_fraction: {warmup}")
    run = results_of(tmp_path, lambda settings, rng: healthy(), text).runs[0]
    rate, total = learning_rate(run), run.trajectory.optimizer_steps
    assert (rate.peak, rate.schedule, rate.total_steps) == (5e-5, schedule, total)
    for steps in (1, 7, 300, total):
        assert rate.total(steps) == pytest.approx(sum(map(rate.at, range(steps))), rel=0.01, abs=1e-7)
