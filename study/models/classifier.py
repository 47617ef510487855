"""How does a model's name or folder become a tokenizer, a classifier and parameter groups?

Names are the hub's, paths are folders written by ``save_pretrained``, and ``tiny-bert`` and ``tiny-roberta`` are built
in: two layers, 128 wide, random weights, a vocabulary learned from the training split. Weights are read from
safetensors alone and no model's own code is run.
"""

from __future__ import annotations

import contextlib
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MethodType
from typing import Any

import tokenizers
import torch
import transformers
from torch import nn
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES, MODEL_FOR_MASKED_LM_MAPPING_NAMES

from study.models.attention import attend_from_first, use_attention
from study.models.dropout import replace_dropout

# What cannot be used is told by who calls; the library would print tables and warnings beside it.
transformers.logging.set_verbosity_error()  # type: ignore[no-untyped-call]
if not sys.stderr.isatty():
    transformers.logging.disable_progress_bar()  # type: ignore[no-untyped-call]

BUILT_IN = ("tiny-bert", "tiny-roberta")
# Their padding token, and whose inputs they have.
BUILT_IN_TOKENIZERS: Mapping[str, tuple[str, Any]] = {
    "tiny-bert": ("[PAD]", transformers.BertTokenizer),
    "tiny-roberta": ("<pad>", transformers.RobertaTokenizer),
}
BUILT_IN_VOCABULARY = 8_192
BUILT_IN_ALPHABET = 1_000
MOST_LAYERS = 1_000
# So many texts show whether a tokenizer knows their language.
FIRST_TEXTS = 1_000

# Families whose classification head reads the first position of the last layer and nothing else.
FIRST_POSITION_FAMILIES = ("bert", "roberta", "xlm-roberta", "camembert")
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


@dataclass(frozen=True, slots=True, kw_only=True)
class SpecialTokens:
    """What a model has to know of its tokenizer: the padding id, the number of ids and the inputs it is made for."""

    pad: int
    vocabulary: int
    inputs: tuple[str, ...] = ("input_ids", "attention_mask")


@dataclass(frozen=True, slots=True)
class Tokenizer:
    """A Rust tokenizer set to one maximal length, without padding."""

    backend: tokenizers.Tokenizer
    special: SpecialTokens
    max_length: int

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of each text, special tokens included, cut to the maximal length."""
        return [encoding.ids for encoding in self.backend.encode_batch_fast(list(texts))]

    def save(self, folder: Path) -> None:
        """Write the tokenizer to ``folder``, from which ``AutoTokenizer`` loads it."""
        transformers.PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]  # the library's own
            tokenizer_object=self.backend,
            pad_token=self.backend.id_to_token(self.special.pad),
            model_input_names=list(self.special.inputs),
            model_max_length=self.max_length,
        ).save_pretrained(folder)


def load_tokenizer(model: str, *, max_length: int, texts: Sequence[str]) -> Tokenizer:
    """The tokenizer of ``model``; a built-in one learns its vocabulary from ``texts``.

    Raises ValueError when the model cannot be loaded, has no fast tokenizer or one that knows nothing of ``texts``.
    """
    if model in BUILT_IN:
        backend = _train_wordpiece(texts) if model == "tiny-bert" else _train_byte_level(texts)
        padding, like = BUILT_IN_TOKENIZERS[model]
        pad, inputs = backend.token_to_id(padding), like.model_input_names
        assert pad is not None
    else:
        with _loading(model):
            loaded = transformers.AutoTokenizer.from_pretrained(model, trust_remote_code=False)
        if not getattr(loaded, "is_fast", False):
            raise ValueError(f"{model}: its tokenizer has no fast (Rust) version")
        if loaded.pad_token_id is None:
            raise ValueError(f"{model}: its tokenizer has no padding token")
        backend, pad, inputs = loaded.backend_tokenizer, int(loaded.pad_token_id), loaded.model_input_names
        # The library makes an empty tokenizer of a folder that holds none.
        with _loading(model):
            special = set(loaded.all_special_ids)
            first = backend.encode_batch_fast(list(texts[:FIRST_TEXTS]))
        if texts and all(set(encoding.ids) <= special for encoding in first):
            raise ValueError(f"{model}: its tokenizer knows no word of the texts; are the tokenizer's files there?")
    backend.no_padding()
    backend.enable_truncation(max_length)
    vocabulary = max(backend.get_vocab().values(), default=-1) + 1
    return Tokenizer(backend, SpecialTokens(pad=pad, vocabulary=vocabulary, inputs=tuple(inputs)), max_length)


@contextlib.contextmanager
def _loading(model: str) -> Iterator[None]:
    """What is wrong with a model's files comes as any error there is: the libraries read them without looking."""
    try:
        yield
    except BaseException as error:
        # A panic of Rust's is no Exception, and of no class that could be imported.
        if not (isinstance(error, Exception) or type(error).__name__ == "PanicException"):
            raise
        lines = str(error).strip().splitlines() or [type(error).__name__]
        reason = " ".join(line.strip() for line in lines[: 2 if lines[0].endswith(":") else 1])
        if isinstance(error, AttributeError | LookupError | TypeError):
            reason = f"{type(error).__name__}: {reason}"  # which says little without its name
        hint = "a folder written by save_pretrained can be given instead"
        raise ValueError(f"the model {model} could not be loaded ({reason}); {hint}") from error


