"""Attention in the form that is fastest on the device.

On a CPU that is plain matrix products: torch's fused kernel multiplies bfloat16 in float32, and its dropout draws
slowly. On CUDA it is flash attention, also where texts are padded. The last layer's single query needs neither. The
library finds the function by its name, as it does its own (``AttentionInterface``).
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
# Up to so many keys and so wide a head, the backward kernel has one block of keys for each head. It adds up the
# queries' gradients block by block in no fixed order, so with more blocks no run would equal another to the bit.
ONE_BLOCK, WIDEST_HEAD = 128, 64


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
    if mask is not None and _fits_flash(query, mask):
        return _attend_in_sequences(query, key, value, mask, dropout=dropout, scaling=scaling)
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


def _fits_flash(query: torch.Tensor, mask: torch.Tensor) -> bool:
    """Whether flash attention takes these queries, and gives the same bits each time."""
    n, _, length, width = query.shape
    return (
        query.device.type == "cuda"
        and query.dtype == torch.bfloat16
        and mask.dtype == torch.bool
        and mask.shape == (n, 1, 1, length)
        and length <= ONE_BLOCK
        and width <= WIDEST_HEAD
        and width % 8 == 0
        and torch.backends.cuda.is_flash_attention_available()
        and torch.cuda.get_device_capability(query.device) >= (8, 0)
    )


def _attend_in_sequences(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor,
    *,
    dropout: float,
    scaling: float | None,
) -> torch.Tensor:
    """:func:`attend` by flash attention (Dao 2023, "FlashAttention-2"), where each row begins with its text.

    The kernel takes no mask, but sequences of any lengths one after the other. Each row is two of them: its text, and
    its padding, to which no text attends. Its dropout has 256 levels, so that 0.1 drops 0.1016.
    """
    n, heads, length, width = query.shape
    flat = [x.transpose(1, 2).reshape(n * length, heads, width) for x in (query, key, value)]
    bounds = sequence_bounds(mask)
    context: torch.Tensor = torch.ops.aten._flash_attention_forward(
        *flat, bounds, bounds, length, length, dropout, False, False, scale=scaling
    )[0]
    return context.view(n, length, heads, width).transpose(1, 2)


def sequence_bounds(mask: torch.Tensor) -> torch.Tensor:
    """Where text and padding of each row begin ``[2n + 1]``, in a mask ``[n, 1, 1, length]`` of texts that come first.

    They count positions of all rows one after the other, and end with their number.
    """
    n, length = len(mask), mask.shape[-1]
    starts = torch.arange(0, n * length, length, dtype=torch.int32, device=mask.device)
    bounds = torch.stack([starts, starts + mask.sum((1, 2, 3), dtype=torch.int32)], dim=1).flatten()
    return functional.pad(bounds, (0, 1), value=n * length)


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


def project_together(
    attention: Any,
    hidden_states: torch.Tensor,
    attention_mask: torch.Tensor | None = None,
    *others: Any,
    **options: Any,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """The forward pass of the library's self-attention of BERT, with one product for queries, keys and values.

    Only where it is compiled, which makes one kernel of joining and rounding the weights.
    """
    if not torch.compiler.is_compiling():
        plain: tuple[torch.Tensor, torch.Tensor | None] = type(attention).forward(
            attention, hidden_states, attention_mask, *others, **options
        )
        return plain
    linears = (attention.query, attention.key, attention.value)
    weight, bias = torch.cat([one.weight for one in linears]), torch.cat([one.bias for one in linears])
    n, length, _ = hidden_states.shape
    projected = functional.linear(hidden_states, weight, bias).view(n, length, 3, attention.num_attention_heads, -1)
    query, key, value = projected.permute(2, 0, 3, 1, 4)
    context = attend(query, key, value, attention_mask, dropout=attention.dropout.p if attention.training else 0.0)
    return context.transpose(1, 2).flatten(2), None


def use_attention(model: transformers.PreTrainedModel) -> None:
    """Let ``model``, an encoder whose attention is the library's ``sdpa``, attend with :func:`attend`."""
    transformers.AttentionInterface.register(NAME, _library_attention)
    transformers.AttentionMaskInterface.register(NAME, sdpa_mask)
    model.set_attn_implementation(NAME)
