"""How does a data set become splits of encoded examples, once for all trajectories that need them?

Equal texts stay on one side of a split, because a review that stands in training and in test measures memory. What was
encoded is kept in a folder named after everything that it depends on, so another study, and every worker, reads it.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from study.models import SpecialTokens, Tokenizer, load_tokenizer
from study.plan import stable_id
from study.settings import Data

SPLITS = ("train", "validation", "test")
IntArray = npt.NDArray[np.int64]
# Part of the cache's key: to be raised when the same settings would be encoded differently than before.
ENCODING = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Examples:
    """Texts ``[n]``, labels ``[n]`` from 0, the position of each in the source, and the labels' names."""

    texts: Sequence[str]
    labels: IntArray
    ids: IntArray
    label_names: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Encoded:
    """One split: ``input_ids`` ``[n, max_length]`` (int32, padded on the right), ``lengths`` in tokens ``[n]``."""

    input_ids: npt.NDArray[np.int32]
    lengths: npt.NDArray[np.int32]
    labels: IntArray
    ids: IntArray

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodedData:
    """The three splits, and what a model must know of the tokenizer that made them, which lies in a folder."""

    train: Encoded
    validation: Encoded
    test: Encoded
    label_names: tuple[str, ...]
    special: SpecialTokens
    tokenizer: Path

    @property
    def max_length(self) -> int:
        """Tokens of a padded text."""
        return self.train.input_ids.shape[1]


def load(data: Data, *, examples: int) -> Examples:
    """Read the data set and take ``examples`` of it, a sample drawn with the split's seed where that is not all.

    Raises ValueError when it has too few examples, missing texts or labels, or only one class.
    """
    if data.source == "builtin:reviews":
        from study.reviews import generate

        texts, raw = generate(examples)
        labels: Sequence[object] = raw
    else:
        texts, labels = _columns(data)
    if len(texts) < examples:
        raise ValueError(f"{data.source} has {len(texts):,} examples, data.examples promises {examples:,}")
    missing = sum(text is None or label is None for text, label in zip(texts, labels, strict=True))
    if missing:
        raise ValueError(f"{data.source}: {missing:,} examples have no {data.text_column} or no {data.label_column}")
    names = sorted(set(labels), key=lambda name: (isinstance(name, str), name))
    if len(names) < 2:
        raise ValueError(f"{data.source}: column {data.label_column} holds only {names}; two classes are needed")
    if len(names) > 1_000:
        raise ValueError(f"{data.source}: column {data.label_column} holds {len(names):,} values; are they classes?")
    position = {name: index for index, name in enumerate(names)}
    ids = np.arange(len(texts))
    if examples < len(texts):
        ids = np.sort(np.random.default_rng([data.split_seed, 1]).permutation(len(texts))[:examples])
    return Examples(
        texts=[str(texts[i]) for i in ids],
        labels=np.array([position[labels[i]] for i in ids], dtype=np.int64),
        ids=ids.astype(np.int64),
        label_names=tuple(str(name) for name in names),
    )


def _columns(data: Data) -> tuple[list[Any], list[Any]]:
    """The text and the label column of a file or of a data set on the hub."""
    suffix = Path(data.source).suffix
    if suffix in (".parquet", ".csv", ".jsonl"):
        import pyarrow.csv
        import pyarrow.json
        import pyarrow.parquet

        multiline = pyarrow.csv.ParseOptions(newlines_in_values=True)
        if suffix == ".parquet":
            table = pyarrow.parquet.read_table(data.source, columns=[data.text_column, data.label_column])
        elif suffix == ".csv":
            table = pyarrow.csv.read_csv(data.source, parse_options=multiline)
        else:
            table = pyarrow.json.read_json(data.source)
        return table[data.text_column].to_pylist(), table[data.label_column].to_pylist()
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
    """Positions of each split's examples, in random order, of exactly the sizes that the plan counts with.

    Equal texts go to one split. Raises ValueError when that cannot be had at these sizes.
    """
    sizes = data.split_sizes(len(examples.texts))
    _, group = np.unique(np.array(examples.texts, dtype=object), return_inverse=True)
    order = np.random.default_rng([data.split_seed, 0]).permutation(len(examples.texts))
    members: dict[int, list[int]] = {}
    for position in order:
        members.setdefault(int(group[position]), []).append(int(position))
    rest = list(members.values())
    parts: dict[str, IntArray] = {}
    for name in SPLITS:
        taken: list[int] = []
        left: list[list[int]] = []
        for texts in rest:
            if len(taken) + len(texts) <= sizes[name]:
                taken.extend(texts)
            else:
                left.append(texts)
        if len(taken) != sizes[name]:
            raise ValueError(f"{data.source}: so many equal texts that no {name} split has {sizes[name]:,} examples")
        parts[name], rest = np.array(taken, dtype=np.int64), left
    return parts


def prepare(data: Data, *, identity: str, examples: int, model: str, model_identity: str, cache: Path) -> Path:
    """Encode a data set for ``model``, unless the folder that is returned already holds it.

    ``identity`` and ``model_identity`` say what data and model are by content. Raises ValueError for data or a model
    that cannot be used.
    """
    described = {**data.model_dump(mode="json"), "source": identity, "examples": examples}
    folder = cache / stable_id({"data": described, "model": model_identity, "encoding": ENCODING})
    if (folder / "encoded.json").exists():
        return folder
    read = load(data, examples=examples)
    parts = split(read, data)
    tokenizer = load_tokenizer(model, max_length=data.max_length, texts=[read.texts[i] for i in parts["train"]])
    cache.mkdir(parents=True, exist_ok=True)
    part = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", suffix=".part", dir=cache))
    for name, positions in parts.items():
        input_ids, lengths = encode([read.texts[i] for i in positions], tokenizer, max_length=data.max_length)
        columns = {"input_ids": input_ids, "lengths": lengths}
        columns |= {"labels": read.labels[positions], "ids": read.ids[positions]}
        for column, values in columns.items():
            np.save(part / f"{name}-{column}.npy", values, allow_pickle=False)
    tokenizer.save(part / "tokenizer")
    (part / "encoded.json").write_text(
        json.dumps({"label_names": read.label_names, "special": asdict(tokenizer.special)})
    )
    try:
        part.chmod(0o755)
        part.rename(folder)
    except OSError:  # another process encoded the same at the same time
        shutil.rmtree(part)
    return folder


def encode(
    texts: Sequence[str], tokenizer: Tokenizer, *, max_length: int
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32]]:
    """Token ids ``[n, max_length]``, padded on the right, and lengths ``[n]``, special tokens included."""
    input_ids = np.full((len(texts), max_length), tokenizer.special.pad, dtype=np.int32)
    lengths = np.zeros(len(texts), dtype=np.int32)
    for start in range(0, len(texts), 10_000):
        for row, ids in enumerate(tokenizer.encode(texts[start : start + 10_000]), start=start):
            input_ids[row, : len(ids)] = ids
            lengths[row] = len(ids)
    return input_ids, lengths


def open_encoded(folder: Path) -> EncodedData:
    """What :func:`prepare` wrote, mapped into memory so that workers of one machine share it."""
    description = json.loads((folder / "encoded.json").read_text())
    splits = {
        name: Encoded(
            **{
                column: np.load(folder / f"{name}-{column}.npy", mmap_mode="r", allow_pickle=False)
                for column in ("input_ids", "lengths", "labels", "ids")
            }
        )
        for name in SPLITS
    }
    return EncodedData(
        **splits,
        label_names=tuple(description["label_names"]),
        special=SpecialTokens(**description["special"]),
        tokenizer=folder / "tokenizer",
    )
