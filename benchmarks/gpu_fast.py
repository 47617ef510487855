"""How fast training is on a GPU, beside the library's ``Trainer``, and which part of the speed comes from what."""

from __future__ import annotations

from collections.abc import Mapping
from time import perf_counter as clock

import numpy as np
import torch

from benchmarks.alternation import Rates, spread
from benchmarks.contenders import Contender, Timing, Work
from benchmarks.gpu_right import choose_backend
from benchmarks.machine import Matmul, describe
from benchmarks.sections import Place, Results
from benchmarks.workload import SHAPES, generate_texts, read_texts, training_flops
from study.training.devices import release_memory

TURNS = 3
# Optimizer steps of a turn, of a second or two each.
STEPS = {
    16: {"Trainer": 50, "eager": 60, "captured": 200, "compiled": 250},
    64: {"Trainer": 50, "eager": 60, "captured": 80, "compiled": 80},
    256: {"Trainer": 20, "eager": 25, "captured": 25, "compiled": 30},
}
CONTENDERS = {
    "Trainer": Contender(name="Trainer", trainer=True, precision="bfloat16"),
    "eager": Contender(name="eager", precision="bfloat16", savings=True, capture=False),
    "captured": Contender(name="captured", precision="bfloat16", savings=True),
    "compiled": Contender(name="compiled", precision="bfloat16", savings=True, compile=True),
}


def make_work(place: Place, batch_size: int) -> Work:
    """bert-base on texts of 128 tokens, or of IMDB's lengths cut to that."""
    shape, length = SHAPES[place.size("bert-base", "tiny")], place.size(128, 16)
    batch_size = place.size(batch_size, max(2, batch_size // 64))
    if place.imdb is not None:
        texts = read_texts(str(place.imdb), length=length, examples=6_000)
    else:
        texts = generate_texts(4_096, shape, length=length, full=False, rng=np.random.default_rng(0))
    return Work(shape=shape, texts=texts, batch_size=batch_size)


def take_turns(
    results: Results, place: Place, work: Work, contenders: Mapping[str, Contender], steps: Mapping[str, int]
) -> dict[str, Rates]:
    """Steps per second of each contender in each turn; one that fails is recorded, and the others continue."""
    choose_backend(place)
    rates: dict[str, list[float]] = {name: [] for name in contenders}
    timings: dict[str, Timing] = {}
    for turn in range(place.size(TURNS, 1)):
        names = list(rates)
        shift = turn % max(len(names), 1)
        for name in [*names[shift:], *names[:shift]]:
            count = place.size(steps[name], 2)
            try:
                if name not in timings:
                    with place.device:  # weights drawn there take no time
                        timings[name] = Timing(work, contenders[name], device=place.device)
                rates[name].append(count / timings[name].seconds(count))
            except Exception as error:  # whatever breaks one contender is its result
                results.add(f"batch {work.batch_size}: {name}", f"{type(error).__name__}: {str(error)[:500]}", ok=False)
                del rates[name]
    return {name: Rates(values=tuple(values)) for name, values in rates.items()}


def compare(results: Results, place: Place, batch_size: int) -> None:
    """The contenders in turns, relative to ``Trainer``, and the share of the device's matmul rate that they need."""
    results.add("device", describe(place.device))
    work = make_work(place, batch_size)
    matmul = Matmul(place.device, "bfloat16", clock)
    matmul.seconds(3)
    products = place.size(40, 2)
    peak = matmul.flops * products / matmul.seconds(products)
    results.add("bf16 matmul", peak / 1e12, "TFLOP/s")
    del matmul
    release_memory()
    rates = take_turns(results, place, work, CONTENDERS, STEPS[batch_size])
    for name, rate in rates.items():
        savings = CONTENDERS[name].savings
        flops = training_flops(work.shape, work.texts.lengths, first_position=savings) * work.batch_size
        note = f"{1e3 / rate.median:.2f} ms a step, MFU {rate.median * flops / peak:.1%}"
        if "Trainer" in rates:
            note += f", {spread(rate.over(rates['Trainer']))} Trainer"
        results.add(
            f"batch {work.batch_size}: {name}", round(rate.median * work.batch_size, 1), "examples/s", note=note
        )
    if place.cuda:
        results.add("most memory reserved", torch.cuda.max_memory_reserved() / 2**30, "GiB")


def batch_16(results: Results, place: Place) -> None:
    compare(results, place, 16)


def batch_256(results: Results, place: Place) -> None:
    compare(results, place, 256)


SECTIONS = {"batch_16": batch_16, "batch_256": batch_256}
