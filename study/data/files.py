"""Reads data files, and names the rows that cannot be used.

Rows are counted from 1, without a CSV file's header and without empty lines; any other line of JSONL is a row.
"""

from __future__ import annotations

import codecs
import contextlib
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from study.errors import quote

LONGEST_CSV_ROW_BYTES = 4_000_000


def describe(path: Path) -> tuple[int, dict[str, str]]:
    """Number of rows of a data file, and the type of each of its columns, ``any`` where each row has its own.

    Raises ValueError or OSError for a file that is not what its suffix says, with the row at fault if there is one.
    """
    if path.suffix == ".jsonl":
        if not (rows := list(_jsonl(path))):
            raise ValueError("it has no rows")
        return len(rows), dict.fromkeys((name for row in rows for name in row), "any")
    with _reading_arrow():
        if path.suffix == ".csv":
            table = _csv(path)
            return table.num_rows, _types(table.schema)
        import pyarrow.parquet

        with pyarrow.parquet.ParquetFile(path) as file:
            return file.metadata.num_rows, _types(file.schema_arrow)


def _types(schema: Any) -> dict[str, str]:
    return {field.name: str(field.type) for field in schema}


def read(path: Path, *, text_column: str, label_column: str) -> tuple[list[Any], list[Any]]:
    """The texts, as bytes where the file does not say that they are UTF-8, and the labels.

    Raises ValueError or OSError for a file that is not what its suffix says.
    """
    names = (text_column, label_column)
    if path.suffix == ".jsonl":
        rows = list(_jsonl(path))
        texts, labels = ([row.get(name) for row in rows] for name in names)
        return texts, labels
    with _reading_arrow():
        if path.suffix == ".csv":
            table = _csv(path, text_column=text_column)
        else:
            import pyarrow.parquet

            with pyarrow.parquet.ParquetFile(path) as file:
                table = file.read(columns=list(names))
        for name in names:
            if (count := table.column_names.count(name)) != 1:
                raise ValueError(f"{'more than one column is' if count else 'no column is'} named {quote(name)}")
        # Text that is declared UTF-8 and is not would raise without saying in which row.
        return table[text_column].cast(pa.large_binary()).to_pylist(), table[label_column].to_pylist()


@contextlib.contextmanager
def _reading_arrow() -> Iterator[None]:
    """Raise ValueError for all of Arrow's errors, of which some are of other classes."""
    try:
        yield
    except UnicodeDecodeError as error:
        raise ValueError("a column's name or a label is not UTF-8; save the file as UTF-8") from error
    except pa.ArrowException as error:
        raise ValueError(str(error)) from error


def _csv(path: Path, *, text_column: str | None = None) -> Any:
    """A CSV file, with ``text_column`` as bytes whatever its cells look like."""
    import pyarrow.csv

    try:
        return pyarrow.csv.read_csv(
            path,
            # In one thread, because only then errors name their row.
            read_options=pyarrow.csv.ReadOptions(use_threads=False, block_size=LONGEST_CSV_ROW_BYTES),
            parse_options=pyarrow.csv.ParseOptions(newlines_in_values=True),
            convert_options=pyarrow.csv.ConvertOptions(
                column_types={text_column: pa.binary()} if text_column else None
            ),
        )
    except pa.ArrowInvalid as error:
        if uneven := re.search(r"Row #(\d+): Expected (\d+) columns, got (\d+)", str(error)):
            number, expected, actual = map(int, uneven.groups())
            raise ValueError(f"row {number - 1} has {actual} columns, not {expected}") from error
        if "straddling" in str(error):
            raise ValueError(
                f"a row is longer than {LONGEST_CSV_ROW_BYTES:,} bytes; is a quotation mark never closed?"
            ) from error
        raise


def _jsonl(path: Path) -> Iterator[dict[str, Any]]:
    """The rows of a JSONL file.

    With Python's reader, not Arrow's, which takes some texts for times and crashes the process on a row of ``null``.
    """
    lines = path.read_bytes().removeprefix(codecs.BOM_UTF8).splitlines()
    for number, line in enumerate(filter(bytes.strip, lines), start=1):
        try:
            row = json.loads(line.decode())
        except UnicodeDecodeError as error:
            raise ValueError(f"row {number}: the text is not UTF-8; save the file as UTF-8") from error
        except RecursionError as error:
            raise ValueError(f"row {number} is nested too deeply") from error
        except ValueError as error:
            raise ValueError(f"row {number} is not JSON: {error}") from error
        if not isinstance(row, dict):
            raise ValueError(f"row {number} is not a JSON object")
        yield row


def check(
    texts: Iterable[object], labels: Iterable[object], *, label_values: Sequence[str | int]
) -> tuple[list[str], npt.NDArray[np.int64]]:
    """The texts as text and the labels as classes ``[n]``, 0 for the first of ``label_values`` and 1 for the second.

    Raises ValueError that names the first row of each kind of error and says how many rows have it.
    """
    classes: dict[object, int] = {
        text: index for index, value in enumerate(label_values) for text in (value, str(value))
    }
    allowed = " or ".join(map(str, label_values))
    decoded: list[str] = []
    label_classes: list[int] = []
    error_rows: dict[str, list[int]] = {}
    reasons: dict[str, str] = {}

    def error(kind: str, row: int, reason: str) -> None:
        error_rows.setdefault(kind, []).append(row)
        reasons.setdefault(kind, reason)

    for row, (raw, raw_label) in enumerate(zip(texts, labels, strict=True), start=1):
        text = "" if raw is None else raw
        try:
            text = text.decode() if isinstance(text, bytes) else text
            if not isinstance(text, str):
                error("type", row, f"the text is {quote(text)}, not text")
                continue
            text.encode()
        except UnicodeError:
            error("encoding", row, "the text is not UTF-8; save the file as UTF-8")
            continue
        if not text.strip():
            error("empty", row, "the text is empty")
        if "\0" in text:
            error("nul", row, "the text contains a NUL character; is the file UTF-8?")
        label = raw_label.decode(errors="replace") if isinstance(raw_label, bytes) else raw_label
        class_ = classes.get(label) if isinstance(label, str | int | float) else None
        if class_ is None:
            shown = "is missing" if label is None else f"is {str(label)[:60]!r}"
            error("label", row, f"the label {shown}, not {allowed}; set data.label_values to the two labels")
        decoded.append(text)
        label_classes.append(-1 if class_ is None else class_)
    if error_rows:
        raise ValueError("; ".join(_row_error(rows, reasons[kind]) for kind, rows in error_rows.items()))
    if len(set(label_classes)) < 2:
        if not label_classes:
            raise ValueError("has no rows")
        raise ValueError(f"all labels are {label_values[label_classes[0]]}; two classes are needed")
    return decoded, np.array(label_classes, dtype=np.int64)


def _row_error(rows: Sequence[int], reason: str) -> str:
    more = len(rows) - 1
    return f"row {rows[0]:,}: {reason}" + (f" ({more:,} more such row{'s' if more > 1 else ''})" if more else "")
