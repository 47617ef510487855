"""An MLflow server and its PostgreSQL database, as processes of this machine."""

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import psutil
from ray_cluster import family, kill_processes, wait_until


def find_free_port() -> int:
    """A TCP port of this machine that nobody listened on a moment ago."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
    return port


def postgres_program(name: str) -> str:
    """A program of the newest PostgreSQL that is installed; Debian keeps them off the path."""
    programs = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"), key=lambda path: float(path.parts[4]))
    return str(programs[-1]) if programs else name


@contextlib.contextmanager
def postgres(log: Path, port: int) -> Iterator[str]:
    """A PostgreSQL server that writes ``log``; gives the URI of its database."""
    # PostgreSQL refuses to run as root, so root starts it as the package's own user. That user cannot read pytest's
    # temporary folders, which each session closes to all others.
    as_user = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"] if os.getuid() == 0 else []
    user = "postgres" if as_user else os.environ["USER"]
    with tempfile.TemporaryDirectory(prefix="study-postgres-") as temporary, log.open("wb") as output:
        folder = Path(temporary)
        if as_user:
            shutil.chown(folder, "postgres", "postgres")
        create = [*as_user, postgres_program("initdb"), "-D", str(folder), "-A", "trust", "-U", user, "--no-sync"]
        subprocess.run(create, check=True, capture_output=True, cwd="/")
        options = ["-p", str(port), "-k", str(folder), "-c", "listen_addresses=127.0.0.1", "-c", "fsync=off"]
        command = [*as_user, postgres_program("postgres"), "-D", str(folder), *options]
        process = subprocess.Popen(command, stdout=output, stderr=output, cwd="/", start_new_session=True)
        try:
            ready = [postgres_program("pg_isready"), "-h", "127.0.0.1", "-p", str(port), "-q"]
            wait_until(lambda: subprocess.run(ready).returncode == 0)
            yield f"postgresql+psycopg2://{user}@127.0.0.1:{port}/postgres"
        finally:
            process.terminate()
            process.wait()


class MlflowServer:
    """``mlflow server`` on this machine, with its artifacts in ``folder``; may be killed and started again."""

    starts_within_seconds = 90

    def __init__(self, folder: Path, port: int, *, store: str | None = None) -> None:
        self.folder = folder
        self.port = port
        self.uri = f"http://127.0.0.1:{port}"
        self.store = store or f"sqlite:///{folder / 'server.db'}"
        self.process: subprocess.Popen[bytes] | None = None

    def command(self) -> list[str]:
        """The command that starts it."""
        arguments = ["--backend-store-uri", self.store, "--artifacts-destination", str(self.folder / "artifacts")]
        return [sys.executable, "-m", "mlflow", "server", "--port", str(self.port), "--workers", "1", *arguments]

    def start(self) -> None:
        """Start it and wait until it answers."""
        with (self.folder / "server.log").open("ab") as log:
            self.process = subprocess.Popen(
                self.command(),
                stdout=log,
                stderr=log,
                cwd=self.folder,
                env={**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
                start_new_session=True,
            )
        wait_until(self.is_up, seconds=self.starts_within_seconds)

    def is_up(self) -> bool:
        """Whether it answers."""
        try:
            with urllib.request.urlopen(f"{self.uri}/health", timeout=2):
                return True
        except (urllib.error.URLError, OSError):
            return False

    def kill(self) -> None:
        """Kill it and its children, as a power cut would."""
        if self.process is not None:
            processes: list[psutil.Process] = family(self.process.pid)
            kill_processes(processes)
            self.process.wait()
            self.process = None
