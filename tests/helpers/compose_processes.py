"""Runs the services of docker/compose.yaml as processes of this machine: its own commands, wired as it wires them.

What a container would have to itself is put elsewhere: names of services become 127.0.0.1, each service's ports become
free ones, mounted folders and secrets lie in one folder. PostgreSQL's image is stood in for by the server that is
installed. With STUDY_CONTAINER naming a container of buildah's, all of our services run in the image that it came from.
"""

import contextlib
import os
import re
import shutil
import socket
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
from servers import postgres_program

# The ports inside the containers.
PORTS = (5000, 5432, 6379, 8080, 8265, 52365)
# Where a container has what lies in the stack's folder here.
FOLDERS = {"/run/secrets": "secrets", "/run/gpus": "gpus", "/mlartifacts": "mlartifacts", "/studies": "studies"}
OWNER = "postgres"
HEALTHY_WITHIN_SECONDS = 240


def free_port() -> int:
    """A TCP port that nobody listened on a moment ago."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
    return port


class Stack:
    """The services, each with the ports and the folders that stand for its own; use it as a context."""

    def __init__(self) -> None:
        self.services, _ = read_compose()
        self.folder = Path(tempfile.mkdtemp(prefix="study-stack-"))
        self.folder.chmod(0o755)
        self.ports = {(name, port): free_port() for name in self.services for port in PORTS}
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
        # A server refuses to be root's.
        self.owner = OWNER if os.geteuid() == 0 else None
        if self.owner:
            shutil.chown(self.folder / "postgres", self.owner)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for name in reversed(list(self.running)):
            self.stop(name)
        shutil.rmtree(self.folder, ignore_errors=True)

    def place(self, text: str, name: str) -> str:
        """``text`` of the service ``name`` with this machine's addresses and folders."""

        def port(match: re.Match[str]) -> str:
            other, number = match[1], int(match[2])
            return f"127.0.0.1:{self.ports[other, number]}" if other else str(self.ports[name, number])

        text = re.sub(rf"(?:\b({'|'.join(self.services)}):)?\b({'|'.join(map(str, PORTS))})\b", port, text)
        for inside, here in FOLDERS.items():
            text = re.sub(rf"(?<![\w/]){inside}\b", str(self.folder / here), text)
        return text.replace("0.0.0.0", "127.0.0.1")

    def words(self, name: str, *arguments: str) -> list[str]:
        """The command of a service; ``arguments`` take the place of the file's ``command`` as `compose run` has it."""
        service = self.services[name]
        if arguments:
            service = Service(name, {**service.values, "command": list(arguments)})
        words = [self.place(word, name) for word in service.words]
        # Nodes of one machine tell each other apart by their ports, not by their address.
        return [*words, "--node-ip-address=127.0.0.1"] if name in ("ray-head", "worker") else words

    def environment(self, name: str) -> dict[str, str]:
        """What a service finds in its environment."""
        values = {key: self.place(value, name) for key, value in self.services[name].environment.items()}
        values |= {"WORKER_CPUS": "2", "GPU_LOCKS": str(self.folder / "gpus"), "HF_HUB_OFFLINE": "1"}
        # Metrics are exported every ten seconds otherwise, in which a small study has come to its end.
        values["RAY_metrics_report_interval_ms"] = "500"
        if "RAY_JOIN_ARGS" in values:
            values["RAY_JOIN_ARGS"] += " --node-ip-address=127.0.0.1"
        return values

    def popen(self, words: Sequence[str], environment: Mapping[str, str], log: Path) -> subprocess.Popen[bytes]:
        """Start a program with our code around it, be it in the image or beside this interpreter."""
        variables = {"RAY_USAGE_STATS_ENABLED": "0", "MLFLOW_DISABLE_TELEMETRY": "true", **environment}
        values = {key: value for key, value in os.environ.items() if not key.startswith(("RAY_", "MLFLOW_"))}
        values |= {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
        if self.container:
            given = [word for key, value in variables.items() for word in ("--env", f"{key}={value}")]
            mounted = ["--volume", f"{self.folder}:{self.folder}"]
            words = ["buildah", "run", "--isolation", "chroot", *given, *mounted, self.container, "--", *words]
        with log.open("ab") as file:
            return subprocess.Popen(
                words, cwd=ROOT, env={**values, **variables}, stdout=file, stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL, start_new_session=True,
            )  # fmt: skip

    def log(self, name: str) -> str:
        """What a service has printed."""
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
        """What the image's entrypoint does: make the user and the database that the environment names, and serve."""
        asked, data = self.environment("postgres"), self.folder / "postgres"
        user, password = asked["POSTGRES_USER"], Path(asked["POSTGRES_PASSWORD_FILE"]).read_text()
        port = str(self.ports["postgres", 5432])
        make = [postgres_program("initdb"), "--pgdata", str(data), "--username", user, "--auth", "scram-sha-256"]
        secret = data.with_name("password")
        secret.write_text(password)
        if self.owner:
            shutil.chown(secret, self.owner)
        subprocess.run([*make, f"--pwfile={secret}"], cwd="/", user=self.owner, check=True, capture_output=True)
        serve = [postgres_program("postgres"), "-D", str(data), "-p", port, "-c", "unix_socket_directories="]
        with log.open("ab") as file:
            process = subprocess.Popen(
                serve, cwd="/", user=self.owner, stdout=file, stderr=file, start_new_session=True
            )
        create = [postgres_program("createdb"), "-h", "127.0.0.1", "-p", port, "-U", user, asked["POSTGRES_DB"]]
        until = time.monotonic() + 30
        while subprocess.run(create, env={**os.environ, "PGPASSWORD": password}, capture_output=True).returncode:
            assert time.monotonic() < until, log.read_text()
            time.sleep(0.2)
        return process

    def healthy(self, name: str) -> bool:
        """Ask as the file's health check asks; a page is fetched without wget, which not every machine has."""
        words = [self.place(word, name) for word in self.services[name].health]
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
        """Wait as `compose up` does for a service that others depend on."""
        until = time.monotonic() + HEALTHY_WITHIN_SECONDS
        while not self.healthy(name):
            assert self.running[name].poll() is None, f"{name} ended: {self.log(name)}"
            assert time.monotonic() < until, f"{name} is not healthy: {self.log(name)}"
            time.sleep(0.5)

    def stop(self, name: str) -> None:
        """End a service as `compose stop` does, and whatever it left."""
        process = self.running.pop(name)
        try:
            family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
        except psutil.NoSuchProcess:
            family = []
        # buildah hands no signal on to what it runs.
        for member in [member for member in family if not member.name().startswith(("buildah", "exe"))][:1]:
            member.terminate()
        psutil.wait_procs(family[:1], timeout=30)
        for member in family:
            with contextlib.suppress(psutil.NoSuchProcess):
                member.kill()
        process.wait()
