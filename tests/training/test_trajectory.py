"""A trajectory in processes that are really killed: it ends as if nothing had happened, and in the same folder."""

import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from killed_process import Place, run
from loop_builder import CPU, FAMILIES, make_settings
from torch.optim.optimizer import register_optimizer_step_post_hook

from study.data.dataset import load, open_encoded, prepare
from study.models.classifier import Classifier
from study.plan.cell_results import scores
from study.records import Interval, Outcome, TrajectoryFolder, to_line
from study.settings import Data
from study.stopping import best_epoch
from study.training.evaluation import evaluate
from study.training.trajectory import train_trajectory

EPOCHS, BATCH, STEPS_PER_EPOCH = 3, 24, 5
# More than the 15 steps and the files of a whole run, so that "not killed after all" is among the choices.
PLACES = st.one_of(
    st.builds(Place, st.just("step"), st.integers(1, EPOCHS * STEPS_PER_EPOCH + 1)),
    st.builds(Place, st.just("file"), st.integers(1, 250)),
)
# After every interval, or after epochs alone.
PACES = st.sampled_from([1e-9, 5.0])
CLOCK = ("time", "train_seconds")
REVIEWS = Data(source="builtin:reviews", examples=150, max_length=16)


@pytest.fixture(scope="module")
def encoded(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Path]:
    """150 short reviews for each family, 120 of them to train on."""
    cache = tmp_path_factory.mktemp("cache")
    return {
        family: prepare(REVIEWS, identity="reviews", examples=150, model=family, model_identity=family, cache=cache)
        for family in FAMILIES
    }


def plan(folder: Path, encoded: Mapping[str, Path], family: str, *, every_minutes: float = 5.0, **changes: Any) -> Path:
    """Say in ``folder`` what is to be trained: with dropout, and each batch in three parts."""
    chosen = make_settings(
        model=family,
        epochs=EPOCHS,
        dropout=0.1,
        batch_size=BATCH,
        micro_batch_size=10,
        lr_schedule="linear",
        warmup_fraction=0.2,
        log_every_examples=48,
        max_gradient_norm=1.0,
    )
    TrajectoryFolder(folder).write_config(
        {
            "settings": chosen.model_dump(mode="json"),
            "encoded": str(encoded[family]),
            "precision": "float32",
            "policies": [{"max_epochs": EPOCHS}],
            "optimizer_steps": EPOCHS * STEPS_PER_EPOCH,
            "checkpoint_metric": "loss",
            "checkpoint_every_minutes": every_minutes,
            "keep_best_weights": True,
            **changes,
        }
    )
    return folder


def without_clock(values: dict[str, Any]) -> str:
    return json.dumps({key: value for key, value in values.items() if key not in CLOCK}, sort_keys=True)


def result(path: Path) -> dict[str, Any]:
    """All that a trajectory leaves, but for what the clock decides."""
    folder = TrajectoryFolder(path)
    outcome = folder.outcome()
    assert outcome is not None
    # What is recorded stands, the clock's part of it too.
    assert outcome.train_seconds == sum(epoch.train_seconds for epoch in folder.epochs())
    files = [*path.glob("predictions/*.parquet"), *path.glob("best-model/*.safetensors")]
    return {
        "outcome": without_clock(asdict(outcome)),
        "history": [without_clock(asdict(record)) for record in folder.history()],
        "files": {str(file.relative_to(path)): file.read_bytes() for file in files},
        "folder": {item.name for item in path.iterdir()},
    }


