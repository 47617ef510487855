"""TPE against random search, and trials per hour of a study against its peers.

A search of learning rate, schedule, warm-up, batch size and weight decay of tiny-bert, on the CPU, in two parts.
``samplers``: the best of the first n trials of both samplers, over repeats, each with its own seed. ``speed``: the same
trials by ``python -m study.run``, by Optuna alone with this loop, and by ``Trainer.hyperparameter_search``.
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

if not __package__:  # run as a file: study.py in this folder must not be imported as the package
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import torch

from analysis.statistics.intervals import mean_over_seeds
from benchmarks.alternation import Rates, elapsed_since, spread, table
from benchmarks.machine import describe
from benchmarks.samplers import METHODS, Repeat, SearchScores, search_both
from benchmarks.trials import Job, SearchSeconds, in_own_process, library_search, optuna_alone, study_run
from study.execution.preparation import prepare_models
from study.records import Precision
from study.space.reader import read
from study.space.space import Space
from study.training.devices import choose_precision, find_device

ROOT = Path(__file__).resolve().parents[1]
PARTS = ("samplers", "speed")
SPACE = ROOT / "search_spaces" / "tiny_tuned.yaml"


def parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.search",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--parts", nargs="+", choices=PARTS, default=list(PARTS), help="(default: all)")
    add("--data", default="builtin:reviews", metavar="FILE", help="(default: %(default)s)")
    add("--examples", type=int, default=5_000, metavar="N", help="60 %% of them for training, 20 %% "
        "for validation, 20 %% for test (default: %(default)s)")  # fmt: skip
    add("--epochs", type=int, default=2, metavar="N", help="(default: %(default)s)")
    add("--trials", type=int, default=15, metavar="N", help="trials of each search (default: %(default)s)")
    add("--set", action="append", default=[], metavar="KEY=VALUE", help="override more of "
        "search_spaces/tiny_tuned.yaml, as study.run does; may be repeated")  # fmt: skip
    add("--repeats", type=int, default=10, metavar="N", help="samplers: searches by each sampler "
        "(default: %(default)s)")  # fmt: skip
    add("--at-once", type=int, default=2, metavar="N", help="samplers: trials of a search that are "
        "running when it chooses the next (default: %(default)s)")  # fmt: skip
    add("--workers", type=int, default=os.cpu_count() or 1, metavar="N", help="samplers: processes, "
        "each with one thread and one repeat (default: %(default)s)")  # fmt: skip
    add("--threads", type=int, default=os.cpu_count() or 1, metavar="N", help="speed: threads of Optuna "
        "alone and of Trainer (default: %(default)s)")  # fmt: skip
    add("--turns", type=int, default=1, metavar="N", help="speed: turns of all contenders, one after "
        "the other (default: %(default)s)")  # fmt: skip
    return parser


def overrides(given: argparse.Namespace) -> list[str]:
    """The space that is searched, as ``--set`` options of ``study.run``."""
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
    """The best of the first n trials of each sampler, and their difference within repeats."""
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
    scores = []
    with multiprocessing.get_context("spawn").Pool(min(given.workers, given.repeats)) as pool:
        for scores_of_repeat in pool.imap(search_both, repeats):
            scores.append(scores_of_repeat)
            print(f"{len(scores)} of {given.repeats} repeats, {elapsed_since(started)}", file=sys.stderr, flush=True)
    searches = {name: [scores_of_repeat[name] for scores_of_repeat in scores] for name in METHODS}
    rows = [
        [f"validation, best of {count}", *compare(searches, validation=True, trials=count)]
        for count in budgets(given.trials)
    ]
    rows.append([f"test, of the best of {given.trials}", *compare(searches, validation=False, trials=given.trials)])
    all_searches = [search for of_method in searches.values() for search in of_method]
    trained = sum(search.trained for search in all_searches)
    trials = sum(len(search.validation) for search in all_searches)
    note = (
        f"{given.repeats} searches by each sampler, {given.at_once} trials at once; {trained} trajectories trained for "
        f"{trials} trials: what both searches of a repeat chose was trained once; {elapsed_since(started)}"
    )
    return f"{table(['accuracy', *METHODS, 'TPE minus random, points'], rows)}\n\n{note}"


def budgets(trials: int) -> list[int]:
    """The powers of two up to ``trials``, and ``trials``."""
    return sorted({*(2**power for power in range(trials.bit_length())), trials})


def compare(searches: Mapping[str, Sequence[SearchScores]], *, validation: bool, trials: int) -> list[str]:
    """Mean accuracies, over repeats, of the best on validation of the first ``trials``, and their mean difference."""
    values = {
        name: [(search.validation if validation else search.test)[search.best(trials)] for search in of_method]
        for name, of_method in searches.items()
    }
    points = [100 * (tpe - random) for random, tpe in zip(values["random"], values["TPE"], strict=True)]
    return [*(with_interval(values[name], ".3f") for name in METHODS), with_interval(points, "+.2f")]


def with_interval(values: Sequence[float], number_format: str) -> str:
    """A mean with its 95 % interval over repeats."""
    mean = mean_over_seeds(values)
    interval = f"({mean.low:{number_format}} to {mean.high:{number_format}})" if len(values) > 1 else "(no interval)"
    return f"{mean.value:{number_format}} {interval}"


def speed(given: argparse.Namespace, space: Space, folder: Path, precision: Precision) -> str:
    """Trials per hour of each contender, with and without its start."""
    data = given.data if given.data.startswith("builtin:") else str(Path(given.data).resolve())
    options = ["--space", str(SPACE), "--data", data, *(part for text in overrides(given) for part in ("--set", text))]
    peers = {f"Optuna alone, this loop, {precision}": (optuna_alone, precision)}
    precisions: tuple[Precision, ...] = ("float32", "bfloat16") if precision == "bfloat16" else ("float32",)
    peers |= {f"Trainer.hyperparameter_search, {name}": (library_search, name) for name in precisions}
    study = f"study.run, {precision}"
    seconds: dict[str, list[SearchSeconds]] = {name: [] for name in (study, *peers)}
    for turn in range(given.turns):
        turn_folder = folder / f"turn-{turn}"
        study_seconds, params = study_run(options, turn_folder / "studies")
        seconds[study].append(study_seconds)
        for number, (name, (contender, its_precision)) in enumerate(peers.items()):
            job = Job(
                space=space,
                params=params,
                precision=its_precision,
                threads=given.threads,
                folder=turn_folder / str(number),
            )
            seconds[name].append(in_own_process(contender, job))
            print(f"turn {turn + 1}: {name} took {seconds[name][-1].whole:.0f} s", file=sys.stderr, flush=True)
    rows = []
    for name, turns in seconds.items():
        cells = []
        for part in ("whole", "trials"):
            median = statistics.median(getattr(of_turn, part) for of_turn in turns)
            ratio = rates(seconds[study], part).over(rates(turns, part))
            cells += [f"{median:.1f} s", f"{3600 * given.trials / median:,.0f}"]
            cells.append("" if name == study else spread(ratio) if given.turns > 1 else f"{ratio[0]:.2f}x")
        rows.append([name, *cells])
    head = ["in total", "per hour", "study.run to it", "without the start", "per hour", "study.run to it"]
    return table([f"{given.trials} trials", *head], rows)


def rates(turns: Sequence[SearchSeconds], part: str) -> Rates:
    """Searches per second, one number for each turn."""
    return Rates(values=tuple(1 / getattr(of_turn, part) for of_turn in turns))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line."""
    given = parser().parse_args(arguments)
    os.environ["CUDA_VISIBLE_DEVICES"] = ""  # of this process and of those that it starts
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
