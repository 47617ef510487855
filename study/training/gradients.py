"""The gradient of one effective batch, on a device that may hold only a part of it at a time.

It is that of the mean loss over the batch's examples, whatever the micro-batch: each micro-batch adds the sum over its
examples divided by the size of the whole batch.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional

from study.data.dataset import Encoded
from study.models.classifier import Classifier
from study.records import Precision
from study.settings import Settings
from study.training.devices import (
    autocast,
    is_out_of_memory,
    random_state,
    set_random_state,
    start_micro_batch,
)


class Gradients:
    """Accumulates gradients in the parameters of ``model`` over batches of ``train``, which it keeps on ``device``."""

    def __init__(
        self, model: Classifier, train: Encoded, settings: Settings, *, device: torch.device, precision: Precision
    ) -> None:
        self.model = model
        self.device = device
        self.precision = precision
        self.one_length = settings.compile
        self.forward = torch.compile(model) if settings.compile else model
        self.ids = torch.from_numpy(np.asarray(train.input_ids)).to(device)
        self.labels = torch.from_numpy(np.asarray(train.labels)).to(device)
        self.lengths = np.asarray(train.lengths)
        self.device_lengths = torch.from_numpy(self.lengths).to(device)
        self.micro_batch_size = start_micro_batch(settings.micro_batch_size, settings.batch_size, device)
        self.set_order(np.arange(len(self.lengths)))

    def set_order(self, order: npt.NDArray[np.int64]) -> None:
        """Use examples in this order (positions in the training split) from now on."""
        self.order = order
        self.device_order = torch.from_numpy(order).to(self.device)

    def accumulate(self, window: range) -> tuple[torch.Tensor, bool]:
        """Add the gradient of the mean loss over a window of the order; the sum of its losses, and whether it fitted.

        Where memory does not suffice, what was added is dropped, the micro-batch halved for good, and the window
        started again with the random numbers that it had started with. Raises torch's own error when not even one
        example fits.
        """
        fitted = True
        while True:
            generators = random_state(self.device)
            try:
                return self._backward(window), fitted
            except RuntimeError as error:
                if not is_out_of_memory(error) or self.micro_batch_size == 1:
                    raise
            # Outside the handler: the exception holds the frames, and they the memory, of what failed.
            fitted = False
            self.model.zero_grad(set_to_none=True)
            set_random_state(generators, self.device)
            self.micro_batch_size = math.ceil(min(self.micro_batch_size, len(window)) / 2)
            if self.device.type == "cuda":
                torch.cuda.empty_cache()

    def _backward(self, window: range) -> torch.Tensor:
        total = torch.zeros((), dtype=torch.float32, device=self.device)
        for start in range(0, len(window), self.micro_batch_size):
            ids, lengths, index = self._gather(window[start : start + self.micro_batch_size])
            with autocast(self.device, self.precision):
                logits = self.forward(ids, lengths)
            loss = functional.cross_entropy(logits.float(), self.labels[index], reduction="sum")
            torch.autograd.backward(loss / len(window))
            total += loss.detach()
        return total

    def _gather(self, window: range) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor]:
        """Ids, lengths (None where nothing is padded) and positions of a window, no longer than its longest text."""
        lengths = self.lengths[self.order[window.start : window.stop]]
        longest = self.ids.shape[1] if self.one_length else int(lengths.max())
        index = self.device_order[window.start : window.stop]
        padded = bool((lengths < longest).any())
        return self.ids[index, :longest], self.device_lengths[index] if padded else None, index
