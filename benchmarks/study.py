"""The overhead of a whole study over its training, and what it saves.

A space of tiny models in the shape of ``search_spaces/paper.yaml``, in three parts. ``overhead``: seconds per
trajectory that Ray, checkpoints and records add to a bare Python loop. ``derived``: cells that share a trajectory
against the same cells with a trajectory each, compared to the bit. ``cells``: cells per hour of ``python -m study.run``
against ``Trainer``, one cell after the other.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

if not __package__:  # run as a file: this file must not be imported as the package of its name
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import torch
import transformers

from benchmarks.alternation import table
from benchmarks.grid import bare_seconds, differing_cells, through_ray, training_seconds, without_sharing
from benchmarks.machine import describe
from benchmarks.serial import cell_seconds
from study.data.dataset import open_encoded
from study.execution.cluster import connect, disconnect
from study.execution.preparation import prepare_models
from study.plan.plan import Plan, make_plan
from study.records import Precision
from study.space.reader import read
from study.space.space import Space
from study.storage import StudyFolder
from study.training.devices import choose_precision, find_device, keep_freed_memory

ROOT = Path(__file__).resolve().parents[1]
PARTS = ("overhead", "derived", "cells")


def parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.study",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--parts", nargs="+", choices=PARTS, default=list(PARTS), help="(default: all)")
    add("--space", default="search_spaces/paper.yaml", metavar="FILE", help="(default: %(default)s)")
    add("--set", action="append", default=[], metavar="KEY=VALUE", help="override more of the space, as "
        "study.run does; may be repeated")  # fmt: skip
    add("--data", default="builtin:reviews", metavar="FILE", help="(default: %(default)s)")
    add("--examples", type=int, default=400, metavar="N", help="(default: %(default)s)")
    add("--models", nargs="+", default=["tiny-bert", "tiny-roberta"], metavar="MODEL",
        help="(default: tiny-bert tiny-roberta)")  # fmt: skip
    add("--peer-cells", type=int, metavar="N", help="let Trainer train only N cells, evenly spread, "
        "and use their mean for the others (default: all)")  # fmt: skip
    return parser


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    """The space that is measured, with its plan and its encoded data, in a folder of its own."""

    space: Space
    plan: Plan
    encoded: Mapping[str, Path]
    folder: Path
    precision: Precision
    command: Sequence[str]

    @property
    def cores(self) -> int:
        """CPU cores of this machine."""
        return os.cpu_count() or 1


def make_bench(given: argparse.Namespace, folder: Path) -> Bench:
    """Read and prepare the space of the command line."""
    overrides = [
        f"model=[{', '.join(given.models)}]",
        f"data.examples={given.examples}",
        "seed=0",
        "learning_rate=5e-4",
        f"run.gpu={int(find_device().type == 'cuda')}",
        *given.set,
    ]
    space = read(given.space, set=overrides, data=given.data)
    options = [part for text in overrides for part in ("--set", text)]
    command = ["--space", str(Path(given.space).resolve()), *options, "--data", given.data]
    return Bench(
        space=space,
        plan=make_plan(space),
        encoded=prepare_models(space, given.models, cache=folder / "encoded"),
        folder=folder,
        precision=choose_precision("auto", find_device()),
        command=command,
    )


def overhead(bench: Bench) -> str:
    """Seconds per trajectory outside training: one at a time, on all cores."""
    run = bench.space.run.model_copy(update={"cpu": bench.cores})
    study = StudyFolder(bench.folder / "overhead")
    end_times, total = through_ray(study, bench.space, bench.plan, bench.encoded, run, bench.precision)
    ids = [trajectory.id for trajectory in bench.plan.trajectories]
    training = {id_: training_seconds(study.trajectory(id_).history()) for id_ in ids}
    between = end_times.between_ends
    outside = sorted(seconds - training[id_] for id_, seconds in between.items())
    first = min(end_times.ended_at, key=end_times.ended_at.__getitem__)
    torch.set_num_threads(bench.cores)
    bare = 0.0
    for id_ in ids:
        config = study.trajectory(id_).config()
        assert config is not None
        bare += bare_seconds(config)
    rows = [
        ["trajectories, one at a time", f"{len(ids)}"],
        ["through Ray, including the start of the worker", f"{total:.1f} s"],
        ["of which training and evaluation, by the records", f"{sum(training.values()):.1f} s"],
        ["the same in a bare Python loop", f"{bare:.1f} s"],
        ["outside training, first trajectory", f"{total - sum(between.values()) - training[first]:.2f} s"],
        ["outside training, each later trajectory: median", f"{statistics.median(outside):.2f} s"],
        ["outside training, each later trajectory: lowest to highest", f"{outside[0]:.2f} to {outside[-1]:.2f} s"],
    ]
    return table(["", ""], rows)


def derived(bench: Bench) -> str:
    """Cells that share trajectories, and the same cells with one each: as many at a time as there are cores."""
    studies = {
        "shared": (StudyFolder(bench.folder / "shared"), bench.plan),
        "not shared": (StudyFolder(bench.folder / "not-shared"), without_sharing(bench.plan)),
    }
    rows, seconds = [], {}
    for name, (study, plan) in studies.items():
        _, seconds[name] = through_ray(study, bench.space, plan, bench.encoded, bench.space.run, bench.precision)
        training = sum(training_seconds(study.trajectory(item.id).history()) for item in plan.trajectories)
        rows.append(
            [name, f"{len(plan.cells)}", f"{len(plan.trajectories)}", f"{seconds[name]:.1f} s", f"{training:.1f} s"]
        )
    differing = differing_cells(*studies["shared"], *studies["not shared"])
    comparison = (
        f"these differ: {'; '.join(differing)}"
        if differing
        else "all equal to the bit: epochs, stop, selected checkpoint, predictions"
    )
    head = ["trajectories", "cells", "number", "through Ray", "training and evaluation, summed"]
    return f"{table(head, rows)}\n\nsaving: {seconds['not shared'] / seconds['shared']:.2f}x; cells: {comparison}"


def cells(bench: Bench, peer_cells: int | None) -> str:
    """Cells per hour of the whole command, and of ``Trainer`` with all cores, one cell after the other."""
    started = time.perf_counter()
    command = [sys.executable, "-m", "study.run", *bench.command, "--storage", str(bench.folder / "studies")]
    subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    total = time.perf_counter() - started
    number = len(bench.plan.cells)
    step = -(-number // peer_cells) if peer_cells else 1
    torch.set_num_threads(bench.cores)
    data = {model: open_encoded(folder) for model, folder in bench.encoded.items()}
    peer_seconds = [cell_seconds(cell.settings, data[cell.settings.model]) for cell in bench.plan.cells[::step]]
    mean = statistics.fmean(peer_seconds)
    rows = [
        ["python -m study.run, in total", f"{number}", f"{total:.1f} s", f"{3600 * number / total:,.0f}"],
        [
            "Trainer, one cell after the other",
            f"{len(peer_seconds)}",
            f"{sum(peer_seconds):.1f} s",
            f"{3600 / mean:,.0f}",
        ],
    ]
    return f"{table(['', 'cells', 'took', 'cells per hour'], rows)}\n\nratio: {mean * number / total:.2f}x"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line."""
    given = parser().parse_args(arguments)
    transformers.utils.logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    torch.set_num_threads(os.cpu_count() or 1)
    with tempfile.TemporaryDirectory() as folder:
        bench = make_bench(given, Path(folder))
        print(f"{describe(find_device())}; precision auto is {bench.precision}")
        print(
            f"{bench.space.examples:,} examples, {len(bench.plan.cells)} cells in {len(bench.plan.trajectories)} "
            "trajectories",
            flush=True,
        )
        if "cells" in given.parts:  # before this process starts a Ray of its own
            print(f"\ncells per hour\n\n{cells(bench, given.peer_cells)}", flush=True)
        keep_freed_memory()
        if {"overhead", "derived"} & set(given.parts):
            connect(None, verbose=False)
            try:
                if "overhead" in given.parts:
                    print(f"\noutside training\n\n{overhead(bench)}", flush=True)
                if "derived" in given.parts:
                    print(f"\nderived cells\n\n{derived(bench)}", flush=True)
            finally:
                disconnect()
    return 0


if __name__ == "__main__":
    sys.exit(main())
