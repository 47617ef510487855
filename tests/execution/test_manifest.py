"""The manifest of a study over its starts, and what it says of the code."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

from places import ROOT
from space_files import SMALL, write_reviews, write_space, write_unloadable_model

from study import __version__
from study.execution.manifest import data_content, remember_precision, write_study
from study.plan.plan import make_plan
from study.space.reader import read
from study.storage import StudyFolder


def test_a_manifest_identifies_data_and_models_by_their_content(tmp_path: Path) -> None:
    model, data = write_unloadable_model(tmp_path / "mine"), write_reviews(tmp_path / "reviews.csv", rows=200)
    space = read(write_space(tmp_path, SMALL.replace("tiny-roberta", "mine")), data=str(data))
    folder = StudyFolder(tmp_path / "study")
    manifest = write_study(folder, space, make_plan(space), tracking_uri="http://host:5000")
    assert folder.manifest() == manifest
    assert manifest.models == {"tiny-bert": "tiny-bert", str(model): space.identities[str(model)]}
    assert manifest.data == data_content(space)
    assert manifest.data["source"].startswith("sha256:")
    assert manifest.data["examples"] == 200
    assert (manifest.name, manifest.tracking) == ("small", "http://host:5000")
    assert manifest.versions["encoder-study"] == __version__
    assert {"python", "torch", "ray"} <= manifest.versions.keys()
    assert folder.space_file.read_text() == space.text


def test_a_second_start_keeps_what_the_first_has_measured(tmp_path: Path) -> None:
    """And the identities of models that are no longer in the space, whose trajectories may return."""
    folder = StudyFolder(tmp_path / "study")
    space = read(write_space(tmp_path, SMALL))
    first = write_study(folder, space, make_plan(space), tracking_uri=None)
    assert first.precision is None
    remember_precision(folder, "bfloat16")
    space = read(write_space(tmp_path, SMALL), only=["model=tiny-bert"])
    second = write_study(folder, space, make_plan(space), tracking_uri="sqlite:///x")
    assert (second.id, second.created, second.precision) == (first.id, first.created, "bfloat16")
    assert second.models == first.models
    assert second.tracking == "sqlite:///x"
    other = write_study(StudyFolder(tmp_path / "other"), space, make_plan(space), tracking_uri=None)
    assert other.id != first.id


def git_state(folder: Path) -> dict[str, object] | None:
    """The state of the copy of the code in ``folder``, by that code itself."""
    code = "import json; from study.execution.manifest import git_state; print(json.dumps(git_state()))"
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=True)
    state: dict[str, object] | None = json.loads(done.stdout)
    return state


def test_a_change_anywhere_in_the_code_makes_it_dirty(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "study", tmp_path / "study", ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / ".gitignore").write_text("__pycache__\n")
    assert git_state(tmp_path) is None

    def git(*arguments: str) -> str:
        options = ("-c", "user.name=me", "-c", "user.email=me@host", "-c", "commit.gpgsign=false")
        command = ["git", "-C", str(tmp_path), *options, *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    git("init", "--quiet")
    git("add", ".")
    git("commit", "--quiet", "--message", "code")
    commit = git("rev-parse", "HEAD")
    (tmp_path / "notes.txt").write_text("not code")
    assert git_state(tmp_path) == {"commit": commit, "dirty": False}
    for name in ("scoring.py", "training/loop.py", "new.py"):
        with (tmp_path / "study" / name).open("a") as file:
            file.write("# changed\n")
        assert git_state(tmp_path) == {"commit": commit, "dirty": True}
        git("stash", "--include-untracked", "--quiet")