def _train_wordpiece(texts: Sequence[str]) -> tokenizers.Tokenizer:
    """BERT's uncased WordPiece, with a vocabulary learned from ``texts``.

    The library numbers the pieces within words ("##a") as a hash map hands them out, anew in each process. Given as
    special tokens they are numbered in this order; afterwards only BERT's own stay special.
    """
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    made = tokenizers.BertWordPieceTokenizer(lowercase=True)
    trained = made._tokenizer
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(trained.normalizer.normalize_str(text))
    characters = sorted(counts, key=lambda character: (-counts[character], character))[:BUILT_IN_ALPHABET]
    letters = [character for character in characters if not character.isspace()]
    pieces = [*letters, *(f"##{letter}" for letter in letters)]
    made.train_from_iterator(
        texts,
        vocab_size=BUILT_IN_VOCABULARY,
        limit_alphabet=len(letters),
        special_tokens=[*special, *pieces],
        show_progress=False,
    )
    vocabulary = {piece: trained.token_to_id(piece) for piece in trained.get_vocab()}
    backend = tokenizers.Tokenizer(tokenizers.models.WordPiece(vocabulary, unk_token="[UNK]"))
    backend.normalizer, backend.pre_tokenizer = trained.normalizer, trained.pre_tokenizer
    backend.decoder = trained.decoder
    backend.add_special_tokens(special)
    ends = [("[CLS]", backend.token_to_id("[CLS]")), ("[SEP]", backend.token_to_id("[SEP]"))]
    backend.post_processor = tokenizers.processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=ends)
    return backend


def _train_byte_level(texts: Sequence[str]) -> tokenizers.Tokenizer:
    """RoBERTa's byte-level BPE, with merges learned from ``texts``."""
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    made = tokenizers.ByteLevelBPETokenizer()
    made.train_from_iterator(texts, vocab_size=BUILT_IN_VOCABULARY, special_tokens=special, show_progress=False)
    backend: tokenizers.Tokenizer = made._tokenizer
    ends = [("<s>", backend.token_to_id("<s>")), ("</s>", backend.token_to_id("</s>"))]
    backend.post_processor = tokenizers.processors.TemplateProcessing(single="<s> $A </s>", special_tokens=ends)
    return backend


