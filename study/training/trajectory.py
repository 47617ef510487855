"""Trains one trajectory, with or without Ray Tune.

A trajectory is known by its folder alone: what it trains is written there, and so is how far it came. Calling
:func:`train_trajectory` again resumes from its newest checkpoint, and does nothing once it has ended.
"""

from __future__ import annotations

import os
import platform
import shutil
import socket
import time
from collections.abc import Callable
from pathlib import Path

import torch

from study import __version__
from study.data.dataset import open_encoded
from study.locks import Lease
from study.models.classifier import Classifier, load_classifier
from study.records import Attempt, Epoch, Interval, Outcome, Record, TrajectoryConfig
from study.stopping import best_epoch
from study.storage import TrajectoryFolder, replacing
from study.training import checkpoint
from study.training.devices import (
    avoid_cudnn_attention,
    choose_precision,
    device_name,
    keep_freed_memory,
    memory_bytes,
    reset_peak_memory,
    set_tf32,
)
from study.training.loop import EpochEnd, FineTuning
from study.training.trajectory_device import hold_to_share, trajectory_device


def train_trajectory(
    folder: TrajectoryFolder,
    *,
    cpu_threads: int,
    report: Callable[[Epoch], None] = lambda _: None,
    observe: Callable[[Record], None] = lambda _: None,
    stop: Callable[[], bool] = lambda: False,
) -> Outcome | None:
    """Train what the config in ``folder`` says until it ends, and return how.

    ``report`` is called after each epoch, ``observe`` with every record. Where ``stop`` is true after one of them, a
    checkpoint is saved and None returned. Waits while another process trains the trajectory. Raises ValueError when the
    model cannot be loaded, and LockLostError, before it writes anything, where another process has taken over; after
    any other error, a later call resumes.
    """
    if stop():
        return None
    with folder.lock(give_up=stop) as lease:
        return None if lease is None else _train(folder, lease, cpu_threads, report, observe, stop)


def _train(
    folder: TrajectoryFolder,
    lease: Lease,
    cpu_threads: int,
    report: Callable[[Epoch], None],
    observe: Callable[[Record], None],
    stop: Callable[[], bool],
) -> Outcome | None:
    config = folder.config()
    assert config is not None, f"{folder.path} was never planned"
    outcome = folder.outcome()
    if outcome is not None and outcome.status == "complete":
        folder.delete_checkpoints()
        return outcome
    folder.renew_history()
    keep_freed_memory()
    torch.set_num_threads(cpu_threads)
    loop = make_loop(config)
    saved = checkpoint.load_newest(folder.checkpoints)
    if saved is not None:
        loop.load(saved)
    folder.append_attempt(_attempt(loop))
    timer = checkpoint.CheckpointTimer(loop.state(), every_minutes=config.checkpoint_every_minutes)
    recorder = Recorder(folder, keep_best_by=config.policies[0].checkpoint_metric if config.keep_best_weights else None)
    for item in loop.run():
        stopping = stop()
        if isinstance(item, EpochEnd):
            lease.check()
        epoch = recorder.record(item, loop)
        lease.progress += 1
        observe(item if isinstance(item, Interval) else loop.epochs[-1])
        due = stopping or timer.due(epoch_ended=epoch is not None)
        if due or epoch is not None:
            recorder.flush(lease)
        if due:
            lease.check()
            timer.save(folder.checkpoints, loop.state())
        if epoch is not None:
            report(epoch)
        if stopping:
            return None
    outcome = _outcome(loop, gpus=config.gpus)
    lease.check()
    folder.write_outcome(outcome)
    folder.delete_checkpoints()
    return outcome


class Recorder:
    """Writes what the loop yields into the trajectory's folder, each thing once.

    Records are written before the checkpoint that follows them, so a run that resumes may pass epochs that are recorded
    already. These stand, and the loop adopts them: they are equal but for the clock, or, where a device computes the
    same twice with different last bits, what has been seen and mirrored must not change.
    """

    def __init__(self, folder: TrajectoryFolder, *, keep_best_by: str | None) -> None:
        self.folder = folder
        self.keep_best_by = keep_best_by
        self.recorded = {epoch.epoch: epoch for epoch in folder.epochs()}
        self.pending: list[Record] = []

    def record(self, item: Interval | EpochEnd, loop: FineTuning) -> Epoch | None:
        """Keep a record until :meth:`flush`; write predictions and weights at once. Returns an epoch that ended."""
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
        if self.keep_best_by and best_epoch(loop.validation, self.keep_best_by) == epoch.epoch:
            save_model(loop.model, self.folder.best_model, names=loop.data.label_names, tokenizer=loop.data.tokenizer)
        return epoch

    def flush(self, lease: Lease) -> None:
        """Make the pending records durable. Raises LockLostError, and writes nothing, where the lease is lost."""
        self.folder.append(self.pending, check=lease.check)
        self.pending.clear()


def make_loop(config: TrajectoryConfig) -> FineTuning:
    """The loop at its start, with every random number that it will draw determined by the seed.

    Raises DeviceError where the trajectory has a GPU that cannot be used.
    """
    settings, data, device = config.settings, open_encoded(Path(config.encoded)), trajectory_device(config.gpus)
    hold_to_share(device, config.gpus)
    reset_peak_memory(device)
    torch.manual_seed(settings.seed)
    set_tf32(settings.tf32)
    avoid_cudnn_attention()
    model = load_classifier(
        settings.model,
        classes=len(data.label_names),
        special=data.special,
        max_length=data.max_length,
        dropout=settings.dropout,
        commit=config.commit,
    )
    return FineTuning(
        model.to(device),
        data,
        settings,
        policies=config.policies,
        optimizer_steps=config.optimizer_steps,
        device=device,
        # A study decides once what "auto" is, so that its trajectories never mix precisions.
        precision=config.precision or choose_precision(settings.precision, device),
    )


def save_model(classifier: Classifier, folder: Path, *, names: tuple[str, ...], tokenizer: Path) -> None:
    """Save a model with label names and tokenizer as a folder for ``from_pretrained``, whole whenever it is there."""
    model = classifier.model
    model.config.id2label = dict(enumerate(names))
    model.config.label2id = {name: number for number, name in enumerate(names)}
    with replacing(folder) as part:
        model.save_pretrained(part)
        shutil.copytree(tokenizer, part, dirs_exist_ok=True)


def _attempt(loop: FineTuning) -> Attempt:
    return Attempt(
        host=socket.gethostname(),
        pid=os.getpid(),
        device=device_name(loop.device),
        precision=loop.precision,
        versions={"encoder-study": __version__, "torch": torch.__version__, "python": platform.python_version()},
        epochs=len(loop.epochs),
        optimizer_step=loop.step,
        time=time.time(),
    )


def _outcome(loop: FineTuning, *, gpus: float) -> Outcome:
    peak, total = memory_bytes(loop.device)
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
        device_memory_bytes=total,
        gpus=gpus,
    )
