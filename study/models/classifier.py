"""Encoders with a classification head: built in, from the hub, or from a folder that ``save_pretrained`` wrote.

``tiny-bert`` and ``tiny-roberta`` are built in: two layers, 128 wide, random weights. Weights are read from safetensors
alone, and no code that comes with a model is run.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import MethodType
from typing import Any

import torch
import transformers
from torch import nn
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES, MODEL_FOR_MASKED_LM_MAPPING_NAMES

from study.models.attention import attend_from_first, project_together, use_attention
from study.models.dropout import replace_dropout
from study.models.loading import loading_errors
from study.models.shapes import FIRST_POSITION_FAMILIES
from study.models.tokenizer import SpecialTokens
from study.settings import BUILT_IN_MODELS

MOST_LAYERS = 1_000

# Families that count positions from the padding id on.
SHIFTED_FAMILIES = ("roberta", "xlm-roberta", "camembert")
DROPOUT_KEYS = (
    "hidden_dropout_prob",
    "attention_probs_dropout_prob",
    "classifier_dropout",
    "dropout",
    "attention_dropout",
    "seq_classif_dropout",
    "embedding_dropout",
    "mlp_dropout",
)


class Classifier(nn.Module):
    """A sequence classifier that takes padded ids and their lengths, whatever family it wraps.

    The model is given those of ids, mask and token types that its tokenizer lists as its inputs. For families whose
    head reads the first position alone, the last layer computes only that one, which is exact, and attention and
    dropout use the implementations that are fast on the device; without ``savings`` the library's model is left as it
    is.
    """

    def __init__(self, model: transformers.PreTrainedModel, inputs: Sequence[str], *, savings: bool = True) -> None:
        super().__init__()
        self.model = model
        self.inputs = tuple(inputs)
        self.first_position = model.config.model_type in FIRST_POSITION_FAMILIES
        if self.first_position and savings:
            base: Any = model.base_model
            *others, last = base.encoder.layer
            last.forward = MethodType(_first_position_layer, last)
            for layer in others:
                layer.attention.self.forward = MethodType(project_together, layer.attention.self)
            use_attention(model)
            replace_dropout(model)

    def forward(self, input_ids: torch.Tensor, lengths: torch.Tensor | None) -> torch.Tensor:
        """Logits ``[n, classes]`` of ids ``[n, length]``; ``lengths`` ``[n]`` is None where nothing is padded."""
        mask = None
        if lengths is not None:
            mask = torch.arange(input_ids.shape[1], device=lengths.device) < lengths[:, None]
            # A four-dimensional mask is used as it is; for a two-dimensional one the library asks the device whether
            # anything is padded, and waits for the answer.
            mask = mask[:, None, None, :] if self.first_position else mask.long()
        # One row for all texts, so that no embedding is looked up and no gradient added for each of their tokens.
        types = torch.zeros_like(input_ids[:1] if self.first_position else input_ids)
        given = {"input_ids": input_ids, "attention_mask": mask, "token_type_ids": types}
        logits: torch.Tensor = self.model(**{name: given[name] for name in self.inputs if name in given}).logits
        return logits


def _first_position_layer(
    layer: Any, hidden_states: torch.Tensor, attention_mask: torch.Tensor | None = None, *_: Any, **__: Any
) -> torch.Tensor:
    """The layer's output ``[n, 1, width]`` at the first position of ``hidden_states`` ``[n, length, width]``."""
    attention = layer.attention.self
    context = attend_from_first(
        hidden_states,
        attention.query,
        attention.key,
        attention.value,
        None if attention_mask is None else attention_mask[..., :1, :],
        heads=attention.num_attention_heads,
        dropout=attention.dropout.p if layer.training else 0.0,
    )
    attended = layer.attention.output(context, hidden_states[:, :1])
    output: torch.Tensor = layer.feed_forward_chunk(attended)
    return output


