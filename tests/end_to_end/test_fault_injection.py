"""Killed processes, full disks and lost nodes: every cell still ends once, as in an undisturbed study."""

import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from ray_cluster import Cluster, family, kill_processes, open_cluster, training_workers, wait_until
from servers import MlflowServer
from study_process import Study, assert_mirrored_once, assert_same_records

from study.execution.interruption import SAME_WITHIN_SECONDS
from study.plan.cell_results import cell_results
from study.run import DRIVER_DIED

pytestmark = pytest.mark.faults

EPOCHS = 30


def make_study(folder: Path) -> Study:
    """Two trajectories, a few seconds of training each, with a checkpoint after every interval."""
    study = Study(folder)
    study.space["fixed"]["epochs"] = EPOCHS
    study.space["run"] = {"checkpoint_every_minutes": 1e-6, "max_failures": 100}
    return study


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Study:
    """The study that the others are compared with."""
    study = make_study(tmp_path_factory.mktemp("undisturbed"))
    study.run()
    return study


def kill_workers(study: Study, *, times: int, seed: int) -> None:
    """Run a study, and kill one of its workers at random times."""
    rng = random.Random(seed)
    process = study.start()
    killed = 0
    while process.poll() is None:
        time.sleep(rng.uniform(0.05, 2.0))
        workers = training_workers(process.pid)
        if workers and killed < times:
            kill_processes([rng.choice(workers)])
            killed += 1
    output, _ = process.communicate()
    assert process.returncode == 0, output
    assert killed == times, "the study ended too soon"


@pytest.mark.parametrize(("times", "seed"), [(2, 0), pytest.param(20, 1, marks=pytest.mark.slow)])
def test_killed_workers_change_no_record(undisturbed: Study, tmp_path: Path, times: int, seed: int) -> None:
    study = make_study(tmp_path / "killed")
    kill_workers(study, times=times, seed=seed)
    assert_same_records(study, undisturbed)
    assert_mirrored_once(study)


def kill_drivers(study: Study, *, times: int, seed: int) -> None:
    """Start a study and kill its driver, ``times`` times; then run it to its end."""
    rng = random.Random(seed)
    ended: dict[Path, bytes] = {}
    orphans: list[psutil.Process] = []
    for _ in range(times):
        process = study.start()
        time.sleep(rng.uniform(1.0, 14.0))
        orphans += family(process.pid)[1:]
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        assert process.stdout is not None
        process.stdout.close()
        assert ended.items() <= study.histories_of_ended().items()
        ended = study.histories_of_ended()
    study.run()
    assert ended.items() <= study.histories_of_ended().items()
    wait_until(lambda: not any(orphan.is_running() for orphan in orphans))


@pytest.mark.parametrize(("times", "seed"), [(1, 4), pytest.param(10, 3, marks=pytest.mark.slow)])
def test_a_killed_driver_loses_no_record(undisturbed: Study, tmp_path: Path, times: int, seed: int) -> None:
    study = make_study(tmp_path / "killed")
    kill_drivers(study, times=times, seed=seed)
    assert_same_records(study, undisturbed)
    assert_mirrored_once(study)


def wait_for_records(study: Study, process: subprocess.Popen[str]) -> None:
    """Wait until a study trains."""
    wait_until(lambda: any(study.histories().values()) or process.poll() is not None, seconds=300)


def assert_last_words(study: Study, process: subprocess.Popen[str], cause: str) -> None:
    """Assert that the command ends with what its driver, which has died, can no longer say."""
    output, _ = process.communicate(timeout=240)
    assert process.returncode == DRIVER_DIED, output
    assert "Traceback" not in output
    words = output[output.index(f"{cause}; what was trained is kept") :]
    assert "test acc." in words
    assert f"report:     {study.results().report}" in words
    assert "mlflow ui --backend-store-uri" in words
    assert re.search(r"\nto resume:  \S+ -m study.run --space small.yaml .*\n$", words)
    assert {run.info.status for run in study.runs()} <= {"KILLED", "FINISHED"}


