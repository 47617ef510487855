"""A report from MLflow equals that from the folder; of running trajectories MLflow has the metrics."""

import json
from pathlib import Path

import pytest
from mlflow import MlflowClient
from synthetic_study import Story, SyntheticStudy, collapsing, healthy, make_synthetic, plan_of

from analysis.from_mlflow import study_from_mlflow
from analysis.report import main
from analysis.results import ResultsError, read
from study.settings import Settings
from study.tracking.mirror import Mirror

TEXT = """
data: {source: builtin:reviews, examples: 1000}
fixed: {epochs: 4}
axes:
  model: [tiny-bert, tiny-roberta]
  early_stopping: [none, {patience: 1}]
  seed: [0, 1]
references:
  - match: {model: tiny-bert, early_stopping: none}
    test_accuracy: 0.885
    source: one run
"""


def finished_study(folder: Path) -> SyntheticStudy:
    space, plan = plan_of(folder, TEXT)

    def story(settings: Settings, rng: object) -> Story:
        return collapsing() if settings.seed == 1 else healthy()

    return make_synthetic(space, plan, story)


def mirrored(study: SyntheticStudy, storage: Path) -> tuple[Path, str]:
    """The study's folder, mirrored to a tracking store outside it, and that store's URI."""
    folder = study.write(storage)
    uri = f"sqlite:///{storage / 'elsewhere.db'}"
    Mirror(folder, tracking_uri=uri).sync()
    return folder.path, uri


def test_the_report_from_mlflow_equals_that_from_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # proposed commands are written for the folder that contains studies/
    path, uri = mirrored(finished_study(tmp_path), tmp_path / "studies")
    assert main([str(path), "--out", str(tmp_path / "from folder")]) == 0
    path.joinpath("trajectories").rename(tmp_path / "gone")
    assert main([f"mlflow:{path.name}", "--tracking-uri", uri, "--out", str(tmp_path / "from mlflow")]) == 0
    files = sorted(file.relative_to(tmp_path / "from folder") for file in (tmp_path / "from folder").rglob("*.*"))
    assert len(files) > 4
    for file in files:
        assert (tmp_path / "from mlflow" / file).read_bytes() == (tmp_path / "from folder" / file).read_bytes(), file


def test_a_running_study_has_what_its_metrics_say(tmp_path: Path) -> None:
    """Loss rises at epoch 3: the cells with patience 1 are complete while their trajectories continue."""
    space, plan = plan_of(tmp_path, TEXT)
    running = Story(accuracy=[0.8, 0.85, 0.8], train_loss=[0.5, 0.4, 0.3], scale=[1.0] * 3, outcome=None)
    study = make_synthetic(space, plan, lambda settings, rng: running if settings.seed == 0 else None)
    path, uri = mirrored(study, tmp_path / "studies")
    from_folder = read(path)
    with study_from_mlflow(path.name, tracking_uri=uri) as copy:
        from_mlflow = read(copy)
        assert from_mlflow.census == from_folder.census
        assert from_mlflow.census.complete == 2
        assert from_mlflow.census.running == 2
        for run, copied_run in zip(from_folder.runs, from_mlflow.runs, strict=True):
            assert [epoch.validation for epoch in run.epochs] == [epoch.validation for epoch in copied_run.epochs]
        for cell, copied_cell in zip(from_folder.cells, from_mlflow.cells, strict=True):
            if cell.state == "complete":
                assert cell.chosen == copied_cell.chosen
                first = from_folder.predictions.scores(cell, "test")
                second = from_mlflow.predictions.scores(copied_cell, "test")
                assert first is not None
                assert second is not None
                assert (first.nll == second.nll).all()


def test_a_study_of_another_format_is_refused_as_from_its_folder(tmp_path: Path) -> None:
    path, uri = mirrored(finished_study(tmp_path), tmp_path / "studies")
    manifest = json.loads((path / "study.json").read_text()) | {"format": 1}
    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name(path.name)
    assert experiment is not None
    (parent,) = client.search_runs([experiment.experiment_id], "tags.cell = 'study'")
    client.log_text(parent.info.run_id, json.dumps(manifest), "study/study.json")
    with pytest.raises(ResultsError, match="has format 1"), study_from_mlflow(path.name, tracking_uri=uri):
        pass


def test_a_missing_experiment_or_server_is_named(tmp_path: Path) -> None:
    path, uri = mirrored(finished_study(tmp_path), tmp_path / "studies")
    with (
        pytest.raises(ResultsError, match="no experiment named 'another'"),
        study_from_mlflow("another", tracking_uri=uri),
    ):
        pass
    with pytest.raises(ResultsError, match="--tracking-uri"), study_from_mlflow(path.name, tracking_uri=None):
        pass


def test_an_unreachable_server_is_one_line_without_credentials(
    tmp_path: Path, free_port: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    uri = f"http://someone:hunter2@127.0.0.1:{free_port}"
    assert main(["mlflow:anything", "--tracking-uri", uri, "--out", str(tmp_path)]) == 2
    message = capsys.readouterr().err
    assert message.count("\n") == 1
    assert "hunter2" not in message
    assert "cannot be read" in message
