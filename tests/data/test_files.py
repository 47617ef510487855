"""Data files of each kind have the same rows, and rows that cannot be used are named."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet
import pytest

from study.data.files import check, describe, read

Rows = Sequence[tuple[Any, Any]]
GOOD: Rows = [("a fine film", 1), ("a dull, dull\nfilm", 0), ('"quite"', 1), ("naïve 🙂", 0)]


def write(folder: Path, suffix: str, rows: Rows) -> Path:
    path = folder / f"data{suffix}"
    if suffix == ".parquet":
        table = pa.table({"text": [text for text, _ in rows], "label": [label for _, label in rows]})
        pyarrow.parquet.write_table(table, path)
    elif suffix == ".csv":
        quoted = ['"{}",{}'.format(text.replace('"', '""'), label) for text, label in rows]
        path.write_text("\n".join(["text,label", *quoted]) + "\n")
    else:
        path.write_text("".join(json.dumps({"text": text, "label": label}) + "\n" for text, label in rows))
    return path


def checked(path: Path, *label_values: Any) -> tuple[list[str], list[int]]:
    columns = read(path, text_column="text", label_column="label")
    texts, labels = check(*columns, label_values=label_values or (0, 1))
    return texts, labels.tolist()


@pytest.mark.parametrize("suffix", [".parquet", ".csv", ".jsonl"])
def test_every_kind_of_file_has_the_same_rows(tmp_path: Path, suffix: str) -> None:
    path = write(tmp_path, suffix, GOOD)
    rows, columns = describe(path)
    assert (rows, set(columns)) == (4, {"text", "label"})
    assert checked(path) == ([text for text, _ in GOOD], [1, 0, 1, 0])


@pytest.mark.parametrize("suffix", [".parquet", ".csv", ".jsonl"])
def test_labels_other_than_0_and_1_are_named_by_label_values(tmp_path: Path, suffix: str) -> None:
    path = write(tmp_path, suffix, [("good", "positive"), ("bad", "negative")])
    assert checked(path, "negative", "positive")[1] == [1, 0]
    with pytest.raises(
        ValueError,
        match=r"row 1: the label is 'positive', not 0 or 1; set data\.label_values to the two labels \(1 more",
    ):
        checked(path)


def test_texts_that_look_like_numbers_and_texts_stored_as_a_dictionary_are_texts(tmp_path: Path) -> None:
    path = write(tmp_path, ".csv", [("12", 1), ("NULL", 0)])
    assert checked(path)[0] == ["12", "NULL"]
    words = pa.table({"text": pa.array(["a", "b", "a"]).dictionary_encode(), "label": [True, False, True]})
    pyarrow.parquet.write_table(words, tmp_path / "words.parquet")
    assert checked(tmp_path / "words.parquet") == (["a", "b", "a"], [1, 0, 1])


@pytest.mark.parametrize("suffix", [".parquet", ".jsonl"])
@pytest.mark.parametrize(
    ("third", "message"),
    [
        (("", 1), "row 3: the text is empty"),
        ((" \n\t", 1), "row 3: the text is empty"),
        ((None, 1), "row 3: the text is empty"),
        (("a", 2), "row 3: the label is '2', not 0 or 1"),
        (("a", -1), "row 3: the label is '-1', not 0 or 1"),
        (("a", None), "row 3: the label is missing, not 0 or 1"),
    ],
)
def test_a_row_that_cannot_be_used_is_named(tmp_path: Path, suffix: str, third: tuple[Any, Any], message: str) -> None:
    path = write(tmp_path, suffix, [*GOOD[:2], third, *GOOD, third])
    with pytest.raises(ValueError, match=message) as caught:
        checked(path)
    assert "(1 more such row)" in str(caught.value)


def test_each_kind_of_error_is_reported_once_with_its_number_of_rows() -> None:
    with pytest.raises(ValueError) as caught:
        check(["", "a", "", "b"], [0, 2, 1, None], label_values=(0, 1))
    assert str(caught.value).startswith("row 1: the text is empty (1 more such row); row 2: the label is '2'")


def test_labels_may_be_written_as_text_whole_floats_or_booleans() -> None:
    assert check(["a", "b", "c"], ["0", 1.0, True], label_values=(0, 1))[1].tolist() == [0, 1, 1]
    with pytest.raises(ValueError, match=r"row 2: the label is '0\.5'"):
        check(["a", "b"], [0, 0.5], label_values=(0, 1))
    with pytest.raises(ValueError, match="all labels are 1; two classes are needed"):
        check(["a", "b"], [1, 1], label_values=(0, 1))


@pytest.mark.parametrize(
    ("suffix", "content", "message"),
    [
        (".csv", b"text,label\nabc,0\ncaf\xe9,1\n", "row 2: the text is not UTF-8"),
        (".csv", b"text,label\nabc,0\nx,1,2\n", "row 2 has 3 columns, not 2"),
        (".jsonl", b'{"text": "a", "label": 1}\n{"text": "\xe9", "label": 1}\n', "row 2: the text is not UTF-8"),
        (".jsonl", b'{"text": "a", "label": 1}\n{"text": \n', "row 2 is not JSON"),
        (".jsonl", b'{"text": "a", "label": 1}\n{"text": "b", "label": "x"}\n', "row 2: the label is 'x', not 0 or 1"),
        (".parquet", b"PAR1 and then nothing of the kind", "Parquet"),
    ],
)
def test_a_file_that_cannot_be_read_is_an_error_that_names_the_row(
    tmp_path: Path, suffix: str, content: bytes, message: str
) -> None:
    path = tmp_path / f"data{suffix}"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message):
        checked(path)


def test_parquet_that_declares_other_bytes_as_text_is_an_error(tmp_path: Path) -> None:
    offsets, content = pa.py_buffer(b"\0\0\0\0\1\0\0\0\2\0\0\0"), pa.py_buffer(b"a\xe9")
    not_utf_8 = pa.Array.from_buffers(pa.string(), 2, [None, offsets, content])
    pyarrow.parquet.write_table(pa.table({"text": not_utf_8, "label": [0, 1]}), tmp_path / "data.parquet")
    with pytest.raises(ValueError, match="row 2: the text is not UTF-8"):
        checked(tmp_path / "data.parquet")
