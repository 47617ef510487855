"""Invalid input is refused before a cluster is started, each error in a line that says where it is."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from bad_input import DATA, LONGEST_SECONDS, SMALL, check_lines
from bad_models import LOADED, SEEN, edit, own_code, then
from model_folders import TEXTS, write_model
from places import ROOT

from study.errors import SpaceError, StudyError
from study.models.classifier import load_classifier
from study.models.tokenizer import load_tokenizer
from study.space.reader import read
from study.storage import Storage

BROKEN_SPACES = ROOT / "tests" / "space" / "broken_spaces"
BROKEN = sorted(BROKEN_SPACES.glob("*.yaml"))
NAMES = ["../x", "a/b", ".", "..", "/x", "a\\b", "", "x" * 101, "a b", "-" * 101, "nul", "Com1.yaml", "x.", "ä", "x\n"]


@pytest.fixture
def small(tmp_path: Path) -> Path:
    path = tmp_path / "small.yaml"
    path.write_text(SMALL)
    return path


@pytest.fixture(scope="module")
def good_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model") / "good"
    write_model(folder, "bert")
    return folder


def read_errors(path: Path, **options: Any) -> str:
    """The errors of a space that cannot be read; asserts that each line says where its error is."""
    started = time.monotonic()
    with pytest.raises(SpaceError) as caught:
        read(path, **options)
    assert time.monotonic() - started < LONGEST_SECONDS
    check_lines(str(caught.value), path)
    return str(caught.value)


def test_there_are_over_two_hundred_different_broken_inputs() -> None:
    assert len({path.read_bytes() for path in BROKEN}) == len(BROKEN) >= 100
    assert len(DATA) >= 80
    assert len(SEEN) + len(LOADED) >= 60
    assert not SEEN.keys() & LOADED.keys()


@pytest.mark.parametrize("name", DATA)
def test_a_broken_data_file_is_refused(small: Path, tmp_path: Path, name: str) -> None:
    make, message = DATA[name]
    (tmp_path / "data").mkdir()
    assert re.search(message, read_errors(small, data=str(make(tmp_path / "data"))))


@pytest.mark.parametrize("name", SEEN)
def test_a_broken_model_folder_is_refused_while_the_space_is_read(
    small: Path, tmp_path: Path, good_model: Path, name: str
) -> None:
    break_, message = SEEN[name]
    folder = Path(shutil.copytree(good_model, tmp_path / "model"))
    break_(folder)
    assert re.search(message, read_errors(small, set=[f"model={folder}"]))
    assert not (folder / "was-run").exists()


def load(folder: Path) -> None:
    tokenizer = load_tokenizer(str(folder), max_length=16, texts=TEXTS)
    load_classifier(str(folder), classes=2, special=tokenizer.special, max_length=16, dropout=None)


@pytest.mark.parametrize("name", LOADED)
def test_a_model_folder_with_broken_content_is_refused_while_it_is_loaded(
    small: Path, tmp_path: Path, good_model: Path, name: str
) -> None:
    break_, message = LOADED[name]
    folder = Path(shutil.copytree(good_model, tmp_path / "model"))
    break_(folder)
    read(small, set=[f"model={folder}"])
    with pytest.raises(ValueError, match=message) as caught:
        load(folder)
    assert len(str(caught.value).splitlines()) == 1
    assert str(folder) in str(caught.value)
    assert not (folder / "was-run").exists()


def test_code_in_a_model_folder_is_not_run(tmp_path: Path, good_model: Path) -> None:
    folder = Path(shutil.copytree(good_model, tmp_path / "model"))
    code = {"AutoTokenizer": ["mine.Mine", None]}
    then(own_code, edit("tokenizer_config.json", tokenizer_class="Mine", auto_map=code))(folder)
    load(folder)
    assert not (folder / "was-run").exists()


def test_the_model_folder_that_the_broken_ones_are_made_from_is_accepted(small: Path, good_model: Path) -> None:
    read(small, set=[f"model={good_model}"])
    load(good_model)


@pytest.mark.parametrize("name", NAMES)
def test_a_name_that_cannot_be_a_folder_is_refused(small: Path, name: str) -> None:
    quoted = f"'{name}'" if "\n" not in name else '"x\\n"'
    assert re.match(
        r"--set name: invalid name '.*': (use letters, |it names a device)", read_errors(small, set=[f"name={quoted}"])
    )
    small.write_text(f"name: {quoted}\n{SMALL}")
    assert re.search(r":1:7: name: invalid name '.*': (use letters, |it names a device)", read_errors(small))
    assert {path.name for path in small.parent.iterdir()} == {small.name}


def test_a_space_that_is_not_a_readable_file_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.yaml")
    (tmp_path / "unreadable.yaml").symlink_to("/proc/self/mem")
    (tmp_path / "circle.yaml").symlink_to(tmp_path / "circle.yaml")
    (tmp_path / "huge.yaml").touch()
    os.truncate(tmp_path / "huge.yaml", 2**40)  # sparse: it takes no space on the disk
    expected = {
        "pipe": "is not a regular file",
        "unreadable": "cannot be read",
        "circle": "no such file",
        "huge": "has 1,099,511,627,776 bytes; the limit is",
    }
    for name, message in expected.items():
        assert message in read_errors(tmp_path / f"{name}.yaml")


@pytest.mark.parametrize(
    ("storage", "message"),
    [
        ("~unknown-user/studies", "not a folder"),
        ("http://[", "not a folder"),
        ("circle", "not a folder|cannot be written to"),
        ("s3://me:W0RD@bucket", "studies need a file system that all nodes share"),
        ("/proc/studies", "cannot be written to"),
    ],
)
def test_a_storage_that_cannot_be_a_folder_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, storage: str, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("circle").symlink_to("circle")
    with pytest.raises(StudyError, match=message) as caught:
        Storage.locate(storage).create()
    assert "W0RD" not in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b"\xff", b"5"])
def test_a_study_with_a_broken_manifest_is_refused_unless_a_new_one_is_started_beside_it(
    tmp_path: Path, content: bytes
) -> None:
    (tmp_path / "small").mkdir()
    (tmp_path / "small" / "study.json").write_bytes(content)
    with pytest.raises(StudyError, match=r"small/study\.json is not a JSON object"):
        Storage(tmp_path).study("small", fresh=False)
    assert Storage(tmp_path).study("small", fresh=True).path == tmp_path / "small.2"


HEAVY = ("torch", "transformers", "ray", "mlflow")


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the command in a process of its own, where Ray, once started, would create the folder ``ray``."""
    return subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "study.run", *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), "RAY_TMPDIR": str(folder / "ray"), "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        timeout=120,
    )


