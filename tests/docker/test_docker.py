"""The files in docker/, read but not run (test_compose.py runs them)."""

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from compose_file import DOCKER, Service, read_compose

from study.command import parser
from study.tracking.prometheus import GAUGES, LABELS

ROOT = DOCKER.parent
SERVICES, COMPOSE = read_compose()
KUBERNETES: list[dict[str, Any]] = list(yaml.safe_load_all((DOCKER / "kuberay.yaml").read_text()))
# A registry's host in an image's name: it has a dot or a port, or is localhost.
WITH_REGISTRY = re.compile(r"^(localhost|[^/]*[.:][^/]*)/")


def options_of_study_run(words: list[str]) -> list[str]:
    """The words after ``python -m study.run``; asserts that these are there."""
    position = words.index("study.run")
    assert words[position - 2 : position] == ["python", "-m"]
    return words[position + 1 :]


def test_all_services_of_our_image_share_one_build() -> None:
    ours = [service for service in SERVICES.values() if service.built]
    assert {service.name for service in ours} == {"mlflow", "ray-head", "worker", "study"}
    assert len({json.dumps([service.values["image"], service.values["build"]]) for service in ours}) == 1
    build = ours[0].values["build"]
    assert (DOCKER / build["context"] / build["dockerfile"]).resolve() == DOCKER / "Dockerfile"
    declared = {line.split()[1].split("=")[0] for line in instructions("ARG")}
    assert build["args"].keys() == declared


@pytest.mark.parametrize("service", SERVICES.values(), ids=SERVICES)
def test_a_service_listens_on_loopback_and_has_a_health_check(service: Service) -> None:
    for port in service.values.get("ports", []):
        assert port.startswith("127.0.0.1:")
    assert service.health
    assert not service.values.get("privileged")
    assert service.values.get("network_mode") is None


def test_one_variable_sets_the_address_of_all_ports() -> None:
    services, _ = read_compose({"BIND_ADDRESS": "192.0.2.1"})
    ports = [port for service in services.values() for port in service.values.get("ports", [])]
    assert len(ports) == 4
    assert all(port.startswith("192.0.2.1:") for port in ports)


def test_the_example_environment_lists_every_variable_with_its_default() -> None:
    documented = dict(re.findall(r"^#(\w+)=(.*)$", (DOCKER / ".env.example").read_text(), re.MULTILINE))
    used = dict(re.findall(r"\$\{(\w+):-([^}]*)\}", (DOCKER / "compose.yaml").read_text()))
    own = {"STUDY_UID", "STUDY_GID"}  # written by secrets.sh
    assert {**documented, "STUDIES": "studies"} == {name: used[name] for name in used if name not in own}


def test_services_wait_for_others_that_have_a_health_check() -> None:
    for service in SERVICES.values():
        for name in service.needs:
            assert service.values["depends_on"][name] == {"condition": "service_healthy"}
            assert name in SERVICES


def test_secrets_are_in_files_only() -> None:
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


def test_every_ray_node_requires_the_token() -> None:
    for name in ("ray-head", "worker", "study"):
        environment = SERVICES[name].environment
        assert environment["RAY_AUTH_MODE"] == "token"
        assert environment["RAY_AUTH_TOKEN_PATH"] == "/run/secrets/ray_token"


def test_mlflow_answers_to_its_own_host_names_only() -> None:
    service = SERVICES["mlflow"]
    command = service.words[-1]
    assert '--allowed-hosts "$ALLOWED_HOSTS"' in command
    assert '--cors-allowed-origins "$ALLOWED_ORIGINS"' in command
    for name in ("ALLOWED_HOSTS", "ALLOWED_ORIGINS"):
        assert "*" not in service.environment[name].split(",")
    assert "mlflow:5000" in service.environment["ALLOWED_HOSTS"]


def test_shared_folders_have_the_same_path_everywhere() -> None:
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


def test_the_arguments_of_the_job_can_be_replaced() -> None:
    assert "--space" not in SERVICES["study"].values["entrypoint"]


