"""Stopping rules are applied to whole runs, failed ones included, and their costs have intervals."""

import re
from pathlib import Path

import numpy as np
from synthetic_spaces import SMALL, results_of
from synthetic_study import Story, collapsing, healthy, non_finite

from analysis.what_happened.early_stops import early_stops
from study.records import Outcome
from study.settings import Settings

ONE_RATE = SMALL.replace("[5.0e-4, 1.0e-3]", "[5.0e-4]").replace("[tiny-bert, tiny-roberta]", "[tiny-bert]")
LATE = Story(accuracy=[0.8, 0.8, 0.8, 0.9], train_loss=[0.4, 0.3, 0.2, 0.1], scale=[1.0, 3.0, 3.0, 1.0])


def test_the_epochs_after_a_collapse_are_saved_and_cost_nothing(tmp_path: Path) -> None:
    told = early_stops(results_of(tmp_path, lambda settings, rng: collapsing(), ONE_RATE))
    assert told == (
        "Patience 1 on loss would have saved 4 of 16 epochs (25 %) and changed test accuracy by 0.0 points (95% "
        "interval −0.1 to +0.1), over 4 whole runs, failed ones included."
    )


def test_a_rule_that_stops_before_the_best_epoch_costs_accuracy(tmp_path: Path) -> None:
    told = early_stops(results_of(tmp_path, lambda settings, rng: LATE, ONE_RATE))
    found = re.search(r"saved 8 of 16 epochs \(50 %\) and changed test accuracy by −(\d+\.\d) points \(95%", told)
    assert found
    assert 8 < float(found[1]) < 12
    assert "to −" in told, "the interval excludes zero"


def test_a_single_seed_says_what_it_does_not_know(tmp_path: Path) -> None:
    told = early_stops(results_of(tmp_path, lambda settings, rng: LATE, ONE_RATE.replace("[0, 1, 2, 3]", "[0]")))
    assert "95% interval over the test examples alone" in told
    assert told.endswith("with one seed each, what it costs with other seeds is not known.")


def test_the_rules_of_the_space_are_tried_too(tmp_path: Path) -> None:
    stops = "  early_stopping: [none, {patience: 1}, {patience: 2, metric: accuracy}]\n"
    text = ONE_RATE.replace("axes:\n", f"axes:\n{stops}").replace("[linear]", "[constant]")
    told = early_stops(results_of(tmp_path, lambda settings, rng: LATE, text))
    assert told.count("would have saved") == 2
    assert "Patience 2 on accuracy would have saved 4 of 16 epochs (25 %)" in told


def test_only_whole_runs_count(tmp_path: Path) -> None:
    def story(settings: Settings, rng: np.random.Generator) -> Story:
        stopped = Outcome(status="complete", stop_reason="stopped early", epochs=2)
        early = Story(accuracy=[0.9, 0.9], train_loss=[0.4, 0.3], scale=[1.0, 1.0], outcome=stopped)
        return (early, non_finite(), LATE, LATE)[settings.seed]

    assert "over 3 whole runs" in early_stops(results_of(tmp_path, story, ONE_RATE))
    told = early_stops(results_of(tmp_path, lambda settings, rng: None, ONE_RATE))
    assert told == "No run of two epochs or more was trained to its planned end, so that rules cannot be tried."


def test_of_single_epochs_there_is_nothing_to_stop(tmp_path: Path) -> None:
    text = ONE_RATE.replace("epochs: 4", "epochs: 1")
    told = early_stops(results_of(tmp_path, lambda settings, rng: healthy(epochs=1), text))
    assert told == "Every run has one epoch, so that there is nothing to stop."
