"""Mirroring in the background: a server that is missing, slow or back again neither delays nor ends the training."""

import shutil
import socket
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from mlflow_store import UiServer, make_mirror, snapshot
from ray_cluster import wait_until
from servers import find_free_port
from study_builder import StudyBuilder, ended, make_study

from study.tracking.background import BackgroundMirror

VALIDATION_LOSS = [0.6, 0.5, 0.7, 0.4]


@pytest.fixture
def study(tmp_path: Path, empty_store: Path) -> StudyBuilder:
    """One trajectory and its two cells for each of two batch sizes; nothing is trained."""
    builder = make_study(tmp_path / "a study", {"batch_size": [16, 64], "early_stopping": [None, {"patience": 1}]})
    shutil.copy(empty_store, builder.folder.mlflow_file)
    return builder


@pytest.fixture
def server(study: StudyBuilder) -> Iterator[UiServer]:
    """A running server."""
    server = UiServer(study, find_free_port())
    server.start()
    yield server
    server.kill()


def test_a_server_that_goes_down_and_returns_gets_everything(server: UiServer, study: StudyBuilder) -> None:
    first, second = study.plan.trajectories
    with BackgroundMirror(make_mirror(study, server.uri), every_seconds=0.2) as mirroring:
        study.train(first, validation_loss=VALIDATION_LOSS[:2])
        server.kill()
        study.train(first, validation_loss=VALIDATION_LOSS, outcome=ended())
        wait_until(lambda: mirroring.error is not None, seconds=15)
        server.start()
        study.train(second, validation_loss=VALIDATION_LOSS, outcome=ended())
    assert mirroring.error is None
    runs = snapshot(study, server.uri)
    assert {run["info"][1] for run in runs.values()} == {"FINISHED"}
    assert len(runs) == 5


def test_a_server_that_never_answers_does_not_delay_the_end(study: StudyBuilder) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        mirror = make_mirror(study, f"http://127.0.0.1:{listener.getsockname()[1]}")
        started = time.monotonic()
        with BackgroundMirror(mirror, finish_within_seconds=0.5) as mirroring:
            pass
        assert time.monotonic() - started < 5
    assert mirroring.error == "MLflow did not take everything within 0.5 seconds"


def test_records_are_mirrored_while_the_context_lasts_and_runs_end_with_it(study: StudyBuilder) -> None:
    trajectory = study.plan.trajectories[0]

    def statuses() -> set[str]:
        return {snapshot(study)[cell]["info"][1] for cell in trajectory.cells}

    def mirrored() -> bool:
        with suppress(AssertionError):  # until the mirror has created the experiment
            return trajectory.cells[0] in snapshot(study)
        return False

    with BackgroundMirror(make_mirror(study), every_seconds=0.1) as mirroring:
        study.train(trajectory, validation_loss=VALIDATION_LOSS[:1])
        wait_until(mirrored, seconds=30)
        assert statuses() == {"RUNNING"}
    assert mirroring.error is None
    assert statuses() == {"KILLED"}
