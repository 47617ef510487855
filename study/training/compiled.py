"""The encoder's layers, compiled: fewer and larger kernels, from one compilation, since the layers are alike."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch
from torch import nn

BACKEND = "inductor"
# What compiled layers save of a captured step of bert-base at 128 tokens on an H200: 1.4 ms with a batch of 16, 11.7 ms
# with 256. Compiling takes about 10 s, once for all trajectories of a process, and less where it was done before.
SAVED_SECONDS_A_STEP, SAVED_SECONDS_AN_EXAMPLE = 8e-4, 4e-5
WORTH_SECONDS_AN_EPOCH = 1.0
# Shapes that one process may compile a layer for: batch sizes, lengths and families of the trajectories it trains.
MOST_SHAPES = 128


class CompiledLayers:
    """The layers of ``model`` in a compiled form, used only within :meth:`used`."""

    def __init__(self, model: nn.Module) -> None:
        settings: Any = torch._dynamo.config
        settings.recompile_limit = max(settings.recompile_limit, MOST_SHAPES)
        self.forwards: list[tuple[nn.Module, Callable[..., Any]]] = [
            (layer, torch.compile(layer.forward, dynamic=False, backend=BACKEND)) for layer in alike_layers(model)
        ]

    @contextmanager
    def used(self) -> Iterator[None]:
        """Within it, the model runs its compiled layers."""
        for layer, forward in self.forwards:
            layer.forward = forward
        try:
            yield
        finally:
            for layer, _ in self.forwards:
                del layer.forward


def is_worth_compiling(*, examples: int, batch_size: int, optimizer_steps: int | None) -> bool:
    """Whether compiled layers save a second an epoch, of ``examples`` and at most so many ``optimizer_steps``.

    It does not depend on the number of epochs, so that a run that is prolonged, or a cell that is derived from a longer
    one, is trained alike.
    """
    steps = min(-(-examples // batch_size), optimizer_steps or examples)
    return steps * (SAVED_SECONDS_A_STEP + SAVED_SECONDS_AN_EXAMPLE * batch_size) >= WORTH_SECONDS_AN_EPOCH


def alike_layers(model: nn.Module) -> list[nn.Module]:
    """The layers of the longest list of modules, but for those that have a forward pass of their own."""
    lists = [module for module in model.modules() if isinstance(module, nn.ModuleList)]
    longest: list[nn.Module] = max(([*modules] for modules in lists), key=len, default=[])
    return [layer for layer in longest if "forward" not in vars(layer)]


@cache
def compiler_works(device: torch.device) -> bool:
    """Whether a small function can be compiled for ``device``; warns where it cannot, once."""

    def small(x: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.gelu(x * 2 + 1)

    try:
        x = torch.ones(8, device=device, requires_grad=True)
        torch.compile(small, backend=BACKEND)(x).sum().backward()  # type: ignore[no-untyped-call]  # of torch
    except Exception as error:  # whatever a missing or broken tool chain raises
        reason = str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
        warnings.warn(f"torch.compile does not work here, so training runs uncompiled: {reason}", stacklevel=2)
        return False
    return True
