"""What does a whole study cost beside its training, and what does it save?

A space of tiny models in the shape of ``search_spaces/paper.yaml``, in three parts. ``overhead``: seconds per
trajectory that Ray, checkpoints and records add to a bare Python loop. ``derived``: cells that share a trajectory
against the same cells trained apart, compared to the bit. ``cells``: cells per hour of ``python -m study.run`` against
one ``Trainer`` after the other.
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

if not __package__:  # run as a file: this file must not be taken for the package that has its name
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import torch
import transformers

from benchmarks.alternation import table
from benchmarks.grid import apart, bare_seconds, differences, inside_seconds, through_ray
from benchmarks.machine import describe
from benchmarks.serial import cell_seconds
from study.data.dataset import open_encoded
from study.execution.cluster import connect, disconnect
from study.execution.preparation import prepare_models
from study.plan.plan import Plan, make_plan
from study.records import StudyFolder
from study.settings import Settings
from study.space.reader import Space, read
from study.training.devices import choose_precision, find_device, keep_freed_memory

ROOT = Path(__file__).resolve().parents[1]
PARTS = ("overhead", "derived", "cells")


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(
        prog="python -m benchmarks.study",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS), help="(default: all)")
    made.add_argument("--space", default="search_spaces/paper.yaml", metavar="FILE", help="(default: %(default)s)")
    made.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="override more of the space, as "
                      "study.run does; may be repeated")  # fmt: skip
    made.add_argument("--data", default="builtin:reviews", metavar="FILE", help="(default: %(default)s)")
    made.add_argument("--examples", type=int, default=400, metavar="N", help="(default: %(default)s)")
    made.add_argument("--models", nargs="+", default=["tiny-bert", "tiny-roberta"], metavar="MODEL",
                      help="(default: tiny-bert tiny-roberta)")  # fmt: skip
    made.add_argument("--peer-cells", type=int, metavar="N", help="let Trainer train N cells, evenly spread, and take "
                      "their mean for the rest (default: all)")  # fmt: skip
    return made


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    """The space that is measured, its plan and its encoded data, in a folder of its own."""

    space: Space
    plan: Plan
    encoded: Mapping[str, Path]
    folder: Path
    precision: str
    command: Sequence[str]

    @property
    def cores(self) -> int:
        """Processors of this machine."""
        return os.cpu_count() or 1

    def settings(self, trained: Mapping[str, object]) -> Settings:
        """The settings of a cell or a trajectory."""
        return Settings.model_validate(trained)


def make_bench(given: argparse.Namespace, folder: Path) -> Bench:
    """Read and prepare what the command line asks for."""
    overrides = [
        f"model=[{', '.join(given.models)}]",
        f"data.examples={given.examples}",
        "seed=0",
        "learning_rate=5e-4",
        "run.gpu=0",
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
    watch, whole = through_ray(study, bench.space, bench.plan, bench.encoded, run, bench.precision)
    inside = {item.id: inside_seconds(study.trajectory(item.id).history()) for item in bench.plan.trajectories}
    outside = sorted(seconds - inside[id_] for id_, seconds in watch.between_ends.items())
    torch.set_num_threads(bench.cores)
    bare = 0.0
    for item in bench.plan.trajectories:
        config = study.trajectory(item.id).config()
        assert config is not None
        bare += bare_seconds(config, open_encoded(Path(config["encoded"])), bench.settings(item.settings))
    rows = [
        ["trajectories, one at a time", f"{len(inside)}"],
        ["through Ray, start of the worker included", f"{whole:.1f} s"],
        ["of it training and evaluation, by the records", f"{sum(inside.values()):.1f} s"],
        ["the same in a bare Python loop", f"{bare:.1f} s"],
        [
            "outside training, first trajectory",
            f"{whole - sum(watch.between_ends.values()) - first(inside, watch.ended_at):.2f} s",
        ],
        ["outside training, each after it: median", f"{statistics.median(outside):.2f} s"],
        ["outside training, each after it: lowest to highest", f"{outside[0]:.2f} to {outside[-1]:.2f} s"],
    ]
    return table(["", ""], rows)


def first(inside: Mapping[str, float], ended_at: Mapping[str, float]) -> float:
    """Seconds that the first trajectory to end was trained."""
    return inside[min(ended_at, key=ended_at.__getitem__)]


def derived(bench: Bench) -> str:
    """Cells that share trajectories, and the same cells apart: as many at a time as there are cores."""
    alone = apart(bench.plan)
    studies = {
        "shared": (StudyFolder(bench.folder / "shared"), bench.plan),
        "apart": (StudyFolder(bench.folder / "apart"), alone),
    }
    rows, seconds = [], {}
    for name, (study, plan) in studies.items():
        _, seconds[name] = through_ray(study, bench.space, plan, bench.encoded, bench.space.run, bench.precision)
        histories = [study.trajectory(item.id).history() for item in plan.trajectories]
        trained = sum(inside_seconds(history) for history in histories)
        rows.append(
            [name, f"{len(plan.cells)}", f"{len(plan.trajectories)}", f"{seconds[name]:.1f} s", f"{trained:.1f} s"]
        )
    wrong = differences(*studies["shared"], *studies["apart"])
    told = (
        f"differ: {'; '.join(wrong)}" if wrong else "all equal to the bit: epochs, stop, chosen checkpoint, predictions"
    )
    head = ["cells", "number", "trajectories", "through Ray", "training and evaluation, summed"]
    return f"{table(head, rows)}\n\nsaving: {seconds['apart'] / seconds['shared']:.2f}x; cells: {told}"


def cells(bench: Bench, peer_cells: int | None) -> str:
    """Cells per hour of the whole command and of a serial ``Trainer`` with all cores."""
    started = time.perf_counter()
    command = [sys.executable, "-m", "study.run", *bench.command, "--storage", str(bench.folder / "studies")]
    subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    whole = time.perf_counter() - started
    number = len(bench.plan.cells)
    step = -(-number // peer_cells) if peer_cells else 1
    torch.set_num_threads(bench.cores)
    data = {model: open_encoded(folder) for model, folder in bench.encoded.items()}
    taken = [
        cell_seconds(bench.settings(cell.settings), data[str(cell.settings["model"])])
        for cell in bench.plan.cells[::step]
    ]
    peer = statistics.fmean(taken)
    rows = [
        ["python -m study.run, all of it", f"{number}", f"{whole:.1f} s", f"{3600 * number / whole:,.0f}"],
        ["Trainer, one cell after the other", f"{len(taken)}", f"{sum(taken):.1f} s", f"{3600 / peer:,.0f}"],
    ]
    return f"{table(['', 'cells', 'took', 'cells per hour'], rows)}\n\nratio: {peer * number / whole:.2f}x"


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
        if "cells" in given.parts:  # before this process has a Ray of its own
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
