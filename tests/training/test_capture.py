"""Work that is launched as a CUDA graph, or kernel by kernel: the same results to the bit, and as few shapes."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Hashable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from loop_builder import CPU, FAMILIES, LENGTH, assert_same_bits, make_data, make_loop, make_settings

from study.records import Interval
from study.training import gradients
from study.training.capture import Changes, Eager, Graphs, Launcher, Work, make_launcher, nothing
from study.training.checkpoint import load_newest, save
from study.training.compiled import is_worth_compiling
from study.training.devices import avoid_cudnn_attention, random_state, release_memory, set_tf32
from study.training.loop import FineTuning

Test = Callable[..., None]


def on_gpu(test: Test) -> Test:
    """Mark a test that needs a GPU, where warnings of libraries are not errors."""
    marked: Test = pytest.mark.gpu(pytest.mark.filterwarnings("default")(test))
    return marked


@pytest.fixture
def cuda() -> Iterator[torch.device]:
    """A GPU in the state that a trajectory has it in."""
    set_tf32(False)
    avoid_cudnn_attention()
    yield torch.device("cuda")
    torch.cuda.set_sync_debug_mode("default")


def finish(loop: FineTuning) -> dict[str, torch.Tensor]:
    """Train to the end; weights, moments, generators, and the loss and the norm of each interval from here."""
    records = [item for item in loop.run() if isinstance(item, Interval)]
    numbers = torch.tensor([[record.train_loss, record.gradient_norm] for record in records], dtype=torch.float64)
    return {**{name: tensor.cpu().clone() for name, tensor in loop.state().tensors.items()}, "intervals": numbers}


def graphs_of(loop: FineTuning) -> list[int]:
    """How many graphs of micro-batches and of updates a loop has captured."""
    return [len(one.graphs) for one in (loop.gradients.launcher, loop.launcher) if isinstance(one, Graphs)]


CASES: dict[str, dict[str, Any]] = {
    "padded": {"dropout": 0.1, "batch_size": 8},
    "unpadded, clipped": {"dropout": 0.1, "batch_size": 8, "max_gradient_norm": 0.5},
    "accumulated": {"dropout": 0.1, "batch_size": 16, "micro_batch_size": 6},
    "without bias correction": {"batch_size": 8, "adam_bias_correction": False, "lr_schedule": "linear"},
}


@on_gpu
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("family", FAMILIES)
def test_captured_steps_equal_those_launched_kernel_by_kernel_to_the_bit(
    cuda: torch.device, family: str, case: str, precision: Any
) -> None:
    """With a ragged batch at each epoch's end, which is never captured."""
    data = make_data(family, train=36, shortest=LENGTH if "unpadded" in case else 3)
    settings = make_settings(model=family, log_every_examples=16, **CASES[case])
    eager = make_loop(data, settings, device=cuda, precision=precision, capture=False)
    expected = finish(eager)
    captured = make_loop(data, settings, device=cuda, precision=precision)
    assert_same_bits(finish(captured), expected)
    assert graphs_of(captured) == [2 if case == "accumulated" else 1, 1]
    assert graphs_of(eager) == []


