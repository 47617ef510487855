"""Tokenizers by model name: the hub's, a folder's, or one that learns its vocabulary from the training split."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tokenizers
import transformers

from study.models.loading import loading_errors
from study.settings import BUILT_IN_MODELS

# Their padding token, and the tokenizer class whose inputs they have.
BUILT_IN_TOKENIZERS: Mapping[str, tuple[str, Any]] = {
    "tiny-bert": ("[PAD]", transformers.BertTokenizer),
    "tiny-roberta": ("<pad>", transformers.RobertaTokenizer),
}
BUILT_IN_VOCABULARY = 8_192
BUILT_IN_ALPHABET = 1_000
# So many texts show whether a tokenizer knows their language.
FIRST_TEXTS = 1_000


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
        """Token ids of each text, special tokens included, truncated to the maximal length."""
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
    if model in BUILT_IN_MODELS:
        backend = _train_wordpiece(texts) if model == "tiny-bert" else _train_byte_level(texts)
        padding, like = BUILT_IN_TOKENIZERS[model]
        pad, inputs = backend.token_to_id(padding), like.model_input_names
        assert pad is not None
    else:
        with loading_errors(model):
            loaded = transformers.AutoTokenizer.from_pretrained(model, trust_remote_code=False)
        if not getattr(loaded, "is_fast", False):
            raise ValueError(f"{model}: its tokenizer has no fast (Rust) version")
        if loaded.pad_token_id is None:
            raise ValueError(f"{model}: its tokenizer has no padding token")
        backend, pad, inputs = loaded.backend_tokenizer, int(loaded.pad_token_id), loaded.model_input_names
        # The library makes an empty tokenizer of a folder that holds none.
        with loading_errors(model):
            special = set(loaded.all_special_ids)
            first = backend.encode_batch_fast(list(texts[:FIRST_TEXTS]))
        if texts and all(set(encoding.ids) <= special for encoding in first):
            raise ValueError(f"{model}: its tokenizer knows no word of the texts; are the tokenizer's files there?")
    backend.no_padding()
    backend.enable_truncation(max_length)
    vocabulary = max(backend.get_vocab().values(), default=-1) + 1
    return Tokenizer(backend, SpecialTokens(pad=pad, vocabulary=vocabulary, inputs=tuple(inputs)), max_length)


def _train_wordpiece(texts: Sequence[str]) -> tokenizers.Tokenizer:
    """BERT's uncased WordPiece, with a vocabulary learned from ``texts``.

    The library numbers the pieces within words ("##a") in the order of a hash map, which differs in each process. Given
    as special tokens they are numbered in this order; afterwards only BERT's own stay special.
    """
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    trainer = tokenizers.BertWordPieceTokenizer(lowercase=True)
    trained = trainer._tokenizer
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(trained.normalizer.normalize_str(text))
    characters = sorted(counts, key=lambda character: (-counts[character], character))[:BUILT_IN_ALPHABET]
    letters = [character for character in characters if not character.isspace()]
    pieces = [*letters, *(f"##{letter}" for letter in letters)]
    trainer.train_from_iterator(
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
    trainer = tokenizers.ByteLevelBPETokenizer()
    trainer.train_from_iterator(texts, vocab_size=BUILT_IN_VOCABULARY, special_tokens=special, show_progress=False)
    backend: tokenizers.Tokenizer = trainer._tokenizer
    ends = [("<s>", backend.token_to_id("<s>")), ("</s>", backend.token_to_id("</s>"))]
    backend.post_processor = tokenizers.processors.TemplateProcessing(single="<s> $A </s>", special_tokens=ends)
    return backend
