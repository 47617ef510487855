"""The sizes of encoders, from their configs or by name, and the operations of their forward pass; without torch."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from study.errors import quote
from study.settings import BUILT_IN_MODELS

# Families whose classification head reads the first position of the last layer and nothing else.
FIRST_POSITION_FAMILIES = ("bert", "roberta", "xlm-roberta", "camembert")
COUNTED_FAMILIES = (*FIRST_POSITION_FAMILIES, "deberta-v2", "distilbert", "electra", "mpnet")
CLASSES = 2

# What a config calls a size, and what DistilBERT's calls it.
CONFIG_KEYS = {
    "layers": ("num_hidden_layers", "n_layers"),
    "width": ("hidden_size", "dim"),
    "heads": ("num_attention_heads", "n_heads"),
    "intermediate": ("intermediate_size", "hidden_dim"),
    "vocabulary": ("vocab_size", "vocab_size"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class EncoderShape:
    """An encoder's size: widths in features, ``vocabulary`` and ``positions`` in rows of their embeddings.

    ``embedding_width`` is that of the token embeddings, ``relative_positions`` the number of distances that DeBERTa's
    attention tells apart, 0 for other families.
    """

    family: str
    layers: int
    width: int
    heads: int
    intermediate: int
    vocabulary: int
    embedding_width: int
    positions: int = 512
    relative_positions: int = 0

    @property
    def captured(self) -> bool:
        """Whether steps can be captured as CUDA graphs, and the last layer is computed at the first position alone."""
        return self.family in FIRST_POSITION_FAMILIES

    @property
    def parameters(self) -> int:
        """Weights and biases that are trained, the classification head's among them; token types count none."""
        width, inner = self.width, self.intermediate
        layer = 4 * width * (width + 1) + 2 * width * inner + inner + width + 4 * width
        rows = self.vocabulary + self.positions
        embeddings = rows * self.embedding_width + 2 * self.embedding_width
        if self.embedding_width != width:
            embeddings += (self.embedding_width + 1) * width
        head = width * (width + 1) + (width + 1) * CLASSES
        return embeddings + self.relative_positions * width + self.layers * layer + head

    def forward_operations(self, tokens: int) -> int:
        """Floating-point operations of the matrix products of one example of ``tokens``, as the loop computes them.

        A product counts two for each multiplication and its addition (Kaplan et al. 2020, "Scaling laws for neural
        language models", section 2.1); attention's products are counted too. A backward pass costs twice as many.
        """
        weights = 4 * self.width**2 + 2 * self.width * self.intermediate
        seen = 2 * tokens + 2 * self.relative_positions
        layer = 2 * tokens * (weights + self.width * seen)
        last = 2 * weights + 4 * self.heads * self.width * tokens if self.captured else layer
        head = 2 * self.width**2 + 2 * self.width * CLASSES
        projection = 2 * tokens * self.embedding_width * self.width if self.embedding_width != self.width else 0
        return (self.layers - 1) * layer + last + head + projection


def _bert(
    layers: int, width: int, vocabulary: int, *, family: str = "bert", heads: int | None = None, **more: int
) -> EncoderShape:
    return EncoderShape(
        family=family,
        layers=layers,
        width=width,
        heads=heads or width // 64,
        intermediate=4 * width,
        vocabulary=vocabulary,
        **{"embedding_width": width, **more},
    )


def _deberta(layers: int, width: int) -> EncoderShape:
    return _bert(layers, width, 128_100, family="deberta-v2", positions=0, relative_positions=512)


