"""Thousands of cells through Ray Tune and an MLflow server on PostgreSQL: none is lost, and memory does not grow."""

import contextlib
import statistics
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from mlflow import MlflowClient
from servers import MlflowServer, postgres
from study_process import Study

from study.plan.cell_results import cell_results


def make_trivial_study(folder: Path, cells: int) -> Study:
    """A study whose trajectories have one optimizer step each."""
    study = Study(folder)
    study.space["data"] = {"source": "builtin:reviews", "examples": 40, "max_length": 8}
    study.space["fixed"] = {"optimizer_steps": 1, "batch_size": 32, "model": "tiny-bert"}
    study.space["axes"] = {"seed": list(range(cells))}
    return study


def run_watched(study: Study, uri: str) -> tuple[list[float], list[tuple[int, int]]]:
    """Run a study; returns when each trajectory ended, and pairs of how many have ended and the driver's memory."""
    folder = study.results().path / "trajectories"
    memory: list[tuple[int, int]] = []
    printed: list[str] = []
    with study.start("--tracking-uri", uri) as process:
        driver = psutil.Process(process.pid)
        # A full pipe would block the driver.
        reading = threading.Thread(target=lambda: printed.extend(process.stdout or ()))
        reading.start()
        while process.poll() is None:
            time.sleep(1.0)
            ended = sum(1 for _ in folder.glob("*/outcome.json"))
            if ended:
                with contextlib.suppress(psutil.NoSuchProcess):
                    memory.append((ended, driver.memory_info().rss))
        reading.join()
    assert process.returncode == 0, "".join(printed[-50:])
    return sorted(path.stat().st_mtime for path in folder.glob("*/outcome.json")), memory


def assert_complete_and_mirrored(study: Study, uri: str, cells: int) -> None:
    """Assert that every cell is complete, and that MLflow has one finished run of each."""
    results = cell_results(study.results(), study.plan())
    assert [result.state for result in results] == ["complete"] * cells
    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name("small")
    assert experiment is not None
    mirrored: list[str] = []
    token: str | None = None
    while token != "":
        page = client.search_runs([experiment.experiment_id], max_results=1_000, page_token=token)
        for run in page:
            assert run.info.status == "FINISHED"
            mirrored.append(run.data.tags["cell"])
        token = page.token or ""
    assert sorted(mirrored) == sorted([*(cell.id for cell in study.plan().cells), "study"])


@pytest.fixture
def server(tmp_path: Path, free_port: int) -> Iterator[MlflowServer]:
    """A running server on PostgreSQL."""
    with postgres(tmp_path / "postgres.log", free_port) as store:
        server = MlflowServer(tmp_path, free_port + 1, store=store)
        try:
            server.start()
            yield server
        finally:
            server.kill()


@pytest.mark.faults
@pytest.mark.postgresql
def test_a_study_of_forty_cells_is_mirrored_to_a_server_on_postgresql(tmp_path: Path, server: MlflowServer) -> None:
    study = make_trivial_study(tmp_path / "study", 40)
    run_watched(study, server.uri)
    assert_complete_and_mirrored(study, server.uri, 40)


@pytest.mark.slow
@pytest.mark.faults
@pytest.mark.postgresql
@pytest.mark.timeout(3600)
def test_the_drivers_memory_does_not_grow_over_two_thousand_cells(tmp_path: Path, server: MlflowServer) -> None:
    study = make_trivial_study(tmp_path / "study", 2_000)
    ends, memory = run_watched(study, server.uri)
    assert_complete_and_mirrored(study, server.uri, 2_000)
    seconds = [(ends[start + 99] - ends[start]) / 99 for start in range(0, len(ends) - 99, 100)]
    print("seconds per cell, by the hundred:", " ".join(f"{value:.2f}" for value in seconds))
    bytes_by_hundred = [
        statistics.median([rss for ended, rss in memory if ended // 100 == hundred])
        for hundred in sorted({ended // 100 for ended, _ in memory})
    ]
    print("driver's memory in MiB, by the hundred:", " ".join(f"{value / 2**20:.0f}" for value in bytes_by_hundred))
    print(
        f"seconds, last five hundreds to first: {statistics.median(seconds[-5:]) / statistics.median(seconds[:5]):.2f}"
    )
    assert statistics.median(bytes_by_hundred[-5:]) < 1.15 * statistics.median(bytes_by_hundred[:5])
