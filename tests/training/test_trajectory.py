"""One trajectory in processes that are really killed: it ends with the records of an uninterrupted one."""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import hypothesis
import numpy as np
import pytest
import torch
import transformers
from hypothesis import HealthCheck, given
from hypothesis import strategies as st
from killed_process import Place, run
from loop_builder import CPU, FAMILIES
from places import ROOT
from tiny_trajectory import EPOCHS, REVIEWS, STEPS_PER_EPOCH, plan, result
from torch.optim.optimizer import register_optimizer_step_post_hook

from study import locks
from study.data.dataset import load, open_encoded, prepare
from study.models.classifier import Classifier
from study.records import Epoch, Interval, Outcome, to_line
from study.stopping import best_epoch
from study.storage import TrajectoryFolder
from study.training.evaluation import evaluate
from study.training.trajectory import train_trajectory

# Up to more than the 15 steps and the file accesses of a whole run, so that some runs are not killed at all.
PLACES = st.one_of(
    st.builds(Place, st.just("step"), st.integers(1, EPOCHS * STEPS_PER_EPOCH + 1)),
    st.builds(Place, st.just("file"), st.integers(1, 300)),
)
# Minutes between checkpoints: one after every interval, or after epochs alone.
CHECKPOINT_MINUTES = st.sampled_from([1e-9, 5.0])


@pytest.fixture(scope="module")
def encoded(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Path]:
    """150 short reviews for each family, 120 of them to train on."""
    cache = tmp_path_factory.mktemp("cache")
    return {
        family: prepare(REVIEWS, identity={"examples": 150}, model=family, model_identity=family, cache=cache)
        for family in FAMILIES
    }


