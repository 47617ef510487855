"""Whether training on a GPU is right: graphs, interruptions, memory that does not suffice, and dropout."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.sections import Place, Results
from benchmarks.workload import CLASSES, SHAPES, as_data, first_examples, generate_texts
from study.data.dataset import Encoded, EncodedData
from study.models.classifier import load_classifier
from study.records import Interval, Precision
from study.settings import Settings
from study.stopping import StoppingPolicy
from study.training import checkpoint, compiled
from study.training.capture import Graphs
from study.training.devices import random_state, release_memory
from study.training.loop import FineTuning

FAMILIES = {"tiny-bert": SHAPES["tiny"], "tiny-roberta": SHAPES["tiny-roberta"]}
CPU = torch.device("cpu")
# Examples of most loops: four batches and a ragged one an epoch.
FEW = 68
Tensors = dict[str, torch.Tensor]


def make_data(family: str, n: int, *, length: int, padded: bool, evaluated: int = 16) -> EncodedData:
    """Random texts, which have between 3 tokens and ``length`` where some are ``padded``."""
    shape = FAMILIES[family]
    rng = np.random.default_rng(n + length)
    texts = generate_texts(n, shape, length=length, full=True, rng=rng)
    if padded:
        lengths = rng.integers(3, length + 1, n).astype(np.int32)
        ids = np.where(np.arange(length) < lengths[:, None], texts.input_ids, shape.pad).astype(np.int32)
        texts = Encoded(input_ids=ids, lengths=lengths, labels=texts.labels, ids=texts.ids)
    few = first_examples(texts, evaluated)
    return replace(as_data(texts, shape), validation=few, test=few)


def make_loop(
    data: EncodedData,
    *,
    device: torch.device,
    precision: Precision = "bfloat16",
    capture: bool = True,
    **values: Any,
) -> FineTuning:
    """A loop at its start: two epochs with dropout and clipping, unless ``values`` say otherwise."""
    settings = Settings.model_validate(
        {"model": "tiny-bert", "epochs": 2, "learning_rate": 1e-3, "max_gradient_norm": 1.0, "batch_size": 16}
        | {"log_every_examples": 32, "lr_schedule": "linear"}
        | values
    )
    assert settings.epochs is not None
    torch.manual_seed(settings.seed)
    model = load_classifier(
        settings.model, classes=CLASSES, special=data.special, max_length=data.max_length, dropout=settings.dropout
    )
    return FineTuning(
        model.to(device),
        data,
        settings,
        policies=[StoppingPolicy(max_epochs=settings.epochs)],
        optimizer_steps=settings.epochs * math.ceil(len(data.train) / settings.batch_size),
        device=device,
        precision=precision,
        capture=capture,
    )


def finish(loop: FineTuning) -> Tensors:
    """Train to the end; weights, moments, generators, and the loss and the norm of each interval from here."""
    items = [item for item in loop.run() if isinstance(item, Interval)]
    numbers = [[item.train_loss, item.gradient_norm] for item in items]
    state = {name: tensor.detach().clone().cpu() for name, tensor in loop.state().tensors.items()}
    return {**state, "intervals": torch.tensor(numbers, dtype=torch.float64)}


def largest_difference(one: Mapping[str, torch.Tensor], other: Mapping[str, torch.Tensor]) -> tuple[bool, str]:
    """Whether both hold the same bits, and where they differ most."""
    differences = {
        name: float((tensor.double() - other[name].double()).abs().max())
        for name, tensor in one.items()
        if tensor.numel() and not torch.equal(tensor, other[name])
    }
    if not differences:
        return one.keys() == other.keys(), ""
    name = max(differences, key=lambda name: differences[name])
    return False, f"{len(differences)} of {len(one)} differ, most {name}: {differences[name]:.3g}"


def graphs_of(loop: FineTuning) -> str:
    """How many graphs a loop has captured."""
    counts = [
        len(launcher.graphs) if isinstance(launcher, Graphs) else 0
        for launcher in (loop.gradients.launcher, loop.launcher)
    ]
    return f"{counts[0]} + {counts[1]} graphs"


def captured(results: Results, place: Place) -> None:
    """A captured step equals an eager one to the bit, with whole and ragged batches and micro-batches."""
    cases: list[tuple[str, Precision, int, bool, dict[str, Any]]] = [
        ("tiny-bert", "bfloat16", 128, True, {"micro_batch_size": 6}),
        ("tiny-roberta", "bfloat16", 128, False, {"max_gradient_norm": None}),
        ("tiny-roberta", "float32", 128, True, {"micro_batch_size": 8, "adam_bias_correction": False}),
        ("tiny-bert", "bfloat16", 320, True, {"micro_batch_size": 8}),
    ]
    for family, precision, length, padded, values in cases:
        data = make_data(family, FEW, length=place.size(length, length // 8), padded=padded)
        ends, told = [], ""
        for capture in (False, True):
            loop = make_loop(data, device=place.device, precision=precision, capture=capture, model=family, **values)
            ends.append(finish(loop))
            told = graphs_of(loop)
        same, note = largest_difference(*ends)
        label = f"{family} {precision} {length}{' padded' if padded else ''} {values}"
        used = not place.cuda or not told.startswith("0")
        results.add(f"captured = eager: {label}", same, ok=same and used, note=f"{told} {note}")


def _resumes(data: EncodedData, whole: Tensors, **values: Any) -> tuple[bool, str]:
    """Whether a loop that is interrupted in its second epoch ends as ``whole``, which trained without interruption."""
    loop = make_loop(data, **values)
    run = loop.run()
    passed = [next(run) for _ in range(5)]
    with tempfile.TemporaryDirectory() as folder:
        checkpoint.save(Path(folder), loop.state())
        torch.rand(3, device=values["device"])  # what must not matter
        resumed = make_loop(data, **values)
        saved = checkpoint.load_newest(Path(folder))
    assert saved is not None
    resumed.load(saved)
    end = finish(resumed)
    expected = {**whole, "intervals": whole["intervals"][-len(end["intervals"]) :]}
    same, note = largest_difference(end, expected)
    return same, f"after {len(passed)} records; {note}"


def resumed(results: Results, place: Place) -> None:
    """A resumed run matches an uninterrupted one bit for bit, and so does a second uninterrupted one."""
    cases: list[dict[str, Any]] = [
        {"model": "tiny-bert", "adam_bias_correction": False},
        {"model": "tiny-roberta", "micro_batch_size": 6},
    ]
    for case in cases:
        data = make_data(case["model"], FEW, length=place.size(128, 16), padded=True)
        values = {"device": place.device, **case}
        whole = finish(make_loop(data, **values))
        same, note = _resumes(data, whole, **values)
        results.add(f"interrupted and resumed = whole: {case}", same, ok=same, note=note)
    same, note = largest_difference(whole, finish(make_loop(data, **values)))
    results.add(f"two runs are equal: {case}", same, ok=same, note=note)


def choose_backend(place: Place) -> None:
    """In a rehearsal layers are traced and not compiled, which takes a minute less."""
    if place.rehearse:
        compiled.BACKEND = "eager"


def compiled_layers(results: Results, place: Place) -> None:
    """Compiled layers train as others do; captured they equal the eager ones to the bit, also after resuming."""
    choose_backend(place)
    results.add("the compiler works", works := compiled.compiler_works(place.device), ok=works)
    data = make_data("tiny-roberta", FEW, length=place.size(128, 16), padded=True)
    values: dict[str, Any] = {"device": place.device, "model": "tiny-roberta", "compile": True}
    loop = make_loop(data, **values)
    whole, layers = finish(loop), loop.gradients.layers
    results.add("compiled: layers", len(layers.forwards) if layers else 0, ok=layers is not None, note=graphs_of(loop))
    same, note = largest_difference(finish(make_loop(data, capture=False, **values)), whole)
    results.add("compiled: captured = eager", same, ok=same, note=note)
    same, note = _resumes(data, whole, **values)
    results.add("compiled: interrupted and resumed = whole", same, ok=same, note=note)
    one, other = (
        finish(make_loop(data, **{**values, "compile": c, "dropout": 0.0, "epochs": 1}))["intervals"]
        for c in (False, True)
    )
    off = float((one - other).abs().max())
    results.add("compiled: losses and norms without dropout", off, ok=off < 5e-2)
    results.add("graphs compiled", torch._dynamo.utils.counters["stats"]["unique_graphs"])


def no_wait(results: Results, place: Place) -> None:
    """No optimizer step waits for the device: torch itself raises where one does."""
    for family, capture in (("tiny-bert", True), ("tiny-roberta", True), ("tiny-bert", False)):
        data = make_data(family, FEW, length=place.size(128, 16), padded=True)
        loop = make_loop(data, device=place.device, capture=capture, model=family, micro_batch_size=6)
        loop.model.train()
        for last in (True, False):  # what happens once: captures, and buffers that libraries make
            loop._optimizer_step(range(16), last_of_interval=last)
        loop._optimizer_step(range(48, 59), last_of_interval=False)
        place.wait()
        if place.cuda:
            torch.cuda.set_sync_debug_mode("error")
        try:
            loop._optimizer_step(range(16, 32), last_of_interval=True)
            loop._optimizer_step(range(32, 48), last_of_interval=False)
            loop._optimizer_step(range(48, 59), last_of_interval=False)
            told = "no wait"
        except RuntimeError as error:
            told = str(error)[:200]
        finally:
            if place.cuda:
                torch.cuda.set_sync_debug_mode("default")
        label = f"steps without waiting: {family} {'captured' if capture else 'eager'}"
        results.add(label, told, ok=told == "no wait", note=graphs_of(loop))


def out_of_memory(results: Results, place: Place) -> None:
    """Memory that does not suffice in forward, backward or capture halves the micro-batch, and nothing else changes."""
    n = place.size(1_024, 16)
    data = make_data("tiny-bert", 2 * n, length=place.size(128, 16), padded=False)

    def make(micro: int) -> FineTuning:
        return make_loop(data, device=place.device, batch_size=n, micro_batch_size=micro, epochs=1)

    cases: dict[str, Callable[[FineTuning], object]] = {"while capturing": _refuse_captures}
    if place.cuda:
        total = torch.cuda.get_device_properties(0).total_memory
        loop = make(n)
        release_memory()
        rest = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        with torch.autocast("cuda", dtype=torch.bfloat16):
            logits = loop.model.train()(loop.gradients.ids[:n], loop.gradients.device_lengths[:n])
        forward = torch.cuda.max_memory_allocated()
        del logits
        torch.cuda.reset_peak_memory_stats()
        eager = make_loop(data, device=place.device, batch_size=n, micro_batch_size=n, epochs=1, capture=False)
        eager.model.train()
        eager.gradients.accumulate(range(n), lambda: None)
        both = torch.cuda.max_memory_allocated()
        del loop, eager
        results.add("GB at rest, after forward, at most", f"{rest / 1e9:.2f}, {forward / 1e9:.2f}, {both / 1e9:.2f}")
        for name, room in (("in backward", (forward + both) / 2), ("in forward", (rest + forward) / 2)):
            cases[name] = partial(_leave_memory, room / total)
    for name, limit in cases.items():
        release_memory()
        limited = make(n)
        try:
            limit(limited)
            got = finish(limited)
        finally:
            if place.cuda:
                torch.cuda.set_per_process_memory_fraction(1.0)
        micro, halved = limited.micro_batch_size, limited.halved_at
        del limited
        release_memory()
        expected = finish(make(micro))
        same, note = largest_difference(got, expected)
        ok = same and 0 < micro < n and halved == [0]
        if name == "while capturing" and not place.cuda:
            ok = same
        results.add(f"no memory {name}: halved to {micro}, at {halved}", same, ok=ok, note=note)


def _leave_memory(share: float, _: FineTuning) -> None:
    torch.cuda.set_per_process_memory_fraction(share)


def _refuse_captures(loop: FineTuning) -> None:
    """Let a capture of more than half a batch find no memory in the middle of its forward pass."""
    most = loop.settings.batch_size // 2

    def refuse(_: torch.nn.Module, arguments: tuple[Any, ...]) -> None:
        if torch.cuda.is_available() and torch.cuda.is_current_stream_capturing() and len(arguments[0]) > most:
            raise RuntimeError("CUDA error: out of memory")

    encoder: Any = loop.model.model.base_model
    encoder.encoder.layer[1].register_forward_pre_hook(refuse)


def moved(results: Results, place: Place) -> None:
    """A checkpoint written on the CPU resumes on the GPU, and vice versa."""
    data = make_data("tiny-bert", 32, length=16, padded=True)
    for source, target in ((CPU, place.device), (place.device, CPU)):
        first = make_loop(data, device=source, precision="float32")
        run = first.run()
        for _ in range(2):
            next(run)
        with tempfile.TemporaryDirectory() as folder:
            checkpoint.save(Path(folder), first.state())
            saved = checkpoint.load_newest(Path(folder))
        assert saved is not None
        ends = []
        for _ in range(2):
            torch.seed()
            loop = make_loop(data, device=target, precision="float32")
            loop.load(saved)
            ends.append(finish(loop))
        same, note = largest_difference(*ends)
        places = {tensor.device.type for tensors in loop.optimizer.state.values() for tensor in tensors.values()}
        generators = random_state(target).keys()
        ok = same and places == {target.type}
        results.add(f"checkpoint of {source.type} on {target.type}", same, ok=ok, note=f"{note} {list(generators)}")


def dropout(results: Results, place: Place) -> None:
    """Attention drops the given share of its weights, which the identity as values makes visible."""
    n, heads, length, width = place.size((64, 12, 64, 64), (16, 4, 32, 32))
    zero = torch.zeros(n, heads, length, width, device=place.device, dtype=torch.bfloat16)
    value = torch.eye(length, width, device=place.device, dtype=torch.bfloat16).expand_as(zero)
    mask = torch.ones(n, 1, 1, length, dtype=torch.bool, device=place.device)
    for given in (mask, None):
        shares = torch.nn.functional.scaled_dot_product_attention(zero, zero, value, attn_mask=given, dropout_p=0.1)
        dropped, mean = float((shares == 0).float().mean()), float(shares.float().mean() * length)
        near = place.size(0.002, 0.01)
        label = f"share dropped at 0.1, {'mask' if given is not None else 'no mask'}"
        results.add(label, dropped, ok=abs(dropped - 0.1) < near and abs(mean - 1) < 5 * near, note=f"mean {mean:.4f}")


SECTIONS = {
    "no_wait": no_wait,
    "out_of_memory": out_of_memory,
    "moved": moved,
    "dropout": dropout,
    "compiled": compiled_layers,
    "resumed": resumed,
    "captured": captured,
}
