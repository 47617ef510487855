"""A hub of one model, as an HTTP server of this machine: what the library asks it, and what it answers."""

import contextlib
import hashlib
import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

MODEL = "someone/small-bert"


class Hub(ThreadingHTTPServer):
    """Serves the files of ``folder`` as the newest ``commit`` of MODEL, and those of earlier ones.

    ``asked`` are the seconds since 1970 of all requests.
    """

    daemon_threads = True

    def __init__(self, folder: Path, commit: str) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.commits = {commit: folder}
        self.newest = commit
        self.asked: list[float] = []

    @property
    def environment(self) -> dict[str, str]:
        """Environment variables that make the library ask this hub."""
        return {
            "HF_ENDPOINT": f"http://127.0.0.1:{self.server_port}",
            "HF_HUB_OFFLINE": "0",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_DISABLE_XET": "1",
        }

    def push(self, folder: Path, commit: str) -> None:
        """Serve the files of ``folder`` as the newest commit."""
        self.commits[commit] = folder
        self.newest = commit


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Hub

    def do_GET(self) -> None:
        hub, parts = self.server, self.path.split("?")[0].strip("/").split("/")
        hub.asked.append(time.time())
        if parts[:2] == ["api", "models"]:
            files = [{"rfilename": path.name} for path in sorted(hub.commits[hub.newest].iterdir())]
            info = {"id": MODEL, "sha": hub.newest, "siblings": files}
            self._answer(json.dumps([] if "tree" in parts else info).encode())
        elif parts[2:3] == ["resolve"]:
            commit = hub.newest if parts[3] == "main" else parts[3]
            file = hub.commits[commit] / "/".join(parts[4:])
            self._answer(file.read_bytes() if file.is_file() else None, commit)
        else:
            self._answer(None)

    do_HEAD = do_GET

    def _answer(self, content: bytes | None, commit: str = "") -> None:
        self.send_response(404 if content is None else 200)
        if content is None:
            self.send_header("X-Error-Code", "EntryNotFound")
        self.send_header("X-Repo-Commit", commit)
        self.send_header("ETag", f'"{hashlib.sha1(content or b"").hexdigest()}"')
        self.send_header("Content-Length", str(len(content or b"")))
        self.end_headers()
        if content is not None and self.command == "GET":
            self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # the base class's name
        """Print nothing."""


@contextlib.contextmanager
def hub(folder: Path, commit: str) -> Iterator[Hub]:
    """A hub whose newest commit of MODEL has the files of ``folder``."""
    with Hub(folder, commit) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
