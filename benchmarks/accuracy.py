"""The accuracy of bfloat16 against float32, and the spread over seeds.

The same trajectories are trained in both precisions, seed by seed; their difference has a t interval over the seeds.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

if not __package__:  # run as a file: study.py in this folder must not be imported as the package
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import numpy as np
import torch
from scipy import stats

from benchmarks.alternation import table
from benchmarks.machine import describe
from study.data.dataset import open_encoded, prepare
from study.records import Epoch, Precision, TrajectoryConfig
from study.scoring import ACCURACY
from study.settings import Data, Settings
from study.stopping import StoppingPolicy
from study.training.devices import find_device, keep_freed_memory
from study.training.trajectory import make_loop

PRECISIONS: tuple[Precision, ...] = ("float32", "bfloat16")


def parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.accuracy",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--data", default="builtin:reviews", metavar="FILE", help="(default: %(default)s)")
    add("--examples", type=int, default=2_000, metavar="N", help="(default: %(default)s)")
    add("--models", nargs="+", default=["tiny-bert", "tiny-roberta"], metavar="MODEL",
        help="(default: tiny-bert tiny-roberta)")  # fmt: skip
    add("--seeds", type=int, default=5, metavar="N", help="(default: %(default)s)")
    add("--epochs", type=int, default=3, metavar="N", help="(default: %(default)s)")
    add("--batch-size", type=int, default=16, metavar="N", help="(default: %(default)s)")
    add("--learning-rate", type=float, default=5e-4, metavar="X", help="(default: %(default)s)")
    add("--threads", type=int, default=os.cpu_count() or 1, metavar="N", help="(default: %(default)s)")
    return parser


def last_epoch(settings: Settings, encoded: Path, precision: Precision) -> Epoch:
    """The record of the last epoch of one trajectory, trained on the encoded data in a folder."""
    epochs = settings.epochs or 1
    steps_per_epoch = -(-len(open_encoded(encoded).train) // settings.batch_size)
    loop = make_loop(
        TrajectoryConfig(
            name=settings.model,
            settings=settings,
            encoded=str(encoded),
            policies=(StoppingPolicy(max_epochs=epochs),),
            optimizer_steps=epochs * steps_per_epoch,
            precision=precision,
            gpus=float(find_device().type == "cuda"),
        )
    )
    for _ in loop.run():
        pass
    return loop.epochs[-1]


def difference(values: dict[Precision, list[float]]) -> str:
    """Mean of bfloat16 minus float32 over seeds, with its 95 % t interval, in percentage points."""
    points = 100 * (np.array(values["bfloat16"]) - np.array(values["float32"]))
    if len(points) < 2:
        return f"{points.mean():+.2f} (one seed: no interval)"
    half = float(stats.t.ppf(0.975, len(points) - 1) * points.std(ddof=1) / np.sqrt(len(points)))
    return f"{points.mean():+.2f} ({points.mean() - half:+.2f} to {points.mean() + half:+.2f})"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line."""
    given = parser().parse_args(arguments)
    keep_freed_memory()
    torch.set_num_threads(given.threads)
    print(f"{describe(find_device())}; {given.examples:,} examples, {given.epochs} epochs", flush=True)
    rows = []
    with tempfile.TemporaryDirectory() as cache:
        for model in given.models:
            encoded = prepare(
                Data(source=given.data),
                identity={"source": given.data, "examples": given.examples},
                model=model,
                model_identity=model,
                cache=Path(cache),
            )
            accuracy: dict[Precision, list[float]] = {precision: [] for precision in PRECISIONS}
            for seed in range(given.seeds):
                settings = Settings(
                    model=model,
                    epochs=given.epochs,
                    batch_size=given.batch_size,
                    learning_rate=given.learning_rate,
                    lr_schedule="linear",
                    seed=seed,
                )
                for precision in PRECISIONS:
                    epoch = last_epoch(settings, encoded, precision)
                    accuracy[precision].append(epoch.validation[ACCURACY.name])
            spreads = [
                f"{np.mean(accuracy[p]):.3f} ({min(accuracy[p]):.3f} to {max(accuracy[p]):.3f})" for p in PRECISIONS
            ]
            rows.append([model, str(given.seeds), *spreads, difference(accuracy)])
    head = ["model", "seeds", "float32 (lowest to highest)", "bfloat16", "difference in points (95 %)"]
    print(f"\nvalidation accuracy after the last epoch\n\n{table(head, rows)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
