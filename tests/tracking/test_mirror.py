"""MLflow shows what the folder holds, once, whoever mirrors it, however often, and whatever happens to the server."""

import math
import shlex
import shutil
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from mlflow.entities import Run
from places import ROOT
from ray_cluster import wait_until
from selenium.webdriver.chrome.webdriver import WebDriver
from servers import MlflowServer
from study_builder import TRAIN, StudyBuilder, ended, make_study

from study.plan.cell_results import cell_results
from study.plan.plan import Cell
from study.records import Outcome, StudyFolder, read_predictions
from study.tracking.mirror import Mirror, Mirroring, TrackingError
from study.tracking.run_contents import without_credentials

STOPPING = [None, {"patience": 1}]
UP_AGAIN_AT_3 = [0.6, 0.5, 0.7, 0.4]  # patience 1 stops after epoch 3, no early stopping after epoch 4
IN_ANOTHER_PROCESS = """
import sys
from pathlib import Path
from study.records import StudyFolder
from study.tracking.mirror import Mirror
Mirror(StudyFolder(Path(sys.argv[1])), tracking_uri=sys.argv[2] or None).sync()
"""


class Server(MlflowServer):
    """The server that a study's ``ui_command`` starts."""

    starts_within_seconds = 60

    def __init__(self, study: StudyBuilder, port: int) -> None:
        super().__init__(study.folder.path, port)
        self.study = study

    def command(self) -> list[str]:
        command = shlex.split(mirror_of(self.study).ui_command)
        assert Path(command[0]).is_absolute()
        command[command.index("--port") + 1] = str(self.port)
        return command


@pytest.fixture(scope="module")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """MLflow takes seconds to make its tables: made once here, as a mirror makes them, and copied."""
    path = tmp_path_factory.mktemp("empty")
    Mirror(StudyFolder(path), tracking_uri=None)
    return path / "mlflow.db"


