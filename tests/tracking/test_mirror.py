"""MLflow shows what the study folder says: each thing once, from any process, however often it is mirrored."""

import math
import shutil
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from mlflow_store import UiServer, artifacts, curve, make_client, make_mirror, runs_by_cell, snapshot
from places import ROOT
from ray_cluster import wait_until
from selenium.webdriver.chrome.webdriver import WebDriver
from servers import find_free_port
from study_builder import TRAIN, StudyBuilder, ended, make_config, make_history, make_study

from analysis.results import read
from study.errors import TrackingError
from study.plan.cell_results import cell_results
from study.plan.plan import Cell
from study.records import Outcome
from study.storage import read_predictions
from study.tracking.mirror import Mirror

STOPPING = [None, {"patience": 1}]
WORSE_AT_3 = [0.6, 0.5, 0.7, 0.4]  # patience 1 stops after epoch 3, no early stopping after epoch 4
IN_ANOTHER_PROCESS = """
import sys
from pathlib import Path
from study.storage import StudyFolder
from study.tracking.mirror import Mirror
Mirror(StudyFolder(Path(sys.argv[1])), tracking_uri=sys.argv[2] or None).sync()
"""


@pytest.fixture(scope="module")
def server(empty_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[UiServer]:
    """A server on a study of its own, trained and mirrored, which other studies may use too."""
    study = make_study(tmp_path_factory.mktemp("server") / "its study", {"batch_size": [16]}, name="the server's own")
    shutil.copy(empty_store, study.folder.mlflow_file)
    study.train(study.plan.trajectories[0], validation_loss=WORSE_AT_3, outcome=ended())
    make_mirror(study).sync()
    server = UiServer(study, find_free_port())
    server.start()
    yield server
    server.kill()


@pytest.fixture
def study(tmp_path: Path, empty_store: Path, request: pytest.FixtureRequest) -> StudyBuilder:
    """One trajectory and its two cells for each of two batch sizes; nothing is trained."""
    name = request.node.name.removeprefix("test_")
    builder = make_study(tmp_path / "a study", {"batch_size": [16, 64], "early_stopping": STOPPING}, name=name)
    shutil.copy(empty_store, builder.folder.mlflow_file)
    return builder


def pair(study: StudyBuilder, trajectory: int = 0) -> tuple[Cell, Cell]:
    """The cell that owns a trajectory, and the one derived from it."""
    by_id = {cell.id: cell for cell in study.plan.cells}
    owner, derived = study.plan.trajectories[trajectory].cells
    return by_id[owner], by_id[derived]


def mirror_in_another_process(study: StudyBuilder, uri: str | None) -> None:
    command = [sys.executable, "-c", IN_ANOTHER_PROCESS, str(study.folder.path), uri or ""]
    subprocess.run(command, check=True, cwd=ROOT)


@pytest.mark.parametrize("store", ["sqlite", "server"])
def test_mirroring_again_from_any_process_changes_nothing(
    store: str, study: StudyBuilder, request: pytest.FixtureRequest
) -> None:
    uri = request.getfixturevalue("server").uri if store == "server" else None
    first, second = study.plan.trajectories
    study.train(first, validation_loss=WORSE_AT_3, outcome=ended())
    study.train(second, validation_loss=[0.6, math.nan], outcome=ended("non-finite"))
    mirror = make_mirror(study, uri)
    mirror.sync()
    before = snapshot(study, uri)
    assert len(before) == 1 + len(study.plan.cells)
    assert {run["info"][1] for run in before.values()} == {"FINISHED"}

    mirror.sync()
    mirror.finish()
    mirror_in_another_process(study, uri)
    assert snapshot(study, uri) == before


def test_mlflow_has_names_params_tags_and_artifacts_of_a_complete_study(study: StudyBuilder) -> None:
    for trajectory in study.plan.trajectories:
        study.train(trajectory, validation_loss=WORSE_AT_3, outcome=ended())
    make_mirror(study).sync()
    client, runs = make_client(study), runs_by_cell(study)
    owner, derived = pair(study)

    parent = runs["study"]
    assert parent.info.run_name == study.plan.study
    assert parent.data.tags["versions.torch"] == "2.13.0"
    assert parent.data.tags["git.commit"] == parent.data.tags["mlflow.source.git.commit"] == "0123abc"
    assert parent.data.tags["git.dirty"] == "true"
    assert parent.data.tags["cells.complete"] == "4"
    assert set(artifacts(client, parent)) == {"study/study.json", "study/space.yaml", "study/plan.json"}

    run = runs[derived.id]
    assert run.info.run_name == derived.name
    assert run.data.params["batch_size"] == "16"
    assert run.data.params["learning_rate"] == "5e-05"
    assert run.data.params["early_stopping"] == "patience 1 on loss"
    assert run.data.params["early_stopping.patience"] == "1"
    assert runs[owner.id].data.params["early_stopping"] == "none"
    expected = {
        "mlflow.parentRunId": parent.info.run_id,
        "trajectory": owner.trajectory,
        "trained_by": owner.id,
        "derived": "true",
        "status": "complete",
        "stop_reason": "stopped early",
        "precision": "float32",
        "device": "CPU",
    }
    assert run.data.tags.items() >= expected.items()
    assert runs[owner.id].data.tags["derived"] == "false"
    assert runs[owner.id].data.tags["stop_reason"] == "epochs exhausted"

    assert set(artifacts(client, run)) == {"predictions/validation.parquet", "predictions/test.parquet"}
    names = set(artifacts(client, runs[owner.id]))
    assert names >= {f"trajectory/{name}" for name in ("config.json", "history.jsonl", "outcome.json")}
    assert "trajectory/predictions/epoch-0001-test.parquet" in names


def test_scores_are_those_of_the_selected_checkpoint(study: StudyBuilder, tmp_path: Path) -> None:
    study.train(study.plan.trajectories[0], validation_loss=WORSE_AT_3, outcome=ended())
    make_mirror(study).sync()
    client, runs = make_client(study), runs_by_cell(study)
    for result in cell_results(study.folder, study.plan)[:2]:
        run, chosen, last = runs[result.cell.id], result.chosen, result.last
        assert chosen is not None
        assert last is not None
        at = chosen.examples_seen
        assert run.data.tags["chosen_epoch"] == str(chosen.epoch)
        assert curve(client, run, "test/loss") == {at: chosen.test_score("loss")}
        assert curve(client, run, "test/accuracy") == {at: chosen.test_score("accuracy")}
        assert curve(client, run, "chosen/validation_loss") == {at: chosen.validation["loss"]}
        lowest = min(WORSE_AT_3[: last.epoch])
        assert curve(client, run, "best/validation_loss") == {(WORSE_AT_3.index(lowest) + 1) * TRAIN: lowest}
        path = client.download_artifacts(run.info.run_id, "predictions/test.parquet", str(tmp_path))
        mirrored, original = read_predictions(Path(path)), study.folder.trajectory(result.cell.trajectory)
        expected = original.predictions(chosen.epoch, "test")
        assert mirrored is not None
        assert expected is not None
        assert (mirrored.logits == expected.logits).all()


def test_the_curves_of_a_derived_cell_end_where_it_stopped(study: StudyBuilder) -> None:
    study.train(study.plan.trajectories[0], validation_loss=WORSE_AT_3, outcome=ended())
    make_mirror(study).sync()
    client, runs = make_client(study), runs_by_cell(study)
    owner, derived = pair(study)
    for cell, epochs in ((owner, 4), (derived, 3)):
        ends = [epoch * TRAIN for epoch in range(1, epochs + 1)]
        assert list(curve(client, runs[cell.id], "validation/loss")) == ends
        assert list(curve(client, runs[cell.id], "train/epoch_loss")) == ends
        assert list(curve(client, runs[cell.id], "train/loss")) == list(range(200, ends[-1] + 1, 200))
    assert curve(client, runs[derived.id], "train/loss").items() <= curve(client, runs[owner.id], "train/loss").items()


def test_runs_grow_with_the_history_and_have_its_status(study: StudyBuilder, empty_store: Path, tmp_path: Path) -> None:
    trajectory = study.plan.trajectories[0]
    owner, derived = pair(study)
    mirror = make_mirror(study)

    def statuses() -> dict[str, str]:
        return {cell: run.info.status for cell, run in runs_by_cell(study).items()}

    mirror.sync()
    assert statuses() == {"study": "RUNNING"}  # cells that are only planned have no run yet
    study.train(trajectory, validation_loss=WORSE_AT_3[:2])
    mirror.sync()
    running = {"study": "RUNNING", owner.id: "RUNNING", derived.id: "RUNNING"}
    assert statuses() == running
    assert "test/loss" not in runs_by_cell(study)[owner.id].data.metrics
    mirror.finish()
    assert statuses() == dict.fromkeys(running, "KILLED")

    mirror = make_mirror(study)  # of the process that resumes the study
    study.train(trajectory, validation_loss=WORSE_AT_3[:3])
    mirror.sync()
    assert statuses() == {**running, derived.id: "FINISHED"}
    study.train(trajectory, validation_loss=WORSE_AT_3, outcome=ended())
    mirror.finish()
    assert statuses() == {"study": "KILLED", owner.id: "FINISHED", derived.id: "FINISHED"}
    study.train(study.plan.trajectories[1], validation_loss=WORSE_AT_3, outcome=ended())
    mirror.sync()
    assert set(statuses().values()) == {"FINISHED"}
    step_by_step = snapshot(study)
    assert len(curve(make_client(study), runs_by_cell(study)[owner.id], "train/loss")) == 16

    at_once = f"sqlite:///{tmp_path / 'another.db'}"
    shutil.copy(empty_store, tmp_path / "another.db")
    make_mirror(study, at_once).sync()
    for cell, run in snapshot(study, at_once).items():
        assert run["curves"] == step_by_step[cell]["curves"]
        assert run["artifacts"] == step_by_step[cell]["artifacts"]


def test_a_trajectory_in_its_first_epoch_is_running_wherever_it_is_shown(study: StudyBuilder) -> None:
    """Its first intervals are recorded and no epoch is evaluated yet; the other trajectory has not started."""
    started, planned = study.plan.trajectories
    folder = study.folder.trajectory(started.id)
    folder.write_config(make_config(started))
    mirror = make_mirror(study)

    def states() -> list[dict[str, str]]:
        """The state of each cell by the study folder, MLflow's tags and the analysis."""
        mirror.sync()
        runs = {cell: run.data.tags for cell, run in runs_by_cell(study).items() if cell != "study"}
        return [
            {result.cell.id: result.state for result in cell_results(study.folder, study.plan)},
            {cell.id: runs[cell.id]["status"] if cell.id in runs else "planned" for cell in study.plan.cells},
            {result.cell.id: result.state for result in read(study.folder.path).cells},
        ]

    assert states() == [dict.fromkeys((*started.cells, *planned.cells), "planned")] * 3
    folder.append(make_history(started, [0.6], seed=0)[:2])
    expected = {**dict.fromkeys(started.cells, "running"), **dict.fromkeys(planned.cells, "planned")}
    assert states() == [expected] * 3
    census = read(study.folder.path).census
    assert (census.running, census.missing, census.complete) == (2, 2, 0)
    runs = runs_by_cell(study)
    assert {runs[cell].info.status for cell in started.cells} == {"RUNNING"}
    assert runs["study"].data.tags["cells.running"] == runs["study"].data.tags["cells.planned"] == "2"
    assert len(curve(make_client(study), runs[started.cells[0]], "train/loss")) == 2


def test_nan_is_mirrored_as_nan(study: StudyBuilder) -> None:
    study.train(study.plan.trajectories[0], validation_loss=[math.nan], outcome=ended("non-finite"))
    make_mirror(study).sync()
    client, runs = make_client(study), runs_by_cell(study)
    for cell in pair(study):
        run = runs[cell.id]
        assert run.info.status == "FINISHED"
        assert (run.data.tags["stop_reason"], run.data.tags["chosen_epoch"]) == ("non-finite", "1")
        assert math.isnan(curve(client, run, "validation/loss")[TRAIN])
        assert math.isnan(curve(client, run, "train/epoch_loss")[TRAIN])
        assert "best/validation_loss" not in run.data.metrics


def test_a_failed_cell_has_its_error_until_it_succeeds(study: StudyBuilder) -> None:
    first, second = study.plan.trajectories
    owner, derived = pair(study)
    error = "RuntimeError: no route to https://me:hunter2@hub.example/model"
    study.train(first, validation_loss=WORSE_AT_3[:1], outcome=Outcome(status="failed", error=error))
    folder = study.train(second, validation_loss=[], outcome=Outcome(status="failed", error="out of memory"))
    mirror = make_mirror(study)
    mirror.sync()
    runs = runs_by_cell(study)
    assert {run.info.status for run in runs.values()} == {"FAILED"}
    assert runs[owner.id].data.tags["error"] == "RuntimeError: no route to https://hub.example/model"
    assert "test/loss" not in runs[derived.id].data.metrics

    folder.forget_outcome()
    mirror.sync()
    assert runs_by_cell(study)["study"].info.status == "RUNNING"
    study.train(second, validation_loss=WORSE_AT_3, outcome=ended())
    mirror.sync()
    runs = runs_by_cell(study)
    assert runs["study"].info.status == "FAILED"
    assert runs["study"].data.tags["cells.failed"] == "2"
    for cell in pair(study, 1):
        assert runs[cell.id].info.status == "FINISHED"
        assert runs[cell.id].data.tags["error"] == ""
        assert "test/loss" in runs[cell.id].data.metrics


def test_an_interrupted_mirror_logs_no_point_twice(study: StudyBuilder, monkeypatch: pytest.MonkeyPatch) -> None:
    """The metrics have reached MLflow; the tag that counts them has not."""
    study.train(study.plan.trajectories[0], validation_loss=WORSE_AT_3, outcome=ended())
    mirror = make_mirror(study)
    monkeypatch.setattr(Mirror, "_tag", lambda *_: (_ for _ in ()).throw(ConnectionError("gone")))
    with pytest.raises(TrackingError, match="gone"):
        mirror.sync()
    owner, _ = pair(study)
    assert len(curve(make_client(study), runs_by_cell(study)[owner.id], "train/loss")) == 16
    monkeypatch.undo()
    mirror.sync()
    assert snapshot(study)[owner.id]["curves"]["validation/loss"].count("(") == 4


def test_without_new_records_the_server_is_not_asked(study: StudyBuilder, monkeypatch: pytest.MonkeyPatch) -> None:
    study.train(study.plan.trajectories[0], validation_loss=WORSE_AT_3[:2])
    mirror = make_mirror(study)
    mirror.sync()
    monkeypatch.setattr(mirror, "_client", None)
    mirror.sync()


def test_concurrent_mirrors_create_one_run_for_each_cell(study: StudyBuilder) -> None:
    for trajectory in study.plan.trajectories:
        study.train(trajectory, validation_loss=WORSE_AT_3, outcome=ended())
    threads = [threading.Thread(target=make_mirror(study).sync) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(snapshot(study)) == 5


def test_two_studies_of_the_same_name_share_only_the_experiment(
    server: UiServer, study: StudyBuilder, tmp_path: Path
) -> None:
    other = make_study(tmp_path / "other", {"batch_size": [16]}, name=study.plan.study)
    for each in (study, other):
        each.train(each.plan.trajectories[0], validation_loss=WORSE_AT_3, outcome=ended())
        make_mirror(each, server.uri).sync()
    runs, other_runs = runs_by_cell(study, server.uri), runs_by_cell(other, server.uri)
    assert {run.info.run_id for run in runs.values()}.isdisjoint(run.info.run_id for run in other_runs.values())
    assert runs["study"].info.experiment_id == other_runs["study"].info.experiment_id


def test_credentials_reach_neither_messages_nor_mlflow(
    study: StudyBuilder, free_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    secret = "s3cr3t"
    uri = f"http://me:{secret}@127.0.0.1:{free_port}"
    mirror = make_mirror(study, uri)
    assert mirror.ui_command == f"http://127.0.0.1:{free_port}"
    with pytest.raises(TrackingError) as caught:
        mirror.sync()
    assert secret not in str(caught.value)
    assert caught.value.__suppress_context__
    with pytest.raises(ValueError, match="tracking URI nowhere://host") as refused:
        make_mirror(study, f"nowhere://me:{secret}@host")
    assert secret not in str(refused.value)

    study.write(tracking=uri, git={"commit": "0123abc", "note": f"see {uri}"})
    study.train(study.plan.trajectories[0], validation_loss=WORSE_AT_3, outcome=ended(log=f"{uri}/log"))
    make_mirror(study).sync()
    assert secret not in str(snapshot(study))
    assert runs_by_cell(study)["study"].data.tags["git.note"] == f"see http://127.0.0.1:{free_port}"
    copies = [path for path in study.folder.mlflow_artifacts.rglob("*") if path.is_file()]
    assert len(copies) > 10
    assert not [path for path in copies if secret.encode() in path.read_bytes()]
    assert secret.encode() not in study.folder.mlflow_file.read_bytes()


def test_the_ui_command_opens_the_ui(server: UiServer) -> None:
    cell = server.study.plan.cells[0]
    run = runs_by_cell(server.study, server.uri)[cell.id]
    address = f"{server.uri}/get-artifact?path=trajectory/config.json&run_uuid={run.info.run_id}"
    with urllib.request.urlopen(address) as answer:
        assert b"learning_rate" in answer.read()
    with urllib.request.urlopen(server.uri) as page:
        assert b"MLflow" in page.read()


def test_a_process_killed_while_it_creates_the_tables_leaves_none(tmp_path: Path) -> None:
    study = make_study(tmp_path / "a study", {"batch_size": [16]}, name="killed")
    process = subprocess.Popen([sys.executable, "-c", IN_ANOTHER_PROCESS, str(study.folder.path), ""])

    def parts() -> list[Path]:
        return list(study.folder.path.glob(".mlflow.db.*.part"))

    wait_until(lambda: any(part.stat().st_size > 50_000 for part in parts()), seconds=60)
    process.kill()
    process.wait()
    assert not study.folder.mlflow_file.exists()
    make_mirror(study).sync()
    assert runs_by_cell(study).keys() == {"study"}
    assert not parts()


@pytest.mark.chromium
def test_the_ui_plots_training_and_validation_over_the_same_axis(server: UiServer, browser: WebDriver) -> None:
    """The page of a run has a chart of each, over examples seen up to the end of the trajectory."""
    run = runs_by_cell(server.study, server.uri)[server.study.plan.trajectories[0].cells[0]]
    browser.set_window_size(1600, 4000)
    browser.get(f"{server.uri}/#/experiments/{run.info.experiment_id}/runs/{run.info.run_id}/model-metrics")
    charts = "[...document.querySelectorAll('.js-plotly-plot')].filter(plot => plot.data.length)"
    curves = f"return Object.fromEntries({charts}.map(plot => [plot.data[0].metricKey, plot.data[0].x]))"
    wait_until(lambda: {"train/loss", "validation/loss"} <= browser.execute_script(curves).keys(), seconds=60)
    plotted = browser.execute_script(curves)
    client = make_client(server.study, server.uri)
    for key in ("train/loss", "validation/loss", "validation/accuracy"):
        assert plotted[key] == sorted(curve(client, run, key))
