"""What the command lines share: a tracking URI is checked and never quoted, and printing outlives its reader."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from places import ROOT

from study import command, sync
from study.cli import Parser, add_tracking_uri, python_command, shown_path

SECRET = "W0RD"


@pytest.mark.parametrize("uri", [f"me:{SECRET}@host:5000", f"http:/me:{SECRET}@host"])
def test_a_uri_without_a_scheme_is_refused_and_not_quoted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], uri: str
) -> None:
    for arguments, environment in ((["--tracking-uri", uri], ""), ([], uri)):
        monkeypatch.setenv("MLFLOW_TRACKING_URI", environment)
        with pytest.raises(SystemExit) as exit_:
            command.main(["--space", str(tmp_path / "none.yaml"), *arguments])
        assert exit_.value.code == 2
        printed = capsys.readouterr()
        assert "argument --tracking-uri: a URI with credentials needs a scheme, such as http://" in printed.err
        assert SECRET not in printed.out + printed.err


def test_the_environment_names_the_server_unless_the_option_does(monkeypatch: pytest.MonkeyPatch) -> None:
    def parsed(*arguments: str) -> str | None:
        parser = Parser()
        add_tracking_uri(parser)
        uri: str | None = parser.parse_args(arguments).tracking_uri
        return uri

    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert parsed() is None
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://server:5000")
    assert parsed() == "http://server:5000"
    assert parsed("--tracking-uri", "http://other:5000") == "http://other:5000"


@pytest.mark.parametrize("main", [command.main, sync.main])
def test_help_is_printed(main: object, capsys: pytest.CaptureFixture[str]) -> None:
    assert callable(main)
    with pytest.raises(SystemExit) as exit_:
        main(["--help"])
    assert exit_.value.code == 0
    assert "--tracking-uri URI" in capsys.readouterr().out


def test_a_reader_of_a_dry_run_may_stop_reading() -> None:
    """As ``head`` does; the command then ends without an error."""
    space = str(ROOT / "search_spaces" / "paper.yaml")
    command = [sys.executable, "-m", "study.run", "--space", space, "--dry-run"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == ""
    assert process.returncode == 0


def test_a_path_is_shown_from_the_current_folder_if_it_is_below_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert shown_path(tmp_path / "studies" / "a") == "studies/a"
    assert shown_path(tmp_path.parent) == str(tmp_path.parent)
    monkeypatch.setattr(sys, "executable", str(tmp_path / ".venv" / "bin" / "python"))
    assert python_command() == ".venv/bin/python"


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["doctor", "--help"], 0, "python -m study.doctor"),
        (["run", "--help"], 0, "75 the process that drives the study died"),
        (["sync", "--help"], 0, "python -m study.sync"),
        (["--help"], 0, "study run, study doctor, study sync"),
        ([], 2, "study run, study doctor, study sync"),
        (["docter"], 2, "study run, study doctor, study sync"),
    ],
)
def test_all_commands_can_be_had_under_one_name(arguments: list[str], code: int, words: str) -> None:
    done = subprocess.run([sys.executable, "-m", "study", *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stderr
    assert words in done.stdout + done.stderr
