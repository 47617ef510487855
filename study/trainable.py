"""How does one trajectory run, be it under Ray Tune or in a plain Python process?

A trajectory is known by its folder alone: what it trains stands there, and so does how far it came. Calling it again
goes on from its newest checkpoint, and does nothing once it has ended.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from study import checkpoint
from study.cells import scores
from study.data import EncodedData, open_encoded
from study.devices import choose_precision, device_name, find_device, set_tf32
from study.finetune import EpochEnd, FineTuning, State
from study.models import load_classifier
from study.records import Epoch, Outcome, Record, TrajectoryFolder, from_values
from study.settings import Settings
from study.stopping import Policy, best_epoch

Report = Callable[[dict[str, Any]], None]


def train_trajectory(
    folder: TrajectoryFolder, *, cpu_threads: int, report: Report, stop_file: Path | None = None
) -> Outcome | None:
    """Train what ``folder``'s config says until it ends, and return how.

    ``report`` is called after each epoch with its numbers. Where ``stop_file`` appears, training is saved and left to a
    later call, and None returned. Raises ValueError when the model cannot be loaded; whatever
    else is raised leaves a folder that a later call goes on from.
    """
    config = folder.config()
    assert config is not None, f"{folder.path} was never planned"
    outcome = folder.outcome()
    if outcome is not None and outcome.status == "complete":
        return outcome
    torch.set_num_threads(cpu_threads)
    settings = Settings(**config["settings"])
    if stop_file is not None and stop_file.exists():
        return None
    data = open_encoded(Path(config["encoded"]))
    loop = make_loop(settings, data, config)
    history: list[Record] = []
    saved = checkpoint.load_newest(folder.path / "checkpoints")
    if saved is not None:
        loop.load(saved)
        history = [from_values(values) for values in saved.values["history"]]
        folder.append(history)
    last_saved = time.monotonic()
    for item in loop.run():
        stopping = stop_file is not None and stop_file.exists()
        history.append(item.record if isinstance(item, EpochEnd) else item)
        if isinstance(item, EpochEnd):
            for split, predictions in item.predictions.items():
                folder.write_predictions(item.record.epoch, split, predictions)
            if config["keep_best_weights"]:
                _keep_best(folder, loop, config["checkpoint_metric"])
        elif not stopping and time.monotonic() - last_saved < 60 * config["checkpoint_every_minutes"]:
            continue
        checkpoint.save(folder.path / "checkpoints", _with_history(loop.state(), history))
        folder.append(history)
        last_saved = time.monotonic()
        if isinstance(item, EpochEnd):
            report(_progress(item.record))
        if stopping:
            return None
    outcome = Outcome(
        status="complete",
        stop_reason=loop.stop_reason,
        epochs=len(loop.epochs),
        train_seconds=sum(epoch.train_seconds for epoch in loop.epochs),
        device=device_name(loop.device),
        precision=loop.precision,
        micro_batch_size=loop.micro_batch_size,
    )
    folder.write_outcome(outcome)
    checkpoint.delete_all(folder.path / "checkpoints")
    return outcome


def make_loop(settings: Settings, data: EncodedData, config: Mapping[str, Any]) -> FineTuning:
    """The loop at its start, with every random number that it will draw decided by ``settings.seed``."""
    device = find_device()
    torch.manual_seed(settings.seed)
    set_tf32(settings.tf32)
    model = load_classifier(
        settings.model,
        classes=len(data.label_names),
        special=data.special,
        max_length=data.max_length,
        dropout=settings.dropout,
    )
    return FineTuning(
        model.to(device),
        data,
        settings,
        policies=[Policy(**policy) for policy in config["policies"]],
        optimizer_steps=config["optimizer_steps"],
        device=device,
        precision=choose_precision(settings.precision, device),
    )


def tune_trainable(config: dict[str, Any]) -> None:
    """What Ray Tune calls: ``config`` names the trajectory's folder and its number of CPU threads."""
    from ray import tune

    try:
        train_trajectory(
            TrajectoryFolder(Path(config["folder"])),
            cpu_threads=config["cpu_threads"],
            report=tune.report,
            stop_file=Path(config["stop_file"]),
        )
    finally:
        # Ray may use this process for the next trajectory: give back what this one held on the device.
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def _with_history(state: State, history: list[Record]) -> State:
    return State(tensors=state.tensors, values={**state.values, "history": [asdict(record) for record in history]})


def _keep_best(folder: TrajectoryFolder, loop: FineTuning, metric: Any) -> None:
    """Keep the weights as a folder that ``from_pretrained`` reads when this epoch is the best by ``metric``."""
    if best_epoch(scores(loop.epochs), metric) == len(loop.epochs):
        loop.model.model.save_pretrained(folder.path / "best-model")


def _progress(epoch: Epoch) -> dict[str, Any]:
    """What Tune and the live table are told of an epoch."""
    return {
        "epoch": epoch.epoch,
        "examples_seen": epoch.examples_seen,
        "train_loss": epoch.train_loss,
        "validation_loss": epoch.validation_loss,
        "validation_accuracy": epoch.validation_accuracy,
        "examples_per_second": epoch.examples_seen / epoch.epoch / max(epoch.train_seconds, 1e-9),
    }
