"""Seconds of a trajectory of ``paper.yaml`` on a GPU, from its parts, and of all 100 one after the other."""

from __future__ import annotations

import math
import tempfile
from pathlib import Path
from time import monotonic, perf_counter

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
# Optimizer steps that are timed, of a second or more.
MEASURED_STEPS = {16: 500, 64: 150, 256: 40, 1024: 8, 4096: 2}
# Epochs that are the best so far by some metric, whose test split is evaluated too.
TESTED = 4


def trajectory(results: Results, place: Place) -> None:
    """One trajectory of each batch size: start, some steps, an evaluation, a checkpoint."""
    choose_backend(place)
    save = None
    sizes = place.size(BATCH_SIZES, BATCH_SIZES[:2])
    for compiled in (True, False):
        total, label = 0.0, ", compiled" if compiled else ""
        for batch_size in sizes:
            # A process compiles for a shape once.
            first = _start(place, batch_size, compiled=compiled)[1]
            seconds, note, save = _trajectory_seconds(place, batch_size, compiled=compiled, save=save)
            total += first + EACH * seconds
            note += f", {first:.1f} s before the first"
            results.add(f"a trajectory, batch {batch_size}{label}", seconds, "s", note=note)
        results.add(f"on average, one after the other{label}", total / EACH / len(sizes), "s")


def _start(place: Place, batch_size: int, *, compiled: bool) -> tuple[FineTuning, float]:
    """A loop after its warm-up steps, and how many seconds they took with all that comes before them."""
    work = make_work(place, batch_size)
    steps = WARM_UP_STEPS + place.size(MEASURED_STEPS[batch_size], 2)
    data = as_data(first_examples(work.texts, steps * work.batch_size), work.shape)
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
        optimizer_steps=steps,
        device=place.device,
        precision="bfloat16",
    )
    next(loop.run())
    place.wait()
    loop.settings = settings.model_copy(update={"log_every_examples": 2_000})
    return loop, perf_counter() - started


def _trajectory_seconds(
    place: Place, batch_size: int, *, compiled: bool, save: float | None
) -> tuple[float, str, float]:
    """Seconds, its parts in words, and the seconds of a checkpoint, which are measured unless ``save`` gives them."""
    loop, start = _start(place, batch_size, compiled=compiled)
    steps = math.ceil(TRAIN / batch_size)
    records = loop.run()
    started = perf_counter()
    while loop.step < loop.optimizer_steps:
        next(records)
    place.wait()
    step = (perf_counter() - started) / (loop.optimizer_steps - WARM_UP_STEPS)
    split = first_examples(loop.data.train, place.size(EVALUATED, 50))
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
    epoch = steps * step + (1 + TESTED / EPOCHS) * min(seconds)
    whole = start + EPOCHS * epoch + _saved(loop, epoch, save) * save
    note = (
        f"start {start:.1f}, step {1e3 * step:.2f} ms, evaluation {min(seconds):.2f}, checkpoint {save:.1f} s, "
        f"micro-batch {loop.micro_batch_size}"
    )
    return whole, note, save


def _saved(loop: FineTuning, epoch: float, save: float) -> int:
    """How many checkpoints are saved at the ends of epochs of so many seconds; there is time for none within one."""
    timer = checkpoint.CheckpointTimer(loop.state(), every_minutes=60)
    saved = 0
    for _ in range(EPOCHS):
        timer.saved -= epoch
        if timer.due(epoch_ended=True):
            saved += 1
            timer.saved, timer.cost = monotonic(), save
    return saved


SECTIONS = {"trajectory": trajectory}
