"""The services of docker/compose.yaml as real processes: a study runs through them, and access needs credentials."""

import json
import re
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
import yaml
from compose_processes import Stack
from mlflow import MlflowClient
from mlflow.artifacts import list_artifacts

from study.plan.plan import read_plan
from study.storage import StudyFolder
from study.tracking.prometheus import GAUGES, ascii_label

pytestmark = [pytest.mark.slow, pytest.mark.postgresql, pytest.mark.timeout(900)]

SPACE = {
    "name": "small",
    "data": {"source": "builtin:reviews", "examples": 4_000, "max_length": 32},
    "fixed": {"epochs": 3, "batch_size": 16, "learning_rate": 5e-4, "log_every_examples": 320},
    "axes": {"model": ["tiny-bert", "tiny-roberta"], "early_stopping": ["none", {"patience": 1}], "seed": [0]},
    "run": {"cpu": 1, "gpu": 0},
}
# A line of the page that Prometheus reads, such as `ray_study_epochs_done{...} 2.0`.
SAMPLE = re.compile(r"^ray_(study_\w+)\{(.*)\} (\S+)$", re.MULTILINE)


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    """PostgreSQL, MLflow, a Ray head and a worker."""
    with Stack() as stack:
        stack.start("mlflow")
        stack.start("worker")
        stack.wait_until_healthy("mlflow")
        stack.wait_until_healthy("worker")
        yield stack


def request_page(url: str, headers: Mapping[str, str], data: bytes | None = None) -> tuple[int, str]:
    """The status and the text of a server's answer."""
    request = urllib.request.Request(url, data=data, headers=dict(headers))
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return int(answer.status), answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def exported_gauges(stack: Stack) -> dict[str, dict[str, float]]:
    """The gauges that the worker exports, by the trajectory's readable name."""
    _, page = request_page(f"http://127.0.0.1:{stack.ports['worker', 8080]}/metrics", {})
    gauges: dict[str, dict[str, float]] = {}
    for name, text, value in SAMPLE.findall(page):
        labels = dict(re.findall(r'(\w+)="([^"]*)"', text))
        assert labels["study"] == "small"
        gauges.setdefault(labels["trajectory"], {})[name] = float(value)
    return gauges


@pytest.fixture(scope="module")
def trained(stack: Stack) -> tuple[str, list[dict[str, dict[str, float]]]]:
    """The output of the job, and the gauges that the worker exported meanwhile."""
    (stack.folder / "studies" / "small.yaml").write_text(yaml.safe_dump(SPACE, sort_keys=False))
    job = stack.start("study", "--space", "/studies/small.yaml")
    exported = []
    while job.poll() is None:
        exported.append(exported_gauges(stack))
        time.sleep(1)
    assert job.returncode == 0, stack.log("study")
    return stack.log("study"), exported


def test_the_job_trains_every_cell_and_mirrors_it_to_mlflow_on_postgresql(
    stack: Stack, trained: tuple[str, list[dict[str, dict[str, float]]]]
) -> None:
    output, _ = trained
    assert "4 cells in 2 trajectories" in output
    assert "Traceback" not in output
    uri = f"http://127.0.0.1:{stack.ports['mlflow', 5000]}"
    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name("small")
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id])
    assert len([run for run in runs if "mlflow.parentRunId" in run.data.tags]) == 4
    assert {run.info.status for run in runs} == {"FINISHED"}
    assert runs[0].info.artifact_uri is not None
    assert runs[0].info.artifact_uri.startswith("mlflow-artifacts:")
    artifacts = [path for path in (stack.folder / "mlartifacts").rglob("*") if path.is_file()]
    assert any(path.name == "report.html" for path in artifacts)
    assert list_artifacts(run_id=runs[0].info.run_id, tracking_uri=uri)


def test_prometheus_sees_the_progress_of_every_trajectory_by_name(
    stack: Stack, trained: tuple[str, list[dict[str, dict[str, float]]]]
) -> None:
    plan = read_plan(StudyFolder(stack.folder / "studies" / "small"))
    assert plan is not None
    names = {ascii_label(trajectory.name) for trajectory in plan.trajectories}
    _, exported = trained
    assert set().union(*exported) == names
    for name in names:
        states = [gauges[name] for gauges in exported if name in gauges]
        assert set().union(*states) == GAUGES.keys()
        done = [state["study_epochs_done"] for state in states if "study_epochs_done" in state]
        assert done == sorted(done)
        assert done[-1] <= 3
        assert {state["study_epochs_planned"] for state in states if "study_epochs_planned" in state} == {3}
    assert any(values.get("study_examples_per_second", 0) > 0 for gauges in exported for values in gauges.values())


