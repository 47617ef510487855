"""What does bfloat16 cost in accuracy, beside what another seed changes?

The same trajectories in both precisions, seed by seed. Their difference comes with a t interval over the seeds.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

if not __package__:  # run as a file: the study.py beside this one must not be taken for the package
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import numpy as np
import torch
from scipy import stats

from benchmarks.alternation import table
from benchmarks.machine import describe
from study.data.dataset import EncodedData, open_encoded, prepare
from study.records import Epoch
from study.settings import Data, Settings
from study.stopping import Policy
from study.training.devices import Precision, find_device, keep_freed_memory
from study.training.trajectory import make_loop

PRECISIONS: tuple[Precision, ...] = ("float32", "bfloat16")


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(
        prog="python -m benchmarks.accuracy",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument("--data", default="builtin:reviews", metavar="FILE", help="(default: %(default)s)")
    made.add_argument("--examples", type=int, default=2_000, metavar="N", help="(default: %(default)s)")
    made.add_argument("--models", nargs="+", default=["tiny-bert", "tiny-roberta"], metavar="MODEL",
                      help="(default: tiny-bert tiny-roberta)")  # fmt: skip
    made.add_argument("--seeds", type=int, default=5, metavar="N", help="(default: %(default)s)")
    made.add_argument("--epochs", type=int, default=3, metavar="N", help="(default: %(default)s)")
    made.add_argument("--batch-size", type=int, default=16, metavar="N", help="(default: %(default)s)")
    made.add_argument("--learning-rate", type=float, default=5e-4, metavar="X", help="(default: %(default)s)")
    made.add_argument("--threads", type=int, default=os.cpu_count() or 1, metavar="N", help="(default: %(default)s)")
    return made


def last_epoch(settings: Settings, data: EncodedData, precision: Precision) -> Epoch:
    """The last epoch's record of one trajectory."""
    epochs = settings.epochs or 1
    steps = epochs * -(-len(data.train) // settings.batch_size)
    policies = [asdict(Policy(max_epochs=epochs))]
    loop = make_loop(settings, data, {"policies": policies, "optimizer_steps": steps, "precision": precision})
    for _ in loop.run():
        pass
    return loop.epochs[-1]


def difference(values: dict[Precision, list[float]]) -> str:
    """Mean of bfloat16 minus float32 over seeds, with its 95 % t interval, in points."""
    apart = 100 * (np.array(values["bfloat16"]) - np.array(values["float32"]))
    if len(apart) < 2:
        return f"{apart.mean():+.2f} (one seed: no interval)"
    half = float(stats.t.ppf(0.975, len(apart) - 1) * apart.std(ddof=1) / np.sqrt(len(apart)))
    return f"{apart.mean():+.2f} ({apart.mean() - half:+.2f} to {apart.mean() + half:+.2f})"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line."""
    given = parser().parse_args(arguments)
    keep_freed_memory()
    torch.set_num_threads(given.threads)
    print(f"{describe(find_device())}; {given.examples:,} examples, {given.epochs} epochs", flush=True)
    rows = []
    with tempfile.TemporaryDirectory() as cache:
        for model in given.models:
            folder = prepare(
                Data(source=given.data),
                identity=given.data,
                examples=given.examples,
                model=model,
                model_identity=model,
                cache=Path(cache),
            )
            data = open_encoded(folder)
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
                    accuracy[precision].append(last_epoch(settings, data, precision).validation_accuracy)
            spreads = [
                f"{np.mean(accuracy[p]):.3f} ({min(accuracy[p]):.3f} to {max(accuracy[p]):.3f})" for p in PRECISIONS
            ]
            rows.append([model, str(given.seeds), *spreads, difference(accuracy)])
    head = ["model", "seeds", "float32 (lowest to highest)", "bfloat16", "difference in points (95 %)"]
    print(f"\nvalidation accuracy after the last epoch\n\n{table(head, rows)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