def driver_of(process: subprocess.Popen[str]) -> psutil.Process:
    """The process that drives the study of a command."""
    (driver,) = psutil.Process(process.pid).children()
    return driver


def test_a_killed_driver_has_last_words(undisturbed: Study, tmp_path: Path) -> None:
    study = make_study(tmp_path / "killed")
    process = study.start()
    wait_for_records(study, process)
    kill_processes([driver_of(process)])
    assert_last_words(
        study, process, "the study's driver was killed (SIGKILL), as the system does where memory runs out"
    )
    study.run()
    assert_same_records(study, undisturbed)
    assert_mirrored_once(study)


def test_a_driver_that_is_killed_before_it_has_begun_is_named(tmp_path: Path) -> None:
    study = Study(tmp_path / "waits")
    with study.results().run_lock():
        process = study.start()
        assert process.stdout is not None
        assert "is being run" in process.stdout.readline()
        kill_processes([driver_of(process)])
        output, _ = process.communicate(timeout=60)
    assert process.returncode == DRIVER_DIED
    assert re.fullmatch(r"the study's driver was killed .*, before it began; to try again: .*study.run .*\n", output)


def test_a_driver_dies_with_its_command_and_its_lock_is_free_at_once(tmp_path: Path) -> None:
    study = make_study(tmp_path / "killed")
    process = study.start()
    wait_for_records(study, process)
    driver = driver_of(process)
    process.kill()
    process.communicate(timeout=20)
    wait_until(lambda: not driver.is_running(), seconds=5)
    with study.results().run_lock():
        pass


@pytest.mark.slow
def test_a_lost_head_has_last_words_and_the_same_command_resumes_on_another(
    undisturbed: Study, tmp_path: Path, free_port: int
) -> None:
    """Ray's core ends the driver by itself, after a minute by default."""
    study = make_study(tmp_path / "headless")
    study.space["run"]["gpu"] = 0
    soon = ["env", "RAY_gcs_rpc_server_reconnect_timeout_s=10"]
    with open_cluster(tmp_path, free_port) as nodes:
        head = nodes.start_node("--num-cpus=2")
        process = study.start("--address", nodes.address, wrapper=soon)
        wait_for_records(study, process)
        kill_processes([member for member in family(head.pid) if member.name() == "gcs_server"])
        assert_last_words(
            study,
            process,
            "Ray ended the study's driver (exit code 1), as it does when the head of its cluster is lost",
        )
    with open_cluster(tmp_path, free_port) as nodes:
        nodes.start_node("--num-cpus=2")
        study.run("--address", nodes.address)
    assert_same_records(study, undisturbed)
    assert_mirrored_once(study)


def interrupt(study: Study, *signals: signal.Signals) -> str:
    """Start a study and send it signals once it trains; returns what it printed."""
    process = study.start()
    wait_for_records(study, process)
    for number in signals:
        process.send_signal(number)
        time.sleep(SAME_WITHIN_SECONDS + 0.2)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 1, output
    assert "Traceback" not in output
    return output


def test_a_second_ctrl_c_stops_at_once_and_loses_no_saved_record(undisturbed: Study, tmp_path: Path) -> None:
    study = make_study(tmp_path / "twice")
    output = interrupt(study, signal.SIGINT, signal.SIGINT)
    assert "to resume:" in output
    study.run()
    assert_same_records(study, undisturbed)
    assert_mirrored_once(study)


@pytest.fixture
def server(tmp_path: Path, free_port: int) -> Iterator[MlflowServer]:
    """A tracking server that is not started yet."""
    server = MlflowServer(tmp_path, free_port)
    yield server
    server.kill()