def token(stack: Stack, kind: str) -> str:
    return {"right": stack.secrets["ray_token"], "wrong": "0" * 64, "none": ""}[kind]


@pytest.mark.parametrize(("kind", "status"), [("right", 200), ("wrong", 403), ("none", 401)])
def test_the_dashboard_requires_the_token(stack: Stack, kind: str, status: int) -> None:
    url = f"http://127.0.0.1:{stack.ports['ray-head', 8265]}/api/jobs/"
    headers = {"Authorization": f"Bearer {token(stack, kind)}"} if kind != "none" else {}
    assert request_page(url, headers)[0] == status


@pytest.mark.parametrize(("kind", "code"), [("right", 0), ("wrong", 1), ("none", 1)])
def test_the_cluster_requires_the_token(stack: Stack, tmp_path: Path, kind: str, code: int) -> None:
    address = f"127.0.0.1:{stack.ports['ray-head', 6379]}"
    program = f"import ray; ray.init({address!r}, log_to_driver=False); print('joined', len(ray.nodes()))"
    variables = {"RAY_AUTH_MODE": "token" if kind != "none" else "disabled", "RAY_AUTH_TOKEN": token(stack, kind)}
    log = tmp_path / "log"
    process = stack.popen(["python", "-c", program], variables, log)
    assert process.wait(timeout=180) == code, log.read_text()
    assert ("joined" in log.read_text()) == (kind == "right")


def submit(stack: Stack, log: Path, kind: str, *words: str) -> int:
    """The exit code of `ray job submit` from outside the cluster."""
    address = f"http://127.0.0.1:{stack.ports['ray-head', 8265]}"
    variables = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": token(stack, kind)}
    process = stack.popen(["ray", "job", "submit", "--address", address, "--", *words], variables, log)
    try:
        return process.wait(timeout=240)
    except subprocess.TimeoutExpired:
        process.kill()
        return process.wait()


def test_a_study_can_be_submitted_as_a_ray_job(
    stack: Stack, trained: tuple[str, list[dict[str, dict[str, float]]]], tmp_path: Path
) -> None:
    space, storage = stack.folder / "studies" / "small.yaml", stack.folder / "studies"
    study = ["python", "-m", "study.run", "--space", str(space), "--address", "auto", "--storage", str(storage)]
    uri = f"http://127.0.0.1:{stack.ports['mlflow', 5000]}"
    only = ["--only", "model=tiny-bert", "--set", "name=submitted", "--set", "epochs=1", "--tracking-uri", uri]
    log = tmp_path / "log"
    assert submit(stack, log, "right", *study, *only) == 0, log.read_text()
    assert "results:" in log.read_text()
    assert MlflowClient(uri).get_experiment_by_name("submitted") is not None


def test_a_job_with_a_wrong_token_is_refused(stack: Stack, tmp_path: Path) -> None:
    log = tmp_path / "log"
    assert submit(stack, log, "wrong", "touch", str(stack.folder / "studies" / "entered")) != 0
    assert not (stack.folder / "studies" / "entered").exists()


CREATE = "api/2.0/mlflow/experiments/create"


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"Host": "mlflow.attacker.example"}, 403),
        ({"Origin": "http://attacker.example"}, 403),
        ({"Origin": "http://127.0.0.1.attacker.example"}, 403),
    ],
)
def test_mlflow_refuses_other_hosts_and_origins(stack: Stack, headers: Mapping[str, str], status: int) -> None:
    name = json.dumps({"name": f"from {headers}"}).encode()
    url = f"http://127.0.0.1:{stack.ports['mlflow', 5000]}/{CREATE}"
    assert request_page(url, {"Content-Type": "application/json", **headers}, name)[0] == status


def test_the_database_requires_the_password(stack: Stack) -> None:
    port = str(stack.ports["postgres", 5432])
    command = ["psql", "-h", "127.0.0.1", "-p", port, "-U", "mlflow", "-d", "mlflow", "-w", "-c", "select 1"]
    done = subprocess.run(command, env={"PATH": "/usr/bin:/bin", "PGPASSWORD": "wrong"}, capture_output=True, text=True)
    assert done.returncode != 0
    assert "password authentication failed" in done.stderr


def test_no_secret_is_in_a_process_list_or_a_log(stack: Stack) -> None:
    lines = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout
    logs = "".join(path.read_text(errors="replace") for path in stack.folder.glob("*.log"))
    for secret in stack.secrets.values():
        assert secret not in lines
        assert secret not in logs