@on_gpu
def test_captured_steps_of_several_lengths_equal_eager_ones_to_the_bit(
    cuda: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gradients, "ONE_LENGTH", LENGTH // 2)
    monkeypatch.setattr(gradients, "LENGTH_STEP", 4)
    data = make_data("tiny-bert", train=64)
    settings = make_settings(dropout=0.1, batch_size=4, micro_batch_size=2)
    expected = finish(make_loop(data, settings, device=cuda, capture=False))
    captured = make_loop(data, settings, device=cuda)
    assert_same_bits(finish(captured), expected)
    assert graphs_of(captured)[0] > 2


@on_gpu
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("records", [1, 3, 5])
def test_a_captured_loop_resumes_to_the_bit(cuda: torch.device, tmp_path: Path, family: str, records: int) -> None:
    data = make_data(family, train=36)
    settings = make_settings(model=family, dropout=0.1, batch_size=8, micro_batch_size=3, log_every_examples=16)
    whole = finish(make_loop(data, settings, device=cuda))
    loop = make_loop(data, settings, device=cuda)
    run = loop.run()
    for _ in range(records):
        next(run)
    save(tmp_path, loop.state())
    resumed = make_loop(data, settings, device=cuda)
    torch.rand(3, device=cuda)
    saved = load_newest(tmp_path)
    assert saved is not None
    resumed.load(saved)
    end = finish(resumed)
    whole["intervals"] = whole["intervals"][-len(end["intervals"]) :]
    assert_same_bits(end, whole)


@on_gpu
@pytest.mark.filterwarnings("ignore")  # of torch's compiler, about itself
def test_compiled_layers_are_captured_and_resume_to_the_bit(cuda: torch.device, tmp_path: Path) -> None:
    data = make_data("tiny-roberta", train=36)
    settings = make_settings(model="tiny-roberta", dropout=0.1, batch_size=8, compile=True, log_every_examples=16)
    whole = finish(make_loop(data, settings, device=cuda))
    eager = make_loop(data, settings, device=cuda, capture=False)
    assert eager.gradients.layers is not None
    assert_same_bits(finish(eager), whole)
    loop = make_loop(data, settings, device=cuda)
    run = loop.run()
    for _ in range(4):
        next(run)
    save(tmp_path, loop.state())
    resumed, saved = make_loop(data, settings, device=cuda), load_newest(tmp_path)
    assert saved is not None
    resumed.load(saved)
    end = finish(resumed)
    assert_same_bits(end, {**whole, "intervals": whole["intervals"][-len(end["intervals"]) :]})


@on_gpu
@pytest.mark.parametrize("there", ["cpu", "cuda"])
def test_a_checkpoint_of_one_device_resumes_on_the_other(cuda: torch.device, tmp_path: Path, there: str) -> None:
    """The generator that a checkpoint lacks is seeded from the seed and the step, so both runs from it are equal."""
    source, target = (CPU, cuda) if there == "cuda" else (cuda, CPU)
    data, settings = make_data("tiny-bert", train=40), make_settings(dropout=0.1, batch_size=8)
    first = make_loop(data, settings, device=source)
    next(first.run())
    save(tmp_path, first.state())
    saved = load_newest(tmp_path)
    assert saved is not None
    ends = []
    for _ in range(2):
        torch.seed()
        loop = make_loop(data, settings, device=target)
        loop.load(saved)
        ends.append(finish(loop))
        assert loop.step == 10
        assert {t.device.type for moments in loop.optimizer.state.values() for t in moments.values()} == {target.type}
    assert_same_bits(*ends)


@on_gpu
@pytest.mark.parametrize("capturing", [False, True])
def test_memory_that_does_not_suffice_halves_the_micro_batch_and_changes_nothing_else(
    cuda: torch.device, capturing: bool
) -> None:
    """Within a step that is launched for the first time, or in the middle of a capture."""
    data = make_data("tiny-bert", train=32)
    loop = make_loop(data, make_settings(dropout=0.1, batch_size=16), device=cuda)

    def refuse(_: torch.nn.Module, arguments: tuple[Any, ...]) -> None:
        if loop.model.training and len(arguments[0]) > 4 and torch.cuda.is_current_stream_capturing() == capturing:
            raise RuntimeError("CUDA error: out of memory")

    encoder: Any = loop.model.model.base_model
    encoder.encoder.layer[1].register_forward_pre_hook(refuse)
    limited = finish(loop)
    assert (loop.micro_batch_size, loop.halved_at) == (4, [0])
    fitting = make_loop(data, make_settings(dropout=0.1, batch_size=16, micro_batch_size=4), device=cuda)
    assert_same_bits(limited, finish(fitting))


@on_gpu
def test_the_devices_own_lack_of_memory_halves_the_micro_batch(cuda: torch.device) -> None:
    data = make_data("tiny-bert", train=8_192, evaluated=8)
    settings = make_settings(batch_size=8_192, micro_batch_size=8_192, epochs=1)
    release_memory()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_reserved()
    finish(make_loop(data, settings, device=cuda))
    needed = torch.cuda.max_memory_reserved() - before
    loop = make_loop(data, settings, device=cuda)
    release_memory()
    share = (torch.cuda.memory_reserved() + needed // 2) / torch.cuda.get_device_properties(cuda).total_memory
    torch.cuda.set_per_process_memory_fraction(share)
    try:
        finish(loop)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert loop.micro_batch_size < 8_192
    assert loop.halved_at == [0]


@on_gpu
@pytest.mark.parametrize("capture", [True, False])
@pytest.mark.parametrize("family", FAMILIES)
def test_no_optimizer_step_waits_for_the_device(cuda: torch.device, family: str, capture: bool) -> None:
    data = make_data(family, train=60)
    settings = make_settings(model=family, dropout=0.1, batch_size=16, micro_batch_size=6, max_gradient_norm=1.0)
    loop = make_loop(data, settings, device=cuda, capture=capture)
    loop.model.train()
    windows = [(range(16), True), (range(16, 32), False), (range(48, 60), False)]
    for window, last in windows:  # what happens once: captures, and buffers that libraries make
        loop._optimizer_step(window, last_of_interval=last)
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    for window, last in windows:
        loop._optimizer_step(window, last_of_interval=last)


@on_gpu
def test_a_graph_draws_the_random_numbers_of_the_work_and_preparing_it_changes_nothing(cuda: torch.device) -> None:
    totals = [torch.zeros(8, device=cuda) for _ in range(2)]

    def add(total: torch.Tensor) -> None:
        total.add_(torch.rand(8, device=cuda))

    graphs = Graphs(cuda)
    launchers: list[Launcher] = [graphs, Eager()]
    states = []
    for total, launcher in zip(totals, launchers, strict=True):
        torch.manual_seed(0)
        launcher.prepare("add", partial(add, total), changes=partial(list, [total]))
        assert not total.any()
        for _ in range(3):
            launcher.run("add", partial(add, total))
        states.append(random_state(cuda))
    assert torch.equal(*totals)
    assert_same_bits(*states)
    assert list(graphs.graphs) == ["add"]
    graphs.clear()
    assert not graphs.graphs


def test_kernel_by_kernel_work_is_done_once_whatever_its_key() -> None:
    done: list[str] = []
    launcher = make_launcher(CPU, capture=True)
    assert isinstance(launcher, Eager)
    launcher.prepare("a", lambda: done.append("prepared"))
    for name in "aba":
        launcher.run("a", partial(done.append, name), changes=nothing)
    launcher.clear()
    assert done == ["a", "b", "a"]


class Recording(Eager):
    """Launches kernel by kernel as if it were a graph, and keeps the keys."""

    captures = True

    def __init__(self) -> None:
        self.keys: list[Hashable] = []

    def run(self, key: Hashable, work: Work, *, changes: Changes = nothing, warm_up: Work | None = None) -> None:
        """Do ``work``."""
        self.keys.append(key)
        work()


@pytest.mark.parametrize(
    ("micro_batch_size", "keys"),
    [
        pytest.param(3, [(LENGTH, False, True), (LENGTH, False, False)], id="3, 3 and 2"),
        pytest.param(4, [(LENGTH, False, True), (LENGTH, False, False)], id="4 and 4"),
        pytest.param(8, [(LENGTH, False, "step")], id="8"),
    ],
)
@pytest.mark.parametrize("family", FAMILIES)
def test_only_full_micro_batches_of_full_batches_are_launched_with_a_key(
    family: str, micro_batch_size: int, keys: list[Hashable]
) -> None:
    """Of each epoch of 20 texts, two batches are of 8 and cut in parts, and the last batch is of 4."""
    data = make_data(family, train=20, shortest=LENGTH)
    settings = make_settings(
        model=family, batch_size=8, micro_batch_size=micro_batch_size, dropout=0.1, max_gradient_norm=0.5
    )
    loop = make_loop(data, settings)
    recording = Recording()
    loop.gradients.launcher = recording
    assert_same_bits(finish(loop), finish(make_loop(data, settings)))
    assert recording.keys == keys * 2 * 2


def test_where_shapes_are_fixed_lengths_are_few_and_the_mask_is_always_given(monkeypatch: pytest.MonkeyPatch) -> None:
    loop = make_loop(make_data("tiny-bert", train=60), make_settings(batch_size=4))
    part = loop.gradients
    windows = [range(start, start + 4) for start in range(0, 60, 4)]
    longest = [int(part.lengths[part.order[list(window)]].max()) for window in windows]
    assert [part._shape(window)[0] for window in windows] == longest
    part.fixed_shapes = True
    monkeypatch.setattr(gradients, "LENGTH_STEP", 4)
    assert [part._shape(window) for window in windows] == [(-(-length // 4) * 4, True) for length in longest]
    monkeypatch.setattr(gradients, "MOST_LENGTHS", 2)
    assert {part._shape(window) for window in windows} <= {(8, True), (16, True)}
    part.one_length = True
    assert {part._shape(window) for window in windows} == {(LENGTH, True)}


def test_texts_of_a_length_between_two_steps_are_padded_to_the_longest_of_all(monkeypatch: pytest.MonkeyPatch) -> None:
    part = make_loop(make_data("tiny-bert", train=8, shortest=LENGTH), make_settings()).gradients
    part.fixed_shapes = True
    monkeypatch.setattr(gradients, "LENGTH_STEP", 7)
    assert part._shape(range(8)) == (LENGTH, True)


@pytest.mark.parametrize(
    ("examples", "batch_size", "optimizer_steps", "worth"),
    [
        (40_000, 16, None, True),
        (40_000, 256, None, True),
        (40_000, 4_096, None, True),
        (40_000, 16, 500, False),
        (40_000, 16, 100_000, True),
        (4_800, 16, None, False),
        (10, 16, None, False),
    ],
)
def test_layers_are_compiled_where_an_epoch_saves_a_second(
    examples: int, batch_size: int, optimizer_steps: int | None, worth: bool
) -> None:
    got = is_worth_compiling(examples=examples, batch_size=batch_size, optimizer_steps=optimizer_steps)
    assert got is worth


def test_whether_auto_compiles_depends_on_nothing_that_changes_in_a_study(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not on the epochs, which a study may prolong; never for long texts, nor where a step cannot be captured."""
    monkeypatch.setattr(gradients, "compiler_works", lambda _: True)
    train = make_data("tiny-bert", train=1).train
    long = dataclasses.replace(train, labels=np.zeros(40_000, dtype=np.int64))
    cuda = torch.device("cuda")
    for epochs in (1, 5):
        assert gradients._compiled(make_settings(epochs=epochs), long, cuda, short=True)
        assert not gradients._compiled(make_settings(epochs=epochs), train, cuda, short=True)
        assert not gradients._compiled(make_settings(epochs=epochs), long, cuda, short=False)
        assert not gradients._compiled(make_settings(epochs=epochs, compile=False), long, cuda, short=True)
        assert gradients._compiled(make_settings(epochs=epochs, compile=True), train, cuda, short=False)
    monkeypatch.setattr(gradients, "compiler_works", lambda _: False)
    assert not gradients._compiled(make_settings(compile=True), long, cuda, short=True)
    assert make_loop(make_data("tiny-bert", train=8), make_settings()).gradients.layers is None
