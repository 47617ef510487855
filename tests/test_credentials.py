"""A password in a tracking URI reaches MLflow alone: neither the screen, nor a file, nor what MLflow stores."""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import pytest
from mlflow import MlflowClient
from places import ROOT

from study import command, sync
from study.credentials import without_credentials

# Part of every password here: it must be in no text, and in no file as text.
SECRET = "W0RD"
SPACE = """
data: {source: 'builtin:reviews', examples: 60, max_length: 8}
fixed: {model: tiny-bert, optimizer_steps: 2, batch_size: 8}
"""
URIS = [
    f"http://me:p%40ss-{SECRET}@host:5000",
    f"http://me:p@ss-{SECRET}@host:5000/mlflow",
    f"http://me:pa/ss-{SECRET}@host",
    f"http://me:it's-{SECRET}@host",
    f"https://{SECRET}@host",
    f"http://host/?password={SECRET}&token={SECRET}",
    f"http://host/?x=1&Access-Token=p%2F{SECRET}#key={SECRET}",
    f"postgresql+psycopg2://me:{SECRET}@host/db?sslpassword={SECRET}",
    f"mssql://host/db?UID=me;PWD={SECRET}",
]


@pytest.mark.parametrize("uri", URIS)
def test_text_that_quotes_a_uri_has_no_credentials(
    uri: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for text in (
        uri,
        f"cannot reach '{uri}' (no route)",
        f'{{"tracking": "{uri}",\n "x": 1}}',
        f"--tracking-uri={uri}",
    ):
        assert SECRET not in without_credentials(text)
    assert without_credentials(f'{{"tracking": "{uri}",\n "x": 1}}').endswith(',\n "x": 1}')
    monkeypatch.setattr(sys, "argv", ["run.py", "--space", "a.yaml", "--tracking-uri", uri, "--fresh"])
    assert SECRET not in command.resume_command()
    assert "--tracking-uri" in command.resume_command()
    for main in (command.main, sync.main):
        with pytest.raises(SystemExit) as exit_:
            main(["--traking-uri", uri])
        assert exit_.value.code == 2
    printed = capsys.readouterr()
    assert SECRET not in printed.out + printed.err


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("postgresql://me:p@ss@host/db?sslmode=require", "postgresql://host/db?sslmode=require"),
        ("http://host/x?access_token=abc&y=1", "http://host/x?access_token=***&y=1"),
        ("mail me@example.org about sqlite:////a/b.db", "mail me@example.org about sqlite:////a/b.db"),
    ],
)
def test_only_credentials_are_removed_from_text(text: str, shown: str) -> None:
    assert without_credentials(text) == shown


def test_the_command_line_on_rays_dashboard_has_no_credentials() -> None:
    """In a process of its own, whose title is changed for good."""
    code = (
        "import sys, psutil, ray; from study.execution import cluster; "
        "ray.init = lambda **_: print(*psutil.Process().cmdline()) or sys.exit(); cluster.connect(None, verbose=False)"
    )
    command = [sys.executable, "-c", code, "--tracking-uri", URIS[0]]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
    assert "--tracking-uri http://host:5000" in done.stdout
    assert SECRET not in done.stdout


@dataclass(frozen=True)
class FinishedStudy:
    """The folder in which a study was run, and everything that was printed."""

    folder: Path
    output: str


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> FinishedStudy:
    """A study whose server, given on the command line, is away, synced to a store that the environment names."""
    folder = tmp_path_factory.mktemp("finished")
    (folder / "space.yaml").write_text(SPACE)
    ray_files = Path(tempfile.mkdtemp(prefix="ray-"))  # a socket's path has to be short
    away = f"http://me:p%40ss-{SECRET}@127.0.0.1:9/?password={SECRET}&token={SECRET}"
    changes = {"PYTHONPATH": str(ROOT), "RAY_TMPDIR": str(ray_files), "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0"}
    try:
        done = subprocess.run(
            [sys.executable, "-m", "study.run", "--space", "space.yaml", "--tracking-uri", away],
            cwd=folder,
            env={**os.environ, **changes},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=240,
        )
        assert done.returncode == 0, done.stdout
        shutil.copytree(
            ray_files, folder / "ray", ignore=lambda _, names: [name for name in names if name == "sockets"]
        )
    finally:
        shutil.rmtree(ray_files)
    printed = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(printed):
        patch.chdir(folder)
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///file:{folder / 'store.db'}?uri=true&password={SECRET}")
        assert sync.main(["studies/space"]) == 0
    return FinishedStudy(folder, done.stdout + printed.getvalue())


def test_the_output_of_a_study_has_no_credentials(finished: FinishedStudy) -> None:
    assert "MLflow does not show everything yet: MlflowException: API request to http://127.0.0.1:9/" in finished.output
    assert "store.db?uri=true&password=***" in finished.output
    assert SECRET not in finished.output
    assert "Traceback" not in finished.output


def test_no_file_of_a_study_has_credentials(finished: FinishedStudy) -> None:
    files = [path for path in finished.folder.rglob("*") if path.is_file()]
    names = {path.name for path in files}
    assert {"study.json", "report.html", "report.md", "store.db", "history.jsonl", "raylet.out"} <= names
    assert not [path for path in files if SECRET.encode() in path.read_bytes()]


def test_mlflow_has_no_credentials(finished: FinishedStudy) -> None:
    client = MlflowClient(f"sqlite:///{finished.folder / 'store.db'}")
    experiment = client.get_experiment_by_name("space")
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id])
    assert len(runs) == 2
    assert all(run.data.tags for run in runs)
    assert SECRET not in str([run.to_dictionary() for run in runs])
    artifacts = [path for path in finished.folder.rglob("mlartifacts/**/*") if path.is_file()]
    assert {"study.json", "report.html", "config.json"} <= {path.name for path in artifacts}
