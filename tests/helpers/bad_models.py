"""Ways to break a copy of a good model folder, each with its error message."""

from __future__ import annotations

import json
import os
import pickle
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

Break = Callable[[Path], object]
CONFIG, TOKENIZER, TOKENIZER_CONFIG = "config.json", "tokenizer.json", "tokenizer_config.json"
WEIGHTS, INDEX, SHARD = "model.safetensors", "model.safetensors.index.json", "model-00001-of-00002.safetensors"


def edit(name: str, **changes: object) -> Break:
    """Change values of a JSON file."""

    def break_(folder: Path) -> None:
        values = json.loads((folder / name).read_text())
        (folder / name).write_text(json.dumps({**values, **changes}))

    return break_


def write(name: str, content: bytes) -> Break:
    return lambda folder: (folder / name).write_bytes(content)


def cut(name: str, end: int) -> Break:
    return lambda folder: (folder / name).write_bytes((folder / name).read_bytes()[:end])


def without(pattern: str) -> Break:
    def break_(folder: Path) -> None:
        for path in folder.glob(pattern):
            path.unlink()

    return break_


def rename(name: str, to: str) -> Break:
    return lambda folder: (folder / name).rename(folder / to)


def header(content: bytes) -> bytes:
    """A safetensors file of nothing but this header."""
    return len(content).to_bytes(8, "little") + content


def then(*breaks: Break) -> Break:
    return lambda folder: [break_(folder) for break_ in breaks]


def a_folder(name: str) -> Break:
    return then(without(name), lambda folder: (folder / name).mkdir())


def a_pipe(name: str) -> Break:
    return then(without(name), lambda folder: os.mkfifo(folder / name))


def a_link(name: str, to: str) -> Break:
    return then(without(name), lambda folder: (folder / name).symlink_to(to))


