"""Models of the hub: asked for once per study, and the same files for all trajectories."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from hub import MODEL, hub
from model_folders import write_model
from places import ROOT
from study_process import Study

FIRST, SECOND = "a" * 40, "b" * 40
LOAD = f"""
import sys
from study.models.classifier import load_classifier
from study.models.loading import hub_commit
from study.models.tokenizer import SpecialTokens
special = SpecialTokens(pad=0, vocabulary=12)
model = load_classifier("{MODEL}", classes=2, special=special, max_length=16, dropout=None, commit=sys.argv[1] or None)
print(hub_commit("{MODEL}"), model.model.config.num_hidden_layers)
"""


def test_trajectories_load_what_the_study_found_when_it_started_and_ask_the_hub_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_model(tmp_path / "model", "bert")
    study = Study(tmp_path / "study")
    study.space["axes"] = {"model": [MODEL], "seed": [0, 1, 2]}
    study.space["fixed"]["epochs"] = 1
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    with hub(tmp_path / "model", FIRST) as server:
        for name, value in server.environment.items():
            monkeypatch.setenv(name, value)
        process = study.start()
        output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    folders = [study.results().trajectory(trajectory.id) for trajectory in study.plan().trajectories]
    assert len(folders) == 3
    for folder in folders:
        config, outcome = folder.config(), folder.outcome()
        assert config is not None
        assert config.commit == FIRST
        assert outcome is not None
        assert outcome.status == "complete"
        assert server.asked
        assert max(server.asked) < folder.record_files[0].stat().st_mtime


def test_a_commit_is_loaded_though_the_hub_has_a_newer_one_and_is_not_asked(tmp_path: Path) -> None:
    """As by a worker that starts a trajectory after the model's authors have pushed another model."""
    for name in ("first", "second"):
        write_model(tmp_path / name, "bert")
    config = tmp_path / "second" / "config.json"
    config.write_text(config.read_text().replace('"num_hidden_layers": 2', '"num_hidden_layers": 1'))
    with hub(tmp_path / "first", FIRST) as server:
        environment = {**os.environ, **server.environment, "HF_HOME": str(tmp_path / "home")}

        def load(commit: str) -> str:
            command = [sys.executable, "-c", LOAD, commit]
            done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
            return done.stdout.strip()

        assert load("") == f"{FIRST} 2"
        server.push(tmp_path / "second", SECOND)
        server.asked.clear()
        assert load(FIRST) == f"{FIRST} 2"
        assert server.asked == []
        assert load("") == f"{SECOND} 1"
        assert load(FIRST).endswith(" 2")
