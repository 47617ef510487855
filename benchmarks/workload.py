"""The work of a measurement: a model, texts, and the floating-point operations of training on them."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import transformers

from study.data.dataset import Encoded, EncodedData, open_encoded, prepare
from study.models.tokenizer import SpecialTokens
from study.settings import Data

CLASSES = 2
# The special ids of every family are below this one.
FIRST_WORD = 5
# Median and spread (of the logarithm, below and above the median) of IMDB's lengths in BERT's tokens: with these, 11 %
# have fewer than 128, 56 % fewer than 256 and 86 % fewer than 512, as the real ones have.
IMDB_MEDIAN, IMDB_SPREAD_BELOW, IMDB_SPREAD_ABOVE = 231, 0.48, 0.74


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """A model's size."""

    family: str
    layers: int
    width: int
    vocabulary: int

    @property
    def pad(self) -> int:
        """The padding id."""
        return 0 if self.family == "bert" else 1


SHAPES = {
    "tiny": Shape(family="bert", layers=2, width=128, vocabulary=8_192),
    "tiny-roberta": Shape(family="roberta", layers=2, width=128, vocabulary=8_192),
    "mini": Shape(family="bert", layers=4, width=256, vocabulary=30_522),
    "bert-base": Shape(family="bert", layers=12, width=768, vocabulary=30_522),
    "roberta-base": Shape(family="roberta", layers=12, width=768, vocabulary=50_265),
}


def make_model(shape: Shape, *, max_length: int, device: torch.device) -> transformers.PreTrainedModel:
    """The library's classifier with random weights: throughput does not depend on their values."""
    values: dict[str, Any] = {
        "vocab_size": shape.vocabulary,
        "hidden_size": shape.width,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.width // 64,
        "intermediate_size": 4 * shape.width,
        "max_position_embeddings": max_length + shape.pad + 1,
        "num_labels": CLASSES,
        "pad_token_id": shape.pad,
    }
    config: transformers.PretrainedConfig
    config = transformers.BertConfig(**values) if shape.family == "bert" else transformers.RobertaConfig(**values)
    model: Any = transformers.AutoModelForSequenceClassification.from_config(config)  # type: ignore[no-untyped-call]
    on_device: transformers.PreTrainedModel = model.to(device, torch.float32)
    return on_device


def generate_texts(n: int, shape: Shape, *, length: int, full: bool, rng: np.random.Generator) -> Encoded:
    """Random tokens, of lengths like IMDB's truncated to ``length``, or all of the ``full`` length."""
    z = rng.standard_normal(n)
    lengths = IMDB_MEDIAN * np.exp(z * np.where(z < 0, IMDB_SPREAD_BELOW, IMDB_SPREAD_ABOVE))
    lengths = np.full(n, length) if full else np.clip(lengths, 3, length).astype(np.int64)
    ids = rng.integers(FIRST_WORD, min(shape.vocabulary, 8_192), (n, length))
    return Encoded(
        input_ids=np.where(np.arange(length) < lengths[:, None], ids, shape.pad).astype(np.int32),
        lengths=lengths.astype(np.int32),
        labels=rng.integers(0, CLASSES, n),
        ids=np.arange(n),
    )


def read_texts(file: str, *, length: int, examples: int) -> Encoded:
    """The training split of a sample of ``file``, in tokens of ``tiny-bert``, whose ids every shape here has."""
    with tempfile.TemporaryDirectory() as cache:
        folder = prepare(
            Data(source=file, max_length=length),
            identity={"source": file, "examples": examples},
            model="tiny-bert",
            model_identity="tiny-bert",
            cache=Path(cache),
        )
        train = open_encoded(folder).train
        return first_examples(train, len(train))


def first_examples(encoded: Encoded, n: int) -> Encoded:
    """The first ``n`` examples, repeated from the start where there are fewer."""
    positions = np.arange(n) % len(encoded)
    return Encoded(
        input_ids=np.array(encoded.input_ids[positions]),
        lengths=np.array(encoded.lengths[positions]),
        labels=np.array(encoded.labels[positions]),
        ids=np.arange(n),
    )


def as_data(train: Encoded, shape: Shape) -> EncodedData:
    """``train`` with the smallest validation and test splits: no measurement here evaluates."""
    types = ("token_type_ids",) if shape.family == "bert" else ()
    return EncodedData(
        train=train,
        validation=first_examples(train, 1),
        test=first_examples(train, 1),
        label_names=("no", "yes"),
        special=SpecialTokens(
            pad=shape.pad, vocabulary=shape.vocabulary, inputs=("input_ids", "attention_mask", *types)
        ),
        tokenizer=Path("no-tokenizer"),
    )


def training_flops(shape: Shape, lengths: npt.NDArray[Any], *, first_position: bool) -> float:
    """Mean floating-point operations of a training step per example, without padding.

    A matrix product counts two for each multiplication and its addition; a backward pass costs twice a forward one
    (Kaplan et al. 2020, "Scaling laws for neural language models", section 2.1, with the products of attention added).
    With ``first_position``, the last layer is computed for that position only, which attends to all others.
    """
    tokens = np.asarray(lengths, dtype=np.float64)
    width = shape.width
    weights = 12 * width * width
    full_layer = 2 * weights * tokens + 4 * width * tokens**2
    last_layer = 2 * weights + 4 * (width // 64) * width * tokens
    head = 2 * width * width + 2 * width * CLASSES
    forward = (shape.layers - 1) * full_layer + (last_layer if first_position else full_layer) + head
    return 3 * float(forward.mean())
