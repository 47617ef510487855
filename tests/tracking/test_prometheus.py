"""Gauges of a trajectory: their values by its records, and that Ray exports them, without asking for a token."""

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
from study_builder import make_config, make_history, make_study

from study.records import Epoch, Interval, Record
from study.stopping import StoppingPolicy
from study.tracking.prometheus import GAUGES, GaugeObserver, Repeater, ascii_label


class Gauges(dict[str, float]):
    """The current value of each gauge."""

    def publish(self, values: Mapping[str, float]) -> None:
        self.update(values)


@pytest.fixture
def history(tmp_path_factory: pytest.TempPathFactory) -> list[Record]:
    """Two epochs of 800 examples and four intervals each."""
    study = make_study(tmp_path_factory.mktemp("study"), {"seed": [0]}, epochs=2)
    return make_history(study.plan.trajectories[0], [0.6, 0.5], seed=0)


def test_a_trajectory_has_gauges_before_its_first_record() -> None:
    gauges = Gauges()
    GaugeObserver(gauges.publish, epochs_planned=3)
    assert gauges == {"study_epochs_planned": 3, "study_epochs_done": 0, "study_non_finite": 0}


def test_after_an_epoch_every_gauge_has_a_value(history: list[Record]) -> None:
    gauges = Gauges()
    observer = GaugeObserver(gauges.publish, epochs_planned=2)
    for record in history:
        observer.observe(record)
    assert gauges.keys() == GAUGES.keys()
    epochs = [record for record in history if isinstance(record, Epoch)]
    intervals = [record for record in history if isinstance(record, Interval)]
    assert gauges["study_epochs_done"] == 2
    assert gauges["study_examples_seen"] == 1600
    assert gauges["study_examples_per_second"] == 800 / epochs[-1].train_seconds
    assert gauges["study_best_validation_accuracy"] == max(epoch.validation["accuracy"] for epoch in epochs)
    assert gauges["study_gradient_norm"] == intervals[-1].gradient_norm
    assert gauges["study_non_finite"] == 0
    observer.end()
    assert gauges["study_examples_per_second"] == 0
    assert gauges["study_epochs_done"] == 2


def test_the_rate_within_an_epoch_is_measured_between_two_intervals(history: list[Record]) -> None:
    first, second = (record for record in history[:2] if isinstance(record, Interval))
    gauges = Gauges()
    observer = GaugeObserver(gauges.publish, epochs_planned=2)
    observer.observe(first)
    assert "study_examples_per_second" not in gauges
    observer.observe(replace(second, time=first.time + 4))
    assert gauges["study_examples_per_second"] == (second.examples_seen - first.examples_seen) / 4


def test_a_process_that_resumes_starts_from_the_earlier_epochs(history: list[Record]) -> None:
    epochs = [record for record in history if isinstance(record, Epoch)]
    gauges = Gauges()
    observer = GaugeObserver(
        gauges.publish, epochs_planned=3, past=[replace(epochs[0], validation={"loss": 0.5, "accuracy": 0.99})]
    )
    assert gauges["study_epochs_done"] == 1
    observer.observe(epochs[1])
    assert gauges["study_best_validation_accuracy"] == 0.99
    assert gauges["study_examples_per_second"] == 800 / epochs[1].train_seconds


@pytest.mark.parametrize("change", [{"train_loss": math.nan}, {"gradient_norm": math.inf}], ids=str)
def test_a_non_finite_value_is_shown_from_then_on(history: list[Record], change: dict[str, Any]) -> None:
    gauges = Gauges()
    observer = GaugeObserver(gauges.publish, epochs_planned=2)
    assert isinstance(history[0], Interval)
    observer.observe(replace(history[0], **change))
    assert gauges["study_non_finite"] == 1
    observer.observe(history[1])
    assert gauges["study_non_finite"] == 1


def test_a_label_is_readable_ascii() -> None:
    assert ascii_label("tiny-bert · lr 0.0005 · seed 0") == "tiny-bert, lr 0.0005, seed 0"
    assert ascii_label("modèle") == "mod?le"


def test_published_values_are_set_repeatedly_until_the_end() -> None:
    settings: list[Mapping[str, float]] = []
    with Repeater(settings.append, every_seconds=0.01) as repeater:
        repeater.publish({"study_epochs_planned": 3})
        repeater.publish({"study_epochs_done": 1})
        time.sleep(0.5)
        repeater.publish({"study_epochs_done": 2})
    assert settings[-1] == {"study_epochs_planned": 3, "study_epochs_done": 2}
    assert settings.count({"study_epochs_planned": 3, "study_epochs_done": 1}) > 3
    count = len(settings)
    time.sleep(0.1)
    assert len(settings) == count


# Publishes a study's trajectory from a Ray worker once, and prints later what the worker's node exports of it.
EXPORTS = r"""
import json, re, sys, time, urllib.request
from pathlib import Path
import ray
from study.tracking.prometheus import observed
from study.storage import TrajectoryFolder

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
    gauges = re.findall(r"^ray_(study_\w+){(.*)} (\S+)$", page, re.MULTILINE)
    return [[name, dict(labels.findall(text)), value] for name, text, value in gauges]

until = time.monotonic() + 60
while not exported() and time.monotonic() < until:
    time.sleep(0.5)
time.sleep(8)  # four times as long as Ray keeps a value that is not set again
print("exported", json.dumps(exported()))
"""


def test_ray_exports_every_gauge_under_the_readable_name_of_its_trajectory(tmp_path: Path) -> None:
    study = make_study(tmp_path / "reviews", {"seed": [0], "learning_rate": [5e-4]}, epochs=2)
    (trajectory,) = study.plan.trajectories
    folder = study.train(trajectory, validation_loss=[0.6, 0.5])
    folder.write_config(make_config(trajectory, name="tiny-bert · seed 0", policies=(StoppingPolicy(max_epochs=2),)))
    command = [sys.executable, "-c", EXPORTS, str(folder.path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr
    line = next(line for line in done.stdout.splitlines() if line.startswith("exported "))
    exported = {name: (labels, float(value)) for name, labels, value in json.loads(line.removeprefix("exported "))}
    # A process that resumes has no interval yet, and so no gradient norm.
    assert exported.keys() == GAUGES.keys() - {"study_gradient_norm"}
    for labels, _ in exported.values():
        assert labels["study"] == "reviews"
        assert labels["trajectory"] == "tiny-bert, seed 0"
        assert labels["id"] == trajectory.id
    assert exported["study_epochs_done"][1] == 2
    assert exported["study_epochs_planned"][1] == 2
    assert exported["study_non_finite"][1] == 0
