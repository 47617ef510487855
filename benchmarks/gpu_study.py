"""Seconds of a trajectory of ``paper.yaml`` on a GPU, from its parts, and of all 100 one after the other."""

from __future__ import annotations

import math
import tempfile
from pathlib import Path
from time import perf_counter

import torch

from benchmarks.contenders import WARM_UP_STEPS
from benchmarks.gpu_fast import make_work
from benchmarks.gpu_right import choose_backend
from benchmarks.sections import Place, Results
from benchmarks.workload import as_data, first_examples, make_model
from study.models.classifier import Classifier
from study.settings import Settings
from study.stopping import StoppingPolicy
from study.training import checkpoint
from study.training.evaluation import evaluate
from study.training.loop import FineTuning

# Of paper.yaml: the sizes of its splits, its epochs, and the trajectories of each batch size.
TRAIN, EVALUATED, EPOCHS, EACH = 40_000, 5_000, 5, 20
BATCH_SIZES = (16, 64, 256, 1024, 4096)
# Epochs that are the best so far by some metric, whose test split is evaluated too; checkpoints that are worth saving.
TESTED, SAVED = 4, 2


def trajectory(results: Results, place: Place) -> None:
    """One trajectory of each batch size: start, some steps, an evaluation, a checkpoint."""
    choose_backend(place)
    save = None
    for compiled in (True, False):
        total = 0.0
        for batch_size in place.size(BATCH_SIZES, BATCH_SIZES[:2]):
            seconds, note, save = _trajectory_seconds(place, batch_size, compiled=compiled, save=save)
            total += EACH * seconds
            label = f"a trajectory, batch {batch_size}{', compiled' if compiled else ''}"
            results.add(label, seconds, "s", note=note)
        results.add(f"all 100{', compiled' if compiled else ''}, one after the other", total / 60, "min")


def _trajectory_seconds(
    place: Place, batch_size: int, *, compiled: bool, save: float | None
) -> tuple[float, str, float]:
    """Seconds, its parts in words, and the seconds of a checkpoint, which are measured unless ``save`` gives them."""
    work = make_work(place, batch_size)
    steps = math.ceil(TRAIN / batch_size)
    measured = place.size({16: 500, 64: 150, 256: 40, 1024: 8, 4096: 2}[batch_size], 2)
    data = as_data(first_examples(work.texts, (WARM_UP_STEPS + measured) * work.batch_size), work.shape)
    settings = Settings(
        model="tiny-bert",  # only a required name: the model is passed to the loop
        epochs=1,
        batch_size=work.batch_size,
        compile=compiled,
        log_every_examples=WARM_UP_STEPS * work.batch_size,
    )
    started = perf_counter()
    torch.manual_seed(0)
    with place.device:
        hub = make_model(work.shape, max_length=work.texts.input_ids.shape[1], device=place.device)
    loop = FineTuning(
        Classifier(hub, data.special.inputs),
        data,
        settings,
        policies=[StoppingPolicy(max_epochs=1)],
        optimizer_steps=WARM_UP_STEPS + measured,
        device=place.device,
        precision="bfloat16",
    )
    run = loop.run()
    next(run)
    place.wait()
    start = perf_counter() - started
    loop.settings = settings.model_copy(update={"log_every_examples": 2_000})
    records = loop.run()
    started = perf_counter()
    while loop.step < loop.optimizer_steps:
        next(records)
    place.wait()
    step = (perf_counter() - started) / measured
    split = first_examples(work.texts, place.size(EVALUATED, 50))
    seconds = []
    for _ in range(2):
        started = perf_counter()
        evaluate(loop.model, split, device=place.device, precision="bfloat16")
        seconds.append(perf_counter() - started)
    if save is None:
        with tempfile.TemporaryDirectory() as folder:
            started = perf_counter()
            checkpoint.save(Path(folder), loop.state())
            save = perf_counter() - started
    whole = start + EPOCHS * steps * step + (EPOCHS + TESTED) * min(seconds) + SAVED * save
    note = (
        f"start {start:.1f}, step {1e3 * step:.2f} ms, evaluation {min(seconds):.2f}, checkpoint {save:.1f} s, "
        f"micro-batch {loop.micro_batch_size}"
    )
    return whole, note, save


SECTIONS = {"trajectory": trajectory}