@pytest.mark.slow
def test_a_server_that_dies_does_not_delay_the_study_and_is_synced_later(
    undisturbed: Study, tmp_path: Path, server: MlflowServer
) -> None:
    server.start()
    study = make_study(tmp_path / "served")
    process = study.start("--tracking-uri", server.uri)
    wait_for_records(study, process)
    server.kill()
    output, _ = process.communicate(timeout=240)
    assert process.returncode == 0, output
    assert "MLflow does not show everything yet" in output
    assert_same_records(study, undisturbed)
    command = [sys.executable, "-m", "study.sync", str(study.results().path)]
    refused = subprocess.run(command, capture_output=True, text=True)
    assert refused.returncode == 1
    assert "Traceback" not in refused.stderr
    server.start()
    for _ in range(2):
        subprocess.run(command, check=True, timeout=240)
        assert_mirrored_once(study, server.uri)


def test_a_server_that_never_answered_does_not_delay_the_study(tmp_path: Path, server: MlflowServer) -> None:
    study = Study(tmp_path / "alone")
    output = study.run("--set", "epochs=1", "--tracking-uri", server.uri)
    assert f"python -m study.sync {study.results().path}" in output
    assert [result.state for result in cell_results(study.results(), study.plan())] == ["complete"] * 4


def test_a_study_resumes_although_files_on_disk_are_damaged(undisturbed: Study, tmp_path: Path) -> None:
    study = make_study(tmp_path / "damaged")
    interrupt(study, signal.SIGTERM)
    for path in study.results().tune.rglob("*"):
        if path.is_file():
            path.write_bytes(path.read_bytes()[:100])
    folders = sorted((study.results().path / "trajectories").iterdir())
    for folder, length in zip(folders, (0, -10), strict=True):
        with (folder / "history.jsonl").open("ab") as file:
            file.write(b'{"kind": "epoch", "examples_se')
        checkpoints = sorted((folder / "checkpoints").rglob("*.safetensors"), key=lambda path: path.stat().st_mtime_ns)
        if checkpoints:
            checkpoints[-1].write_bytes(checkpoints[-1].read_bytes()[:length])
    study.run()
    assert_same_records(study, undisturbed)
    assert_mirrored_once(study)


@pytest.fixture
def two_nodes(tmp_path: Path, free_port: int) -> Iterator[Cluster]:
    """A cluster of two nodes, each with room for one trajectory and, as far as Ray knows, with a GPU."""
    with open_cluster(tmp_path, free_port) as nodes:
        nodes.start_node("--num-cpus=1", "--num-gpus=1")
        nodes.start_node("--num-cpus=1", "--num-gpus=1")
        yield nodes


def test_a_lost_node_loses_no_record_and_is_no_failure(undisturbed: Study, tmp_path: Path, two_nodes: Cluster) -> None:
    """The trajectories ask for ``gpu: auto``, which is one GPU on such a cluster."""
    study = make_study(tmp_path / "two nodes")
    study.space["run"] |= {"gpu": "auto", "max_failures": 0}
    process = study.start("--address", two_nodes.address)
    lost = two_nodes.nodes[1]
    wait_until(lambda: training_workers(lost.pid) and len(study.histories()) == 2, seconds=300)
    kill_processes(family(lost.pid))
    output, _ = process.communicate(timeout=240)
    assert process.returncode == 0, output
    assert_same_records(study, undisturbed)
    assert_mirrored_once(study)
    outcomes = [study.results().trajectory(trajectory.id).outcome() for trajectory in study.plan().trajectories]
    assert [outcome.gpus for outcome in outcomes if outcome is not None] == [1.0, 1.0]
    assert len(re.findall(r"the node \S+ \([0-9a-f]{6}\) was lost; the cluster has 1 now", output)) == 1
    assert re.search(r"  failed \(its process died, or was cut off\); it resumes from its newest checkpoint", output)


