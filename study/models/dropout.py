"""Faster dropout on the CPU: 16-bit random numbers instead of doubles.

torch's own dropout draws a double for every activation there, which takes a fifth of a small model's step.
"""

from __future__ import annotations

import math

import torch
from torch import nn
from torch.nn import functional

# Of so many equally likely 16-bit numbers, those below probability x LEVELS zero an element.
LEVELS = 2**16


def drop(x: torch.Tensor, probability: float) -> torch.Tensor:
    """``x`` with each element zero with ``probability``, to the nearest of 65,536 levels, and scaled to keep its mean.

    As :func:`torch.nn.functional.dropout` (Srivastava et al. 2014), which is used wherever it is fast. Draws from
    torch's global generator of the device.
    """
    left_out = round(probability * LEVELS)
    if x.device.type != "cpu" or not 0 < left_out < LEVELS or torch.compiler.is_compiling():
        return functional.dropout(x, probability)
    words = torch.empty(math.ceil(x.numel() / 4), dtype=torch.int64).random_(-(2**63), None)
    numbers = words.view(torch.int16)[: x.numel()].view(x.shape)
    # 1 or 0, at once in the type they are multiplied in: faster than a boolean that is converted.
    kept = torch.ge(numbers, left_out - LEVELS // 2, out=torch.empty(x.shape, dtype=x.dtype))
    return x * kept.mul_(LEVELS / (LEVELS - left_out))


class Dropout(nn.Dropout):
    """torch's module, with :func:`drop` as its forward pass."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:  # noqa: A002  # torch's name
        """``input``, with some elements zeroed in training."""
        return drop(input, self.p) if self.training else input


def replace_dropout(model: nn.Module) -> None:
    """Replace every ``nn.Dropout`` in ``model`` with :class:`Dropout`; it has no weights, so no name changes."""
    for module in model.modules():
        for name, child in module.named_children():
            if type(child) is nn.Dropout:
                setattr(module, name, Dropout(child.p).train(child.training))
