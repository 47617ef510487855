"""Data sets are split exactly, sampled by their seed and encoded once."""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from loop_builder import make_loop, make_settings

from study.data.builtin_reviews import generate
from study.data.dataset import Examples, load, open_encoded, prepare, split
from study.models.classifier import load_classifier
from study.models.tokenizer import load_tokenizer
from study.settings import Data

FAMILIES = ("tiny-bert", "tiny-roberta")


def examples_of(texts: list[str], labels: list[int]) -> Examples:
    return Examples(texts=texts, labels=np.array(labels, dtype=np.int64), ids=np.arange(len(texts)))


def data_of(**values: Any) -> Data:
    return Data.model_validate({"source": "builtin:reviews", **values})


@given(
    groups=st.lists(st.integers(1, 6), min_size=40, max_size=80),
    share=st.floats(0.1, 0.9),
    seed=st.integers(0, 5),
)
@settings(max_examples=60, deadline=None)
def test_splits_are_exact_stratified_and_keep_equal_texts_together(groups: list[int], share: float, seed: int) -> None:
    """Equal texts have equal labels here, as in all but contradictory data; most texts occur once."""
    copies = [max(1, size - 4) for size in groups] + [1] * 60
    texts = [f"text {number}" for number, size in enumerate(copies) for _ in range(size)]
    examples = examples_of(texts, [int(int(text[5:]) * 37 % 100 < 100 * share) for text in texts])
    data = data_of(fractions={"train": 0.6, "validation": 0.2, "test": 0.2}, split_seed=seed)
    parts = split(examples, data)
    assert {name: len(part) for name, part in parts.items()} == data.split_sizes(len(texts))
    assert sorted(np.concatenate(list(parts.values())).tolist()) == list(range(len(texts)))
    split_of = {examples.texts[position]: name for name, part in parts.items() for position in part}
    assert all(split_of[examples.texts[position]] == name for name, part in parts.items() for position in part)
    for part in parts.values():
        assert abs(examples.labels[part].sum() - examples.labels.mean() * len(part)) <= 1.5


def test_the_split_depends_on_its_seed_alone() -> None:
    examples = examples_of(*generate(300))
    first, again, other = (split(examples, data_of(split_seed=seed)) for seed in (0, 0, 1))
    for name in first:
        assert np.array_equal(first[name], again[name])
        assert not np.array_equal(first[name], other[name])
        # In random order: neither sorted nor one class after the other.
        assert np.corrcoef(first[name], np.arange(len(first[name])))[0, 1] < 0.5
        assert (np.diff(examples.labels[first[name]]) != 0).mean() > 0.3


def test_more_equal_texts_than_any_split_has_room_for_are_an_error() -> None:
    texts = ["again and again"] * 90 + [f"text {i}" for i in range(10)]
    with pytest.raises(ValueError, match=r"90 texts are equal \(again and again…\), and no split has room"):
        split(examples_of(texts, [i % 2 for i in range(100)]), data_of())


def test_a_random_sample_keeps_the_positions_of_its_rows(tmp_path: Path) -> None:
    path = tmp_path / "data.parquet"
    texts, labels = [f"text {i}" for i in range(50)], [i % 2 for i in range(50)]
    pyarrow.parquet.write_table(
        pa.table({"review": texts, "sentiment": ["bad" if x else "good" for x in labels]}), path
    )
    named = {"text_column": "review", "label_column": "sentiment", "label_values": ("good", "bad")}
    data = data_of(source=str(path), **named)
    sample = load(data, examples=20)
    assert len(set(sample.ids.tolist())) == 20
    assert sample.texts == [texts[id_] for id_ in sample.ids]
    assert sample.labels.tolist() == [labels[id_] for id_ in sample.ids]
    assert sample.ids.tolist() != list(range(20))
    assert load(data, examples=50).ids.tolist() == list(range(50))
    with pytest.raises(ValueError, match=r"has 50 examples, fewer than data\.examples, which is 60"):
        load(data, examples=60)


