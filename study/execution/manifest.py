"""Writes what a study is: its content by hash, and the versions of everything that a result may depend on."""

from __future__ import annotations

import contextlib
import importlib.metadata
import platform
import subprocess
import time
import uuid
from dataclasses import replace
from pathlib import Path
from typing import Any

import study
from study.plan.plan import Plan
from study.records import Manifest, Precision
from study.space.space import Space
from study.storage import StudyFolder

PACKAGES = (
    *("encoder-study", "torch", "transformers", "tokenizers", "datasets", "safetensors", "numpy", "pyarrow"),
    *("ray", "optuna", "mlflow"),
)


def write_study(folder: StudyFolder, space: Space, plan: Plan, *, tracking_uri: str | None) -> Manifest:
    """Write space, plan and manifest of a study; what an earlier start has measured is kept. Returns the manifest."""
    old = folder.manifest()
    manifest = Manifest(
        id=old.id if old else uuid.uuid4().hex,
        name=plan.study,
        created=old.created if old else time.time(),
        versions=package_versions(),
        git=git_state(),
        data=data_content(space),
        models={**(old.models if old else {}), **space.identities},
        precision=old.precision if old else None,
        tracking=tracking_uri,
    )
    folder.write_space(space.text)
    folder.write_plan(plan.to_json())
    folder.write_manifest(manifest)  # with it, the folder is a study
    return manifest


def data_content(space: Space) -> dict[str, Any]:
    """The data settings, with the content's identity in place of the source."""
    return {**space.data.model_dump(mode="json"), "source": space.data_content, "examples": space.examples}


def remember_precision(folder: StudyFolder, precision: Precision) -> None:
    """Keep what ``precision: auto`` came to, so that all trajectories of the study, also later ones, use the same."""
    manifest = folder.manifest()
    assert manifest is not None
    folder.write_manifest(replace(manifest, precision=precision))


def package_versions() -> dict[str, str]:
    """Versions of Python and of the packages that a result may depend on."""
    versions = {"python": platform.python_version()}
    for package in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[package] = importlib.metadata.version(package)
    return versions


def git_state() -> dict[str, Any] | None:
    """Commit of the running code, and whether the code differs from it; None outside a repository."""
    git = ["git", "-C", str(Path(study.__file__).parent)]
    try:
        commit = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True)
        status = subprocess.run([*git, "status", "--porcelain", "."], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return {"commit": commit.stdout.strip(), "dirty": bool(status.stdout.strip())}
