"""AdamW, its parameter groups, and its state by parameter name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from study.models.classifier import Classifier
from study.settings import Settings

# At this step count, both of Adam's bias corrections are exactly 1 in float32, and adding 1 does not change the count.
UNCORRECTED_STEP = 1e9


def make_optimizer(
    model: Classifier, settings: Settings, *, peak_learning_rate: float, device: torch.device
) -> torch.optim.AdamW:
    """AdamW (Loshchilov & Hutter 2019), whose groups each have their peak learning rate as ``initial_lr``.

    Its moments lie on the device from the start, so that the first step needs no more memory than the others. On CUDA
    a group's rate is a tensor there, which a graph of the step reads anew each time.

    Without ``adam_bias_correction`` it is the optimizer of BERT's original code (Devlin et al. 2019; Zhang et al. 2021,
    "Revisiting few-sample BERT fine-tuning", section 3.1): its state starts so late that the corrections are 1.
    """
    on_cuda = device.type == "cuda"
    optimizer = torch.optim.AdamW(
        parameter_groups(model, settings, peak_learning_rate=peak_learning_rate),
        betas=settings.adam_betas,
        eps=settings.adam_eps,
        fused=device.type in ("cpu", "cuda"),
        capturable=on_cuda,
    )
    optimizer._warned_capturable_if_run_uncaptured = True  # steps do run uncaptured, too
    start = 0.0 if settings.adam_bias_correction else UNCORRECTED_STEP
    for group in optimizer.param_groups:
        if on_cuda:
            group["lr"] = torch.tensor(group["lr"], dtype=torch.float32, device=device)
        for parameter in group["params"]:
            optimizer.state[parameter] = {
                "step": torch.tensor(start, dtype=torch.float32, device=device),
                "exp_avg": torch.zeros_like(parameter),
                "exp_avg_sq": torch.zeros_like(parameter),
            }
    return optimizer


def parameter_groups(model: nn.Module, settings: Settings, *, peak_learning_rate: float) -> list[dict[str, Any]]:
    """Parameters with and without weight decay: none on biases and on norms (Devlin et al. 2019, appendix A.2)."""
    decayed: list[nn.Parameter] = []
    others: list[nn.Parameter] = []
    for module in model.modules():
        norm = "norm" in type(module).__name__.lower()
        for name, parameter in module.named_parameters(recurse=False):
            if parameter.requires_grad:
                (others if norm or name == "bias" else decayed).append(parameter)
    return [
        {"params": parameters, "weight_decay": decay, "lr": peak_learning_rate, "initial_lr": peak_learning_rate}
        for parameters, decay in ((decayed, settings.weight_decay), (others, 0.0))
    ]


def set_learning_rate(optimizer: torch.optim.Optimizer, factor: float) -> None:
    """Give each group its peak learning rate times ``factor``."""
    for group in optimizer.param_groups:
        rate = group["initial_lr"] * factor
        if isinstance(group["lr"], torch.Tensor):
            group["lr"].fill_(rate)
        else:
            group["lr"] = rate


def optimizer_state(optimizer: torch.optim.Optimizer, model: nn.Module) -> dict[str, torch.Tensor]:
    """The optimizer's tensors as ``PARAMETER.MOMENT``, whatever the groups and their order; not copies."""
    return {
        f"{name}.{moment}": tensor
        for name, parameter in model.named_parameters()
        for moment, tensor in optimizer.state.get(parameter, {}).items()
    }


def load_optimizer_state(
    optimizer: torch.optim.Optimizer, model: nn.Module, tensors: Mapping[str, torch.Tensor]
) -> None:
    """Set what :func:`optimizer_state` returned."""
    positions = {
        parameter: position
        for position, parameter in enumerate(p for group in optimizer.param_groups for p in group["params"])
    }
    parameters = dict(model.named_parameters())
    state: dict[int, dict[str, torch.Tensor]] = {}
    for key, tensor in tensors.items():
        name, moment = key.rsplit(".", 1)
        # The optimizer takes these as they are; a copy lies in memory as the first ones did.
        state.setdefault(positions[parameters[name]], {})[moment] = tensor.clone()
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
