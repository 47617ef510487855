"""What a trajectory's records come to as gauges; that a real Ray exports them is in test_compose.py."""

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
from study_builder import make_history, make_study

from study.metrics import GAUGES, Observer, plain
from study.records import Epoch, Interval, Record


class Gauges(dict[str, float]):
    """The value that each gauge has, as after the publication before."""

    def publish(self, values: Mapping[str, float]) -> None:
        self.update(values)


@pytest.fixture
def history(tmp_path_factory: pytest.TempPathFactory) -> list[Record]:
    """Two epochs of 800 examples and four intervals each."""
    study = make_study(tmp_path_factory.mktemp("study"), {"seed": [0]}, epochs=2)
    return make_history(study.plan.trajectories[0], [0.6, 0.5], seed=0)


def test_a_trajectory_is_seen_before_its_first_record() -> None:
    gauges = Gauges()
    Observer(gauges.publish, epochs_planned=3)
    assert gauges == {"study_epochs_planned": 3, "study_epochs_done": 0, "study_non_finite": 0}


def test_every_gauge_has_a_value_after_an_epoch_and_there_is_no_other(history: list[Record]) -> None:
    gauges = Gauges()
    observer = Observer(gauges.publish, epochs_planned=2)
    for record in history:
        observer.take(record)
    assert gauges.keys() == GAUGES.keys()
    epochs = [record for record in history if isinstance(record, Epoch)]
    intervals = [record for record in history if isinstance(record, Interval)]
    assert gauges["study_epochs_done"] == 2
    assert gauges["study_examples_seen"] == 1600
    assert gauges["study_examples_per_second"] == 800 / epochs[-1].train_seconds
    assert gauges["study_best_validation_accuracy"] == max(epoch.validation_accuracy for epoch in epochs)
    assert gauges["study_gradient_norm"] == intervals[-1].gradient_norm
    assert gauges["study_non_finite"] == 0
    observer.end()
    assert gauges["study_examples_per_second"] == 0
    assert gauges["study_epochs_done"] == 2


def test_the_rate_within_an_epoch_is_that_between_two_intervals(history: list[Record]) -> None:
    first, second = (record for record in history[:2] if isinstance(record, Interval))
    gauges = Gauges()
    observer = Observer(gauges.publish, epochs_planned=2)
    observer.take(first)
    assert "study_examples_per_second" not in gauges
    observer.take(replace(second, time=first.time + 4))
    assert gauges["study_examples_per_second"] == (second.examples_seen - first.examples_seen) / 4


def test_a_later_process_begins_with_what_the_earlier_ones_reached(history: list[Record]) -> None:
    epochs = [record for record in history if isinstance(record, Epoch)]
    gauges = Gauges()
    observer = Observer(gauges.publish, epochs_planned=3, past=[replace(epochs[0], validation_accuracy=0.99)])
    assert gauges["study_epochs_done"] == 1
    observer.take(epochs[1])
    assert gauges["study_best_validation_accuracy"] == 0.99
    assert gauges["study_examples_per_second"] == 800 / epochs[1].train_seconds


@pytest.mark.parametrize("change", [{"train_loss": math.nan}, {"gradient_norm": math.inf}], ids=str)
def test_what_was_not_finite_once_is_shown_from_then_on(history: list[Record], change: dict[str, Any]) -> None:
    gauges = Gauges()
    observer = Observer(gauges.publish, epochs_planned=2)
    assert isinstance(history[0], Interval)
    observer.take(replace(history[0], **change))
    assert gauges["study_non_finite"] == 1
    observer.take(history[1])
    assert gauges["study_non_finite"] == 1


def test_a_label_is_readable_and_ascii() -> None:
    assert plain("tiny-bert · lr 0.0005 · seed 0") == "tiny-bert, lr 0.0005, seed 0"
    assert plain("modèle") == "mod?le"
