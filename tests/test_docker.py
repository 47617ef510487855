"""Do the files in docker/ say what they should, as far as a reader can tell? test_compose.py runs them."""

import json
import os
import pty
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from compose_file import DOCKER, Service, read_compose

from study.metrics import GAUGES, LABELS
from study.run import parser

ROOT = DOCKER.parent
SERVICES, COMPOSE = read_compose()
KUBERNETES: list[dict[str, Any]] = list(yaml.safe_load_all((DOCKER / "kuberay.yaml").read_text()))
# A registry's host in an image's name: it holds a dot or a port, or is localhost.
WITH_REGISTRY = re.compile(r"^(localhost|[^/]*[.:][^/]*)/")


def options_of_study_run(words: list[str]) -> list[str]:
    """What follows ``-m study.run``, which has to be there."""
    place = words.index("study.run")
    assert words[place - 2 : place] == ["python", "-m"]
    return words[place + 1 :]


def test_all_of_our_services_share_one_build() -> None:
    ours = [service for service in SERVICES.values() if service.built]
    assert {service.name for service in ours} == {"mlflow", "ray-head", "worker", "study"}
    assert len({json.dumps([service.values["image"], service.values["build"]]) for service in ours}) == 1
    build = ours[0].values["build"]
    assert (DOCKER / build["context"] / build["dockerfile"]).resolve() == DOCKER / "Dockerfile"
    asked = {line.split()[1].split("=")[0] for line in instructions("ARG")}
    assert build["args"].keys() == asked


@pytest.mark.parametrize("service", SERVICES.values(), ids=SERVICES)
def test_a_service_listens_on_loopback_and_says_how_it_is(service: Service) -> None:
    for port in service.values.get("ports", []):
        assert port.startswith("127.0.0.1:")
    assert service.health
    assert not service.values.get("privileged")
    assert service.values.get("network_mode") is None


def test_one_variable_opens_all_ports() -> None:
    opened, _ = read_compose({"BIND_ADDRESS": "192.0.2.1"})
    ports = [port for service in opened.values() for port in service.values.get("ports", [])]
    assert len(ports) == 4
    assert all(port.startswith("192.0.2.1:") for port in ports)


def test_the_example_lists_every_variable_with_its_default() -> None:
    listed = dict(re.findall(r"^#(\w+)=(.*)$", (DOCKER / ".env.example").read_text(), re.MULTILINE))
    used = dict(re.findall(r"\$\{(\w+):-([^}]*)\}", (DOCKER / "compose.yaml").read_text()))
    own = {"STUDY_UID", "STUDY_GID"}  # written by secrets.sh
    assert {**listed, "STUDIES": "studies"} == {name: used[name] for name in used if name not in own}


def test_whoever_is_waited_for_can_be_healthy() -> None:
    for service in SERVICES.values():
        for name in service.needs:
            assert service.values["depends_on"][name] == {"condition": "service_healthy"}
            assert name in SERVICES


def test_secrets_are_files_and_nothing_else_holds_one() -> None:
    for name, secret in COMPOSE["secrets"].items():
        assert secret == {"file": f"./secrets/{name}"}
    used = {name for service in SERVICES.values() for name in service.values.get("secrets", [])}
    assert used == COMPOSE["secrets"].keys()
    for service in SERVICES.values():
        for key, value in service.environment.items():
            if re.search("PASSWORD|TOKEN|SECRET", key):
                name = Path(value).name
                assert value == f"/run/secrets/{name}"
                assert name in service.values["secrets"]
        for word in service.words:
            assert not re.search(r"//[^/@ ]+:[^/@ ]+@", word), "a password in a URI"
    assert not re.search(r"^[^#]*(PASSWORD|TOKEN|SECRET)", (DOCKER / ".env.example").read_text(), re.MULTILINE)


def test_every_ray_node_asks_for_the_token() -> None:
    for name in ("ray-head", "worker", "study"):
        environment = SERVICES[name].environment
        assert environment["RAY_AUTH_MODE"] == "token"
        assert environment["RAY_AUTH_TOKEN_PATH"] == "/run/secrets/ray_token"


def test_mlflow_answers_to_its_own_names_alone() -> None:
    service = SERVICES["mlflow"]
    command = service.words[-1]
    assert '--allowed-hosts "$ALLOWED_HOSTS"' in command
    assert '--cors-allowed-origins "$ALLOWED_ORIGINS"' in command
    for name in ("ALLOWED_HOSTS", "ALLOWED_ORIGINS"):
        assert "*" not in service.environment[name].split(",")
    assert "mlflow:5000" in service.environment["ALLOWED_HOSTS"]


