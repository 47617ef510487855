"""What should MLflow show of a study and of each of its cells?

Nothing here talks to MLflow. No text goes out with the credentials of its URLs.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

from study.plan.cell_results import CellResult, scores
from study.plan.plan import Plan, label
from study.records import Epoch, Interval, Record, Split, TrajectoryFolder
from study.stopping import best_epoch

INTERVAL_METRICS = {
    "train/loss": "train_loss",
    "train/gradient_norm": "gradient_norm",
    "train/learning_rate": "learning_rate",
}
EPOCH_METRICS = {
    "train/epoch": "epoch",
    "train/epoch_loss": "train_loss",
    "train/epoch_seconds": "train_seconds",
    "validation/loss": "validation_loss",
    "validation/accuracy": "validation_accuracy",
    "health/gradient_norm": "gradient_norm_mean",
    "health/gradient_norm_max": "gradient_norm_max",
    "health/update_ratio": "update_ratio",
    "health/majority_share": "majority_share",
    "health/entropy": "entropy",
    "health/confidence": "confidence",
    "health/logit_std": "logit_std",
    "health/non_finite_steps": "non_finite_steps",
}
CHOSEN_METRICS = {
    "test/loss": "test_loss",
    "test/accuracy": "test_accuracy",
    "chosen/epoch": "epoch",
    "chosen/validation_loss": "validation_loss",
    "chosen/validation_accuracy": "validation_accuracy",
}
STUDY_FILES = ("study.json", "space.yaml", "plan.json")
TRAJECTORY_FILES = ("config.json", "history.jsonl", "outcome.json")
SECRETS = "password|passwd|pwd|token|secret|key|sig|auth|credential"
RUN_STATUS = {"complete": "FINISHED", "failed": "FAILED"}

Unfinished = Literal["RUNNING", "KILLED"]  # what the runs are that have not ended


class Point(NamedTuple):
    """One value of a metric; ``step`` counts examples seen, ``time`` milliseconds since 1970."""

    key: str
    value: float
    time: int
    step: int


def without_credentials(text: str) -> str:
    """``text`` without the ``user:password@`` of its URLs and without passwords and tokens in their queries.

    A slash, a quotation mark and an @ cannot stand in a URL's password, but they do.
    """
    text = re.sub(r"(?<=://)([^/:@\s'\"]*:\S*|[^/\s'\"]*)@", "", text)
    return re.sub(rf"(?i)([?&;#][\w-]*(?:{SECRETS})[\w-]*=)[^&;\s'\"]+", r"\1***", text)


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Nested values as one level of text, keys joined by dots, without credentials."""
    result: dict[str, str] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            result |= flat(value, f"{prefix}{key}.")
        else:
            text = "none" if value is None else value if isinstance(value, str) else json.dumps(value)
            result[f"{prefix}{key}"] = without_credentials(text)
    return result


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What MLflow should hold of one run. ``files`` are artifacts, by artifact path."""

    status: str
    tags: Mapping[str, str]
    params: Mapping[str, str] = field(default_factory=dict)
    metrics: Sequence[Point] = ()
    files: Mapping[str, Path] = field(default_factory=dict)
    end: float | None = None


def of_study(
    manifest: Mapping[str, Any], plan: Plan, states: Sequence[str], *, folder: Path, unfinished: Unfinished
) -> Wanted:
    """What MLflow should hold of the whole, whose cells are in ``states``, in the plan's order."""
    counts = {f"cells.{state}": str(states.count(state)) for state in ("complete", "failed", "running", "planned")}
    status: str = unfinished
    if states.count("complete") == len(states) and not plan.open:
        status = "FINISHED"
    elif "failed" in states and (unfinished == "KILLED" or not {"running", "planned"} & set(states)):
        status = "FAILED"
    told = flat({key: value for key, value in manifest.items() if key not in ("space", "tracking")})
    if "git.commit" in told:
        told["mlflow.source.git.commit"] = told["git.commit"]  # MLflow's UI shows it as the version
    return Wanted(
        status=status,
        tags={"axes": ", ".join(plan.axes), "cells": str(len(states)), **counts, **told},
        files={f"study/{name}": folder / name for name in STUDY_FILES} | _report(folder),
    )


