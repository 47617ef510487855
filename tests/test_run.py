"""The whole way, with a real Ray and a real MLflow store: from a space file to results, interrupted, grown, refused."""

import fcntl
import json
import os
import re
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import tokenizers
import transformers
from mlflow import MlflowClient
from study_process import Study, assert_same_records

from study.plan.cell_results import cell_results

ROBERTA = "tiny-roberta"


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Study, str]:
    """A study that has run to its end, and what it printed."""
    study = Study(tmp_path_factory.mktemp("finished"))
    return study, study.run()


def test_every_cell_is_done_shown_and_mirrored(finished: tuple[Study, str]) -> None:
    study, output = finished
    results = cell_results(study.results(), study.plan())
    assert [result.state for result in results] == ["complete"] * 4
    assert "4 cells in 2 trajectories" in output
    assert re.search(r"mlflow ui --backend-store-uri sqlite:////.*/small/mlflow.db", output)
    assert f"results:    {study.results().path}" in output
    assert "Ray dashboard: http://127.0.0.1:" in output
    table = output[output.index("test acc.") :]
    for result in results:
        assert result.chosen is not None
        assert f"{result.chosen.test_loss:.3f}" in table
    runs = {run.data.tags["cell"]: run for run in study.runs()}
    assert {run.info.status for run in runs.values()} == {"FINISHED"}
    assert runs.keys() == {result.cell.id for result in results}
    for result in results:
        assert result.chosen is not None
        assert runs[result.cell.id].data.metrics["test/loss"] == result.chosen.test_loss
    assert "(pid=" not in output


