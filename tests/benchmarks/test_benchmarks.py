"""Benchmarks run, and their counts are right; no test depends on how fast anything is."""

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from places import ROOT

from benchmarks.alternation import Rates, take_turns
from benchmarks.contenders import WARM_UP_STEPS, Contender, Timing, Work
from benchmarks.samplers import SearchScores
from benchmarks.search import budgets, compare
from benchmarks.workload import SHAPES, Shape, generate_texts, make_model, training_flops

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


def test_the_throughput_benchmark_runs() -> None:
    output = run("-m", "benchmarks.throughput", *SMALL, "--threads", "1", "--clock", "cpu")
    for name in ("Trainer, float32", "loop, float32, same arithmetic", "loop, float32, exact savings", "matmul rate"):
        assert name in output


@pytest.mark.slow
def test_the_throughput_benchmark_runs_trajectories_side_by_side() -> None:
    output = run("-m", "benchmarks.throughput", *SMALL, "--threads", "2", "--side-by-side")
    assert "| 2 x loop, float32, exact savings" in output


def test_a_benchmark_runs_as_a_file() -> None:
    output = run("benchmarks/accuracy.py", "--models", "tiny-bert", "--examples", "60", "--epochs", "1", "--seeds", "2")
    assert "| tiny-bert | 2" in output


def test_the_checks_of_a_gpu_are_rehearsed_on_a_cpu(tmp_path: Path) -> None:
    output = run("-m", "benchmarks.gpu", "--rehearse", "--groups", "right", "--out", str(tmp_path))
    assert ", 0 wrong, 0 sections out of time" in output
    for name in ("captured = eager", "interrupted and resumed = whole", "no memory while capturing"):
        assert f"ok   right    {name}" in output


@pytest.mark.slow
def test_the_speed_of_a_gpu_is_rehearsed_on_a_cpu(tmp_path: Path) -> None:
    output = run("-m", "benchmarks.gpu", "--rehearse", "--groups", "fast", "study", "savings", "--out", str(tmp_path))
    assert "0 wrong, 0 sections out of time" in output
    for name in ("batch 2: compiled", "one after the other, compiled", "batch 2: without"):
        assert name in output


STUDY = ["--models", "tiny-bert", "--examples", "60", "--set", "data.max_length=16", "--set", "epochs=2"]


def test_the_study_benchmark_runs() -> None:
    axes = ["--set", "batch_size=16", "--set", "early_stopping=none"]
    output = run("benchmarks/study.py", "--parts", "overhead", *STUDY, *axes)
    assert "outside training, each later trajectory: median" in output


@pytest.mark.slow
def test_the_study_benchmark_compares_derived_cells_and_counts_cells() -> None:
    axes = ["--set", "batch_size=[16, 32]", "--set", "lr_schedule=constant"]
    output = run("-m", "benchmarks.study", "--parts", "derived", "cells", *STUDY, *axes)
    assert "all equal to the bit" in output
    assert "ratio: " in output


SEARCH = ["--examples", "60", "--epochs", "1", "--set", "data.max_length=16", "--set", "batch_size=[8, 16]"]


@pytest.mark.slow
def test_the_search_benchmark_gives_both_samplers_the_same_budget() -> None:
    output = run("benchmarks/search.py", "--parts", "samplers", *SEARCH, "--trials", "5", "--repeats", "2")
    for row in ("validation, best of 4", "validation, best of 5", "test, of the best of 5"):
        assert row in output
    counts = re.search(r"(\d+) trajectories trained for (\d+) trials", output)
    assert counts is not None
    trained, trials = map(int, counts.groups())
    assert trials == 2 * 2 * 5
    assert 10 < trained < trials


@pytest.mark.slow
def test_the_search_benchmark_times_all_contenders() -> None:
    output = run("-m", "benchmarks.search", "--parts", "speed", *SEARCH, "--trials", "3", "--threads", "1")
    for name in ("| study.run, ", "| Optuna alone, this loop, ", "| Trainer.hyperparameter_search, float32"):
        assert name in output


def test_the_best_of_the_first_trials_is_selected_on_validation_alone() -> None:
    searches = {
        "random": [SearchScores(validation=(0.5, 0.7, 0.9), test=(0.8, 0.6, 0.5), trained=3)] * 2,
        "TPE": [
            SearchScores(validation=(0.5, 0.8, 0.8), test=(0.8, 0.7, 0.9), trained=2),
            SearchScores(validation=(0.5, 0.6, 0.7), test=(0.8, 0.9, 0.4), trained=2),
        ],
    }
    assert budgets(15) == [1, 2, 4, 8, 15]
    assert budgets(8) == [1, 2, 4, 8]
    means = [
        compare(searches, validation=on_validation, trials=n) for on_validation, n in ((True, 2), (True, 3), (False, 3))
    ]
    assert [[cell.split()[0] for cell in row] for row in means] == [
        ["0.700", "0.700", "+0.00"],
        ["0.900", "0.750", "-15.00"],
        ["0.500", "0.550", "+5.00"],
    ]


def test_contenders_are_compared_within_a_turn() -> None:
    """On a machine that is slower with every call, one contender needs half the time of the other."""
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
def test_a_contender_does_the_steps_that_it_is_timed_for(trainer: bool) -> None:
    work = Work(
        shape=SHAPES["tiny"],
        texts=generate_texts(20, SHAPES["tiny"], length=16, full=False, rng=np.random.default_rng(0)),
        batch_size=4,
    )
    ready: list[int] = []
    batches: list[int] = []
    timing = Timing(
        work,
        Contender(name="contender", trainer=trainer),
        device=torch.device("cpu"),
        ready=lambda: ready.append(len(batches)),
    )
    timing.model.register_forward_pre_hook(
        lambda _, arguments, inputs: batches.append(len(inputs["input_ids"])), with_kwargs=True
    )
    assert timing.seconds(3) > 0
    assert batches == [4] * (WARM_UP_STEPS + 3)
    assert ready == [WARM_UP_STEPS]
    assert timing.micro_batch_size == 4


def test_the_counted_operations_are_those_of_the_matrix_products() -> None:
    """By torch's own counter over a forward pass, which includes the products of the head and of attention."""
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


def test_random_texts_have_the_lengths_of_imdb() -> None:
    texts = generate_texts(50_000, SHAPES["tiny"], length=512, full=False, rng=np.random.default_rng(0))
    shares = [(texts.lengths < limit).mean() for limit in (128, 256, 512)]
    assert shares == pytest.approx([0.11, 0.56, 0.86], abs=0.02)
    inside = np.arange(512) < texts.lengths[:, None]
    assert (texts.input_ids[~inside] == SHAPES["tiny"].pad).all()
    assert (texts.input_ids[inside] >= 5).all()
