"""The services of docker/compose.yaml as processes of this machine: its own commands, connected as it connects them.

What a container has to itself is moved: service names become 127.0.0.1, each service's ports become free ones, and
mounted folders and secrets are in one folder. The installed PostgreSQL server replaces its image. With STUDY_CONTAINER
set to the name of a buildah container, all services of our image run in that one.
"""

import contextlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Self

import psutil
from compose_file import Service, read_compose
from places import ROOT
from servers import find_free_port, postgres_program

# The ports inside the containers.
PORTS = (5000, 5432, 6379, 8080, 8265, 52365)
# A container's folders, and their names in the stack's folder.
FOLDERS = {"/run/secrets": "secrets", "/run/gpus": "gpus", "/mlartifacts": "mlartifacts", "/studies": "studies"}
OWNER = "postgres"
HEALTHY_WITHIN_SECONDS = 240


class Stack:
    """The services, with the ports and folders that replace their own; use it as a context."""

    def __init__(self) -> None:
        self.services, _ = read_compose()
        self.folder = Path(tempfile.mkdtemp(prefix="study-stack-"))
        self.folder.chmod(0o755)
        self.ports = {(name, port): find_free_port() for name in self.services for port in PORTS}
        self.container = os.environ.get("STUDY_CONTAINER")
        self.running: dict[str, subprocess.Popen[bytes]] = {}
        for name in (*FOLDERS.values(), "postgres"):
            (self.folder / name).mkdir()
        self.secrets = {name: os.urandom(16).hex() for name in ("ray_token", "postgres_password")}
        for name, secret in self.secrets.items():
            (self.folder / "secrets" / name).write_text(secret)
        if self.container:
            for path in (self.folder, *self.folder.rglob("*")):
                os.chown(path, 1000, 1000)
        # PostgreSQL refuses to run as root.
        self.owner = OWNER if os.geteuid() == 0 else None
        if self.owner:
            shutil.chown(self.folder / "postgres", self.owner)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for name in reversed(list(self.running)):
            self.stop(name)
        shutil.rmtree(self.folder, ignore_errors=True)

    def localize(self, text: str, name: str) -> str:
        """``text`` of the service ``name`` with this machine's addresses and folders."""

        def port(match: re.Match[str]) -> str:
            service, number = match[1], int(match[2])
            return f"127.0.0.1:{self.ports[service, number]}" if service else str(self.ports[name, number])

        text = re.sub(rf"(?:\b({'|'.join(self.services)}):)?\b({'|'.join(map(str, PORTS))})\b", port, text)
        for inside, local in FOLDERS.items():
            text = re.sub(rf"(?<![\w/]){inside}\b", str(self.folder / local), text)
        return text.replace("0.0.0.0", "127.0.0.1")

    def words(self, name: str, *arguments: str) -> list[str]:
        """The command of a service; ``arguments`` replace the file's ``command``, as with `compose run`."""
        service = self.services[name]
        if arguments:
            service = Service(name, {**service.values, "command": list(arguments)})
        words = [self.localize(word, name) for word in service.words]
        # Nodes on the same machine are distinguished by their ports, not by their address.
        return [*words, "--node-ip-address=127.0.0.1"] if name in ("ray-head", "worker") else words

    def environment(self, name: str) -> dict[str, str]:
        """The environment of a service."""
        values = {key: self.localize(value, name) for key, value in self.services[name].environment.items()}
        values |= {"WORKER_CPUS": "2", "GPU_LOCKS": str(self.folder / "gpus"), "HF_HUB_OFFLINE": "1"}
        # The default is every ten seconds, in which a small study ends.
        values["RAY_metrics_report_interval_ms"] = "500"
        if "RAY_JOIN_ARGS" in values:
            values["RAY_JOIN_ARGS"] += " --node-ip-address=127.0.0.1"
        return values

    def popen(self, words: Sequence[str], environment: Mapping[str, str], log: Path) -> subprocess.Popen[bytes]:
        """Start a program that finds our code, in the image or with this interpreter."""
        variables = {"RAY_USAGE_STATS_ENABLED": "0", "MLFLOW_DISABLE_TELEMETRY": "true", **environment}
        values = {key: value for key, value in os.environ.items() if not key.startswith(("RAY_", "MLFLOW_"))}
        values |= {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
        if self.container:
            options = [word for key, value in variables.items() for word in ("--env", f"{key}={value}")]
            options += ["--volume", f"{self.folder}:{self.folder}"]
            words = ["buildah", "run", "--isolation", "chroot", *options, self.container, "--", *words]
        with log.open("ab") as file:
            return subprocess.Popen(
                words, cwd=ROOT, env={**values, **variables}, stdout=file, stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL, start_new_session=True,
            )  # fmt: skip

    def log(self, name: str) -> str:
        """The output of a service so far."""
        return (self.folder / f"{name}.log").read_text(errors="replace")

    def start(self, name: str, *arguments: str) -> subprocess.Popen[bytes]:
        """Start a service once those that it depends on are healthy."""
        for needed in self.services[name].needs:
            if needed not in self.running:
                self.start(needed)
        for needed in self.services[name].needs:
            self.wait_until_healthy(needed)
        log = self.folder / f"{name}.log"
        if self.services[name].built:
            process = self.popen(self.words(name, *arguments), self.environment(name), log)
        else:
            process = self._start_postgres(log)
        self.running[name] = process
        return process

    def _start_postgres(self, log: Path) -> subprocess.Popen[bytes]:
        """Create the user and the database that the environment names, and serve, as the image's entrypoint does."""
        variables, data = self.environment("postgres"), self.folder / "postgres"
        user, password = variables["POSTGRES_USER"], Path(variables["POSTGRES_PASSWORD_FILE"]).read_text()
        port = str(self.ports["postgres", 5432])
        init = [postgres_program("initdb"), "--pgdata", str(data), "--username", user, "--auth", "scram-sha-256"]
        secret = data.with_name("password")
        secret.write_text(password)
        if self.owner:
            shutil.chown(secret, self.owner)
        subprocess.run([*init, f"--pwfile={secret}"], cwd="/", user=self.owner, check=True, capture_output=True)
        serve = [postgres_program("postgres"), "-D", str(data), "-p", port, "-c", "unix_socket_directories="]
        with log.open("ab") as file:
            process = subprocess.Popen(
                serve, cwd="/", user=self.owner, stdout=file, stderr=file, start_new_session=True
            )
        create = [postgres_program("createdb"), "-h", "127.0.0.1", "-p", port, "-U", user, variables["POSTGRES_DB"]]
        deadline = time.monotonic() + 30
        while subprocess.run(create, env={**os.environ, "PGPASSWORD": password}, capture_output=True).returncode:
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.2)
        return process

    def healthy(self, name: str) -> bool:
        """Whether the file's health check succeeds; its wget is replaced, because not every machine has it."""
        words = [self.localize(word, name) for word in self.services[name].health]
        if words[0] == "wget":
            try:
                with urllib.request.urlopen(words[-1], timeout=5) as answer:
                    return bool(answer.status == 200)
            except OSError:
                return False
        port = {"PGPORT": str(self.ports[name, 5432])}
        words[0] = postgres_program(words[0])
        return subprocess.run(words, env={**os.environ, **port}, capture_output=True, check=False).returncode == 0

    def wait_until_healthy(self, name: str) -> None:
        """Wait until a service is healthy, as `compose up` does before it starts others."""
        deadline = time.monotonic() + HEALTHY_WITHIN_SECONDS
        while not self.healthy(name):
            assert self.running[name].poll() is None, f"{name} ended: {self.log(name)}"
            assert time.monotonic() < deadline, f"{name} is not healthy: {self.log(name)}"
            time.sleep(0.5)

    def stop(self, name: str) -> None:
        """Stop a service as `compose stop` does, and kill its remaining processes."""
        process = self.running.pop(name)
        try:
            family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
        except psutil.NoSuchProcess:
            family = []
        # buildah does not pass signals on to what it runs.
        for member in [member for member in family if not member.name().startswith(("buildah", "exe"))][:1]:
            member.terminate()
        psutil.wait_procs(family[:1], timeout=30)
        for member in family:
            with contextlib.suppress(psutil.NoSuchProcess):
                member.kill()
        process.wait()
