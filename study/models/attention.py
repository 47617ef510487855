"""Attention from plain matrix products on a CPU, where torch's fused kernel is the slower one.

In bfloat16 that kernel multiplies in float32, and its dropout draws slowly; plain matrix products take half the time.
Accelerators use torch's own, except for the last layer's single query. The library finds the function by its name, as
it does its own (``AttentionInterface``).
"""

from __future__ import annotations

from typing import Any

import torch
import transformers
from torch import nn
from torch.nn import functional
from transformers.masking_utils import sdpa_mask

from study.models.dropout import drop

NAME = "study"


def attend(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor | None,
    *,
    dropout: float,
    scaling: float | None = None,
) -> torch.Tensor:
    """Scaled dot-product attention (Vaswani et al. 2017) ``[n, heads, queries, width]``.

    ``mask`` is boolean, True where a key may be seen, or added to the scores. Where matrix products run in bfloat16,
    scores and probabilities are rounded to it and sums run in float32, as in the library's own eager attention.
    """
    plain = query.device.type == "cpu" and not torch.compiler.is_compiling()
    if not plain or (not dropout and query.dtype == torch.float32):
        return functional.scaled_dot_product_attention(
            query, key, value, attn_mask=mask, dropout_p=dropout, scale=scaling
        )
    # Autocast would have the softmax in float32, whose result the next product rounds to bfloat16 all the same.
    with torch.autocast("cpu", enabled=False):
        scores = (query * (scaling or query.shape[-1] ** -0.5)) @ key.transpose(-1, -2)
        if mask is not None:
            scores += _added(mask, scores.dtype)
        shares = torch.softmax(scores, dim=-1)
        return (drop(shares, dropout) if dropout else shares) @ value


def attend_from_first(
    states: torch.Tensor,
    query: nn.Linear,
    key: nn.Linear,
    value: nn.Linear,
    mask: torch.Tensor | None,
    *,
    heads: int,
    dropout: float,
) -> torch.Tensor:
    """The attention output of the first position of ``states`` ``[n, length, width]``: ``[n, 1, heads x head width]``.

    One query needs no keys and no values: its product with ``key`` of a state is that of the query through ``key``'s
    weights with the state itself, and a mean of values is ``value`` of the mean of states (products are associative).
    ``mask`` as in :func:`attend`, ``[n, 1, 1, length]``.
    """
    asked = query(states[:, 0]).unflatten(-1, (heads, -1)).transpose(0, 1)  # [heads, n, head width]
    through = (asked @ key.weight.view(heads, -1, key.in_features)).transpose(0, 1)  # [n, heads, width]
    # The key's bias adds the same to all scores of a head, which the softmax takes away again: its gradient is zero.
    scores = through @ states.transpose(1, 2) + (asked * key.bias.view(heads, 1, -1)).sum(-1).t()[..., None]
    scores = scores * (query.out_features // heads) ** -0.5
    if mask is not None:
        scores = scores + _added(mask[:, 0], scores.dtype)
    shares = torch.softmax(scores, dim=-1)
    if dropout:
        shares = drop(shares, dropout)
    mean = (shares @ states).transpose(0, 1)  # [heads, n, width]
    context = mean @ value.weight.view(heads, -1, value.in_features).transpose(1, 2)
    context = context + shares.sum(-1).t()[..., None] * value.bias.view(heads, 1, -1)
    return context.transpose(0, 1).reshape(len(states), 1, -1)


def _added(mask: torch.Tensor, kind: torch.dtype) -> torch.Tensor:
    if mask.dtype != torch.bool:
        return mask.to(kind)
    return torch.zeros_like(mask, dtype=kind).masked_fill_(~mask, float("-inf"))


def _library_attention(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """:func:`attend` with the library's arguments; its result is ``[n, queries, heads, width]``."""
    context = attend(query, key, value, attention_mask, dropout=dropout, scaling=scaling)
    return context.transpose(1, 2).contiguous(), None


def use_attention(model: transformers.PreTrainedModel) -> None:
    """Let ``model``, an encoder whose attention is the library's ``sdpa``, attend with :func:`attend`."""
    transformers.AttentionInterface.register(NAME, _library_attention)
    transformers.AttentionMaskInterface.register(NAME, sdpa_mask)
    model.set_attn_implementation(NAME)
