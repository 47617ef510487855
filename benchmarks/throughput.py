"""Training examples per second of the loop and of the library's ``Trainer`` on the same work.

Without Ray: the same model, texts, effective batch and length, in turns. ``--side-by-side`` compares trajectories of
one thread each with one ``Trainer`` that has all cores; ``--concurrent`` runs several processes on one GPU.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

if not __package__:  # run as a file: study.py in this folder must not be imported as the package
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import numpy as np
import torch

from benchmarks.alternation import Rates, elapsed_since, spread, table, take_turns
from benchmarks.contenders import Contender, Work
from benchmarks.machine import Matmul, describe
from benchmarks.processes import CLOCKS, Group
from benchmarks.workload import SHAPES, generate_texts, read_texts, training_flops
from study.records import Precision
from study.training.devices import choose_precision, find_device, set_tf32

TRAINER = Contender(name="Trainer, float32", trainer=True)
SAME = Contender(name="loop, float32, same arithmetic")
SAVING = Contender(name="loop, float32, exact savings", savings=True)
TRAINER_BF16 = Contender(name="Trainer, bfloat16", trainer=True, precision="bfloat16")
SAME_BF16 = Contender(name="loop, bfloat16, same arithmetic", precision="bfloat16")
SAVING_BF16 = Contender(name="loop, bfloat16, exact savings", precision="bfloat16", savings=True)
EXAMPLES = 4_096


def parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.throughput",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--models", nargs="+", choices=list(SHAPES), metavar="MODEL",
        help=f"from {', '.join(SHAPES)} (default: tiny mini; on a GPU bert-base)")  # fmt: skip
    add("--batch-sizes", nargs="+", type=int, metavar="N", help="effective batch sizes (default: 16; on a "
        "GPU 16 256)")  # fmt: skip
    add("--lengths", nargs="+", type=int, default=[128], metavar="N", help="in tokens (default: 128)")
    add("--texts", choices=("imdb", "full"), default="imdb", help="random texts with lengths like "
        "IMDB's, or all of the full length (default: %(default)s)")  # fmt: skip
    add("--data", metavar="FILE", help="use the texts of a .parquet, .csv or .jsonl file instead")
    add("--precisions", nargs="+", choices=("float32", "bfloat16"), help="(default: float32, and "
        "bfloat16 where it is fast; on a GPU bfloat16)")  # fmt: skip
    add("--turns", type=int, metavar="N", help="turns of each contender (default: 7; on a GPU 3)")
    add("--seconds", type=float, default=2.0, metavar="S", help="length of a turn (default: %(default)s)")
    add("--threads", type=int, default=torch.get_num_threads(), metavar="N", help="on a CPU (default: "
        "%(default)s)")  # fmt: skip
    add("--clock", choices=list(CLOCKS), default="wall", help="cpu counts CPU seconds, for cores that "
        "other processes use too; with --threads 1 (default: %(default)s)")  # fmt: skip
    add("--compile", action="store_true", help="add rows with torch.compile, as on a GPU")
    modes = parser.add_mutually_exclusive_group()
    modes.add_argument("--side-by-side", action="store_true", help="one trajectory of one thread for each core, "
        "compared with one Trainer that has all cores")  # fmt: skip
    modes.add_argument("--concurrent", type=counts, metavar="N,N", help="numbers of processes at a time on one device")
    return parser


def counts(text: str) -> tuple[int, ...]:
    """Comma-separated numbers."""
    return tuple(int(part) for part in text.split(","))


def contenders(precisions: Sequence[str], *, compiled: bool) -> list[Contender]:
    """The contenders; the others are compared with the first."""
    selected = []
    if "float32" in precisions:
        selected += [TRAINER, SAME, SAVING]
    if "bfloat16" in precisions:
        selected += [TRAINER_BF16, SAME_BF16, SAVING_BF16]
    if compiled:
        selected += [
            Contender(name=f"loop, {p}, savings, compiled", precision=precision_of(p), savings=True, compile=True)
            for p in precisions
        ]
    return selected


def precision_of(name: str) -> Precision:
    """The precision with this name."""
    return "bfloat16" if name == "bfloat16" else "float32"


def make_work(given: argparse.Namespace, model: str, length: int, batch_size: int) -> Work:
    """The work that one table measures."""
    shape = SHAPES[model]
    if given.data:
        texts = read_texts(given.data, length=length, examples=EXAMPLES)
    else:
        texts = generate_texts(EXAMPLES, shape, length=length, full=given.texts == "full", rng=np.random.default_rng(0))
    return Work(shape=shape, texts=texts, batch_size=batch_size)


def measure(work: Work, selected: Sequence[Contender], given: argparse.Namespace, device: torch.device) -> str:
    """The table of contenders that take turns."""
    clock = CLOCKS[given.clock]
    with ExitStack() as stack:
        groups = {
            contender.name: stack.enter_context(Group(work, [contender], threads=given.threads, clock=given.clock))
            for contender in selected
        }
        timed = {name: group.seconds for name, group in groups.items()}
        products = {
            precision: Matmul(device, precision, clock) for precision in dict.fromkeys(map(precision_used, selected))
        }
        timed |= {f"matmul {precision}": product.seconds for precision, product in products.items()}
        rates = take_turns(timed, turns=given.turns, seconds=given.seconds)
    rows = []
    for contender in selected:
        rate = rates[contender.name]
        flops = training_flops(work.shape, work.texts.lengths, first_position=contender.savings) * work.batch_size
        share = rate.over(rates[f"matmul {contender.precision}"])[0] * flops / products[contender.precision].flops
        peer = rates.get(f"Trainer, {contender.precision}")
        rows.append(
            [
                contender.name,
                f"{rate.median * work.batch_size:,.1f}",
                spread(rate.over(rates[selected[0].name])),
                spread(rate.over(peer)) if peer else "",
                f"{share:.0%}",
                str(groups[contender.name].micro_batch_size),
            ]
        )
    matmul_rates = ", ".join(
        f"{precision} {peak_of(rates[f'matmul {precision}'], product) / 1e12:.3g} TFLOP/s"
        for precision, product in products.items()
    )
    head = ["", "examples/s", f"to {selected[0].name}", "to Trainer, same precision", "MFU", "micro-batch"]
    return f"{table(head, rows)}\n\nmeasured matmul rate: {matmul_rates}"


def precision_used(contender: Contender) -> Precision:
    """The precision of a contender."""
    return contender.precision


def measure_together(work: Work, numbers: Sequence[int], precisions: Sequence[str], given: argparse.Namespace) -> str:
    """The table of several trajectories at a time, compared with one ``Trainer`` that has all threads."""
    selected = contenders(precisions, compiled=False)
    peers = [contender for contender in selected if contender.trainer]
    ours = [contender for contender in selected if contender.savings]
    with ExitStack() as stack:
        groups = {peer.name: Group(work, [peer], threads=given.threads, clock=given.clock) for peer in peers} | {
            f"{number} x {contender.name}": Group(
                work, [contender] * number, threads=max(1, given.threads // number), clock=given.clock
            )
            for contender in ours
            for number in numbers
        }
        for group in groups.values():
            stack.enter_context(group)
        timed = {name: group.seconds for name, group in groups.items()}
        steps = take_turns(timed, turns=given.turns, seconds=given.seconds)
    rates = {
        name: Rates(values=tuple(value * len(groups[name].connections) for value in rate.values))
        for name, rate in steps.items()
    }
    rows = [
        [name, f"{rate.median * work.batch_size:,.1f}", spread(rate.over(rates[peers[0].name]))]
        for name, rate in rates.items()
    ]
    return table(["at a time", "examples/s together", f"to one {peers[0].name}"], rows)


def peak_of(rate: Rates, product: Matmul) -> float:
    """Floating-point operations per second of matrix products."""
    return rate.median * product.flops


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line."""
    given = parser().parse_args(arguments)
    device = find_device()
    torch.set_num_threads(given.threads)
    set_tf32(False)
    gpu = device.type == "cuda"
    auto = choose_precision("auto", device)
    precisions = given.precisions or ([auto] if gpu or auto == "float32" else ["float32", auto])
    given.turns = given.turns or (3 if gpu else 7)
    numbers = given.concurrent or ((1, given.threads) if given.side_by_side else ())
    print(
        f"{describe(device)}; precision auto is {auto}; "
        f"{given.turns} turns of {given.seconds:g} s by the {given.clock} clock",
        flush=True,
    )
    for model in given.models or (["bert-base"] if gpu else ["tiny", "mini"]):
        for length in given.lengths:
            for batch_size in given.batch_sizes or ([16, 256] if gpu and not numbers else [16]):
                started = time.perf_counter()
                work = make_work(given, model, length, batch_size)
                if numbers:
                    result = measure_together(work, numbers, precisions, given)
                else:
                    result = measure(work, contenders(precisions, compiled=given.compile or gpu), given, device)
                print(
                    f"\n{model}, batch {batch_size}, length {length} ({elapsed_since(started)})\n\n{result}", flush=True
                )
    return 0


if __name__ == "__main__":
    sys.exit(main())
