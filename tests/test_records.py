import json
import math
import resource
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from study.records import (
    Epoch,
    Interval,
    Outcome,
    Predictions,
    Record,
    StudyFolder,
    TrajectoryFolder,
    from_line,
    to_line,
    write_atomically,
)

numbers = st.one_of(st.floats(width=64), st.sampled_from([math.nan, math.inf, 0.1, 1e-300]))
intervals = st.builds(
    Interval,
    examples_seen=st.integers(0, 2**40),
    optimizer_step=st.integers(0, 2**31),
    train_loss=numbers,
    gradient_norm=numbers,
    learning_rate=st.floats(0, 1),
    time=st.floats(0, 2e9),
)


def interval(examples_seen: int, loss: float = 0.5) -> Interval:
    return Interval(
        examples_seen=examples_seen,
        optimizer_step=examples_seen // 16,
        train_loss=loss,
        gradient_norm=1.0,
        learning_rate=5e-5,
        time=1_800_000_000.0,
    )


def epoch(number: int, examples_seen: int, loss: float = 0.5) -> Epoch:
    return Epoch(
        epoch=number,
        examples_seen=examples_seen,
        optimizer_step=examples_seen // 16,
        train_loss=loss,
        validation_loss=loss,
        validation_accuracy=0.75,
        test_loss=None,
        test_accuracy=None,
        gradient_norm_mean=1.0,
        gradient_norm_max=2.0,
        update_ratio=1e-3,
        majority_share=0.5,
        entropy=0.6,
        confidence=0.7,
        logit_std=0.1,
        non_finite_steps=0,
        learning_rate=5e-5,
        train_seconds=1.0,
        time=1_800_000_001.0,
    )


RECORDS: list[Record] = [interval(800), interval(1_600), epoch(1, 1_600), interval(2_400), epoch(2, 3_200)]


@pytest.fixture
def folder(tmp_path: Path) -> TrajectoryFolder:
    made = TrajectoryFolder(tmp_path / "trajectory")
    made.write_config({"settings": {}})
    return made


@given(intervals)
def test_a_line_is_the_record_to_the_last_bit(record: Interval) -> None:
    line = to_line(record)
    assert line.count(b"\n") == 1
    assert repr(from_line(line)) == repr(record)


def test_a_folder_without_records_is_empty(folder: TrajectoryFolder) -> None:
    assert folder.history() == folder.epochs() == []
    assert folder.outcome() is None
    assert folder.predictions(1, "test") is None
    assert TrajectoryFolder(folder.path / "nowhere").config() is None


def test_appending_twice_is_appending_once(folder: TrajectoryFolder) -> None:
    folder.append(RECORDS[:3])
    before = (folder.path / "history.jsonl").read_bytes()
    folder.append(RECORDS[:3])
    assert (folder.path / "history.jsonl").read_bytes() == before
    folder.append(RECORDS)
    assert folder.history() == RECORDS
    assert folder.epochs() == [RECORDS[2], RECORDS[4]]


def test_what_is_recorded_stands(folder: TrajectoryFolder) -> None:
    folder.append([interval(800, loss=0.5)])
    folder.append([interval(800, loss=0.6), epoch(1, 800)])
    assert folder.history() == [interval(800, loss=0.5), epoch(1, 800)]


@pytest.mark.parametrize("kept", [1, 40, -1])
def test_a_line_cut_short_is_dropped_and_written_again(folder: TrajectoryFolder, kept: int) -> None:
    folder.append(RECORDS)
    path = folder.path / "history.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:-1]) + lines[-1][:kept])
    assert folder.history() == RECORDS[:-1]
    folder.append(RECORDS)
    assert folder.history() == RECORDS
    assert path.read_bytes() == b"".join(lines)


def test_a_first_line_cut_short_leaves_nothing(folder: TrajectoryFolder) -> None:
    (folder.path / "history.jsonl").write_bytes(b'{"examples_')
    assert folder.history() == []
    folder.append(RECORDS)
    assert folder.history() == RECORDS


def test_nan_is_kept(folder: TrajectoryFolder) -> None:
    folder.append([epoch(1, 800, loss=math.nan)])
    assert math.isnan(folder.epochs()[0].validation_loss)


def test_predictions_come_back_as_they_were(folder: TrajectoryFolder) -> None:
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(50, 3)).astype(np.float32)
    logits[7, 1] = np.nan
    made = Predictions(example_id=rng.permutation(50), label=rng.integers(0, 3, 50), logits=logits)
    folder.write_predictions(3, "test", made)
    first = folder.predictions_path(3, "test").read_bytes()
    read = folder.predictions(3, "test")
    assert read is not None
    assert np.array_equal(read.example_id, made.example_id)
    assert np.array_equal(read.label, made.label)
    assert read.logits.dtype == np.float32
    assert read.logits.tobytes() == logits.tobytes()
    assert folder.predictions(3, "validation") is None
    folder.write_predictions(3, "test", made)
    assert folder.predictions_path(3, "test").read_bytes() == first


def test_an_outcome_comes_back_and_can_be_forgotten(folder: TrajectoryFolder) -> None:
    outcome = Outcome(
        status="complete",
        stop_reason="stopped early",
        epochs=3,
        train_seconds=1.5,
        device="CPU",
        precision="float32",
        micro_batch_size=8,
        halved_at=(0, 17),
    )
    folder.write_outcome(outcome)
    assert folder.outcome() == outcome
    folder.forget_outcome()
    folder.forget_outcome()
    assert folder.outcome() is None


def test_a_study_is_one_only_with_its_manifest(tmp_path: Path) -> None:
    study = StudyFolder(tmp_path / "study")
    assert study.manifest() is None
    assert study.plan() is None
    study.write(manifest={"name": "s"}, plan={"cells": []}, space="name: s\n")
    assert study.manifest() == {"name": "s"}
    assert study.plan() == {"cells": []}
    assert (study.path / "space.yaml").read_text() == "name: s\n"
    assert study.trajectory("abc").path == study.path / "trajectories" / "abc"


def test_a_write_that_fails_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "values.json"
    write_atomically(path, b"one")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000, limits[1]))
    try:
        with pytest.raises(OSError, match="too large"):
            write_atomically(path, b"two" * 1_000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert path.read_bytes() == b"one"
    assert [item.name for item in tmp_path.iterdir()] == ["values.json"]
    write_atomically(path, b"three")
    assert path.read_bytes() == b"three"


def test_records_are_plain_json(folder: TrajectoryFolder) -> None:
    folder.append(RECORDS)
    first, *_ = (folder.path / "history.jsonl").read_text().splitlines()
    assert json.loads(first)["kind"] == "interval"