def assert_refused(done: subprocess.CompletedProcess[str], folder: Path) -> tuple[str, set[str]]:
    """Assert that nothing was started; returns the one line on stderr, and which heavy packages were imported."""
    lines = done.stderr.splitlines()
    imported = {line.rpartition("|")[2].strip() for line in lines if line.startswith("import time:")}
    rest = [line for line in lines if not line.startswith("import time:")]
    assert done.returncode == 2, rest
    assert len(rest) == 1, rest
    assert "Ray dashboard" not in done.stdout
    assert not (folder / "ray").exists()
    assert "study.plan.plan" in imported
    return rest[0], imported.intersection(HEAVY)


@pytest.mark.parametrize("name", ["python_tag", "name_with_slash"])
def test_the_command_refuses_a_broken_space(tmp_path: Path, name: str) -> None:
    path = BROKEN_SPACES / f"{name}.yaml"
    line, imported = assert_refused(run(tmp_path, "--space", str(path)), tmp_path)
    check_lines(line, path)
    assert not imported
    assert not list(tmp_path.iterdir())


def test_the_command_refuses_a_broken_data_file(small: Path, tmp_path: Path) -> None:
    make, message = DATA["jsonl: nulls"]
    line, imported = assert_refused(run(tmp_path, "--space", str(small), "--data", str(make(tmp_path))), tmp_path)
    assert re.search(message, line)
    assert not imported


@pytest.mark.parametrize("name", ["weights cut short", "config of a family with its own code"])
def test_the_command_refuses_broken_model_weights_before_ray_starts(
    small: Path, tmp_path: Path, good_model: Path, name: str
) -> None:
    break_, message = LOADED[name]
    folder = Path(shutil.copytree(good_model, tmp_path / "model"))
    break_(folder)
    words = tmp_path / "words.jsonl"
    lines = [{"text": f"{text} {number}", "label": number % 2} for number, text in enumerate(TEXTS * 10)]
    words.write_text("".join(json.dumps(line) + "\n" for line in lines))
    options = ("--set", f"model={folder}", "--data", str(words), "--set", "data.max_length=16")
    line, _ = assert_refused(run(tmp_path, "--space", str(small), *options), tmp_path)
    assert re.search(message, line)
    assert not list((tmp_path / "studies").rglob("study.json"))
    assert not (folder / "was-run").exists()