@pytest.fixture(scope="module")
def uninterrupted(encoded: Mapping[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Path]:
    """The folder of each family's trajectory, trained without an interruption."""
    folders = {family: plan(tmp_path_factory.mktemp(family) / "whole", encoded, family) for family in FAMILIES}
    for folder in folders.values():
        assert run(folder) == 0
    return folders


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    """Restore the number of threads, which a trajectory sets."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def assert_equal_after_kills(
    whole: Path, folder: Path, encoded: Mapping[str, Path], family: str, places: list[Place], every_minutes: float
) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    plan(folder, encoded, family, every_minutes=every_minutes)
    codes = [run(folder, kill_at=place) for place in places]
    assert set(codes) <= {0, -9}
    assert run(folder) == 0
    got, expected = result(folder), result(whole)
    assert got["history"] == expected["history"]
    assert got["files"].keys() == expected["files"].keys()
    assert [name for name in got["files"] if got["files"][name] != expected["files"][name]] == []
    assert got == expected


@pytest.mark.faults
@pytest.mark.parametrize("family", FAMILIES)
@given(places=st.lists(PLACES, min_size=1, max_size=3), every_minutes=CHECKPOINT_MINUTES)
@hypothesis.settings(max_examples=4, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_trajectory_killed_anywhere_ends_as_an_uninterrupted_one(
    uninterrupted: Mapping[str, Path],
    encoded: Mapping[str, Path],
    tmp_path: Path,
    family: str,
    places: list[Place],
    every_minutes: float,
) -> None:
    assert_equal_after_kills(uninterrupted[family], tmp_path / "killed", encoded, family, places, every_minutes)


@pytest.mark.slow
@pytest.mark.faults
@pytest.mark.parametrize("family", FAMILIES)
@given(places=st.lists(PLACES, min_size=1, max_size=5), every_minutes=CHECKPOINT_MINUTES)
@hypothesis.settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_trajectory_killed_many_times_ends_as_an_uninterrupted_one(
    uninterrupted: Mapping[str, Path],
    encoded: Mapping[str, Path],
    tmp_path: Path,
    family: str,
    places: list[Place],
    every_minutes: float,
) -> None:
    assert_equal_after_kills(uninterrupted[family], tmp_path / "killed", encoded, family, places, every_minutes)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_trajectory_killed_in_every_interval_still_ends(
    uninterrupted: Mapping[str, Path], encoded: Mapping[str, Path], tmp_path: Path, family: str
) -> None:
    """An interval is two steps, so each process saves one interval and is killed within the next."""
    folder = plan(tmp_path / "killed", encoded, family, every_minutes=1e-9)
    codes = [run(folder, kill_at=Place("step", 3))]
    while codes[-1] != 0:
        assert len(codes) < 12
        codes.append(run(folder, kill_at=Place("step", 3)))
    assert len(codes) >= 7
    assert set(codes[:-1]) == {-9}
    assert result(folder) == result(uninterrupted[family])


def train(
    folder: Path, stop: Path = Path("nowhere"), *, report: Callable[[Epoch], None] = lambda _: None
) -> Outcome | None:
    return train_trajectory(TrajectoryFolder(folder), cpu_threads=1, report=report, stop=stop.exists)


def test_a_stop_file_saves_a_checkpoint_that_a_later_call_resumes_from(
    uninterrupted: Mapping[str, Path], encoded: Mapping[str, Path], tmp_path: Path
) -> None:
    folder, stop = plan(tmp_path / "stopped", encoded, "tiny-bert"), tmp_path / ".stop"
    reported: list[int] = []

    def report(epoch: Epoch) -> None:
        reported.append(epoch.epoch)
        stop.touch()

    assert train(folder, stop, report=report) is None
    records = TrajectoryFolder(folder).history()
    # The epoch's end, and the interval after it: the first record with the file there.
    assert reported == [1]
    assert [record.kind for record in records[-2:]] == ["epoch", "interval"]
    assert (folder / "checkpoints").is_dir()
    assert TrajectoryFolder(folder).outcome() is None

    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    assert train(folder, stop) is None
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before

    stop.unlink()
    assert train(folder, stop) is not None
    assert result(folder) == result(uninterrupted["tiny-bert"])


TRAINS_SLOWLY = """
import sys, time
from pathlib import Path
from study import locks
from study.storage import TrajectoryFolder
from study.training.trajectory import train_trajectory
locks.BEAT_SECONDS = 0.2

def observe(record):
    print(record.kind, flush=True)
    time.sleep(0.5)

train_trajectory(TrajectoryFolder(Path(sys.argv[1])), cpu_threads=1, observe=observe)
"""


def test_a_worker_that_stood_still_while_another_took_over_stops_without_writing(
    uninterrupted: Mapping[str, Path], encoded: Mapping[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As one on a machine that was out of reach for a while."""
    monkeypatch.setattr(locks, "STILL_SECONDS", 2.0)
    folder = plan(tmp_path / "taken over", encoded, "tiny-bert")
    command = [sys.executable, "-c", TRAINS_SLOWLY, str(folder)]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        while process.stdout.readline() != "epoch\n":
            assert process.poll() is None
        os.kill(process.pid, signal.SIGSTOP)
        assert train(folder) is not None
        before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
        os.kill(process.pid, signal.SIGCONT)
        _, errors = process.communicate(timeout=60)
        assert process.returncode == 1
        assert "LockLostError" in errors
        assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
    finally:
        process.kill()
        process.wait()
    assert result(folder) == result(uninterrupted["tiny-bert"])


def test_a_stop_file_at_every_interval_changes_no_result(
    uninterrupted: Mapping[str, Path], encoded: Mapping[str, Path], tmp_path: Path
) -> None:
    """With the file there from the first step on, each call trains one interval."""
    folder, stop = plan(tmp_path / "stopped", encoded, "tiny-roberta"), tmp_path / ".stop"
    calls = 0
    while TrajectoryFolder(folder).outcome() is None:
        calls += 1
        assert calls < 30
        stop.unlink(missing_ok=True)
        handle = register_optimizer_step_post_hook(lambda *_: stop.touch())
        train(folder, stop)
        handle.remove()
    assert calls > 8
    assert result(folder) == result(uninterrupted["tiny-roberta"])


@pytest.mark.parametrize("length", [0, 1, 30])
def test_a_history_with_a_truncated_last_line_is_completed(
    uninterrupted: Mapping[str, Path], encoded: Mapping[str, Path], tmp_path: Path, length: int
) -> None:
    """A crash while records are written leaves such a line."""
    folder, stop = plan(tmp_path / "truncated", encoded, "tiny-bert"), tmp_path / ".stop"
    assert train(folder, stop, report=lambda _: stop.touch()) is None
    stop.unlink()
    with (folder / "history.jsonl").open("ab") as file:
        file.write(to_line(first_interval(uninterrupted["tiny-bert"]))[:length])
    assert train(folder) is not None
    assert result(folder) == result(uninterrupted["tiny-bert"])


def first_interval(folder: Path) -> Interval:
    return next(record for record in TrajectoryFolder(folder).history() if isinstance(record, Interval))


def test_a_complete_trajectory_is_not_trained_again(uninterrupted: Mapping[str, Path], tmp_path: Path) -> None:
    """Its data and its model may be gone by then."""
    folder = shutil.copytree(uninterrupted["tiny-bert"], tmp_path / "complete")
    config = TrajectoryFolder(folder).config()
    assert config is not None
    TrajectoryFolder(folder).write_config(replace(config, encoded="gone"))
    (folder / "checkpoints").mkdir()
    (folder / "checkpoints" / "old").touch()
    before = result(folder)
    outcome = train(folder, report=lambda _: pytest.fail("an epoch was trained"))
    assert outcome == TrajectoryFolder(folder).outcome()
    assert not (folder / "checkpoints").exists()
    assert result(folder) == {**before, "folder": before["folder"] - {"checkpoints"}}


def test_a_failed_trajectory_is_trained_again(
    uninterrupted: Mapping[str, Path], encoded: Mapping[str, Path], tmp_path: Path
) -> None:
    folder = plan(tmp_path / "failed", encoded, "tiny-bert")
    TrajectoryFolder(folder).write_outcome(Outcome(status="failed", error="its machine was lost"))
    outcome = train(folder)
    assert outcome is not None
    assert outcome.status == "complete"
    assert result(folder) == result(uninterrupted["tiny-bert"])


@pytest.mark.parametrize("damaged", [1, 2])
def test_damaged_checkpoints_cost_only_time(
    uninterrupted: Mapping[str, Path], encoded: Mapping[str, Path], tmp_path: Path, damaged: int
) -> None:
    """Epochs that are recorded already are trained again, and their records stay as they are."""
    folder = plan(tmp_path / "damaged", encoded, "tiny-bert", every_minutes=1e-9)
    assert run(folder, kill_at=Place("step", 11)) == -9
    for path in sorted((folder / "checkpoints").glob("*.safetensors"))[-damaged:]:
        path.write_bytes(path.read_bytes()[:-1_000])
    with pytest.warns(UserWarning, match="is incomplete: training resumes from the checkpoint before it"):
        assert train(folder) is not None
    assert result(folder) == result(uninterrupted["tiny-bert"])


def test_each_epoch_is_reported_once_as_it_is_recorded(encoded: Mapping[str, Path], tmp_path: Path) -> None:
    folder = plan(tmp_path / "reported", encoded, "tiny-bert")
    reported: list[Epoch] = []
    train(folder, report=reported.append)
    assert [epoch.epoch for epoch in reported] == [1, 2, 3]
    assert reported == TrajectoryFolder(folder).epochs()


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("metric", ["loss", "accuracy"])
def test_the_best_model_reproduces_the_recorded_predictions(
    encoded: Mapping[str, Path], tmp_path: Path, family: str, metric: str
) -> None:
    folder = TrajectoryFolder(plan(tmp_path / "kept", encoded, family, checkpoint_metric=metric))
    train(folder.path)
    automatic: Any = transformers.AutoModelForSequenceClassification
    best_model = automatic.from_pretrained(folder.best_model)
    best = best_epoch(folder.read().validation, metric)
    data = open_encoded(encoded[family])
    model = Classifier(best_model, data.special.inputs)
    recorded = folder.predictions(best, "test")
    assert recorded is not None
    got = evaluate(model, data.test, device=CPU, precision="float32").predictions
    assert np.array_equal(got.logits, recorded.logits)
    assert np.array_equal(got.example_id, recorded.example_id)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_best_model_classifies_texts_in_a_pipeline(
    encoded: Mapping[str, Path], tmp_path: Path, family: str
) -> None:
    folder = TrajectoryFolder(plan(tmp_path / "kept", encoded, family))
    train(folder.path)
    recorded = folder.predictions(best_epoch(folder.read().validation, "loss"), "test")
    assert recorded is not None
    reviews = load(REVIEWS, examples=150)
    texts = dict(zip(reviews.ids.tolist(), reviews.texts, strict=True))
    classify: Any = transformers.pipeline("text-classification", str(folder.best_model), device="cpu")
    answers = classify([texts[example] for example in recorded.example_id.tolist()], top_k=None, truncation=True)
    positive = [next(label["score"] for label in answer if label["label"] == "1") for answer in answers]
    assert positive == pytest.approx(torch.tensor(recorded.logits).float().softmax(-1)[:, 1].tolist(), abs=1e-5)


def test_weights_are_kept_only_on_request(encoded: Mapping[str, Path], tmp_path: Path) -> None:
    folder = plan(tmp_path / "not-kept", encoded, "tiny-bert", keep_best_weights=False)
    train(folder)
    assert {path.name for path in folder.iterdir()} == {
        ".lock", "attempts.jsonl", "config.json", "history.jsonl", "outcome.json", "predictions",
    }  # fmt: skip
