"""What MLflow should show of a study and of its cells, without MLflow."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from study_builder import TRAIN, StudyBuilder, ended, make_manifest, make_study

from study.plan.cell_results import CellResult, CellState, cell_results
from study.plan.plan import Plan
from study.records import Epoch, Interval, Outcome, TrajectoryRecords
from study.tracking.run_contents import (
    EPOCH_METRICS,
    INTERVAL_METRICS,
    RunContents,
    Unfinished,
    cell_contents,
    final_points,
    flatten,
    points,
    study_contents,
)

# Patience 1 stops after epoch 3, the owner after epoch 4.
VALIDATION_LOSS = [0.6, 0.5, 0.7, 0.4]


@pytest.fixture
def study(tmp_path: Path) -> StudyBuilder:
    """One trajectory and its two cells: one that never stops early, and one with a patience of 1."""
    return make_study(tmp_path / "study", {"early_stopping": [None, {"patience": 1}]})


def results_and_records(study: StudyBuilder) -> tuple[CellResult, CellResult, TrajectoryRecords]:
    """The results of the owner and of the derived cell, and the records of their trajectory."""
    (trajectory,) = study.plan.trajectories
    owner, derived = cell_results(study.folder, study.plan)
    assert (owner.cell.id, derived.cell.id) == trajectory.cells
    return owner, derived, study.folder.trajectory(trajectory.id).read()


def contents_of(
    result: CellResult, study: StudyBuilder, records: TrajectoryRecords, known_tags: Mapping[str, str] | None = None
) -> RunContents:
    """What MLflow should have of a cell, whose run has ``known_tags`` already."""
    return cell_contents(
        result,
        records=records,
        folder=study.folder.trajectory(result.cell.trajectory),
        known_tags=known_tags or {},
        trial=None,
        unfinished="RUNNING",
    )


def test_nested_values_become_dotted_keys_of_text_without_credentials() -> None:
    values = {"a": {"b": 1, "c": {"d": [1, 2.5], "e": None}}, "f": "x", "g": True, "url": "http://me:s3cr3t@host/"}
    assert flatten(values) == {
        "a.b": "1",
        "a.c.d": "[1, 2.5]",
        "a.c.e": "none",
        "f": "x",
        "g": "true",
        "url": "http://host/",
    }


@pytest.mark.parametrize(
    ("states", "unfinished", "is_open", "status"),
    [
        (["complete", "complete"], "RUNNING", False, "FINISHED"),
        (["complete", "complete"], "KILLED", False, "FINISHED"),
        (["complete", "complete"], "RUNNING", True, "RUNNING"),
        (["complete", "running"], "RUNNING", False, "RUNNING"),
        (["complete", "planned"], "KILLED", False, "KILLED"),
        (["failed", "complete"], "RUNNING", False, "FAILED"),
        (["failed", "running"], "RUNNING", False, "RUNNING"),
        (["failed", "running"], "KILLED", False, "FAILED"),
        ([], "RUNNING", True, "RUNNING"),
    ],
)
def test_the_status_of_a_study_follows_from_its_cells(
    study: StudyBuilder, states: list[CellState], unfinished: Unfinished, is_open: bool, status: str
) -> None:
    plan = Plan(study="made-up", axes=("seed",), cells=(), trajectories=(), open=is_open)
    contents = study_contents(make_manifest(), plan, states, folder=study.folder, unfinished=unfinished)
    assert contents.status == status
    for state in ("complete", "failed", "running", "planned"):
        assert contents.tags[f"cells.{state}"] == str(states.count(state))


def test_every_record_becomes_a_point_for_each_of_its_numbers(study: StudyBuilder) -> None:
    study.train(study.plan.trajectories[0], validation_loss=[0.6])
    _, _, records = results_and_records(study)
    interval, epoch = records.intervals[0], records.epochs[0]
    assert {point.key: point.value for point in points(interval)} == {
        key: getattr(interval, name) for key, name in INTERVAL_METRICS.items()
    }
    assert {point.key: point.value for point in points(epoch)} == {
        **{key: getattr(epoch, name) for key, name in EPOCH_METRICS.items()},
        "validation/loss": 0.6,
        "validation/accuracy": epoch.validation["accuracy"],
    }
    for record in (interval, epoch):
        assert {(point.step, point.time) for point in points(record)} == {
            (record.examples_seen, round(1000 * record.time))
        }


def test_every_number_of_a_record_is_shown() -> None:
    """A field that is added to a record has to be mirrored, too."""
    not_numbers = {"kind", "time", "examples_seen", "optimizer_step", "validation", "test"}
    assert set(INTERVAL_METRICS.values()) == set(Interval.__slots__) - not_numbers
    assert set(EPOCH_METRICS.values()) | {"learning_rate"} == set(Epoch.__slots__) - not_numbers


def test_the_points_and_files_of_a_derived_cell_are_those_until_it_stopped(study: StudyBuilder) -> None:
    study.train(study.plan.trajectories[0], validation_loss=VALIDATION_LOSS, outcome=ended())
    owner, derived, records = results_and_records(study)
    whole, part = contents_of(owner, study, records), contents_of(derived, study, records)
    assert whole.status == part.status == "FINISHED"
    assert max(point.step for point in whole.metrics) == 4 * TRAIN
    assert max(point.step for point in part.metrics) == 3 * TRAIN
    assert (part.tags["derived"], part.tags["trained_by"]) == ("true", owner.cell.id)
    assert (part.tags["stop_reason"], whole.tags["stop_reason"]) == ("stopped early", "epochs exhausted")
    assert (part.tags["records"], whole.tags["records"]) == ("15", "20")
    assert part.files.keys() == {"predictions/validation.parquet", "predictions/test.parquet"}
    assert {"trajectory/config.json", "trajectory/history.jsonl", "trajectory/outcome.json"} <= whole.files.keys()
    assert part.end == records.epochs[2].time


def test_final_scores_stand_at_the_epochs_where_they_were_reached(study: StudyBuilder) -> None:
    study.train(study.plan.trajectories[0], validation_loss=VALIDATION_LOSS, outcome=ended())
    _, derived, records = results_and_records(study)
    assert derived.chosen is not None
    final = {point.key: point for point in final_points(derived, records.epochs)}
    at = derived.chosen.examples_seen
    expected: dict[str, Any] = {
        "chosen/epoch": (derived.chosen.epoch, at),
        **{f"chosen/validation_{name}": (score, at) for name, score in derived.chosen.validation.items()},
        **{f"test/{name}": (derived.chosen.test_score(name), at) for name in ("loss", "accuracy")},
        "best/validation_loss": (0.5, 2 * TRAIN),
    }
    best = max(records.epochs[:3], key=lambda epoch: epoch.validation["accuracy"])
    expected["best/validation_accuracy"] = (best.validation["accuracy"], best.examples_seen)
    assert {key: (point.value, point.step) for key, point in final.items()} == expected


@pytest.mark.parametrize("outcome", [None, Outcome(status="failed", error="out of memory")])
def test_a_cell_that_is_not_complete_has_no_final_scores(study: StudyBuilder, outcome: Outcome | None) -> None:
    study.train(study.plan.trajectories[0], validation_loss=VALIDATION_LOSS[:2], outcome=outcome)
    owner, _, records = results_and_records(study)
    assert final_points(owner, records.epochs) == []
    contents = contents_of(owner, study, records)
    assert contents.status == ("RUNNING" if outcome is None else "FAILED")
    assert contents.tags.get("error") == (None if outcome is None else "out of memory")
    assert not any(point.key.startswith(("test/", "chosen/", "best/")) for point in contents.metrics)


def test_a_run_that_has_some_records_lacks_the_others_only(study: StudyBuilder) -> None:
    study.train(study.plan.trajectories[0], validation_loss=VALIDATION_LOSS[:2])
    owner, _, records = results_and_records(study)
    assert len(records.history) == 10
    for count in (7, 10):
        known_tags = {"records": str(count), "status": "running", "stop_reason": "none"}
        missing = contents_of(owner, study, records, known_tags).metrics
        assert missing == [point for record in records.history[count:] for point in points(record)]


def test_nan_stays_nan(study: StudyBuilder) -> None:
    study.train(study.plan.trajectories[0], validation_loss=[math.nan], outcome=ended("non-finite"))
    owner, _, records = results_and_records(study)
    values = {point.key: point.value for point in contents_of(owner, study, records).metrics}
    assert math.isnan(values["validation/loss"])
    assert math.isnan(values["train/epoch_loss"])
    assert "best/validation_loss" not in values
