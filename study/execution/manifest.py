"""Which study does a folder hold, who runs it, and may this space go on with it?

A study grows: axes and values may be added or left out, and only what is new is trained. What all of its cells have in
common may not change behind its back; that is a new study.
"""

from __future__ import annotations

import contextlib
import fcntl
import getpass
import importlib.metadata
import json
import os
import platform
import socket
import subprocess
import time
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from study.plan.cell_results import cell_results
from study.plan.plan import Plan, from_json, make_plan
from study.records import StudyFolder
from study.search.budget import accounts
from study.space.diagnostics import printable
from study.space.reader import Space

PACKAGES = (
    *("encoder-study", "torch", "transformers", "tokenizers", "datasets", "safetensors", "numpy", "pyarrow"),
    *("ray", "optuna", "mlflow"),
)


class StudyError(ValueError):
    """A study that cannot be run as asked; the message, on one line, says what to do."""

    def __init__(self, message: str) -> None:
        super().__init__(printable(message))


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How a study is run this time; ``again`` is the command that goes on with it."""

    address: str | None = None
    tracking_uri: str | None = None
    verbose: bool = False
    again: str = ""


def storage_folder(storage: str) -> Path:
    """The folder that ``--storage`` names, by path or ``file://`` URI, made if need be.

    Raises StudyError when it cannot be written to or is no file system's.
    """
    try:
        parts = urlsplit(storage)
        path = Path(unquote(parts.path) if parts.scheme else storage).expanduser().resolve()
    except (RuntimeError, ValueError) as error:  # nobody's home, links in a circle, a URI that is none
        raise StudyError(f"--storage {storage}: is no folder ({error})") from error
    if parts.scheme not in ("", "file"):
        raise StudyError(
            f"--storage {parts.scheme}://…: a study lives in a file system that all nodes share; "
            "mount the bucket, or give the path of a shared folder"
        )
    probe = path / f".writable.{os.getpid()}"
    try:
        path.mkdir(parents=True, exist_ok=True)
        probe.write_bytes(b"")
        probe.unlink()
    except OSError as error:
        raise StudyError(f"--storage {path}: cannot be written to ({error.strerror})") from error
    return path


def find_study(storage: Path, name: str, *, fresh: bool) -> StudyFolder:
    """The folder of the study ``name``: the newest of NAME, NAME.2, NAME.3, or, ``fresh``, the next.

    Raises StudyError for one that cannot be read.
    """
    number = 1
    try:
        while StudyFolder(_numbered(storage, name, number + 1)).manifest() is not None:
            number += 1
        newest = StudyFolder(_numbered(storage, name, number))
        return StudyFolder(_numbered(storage, name, number + 1)) if fresh and newest.manifest() is not None else newest
    except (OSError, ValueError) as error:
        raise StudyError(str(error)) from error


def _numbered(storage: Path, name: str, number: int) -> Path:
    return storage / (name if number == 1 else f"{name}.{number}")


def find_plan(folder: StudyFolder, space: Space) -> Plan:
    """The plan of ``space`` in ``folder``, with what its search has chosen so far.

    Raises StudyError when the study in the folder is another one: when what all of its cells have in common, or what
    the data or a model holds, has changed.
    """
    manifest, stored = folder.manifest(), folder.plan()
    old = from_json(stored) if manifest is not None and stored is not None else None
    plan = replace(make_plan(space, old.trials if old else ()), study=folder.path.name)
    if old is not None and manifest is not None:
        _check_growth(folder, space, manifest, old, plan)
    if space.searching:
        spent = accounts(space, plan, cell_results(folder, plan))
        plan = replace(plan, open=any(account.open for account in spent))
    return plan


def _check_growth(folder: StudyFolder, space: Space, manifest: Mapping[str, Any], old: Plan, plan: Plan) -> None:
    before, now = manifest["data"], _data(space)
    changes = [
        f"data.{key} was {_shown(before.get(key))} and is {_shown(now[key])}"
        for key in now
        if before.get(key) != now[key]
    ]
    for model, content in _models(space).items():
        if manifest["models"].get(model, content) != content:
            changes.append(f"the files of the model {model} have changed")
    for key in old.cells[0].settings if old.cells else ():
        held = {_key(cell.settings.get(key)) for cell in old.cells}
        if (wanted := _kept(space, plan, key, held)) is not None:
            changes.append(f"{key} was {_listed(held)} and is {wanted}")
    if changes:
        raise StudyError(
            f"the study in {folder.path} is another one: {'; '.join(changes)}. Values can be added beside the old "
            "ones; for a new study, give --set name=NAME, or start over in a new folder with --fresh"
        )


def _kept(space: Space, plan: Plan, key: str, held: set[str]) -> str | None:
    """None where ``space`` has one of the values that the study's cells ``held``, else what it has, in words."""
    if not space.searching:
        wanted = {_key(cell.settings.get(key)) for cell in plan.cells}
        return None if held & wanted else _listed(wanted)
    axis = next((axis for axis in space.axes if key in axis.values[0]), None)
    values = [value[key] for value in axis.values] if axis else [space.fixed[key]]
    wanted = {_key(value) for value in (*values, *(rule.set[key] for rule in space.when if key in rule.set))}
    if axis is not None and axis.range is not None:
        return None if any(json.loads(value) in axis.range for value in held) else str(axis.range)
    return None if held & wanted else _listed(wanted)


