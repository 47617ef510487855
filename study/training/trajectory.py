"""How does one trajectory run, be it under Ray Tune or in a plain Python process?

A trajectory is known by its folder alone: what it trains stands there, and so does how far it came. Calling it again
goes on from its newest checkpoint, and does nothing once it has ended.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from study.data.dataset import EncodedData, open_encoded
from study.models.classifier import load_classifier
from study.plan.cell_results import scores
from study.records import Epoch, Interval, Outcome, Record, TrajectoryFolder
from study.settings import Settings
from study.stopping import Metric, Policy, best_epoch, gain
from study.training import checkpoint
from study.training.devices import (
    Meter,
    choose_precision,
    device_name,
    find_device,
    give_back_memory,
    keep_freed_memory,
    set_tf32,
)
from study.training.loop import EpochEnd, FineTuning

Report = Callable[[dict[str, Any]], None]
Observe = Callable[[Record], None]

ASK_AGAIN_SECONDS = 0.2
WORST_SCORE = -1e6


def train_trajectory(
    folder: TrajectoryFolder,
    *,
    cpu_threads: int,
    report: Report,
    observe: Observe = lambda _: None,
    stop_file: Path | None = None,
) -> Outcome | None:
    """Train what ``folder``'s config says until it ends, and return how.

    ``report`` is called after each epoch with its numbers, ``observe`` with every record. Where ``stop_file`` appears,
    training is saved and left to a later call, and None returned. Its use of the accelerator is measured where it has
    one to itself. Raises ValueError when the model cannot be loaded; whatever else is raised leaves a folder that
    a later call goes on from.
    """
    while stop_file is None or not stop_file.exists():
        with folder.locked() as ours:
            if ours:
                return _train(folder, cpu_threads, report, observe, stop_file)
        time.sleep(ASK_AGAIN_SECONDS)
    return None


def _train(
    folder: TrajectoryFolder,
    cpu_threads: int,
    report: Report,
    observe: Observe,
    stop_file: Path | None,
) -> Outcome | None:
    config = folder.config()
    assert config is not None, f"{folder.path} was never planned"
    checkpoints = folder.path / "checkpoints"
    outcome = folder.outcome()
    if outcome is not None and outcome.status == "complete":
        checkpoint.delete_all(checkpoints)
        return outcome
    keep_freed_memory()
    torch.set_num_threads(cpu_threads)
    loop = make_loop(Settings(**config["settings"]), open_encoded(Path(config["encoded"])), config)
    saved = checkpoint.load_newest(checkpoints)
    if saved is not None:
        loop.load(saved)
    pace = checkpoint.Pace(every_minutes=config["checkpoint_every_minutes"])
    meter, alone = Meter(loop.device), config.get("gpus") == 1
    recorder = Recorder(folder, keep_best_by=config["checkpoint_metric"] if config["keep_best_weights"] else None)
    for item in loop.run():
        stopping = stop_file is not None and stop_file.exists()
        if alone:
            meter.sample()
        epoch = recorder.take(item, loop)
        observe(item if isinstance(item, Interval) else loop.epochs[-1])
        due = stopping or pace.due(epoch_ended=epoch is not None)
        if due or epoch is not None:
            recorder.flush()
        if due:
            pace.save(checkpoints, loop.state())
        if epoch is not None:
            report(_progress(epoch, config.get("objective", "accuracy")))
        if stopping:
            return None
    outcome = _outcome(loop, meter, gpus=config.get("gpus", 0.0))
    folder.write_outcome(outcome)
    checkpoint.delete_all(checkpoints)
    return outcome


class Recorder:
    """Brings what the loop yields into the trajectory's folder, each thing once.

    Records reach the disk before the checkpoint that follows them, so a run that goes on may come by epochs that are
    recorded already. Those stand, and the loop takes them for its own: they are equal but for the clock, or, where a
    device computes the same twice with different last bits, what has been seen and mirrored must not change.
    """

    def __init__(self, folder: TrajectoryFolder, *, keep_best_by: Metric | None) -> None:
        self.folder = folder
        self.keep_best_by = keep_best_by
        self.recorded = {epoch.epoch: epoch for epoch in folder.epochs()}
        self.pending: list[Record] = []

    def take(self, item: Interval | EpochEnd, loop: FineTuning) -> Epoch | None:
        """Keep a record until :meth:`flush`, predictions and best weights at once; returns the epoch that has ended."""
        if isinstance(item, Interval):
            self.pending.append(item)
            return None
        epoch = self.recorded.get(item.record.epoch)
        if epoch is not None:
            loop.epochs[-1] = epoch
        else:
            epoch = item.record
            for split, predictions in item.predictions.items():
                self.folder.write_predictions(epoch.epoch, split, predictions)
            self.pending.append(epoch)
        if self.keep_best_by and best_epoch(scores(loop.epochs), self.keep_best_by) == epoch.epoch:
            _keep_model(loop.model.model, loop.data, self.folder.path / "best-model")
        return epoch

    def flush(self) -> None:
        """Make the records that were taken durable."""
        self.folder.append(self.pending)
        self.pending.clear()


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
        # A study decides once what "auto" is, so that its trajectories never mix precisions.
        precision=config.get("precision") or choose_precision(settings.precision, device),
    )


def tune_trainable(config: dict[str, Any]) -> None:
    """What Ray Tune calls: ``config`` names the trajectory's folder and its number of CPU threads."""
    from ray import tune

    from study.tracking.prometheus import observed

    folder = TrajectoryFolder(Path(config["trajectory"]["folder"]))
    try:
        with observed(folder) as observer:
            train_trajectory(
                folder,
                cpu_threads=config["cpu_threads"],
                report=tune.report,
                observe=observer.take,
                stop_file=Path(config["stop_file"]),
            )
    finally:
        give_back_memory()  # Ray may keep this process for the next trajectory