@pytest.mark.compose
@pytest.mark.parametrize("files", [["compose.yaml"], ["compose.yaml", "compose.gpu.yaml"]], ids="+".join)
def test_compose_accepts_the_files(files: list[str], tmp_path: Path) -> None:
    command = ["docker-compose"] if shutil.which("docker-compose") else ["docker", "compose"]
    options = [word for file in files for word in ("-f", str(DOCKER / file))]
    done = subprocess.run(
        [*command, "--project-directory", str(tmp_path), *options, "config"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    services = yaml.safe_load(done.stdout)["services"]
    assert services["mlflow"]["command"][-1].startswith("PGPASSWORD=")
    reserves_gpus = "deploy" in services["worker"]
    assert reserves_gpus == ("compose.gpu.yaml" in files)


def instructions(name: str) -> list[str]:
    """The lines of the Dockerfile that start with the instruction ``name``."""
    return [line for line in (DOCKER / "Dockerfile").read_text().splitlines() if line.split(" ")[0] == name]


def test_the_image_has_a_replaceable_base_and_an_unprivileged_user() -> None:
    assert instructions("ARG")[0] == "ARG BASE_IMAGE=python:3.11-slim-bookworm"
    assert instructions("FROM") == ["FROM ${BASE_IMAGE}"]
    assert instructions("USER") == ["USER study"]
    text = (DOCKER / "Dockerfile").read_text()
    assert "-r requirements.lock" in text
    assert "ARG UID=1000" in text


def test_the_build_context_has_what_the_image_copies_and_no_secrets() -> None:
    in_context = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    copied = {source for line in instructions("COPY") for source in line.split()[1:-1]}
    assert copied == in_context
    assert all((ROOT / source).exists() for source in copied)
    assert (ROOT / ".dockerignore").read_text().splitlines()[1] == "*"
    ignored = (ROOT / ".gitignore").read_text().splitlines()
    assert {"docker/.env", "docker/secrets/"} <= set(ignored)


def test_no_image_name_has_a_registry() -> None:
    images = [service.values["image"] for service in SERVICES.values()]
    templates = [rayjob()["spec"]["rayClusterSpec"]["headGroupSpec"]["template"]]
    images += [container["image"] for template in templates for container in template["spec"]["containers"]]
    assert not [image for image in images if WITH_REGISTRY.match(image)]


def rayjob() -> dict[str, Any]:
    (job,) = [item for item in KUBERNETES if item["kind"] == "RayJob"]
    assert job["apiVersion"] == "ray.io/v1"
    return job


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
        stays = group["template"]["metadata"]["annotations"]
        assert stays["cluster-autoscaler.kubernetes.io/safe-to-evict"] == "false"
        assert stays["karpenter.sh/do-not-disrupt"] == "true"
        # Ray would put its store on the pod's disk where /dev/shm is too small for the size that it chooses.
        (shm,) = [volume["emptyDir"]["sizeLimit"] for volume in pod["volumes"] if volume["name"] == "shm"]
        assert (shm, int(group["rayStartParams"]["object-store-memory"])) == ("1Gi", 500_000_000)
        assert container["resources"]["requests"]["ephemeral-storage"]
        assert container["envFrom"] == [{"secretRef": {"name": "study-secrets", "optional": True}}]
    assert spec["backoffLimit"] == 3
    (workers,) = cluster["workerGroupSpecs"]
    (toleration,) = workers["template"]["spec"]["tolerations"]
    assert toleration["key"] == "nvidia.com/gpu"
    assert workers["minReplicas"] <= workers["replicas"] <= workers["maxReplicas"]
    assert workers["template"]["spec"]["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == 1
    assert "kind: Secret" not in (DOCKER / "kuberay.yaml").read_text()


@pytest.mark.kubernetes
def test_every_field_is_in_the_schema_of_kubernetes() -> None:
    """No schema here has KubeRay's own fields, so the pods that KubeRay makes of them are validated."""
    import kubernetes_validate

    cluster = rayjob()["spec"]["rayClusterSpec"]
    pods = [group["template"] for group in [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]]
    items = [item for item in KUBERNETES if item["kind"] != "RayJob"]
    for item in [*items, *({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "pod"}, **pod} for pod in pods)]:
        kubernetes_validate.validate(item, "1.33", strict=True)


def test_grafana_queries_every_exported_gauge_and_nothing_else() -> None:
    dashboard = json.loads((DOCKER / "grafana.json").read_text())
    queries = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    queries += [variable["query"] for variable in dashboard["templating"]["list"]]
    names = {name for query in queries for name in re.findall(r"\bray_\w+", query)}
    assert names == {f"ray_{name}" for name in GAUGES}
    for query in queries:
        for labels in re.findall(r"by \((.*?)\)", query):
            assert set(labels.split(", ")) <= set(LABELS)
        for label in re.findall(r"(\w+)[=!]~?\"", query):
            assert label in LABELS
    source = yaml.safe_load((DOCKER / "grafana-datasource.yaml").read_text())["datasources"][0]
    assert {panel["datasource"]["uid"] for panel in dashboard["panels"]} == {source["uid"]}
    assert source["url"] == "http://prometheus:9090"


def test_prometheus_reads_the_port_on_which_every_node_exports() -> None:
    (job,) = yaml.safe_load((DOCKER / "prometheus.yaml").read_text())["scrape_configs"]
    (discovery,) = job["dns_sd_configs"]
    for name in discovery["names"]:
        assert f"--metrics-export-port={discovery['port']}" in SERVICES[name].words