def test_what_is_shared_is_seen_at_the_same_place_by_all() -> None:
    for name in ("ray-head", "worker", "study"):
        assert "studies:/studies" in SERVICES[name].values["volumes"]
    names = {volume.split(":")[0] for service in SERVICES.values() for volume in service.values.get("volumes", [])}
    assert {name for name in names if not name.startswith(".")} == COMPOSE["volumes"].keys()
    for name in names:
        assert not name.startswith(".") or (DOCKER / name).exists()


def test_the_job_runs_the_study() -> None:
    given = parser().parse_args(options_of_study_run(SERVICES["study"].words))
    assert (ROOT / given.space).is_file()
    assert given.address == "ray-head:6379"
    assert given.tracking_uri == "http://mlflow:5000"
    assert given.storage == "/studies"


def test_the_job_takes_more_arguments_than_a_space() -> None:
    assert "--space" not in SERVICES["study"].values["entrypoint"]


@pytest.mark.compose
@pytest.mark.parametrize("files", [["compose.yaml"], ["compose.yaml", "compose.gpu.yaml"]], ids="+".join)
def test_compose_accepts_the_files(files: list[str], tmp_path: Path) -> None:
    command = ["docker-compose"] if shutil.which("docker-compose") else ["docker", "compose"]
    places = [word for file in files for word in ("-f", str(DOCKER / file))]
    done = subprocess.run(
        [*command, "--project-directory", str(tmp_path), *places, "config"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    services = yaml.safe_load(done.stdout)["services"]
    assert services["mlflow"]["command"][-1].startswith("PGPASSWORD=")
    reserved = "deploy" in services["worker"]
    assert reserved == ("compose.gpu.yaml" in files)


def instructions(name: str) -> list[str]:
    """The lines of the Dockerfile that begin with ``name``."""
    return [line for line in (DOCKER / "Dockerfile").read_text().splitlines() if line.split(" ")[0] == name]


def test_the_image_is_built_on_what_one_asks_for_and_runs_as_nobody_special() -> None:
    assert instructions("ARG")[0] == "ARG BASE_IMAGE=python:3.11-slim-bookworm"
    assert instructions("FROM") == ["FROM ${BASE_IMAGE}"]
    assert instructions("USER") == ["USER study"]
    text = (DOCKER / "Dockerfile").read_text()
    assert "-r requirements.lock" in text
    assert "ARG UID=1000" in text


def test_what_the_image_copies_is_let_through_and_secrets_are_not() -> None:
    let_through = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    copied = {source for line in instructions("COPY") for source in line.split()[1:-1]}
    assert copied == let_through
    assert all((ROOT / source).exists() for source in copied)
    assert (ROOT / ".dockerignore").read_text().splitlines()[1] == "*"
    ignored = (ROOT / ".gitignore").read_text().splitlines()
    assert {"docker/.env", "docker/secrets/"} <= set(ignored)


def test_no_image_names_a_registry() -> None:
    images = [service.values["image"] for service in SERVICES.values()]
    templates = [rayjob()["spec"]["rayClusterSpec"]["headGroupSpec"]["template"]]
    images += [container["image"] for template in templates for container in template["spec"]["containers"]]
    assert not [image for image in images if WITH_REGISTRY.match(image)]


def test_scripts_are_shell() -> None:
    for path in DOCKER.glob("*.sh"):
        shell = path.read_text().split("\n", 1)[0].rsplit(maxsplit=1)[-1].rsplit("/", 1)[-1].removeprefix("#!")
        subprocess.run([shell, "-n", str(path)], check=True)
        assert os.access(path, os.X_OK)


def test_secrets_are_made_once_and_for_their_owner(tmp_path: Path) -> None:
    for name in ("secrets.sh", ".env.example"):
        shutil.copy(DOCKER / name, tmp_path)
    subprocess.run([str(tmp_path / "secrets.sh")], check=True, capture_output=True)
    made = {path.name: path.read_text() for path in (tmp_path / "secrets").iterdir()}
    assert made.keys() == COMPOSE["secrets"].keys()
    assert all(re.fullmatch("[0-9a-f]{64}", value) for value in made.values())
    assert len(set(made.values())) == len(made)
    assert all(path.stat().st_mode & 0o077 == 0 for path in (tmp_path / "secrets").iterdir())
    owner = (tmp_path / "secrets" / "ray_token").stat().st_uid
    assert owner != 0
    assert f"STUDY_UID={owner}\n" in (tmp_path / ".env").read_text()
    subprocess.run([str(tmp_path / "secrets.sh")], check=True, capture_output=True)
    assert {path.name: path.read_text() for path in (tmp_path / "secrets").iterdir()} == made


class Programs:
    """A folder of stand-ins for programs that a script calls, first on its path."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()

    def add(self, name: str, script: str) -> None:
        (self.folder / name).write_text(f"#!/bin/sh\n{script}\n")
        (self.folder / name).chmod(0o755)

    def start(self, *words: str, **environment: str) -> subprocess.Popen[str]:
        path = f"{self.folder}:{os.environ['PATH']}"
        values = {**os.environ, "WORKER_CPUS": "", "PATH": path, **environment}
        return subprocess.Popen(words, env=values, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def test_each_worker_takes_a_gpu_of_its_own_and_one_too_many_is_told(tmp_path: Path) -> None:
    programs = Programs(tmp_path / "bin")
    programs.add("nvidia-smi", "echo 0; echo 1")
    programs.add("nproc", "echo 8")
    programs.add("ray", 'echo "$CUDA_VISIBLE_DEVICES $*"; exec sleep 60')
    started, lines = [], []
    for _ in range(2):
        worker = programs.start(str(DOCKER / "worker.sh"), "head:6379", "--x=1", GPU_LOCKS=str(tmp_path))
        started.append(worker)
        assert worker.stdout is not None
        assert worker.stdout.readline().startswith("this worker has GPU")
        lines.append(worker.stdout.readline())
    try:
        third = programs.start(str(DOCKER / "worker.sh"), "head:6379", GPU_LOCKS=str(tmp_path))
        output, _ = third.communicate(timeout=10)
        assert third.returncode == 1
        assert "scale to 2 workers" in output
    finally:
        for worker in started:
            worker.terminate()
            worker.communicate(timeout=10)
    command = "start --address=head:6379 --num-cpus=4 --num-gpus=1 --block --x=1"
    assert lines == [f"0 {command}\n", f"1 {command}\n"]
    freed = programs.start(str(DOCKER / "worker.sh"), "head:6379", GPU_LOCKS=str(tmp_path))
    assert freed.stdout is not None
    assert freed.stdout.readline() == "this worker has GPU 0 of 2\n"
    freed.terminate()
    freed.communicate(timeout=10)


def test_a_worker_without_a_gpu_offers_none(tmp_path: Path) -> None:
    programs = Programs(tmp_path / "bin")
    programs.add("nvidia-smi", "exit 9")
    programs.add("ray", 'echo "$*"')
    output, _ = programs.start(str(DOCKER / "worker.sh"), "head:6379", WORKER_CPUS="3").communicate(timeout=10)
    assert output == "start --address=head:6379 --num-cpus=3 --num-gpus=0 --block\n"


@pytest.mark.parametrize("code", [0, 3])
def test_a_command_that_joined_ends_with_its_own_exit_code_and_takes_its_node_along(tmp_path: Path, code: int) -> None:
    programs = Programs(tmp_path / "bin")
    programs.add("ray", f'echo "$*" > {tmp_path}/node; trap "echo left >> {tmp_path}/node; exit" TERM; '
                        "while :; do sleep 0.1; done")  # fmt: skip
    process = programs.start(str(DOCKER / "join.sh"), "head:6379", "sh", "-c", f"sleep 0.5; exit {code}")
    process.communicate(timeout=20)
    assert process.returncode == code
    assert (tmp_path / "node").read_text() == "start --address=head:6379 --num-cpus=0 --num-gpus=0 --block\nleft\n"


# Says which signals it has got, a second after the first.
COUNTS = """
import signal, time
got = []
for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM):
    signal.signal(number, lambda number, _: got.append(signal.Signals(number).name))
print("ready", flush=True)
while not got:
    time.sleep(0.1)
time.sleep(1)
print(*got, flush=True)
raise SystemExit(7)
"""


@pytest.mark.parametrize("by", ["SIGINT", "SIGTERM", "Ctrl-C"])
def test_a_signal_reaches_the_command_once_which_may_take_its_time(tmp_path: Path, by: str) -> None:
    programs = Programs(tmp_path / "bin")
    programs.add("ray", f"while :; do sleep 0.1; echo there > {tmp_path}/node; done")
    ours, theirs = pty.openpty()
    command = [str(DOCKER / "join.sh"), "head:6379", sys.executable, "-c", COUNTS]
    process = subprocess.Popen(
        ["setsid", "--ctty", "--wait", *command] if by == "Ctrl-C" else command,
        env={**os.environ, "PATH": f"{programs.folder}:{os.environ['PATH']}"}, stdin=theirs, stdout=theirs,
        stderr=theirs,
    )  # fmt: skip
    os.close(theirs)
    try:
        assert os.read(ours, 100).strip() == b"ready"
        if by == "Ctrl-C":
            os.write(ours, b"\x03")
        else:
            process.send_signal(signal.Signals[by])
        assert process.wait(timeout=20) == 7
        assert os.read(ours, 100).strip().removeprefix(b"^C").strip() == b"SIGTERM"
    finally:
        os.close(ours)


def rayjob() -> dict[str, Any]:
    (found,) = [item for item in KUBERNETES if item["kind"] == "RayJob"]
    assert found["apiVersion"] == "ray.io/v1"
    return found


def test_the_ray_job_runs_the_study_on_gpus_and_a_shared_folder() -> None:
    spec = rayjob()["spec"]
    given = parser().parse_args(options_of_study_run(spec["entrypoint"].split()))
    assert (ROOT / Path(given.space).relative_to("/app")).is_file()
    assert given.storage == "/studies"
    cluster = spec["rayClusterSpec"]
    assert f"ray=={cluster['rayVersion']}\n" in (ROOT / "requirements.lock").read_text()
    assert cluster["authOptions"] == {"mode": "token", "secretName": "study-ray-token"}
    (claim,) = [item for item in KUBERNETES if item["kind"] == "PersistentVolumeClaim"]
    assert claim["spec"]["accessModes"] == ["ReadWriteMany"]
    assert all(group["template"]["spec"] for group in [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]])
    for group in [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]:
        assert all(isinstance(value, str) for value in group["rayStartParams"].values())
        pod = group["template"]["spec"]
        assert pod["securityContext"]["runAsNonRoot"]
        volumes = {volume["name"]: volume for volume in pod["volumes"]}
        assert volumes["studies"]["persistentVolumeClaim"]["claimName"] == claim["metadata"]["name"]
        (container,) = pod["containers"]
        assert {"name": "studies", "mountPath": "/studies"} in container["volumeMounts"]
        assert {mount["name"] for mount in container["volumeMounts"]} == volumes.keys()
    (workers,) = cluster["workerGroupSpecs"]
    assert workers["minReplicas"] <= workers["replicas"] <= workers["maxReplicas"]
    assert workers["template"]["spec"]["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == 1
    assert "kind: Secret" not in (DOCKER / "kuberay.yaml").read_text()


@pytest.mark.kubernetes
def test_kubernetes_knows_every_field() -> None:
    """KubeRay's own fields are in no schema here: a pod of each kind is validated, as KubeRay makes it."""
    import kubernetes_validate

    cluster = rayjob()["spec"]["rayClusterSpec"]
    pods = [group["template"] for group in [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]]
    items = [item for item in KUBERNETES if item["kind"] != "RayJob"]
    for item in [*items, *({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "pod"}, **pod} for pod in pods)]:
        kubernetes_validate.validate(item, "1.33", strict=True)


def test_grafana_asks_only_for_what_is_exported() -> None:
    dashboard = json.loads((DOCKER / "grafana.json").read_text())
    asked = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    asked += [variable["query"] for variable in dashboard["templating"]["list"]]
    names = {name for query in asked for name in re.findall(r"\bray_\w+", query)}
    assert names == {f"ray_{name}" for name in GAUGES}
    for query in asked:
        for labels in re.findall(r"by \((.*?)\)", query):
            assert set(labels.split(", ")) <= set(LABELS)
        for label in re.findall(r"(\w+)[=!]~?\"", query):
            assert label in LABELS
    source = yaml.safe_load((DOCKER / "grafana-datasource.yaml").read_text())["datasources"][0]
    assert {panel["datasource"]["uid"] for panel in dashboard["panels"]} == {source["uid"]}
    assert source["url"] == "http://prometheus:9090"


def test_prometheus_reads_the_port_that_every_node_exports_on() -> None:
    (job,) = yaml.safe_load((DOCKER / "prometheus.yaml").read_text())["scrape_configs"]
    (found,) = job["dns_sd_configs"]
    for name in found["names"]:
        assert f"--metrics-export-port={found['port']}" in SERVICES[name].words