def _keep_model(model: PreTrainedModel, data: EncodedData, folder: Path) -> None:
    """Keep the model with its tokenizer as a folder that ``from_pretrained`` reads, whole whenever it is there."""
    part = folder.with_name(f".{folder.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    model.config.id2label = dict(enumerate(data.label_names))
    model.config.label2id = {name: number for number, name in enumerate(data.label_names)}
    model.save_pretrained(part)
    shutil.copytree(data.tokenizer, part, dirs_exist_ok=True)
    shutil.rmtree(folder, ignore_errors=True)
    part.rename(folder)


def _outcome(loop: FineTuning, meter: Meter, *, gpus: float) -> Outcome:
    peak, whole = meter.memory_bytes()
    return Outcome(
        status="complete",
        stop_reason=loop.stop_reason,
        epochs=len(loop.epochs),
        train_seconds=sum(epoch.train_seconds for epoch in loop.epochs),
        device=device_name(loop.device),
        precision=loop.precision,
        micro_batch_size=loop.micro_batch_size,
        halved_at=tuple(loop.halved_at),
        peak_memory_bytes=peak,
        device_memory_bytes=whole,
        utilisation=meter.utilisation,
        gpus=gpus,
    )


def _progress(epoch: Epoch, metric: Metric) -> dict[str, Any]:
    """What Tune and the live table are told of an epoch."""
    return {
        "epoch": epoch.epoch,
        "examples_seen": epoch.examples_seen,
        "train_loss": epoch.train_loss,
        "validation_loss": epoch.validation_loss,
        "validation_accuracy": epoch.validation_accuracy,
        # What trial schedulers compare: more is better, and a number whatever became of the loss.
        "score": max(gain(scores([epoch])[0], metric), WORST_SCORE),
        "examples_per_second": epoch.examples_seen / epoch.epoch / max(epoch.train_seconds, 1e-9),
    }