def test_a_data_set_that_the_hub_does_not_provide_is_an_error_with_a_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    with pytest.raises(ValueError, match=r"nobody/nothing could not be loaded from the hub .*--data FILE"):
        load(data_of(source="nobody/nothing"), examples=10)


def prepared(cache: Path, family: str, *, examples: int = 200, **data: Any) -> Path:
    """The folder of encoded data for a built-in model."""
    settings = data_of(max_length=32, **data)
    return prepare(
        settings,
        identity={**settings.identity(), "source": "content of the source", "examples": examples},
        model=family,
        model_identity=family,
        cache=cache,
    )


@pytest.mark.parametrize("family", FAMILIES)
def test_data_is_encoded_once_and_read_back_as_encoded(tmp_path: Path, family: str) -> None:
    folder = prepared(tmp_path, family)
    stamps = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    assert prepared(tmp_path, family) == folder
    assert stamps == {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    assert len({folder, prepared(tmp_path, family, split_seed=1), prepared(tmp_path, family, examples=210)}) == 3

    examples = load(data_of(), examples=200)
    parts = split(examples, data_of(max_length=32))
    tokenizer = load_tokenizer(family, max_length=32, texts=[examples.texts[i] for i in parts["train"]])
    data = open_encoded(folder)
    assert (len(data.train), len(data.validation), len(data.test)) == (160, 20, 20)
    assert data.special == tokenizer.special
    for name, encoded in (("train", data.train), ("validation", data.validation), ("test", data.test)):
        texts = [examples.texts[i] for i in parts[name]]
        assert encoded.ids.tolist() == examples.ids[parts[name]].tolist()
        assert encoded.labels.tolist() == examples.labels[parts[name]].tolist()
        for row, length, ids in zip(encoded.input_ids, encoded.lengths, tokenizer.encode(texts), strict=True):
            assert row[:length].tolist() == ids
            assert set(row[length:].tolist()) <= {data.special.pad}


@pytest.mark.parametrize("family", FAMILIES)
def test_a_vocabulary_is_learned_from_the_training_split_alone(tmp_path: Path, family: str) -> None:
    """It is the same where the other splits have other texts."""
    labels = [i % 2 for i in range(100)]
    texts = [f"plain words {i % 7} of review {i}" for i in range(100)]
    train = set(split(examples_of(texts, labels), data_of())["train"].tolist())
    learned = []
    for name, elsewhere in (("first", "plain words"), ("other", "zzz qqq")):
        path = tmp_path / f"{name}.parquet"
        changed = [text if i in train else f"{elsewhere} {i}" for i, text in enumerate(texts)]
        pyarrow.parquet.write_table(pa.table({"text": changed, "label": labels}), path)
        folder = prepared(tmp_path / name, family, source=str(path), examples=100)
        learned.append((folder / "tokenizer" / "tokenizer.json").read_text())
    assert learned[0] == learned[1]


def test_a_model_gets_the_inputs_that_its_tokenizer_lists(tmp_path: Path) -> None:
    """BERT's lists token types and RoBERTa's does not; no code on the way from text to logits depends on the name."""
    names: dict[str, Counter[str]] = {}
    for family in FAMILIES:
        data = open_encoded(prepared(tmp_path, family))
        model = load_classifier(family, classes=2, special=data.special, max_length=32, dropout=0.0)
        seen = names.setdefault(family, Counter())
        model.model.register_forward_pre_hook(
            lambda _, __, given, seen=seen: seen.update(name for name, value in given.items() if value is not None),
            with_kwargs=True,
        )
        ids = torch.from_numpy(data.train.input_ids[:4])
        model(ids, torch.from_numpy(data.train.lengths[:4]))
        assert set(seen) == set(data.special.inputs)
    assert set(names["tiny-bert"]) - set(names["tiny-roberta"]) == {"token_type_ids"}


def test_the_loop_reads_the_mapped_file_and_not_a_copy_of_it(tmp_path: Path) -> None:
    data = open_encoded(prepared(tmp_path, "tiny-bert"))
    loop = make_loop(data, make_settings(epochs=1))
    assert np.shares_memory(loop.gradients.ids.numpy(), data.train.input_ids)
    assert isinstance(data.train.input_ids, np.memmap)
