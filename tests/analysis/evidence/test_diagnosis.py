"""Each pattern of a trajectory is told from the others that look like it."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from synthetic_study import (
    Story,
    Tell,
    collapsing,
    dead,
    healthy,
    majority_start,
    make,
    non_finite,
    overfitting,
    plan_of,
)

from analysis.evidence.diagnosis import Diagnosis, diagnose, learning_rate_budget
from analysis.results import Results
from study.plan.plan import SettingValues
from study.records import Outcome
from study.training.schedules import factor

TEXT = """
data: {source: builtin:reviews, examples: 6000}
fixed: {model: tiny-bert, epochs: 4}
axes:
  learning_rate: [5.0e-5, 5.0e-4, 1.5e-3]
  seed: [0, 1]
"""


def results_of(folder: Path, tell: Tell, text: str = TEXT) -> Results:
    space, plan = plan_of(folder, text)
    return make(space, plan, tell).results()


def findings(results: Results, **settings: object) -> list[Diagnosis]:
    return [one for one in diagnose(results) if all(one.run.settings[key] == value for key, value in settings.items())]


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
def test_a_story_is_recognised_with_the_epoch_at_which_it_set_in(
    tmp_path: Path, story: Callable[[], Story], finding: str, epoch: int | None
) -> None:
    for one in diagnose(results_of(tmp_path, lambda settings, rng: story())):
        assert (one.finding, one.onset_epoch) == (finding, epoch)
        assert one.failed == (finding in ("collapsed", "non-finite"))


def test_a_collapse_set_in_at_the_last_examples_at_which_something_was_told_apart(tmp_path: Path) -> None:
    one = diagnose(results_of(tmp_path, lambda settings, rng: collapsing()))[0]
    assert one.onset_examples == 2 * 4_800
    assert one.one_class


def test_a_majority_class_start_is_marked_and_no_failure(tmp_path: Path) -> None:
    one = diagnose(results_of(tmp_path, lambda settings, rng: majority_start()))[0]
    assert one.majority_start == 1
    assert not one.failed


def test_not_yet_and_never_are_told_apart_by_what_others_needed(tmp_path: Path) -> None:
    """At 5e-4 the model learns: 5e-5 has had less, so it has not learned yet; 1.5e-3 has had more, and never did."""

    def tell(settings: SettingValues, rng: np.random.Generator) -> Story:
        return healthy() if settings["learning_rate"] == 5e-4 else dead()

    # A tenth of the rate for four epochs is less than what the sibling needed for its first.
    results = results_of(tmp_path, tell)
    assert {one.finding for one in findings(results, learning_rate=5e-5)} == {"not learned yet"}
    assert {one.finding for one in findings(results, learning_rate=1.5e-3)} == {"never learned"}
    assert {one.failed for one in findings(results, learning_rate=5e-5)} == {False}


def test_a_seed_that_never_learns_beside_one_that_does_has_failed(tmp_path: Path) -> None:
    results = results_of(tmp_path, lambda settings, rng: dead() if settings["seed"] == 1 else healthy())
    assert {one.finding for one in findings(results, seed=1)} == {"never learned"}


def test_flat_runs_without_company_are_left_open(tmp_path: Path) -> None:
    found = diagnose(results_of(tmp_path, lambda settings, rng: dead()))
    assert {one.finding for one in found} == {"flat, cause open"}
    assert not any(one.failed for one in found)


def test_company_is_of_the_same_model(tmp_path: Path) -> None:
    text = TEXT.replace("model: tiny-bert, ", "").replace("axes:", "axes:\n  model: [tiny-bert, tiny-roberta]")
    results = results_of(
        tmp_path, lambda settings, rng: healthy() if settings["model"] == "tiny-bert" else dead(), text
    )
    assert {one.finding for one in findings(results, model="tiny-roberta")} == {"flat, cause open"}


def test_a_collapse_that_recovers_is_no_failure(tmp_path: Path) -> None:
    story = Story(accuracy=[0.8, 0.85, None, 0.8], train_loss=[0.5, 0.4, 0.694, 0.5], scale=[1.0] * 4)
    one = diagnose(results_of(tmp_path, lambda settings, rng: story))[0]
    assert (one.finding, one.onset_epoch, one.failed) == ("collapsed and recovered", 3, False)


def test_wavering_above_chance_at_first_is_no_collapse(tmp_path: Path) -> None:
    """Above chance at epoch 1 with a training loss still at ln 2, at chance at 2, and then it learns."""
    story = Story(accuracy=[0.6, None, 0.7, 0.8], train_loss=[0.69, 0.693, 0.6, 0.5], scale=[1.0] * 4)
    one = diagnose(results_of(tmp_path, lambda settings, rng: story))[0]
    assert (one.finding, one.learned_epoch) == ("healthy", 3)


def test_a_partial_fall_with_a_rising_training_loss_is_a_decline(tmp_path: Path) -> None:
    story = Story(accuracy=[0.7, 0.8, 0.65, 0.65], train_loss=[0.6, 0.5, 0.62, 0.63], scale=[1.0] * 4)
    one = diagnose(results_of(tmp_path, lambda settings, rng: story))[0]
    assert (one.finding, one.onset_epoch) == ("declined", 3)


def test_a_run_without_an_evaluation_has_no_finding(tmp_path: Path) -> None:
    story = Story(accuracy=[], train_loss=[], scale=[], outcome=Outcome(status="failed", error="no memory"))
    assert {one.finding for one in diagnose(results_of(tmp_path, lambda settings, rng: story))} == {"no evaluation"}


@pytest.mark.parametrize("schedule", ["constant", "linear", "cosine"])
@pytest.mark.parametrize("warmup", [0, 0.1])
def test_the_budget_is_the_sum_of_the_rates(tmp_path: Path, schedule: str, warmup: float) -> None:
    text = TEXT.replace("epochs: 4", f"epochs: 4, lr_schedule: {schedule}, warmup_fraction: {warmup}")
    run = results_of(tmp_path, lambda settings, rng: healthy(), text).runs[0]
    total = run.trajectory.optimizer_steps
    for steps in (1, 7, 300, total):
        rates = (
            5e-5 * factor(step, schedule=schedule, total_steps=total, warmup_fraction=warmup)  # type: ignore[arg-type]
            for step in range(steps)
        )
        assert learning_rate_budget(run, steps) == pytest.approx(sum(rates), rel=0.01, abs=1e-7)