class WritesAFile:
    """A pickle that makes a folder ``was-run`` when it is loaded."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.mkdir, (str(self.folder / "was-run"),)


def pickled(name: str) -> Break:
    return lambda folder: (folder / name).write_bytes(pickle.dumps({"weight": WritesAFile(folder)}))


def own_code(folder: Path) -> None:
    """Code that writes a file ``was-run`` when it is imported."""
    (folder / "mine.py").write_text(f"open({str(folder / 'was-run')!r}, 'w')\nclass Mine: pass\n")


def without_ends(folder: Path) -> None:
    """A tokenizer that adds end tokens which it does not have: a panic in Rust."""
    values = json.loads((folder / TOKENIZER).read_text())
    values["post_processor"]["special_tokens"] = {}
    (folder / TOKENIZER).write_text(json.dumps(values))


def without_padding(folder: Path) -> None:
    values = json.loads((folder / TOKENIZER_CONFIG).read_text())
    del values["pad_token"]
    (folder / TOKENIZER_CONFIG).write_text(json.dumps(values))


def more_words(folder: Path) -> None:
    """A tokenizer with a word whose id has no embedding."""
    path = folder / "tokenizer.json"
    values = json.loads(path.read_text())
    values["model"]["vocab"]["splendid"] = len(values["model"]["vocab"])
    path.write_text(json.dumps(values))


OWN_CODE = {"AutoConfig": "mine.Mine", "AutoModelForSequenceClassification": "mine.Mine"}

# Refused while the space is read, before torch is imported.
SEEN: Mapping[str, tuple[Break, str]] = {
    "config missing": (without(CONFIG), "has no config.json"),
    "config a folder": (a_folder(CONFIG), "has no config.json"),
    "config a pipe": (a_pipe(CONFIG), "has no config.json"),
    "config links in a circle": (a_link(CONFIG, CONFIG), "has no config.json"),
    "config unreadable": (a_link(CONFIG, "/proc/self/mem"), "config.json is not a readable file"),
    "config empty": (write(CONFIG, b""), "config.json is not JSON"),
    "config a list": (write(CONFIG, b"[1, 2]"), "config.json is not a JSON object; did save_pretrained"),
    "config cut short": (cut(CONFIG, 100), "config.json is not JSON"),
    "config not UTF-8": (write(CONFIG, b'{"model_type": "b\xe9rt"}'), "config.json is not UTF-8"),
    "config deep": (write(CONFIG, b'{"a": ' + b"[" * 100_000), "config.json is not JSON"),
    "weights missing": (without("*.safetensors"), "has no .safetensors weights; pickled weights are not read"),
    "weights pickled": (
        then(without("*.safetensors"), pickled("pytorch_model.bin")),
        "has no .safetensors weights; pickled weights are not read",
    ),
    "weights a folder": (a_folder(WEIGHTS), "model.safetensors is not a readable file"),
    "weights a pipe": (a_pipe(WEIGHTS), "model.safetensors is not a readable file"),
    "weights links in a circle": (a_link(WEIGHTS, WEIGHTS), "model.safetensors is not a readable file"),
    "weights linked to nothing": (a_link(WEIGHTS, "nowhere"), "model.safetensors is not a readable file"),
    "weights unreadable": (a_link(WEIGHTS, "/proc/self/mem"), "model.safetensors is not a readable file"),
    "weights' index not JSON": (write(INDEX, b"{"), "model.safetensors.index.json is not JSON"),
    "tokenizer a pipe": (a_pipe(TOKENIZER), "tokenizer.json is not a readable file"),
    "tokenizer a folder": (a_folder(TOKENIZER), "tokenizer.json is not a readable file"),
    "tokenizer empty": (write(TOKENIZER, b""), "tokenizer.json is not JSON"),
    "tokenizer cut short": (cut(TOKENIZER, -1), "tokenizer.json is not JSON"),
    "tokenizer a list": (write(TOKENIZER, b"[]"), "tokenizer.json is not a JSON object"),
    "tokenizer not UTF-8": (write(TOKENIZER, b'{"\xe9": 0}'), "tokenizer.json is not UTF-8"),
    "tokenizer's settings a list": (write(TOKENIZER_CONFIG, b"[]"), "tokenizer_config.json is not a JSON object"),
}

# Refused when the model is loaded, before Ray starts.
LOADED: Mapping[str, tuple[Break, str]] = {
    "config empty object": (write(CONFIG, b"{}"), r"could not be loaded \(Unrecognized model .*model_type"),
    "config of an unknown family": (edit(CONFIG, model_type="brt"), r"model type `brt` but Transformers does not"),
    "config of family 5": (edit(CONFIG, model_type=5), "model type `5` but Transformers does not"),
    "config of a family with its own code": (
        then(own_code, edit(CONFIG, model_type="mine", auto_map=OWN_CODE)),
        "contains custom code",
    ),
    "config with code elsewhere": (
        edit(CONFIG, model_type="mine", auto_map={"AutoConfig": "org/repo--a.B"}),
        r"could not be loaded \(.*org/repo",
    ),
    "config of a decoder": (edit(CONFIG, model_type="gpt2"), r"is a decoder \(gpt2\); give an encoder"),
    "config of BERT as a decoder": (edit(CONFIG, is_decoder=True), r"is a decoder \(bert\); give an encoder"),
    "config of BART": (edit(CONFIG, model_type="bart"), r"is an encoder with a decoder \(bart\); give an encoder"),
    "config of T5": (
        edit(CONFIG, model_type="t5", classifier_dropout=0.0),
        r"is an encoder with a decoder \(t5\); give an encoder",
    ),
    "config with a width in words": (edit(CONFIG, hidden_size="wide"), "'hidden_size' expected int, got str"),
    "config with a width of null": (edit(CONFIG, hidden_size=None), "'hidden_size' expected int, got NoneType"),
    "config with a negative width": (edit(CONFIG, hidden_size=-32), r"could not be loaded \(.*negative dimension"),
    "config with another width": (edit(CONFIG, hidden_size=64), r"its files lack \d+ weights that its config requires"),
    "config with three heads": (edit(CONFIG, num_attention_heads=3), "is not a multiple of the number of attention"),
    "config with more layers": (
        edit(CONFIG, num_hidden_layers=3),
        r"its files lack \d+ weights .* bert.encoder.layer.2",
    ),
    "config with a million layers": (
        edit(CONFIG, num_hidden_layers=10**6),
        "has 1,000,000 layers in its config; between 1 and 1,000",
    ),
    "config without layers": (edit(CONFIG, num_hidden_layers=0), "has 0 layers in its config; between 1 and 1,000"),
    "config with an unknown activation": (edit(CONFIG, hidden_act="none"), r"could not be loaded \(KeyError: 'none'\)"),
    "config with a distant padding id": (edit(CONFIG, pad_token_id=999), "Padding_idx must be within num_embeddings"),
    "config of RoBERTa without padding": (
        edit(CONFIG, model_type="roberta", pad_token_id=None),
        r"could not be loaded \(TypeError: ",
    ),
    "config with few positions": (
        edit(CONFIG, max_position_embeddings=8),
        "accepts at most 8 tokens, and data.max_length is",
    ),
    "config quantized": (edit(CONFIG, quantization_config={"quant_method": "gptq", "bits": 4}), "could not be loaded"),
    "weights empty": (write(WEIGHTS, b""), r"could not be loaded \(Error while deserializing header: header too small"),
    "weights cut short": (cut(WEIGHTS, -1_000), "deserializing header: incomplete metadata, file not fully covered"),
    "weights' header cut short": (cut(WEIGHTS, 100), "deserializing header: invalid header length"),
    "weights' header too long": (write(WEIGHTS, b"\xff" * 8 + b"{}"), "deserializing header: header too large"),
    "weights' header not JSON": (write(WEIGHTS, header(b"no JSON!")), "deserializing header: invalid JSON in header"),
    "weights without tensors": (write(WEIGHTS, header(b"{}")), r"its files lack \d+ weights that its config requires"),
    "weights pickled with another suffix": (
        pickled(WEIGHTS),
        r"could not be loaded \(Error while deserializing header",
    ),
    "weights without their index": (rename(WEIGHTS, SHARD), "no file named model.safetensors found"),
    "weights' index without the files": (
        then(rename(WEIGHTS, SHARD), write(INDEX, b'{"metadata": {}, "weight_map": {"a": "../../b.safetensors"}}')),
        r"could not be loaded \(No such file",
    ),
    "weights' index a list": (
        then(rename(WEIGHTS, SHARD), write(INDEX, b'{"metadata": {}, "weight_map": []}')),
        r"could not be loaded \(AttributeError: ",
    ),
    "tokenizer missing": (without("*token*"), "its tokenizer knows no word of the texts; are the tokenizer's files"),
    "tokenizer without a model": (write(TOKENIZER, b"{}"), r"could not be loaded \(KeyError: "),
    "tokenizer of no kind": (edit(TOKENIZER, model={"type": "Sentences"}), r"could not be loaded \(data did not match"),
    "tokenizer with a vocabulary in words": (
        edit(TOKENIZER, model={"type": "WordLevel", "vocab": "all", "unk_token": "[UNK]"}),
        r"could not be loaded \(invalid type: string",
    ),
    "tokenizer without its ends": (without_ends, r"could not be loaded \(no entry found for key\)"),
    "tokenizer with an unknown word it lacks": (edit(TOKENIZER_CONFIG, unk_token=""), r"could not be loaded \("),
    "tokenizer of another model": (more_words, "its tokenizer has 13 ids, and the model has embeddings for 12"),
    "tokenizer without padding": (without_padding, "its tokenizer has no padding token"),
}
