"""What MLflow should show of a study and of each of its cells.

Nothing here talks to MLflow. No text leaves with the credentials of its URLs.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

from study.credentials import without_credentials
from study.plan.cell_results import CellResult, CellState
from study.plan.labels import label
from study.plan.plan import Plan
from study.records import Epoch, Interval, Manifest, Record, Split, TrajectoryRecords
from study.scoring import METRICS
from study.stopping import best_epoch
from study.storage import StudyFolder, TrajectoryFolder

INTERVAL_METRICS = {
    "train/loss": "train_loss",
    "train/gradient_norm": "gradient_norm",
    "train/learning_rate": "learning_rate",
}
EPOCH_METRICS = {
    "train/epoch": "epoch",
    "train/epoch_loss": "train_loss",
    "train/epoch_seconds": "train_seconds",
    "health/gradient_norm": "gradient_norm_mean",
    "health/gradient_norm_max": "gradient_norm_max",
    "health/update_ratio": "update_ratio",
    "health/majority_share": "majority_share",
    "health/entropy": "entropy",
    "health/confidence": "confidence",
    "health/logit_std": "logit_std",
    "health/non_finite_steps": "non_finite_steps",
}
SPLITS: tuple[Split, ...] = ("validation", "test")
RUN_STATUS = {"complete": "FINISHED", "failed": "FAILED"}

Unfinished = Literal["RUNNING", "KILLED"]  # the status of runs that have not ended


class Point(NamedTuple):
    """One value of a metric; ``step`` counts examples seen, ``time`` milliseconds since 1970."""

    key: str
    value: float
    time: int
    step: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RunContents:
    """What MLflow should hold of one run. ``files`` are artifacts, by artifact path."""

    status: str
    tags: Mapping[str, str]
    params: Mapping[str, str] = field(default_factory=dict)
    metrics: Sequence[Point] = ()
    files: Mapping[str, Path] = field(default_factory=dict)
    end: float | None = None


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Nested values as one level of text, keys joined by dots, without credentials."""
    flat: dict[str, str] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            text = "none" if value is None else value if isinstance(value, str) else json.dumps(value)
            flat[f"{prefix}{key}"] = without_credentials(text)
    return flat


def study_contents(
    manifest: Manifest, plan: Plan, states: Sequence[CellState], *, folder: StudyFolder, unfinished: Unfinished
) -> RunContents:
    """What MLflow should hold of the study, whose cells are in ``states``, in the plan's order."""
    counts = {f"cells.{state}": str(states.count(state)) for state in ("complete", "failed", "running", "planned")}
    status: str = unfinished
    if states.count("complete") == len(states) and not plan.open:
        status = "FINISHED"
    elif "failed" in states and (unfinished == "KILLED" or not {"running", "planned"} & set(states)):
        status = "FAILED"
    tags = flatten({key: value for key, value in manifest.to_json().items() if key != "tracking"})
    if "git.commit" in tags:
        tags["mlflow.source.git.commit"] = tags["git.commit"]  # MLflow's UI shows it as the version
    reports = {f"report/{path.relative_to(folder.path)}": path for path in folder.report_files()}
    return RunContents(
        status=status,
        tags={"axes": ", ".join(plan.axes), "cells": str(len(states)), **counts, **tags},
        files={f"study/{path.name}": path for path in folder.description_files} | reports,
    )


def cell_contents(
    result: CellResult,
    *,
    records: TrajectoryRecords,
    folder: TrajectoryFolder,
    known_tags: Mapping[str, str],
    trial: int | None,
    unfinished: Unfinished,
) -> RunContents:
    """What MLflow should hold of a cell; of its metrics, those that the run with the tags ``known_tags`` lacks.

    ``trial`` is the number of the search's trial that chose it.
    """
    cell, outcome = result.cell, result.outcome
    until = result.last.examples_seen if result.state == "complete" and result.last else math.inf
    own = [record for record in records.history if record.examples_seen <= until]
    tags = {
        "trajectory": cell.trajectory,
        "trained_by": result.trained_by,
        "derived": str(result.derived).lower(),
        "status": result.state,
        "stop_reason": result.stop_reason or "none",
        "chosen_epoch": str(result.chosen.epoch) if result.chosen else "none",
        "records": str(len(own)),
    }
    if trial is not None:
        tags["trial"] = str(trial)
    if outcome is not None:
        # Of a trajectory that moved, all that it ran on: what follows a move may differ in its last bits.
        devices = dict.fromkeys([*(attempt.device for attempt in folder.attempts()), outcome.device])
        tags |= {"precision": outcome.precision, "device": ", then ".join(filter(None, devices))}
    tags["error"] = (outcome.error if outcome is not None else None) or ""
    metrics = [point for record in own[int(known_tags.get("records", 0)) :] for point in points(record)]
    if (known_tags.get("status"), known_tags.get("stop_reason")) != ("complete", tags["stop_reason"]):
        metrics += final_points(result, records.epochs)
    params = flatten(cell.settings.model_dump(mode="json"))
    if cell.settings.early_stopping is not None:
        params["early_stopping"] = label("early_stopping", cell.settings.early_stopping)
    return RunContents(
        status=RUN_STATUS.get(result.state, unfinished),
        tags={key: without_credentials(value) for key, value in tags.items() if value or key in known_tags},
        params=params,
        metrics=metrics,
        files=_cell_files(result, folder),
        end=own[-1].time if own else None,
    )


def points(record: Record) -> list[Point]:
    """The points of one record, against examples seen."""
    if isinstance(record, Interval):
        return _points(record, {key: getattr(record, name) for key, name in INTERVAL_METRICS.items()})
    values = {key: getattr(record, name) for key, name in EPOCH_METRICS.items()}
    return _points(record, values | {f"validation/{name}": score for name, score in record.validation.items()})


def final_points(result: CellResult, epochs: Sequence[Epoch]) -> list[Point]:
    """The scores of a complete cell's selected checkpoint, and the best on validation, each where it was reached."""
    chosen = result.chosen
    if result.state != "complete" or result.last is None or chosen is None:
        return []
    values = {f"test/{name}": score for name, score in (chosen.test or {}).items()}
    values |= {"chosen/epoch": chosen.epoch}
    values |= {f"chosen/validation_{name}": score for name, score in chosen.validation.items()}
    final = _points(chosen, values)
    history = [epoch.validation for epoch in epochs[: result.last.epoch]]
    for name in METRICS:
        if best := best_epoch(history, name):
            final += _points(epochs[best - 1], {f"best/validation_{name}": history[best - 1][name]})
    return final


def _points(record: Record, values: Mapping[str, float]) -> list[Point]:
    time, step = milliseconds(record.time), record.examples_seen
    return [Point(key, float(value), time, step) for key, value in values.items()]


def milliseconds(time: float) -> int:
    """Seconds as MLflow counts time."""
    return round(1000 * time)


def _cell_files(result: CellResult, folder: TrajectoryFolder) -> dict[str, Path]:
    """The predictions of a complete cell's selected checkpoint; for the owner, an ended trajectory's records too."""
    files: dict[str, Path] = {}
    if result.state == "complete" and result.chosen is not None:
        epoch = result.chosen.epoch
        files = {f"predictions/{split}.parquet": folder.predictions_path(epoch, split) for split in SPLITS}
    if result.outcome is not None and not result.derived:
        for path in (*folder.record_files, *folder.prediction_files()):
            files[f"trajectory/{path.relative_to(folder.path)}"] = path
    return {name: path for name, path in files.items() if path.exists()}
