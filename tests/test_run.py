"""A study from space file to results, with a real Ray and a real MLflow store."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import tokenizers
import transformers
import yaml
from mlflow import MlflowClient
from places import ROOT
from study_process import Study, assert_same_records
from synthetic_study import healthy, make_synthetic, plan_of

from study.plan.cell_results import cell_results
from study.plan.plan import read_plan
from study.storage import TrajectoryFolder


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Study, str]:
    """A finished study, and what it printed."""
    study = Study(tmp_path_factory.mktemp("finished"), dashboard=True)
    return study, study.run()


def test_every_cell_is_complete_printed_and_mirrored(finished: tuple[Study, str]) -> None:
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
        assert f"{result.chosen.test_score('loss'):.3f}" in table
    runs = {run.data.tags["cell"]: run for run in study.runs()}
    assert {run.info.status for run in runs.values()} == {"FINISHED"}
    assert runs.keys() == {result.cell.id for result in results}
    for result in results:
        assert result.chosen is not None
        assert runs[result.cell.id].data.metrics["test/loss"] == result.chosen.test_score("loss")
    assert "(pid=" not in output


def test_the_report_is_written_at_the_end_and_mirrored(finished: tuple[Study, str]) -> None:
    study, output = finished
    assert f"report:     {study.results().report}" in output
    client = MlflowClient(f"sqlite:///{study.results().mlflow_file}")
    experiment = client.get_experiment_by_name("small")
    assert experiment is not None
    (parent,) = client.search_runs([experiment.experiment_id], "tags.cell = 'study'")
    artifacts = {item.path for item in client.list_artifacts(parent.info.run_id, "report")}
    assert {"report/report.html", "report/report.md", "report/figures"} <= artifacts
    assert parent.info.status == "FINISHED"


def test_a_run_succeeds_although_its_report_cannot_be_written(finished: tuple[Study, str]) -> None:
    study, _ = finished
    figures = study.results().path / "figures"
    shutil.move(figures, figures.with_name("moved"))
    figures.write_text("a file where a folder should be")
    try:
        assert "no report was written" in study.run()
    finally:
        figures.unlink()
        shutil.move(figures.with_name("moved"), figures)


def test_the_manifest_has_versions_and_the_precision_of_every_trajectory(finished: tuple[Study, str]) -> None:
    study, _ = finished
    manifest = study.results().manifest()
    assert manifest is not None
    assert manifest.versions["torch"].startswith("2.")
    assert manifest.precision in ("float32", "bfloat16")
    outcomes = [study.results().trajectory(t.id).outcome() for t in study.plan().trajectories]
    assert {outcome.precision for outcome in outcomes if outcome} == {manifest.precision}


def test_the_same_command_again_trains_nothing(finished: tuple[Study, str]) -> None:
    study, _ = finished
    before = study.histories()
    output = study.run()
    assert "2 of them done" in output
    assert "Ray dashboard" not in output
    assert study.histories() == before


def test_a_value_that_is_added_later_trains_only_what_is_new(finished: tuple[Study, str]) -> None:
    study, _ = finished
    before = study.histories()
    study.run("--set", "lr_schedule=[constant, linear]", "--only", "model=tiny-bert")
    results = cell_results(study.results(), study.plan())
    assert [result.state for result in results] == ["complete"] * 4
    after = study.histories()
    assert len(after) == len(before) + 1
    assert {path: after[path] for path in before} == before
    assert "2 trajectories, 0 of" not in study.run("--dry-run")


def test_a_changed_fixed_setting_is_refused_as_another_study(finished: tuple[Study, str]) -> None:
    study, _ = finished
    output = study.run("--set", "learning_rate=1e-4", exits=2)
    assert "learning_rate was 0.0005, is now 0.0001" in output
    assert "--fresh" in output
    assert "data.max_length was 32, is now 16" in study.run("--set", "data.max_length=16", exits=2)


def test_a_study_that_is_being_run_is_refused_with_the_name_of_who_runs_it(finished: tuple[Study, str]) -> None:
    study, _ = finished
    with study.results().run_lock():
        output = study.run("--wait-lock", "1", exits=2)
    assert re.search(r"is being run by \S+ on \S+ \(process \d+\) since \d{4}-", output)


@pytest.mark.parametrize(
    ("number", "to_group"),
    [(signal.SIGINT, False), (signal.SIGTERM, False), pytest.param(signal.SIGHUP, True, id="terminal-closed")],
)
def test_interrupted_and_resumed_equals_uninterrupted(
    finished: tuple[Study, str], tmp_path: Path, number: signal.Signals, to_group: bool
) -> None:
    study = Study(tmp_path / "interrupted")
    study.space["fixed"]["epochs"] = 3
    process = study.start(wrapper=["env", "--default-signal=HUP"])  # under nohup, it would inherit an ignored SIGHUP
    histories = study.folder / "studies" / "small" / "trajectories"
    deadline = time.monotonic() + 120
    while not any(path.stat().st_size for path in histories.glob("*/history.jsonl")):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)
    (os.killpg if to_group else os.kill)(process.pid, number)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 1, output
    assert f"stopped by {number.name}" in output
    assert "-m study.run --space small.yaml" in output[output.index("to resume:") :]
    assert "Traceback" not in output
    statuses = {run.info.status for run in study.runs()}
    assert statuses <= {"KILLED", "FINISHED"}
    study.run()
    assert_same_records(study, finished[0])
    assert {run.info.status for run in study.runs()} == {"FINISHED"}
    assert len(study.runs()) == 4


def test_under_nohup_a_study_outlives_its_terminal_and_the_reader_of_its_output(tmp_path: Path) -> None:
    study = Study(tmp_path / "detached")
    process = study.start("--set", "epochs=1", wrapper=["nohup"])
    assert process.stdout is not None
    while "started" not in process.stdout.readline():
        assert process.poll() is None
    process.stdout.close()
    process.send_signal(signal.SIGHUP)
    assert process.wait(timeout=240) == 0
    assert [result.state for result in cell_results(study.results(), study.plan())] == ["complete"] * 4


def test_a_failed_trajectory_is_named_with_its_log_and_the_others_continue(
    finished: tuple[Study, str], tmp_path: Path
) -> None:
    study, other = Study(tmp_path / "failing"), finished[0]
    shutil.copytree(other.folder / "studies" / ".encoded", study.folder / "studies" / ".encoded")
    folders = (other.results().path / "trajectories").iterdir()  # including those that are no longer planned
    configs = [TrajectoryFolder(folder).config() for folder in folders]
    (data,) = {config.encoded for config in configs if config is not None and config.settings.model == "tiny-roberta"}
    (study.folder / Path(data).relative_to(other.folder) / "train-labels.npy").write_bytes(b"not an array")
    output = study.run("--set", "early_stopping=none", exits=1)
    states = [result.state for result in cell_results(study.results(), study.plan())]
    assert states == ["complete", "failed"]
    failure = next(line for line in output.splitlines() if line.startswith("tiny-roberta") and "its log:" in line)
    log = Path(failure.split("its log: ")[1])
    assert "open_encoded" in log.read_text()
    assert sorted(run.info.status for run in study.runs()) == ["FAILED", "FINISHED"]


def test_a_model_folder_of_another_family_is_fine_tuned_on_data_from_a_file(tmp_path: Path) -> None:
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
    assert result.chosen.test is not None
    assert result.chosen.test["accuracy"] > 0.8
    predictions = study.results().trajectory(result.cell.trajectory).predictions(result.chosen.epoch, "test")
    assert predictions is not None
    assert predictions.logits.shape == (12, 2)


def test_invalid_input_is_refused_before_anything_is_trained(tmp_path: Path) -> None:
    study = Study(tmp_path / "refused")
    assert "a trajectory needs 1 GPU (run.gpu), and no node has it" in study.run("--set", "run.gpu=1", exits=2)
    assert "a file system that all nodes share" in study.run("--storage", "s3://bucket/studies", exits=2)
    (study.folder / "file").write_text("")
    assert "cannot be written to" in study.run("--storage", "file/studies", exits=2)
    assert "did you mean epochs" in study.run("--set", "epoch=3", exits=2)


@pytest.mark.slow
def test_fresh_starts_over_in_a_new_folder_and_later_runs_resume_there(tmp_path: Path) -> None:
    study = Study(tmp_path / "fresh")
    study.space["axes"] = {"model": ["tiny-bert"]}
    study.run("--set", "epochs=1")
    study.run("--set", "epochs=2", "--fresh")
    assert study.plan("small").trajectories[0].epochs == 1
    assert study.plan("small.2").trajectories[0].epochs == 2
    assert "1 of them done" in study.run("--set", "epochs=2")


def test_a_dry_run_ends_without_an_error_when_its_output_is_closed() -> None:
    space = str(ROOT / "search_spaces" / "paper.yaml")
    command = [sys.executable, "-m", "study.run", "--space", space, "--dry-run"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == ""
    assert process.returncode == 0


def test_a_dry_run_says_what_the_design_can_show_and_a_pilot_says_it_better(tmp_path: Path) -> None:
    study = Study(tmp_path / "next")
    study.space["axes"] |= {"early_stopping": ["none"], "seed": [0, 1, 2]}
    output = study.run("--dry-run")
    summary, power = output.split("\npower      ")
    assert summary.splitlines()[-1].startswith("left       6 trajectories")
    assert power.startswith("failures: 3 seeds cannot show 3 of 3 against 0 of 3: p = .10; 4 can\n")
    assert "assumed: no failures in one arm, seed sd 0.5 points" in power
    space, plan = plan_of(tmp_path, f"name: earlier\n{yaml.safe_dump(study.space)}")
    earlier = make_synthetic(space, plan, lambda settings, rng: healthy(epochs=3)).write(study.folder / "studies")
    output = study.run("--dry-run", "--pilot", "studies/earlier")
    assert "pilot earlier: 0 of 6 runs failed, seed sd" in output
    assert study.results().plan() is None
    assert read_plan(earlier) == plan


def test_a_pilot_that_says_nothing_is_one_line_and_exit_code_2(tmp_path: Path) -> None:
    study = Study(tmp_path / "next")
    output = study.run("--dry-run", "--pilot", "studies/none", exits=2)
    assert output == "--pilot: studies/none is not a study's folder: it has no study.json and plan.json\n"
    assert "--pilot is only for --dry-run" in study.run("--pilot", "studies/none", exits=2)
