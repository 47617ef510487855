"""What a trajectory's records come to as gauges, and that Ray exports them to whoever asks, without its token."""

import json
import math
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from study_builder import make_history, make_study

from study.records import Epoch, Interval, Record
from study.tracking.prometheus import GAUGES, Observer, Repeater, plain


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


def test_what_is_published_is_said_again_until_the_end() -> None:
    said: list[Mapping[str, float]] = []
    with Repeater(said.append, every_seconds=0.01) as repeater:
        repeater.publish({"study_epochs_planned": 3})
        repeater.publish({"study_epochs_done": 1})
        time.sleep(0.5)
        repeater.publish({"study_epochs_done": 2})
    assert said[-1] == {"study_epochs_planned": 3, "study_epochs_done": 2}
    assert said.count({"study_epochs_planned": 3, "study_epochs_done": 1}) > 3
    until = len(said)
    time.sleep(0.1)
    assert len(said) == until


# Publishes a study's trajectory from a Ray worker once, and prints what the worker's node exports of it much later.
EXPORTS = r"""
import json, re, sys, time, urllib.request
from pathlib import Path
import ray
from study.tracking.prometheus import observed
from study.records import TrajectoryFolder

@ray.remote
def train(folder):
    with observed(TrajectoryFolder(Path(folder))):
        time.sleep(100)

often = {"metrics_report_interval_ms": 1000}
ray.init("local", num_cpus=1, include_dashboard=False, log_to_driver=False, _system_config=often)
train.remote(sys.argv[1])
(node,) = ray.nodes()
labels = re.compile(r'(\w+)="([^"]*)"')

def exported():
    try:
        page = urllib.request.urlopen(f"http://127.0.0.1:{node['MetricsExportPort']}/metrics").read().decode()
    except OSError:
        return []
    found = re.findall(r"^ray_(study_\w+){(.*)} (\S+)$", page, re.MULTILINE)
    return [[name, dict(labels.findall(text)), value] for name, text, value in found]

until = time.monotonic() + 60
while not exported() and time.monotonic() < until:
    time.sleep(0.5)
time.sleep(8)  # four times as long as Ray keeps what is not said again
print("exported", json.dumps(exported()))
"""


def test_ray_exports_every_gauge_by_the_readable_name_of_its_trajectory(tmp_path: Path) -> None:
    study = make_study(tmp_path / "reviews", {"seed": [0], "learning_rate": [5e-4]}, epochs=2)
    (trajectory,) = study.plan.trajectories
    folder = study.train(trajectory, validation_loss=[0.6, 0.5])
    config = folder.config()
    assert config is not None
    folder.write_config({**config, "name": "tiny-bert · seed 0", "policies": [{"max_epochs": 2}]})
    command = [sys.executable, "-c", EXPORTS, str(folder.path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr
    line = next(line for line in done.stdout.splitlines() if line.startswith("exported "))
    exported = {name: (labels, float(value)) for name, labels, value in json.loads(line.removeprefix("exported "))}
    # An observer that goes on has no interval yet, and so no gradient's norm.
    assert exported.keys() == GAUGES.keys() - {"study_gradient_norm"}
    for labels, _ in exported.values():
        assert labels["study"] == "reviews"
        assert labels["trajectory"] == "tiny-bert, seed 0"
        assert labels["id"] == trajectory.id
    assert exported["study_epochs_done"][1] == 2
    assert exported["study_epochs_planned"][1] == 2
    assert exported["study_non_finite"][1] == 0
