"""The gradient of an effective batch: compared with the library's own model on the whole batch at once."""

import copy
import itertools
import math
import multiprocessing
import resource
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import hypothesis
import numpy as np
import pytest
import torch
import transformers
from hypothesis import given
from hypothesis import strategies as st
from loop_builder import FAMILIES, LENGTH, assert_same_bits, make_data, make_loop, make_settings, weights
from torch.nn import functional

from study.data.dataset import EncodedData
from study.records import Interval
from study.training.batches import epoch_order
from study.training.loop import EpochEnd, FineTuning


class Oracle:
    """Compares each step's gradient with that of the library's own, unchanged model on the whole batch at once."""

    def __init__(self, loop: FineTuning, data: EncodedData) -> None:
        self.loop, self.data = loop, data
        config = copy.deepcopy(loop.model.model.config)
        automatic: Any = transformers.AutoModelForSequenceClassification
        self.model = automatic.from_config(config, attn_implementation="sdpa")
        self.batches = self._batches()
        self.losses: list[torch.Tensor] = []
        self.worst = 0.0
        loop.optimizer.register_step_pre_hook(self._compare)

    def _batches(self) -> Iterator[Any]:
        """The batches of each epoch's order, the last one as small as what remains: no batch spans two epochs."""
        size, seed = self.loop.settings.batch_size, self.loop.settings.seed
        for epoch in itertools.count():
            order = epoch_order(self.data.train.lengths, batch_size=size, seed=seed, epoch=epoch)
            yield from (order[start : start + size] for start in range(0, len(order), size))

    def _compare(self, *_: Any) -> None:
        self.model.load_state_dict(self.loop.model.model.state_dict())
        rows = next(self.batches)
        mask = torch.arange(LENGTH) < torch.from_numpy(self.data.train.lengths[rows])[:, None]
        logits = self.model(
            input_ids=torch.from_numpy(self.data.train.input_ids[rows]), attention_mask=mask.long()
        ).logits
        labels = torch.from_numpy(self.data.train.labels[rows])
        loss = functional.cross_entropy(logits, labels)
        self.losses += list(functional.cross_entropy(logits, labels, reduction="none").detach())
        parameters = dict(self.model.named_parameters())
        expected = torch.autograd.grad(loss, list(parameters.values()))
        scale = max(float(gradient.norm()) for gradient in expected)
        for name, gradient in zip(parameters, expected, strict=True):
            got = self.loop.model.model.get_parameter(name).grad
            assert got is not None, name
            self.worst = max(self.worst, float((got - gradient).norm()) / scale)


@pytest.mark.parametrize("family", FAMILIES)
@given(
    batch_size=st.integers(1, 24),
    micro_batch_size=st.one_of(st.just("auto"), st.integers(1, 24)),
    train=st.integers(1, 40),
    padded=st.booleans(),
    seed=st.integers(0, 3),
)
@hypothesis.settings(max_examples=25, deadline=None)
def test_the_gradient_of_a_batch_is_that_of_its_mean_loss_whatever_the_micro_batch(
    family: str, batch_size: int, micro_batch_size: Any, train: int, padded: bool, seed: int
) -> None:
    data = make_data(family, train=train, evaluated=4, shortest=3 if padded else LENGTH)
    settings = make_settings(model=family, batch_size=batch_size, micro_batch_size=micro_batch_size, seed=seed)
    loop = make_loop(data, settings)
    oracle = Oracle(loop, data)
    ends = [item.record for item in loop.run() if isinstance(item, EpochEnd)]
    assert oracle.worst < 1e-5
    assert loop.step == 2 * math.ceil(train / batch_size)
    assert len(oracle.losses) == loop.examples_seen == 2 * train
    for epoch, record in enumerate(ends):
        mean = float(np.mean(oracle.losses[epoch * train : (epoch + 1) * train]))
        assert record.train_loss == pytest.approx(mean, rel=1e-5)


