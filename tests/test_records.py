"""Records as dataclasses and as JSON."""

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from study_builder import make_epoch, make_manifest, make_settings

from study.records import (
    FORMAT,
    Epoch,
    Interval,
    Outcome,
    Record,
    TrajectoryConfig,
    TrajectoryRecords,
    from_line,
    to_line,
)
from study.stopping import StoppingPolicy

numbers = st.one_of(st.floats(width=64), st.sampled_from([math.nan, math.inf, 0.1, 1e-300]))
scores = st.fixed_dictionaries({"loss": numbers, "accuracy": numbers})
intervals = st.builds(
    Interval,
    examples_seen=st.integers(0, 2**40),
    optimizer_step=st.integers(0, 2**31),
    train_loss=numbers,
    gradient_norm=numbers,
    learning_rate=st.floats(0, 1),
    time=st.floats(0, 2e9),
)
epochs = st.builds(
    make_epoch,
    st.integers(1, 1_000),
    validation=scores,
    test=st.none() | scores,
    train_loss=numbers,
    majority_share=numbers,
    update_ratio=numbers,
)


@given(intervals | epochs)
def test_a_line_is_read_back_as_its_record_to_the_last_bit(record: Record) -> None:
    line = to_line(record)
    assert line.count(b"\n") == 1
    assert repr(from_line(line)) == repr(record)
    assert type(from_line(line.decode())) is type(record)


def test_records_are_plain_json() -> None:
    interval = Interval(
        examples_seen=800, optimizer_step=50, train_loss=0.5, gradient_norm=1.0, learning_rate=5e-5, time=1.8e9
    )
    assert json.loads(to_line(interval))["kind"] == "interval"
    values = json.loads(to_line(make_epoch(1, test={"loss": 0.5, "accuracy": 0.75})))
    assert values["kind"] == "epoch"
    assert values["test"] == {"loss": 0.5, "accuracy": 0.75}


def test_an_epoch_that_was_not_scored_on_test_has_no_test_score() -> None:
    assert make_epoch(1).test_score("accuracy") is None
    scored = make_epoch(1, test={"loss": 0.5, "accuracy": 0.75})
    assert (scored.test_score("loss"), scored.test_score("accuracy")) == (0.5, 0.75)


def test_the_rate_of_training_counts_the_training_examples_of_one_epoch() -> None:
    assert make_epoch(4, examples_seen=4_000, train_seconds=2.0).examples_per_second == 500


def test_a_history_is_split_into_intervals_and_epochs() -> None:
    interval = Interval(
        examples_seen=800, optimizer_step=50, train_loss=0.5, gradient_norm=1.0, learning_rate=5e-5, time=1.8e9
    )
    first, second = make_epoch(1), make_epoch(2, validation={"loss": 0.25, "accuracy": 0.9})
    records = TrajectoryRecords(history=[interval, first, interval, second])
    assert records.intervals == (interval, interval)
    assert records.epochs == (first, second)
    assert records.validation == [first.validation, {"loss": 0.25, "accuracy": 0.9}]
    assert TrajectoryRecords().validation == []


def test_an_outcome_is_read_back_from_its_json() -> None:
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
    assert Outcome.from_json(json.loads(json.dumps(outcome.to_json()))) == outcome


def test_a_config_is_read_back_from_its_json() -> None:
    stopping = {"patience": 2, "min_delta": 0.01, "metric": "accuracy"}
    settings = make_settings(early_stopping=stopping, adam_betas=[0.9, 0.98], micro_batch_size="auto")
    config = TrajectoryConfig(
        name="lr 5e-05",
        settings=settings,
        encoded="/somewhere",
        policies=(settings.policy(4), StoppingPolicy(max_epochs=2)),
        optimizer_steps=200,
        precision="bfloat16",
        objective="loss",
        gpus=0.5,
    )
    read_back = TrajectoryConfig.from_json(json.loads(json.dumps(config.to_json())))
    assert read_back == config
    assert read_back.policies[0] == StoppingPolicy(max_epochs=4, patience=2, min_delta=0.01, metric="accuracy")
    assert read_back.max_epochs == 4


def test_a_manifest_has_the_number_of_the_format() -> None:
    values = json.loads(json.dumps(make_manifest().to_json()))
    assert values["format"] == FORMAT == 2


@pytest.mark.parametrize("name", Epoch.__slots__)
def test_an_epoch_names_every_number_in_its_line(name: str) -> None:
    assert name in json.loads(to_line(make_epoch(1)))
