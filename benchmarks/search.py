"""What does a search by TPE find that a random one does not, and how many trials does a study make in an hour?

A search of learning rate, schedule, warm-up, batch size and weight decay of tiny-bert, on processors, in two parts.
``samplers``: the best of the first n trials of both, over repeats with seeds of their own. ``speed``: the same trials
by ``python -m study.run``, by Optuna alone with this loop, and by the library's ``Trainer.hyperparameter_search``.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

if not __package__:  # run as a file: the study.py beside this one must not be taken for the package
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import torch

from analysis.statistics.intervals import mean_over_seeds
from benchmarks.alternation import Rates, since, spread, table
from benchmarks.machine import describe
from benchmarks.samplers import METHODS, Repeat, Searched, search_both
from benchmarks.trials import Job, Took, alone, in_a_process, library, study_run
from study.execution.preparation import prepare_models
from study.space.reader import Space, read
from study.training.devices import Precision, choose_precision, find_device

ROOT = Path(__file__).resolve().parents[1]
PARTS = ("samplers", "speed")
SPACE = ROOT / "search_spaces" / "tiny_tuned.yaml"


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(
        prog="python -m benchmarks.search",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS), help="(default: all)")
    made.add_argument("--data", default="builtin:reviews", metavar="FILE", help="(default: %(default)s)")
    made.add_argument("--examples", type=int, default=5_000, metavar="N", help="of which 60 %% are trained on, 20 %% "
                      "validation, 20 %% test (default: %(default)s)")  # fmt: skip
    made.add_argument("--epochs", type=int, default=2, metavar="N", help="(default: %(default)s)")
    made.add_argument("--trials", type=int, default=15, metavar="N", help="of each search (default: %(default)s)")
    made.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="override more of "
                      "search_spaces/tiny_tuned.yaml, as study.run does; may be repeated")  # fmt: skip
    made.add_argument("--repeats", type=int, default=10, metavar="N", help="samplers: searches by each sampler "
                      "(default: %(default)s)")  # fmt: skip
    made.add_argument("--at-once", type=int, default=2, metavar="N", help="samplers: trials of a search that are "
                      "under way when it chooses the next (default: %(default)s)")  # fmt: skip
    made.add_argument("--workers", type=int, default=os.cpu_count() or 1, metavar="N", help="samplers: processes of "
                      "one thread, a repeat each (default: %(default)s)")  # fmt: skip
    made.add_argument("--threads", type=int, default=os.cpu_count() or 1, metavar="N", help="speed: of Optuna alone "
                      "and of Trainer (default: %(default)s)")  # fmt: skip
    made.add_argument("--turns", type=int, default=1, metavar="N", help="speed: of all contenders, one after the "
                      "other (default: %(default)s)")  # fmt: skip
    return made


def overrides(given: argparse.Namespace) -> list[str]:
    """What is searched, as options of ``study.run``."""
    return [
        "model=tiny-bert",
        f"epochs={given.epochs}",
        "early_stopping=none",
        "seed=0",
        f"data.examples={given.examples}",
        "data.fractions={train: 0.6, validation: 0.2, test: 0.2}",
        f"search={{method: optuna, trials: {given.trials}}}",
        "run.gpu=0",
        *given.set,
    ]


def samplers(given: argparse.Namespace, space: Space, folder: Path, precision: Precision) -> str:
    """The best of the first n trials by each sampler, and their difference within repeats."""
    started = time.perf_counter()
    encoded = prepare_models(space, [space.fixed["model"]], cache=folder / "encoded")
    repeats = [
        Repeat(
            seed=seed,
            space=space,
            encoded=encoded,
            precision=precision,
            folder=folder / f"repeat-{seed}",
            at_once=given.at_once,
        )
        for seed in range(given.repeats)
    ]
    found = []
    with multiprocessing.get_context("spawn").Pool(min(given.workers, given.repeats)) as pool:
        for done in pool.imap(search_both, repeats):
            found.append(done)
            print(f"{len(found)} of {given.repeats} repeats, {since(started)}", file=sys.stderr, flush=True)
    searches = {name: [one[name] for one in found] for name in METHODS}
    rows = [
        [f"validation, best of {count}", *compared(searches, validation=True, trials=count)]
        for count in budgets(given.trials)
    ]
    rows.append([f"test, of the best of {given.trials}", *compared(searches, validation=False, trials=given.trials)])
    trained = sum(search.trained for one in found for search in one.values())
    made = sum(len(search.validation) for one in found for search in one.values())
    told = (
        f"{given.repeats} searches by each, {given.at_once} trials at once; {trained} trajectories trained for {made} "
        f"trials: what both searches of a repeat chose was trained once; {since(started)}"
    )
    return f"{table(['accuracy', *METHODS, 'TPE less random, points'], rows)}\n\n{told}"


def budgets(trials: int) -> list[int]:
    """The powers of two up to ``trials``, and ``trials``."""
    return sorted({*(2**power for power in range(trials.bit_length())), trials})


def compared(searches: Mapping[str, Sequence[Searched]], *, validation: bool, trials: int) -> list[str]:
    """Mean accuracies over repeats of what validation chose of the first ``trials``, and of the differences."""
    values = {
        name: [(one.validation if validation else one.test)[one.best(trials)] for one in ones]
        for name, ones in searches.items()
    }
    apart = [100 * (two - one) for one, two in zip(values["random"], values["TPE"], strict=True)]
    return [*(with_interval(values[name], ".3f") for name in METHODS), with_interval(apart, "+.2f")]


def with_interval(values: Sequence[float], form: str) -> str:
    """A mean with its 95 % interval over repeats."""
    mean = mean_over_seeds(values)
    interval = f"({mean.low:{form}} to {mean.high:{form}})" if len(values) > 1 else "(no interval)"
    return f"{mean.value:{form}} {interval}"


def speed(given: argparse.Namespace, space: Space, folder: Path, precision: Precision) -> str:
    """Trials per hour of each contender, all of it and without its start."""
    data = given.data if given.data.startswith("builtin:") else str(Path(given.data).resolve())
    options = ["--space", str(SPACE), "--data", data, *(part for text in overrides(given) for part in ("--set", text))]
    peers = {f"Optuna alone, this loop, {precision}": (alone, precision)}
    precisions: tuple[Precision, ...] = ("float32", "bfloat16") if precision == "bfloat16" else ("float32",)
    peers |= {f"Trainer.hyperparameter_search, {one}": (library, one) for one in precisions}
    ours = f"study.run, {precision}"
    took: dict[str, list[Took]] = {name: [] for name in (ours, *peers)}
    for turn in range(given.turns):
        place = folder / f"turn-{turn}"
        first, params = study_run(options, place / "studies")
        took[ours].append(first)
        for number, (name, (contender, its)) in enumerate(peers.items()):
            job = Job(space=space, params=params, precision=its, threads=given.threads, folder=place / str(number))
            took[name].append(in_a_process(contender, job))
            print(f"turn {turn + 1}: {name} took {took[name][-1].whole:.0f} s", file=sys.stderr, flush=True)
    rows = []
    for name, all_ in took.items():
        cells = []
        for field in ("whole", "trials"):
            seconds = statistics.median(getattr(one, field) for one in all_)
            ratio = rates(took[ours], field).over(rates(all_, field))
            cells += [f"{seconds:.1f} s", f"{3600 * given.trials / seconds:,.0f}"]
            cells.append("" if name == ours else spread(ratio) if given.turns > 1 else f"{ratio[0]:.2f}x")
        rows.append([name, *cells])
    head = ["all of it", "an hour", "study.run to it", "without the start", "an hour", "study.run to it"]
    return table([f"{given.trials} trials", *head], rows)


def rates(took: Sequence[Took], field: str) -> Rates:
    """Searches per second, one number for each turn."""
    return Rates(values=tuple(1 / getattr(one, field) for one in took))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line."""
    given = parser().parse_args(arguments)
    os.environ["CUDA_VISIBLE_DEVICES"] = ""  # here and in every process that is started
    torch.set_num_threads(os.cpu_count() or 1)
    space = read(SPACE, set=overrides(given), data=given.data)
    precision = choose_precision("auto", find_device())
    print(f"{describe(find_device())}; precision auto is {precision}")
    print(f"{space.examples:,} examples, {given.epochs} epochs, {given.trials} trials", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        if "samplers" in given.parts:
            print(f"\nbest of the first trials\n\n{samplers(given, space, Path(folder), precision)}", flush=True)
        if "speed" in given.parts:
            print(f"\ntrials per hour\n\n{speed(given, space, Path(folder), precision)}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
