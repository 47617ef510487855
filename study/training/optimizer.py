"""Which optimizer takes the steps?"""

from __future__ import annotations

import torch

from study.models.classifier import Classifier, parameter_groups
from study.settings import Settings

# From so many steps on, float32 has both of Adam's bias corrections at exactly 1 and the count no longer grows.
UNCORRECTED_STEP = 1e9


def make_optimizer(model: Classifier, settings: Settings, device: torch.device) -> torch.optim.AdamW:
    """AdamW (Loshchilov & Hutter 2019), without decay on biases and norms.

    Without ``adam_bias_correction`` it is the optimizer of BERT's original code (Devlin et al. 2019; Zhang et al. 2021,
    "Revisiting few-sample BERT fine-tuning", section 3.1): its state starts so late that the corrections are 1.
    """
    optimizer = torch.optim.AdamW(
        parameter_groups(model, weight_decay=settings.weight_decay),
        lr=settings.learning_rate,
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
