"""Benchmarks run, and count what they say that they count. How fast anything is, no test asks."""

import os
import re
import subprocess
import sys
from collections.abc import Callable

import numpy as np
import pytest
import torch
from places import ROOT

from benchmarks.alternation import Rates, take_turns
from benchmarks.contenders import WARM_UP_STEPS, Contender, Timing, Work
from benchmarks.samplers import Searched
from benchmarks.search import budgets, compared
from benchmarks.workload import SHAPES, Shape, generated, make_model, training_flops

SMALL = [
    "--precisions",
    "float32",
    "--models",
    "tiny",
    "--batch-sizes",
    "2",
    "--lengths",
    "16",
    "--turns",
    "1",
    "--seconds",
    "0.01",
]


def run(*command: str) -> str:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, *command], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_throughput_runs() -> None:
    shown = run("-m", "benchmarks.throughput", *SMALL, "--threads", "1", "--clock", "cpu")
    for name in ("Trainer, float32", "loop, float32, same arithmetic", "loop, float32, exact savings", "matmul rate"):
        assert name in shown


@pytest.mark.slow
def test_trajectories_run_side_by_side() -> None:
    shown = run("-m", "benchmarks.throughput", *SMALL, "--threads", "2", "--side-by-side")
    assert "| 2 x loop, float32, exact savings" in shown


def test_it_runs_as_a_file_too() -> None:
    shown = run("benchmarks/accuracy.py", "--models", "tiny-bert", "--examples", "60", "--epochs", "1", "--seeds", "2")
    assert "| tiny-bert | 2" in shown


STUDY = ["--models", "tiny-bert", "--examples", "60", "--set", "data.max_length=16", "--set", "epochs=2"]


def test_the_study_benchmark_runs() -> None:
    axes = ["--set", "batch_size=16", "--set", "early_stopping=none"]
    shown = run("benchmarks/study.py", "--parts", "overhead", *STUDY, *axes)
    assert "outside training, each after it: median" in shown


@pytest.mark.slow
def test_cells_are_derived_and_counted() -> None:
    axes = ["--set", "batch_size=[16, 32]", "--set", "lr_schedule=constant"]
    shown = run("-m", "benchmarks.study", "--parts", "derived", "cells", *STUDY, *axes)
    assert "all equal to the bit" in shown
    assert "ratio: " in shown


SEARCH = ["--examples", "60", "--epochs", "1", "--set", "data.max_length=16", "--set", "batch_size=[8, 16]"]


@pytest.mark.slow
def test_both_samplers_search_with_the_same_budget() -> None:
    shown = run("benchmarks/search.py", "--parts", "samplers", *SEARCH, "--trials", "5", "--repeats", "2")
    for row in ("validation, best of 4", "validation, best of 5", "test, of the best of 5"):
        assert row in shown
    counted = re.search(r"(\d+) trajectories trained for (\d+) trials", shown)
    assert counted is not None
    trained, made = map(int, counted.groups())
    assert made == 2 * 2 * 5
    assert 10 < trained < made


@pytest.mark.slow
def test_searches_are_timed() -> None:
    shown = run("-m", "benchmarks.search", "--parts", "speed", *SEARCH, "--trials", "3", "--threads", "1")
    for name in ("| study.run, ", "| Optuna alone, this loop, ", "| Trainer.hyperparameter_search, float32"):
        assert name in shown


def test_validation_chooses_among_the_first_trials_and_test_has_no_part_in_it() -> None:
    searches = {
        "random": [Searched(validation=(0.5, 0.7, 0.9), test=(0.8, 0.6, 0.5), trained=3)] * 2,
        "TPE": [
            Searched(validation=(0.5, 0.8, 0.8), test=(0.8, 0.7, 0.9), trained=2),
            Searched(validation=(0.5, 0.6, 0.7), test=(0.8, 0.9, 0.4), trained=2),
        ],
    }
    assert budgets(15) == [1, 2, 4, 8, 15]
    assert budgets(8) == [1, 2, 4, 8]
    means = [compared(searches, validation=valid, trials=n) for valid, n in ((True, 2), (True, 3), (False, 3))]
    assert [[cell.split()[0] for cell in row] for row in means] == [
        ["0.700", "0.700", "+0.00"],
        ["0.900", "0.750", "-15.00"],
        ["0.500", "0.550", "+5.00"],
    ]


def test_turns_are_compared_within_a_turn() -> None:
    """A machine that becomes slower with every call, and a contender that takes half the time of the other."""
    calls: list[str] = []

    def contender(name: str, seconds: float) -> Callable[[int], float]:
        def timed(steps: int) -> float:
            calls.append(name)
            return steps * seconds * len(calls) // 2

        return timed

    rates = take_turns({"slow": contender("slow", 64), "fast": contender("fast", 32)}, turns=4, seconds=1)
    assert calls[-8:] == ["slow", "fast", "fast", "slow"] * 2
    assert len(rates["slow"].values) == 4
    ratio = Rates(values=(2.0, 6.0, 1.0)).over(Rates(values=(1.0, 2.0, 4.0)))
    assert ratio == (2.0, 0.25, 3.0)


@pytest.mark.parametrize("trainer", [True, False])
def test_a_contender_takes_the_steps_that_it_is_timed_for(trainer: bool) -> None:
    work = Work(
        shape=SHAPES["tiny"],
        texts=generated(20, SHAPES["tiny"], length=16, full=False, rng=np.random.default_rng(0)),
        batch_size=4,
    )
    ready: list[int] = []
    batches: list[int] = []
    timing = Timing(
        work,
        Contender(name="one", trainer=trainer),
        device=torch.device("cpu"),
        ready=lambda: ready.append(len(batches)),
    )
    timing.model.register_forward_pre_hook(
        lambda _, args, given: batches.append(len(given["input_ids"])), with_kwargs=True
    )
    assert timing.seconds(3) > 0
    assert batches == [4] * (WARM_UP_STEPS + 3)
    assert ready == [WARM_UP_STEPS]
    assert timing.micro_batch_size == 4


def test_counted_operations_are_those_of_the_matrix_products() -> None:
    """torch's own counter, over a forward pass: the head's and the attention's products among them."""
    from torch.utils.flop_counter import FlopCounterMode

    from study.models.classifier import Classifier

    shape = Shape(family="bert", layers=3, width=128, vocabulary=100)
    for savings in (False, True):
        hub = make_model(shape, max_length=32, device=torch.device("cpu"))
        model = Classifier(hub, ("input_ids", "attention_mask"), savings=savings).eval()
        hub.set_attn_implementation("eager")
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            model(torch.randint(5, 100, (6, 32)), None)
        expected = training_flops(shape, np.full(6, 32), first_position=savings)
        assert 3 * counter.get_total_flops() / 6 == pytest.approx(expected, rel=0.02)


def test_lengths_are_those_of_imdb() -> None:
    texts = generated(50_000, SHAPES["tiny"], length=512, full=False, rng=np.random.default_rng(0))
    shares = [(texts.lengths < limit).mean() for limit in (128, 256, 512)]
    assert shares == pytest.approx([0.11, 0.56, 0.86], abs=0.02)
    inside = np.arange(512) < texts.lengths[:, None]
    assert (texts.input_ids[~inside] == SHAPES["tiny"].pad).all()
    assert (texts.input_ids[inside] >= 5).all()