def of_cell(
    result: CellResult,
    *,
    state: str,
    history: Sequence[Record],
    folder: TrajectoryFolder,
    held: Mapping[str, str],
    trial: int | None,
    unfinished: Unfinished,
) -> Wanted:
    """What MLflow should hold of a cell; of its metrics, those that the run with the tags ``held`` lacks.

    ``trial`` is the number of the search's trial that chose it.
    """
    cell, outcome = result.cell, result.outcome
    until = result.last.examples_seen if state == "complete" and result.last else math.inf
    records = [record for record in history if record.examples_seen <= until]
    tags = {
        "trajectory": cell.trajectory,
        "trained_by": result.trained_by,
        "derived": str(result.trained_by != cell.id).lower(),
        "status": state,
        "stop_reason": result.stop_reason or "none",
        "chosen_epoch": str(result.chosen.epoch) if result.chosen else "none",
        "records": str(len(records)),
    }
    if trial is not None:
        tags["trial"] = str(trial)
    if outcome is not None:
        tags |= {"precision": outcome.precision, "device": outcome.device}
    tags["error"] = (outcome.error if outcome is not None else None) or ""
    metrics = [point for record in records[int(held.get("records", 0)) :] for point in points(record)]
    if (held.get("status"), held.get("stop_reason")) != ("complete", tags["stop_reason"]):
        metrics += final_points(result, [record for record in history if isinstance(record, Epoch)])
    params = flat(cell.settings)
    if isinstance(stopping := cell.settings.get("early_stopping"), Mapping):
        params["early_stopping"] = label("early_stopping", stopping)
    return Wanted(
        status=RUN_STATUS.get(state, unfinished),
        tags={key: without_credentials(value) for key, value in tags.items() if value or key in held},
        params=params,
        metrics=metrics,
        files=_files_of_cell(result, folder),
        end=records[-1].time if records else None,
    )


def points(record: Record) -> list[Point]:
    """What MLflow is told of one record, against examples seen."""
    return _metrics(record, INTERVAL_METRICS if isinstance(record, Interval) else EPOCH_METRICS)


def final_points(result: CellResult, epochs: Sequence[Epoch]) -> list[Point]:
    """The scores of a complete cell's chosen checkpoint, and the best on validation, each where it was reached."""
    if result.state != "complete" or result.last is None or result.chosen is None:
        return []
    history = scores(epochs[: result.last.epoch])
    metrics = _metrics(result.chosen, CHOSEN_METRICS)
    for metric in ("loss", "accuracy"):
        if best := best_epoch(history, metric):
            metrics += _metrics(epochs[best - 1], {f"best/validation_{metric}": f"validation_{metric}"})
    return metrics


def _metrics(record: Record, names: Mapping[str, str]) -> list[Point]:
    values = {key: getattr(record, name) for key, name in names.items()}
    return [
        Point(key, float(value), milliseconds(record.time), record.examples_seen)
        for key, value in values.items()
        if value is not None
    ]


def milliseconds(time: float) -> int:
    """Seconds as MLflow counts time."""
    return round(1000 * time)


def _files_of_cell(result: CellResult, folder: TrajectoryFolder) -> dict[str, Path]:
    """The predictions of a complete cell's chosen checkpoint; the owner keeps the ended trajectory's records too."""
    files: dict[str, Path] = {}
    if result.state == "complete" and result.chosen is not None:
        splits: tuple[Split, ...] = ("validation", "test")
        files = {
            f"predictions/{split}.parquet": folder.predictions_path(result.chosen.epoch, split) for split in splits
        }
    if result.outcome is not None and result.trained_by == result.cell.id:
        files |= {f"trajectory/{name}": folder.path / name for name in TRAJECTORY_FILES}
        for path in folder.path.glob("predictions/*.parquet"):
            files[f"trajectory/predictions/{path.name}"] = path
    return {name: path for name, path in files.items() if path.exists()}


def _report(folder: Path) -> dict[str, Path]:
    """The report on the study, where one was written."""
    names = ["report.html", "report.md", *(f"figures/{path.name}" for path in folder.glob("figures/*.svg"))]
    return {f"report/{name}": folder / name for name in sorted(names) if (folder / name).exists()}