BUILT_IN_SHAPES = {
    model: _bert(2, 128, 8_192, family=model.removeprefix("tiny-"), positions=128) for model in BUILT_IN_MODELS
}
# From the configs on the hub. A publisher's prefix in PUBLISHERS may be left out, as the hub allows.
HUB_SHAPES = {
    "bert-base-uncased": _bert(12, 768, 30_522),
    "bert-base-cased": _bert(12, 768, 28_996),
    "bert-large-uncased": _bert(24, 1024, 30_522),
    "bert-large-cased": _bert(24, 1024, 28_996),
    "distilbert-base-uncased": _bert(6, 768, 30_522, family="distilbert"),
    "distilbert-base-cased": _bert(6, 768, 28_996, family="distilbert"),
    "distilroberta-base": _bert(6, 768, 50_265, family="roberta"),
    "roberta-base": _bert(12, 768, 50_265, family="roberta"),
    "roberta-large": _bert(24, 1024, 50_265, family="roberta"),
    "xlm-roberta-base": _bert(12, 768, 250_002, family="xlm-roberta"),
    "xlm-roberta-large": _bert(24, 1024, 250_002, family="xlm-roberta"),
    "google/electra-small-discriminator": _bert(12, 256, 30_522, family="electra", embedding_width=128),
    "google/electra-base-discriminator": _bert(12, 768, 30_522, family="electra"),
    "google/electra-large-discriminator": _bert(24, 1024, 30_522, family="electra"),
    "microsoft/deberta-v3-xsmall": _deberta(12, 384),
    "microsoft/deberta-v3-small": _deberta(6, 768),
    "microsoft/deberta-v3-base": _deberta(12, 768),
    "microsoft/deberta-v3-large": _deberta(24, 1024),
    "microsoft/MiniLM-L12-H384-uncased": _bert(12, 384, 30_522, heads=12),
    "sentence-transformers/all-MiniLM-L6-v2": _bert(6, 384, 30_522, heads=12),
}
PUBLISHERS = ("google-bert/", "FacebookAI/", "distilbert/")


def find_shape(model: str) -> EncoderShape:
    """The shape of ``model``: a built-in's, of a folder's or a hub cache's config, or of a hub id that is well known.

    Nothing is downloaded. Raises ValueError, with the reason, where the shape is not known.
    """
    if model in BUILT_IN_SHAPES:
        return BUILT_IN_SHAPES[model]
    if Path(model).is_absolute():
        config = Path(model) / "config.json"
    else:
        for publisher in PUBLISHERS:
            model = model.removeprefix(publisher)
        if model in HUB_SHAPES:
            return HUB_SHAPES[model]
        from huggingface_hub import try_to_load_from_cache  # 0.3 s, which other models need not wait for

        cached = try_to_load_from_cache(model, "config.json")
        if not isinstance(cached, str):
            raise ValueError("its config is not on this machine, and a dry run downloads nothing")
        config = Path(cached)
    try:
        return shape_of_config(json.loads(config.read_bytes()))
    except OSError as error:
        raise ValueError(f"{config} cannot be read") from error


def shape_of_config(config: Mapping[str, Any]) -> EncoderShape:
    """The shape that a ``config.json`` gives. Raises ValueError where it lacks a size, or its family is not counted."""
    family = config.get("model_type")
    if family not in COUNTED_FAMILIES:
        raise ValueError(f"operations of the family {quote(family)} are not counted")
    sizes = {size: _size(config, keys[family == "distilbert"]) for size, keys in CONFIG_KEYS.items()}
    positions = _size(config, "max_position_embeddings", otherwise=512)
    shape = EncoderShape(
        family=family,
        embedding_width=_size(config, "embedding_size", otherwise=sizes["width"]),
        positions=positions,
        **sizes,
    )
    if family != "deberta-v2":
        return shape
    return replace(
        shape,
        positions=positions if config.get("position_biased_input", True) else 0,
        relative_positions=2 * _size(config, "position_buckets", otherwise=positions)
        if config.get("relative_attention")
        else 0,
    )


def _size(config: Mapping[str, Any], key: str, *, otherwise: int | None = None) -> int:
    """A positive number of a config; ``otherwise``, unless it is None, where the config has none."""
    value = config.get(key, otherwise)
    if otherwise is not None and value in (None, -1):
        return otherwise
    if type(value) is not int or value < 1:
        raise ValueError(f"its config has no valid {key}")
    return value
