"""Loads a data set, splits it and encodes it, once for all trajectories that need it.

Equal texts are put into one split, because a review that is both in training and in test measures memory. Encoded data
is kept in a folder named after everything that it depends on, from which every worker, and another study, reads it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from study.data.files import check, read
from study.ids import stable_id
from study.models.tokenizer import SpecialTokens, Tokenizer, load_tokenizer
from study.settings import Data
from study.storage import replacing

# The splits of a data set, in the order in which their sizes are stated.
SPLITS = ("train", "validation", "test")
IntArray = npt.NDArray[np.int64]
TokenArray = npt.NDArray[np.int32]
# Part of the cache's key, to be raised when the same settings would be encoded differently than before.
ENCODING = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Examples:
    """Texts ``[n]``, labels ``[n]`` (0 or 1) and the position of each in the source."""

    texts: Sequence[str]
    labels: IntArray
    ids: IntArray


@dataclass(frozen=True, slots=True, kw_only=True)
class Encoded:
    """One split: ``input_ids`` ``[n, max_length]`` (int32, padded on the right), ``lengths`` in tokens ``[n]``."""

    input_ids: TokenArray
    lengths: TokenArray
    labels: IntArray
    ids: IntArray

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodedData:
    """The three splits, what a model must know of the tokenizer that encoded them, and the tokenizer's folder."""

    train: Encoded
    validation: Encoded
    test: Encoded
    label_names: tuple[str, ...]
    special: SpecialTokens
    tokenizer: Path

    @property
    def max_length(self) -> int:
        """Length of a padded text, in tokens."""
        return int(self.train.input_ids.shape[1])


def load(data: Data, *, examples: int) -> Examples:
    """Read the data set and take ``examples`` of it, a sample drawn with the split's seed where that is not all.

    Raises ValueError when it has too few examples, a row without text, or a label that is neither of the two.
    """
    if data.source == "builtin:reviews":
        from study.data.builtin_reviews import generate

        raw: tuple[Sequence[Any], Sequence[Any]] = generate(examples)
    else:
        raw = _columns(data)
    try:
        texts, labels = check(*raw, label_values=data.label_values)
    except ValueError as error:
        raise ValueError(f"{data.source}, {error}") from error
    if len(texts) < examples:
        raise ValueError(f"{data.source} has {len(texts):,} examples, fewer than data.examples, which is {examples:,}")
    ids = np.arange(len(texts))
    if examples < len(texts):
        ids = np.sort(np.random.default_rng([data.split_seed, 1]).permutation(len(texts))[:examples])
    return Examples(texts=[texts[i] for i in ids.tolist()], labels=labels[ids], ids=ids)


def _columns(data: Data) -> tuple[Sequence[Any], Sequence[Any]]:
    """The text and the label column of a file or of a hub data set."""
    path = Path(data.source)
    if path.is_absolute():
        return read(path, text_column=data.text_column, label_column=data.label_column)
    import datasets

    try:
        parts = [datasets.load_dataset(data.source, split=split) for split in data.hub_splits]
    except (OSError, ValueError) as error:
        raise ValueError(
            f"the data set {data.source} could not be loaded from the hub ({error}); "
            "give a local file with --data FILE (.parquet, .csv or .jsonl)"
        ) from error
    table = datasets.concatenate_datasets(parts)
    return list(table[data.text_column]), list(table[data.label_column])


def split(examples: Examples, data: Data) -> dict[str, IntArray]:
    """Positions of each split's examples, in random order, in exactly the sizes that the plan assumes.

    Each split has the classes in the proportion of the whole, to within one example, and equal texts are in one split.
    Raises ValueError when that is impossible at these sizes.
    """
    rng = np.random.default_rng([data.split_seed, 0])
    room = _room(data.split_sizes(len(examples.texts)), examples.labels)
    groups: dict[str, list[int]] = {}
    for position in rng.permutation(len(examples.texts)).tolist():
        groups.setdefault(examples.texts[position], []).append(position)
    parts: list[list[int]] = [[] for _ in SPLITS]
    duplicates = [members for members in groups.values() if len(members) > 1]
    for members in sorted(duplicates, key=len, reverse=True):  # the larger, the harder to place
        wanted = np.bincount(examples.labels[members], minlength=2)
        fitting = (room >= wanted).all(axis=1)
        if not fitting.any():
            text = examples.texts[members[0]][:40]
            raise ValueError(f"{data.source}: {len(members)} texts are equal ({text}…), and no split has room for them")
        chances = np.where(fitting, room.sum(axis=1), 0)
        chosen = int(rng.choice(len(SPLITS), p=chances / chances.sum()))
        room[chosen] -= wanted
        parts[chosen] += members
    unique = np.array([members[0] for members in groups.values() if len(members) == 1], dtype=np.int64)
    for class_ in (0, 1):
        positions = unique[examples.labels[unique] == class_]
        for part, more in zip(parts, np.split(positions, np.cumsum(room[:, class_])[:-1]), strict=True):
            part += more.tolist()
    return {name: rng.permutation(np.array(part, dtype=np.int64)) for name, part in zip(SPLITS, parts, strict=True)}


