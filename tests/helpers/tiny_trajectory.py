"""A trajectory of seconds: three epochs of 120 short reviews, with dropout, each batch in three micro-batches."""

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from loop_builder import make_settings

from study.records import TrajectoryConfig
from study.settings import Data
from study.stopping import StoppingPolicy
from study.storage import TrajectoryFolder

EPOCHS, BATCH, STEPS_PER_EPOCH = 3, 24, 5
CLOCK = ("time", "train_seconds")
# 120 of them to train on.
REVIEWS = Data(source="builtin:reviews", examples=150, max_length=16)


def plan(
    folder: Path,
    encoded: Mapping[str, Path],
    family: str,
    *,
    every_minutes: float = 5.0,
    checkpoint_metric: str = "loss",
    keep_best_weights: bool = True,
) -> Path:
    """Write to ``folder`` what is to be trained."""
    TrajectoryFolder(folder).write_config(
        TrajectoryConfig(
            name=family,
            settings=make_settings(
                model=family,
                epochs=EPOCHS,
                dropout=0.1,
                batch_size=BATCH,
                micro_batch_size=10,
                lr_schedule="linear",
                warmup_fraction=0.2,
                log_every_examples=48,
                max_gradient_norm=1.0,
            ),
            encoded=str(encoded[family]),
            policies=(StoppingPolicy(max_epochs=EPOCHS, checkpoint_metric=checkpoint_metric),),
            optimizer_steps=EPOCHS * STEPS_PER_EPOCH,
            precision="float32",
            checkpoint_every_minutes=every_minutes,
            keep_best_weights=keep_best_weights,
        )
    )
    return folder


def without_clock(values: dict[str, Any]) -> str:
    return json.dumps({key: value for key, value in values.items() if key not in CLOCK}, sort_keys=True)


def result(path: Path) -> dict[str, Any]:
    """Everything that a trajectory leaves in its folder, except times."""
    folder = TrajectoryFolder(path)
    outcome = folder.outcome()
    assert outcome is not None
    # Recorded epochs stay as they are, their times included.
    assert outcome.train_seconds == sum(epoch.train_seconds for epoch in folder.epochs())
    files = [*path.glob("predictions/*.parquet"), *path.glob("best-model/*.safetensors")]
    return {
        "outcome": without_clock(asdict(outcome)),
        "history": [without_clock(asdict(record)) for record in folder.history()],
        "files": {str(file.relative_to(path)): file.read_bytes() for file in files},
        "folder": {item.name for item in path.iterdir()},
    }