def _data(space: Space) -> dict[str, Any]:
    """What the data are, by content."""
    values = space.data.model_dump(mode="json")
    return {**values, "source": space.identities["data"], "examples": space.examples}


def _models(space: Space) -> dict[str, str]:
    """What each model is, by content."""
    return {model: content for model, content in space.identities.items() if model != "data"}


def _key(value: object) -> str:
    return json.dumps(value, sort_keys=True)


def _shown(value: object) -> str:
    return "none" if value is None else json.dumps(value) if isinstance(value, dict | list) else str(value)


def _listed(values: set[str]) -> str:
    return ", ".join(_shown(json.loads(value)) for value in sorted(values))


def describe(folder: StudyFolder, space: Space, plan: Plan, *, tracking_uri: str | None) -> None:
    """Write what the study is."""
    old = folder.manifest() or {}
    manifest = {
        "id": old.get("id", uuid.uuid4().hex),
        "name": plan.study,
        "created": old.get("created", time.time()),
        "versions": versions(),
        "git": git_state(),
        "data": _data(space),
        "models": {**old.get("models", {}), **_models(space)},
        "precision": old.get("precision"),
        "space": space.text,
        "tracking": tracking_uri,
    }
    folder.write(manifest=manifest, plan=plan.to_json(), space=space.text)


def remember_precision(folder: StudyFolder, precision: str) -> None:
    """Keep what ``precision: auto`` came to, so that all trajectories of the study, also later ones, use the same."""
    manifest, plan = folder.manifest(), folder.plan()
    assert manifest is not None
    assert plan is not None
    folder.write(manifest={**manifest, "precision": precision}, plan=plan, space=manifest["space"])


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that a result may depend on."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[package] = importlib.metadata.version(package)
    return found


def git_state() -> dict[str, Any] | None:
    """Commit of the code that runs, and whether the code differs from it; None outside a repository."""
    git = ["git", "-C", str(Path(__file__).parents[1])]
    try:
        commit = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True)
        status = subprocess.run([*git, "status", "--porcelain", "."], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return {"commit": commit.stdout.strip(), "dirty": bool(status.stdout.strip())}


@contextlib.contextmanager
def alone(folder: StudyFolder) -> Iterator[None]:
    """Be the only one who runs the study. Raises StudyError that says who does, and since when."""
    try:
        folder.path.mkdir(parents=True, exist_ok=True)
        opened = (folder.path / ".lock").open("a+")
    except OSError as error:
        raise StudyError(f"the study's folder {folder.path} cannot be written to ({error.strerror})") from error
    with opened as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            raise StudyError(f"the study in {folder.path} is being run {_holder(lock.read())}; wait for it") from None
        lock.seek(0)
        lock.truncate()
        json.dump({"user": getpass.getuser(), "host": socket.gethostname(), "pid": os.getpid(), "since": _now()}, lock)
        lock.flush()
        yield


def _holder(text: str) -> str:
    try:
        holder: Mapping[str, Any] = json.loads(text)
    except ValueError:
        return "by somebody else"
    return "by {user} on {host} (process {pid}) since {since}".format_map(holder)


def _now() -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S %Z")