def test_a_run_ends_with_its_report_which_mlflow_keeps(finished: tuple[Study, str]) -> None:
    study, output = finished
    path = study.results().path
    assert f"report:     {path / 'report.html'}" in output
    client = MlflowClient(f"sqlite:///{path / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("small")
    assert experiment is not None
    (parent,) = client.search_runs([experiment.experiment_id], "tags.cell = 'study'")
    kept = {item.path for item in client.list_artifacts(parent.info.run_id, "report")}
    assert {"report/report.html", "report/report.md", "report/figures"} <= kept
    assert parent.info.status == "FINISHED"


def test_a_report_that_cannot_be_written_does_not_end_a_run(finished: tuple[Study, str]) -> None:
    study, _ = finished
    figures = study.results().path / "figures"
    shutil.move(figures, figures.with_name("moved"))
    figures.write_text("a file where a folder should be")
    try:
        assert "no report was written" in study.run()
    finally:
        figures.unlink()
        shutil.move(figures.with_name("moved"), figures)


def test_the_manifest_says_what_ran(finished: tuple[Study, str]) -> None:
    study, _ = finished
    manifest = study.results().manifest()
    assert manifest is not None
    assert manifest["versions"]["torch"].startswith("2.")
    assert manifest["precision"] in ("float32", "bfloat16")
    outcomes = [study.results().trajectory(t.id).outcome() for t in study.plan().trajectories]
    assert {outcome.precision for outcome in outcomes if outcome} == {manifest["precision"]}


def test_the_same_command_again_trains_nothing(finished: tuple[Study, str]) -> None:
    study, _ = finished
    before = study.histories()
    output = study.run()
    assert "2 of them done" in output
    assert "Ray dashboard" not in output
    assert study.histories() == before


def test_a_value_added_later_trains_only_what_is_new(finished: tuple[Study, str]) -> None:
    study, _ = finished
    before = study.histories()
    study.run("--set", "lr_schedule=[constant, linear]", "--only", "model=tiny-bert")
    results = cell_results(study.results(), study.plan())
    assert [result.state for result in results] == ["complete"] * 4
    after = study.histories()
    assert len(after) == len(before) + 1
    assert {path: after[path] for path in before} == before
    assert "2 trajectories, 0 of" not in study.run("--dry-run")


def test_a_changed_fixed_setting_is_another_study(finished: tuple[Study, str]) -> None:
    study, _ = finished
    output = study.run("--set", "learning_rate=1e-4", exits=2)
    assert "learning_rate was 0.0005 and is 0.0001" in output
    assert "--fresh" in output
    assert "data.max_length was 32 and is 16" in study.run("--set", "data.max_length=16", exits=2)


def test_whoever_comes_second_is_told_who_runs_it(finished: tuple[Study, str]) -> None:
    study, _ = finished
    with (study.results().path / ".lock").open("r+") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        output = study.run(exits=2)
    assert re.search(r"is being run by \S+ on \S+ \(process \d+\) since \d{4}-", output)


@pytest.mark.parametrize(
    ("number", "to_all"),
    [(signal.SIGINT, False), (signal.SIGTERM, False), pytest.param(signal.SIGHUP, True, id="terminal-closed")],
)
def test_interrupted_and_continued_is_as_if_nothing_had_happened(
    finished: tuple[Study, str], tmp_path: Path, number: signal.Signals, to_all: bool
) -> None:
    study = Study(tmp_path / "interrupted")
    study.space["fixed"]["epochs"] = 3
    process = study.start(wrapper=["env", "--default-signal=HUP"])  # tests that run under nohup would hand it on
    histories = study.folder / "studies" / "small" / "trajectories"
    until = time.monotonic() + 120
    while not any(path.stat().st_size for path in histories.glob("*/history.jsonl")):
        assert process.poll() is None
        assert time.monotonic() < until
        time.sleep(0.01)
    (os.killpg if to_all else os.kill)(process.pid, number)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 1, output
    assert f"stopped by {number.name}" in output
    assert "-m study.run --space small.yaml" in output[output.index("to go on:") :]
    assert "Traceback" not in output
    statuses = {run.info.status for run in study.runs()}
    assert statuses <= {"KILLED", "FINISHED"}
    study.run()
    assert_same_records(study, finished[0])
    assert {run.info.status for run in study.runs()} == {"FINISHED"}
    assert len(study.runs()) == 4


def test_with_nohup_it_outlives_its_terminal_and_whoever_read_what_it_prints(tmp_path: Path) -> None:
    study = Study(tmp_path / "left-alone")
    process = study.start("--set", "epochs=1", wrapper=["nohup"])
    assert process.stdout is not None
    while "started" not in process.stdout.readline():
        assert process.poll() is None
    process.stdout.close()
    process.send_signal(signal.SIGHUP)
    assert process.wait(timeout=240) == 0
    assert [result.state for result in cell_results(study.results(), study.plan())] == ["complete"] * 4


def test_what_fails_is_named_with_its_log_and_the_rest_goes_on(finished: tuple[Study, str], tmp_path: Path) -> None:
    study, other = Study(tmp_path / "failing"), finished[0]
    shutil.copytree(other.folder / "studies" / ".encoded", study.folder / "studies" / ".encoded")
    paths = (other.results().path / "trajectories").glob("*/config.json")
    config = next(found for path in paths if (found := json.loads(path.read_text()))["settings"]["model"] == ROBERTA)
    encoded = Path(config["encoded"]).relative_to(other.folder)
    (study.folder / encoded / "train-labels.npy").write_bytes(b"no array")
    output = study.run("--set", "early_stopping=none", exits=1)
    states = [result.state for result in cell_results(study.results(), study.plan())]
    assert states == ["complete", "failed"]
    named = next(line for line in output.splitlines() if line.startswith("tiny-roberta") and "its log:" in line)
    log = Path(named.split("its log: ")[1])
    assert "open_encoded" in log.read_text()
    assert sorted(run.info.status for run in study.runs()) == ["FAILED", "FINISHED"]


def test_a_model_folder_of_another_family_and_data_of_another_kind(tmp_path: Path) -> None:
    study = Study(tmp_path / "other")
    study.folder.mkdir()
    rows = [f"the {word} weather report number {i},{word}" for i in range(60) for word in ("sun", "rain")]
    (study.folder / "weather.csv").write_text("\n".join(["report,sky", *rows]) + "\n")
    study.space["data"] |= {"text_column": "report", "label_column": "sky", "label_values": ["sun", "rain"]}
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "the", "sun", "rain", "weather", "report", "number"]
    backend = tokenizers.Tokenizer(
        tokenizers.models.WordLevel({word: id_ for id_, word in enumerate(words)}, unk_token="[UNK]")
    )
    backend.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    backend.post_processor = tokenizers.processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    wrap: Any = transformers.PreTrainedTokenizerFast
    fast = wrap(tokenizer_object=backend, pad_token="[PAD]", unk_token="[UNK]")
    fast.save_pretrained(study.folder / "electra")
    config = transformers.ElectraConfig(
        vocab_size=len(words), embedding_size=32, hidden_size=32, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=64, max_position_embeddings=64,
    )  # fmt: skip
    transformers.ElectraForSequenceClassification(config).save_pretrained(study.folder / "electra")
    study.space["axes"] = {"model": ["./electra"], "seed": [0]}
    study.run("--data", "weather.csv", "--set", "learning_rate=3e-3", "--set", "epochs=8")
    (result,) = cell_results(study.results(), study.plan())
    assert result.state == "complete"
    assert result.chosen is not None
    assert result.chosen.test_accuracy is not None
    assert result.chosen.test_accuracy > 0.8
    test = study.results().trajectory(result.cell.trajectory).predictions(result.chosen.epoch, "test")
    assert test is not None
    assert test.logits.shape == (12, 2)


def test_what_the_user_has_to_mend_is_told_before_anything_starts(tmp_path: Path) -> None:
    study = Study(tmp_path / "refused")
    assert "a trajectory asks for 1 GPU" in study.run("--set", "run.gpu=1", exits=2)
    assert "a file system that all nodes share" in study.run("--storage", "s3://bucket/studies", exits=2)
    (study.folder / "file").write_text("")
    assert "cannot be written to" in study.run("--storage", "file/studies", exits=2)
    assert "did you mean epochs" in study.run("--set", "epoch=3", exits=2)


@pytest.mark.slow
def test_fresh_starts_over_in_a_folder_beside(tmp_path: Path) -> None:
    study = Study(tmp_path / "fresh")
    study.space["axes"] = {"model": ["tiny-bert"]}
    study.run("--set", "epochs=1")
    study.run("--set", "epochs=2", "--fresh")
    assert study.plan("small").trajectories[0].epochs == 1
    assert study.plan("small.2").trajectories[0].epochs == 2
    assert "1 of them done" in study.run("--set", "epochs=2")