@pytest.fixture(scope="module")
def server(empty_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    study = make_study(tmp_path_factory.mktemp("server") / "its study", {"batch_size": [16]}, name="the server's own")
    shutil.copy(empty_store, study.folder.path / "mlflow.db")
    study.train(study.plan.trajectories[0], validation_loss=UP_AGAIN_AT_3, outcome=ended())
    mirror_of(study).sync()
    server = Server(study=study, port=port)
    server.start()
    yield server
    server.kill()


@pytest.fixture
def study(tmp_path: Path, empty_store: Path, request: pytest.FixtureRequest) -> StudyBuilder:
    """One trajectory and its two cells for each of two batch sizes; nothing is trained."""
    name = request.node.name.removeprefix("test_")
    builder = make_study(tmp_path / "a study", {"batch_size": [16, 64], "early_stopping": STOPPING}, name=name)
    shutil.copy(empty_store, builder.folder.path / "mlflow.db")
    return builder


def mirror_of(study: StudyBuilder, uri: str | None = None) -> Mirror:
    return Mirror(study.folder, tracking_uri=uri)


def client_of(study: StudyBuilder, uri: str | None = None) -> MlflowClient:
    return MlflowClient(uri or f"sqlite:///{study.folder.path / 'mlflow.db'}")


def runs_of(study: StudyBuilder, uri: str | None = None) -> dict[str, Run]:
    """The runs by cell, the parent's as ``study``; there is one of each."""
    client = client_of(study, uri)
    experiment = client.get_experiment_by_name(study.plan.study)
    assert experiment is not None
    query = f"tags.study_id = '{study.manifest['id']}'"
    runs = list(client.search_runs([experiment.experiment_id], query, max_results=1_000))
    by_cell = {run.data.tags["cell"]: run for run in runs}
    assert len(by_cell) == len(runs)
    return by_cell


def curve(client: MlflowClient, run: Run, key: str) -> dict[int, float]:
    """A metric by examples seen; there is one point for each."""
    points = client.get_metric_history(run.info.run_id, key)
    by_step = {point.step: point.value for point in points}
    assert len(by_step) == len(points), key
    return by_step


def artifacts(client: MlflowClient, run: Run, path: str | None = None) -> dict[str, int]:
    sizes: dict[str, int] = {}
    for file in client.list_artifacts(run.info.run_id, path):
        sizes |= artifacts(client, run, file.path) if file.is_dir else {file.path: file.file_size or 0}
    return sizes


def everything(study: StudyBuilder, uri: str | None = None) -> dict[str, Any]:
    """All that MLflow holds of a study, comparable (NaN is equal to NaN)."""
    client = client_of(study, uri)
    return {
        cell: {
            "info": (run.info.run_id, run.info.status, run.info.run_name, run.info.start_time, run.info.end_time),
            "params": run.data.params,
            "tags": run.data.tags,
            "curves": {key: repr(sorted(curve(client, run, key).items())) for key in sorted(run.data.metrics)},
            "artifacts": artifacts(client, run),
        }
        for cell, run in runs_of(study, uri).items()
    }


def pair(study: StudyBuilder, trajectory: int = 0) -> tuple[Cell, Cell]:
    """The cell that owns a trajectory, and the one derived from it."""
    by_id = {cell.id: cell for cell in study.plan.cells}
    owner, derived = study.plan.trajectories[trajectory].cells
    return by_id[owner], by_id[derived]


def in_another_process(study: StudyBuilder, uri: str | None) -> None:
    command = [sys.executable, "-c", IN_ANOTHER_PROCESS, str(study.folder.path), uri or ""]
    subprocess.run(command, check=True, cwd=ROOT)


@pytest.mark.parametrize("store", ["sqlite", "server"])
def test_mirroring_again_changes_nothing(store: str, study: StudyBuilder, request: pytest.FixtureRequest) -> None:
    uri = request.getfixturevalue("server").uri if store == "server" else None
    first, second = study.plan.trajectories
    study.train(first, validation_loss=UP_AGAIN_AT_3, outcome=ended())
    study.train(second, validation_loss=[0.6, math.nan], outcome=ended("non-finite"))
    mirror = mirror_of(study, uri)
    mirror.sync()
    held = everything(study, uri)
    assert len(held) == 1 + len(study.plan.cells)
    assert {run["info"][1] for run in held.values()} == {"FINISHED"}

    mirror.sync()
    mirror.finish()
    in_another_process(study, uri)
    assert everything(study, uri) == held


def test_a_complete_study_as_mlflow_shows_it(study: StudyBuilder) -> None:
    for trajectory in study.plan.trajectories:
        study.train(trajectory, validation_loss=UP_AGAIN_AT_3, outcome=ended())
    mirror_of(study).sync()
    client, runs = client_of(study), runs_of(study)
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


def test_scores_are_those_of_the_chosen_checkpoint(study: StudyBuilder, tmp_path: Path) -> None:
    study.train(study.plan.trajectories[0], validation_loss=UP_AGAIN_AT_3, outcome=ended())
    mirror_of(study).sync()
    client, runs = client_of(study), runs_of(study)
    for result in cell_results(study.folder, study.plan)[:2]:
        run, chosen, last = runs[result.cell.id], result.chosen, result.last
        assert chosen is not None
        assert last is not None
        at = chosen.examples_seen
        assert run.data.tags["chosen_epoch"] == str(chosen.epoch)
        assert curve(client, run, "test/loss") == {at: chosen.test_loss}
        assert curve(client, run, "test/accuracy") == {at: chosen.test_accuracy}
        assert curve(client, run, "chosen/validation_loss") == {at: chosen.validation_loss}
        lowest = min(UP_AGAIN_AT_3[: last.epoch])
        assert curve(client, run, "best/validation_loss") == {(UP_AGAIN_AT_3.index(lowest) + 1) * TRAIN: lowest}
        path = client.download_artifacts(run.info.run_id, "predictions/test.parquet", str(tmp_path))
        kept, original = read_predictions(Path(path)), study.folder.trajectory(result.cell.trajectory)
        expected = original.predictions(chosen.epoch, "test")
        assert kept is not None
        assert expected is not None
        assert (kept.logits == expected.logits).all()


def test_a_derived_cell_ends_where_it_stopped(study: StudyBuilder) -> None:
    study.train(study.plan.trajectories[0], validation_loss=UP_AGAIN_AT_3, outcome=ended())
    mirror_of(study).sync()
    client, runs = client_of(study), runs_of(study)
    owner, derived = pair(study)
    for cell, epochs in ((owner, 4), (derived, 3)):
        ends = [epoch * TRAIN for epoch in range(1, epochs + 1)]
        assert list(curve(client, runs[cell.id], "validation/loss")) == ends
        assert list(curve(client, runs[cell.id], "train/epoch_loss")) == ends
        assert list(curve(client, runs[cell.id], "train/loss")) == list(range(200, ends[-1] + 1, 200))
    assert curve(client, runs[derived.id], "train/loss").items() <= curve(client, runs[owner.id], "train/loss").items()


def test_grows_with_the_history_and_says_what_runs(study: StudyBuilder, empty_store: Path, tmp_path: Path) -> None:
    trajectory = study.plan.trajectories[0]
    owner, derived = pair(study)
    mirror = mirror_of(study)

    def look() -> dict[str, str]:
        return {cell: run.info.status for cell, run in runs_of(study).items()}

    mirror.sync()
    assert look() == {"study": "RUNNING"}  # what is only planned has no run yet
    study.train(trajectory, validation_loss=UP_AGAIN_AT_3[:2])
    mirror.sync()
    states = {"study": "RUNNING", owner.id: "RUNNING", derived.id: "RUNNING"}
    assert look() == states
    assert "test/loss" not in runs_of(study)[owner.id].data.metrics
    mirror.finish()
    assert look() == dict.fromkeys(states, "KILLED")

    mirror = mirror_of(study)  # the next day
    study.train(trajectory, validation_loss=UP_AGAIN_AT_3[:3])
    mirror.sync()
    assert look() == {**states, derived.id: "FINISHED"}
    study.train(trajectory, validation_loss=UP_AGAIN_AT_3, outcome=ended())
    mirror.finish()
    assert look() == {"study": "KILLED", owner.id: "FINISHED", derived.id: "FINISHED"}
    study.train(study.plan.trajectories[1], validation_loss=UP_AGAIN_AT_3, outcome=ended())
    mirror.sync()
    assert set(look().values()) == {"FINISHED"}
    grown = everything(study)
    assert len(curve(client_of(study), runs_of(study)[owner.id], "train/loss")) == 16

    at_once = f"sqlite:///{tmp_path / 'another.db'}"
    shutil.copy(empty_store, tmp_path / "another.db")
    mirror_of(study, at_once).sync()
    for cell, run in everything(study, at_once).items():
        assert run["curves"] == grown[cell]["curves"]
        assert run["artifacts"] == grown[cell]["artifacts"]


def test_nan_is_kept(study: StudyBuilder) -> None:
    study.train(study.plan.trajectories[0], validation_loss=[math.nan], outcome=ended("non-finite"))
    mirror_of(study).sync()
    client, runs = client_of(study), runs_of(study)
    for cell in pair(study):
        run = runs[cell.id]
        assert run.info.status == "FINISHED"
        assert (run.data.tags["stop_reason"], run.data.tags["chosen_epoch"]) == ("non-finite", "1")
        assert math.isnan(curve(client, run, "validation/loss")[TRAIN])
        assert math.isnan(curve(client, run, "train/epoch_loss")[TRAIN])
        assert "best/validation_loss" not in run.data.metrics


def test_a_failed_cell_says_why_until_it_succeeds(study: StudyBuilder) -> None:
    first, second = study.plan.trajectories
    owner, derived = pair(study)
    error = "RuntimeError: no route to https://me:hunter2@hub.example/model"
    study.train(first, validation_loss=UP_AGAIN_AT_3[:1], outcome=Outcome(status="failed", error=error))
    folder = study.train(second, validation_loss=[], outcome=Outcome(status="failed", error="out of memory"))
    mirror = mirror_of(study)
    mirror.sync()
    runs = runs_of(study)
    assert {run.info.status for run in runs.values()} == {"FAILED"}
    assert runs[owner.id].data.tags["error"] == "RuntimeError: no route to https://hub.example/model"
    assert "test/loss" not in runs[derived.id].data.metrics

    folder.forget_outcome()
    mirror.sync()
    assert runs_of(study)["study"].info.status == "RUNNING"
    study.train(second, validation_loss=UP_AGAIN_AT_3, outcome=ended())
    mirror.sync()
    runs = runs_of(study)
    assert runs["study"].info.status == "FAILED"
    assert runs["study"].data.tags["cells.failed"] == "2"
    for cell in pair(study, 1):
        assert runs[cell.id].info.status == "FINISHED"
        assert runs[cell.id].data.tags["error"] == ""
        assert "test/loss" in runs[cell.id].data.metrics


def test_a_mirror_cut_short_logs_no_point_twice(study: StudyBuilder, monkeypatch: pytest.MonkeyPatch) -> None:
    """The metrics reached MLflow, the news that they did reached neither MLflow nor this process."""
    study.train(study.plan.trajectories[0], validation_loss=UP_AGAIN_AT_3, outcome=ended())
    mirror = mirror_of(study)
    monkeypatch.setattr(Mirror, "_tag", lambda *_: (_ for _ in ()).throw(ConnectionError("gone")))
    with pytest.raises(TrackingError, match="gone"):
        mirror.sync()
    owner, _ = pair(study)
    assert len(curve(client_of(study), runs_of(study)[owner.id], "train/loss")) == 16
    monkeypatch.undo()
    mirror.sync()
    held = everything(study)
    assert held[owner.id]["curves"]["validation/loss"].count("(") == 4


def test_nothing_new_needs_no_server(study: StudyBuilder, monkeypatch: pytest.MonkeyPatch) -> None:
    study.train(study.plan.trajectories[0], validation_loss=UP_AGAIN_AT_3[:2])
    mirror = mirror_of(study)
    mirror.sync()
    monkeypatch.setattr(mirror, "_client", None)
    mirror.sync()


def test_mirrors_at_once_make_one_run_a_cell(study: StudyBuilder) -> None:
    for trajectory in study.plan.trajectories:
        study.train(trajectory, validation_loss=UP_AGAIN_AT_3, outcome=ended())
    threads = [threading.Thread(target=mirror_of(study).sync) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(everything(study)) == 5


def test_two_studies_of_one_name_share_nothing_but_the_experiment(
    server: Server, study: StudyBuilder, tmp_path: Path
) -> None:
    other = make_study(tmp_path / "other", {"batch_size": [16]}, name=study.plan.study)
    for each in (study, other):
        each.train(each.plan.trajectories[0], validation_loss=UP_AGAIN_AT_3, outcome=ended())
        mirror_of(each, server.uri).sync()
    mine, others = runs_of(study, server.uri), runs_of(other, server.uri)
    assert {run.info.run_id for run in mine.values()}.isdisjoint(run.info.run_id for run in others.values())
    assert mine["study"].info.experiment_id == others["study"].info.experiment_id


def test_the_server_goes_and_comes_back(server: Server, study: StudyBuilder) -> None:
    first, second = study.plan.trajectories
    mirror = mirror_of(study, server.uri)
    with Mirroring(mirror, every_seconds=0.2) as mirroring:
        study.train(first, validation_loss=UP_AGAIN_AT_3[:2])
        mirroring.poke()
        server.kill()
        study.train(first, validation_loss=UP_AGAIN_AT_3, outcome=ended())
        mirroring.poke()
        wait_until(lambda: mirroring.error is not None, seconds=15)
        server.start()
        study.train(second, validation_loss=UP_AGAIN_AT_3, outcome=ended())
    assert mirroring.error is None
    held = everything(study, server.uri)
    assert {run["info"][1] for run in held.values()} == {"FINISHED"}
    assert len(held) == 5


def test_a_server_that_never_answers_does_not_keep_the_driver(study: StudyBuilder) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        mirror = mirror_of(study, f"http://127.0.0.1:{listener.getsockname()[1]}")
        started = time.monotonic()
        with Mirroring(mirror, finish_within_seconds=0.5) as mirroring:
            pass
        assert time.monotonic() - started < 5
    assert mirroring.error == "MLflow did not take everything within 0.5 seconds"


def test_no_credentials_anywhere(study: StudyBuilder, free_port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    secret = "s3cr3t"
    uri = f"http://me:{secret}@127.0.0.1:{free_port}"
    mirror = mirror_of(study, uri)
    assert mirror.ui_command == f"http://127.0.0.1:{free_port}"
    with pytest.raises(TrackingError) as caught:
        mirror.sync()
    assert secret not in str(caught.value)
    assert caught.value.__suppress_context__
    with pytest.raises(ValueError, match="tracking URI nowhere://host") as refused:
        mirror_of(study, f"nowhere://me:{secret}@host")
    assert secret not in str(refused.value)

    study.write(tracking=uri, note=f"see {uri}")
    study.train(study.plan.trajectories[0], validation_loss=UP_AGAIN_AT_3, outcome=ended(log=f"{uri}/log"))
    mirror_of(study).sync()
    assert secret not in str(everything(study))
    kept = [path for path in (study.folder.path / "mlartifacts").rglob("*") if path.is_file()]
    assert len(kept) > 10
    assert not [path for path in kept if secret.encode() in path.read_bytes()]
    assert secret.encode() not in (study.folder.path / "mlflow.db").read_bytes()


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("postgresql://me:p@ss@host/db?sslmode=require", "postgresql://host/db?sslmode=require"),
        ("http://host/x?access_token=abc&y=1", "http://host/x?access_token=***&y=1"),
        ("mail me@example.org about sqlite:////a/b.db", "mail me@example.org about sqlite:////a/b.db"),
    ],
)
def test_credentials_are_cut_out_of_text(text: str, shown: str) -> None:
    assert without_credentials(text) == shown


def test_the_ui_command_opens_the_ui(server: Server) -> None:
    cell = server.study.plan.cells[0]
    run = runs_of(server.study, server.uri)[cell.id]
    address = f"{server.uri}/get-artifact?path=trajectory/config.json&run_uuid={run.info.run_id}"
    with urllib.request.urlopen(address) as answer:
        assert b"learning_rate" in answer.read()
    with urllib.request.urlopen(server.uri) as page:
        assert b"MLflow" in page.read()


def test_a_process_killed_as_it_made_the_tables_leaves_none(tmp_path: Path) -> None:
    study = make_study(tmp_path / "a study", {"batch_size": [16]}, name="killed")
    process = subprocess.Popen([sys.executable, "-c", IN_ANOTHER_PROCESS, str(study.folder.path), ""])
    part = study.folder.path / ".mlflow.db.part"
    wait_until(lambda: part.exists() and part.stat().st_size > 50_000, seconds=60)
    process.kill()
    process.wait()
    assert not (study.folder.path / "mlflow.db").exists()
    mirror_of(study).sync()
    assert runs_of(study).keys() == {"study"}
    assert not part.exists()


@pytest.mark.chromium
def test_the_ui_draws_training_and_validation_on_one_axis(server: Server, browser: WebDriver) -> None:
    """The page of a run has a chart of each, whose axes end where the trajectory ended, at its examples seen."""
    run = runs_of(server.study, server.uri)[server.study.plan.trajectories[0].cells[0]]
    browser.set_window_size(1600, 4000)
    browser.get(f"{server.uri}/#/experiments/{run.info.experiment_id}/runs/{run.info.run_id}/model-metrics")
    charts = "[...document.querySelectorAll('.js-plotly-plot')].filter(plot => plot.data.length)"
    curves = f"return Object.fromEntries({charts}.map(plot => [plot.data[0].metricKey, plot.data[0].x]))"
    wait_until(lambda: {"train/loss", "validation/loss"} <= browser.execute_script(curves).keys(), seconds=60)
    drawn = browser.execute_script(curves)
    client = client_of(server.study, server.uri)
    for key in ("train/loss", "validation/loss", "validation/accuracy"):
        assert drawn[key] == sorted(curve(client, run, key))
