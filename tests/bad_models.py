"""Model folders that cannot be used: a good one is copied and broken, with what is said of it."""

from __future__ import annotations

import json
import os
import pickle
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

Break = Callable[[Path], object]


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


def then(*breaks: Break) -> Break:
    return lambda folder: [break_(folder) for break_ in breaks]


def a_folder(name: str) -> Break:
    return then(without(name), lambda folder: (folder / name).mkdir())


def a_pipe(name: str) -> Break:
    return then(without(name), lambda folder: os.mkfifo(folder / name))


def a_link(name: str, to: str) -> Break:
    return then(without(name), lambda folder: (folder / name).symlink_to(to))


class WritesAFile:
    """What a pickle runs when it is loaded: it would leave a folder ``was-run``."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.mkdir, (str(self.folder / "was-run"),)


def pickled(name: str) -> Break:
    return lambda folder: (folder / name).write_bytes(pickle.dumps({"weight": WritesAFile(folder)}))


def own_code(folder: Path) -> None:
    """Code that would leave a file ``was-run``."""
    (folder / "mine.py").write_text(f"open({str(folder / 'was-run')!r}, 'w')\nclass Mine: pass\n")


def more_words(folder: Path) -> None:
    """A tokenizer with a word whose id has no embedding."""
    path = folder / "tokenizer.json"
    values = json.loads(path.read_text())
    values["model"]["vocab"]["splendid"] = len(values["model"]["vocab"])
    path.write_text(json.dumps(values))


CONFIG, WEIGHTS, TOKENIZER, TOKENIZER_CONFIG = (
    *("config.json", "model.safetensors"),
    *("tokenizer.json", "tokenizer_config.json"),
)
OWN_CODE = {"AutoConfig": "mine.Mine", "AutoModelForSequenceClassification": "mine.Mine"}
NOTHING_SAID = b"{}"

# Told by the space, before torch is imported.
SEEN: Mapping[str, tuple[Break, str]] = {
    "config missing": (without(CONFIG), "has no config.json"),
    "config a folder": (a_folder(CONFIG), "has no config.json"),
    "config a pipe": (a_pipe(CONFIG), "has no config.json"),
    "config links in a circle": (a_link(CONFIG, CONFIG), "has no config.json"),
    "config unreadable": (a_link(CONFIG, "/proc/self/mem"), "config.json is no file that can be read"),
    "config empty": (write(CONFIG, b""), "config.json is not JSON"),
    "config a list": (write(CONFIG, b"[1, 2]"), "config.json holds no JSON object"),
    "config cut short": (cut(CONFIG, 100), "config.json is not JSON"),
    "config not UTF-8": (write(CONFIG, b'{"model_type": "b\xe9rt"}'), "config.json is not UTF-8"),
    "config deep": (write(CONFIG, b'{"a": ' + b"[" * 100_000), "config.json is not JSON"),
    "weights missing": (without("*.safetensors"), "has no .safetensors weights; pickled weights are not read"),
    "weights pickled": (
        then(without("*.safetensors"), pickled("pytorch_model.bin")),
        "has no .safetensors weights; pickled weights are not read",
    ),
    "weights a folder": (a_folder(WEIGHTS), "model.safetensors is no file that can be read"),
    "weights a pipe": (a_pipe(WEIGHTS), "model.safetensors is no file that can be read"),
    "weights links in a circle": (a_link(WEIGHTS, WEIGHTS), "model.safetensors is no file that can be read"),
    "weights linked to nothing": (a_link(WEIGHTS, "nowhere"), "model.safetensors is no file that can be read"),
    "weights unreadable": (a_link(WEIGHTS, "/proc/self/mem"), "model.safetensors is no file that can be read"),
    "tokenizer a pipe": (a_pipe(TOKENIZER), "tokenizer.json is no file that can be read"),
    "tokenizer a folder": (a_folder(TOKENIZER), "tokenizer.json is no file that can be read"),
}

# Told before Ray starts, when the model is loaded.
LOADED: Mapping[str, tuple[Break, str]] = {
    "config says nothing": (write(CONFIG, NOTHING_SAID), "X"),
    "config of an unknown family": (edit(CONFIG, model_type="brt"), "X"),
    "config of family 5": (edit(CONFIG, model_type=5), "X"),
    "config of a family with its own code": (then(own_code, edit(CONFIG, model_type="mine", auto_map=OWN_CODE)), "X"),
    "config with code elsewhere": (edit(CONFIG, model_type="mine", auto_map={"AutoConfig": "org/repo--a.B"}), "X"),
    "config of a decoder": (edit(CONFIG, model_type="gpt2"), "is a decoder (gpt2); give an encoder"),
    "config of an encoder with a decoder": (edit(CONFIG, model_type="bart"), "X"),
    "config of T5": (edit(CONFIG, model_type="t5"), "X"),
    "config of BERT as a decoder": (edit(CONFIG, is_decoder=True), "is a decoder (bert); give an encoder"),
    "config with a width in words": (edit(CONFIG, hidden_size="wide"), "X"),
    "config with a width of null": (edit(CONFIG, hidden_size=None), "X"),
    "config with a negative width": (edit(CONFIG, hidden_size=-32), "X"),
    "config with another width": (edit(CONFIG, hidden_size=64), "X"),
    "config with three heads": (edit(CONFIG, num_attention_heads=3), "X"),
    "config with more layers": (edit(CONFIG, num_hidden_layers=3), "X"),
    "config with an unknown activation": (edit(CONFIG, hidden_act="none"), "X"),
    "config with a distant padding id": (edit(CONFIG, pad_token_id=999), "X"),
    "config with few positions": (edit(CONFIG, max_position_embeddings=8), "X"),
    "config quantized": (edit(CONFIG, quantization_config={"quant_method": "bitsandbytes"}), "X"),
    "weights empty": (write(WEIGHTS, b""), "X"),
    "weights cut short": (cut(WEIGHTS, -1_000), "X"),
    "weights' header cut short": (cut(WEIGHTS, 100), "X"),
    "weights' header too long": (write(WEIGHTS, b"\xff" * 8 + b"{}"), "X"),
    "weights' header not JSON": (write(WEIGHTS, (8).to_bytes(8, "little") + b"no JSON!"), "X"),
    "weights without tensors": (write(WEIGHTS, (2).to_bytes(8, "little") + b"{}"), "X"),
    "weights in truth pickled": (pickled(WEIGHTS), "X"),
    "weights of an index": (
        lambda folder: (folder / WEIGHTS).rename(folder / "model-00001-of-00002.safetensors"),
        "X",
    ),
    "weights' index not JSON": (
        then(
            lambda folder: (folder / WEIGHTS).rename(folder / "model-00001-of-00002.safetensors"),
            write("model.safetensors.index.json", b"{"),
        ),
        "X",
    ),
    "weights' index names a file that is missing": (
        then(
            lambda folder: (folder / WEIGHTS).rename(folder / "model-00001-of-00002.safetensors"),
            write("model.safetensors.index.json", b'{"metadata": {}, "weight_map": {"a": "../../b.safetensors"}}'),
        ),
        "X",
    ),
    "tokenizer missing": (without("*token*"), "X"),
    "tokenizer empty": (write(TOKENIZER, b""), "X"),
    "tokenizer not JSON": (write(TOKENIZER, b"{"), "X"),
    "tokenizer a list": (write(TOKENIZER, b"[]"), "X"),
    "tokenizer without a model": (write(TOKENIZER, NOTHING_SAID), "X"),
    "tokenizer not UTF-8": (write(TOKENIZER, b'"\xe9"'), "X"),
    "tokenizer with a model of no kind": (edit(TOKENIZER, model={"type": "Sentences"}), "X"),
    "tokenizer with a vocabulary in words": (
        edit(TOKENIZER, model={"type": "WordLevel", "vocab": "all", "unk_token": "[UNK]"}),
        "X",
    ),
    "tokenizer of another model": (more_words, "X"),
    "tokenizer's settings not JSON": (write(TOKENIZER_CONFIG, b"{"), "X"),
    "tokenizer's settings a list": (write(TOKENIZER_CONFIG, b"[]"), "X"),
    "tokenizer without padding": (write(TOKENIZER_CONFIG, NOTHING_SAID), "X"),
    "tokenizer with its own code": (
        then(own_code, edit(TOKENIZER_CONFIG, tokenizer_class="Mine", auto_map={"AutoTokenizer": ["mine.Mine", None]})),
        "X",
    ),
}
