"""Do the files in docker/ say what they should, as far as a reader can tell? test_compose.py runs them."""

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from compose_file import DOCKER, Service, read_compose

from study.run import parser
from study.tracking.prometheus import GAUGES, LABELS

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
