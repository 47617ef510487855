"""Small model folders as ``save_pretrained`` writes them: random weights, a tokenizer of whole words."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import tokenizers
import torch
import transformers

WORDS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "the", "film", "was", "good", "bad", "not", "very", "dull")
TEXTS = ("the film was not very good", "dull", "the film was bad", "not bad not bad not bad not bad not bad")


def write_tokenizer(folder: Path, *, inputs: Sequence[str]) -> Any:
    """A fast tokenizer of whole words, as the library writes it."""
    ids = {word: id_ for id_, word in enumerate(WORDS)}
    backend = tokenizers.Tokenizer(tokenizers.models.WordLevel(ids, unk_token="[UNK]"))
    backend.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    backend.post_processor = tokenizers.processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", ids["[CLS]"]), ("[SEP]", ids["[SEP]"])]
    )
    fast: Any = transformers.PreTrainedTokenizerFast
    tokenizer = fast(
        tokenizer_object=backend,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        model_input_names=list(inputs),
    )
    tokenizer.save_pretrained(folder)
    return tokenizer


SMALL: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "vocab_size": len(WORDS),
    "pad_token_id": 0,
    "max_position_embeddings": 32,
}
CONFIGS: dict[str, Any] = {
    "bert": lambda: transformers.BertConfig(**SMALL),
    "roberta": lambda: transformers.RobertaConfig(**SMALL, type_vocab_size=1, bos_token_id=2, eos_token_id=3),
    "electra": lambda: transformers.ElectraConfig(**SMALL, embedding_size=16),
    "distilbert": lambda: transformers.DistilBertConfig(
        dim=32, n_layers=2, n_heads=2, hidden_dim=64, vocab_size=len(WORDS), max_position_embeddings=32
    ),
}
WITH_TYPES = ("input_ids", "token_type_ids", "attention_mask")
WITHOUT_TYPES = ("input_ids", "attention_mask")
INPUTS = {"bert": WITH_TYPES, "roberta": WITHOUT_TYPES, "electra": WITH_TYPES, "distilbert": WITHOUT_TYPES}


def write_model(folder: Path, kind: str, *, classes: int = 2) -> Any:
    """The model that was written to ``folder``, beside its tokenizer."""
    automatic: Any = transformers.AutoModelForSequenceClassification
    config = CONFIGS[kind]()
    config.num_labels = classes
    torch.manual_seed(0)
    model = automatic.from_config(config).eval()
    model.save_pretrained(folder)
    write_tokenizer(folder, inputs=INPUTS[kind])
    return model