def _room(sizes: Mapping[str, int], labels: IntArray) -> IntArray:
    """Number of examples of each class in each split ``[splits, 2]``; rows and columns add up exactly."""
    positive = int(labels.sum())
    share = positive / len(labels)
    of_class = {name: round(share * sizes[name]) for name in SPLITS[1:]}
    of_class["train"] = positive - sum(of_class.values())
    return np.array([[sizes[name] - of_class[name], of_class[name]] for name in SPLITS])


def prepare(data: Data, *, identity: Mapping[str, Any], model: str, model_identity: str, cache: Path) -> Path:
    """Encode a data set for ``model``, unless the folder that is returned already holds it.

    ``identity`` and ``model_identity`` identify data and model by content (:attr:`study.space.space.Space`). Raises
    ValueError for data or a model that cannot be used.
    """
    folder = cache / stable_id({"data": identity, "model": model_identity, "encoding": ENCODING})
    if (folder / "encoded.json").exists():
        return folder
    examples = load(data, examples=identity["examples"])
    positions = split(examples, data)
    texts = {name: [examples.texts[i] for i in rows.tolist()] for name, rows in positions.items()}
    tokenizer = load_tokenizer(model, max_length=data.max_length, texts=texts["train"])
    cache.mkdir(parents=True, exist_ok=True)
    try:
        with replacing(folder, first_wins=True) as part:
            part.mkdir()
            for name, rows in positions.items():
                input_ids, lengths = encode(texts[name], tokenizer, max_length=data.max_length)
                columns: dict[str, npt.NDArray[Any]] = {"input_ids": input_ids, "lengths": lengths}
                columns |= {"labels": examples.labels[rows], "ids": examples.ids[rows]}
                for column, values in columns.items():
                    np.save(part / f"{name}-{column}.npy", values, allow_pickle=False)
            tokenizer.save(part / "tokenizer")
            description = {
                "label_names": [str(value) for value in data.label_values],
                "special": asdict(tokenizer.special),
            }
            (part / "encoded.json").write_text(json.dumps(description))
    except OSError as error:
        if (folder / "encoded.json").exists():  # another process may have encoded the same at the same time
            return folder
        if isinstance(error, PermissionError):
            raise ValueError(
                f"{cache} cannot be written to: it belongs to {cache.owner()}, who started the first study there; make "
                "it writable for both (chgrp, chmod g+ws), or give another --storage"
            ) from error
        raise
    return folder


def encode(texts: Sequence[str], tokenizer: Tokenizer, *, max_length: int) -> tuple[TokenArray, TokenArray]:
    """Token ids ``[n, max_length]``, padded on the right, and lengths ``[n]``, special tokens included."""
    input_ids = np.full((len(texts), max_length), tokenizer.special.pad, dtype=np.int32)
    lengths = np.zeros(len(texts), dtype=np.int32)
    for start in range(0, len(texts), 10_000):
        for row, ids in enumerate(tokenizer.encode(texts[start : start + 10_000]), start=start):
            input_ids[row, : len(ids)] = ids
            lengths[row] = len(ids)
    return input_ids, lengths


def open_encoded(folder: Path) -> EncodedData:
    """The data that :func:`prepare` wrote, mapped into memory so that the workers of one machine share one copy."""
    description = json.loads((folder / "encoded.json").read_text())
    splits = {
        name: Encoded(
            **{
                column: np.load(folder / f"{name}-{column}.npy", mmap_mode="c", allow_pickle=False)
                for column in ("input_ids", "lengths", "labels", "ids")
            }
        )
        for name in SPLITS
    }
    return EncodedData(
        **splits,
        label_names=tuple(description["label_names"]),
        special=SpecialTokens(**{**description["special"], "inputs": tuple(description["special"]["inputs"])}),
        tokenizer=folder / "tokenizer",
    )
