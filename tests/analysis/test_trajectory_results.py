"""A trajectory has ended, was pruned, or is still without all of its scores."""

from pathlib import Path

import pytest
from synthetic_spaces import ASHA, results_of, search_study
from synthetic_study import Story, healthy, non_finite, pruned

from analysis.trajectory_results import Chance
from study.records import Outcome

RUNNING = Story(accuracy=[0.8], train_loss=[0.5], scale=[1.0], outcome=None)
FAILED = Story(accuracy=[0.8], train_loss=[0.5], scale=[1.0], outcome=Outcome(status="failed", error="no memory"))


@pytest.mark.parametrize(
    ("story", "ended", "was_pruned", "scored"),
    [
        (healthy(), True, False, True),
        (non_finite(), True, False, True),
        (pruned(), False, True, True),
        (RUNNING, False, False, False),
        (FAILED, False, False, False),
        (None, False, False, False),
    ],
)
def test_the_state_of_a_trajectory(
    tmp_path: Path, story: Story | None, ended: bool, was_pruned: bool, scored: bool
) -> None:
    run = results_of(tmp_path, lambda settings, rng: story).runs[0]
    assert (run.ended, run.pruned, run.scored) == (ended, was_pruned, scored)


def test_a_run_that_was_pruned_where_it_would_have_stopped_has_ended(tmp_path: Path) -> None:
    text = ASHA.replace("fixed: {epochs: 4}", "fixed: {epochs: 4, early_stopping: {patience: 1, metric: accuracy}}")
    outcome = Outcome(status="complete", stop_reason="cut", epochs=2)
    story = Story(accuracy=[0.9, 0.8], train_loss=[0.5, 0.4], scale=[1.0] * 2, outcome=outcome)
    results = search_study(tmp_path, lambda settings, rng: story, text).results()
    assert results.census.pruned == 0
    assert all(run.ended for run in results.runs)


def test_chance_without_predictions_is_that_of_two_equal_classes() -> None:
    chance = Chance.of(None)
    assert (chance.classes, chance.accuracy, chance.examples) == (2, 0.5, None)