@pytest.fixture(scope="module")
def uninterrupted(encoded: Mapping[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Path]:
    """The folder of each family's trajectory, trained in one go."""
    folders = {family: plan(tmp_path_factory.mktemp(family) / "whole", encoded, family) for family in FAMILIES}
    for folder in folders.values():
        assert run(folder) == 0
    return folders


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    """As many as before, whatever a trajectory took."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def kill_and_go_on(
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
@given(places=st.lists(PLACES, min_size=1, max_size=3), every_minutes=PACES)
@settings(max_examples=4, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_killed_anywhere_it_ends_as_if_it_had_not_been(
    uninterrupted: Mapping[str, Path],
    encoded: Mapping[str, Path],
    tmp_path: Path,
    family: str,
    places: list[Place],
    every_minutes: float,
) -> None:
    kill_and_go_on(uninterrupted[family], tmp_path / "killed", encoded, family, places, every_minutes)


@pytest.mark.slow
@pytest.mark.faults
@pytest.mark.parametrize("family", FAMILIES)
@given(places=st.lists(PLACES, min_size=1, max_size=5), every_minutes=PACES)
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_killed_anywhere_many_times_it_ends_as_if_it_had_not_been(
    uninterrupted: Mapping[str, Path],
    encoded: Mapping[str, Path],
    tmp_path: Path,
    family: str,
    places: list[Place],
    every_minutes: float,
) -> None:
    kill_and_go_on(uninterrupted[family], tmp_path / "killed", encoded, family, places, every_minutes)


@pytest.mark.parametrize("family", FAMILIES)
def test_killed_after_each_step_it_comes_to_its_end(
    uninterrupted: Mapping[str, Path], encoded: Mapping[str, Path], tmp_path: Path, family: str
) -> None:
    """An interval is two steps, so each process brings one interval to disk and dies within the next."""
    folder = plan(tmp_path / "killed", encoded, family, every_minutes=1e-9)
    codes = [run(folder, kill_at=Place("step", 3))]
    while codes[-1] != 0:
        assert len(codes) < 12
        codes.append(run(folder, kill_at=Place("step", 3)))
    assert len(codes) >= 7
    assert set(codes[:-1]) == {-9}
    assert result(folder) == result(uninterrupted[family])


def train(
    folder: Path, stop_file: Path | None = None, *, report: Callable[[dict[str, Any]], None] | None = None
) -> Any:
    return train_trajectory(
        TrajectoryFolder(folder), cpu_threads=1, report=report or (lambda _: None), stop_file=stop_file
    )


def test_a_stop_file_saves_and_leaves_the_rest_to_a_later_call(
    uninterrupted: Mapping[str, Path], encoded: Mapping[str, Path], tmp_path: Path
) -> None:
    folder, stop = plan(tmp_path / "stopped", encoded, "tiny-bert"), tmp_path / ".stop"
    reported: list[int] = []

    def report(progress: dict[str, Any]) -> None:
        reported.append(progress["epoch"])
        stop.touch()

    assert train(folder, stop, report=report) is None
    records = TrajectoryFolder(folder).history()
    # The epoch's end, and the interval after it: the first that was yielded with the file there.
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


def test_a_stop_file_at_every_turn_only_delays(
    uninterrupted: Mapping[str, Path], encoded: Mapping[str, Path], tmp_path: Path
) -> None:
    """With the file there from the first record on, each call trains one interval."""
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


@pytest.mark.parametrize("kept", [0, 1, 30])
def test_a_history_cut_in_mid_line_is_completed(
    uninterrupted: Mapping[str, Path], encoded: Mapping[str, Path], tmp_path: Path, kept: int
) -> None:
    """What a crash leaves that fell into the writing of the records after a checkpoint."""
    folder, stop = plan(tmp_path / "cut", encoded, "tiny-bert"), tmp_path / ".stop"
    assert train(folder, stop, report=lambda _: stop.touch()) is None
    stop.unlink()
    with (folder / "history.jsonl").open("ab") as file:
        file.write(to_line(uninterrupted_interval(uninterrupted["tiny-bert"]))[:kept])
    assert train(folder) is not None
    assert result(folder) == result(uninterrupted["tiny-bert"])


def uninterrupted_interval(folder: Path) -> Interval:
    return next(record for record in TrajectoryFolder(folder).history() if isinstance(record, Interval))


def test_what_is_complete_is_not_done_again(uninterrupted: Mapping[str, Path], tmp_path: Path) -> None:
    """Not even read: the data and the model may be gone by then."""
    folder = shutil.copytree(uninterrupted["tiny-bert"], tmp_path / "complete")
    config = TrajectoryFolder(folder).config()
    assert config is not None
    TrajectoryFolder(folder).write_config({**config, "encoded": "gone"})
    (folder / "checkpoints").mkdir()
    (folder / "checkpoints" / "left").touch()
    before = result(folder)
    outcome = train(folder, report=lambda _: pytest.fail("an epoch was trained"))
    assert outcome == TrajectoryFolder(folder).outcome()
    assert not (folder / "checkpoints").exists()
    assert result(folder) == {**before, "folder": before["folder"] - {"checkpoints"}}


def test_what_failed_is_tried_again(
    uninterrupted: Mapping[str, Path], encoded: Mapping[str, Path], tmp_path: Path
) -> None:
    folder = plan(tmp_path / "failed", encoded, "tiny-bert")
    TrajectoryFolder(folder).write_outcome(Outcome(status="failed", error="its machine was lost"))
    assert train(folder).status == "complete"
    assert result(folder) == result(uninterrupted["tiny-bert"])


@pytest.mark.parametrize("damaged", [1, 2])
def test_damaged_checkpoints_cost_time_and_nothing_else(
    uninterrupted: Mapping[str, Path], encoded: Mapping[str, Path], tmp_path: Path, damaged: int
) -> None:
    """The records since the checkpoint before it stand already; coming by them again changes nothing."""
    folder = plan(tmp_path / "damaged", encoded, "tiny-bert", every_minutes=1e-9)
    assert run(folder, kill_at=Place("step", 11)) == -9
    for path in sorted((folder / "checkpoints").glob("*.safetensors"))[-damaged:]:
        path.write_bytes(path.read_bytes()[:-1_000])
    with pytest.warns(UserWarning, match="is not whole: training goes on from the checkpoint before it"):
        assert train(folder) is not None
    assert result(folder) == result(uninterrupted["tiny-bert"])


def test_each_epoch_is_reported_once_with_its_numbers(encoded: Mapping[str, Path], tmp_path: Path) -> None:
    folder = plan(tmp_path / "reported", encoded, "tiny-bert")
    reported: list[dict[str, Any]] = []
    train(folder, report=reported.append)
    epochs = TrajectoryFolder(folder).epochs()
    assert [progress["epoch"] for progress in reported] == [1, 2, 3]
    for progress, epoch in zip(reported, epochs, strict=True):
        values = asdict(epoch)
        shared = progress.keys() & values.keys()
        assert shared >= {"examples_seen", "train_loss", "validation_loss", "validation_accuracy"}
        assert {key: progress[key] for key in shared} == {key: values[key] for key in shared}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("metric", ["loss", "accuracy"])
def test_the_best_weights_are_a_model_that_gives_the_recorded_predictions(
    encoded: Mapping[str, Path], tmp_path: Path, family: str, metric: Any
) -> None:
    folder = TrajectoryFolder(plan(tmp_path / "kept", encoded, family, checkpoint_metric=metric))
    train(folder.path)
    automatic: Any = transformers.AutoModelForSequenceClassification
    best_model = automatic.from_pretrained(folder.path / "best-model")
    best = best_epoch(scores(folder.epochs()), metric)
    data = open_encoded(encoded[family])
    model = Classifier(best_model, data.special.inputs)
    recorded = folder.predictions(best, "test")
    assert recorded is not None
    got = evaluate(model, data.test, device=CPU, precision="float32").predictions
    assert np.array_equal(got.logits, recorded.logits)
    assert np.array_equal(got.example_id, recorded.example_id)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_best_model_classifies_texts_where_it_lies(
    encoded: Mapping[str, Path], tmp_path: Path, family: str
) -> None:
    folder = TrajectoryFolder(plan(tmp_path / "kept", encoded, family))
    train(folder.path)
    recorded = folder.predictions(best_epoch(scores(folder.epochs()), "loss"), "test")
    assert recorded is not None
    found = load(REVIEWS, examples=150)
    texts = dict(zip(found.ids.tolist(), found.texts, strict=True))
    classify: Any = transformers.pipeline("text-classification", str(folder.path / "best-model"), device="cpu")
    answers = classify([texts[example] for example in recorded.example_id.tolist()], top_k=None, truncation=True)
    positive = [next(one["score"] for one in answer if one["label"] == "1") for answer in answers]
    assert positive == pytest.approx(torch.tensor(recorded.logits).float().softmax(-1)[:, 1].tolist(), abs=1e-5)


def test_no_weights_are_kept_unless_asked_for(encoded: Mapping[str, Path], tmp_path: Path) -> None:
    folder = plan(tmp_path / "not-kept", encoded, "tiny-bert", keep_best_weights=False)
    train(folder)
    assert {path.name for path in folder.iterdir()} == {
        ".lock", "config.json", "history.jsonl", "outcome.json", "predictions",
    }  # fmt: skip