def load_classifier(
    model: str,
    *,
    classes: int,
    special: SpecialTokens,
    max_length: int,
    dropout: float | None,
    commit: str | None = None,
) -> Classifier:
    """The classifier of ``model`` in float32, its new weights drawn from torch's global generator.

    ``dropout`` None keeps the model's own; ``commit`` None takes a hub model's newest files. Raises ValueError when the
    model cannot be loaded, is not an encoder, lacks weights of its body, has fewer positions than ``max_length`` or
    fewer ids than its tokenizer.
    """
    if model in BUILT_IN_MODELS:
        config = _tiny_config(model, special, max_length)
    else:
        with loading_errors(model):
            config = transformers.AutoConfig.from_pretrained(model, revision=commit or "main", trust_remote_code=False)
        _check_config(model, config)
    config.num_labels = classes
    if dropout is not None:
        for key in DROPOUT_KEYS:
            if hasattr(config, key):
                setattr(config, key, dropout)
    if model in BUILT_IN_MODELS:
        automatic: Any = transformers.AutoModelForSequenceClassification
        return Classifier(automatic.from_config(config).float(), special.inputs)
    with loading_errors(model):
        positions = int(getattr(config, "max_position_embeddings", None) or -1)
        if config.model_type in SHIFTED_FAMILIES:
            positions -= config.pad_token_id + 1
    if 0 < positions < max_length:
        raise ValueError(f"{model} accepts at most {positions} tokens, and data.max_length is {max_length}")
    with loading_errors(model):
        loaded, report = transformers.AutoModelForSequenceClassification.from_pretrained(
            model,
            config=config,
            revision=commit or "main",
            dtype=torch.float32,
            use_safetensors=True,
            trust_remote_code=False,
            ignore_mismatched_sizes=True,
            output_loading_info=True,
        )
        rows = loaded.get_input_embeddings().weight.shape[0]
    # Missing weights of a head or a pooler are drawn at random. A body that is partly random is a mistake.
    lacking = {*report["missing_keys"], *(name for name, *_ in report["mismatched_keys"])}
    body = [name for name in lacking if name.startswith(f"{loaded.base_model_prefix}.") and ".pooler." not in name]
    if body:
        raise ValueError(f"{model}: its files lack {len(body)} weights that its config requires, such as {min(body)}")
    if special.vocabulary > rows:
        raise ValueError(
            f"{model}: its tokenizer has {special.vocabulary:,} ids, and the model has embeddings for {rows:,}; "
            "are the tokenizer's files those of another model?"
        )
    return Classifier(loaded, special.inputs)


def _check_config(model: str, config: Any) -> None:
    """Raise ValueError for a family that generates text, and for more layers than any model has."""
    family = config.model_type
    generates = family in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES and family not in MODEL_FOR_MASKED_LM_MAPPING_NAMES
    if generates or config.is_encoder_decoder or getattr(config, "is_decoder", False):
        kind = "an encoder with a decoder" if config.is_encoder_decoder else "a decoder"
        raise ValueError(f"{model} is {kind} ({family}); give an encoder, such as BERT or RoBERTa")
    if not 0 < (layers := getattr(config, "num_hidden_layers", 1)) <= MOST_LAYERS:
        raise ValueError(f"{model} has {layers:,} layers in its config; between 1 and {MOST_LAYERS:,} are supported")


def _tiny_config(model: str, special: SpecialTokens, max_length: int) -> transformers.PretrainedConfig:
    shape: dict[str, Any] = {
        "vocab_size": special.vocabulary,
        "hidden_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 512,
        "pad_token_id": special.pad,
    }
    if model == "tiny-bert":
        return transformers.BertConfig(max_position_embeddings=max_length, **shape)
    return transformers.RobertaConfig(
        max_position_embeddings=max_length + special.pad + 1,
        type_vocab_size=1,
        layer_norm_eps=1e-5,
        bos_token_id=0,
        eos_token_id=2,
        **shape,
    )