def test_it_is_said_that_nothing_can_run_and_why_and_who_joins(tmp_path: Path, free_port: int) -> None:
    """The head has no room for a trajectory: the only node that has is lost, and another joins later."""
    study = make_study(tmp_path / "waits")
    study.space["axes"] = {"model": ["tiny-bert"], "seed": [0]}
    study.space["fixed"]["epochs"] = 12
    with open_cluster(tmp_path, free_port) as nodes:
        nodes.start_node("--num-cpus=0")
        lost = nodes.start_node("--num-cpus=1")
        process = study.start("--address", nodes.address)
        lines: list[str] = []
        assert process.stdout is not None

        def read_until(words: str) -> None:
            assert process.stdout is not None
            for line in process.stdout:
                lines.append(line)
                if words in line:
                    return
            raise AssertionError("".join(lines))

        read_until("epoch 1/12")
        kill_processes(family(lost.pid))
        read_until(
            "nothing has run for 1 min: a trajectory waits for 1 CPU and 0 GPU, and the cluster has 0 CPU and 0 GPU"
        )
        nodes.start_node("--num-cpus=1")
        read_until("joined, with 1 CPU and 0 GPU; the cluster has 2 now")
        output, _ = process.communicate(timeout=240)
        assert process.returncode == 0, output


def test_a_process_that_dies_on_a_node_that_lives_is_a_failure(tmp_path: Path) -> None:
    study = make_study(tmp_path / "dies")
    study.space["axes"] = {"model": ["tiny-bert"]}
    study.space["run"] |= {"max_failures": 1}
    process = study.start()
    killed: set[psutil.Process] = set()
    while process.poll() is None:
        workers = [worker for worker in training_workers(process.pid) if worker not in killed]
        if any(study.histories().values()):
            kill_processes(workers)
            killed.update(workers)
        time.sleep(0.1)
    output, _ = process.communicate()
    assert process.returncode == 1, output
    assert "its process died, or was cut off (tried 2 times)" in output
    assert len(killed) == 2


@pytest.mark.namespaces
def test_a_disk_too_small_for_the_data_is_reported_and_left_clean(tmp_path: Path) -> None:
    study = Study(tmp_path / "no-room")
    (study.folder / "studies").mkdir(parents=True)
    script = 'mount -t tmpfs -o size=60k tmpfs studies && "$@"; echo "exit code $?"; ls -a studies/.encoded'
    output = study.run(wrapper=["unshare", "-m", "sh", "-c", script, "sh"])
    assert "no space left on device" in output
    assert output.splitlines()[-3:] == ["exit code 2", ".", ".."]


@pytest.mark.slow
@pytest.mark.namespaces
def test_a_full_disk_is_reported_and_the_study_resumes_once_there_is_space(undisturbed: Study, tmp_path: Path) -> None:
    study = make_study(tmp_path / "full")
    study.space["run"]["max_failures"] = 0
    (study.folder / "studies").mkdir(parents=True)
    script = """
        mount -t tmpfs -o size=20m tmpfs studies && "$@"; echo "exit code $?"
        mount -o remount,size=1g studies && "$@"; echo "exit code $?"
        cp -r studies kept
    """
    output = study.run(wrapper=["unshare", "-m", "sh", "-c", script, "sh"])
    assert "exit code 1" in output
    assert "No space left on device" in output
    assert output.rstrip().endswith("exit code 0")
    (study.folder / "studies").rmdir()
    (study.folder / "kept").rename(study.folder / "studies")
    assert_same_records(study, undisturbed)


@pytest.mark.slow
def test_a_trajectory_that_always_fails_is_tried_as_often_as_the_space_says(tmp_path: Path) -> None:
    study = Study(tmp_path / "failing")
    study.space["axes"] = {"model": ["tiny-bert"]}
    study.run("--set", "epochs=1", "--set", "name=first")
    config = study.results("first").trajectory(study.plan("first").trajectories[0].id).config()
    assert config is not None
    (Path(config.encoded) / "train-labels.npy").write_bytes(b"not an array")
    output = study.run("--set", "run.max_failures=2", exits=1)
    (result,) = cell_results(study.results(), study.plan())
    assert result.state == "failed"
    assert "tried 3 times" in output
    assert result.outcome is not None
    processes = re.findall(r"ray::ImplicitFunc.*\(pid=(\d+)", Path(str(result.outcome.log)).read_text())
    assert len(set(processes)) == 3, "an error may have broken the process's use of the GPU"