class Classifier(nn.Module):
    """A sequence classifier that takes padded ids and their lengths, whatever family it wraps.

    Which of ids, mask and token types the model gets is what its tokenizer says that it takes. For families whose head
    reads the first position alone, the last layer computes only that one, which is exact, and attention and dropout go
    the ways that are fast on a CPU; without ``savings`` the library's model is left as it is.
    """

    def __init__(self, model: transformers.PreTrainedModel, inputs: Sequence[str], *, savings: bool = True) -> None:
        super().__init__()
        self.model = model
        self.inputs = tuple(inputs)
        self.first_position = model.config.model_type in FIRST_POSITION_FAMILIES
        if self.first_position and savings:
            base: Any = model.base_model
            last = base.encoder.layer[-1]
            last.forward = MethodType(_first_position_layer, last)
            use_attention(model)
            replace_dropout(model)

    def forward(self, input_ids: torch.Tensor, lengths: torch.Tensor | None) -> torch.Tensor:
        """Logits ``[n, classes]`` of ids ``[n, length]``; ``lengths`` ``[n]`` is None where nothing is padded."""
        mask = None
        if lengths is not None:
            mask = torch.arange(input_ids.shape[1], device=lengths.device) < lengths[:, None]
            # A four-dimensional mask is used as it is; of a two-dimensional one the library asks the device whether
            # anything is padded, and waits for the answer.
            mask = mask[:, None, None, :] if self.first_position else mask.long()
        given = {"input_ids": input_ids, "attention_mask": mask, "token_type_ids": torch.zeros_like(input_ids)}
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
    model: str, *, classes: int, special: SpecialTokens, max_length: int, dropout: float | None
) -> Classifier:
    """The classifier of ``model`` in float32, its new weights drawn from torch's global generator.

    ``dropout`` None keeps the model's own. Raises ValueError when the model cannot be loaded, is no encoder, lacks
    weights of its body, is too short or has fewer ids than its tokenizer.
    """
    if model in BUILT_IN:
        config = _tiny_config(model, special, max_length)
    else:
        with _loading(model):
            config = transformers.AutoConfig.from_pretrained(model, trust_remote_code=False)
        _check_config(model, config)
    config.num_labels = classes
    if dropout is not None:
        for key in DROPOUT_KEYS:
            if hasattr(config, key):
                setattr(config, key, dropout)
    if model in BUILT_IN:
        automatic: Any = transformers.AutoModelForSequenceClassification
        return Classifier(automatic.from_config(config).float(), special.inputs)
    with _loading(model):
        positions = int(getattr(config, "max_position_embeddings", None) or -1)
        if config.model_type in SHIFTED_FAMILIES:
            positions -= config.pad_token_id + 1
    if 0 < positions < max_length:
        raise ValueError(f"{model} takes at most {positions} tokens, data.max_length is {max_length}")
    with _loading(model):
        loaded, report = transformers.AutoModelForSequenceClassification.from_pretrained(
            model,
            config=config,
            dtype=torch.float32,
            use_safetensors=True,
            trust_remote_code=False,
            ignore_mismatched_sizes=True,
            output_loading_info=True,
        )
        rows = loaded.get_input_embeddings().weight.shape[0]
    # What a head or a pooler lacks is new, and drawn at random. A body that is in part drawn at random is a mistake.
    lacking = {*report["missing_keys"], *(name for name, *_ in report["mismatched_keys"])}
    body = [name for name in lacking if name.startswith(f"{loaded.base_model_prefix}.") and ".pooler." not in name]
    if body:
        raise ValueError(f"{model}: its files lack {len(body)} weights that its config asks for, such as {min(body)}")
    if special.vocabulary > rows:
        raise ValueError(
            f"{model}: its tokenizer has {special.vocabulary:,} ids, and the model knows {rows:,}; "
            "are the tokenizer's files those of another model?"
        )
    return Classifier(loaded, special.inputs)


def _check_config(model: str, config: Any) -> None:
    """Raise ValueError for a family that writes text, and for more layers than any model has."""
    family = config.model_type
    writes = family in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES and family not in MODEL_FOR_MASKED_LM_MAPPING_NAMES
    if writes or config.is_encoder_decoder or getattr(config, "is_decoder", False):
        kind = "an encoder with a decoder" if config.is_encoder_decoder else "a decoder"
        raise ValueError(f"{model} is {kind} ({family}); give an encoder, such as BERT or RoBERTa")
    if not 0 < (layers := getattr(config, "num_hidden_layers", 1)) <= MOST_LAYERS:
        raise ValueError(f"{model} asks for {layers:,} layers; a model has 1 to {MOST_LAYERS:,}")


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


def parameter_groups(model: nn.Module, *, weight_decay: float) -> list[dict[str, Any]]:
    """Parameters with and without weight decay: none on biases and on norms (Devlin et al. 2019, appendix A.2)."""
    decayed: list[nn.Parameter] = []
    others: list[nn.Parameter] = []
    for module in model.modules():
        norm = "norm" in type(module).__name__.lower()
        for name, parameter in module.named_parameters(recurse=False):
            if parameter.requires_grad:
                (others if norm or name == "bias" else decayed).append(parameter)
    return [{"params": decayed, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]
