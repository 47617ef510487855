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

    Without ``adam_bias_correction`` it is the optimizer of BERT's original code (Devlin et al. 2019; Zhang et al. 2021,
    "Revisiting few-sample BERT fine-tuning", section 3.1): its state starts so late that the corrections are 1.
    """
    optimizer = torch.optim.AdamW(
        parameter_groups(model, settings, peak_learning_rate=peak_learning_rate),
        betas=settings.adam_betas,
        eps=settings.adam_eps,
        fused=device.type in ("cpu", "cuda"),
    )
    if not settings.adam_bias_correction:
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                optimizer.state[parameter] = {
                    "step": torch.tensor(UNCORRECTED_STEP, dtype=torch.float32, device=device),
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
        group["lr"] = group["initial_lr"] * factor


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