class Limit:
    """A device with memory for ``examples`` at a time, from the training forward pass after ``start`` others on."""

    def __init__(self, loop: FineTuning, examples: int, *, start: int = 0) -> None:
        self.examples, self.start, self.passes, self.refused = examples, start, 0, 0
        loop.model.register_forward_pre_hook(self)

    def __call__(self, model: torch.nn.Module, arguments: tuple[Any, ...]) -> None:
        self.passes += model.training
        if model.training and self.passes > self.start and len(arguments[0]) > self.examples:
            self.refused += 1
            raise torch.OutOfMemoryError("the test's device is full")


@pytest.mark.parametrize("family", FAMILIES)
def test_a_micro_batch_that_does_not_fit_is_halved_until_it_does(family: str) -> None:
    """With dropout, so equal bits show that the repeated window started from the same random state."""
    data = make_data(family, train=50)
    limited = make_loop(data, make_settings(model=family, batch_size=20, dropout=0.1))
    limit = Limit(limited, 5)
    records = [item for item in limited.run() if isinstance(item, Interval)]
    assert limit.refused == 2
    assert (limited.micro_batch_size, limited.halved_at) == (5, [0])

    fitting = make_loop(data, make_settings(model=family, batch_size=20, dropout=0.1, micro_batch_size=5))
    expected = [item for item in fitting.run() if isinstance(item, Interval)]
    assert fitting.halved_at == []
    assert_same_bits(weights(limited), weights(fitting))
    assert [record.train_loss for record in records] == [record.train_loss for record in expected]


@pytest.mark.parametrize("family", FAMILIES)
def test_a_step_that_runs_out_of_memory_midway_is_repeated_from_its_start(family: str) -> None:
    """The fifth micro-batch is the second of the second step, when a part of that step's gradient is summed already."""
    data = make_data(family, train=50)
    loop = make_loop(data, make_settings(model=family, batch_size=24, micro_batch_size=8))
    oracle = Oracle(loop, data)
    limit = Limit(loop, 4, start=4)
    for _ in loop.run():
        pass
    assert limit.refused == 1
    assert (loop.micro_batch_size, loop.halved_at) == (4, [1])
    assert oracle.worst < 1e-5
    assert loop.examples_seen == 100


def test_memory_for_less_than_one_example_is_an_error() -> None:
    loop = make_loop(make_data("tiny-bert", train=20), make_settings(batch_size=8))
    Limit(loop, 0)
    with pytest.raises(torch.OutOfMemoryError, match="device is full"):
        next(loop.run())


def test_other_errors_are_not_mistaken_for_a_lack_of_memory() -> None:
    loop = make_loop(make_data("tiny-bert", train=20), make_settings(batch_size=8))

    def broken(*_: Any) -> None:
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    loop.model.register_forward_pre_hook(broken)
    with pytest.raises(RuntimeError, match="cannot be multiplied"):
        next(loop.run())
    assert loop.micro_batch_size == 8


def train_with_little_memory(megabytes: int) -> tuple[int, list[int], int, float]:
    """Train one step; until its gradient is complete, the address space may grow by ``megabytes`` only."""
    torch.set_num_threads(1)
    data = make_data("tiny-bert", train=4_096, evaluated=8, shortest=LENGTH)
    loop = make_loop(data, make_settings(epochs=1, batch_size=4_096, micro_batch_size=4_096))
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    unlimited = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + megabytes * 2**20, unlimited[1]))
    loop.optimizer.register_step_pre_hook(lambda *_: resource.setrlimit(resource.RLIMIT_AS, unlimited))
    oracle = Oracle(loop, data)
    for _ in loop.run():
        pass
    return loop.micro_batch_size, loop.halved_at, loop.examples_seen, oracle.worst


def test_the_micro_batch_is_halved_where_the_system_refuses_memory() -> None:
    """The whole batch takes some 800 MB; of the 550 MB allowed, the library's own buffers need a part."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as process:
        micro_batch_size, halved_at, examples_seen, worst = process.submit(train_with_little_memory, 550).result()
    assert micro_batch_size < 4_096
    assert halved_at == [0]
    assert examples_seen == 4_096
    assert worst < 1e-5
