"""The gradient of one effective batch, on a device that may hold only a part of it at a time.

It is that of the mean loss over the batch's examples, whatever the micro-batch: each micro-batch adds the sum over its
examples divided by the size of the whole batch.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional

from study.data.dataset import Encoded
from study.models.classifier import Classifier
from study.records import Precision
from study.settings import Settings
from study.training.capture import Work, make_launcher, nothing
from study.training.compiled import CompiledLayers, compiler_works, is_worth_compiling
from study.training.devices import (
    autocast,
    is_out_of_memory,
    random_state,
    release_memory,
    reset_peak_memory,
    set_random_state,
    start_micro_batch,
)

# On an accelerator texts are padded to a multiple of this many tokens, so that few shapes occur: at most so many.
LENGTH_STEP, MOST_LENGTHS = 64, 8
# Up to here, padding all texts to the longest costs less than a second shape.
ONE_LENGTH = 128


class Gradients:
    """Accumulates gradients in the parameters of ``model`` over batches of ``train``, which it keeps on ``device``.

    How a micro-batch is launched follows from its shape alone: one of the full size, of an effective batch of the full
    size, as a CUDA graph where ``capture`` allows it, and with compiled layers where the settings want them; every
    other one kernel by kernel. On CUDA, the gradients of a family whose steps can be captured stay where they are.
    """

    def __init__(
        self,
        model: Classifier,
        train: Encoded,
        settings: Settings,
        *,
        device: torch.device,
        precision: Precision,
        capture: bool = True,
    ) -> None:
        self.model = model
        self.device = device
        self.precision = precision
        self.batch_size = settings.batch_size
        self.parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        # Other families ask the device whether anything is padded, and wait for the answer.
        self.fixed_shapes = device.type == "cuda" and model.first_position
        self.launcher = make_launcher(device, capture=capture and self.fixed_shapes)
        short = self.fixed_shapes and train.input_ids.shape[1] <= ONE_LENGTH
        self.layers = CompiledLayers(model) if _compiled(settings, train, device, short=short) else None
        self.one_length = self.layers is not None or short
        self.ids = torch.from_numpy(np.asarray(train.input_ids)).to(device)
        self.labels = torch.from_numpy(np.asarray(train.labels)).to(device)
        self.lengths = np.asarray(train.lengths)
        self.device_lengths = torch.from_numpy(self.lengths).to(device)
        self.loss = torch.zeros((), dtype=torch.float32, device=device)
        if self.fixed_shapes:
            for parameter in self.parameters:
                parameter.grad = torch.zeros_like(parameter)
        self.set_micro_batch_size(start_micro_batch(settings.micro_batch_size, settings.batch_size, device))
        self.set_order(np.arange(len(self.lengths)))

    def set_order(self, order: npt.NDArray[np.int64]) -> None:
        """Use examples in this order (positions in the training split) from now on."""
        self.order = order
        self.device_order = torch.from_numpy(order).to(self.device)

    def set_micro_batch_size(self, size: int) -> None:
        """Let so many examples pass through the model at a time from now on."""
        self.micro_batch_size = size
        self.launcher.clear()
        self.index = torch.zeros(size, dtype=torch.int64, device=self.device)

    def accumulate(self, window: range, update: Work) -> bool:
        """Set the gradient of the mean loss over a window of the order, and :attr:`loss`, the sum of its losses.

        Returns whether the ``update`` that follows is done too: where a micro-batch is a whole batch, both are one
        graph, which reads the gradient where it was computed, and the parameters' own gradients stay as they were.

        Where memory does not suffice, the micro-batch is halved for good, and the window started again with the random
        numbers that it had started with. Raises torch's own error when not even one example fits.
        """
        while True:
            generators = random_state(self.device)
            try:
                return self._backward(window, update)
            except RuntimeError as error:
                if not is_out_of_memory(error) or self.micro_batch_size == 1:
                    raise
            # Outside the handler: the exception holds the frames, and they the memory, of what failed.
            self.release()
            set_random_state(generators, self.device)
            self.set_micro_batch_size(math.ceil(min(self.micro_batch_size, len(window)) / 2))
            if self.device.type == "cuda":
                release_memory()
                reset_peak_memory(self.device)

    def release(self) -> None:
        """Free the memory of the gradients, unless it has to stay where it is; the next window overwrites them."""
        if not self.fixed_shapes:
            self.model.zero_grad(set_to_none=True)

    def _backward(self, window: range, update: Work) -> bool:
        for start in range(0, len(window), self.micro_batch_size):
            part = window[start : start + self.micro_batch_size]
            length, padded = self._shape(part)
            index = self.device_order[part.start : part.stop]
            work = partial(self._micro_batch, length, padded, of=len(window), first=start == 0)
            if len(window) != self.batch_size or len(part) != self.micro_batch_size:
                work(index)
                continue
            self.index.copy_(index)
            work = partial(work, self.index, layers=self.layers)
            if len(part) == len(window) and self.launcher.captures:
                # The warm-up computes the gradient alone: the update has been warmed up, and must not be done twice.
                self.launcher.run((length, padded, "step"), partial(work, update=update), warm_up=work)
                return True
            self.launcher.run((length, padded, start == 0), work, changes=nothing if start == 0 else self._results)
        return False

    def _results(self) -> list[torch.Tensor]:
        return [self.loss, *(parameter.grad for parameter in self.parameters if parameter.grad is not None)]

    def _micro_batch(
        self,
        length: int,
        padded: bool,
        index: torch.Tensor,
        *,
        of: int,
        first: bool,
        layers: CompiledLayers | None = None,
        update: Work | None = None,
    ) -> None:
        """Set, or after the ``first`` one add, the gradient and the loss of the examples at ``index``, of ``of``.

        Given an ``update``, do it with this gradient, which is kept no longer.
        """
        used: AbstractContextManager[None] = layers.used() if layers is not None else nullcontext()
        with used, autocast(self.device, self.precision):
            logits = self.model(self.ids[index, :length], self.device_lengths[index] if padded else None)
        loss = functional.cross_entropy(logits.float(), self.labels[index], reduction="sum")
        gradients = torch.autograd.grad(loss / of, self.parameters, allow_unused=True)
        with torch.no_grad():
            self.loss.copy_(loss) if first else self.loss.add_(loss)
            if update is None:
                _keep(self.parameters, gradients, first=first)
            else:
                with _lent(self.parameters, gradients):
                    update()

    def _shape(self, window: range) -> tuple[int, bool]:
        """The length in tokens that a window is padded to, and whether the model gets the lengths of its texts."""
        longest = self.ids.shape[1]
        lengths = self.lengths[self.order[window.start : window.stop]]
        if not self.one_length:
            step = LENGTH_STEP * math.ceil(longest / LENGTH_STEP / MOST_LENGTHS) if self.fixed_shapes else 1
            longest = min(longest, step * math.ceil(int(lengths.max()) / step))
        # Without a mask attention takes another path, with other last bits; where shapes are fixed, so is the path.
        return longest, self.fixed_shapes or bool((lengths < longest).any())


def _compiled(settings: Settings, train: Encoded, device: torch.device, *, short: bool) -> bool:
    """Whether the layers are compiled; ``auto`` compiles those of steps that can be captured, of ``short`` texts.

    Launched one by one, compiled layers are slower at small batches; padding longer texts to one length costs more.
    """
    wanted = settings.compile
    if wanted == "auto":
        wanted = short and is_worth_compiling(
            examples=len(train), batch_size=settings.batch_size, optimizer_steps=settings.optimizer_steps
        )
    return wanted and compiler_works(device)


@contextmanager
def _lent(parameters: list[torch.nn.Parameter], gradients: tuple[torch.Tensor | None, ...]) -> Iterator[None]:
    """Within it, ``parameters`` have these gradients, as contiguous as they, and then their own again."""
    own = [parameter.grad for parameter in parameters]
    try:
        for parameter, gradient in zip(parameters, gradients, strict=True):
            if gradient is not None:
                parameter.grad = gradient.contiguous()
        yield
    finally:
        for parameter, gradient in zip(parameters, own, strict=True):
            parameter.grad = gradient


def _keep(parameters: list[torch.nn.Parameter], gradients: tuple[torch.Tensor | None, ...], *, first: bool) -> None:
    """Set or add the gradients of ``parameters``, as contiguous as they; one that is not used keeps what it has."""
    used = [(p, g.contiguous()) for p, g in zip(parameters, gradients, strict=True) if g is not None]
    held = [p.grad for p, _ in used if p.grad is not None]
    if len(held) < len(used):
        assert first
        for parameter, gradient in used:
            parameter.grad = gradient
    elif first:
        torch._foreach_copy_(held, [gradient for _, gradient in used])
    else:
        torch._foreach_add_(held, [gradient for _, gradient in used])
