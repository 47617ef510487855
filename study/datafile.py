"""What does a data file hold, and which of its rows cannot be used?

Rows are counted from 1, a CSV file's header not among them; a line of JSONL is a row.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa


def describe(path: Path) -> tuple[int, dict[str, str]]:
    """Number of rows of a data file, and the type of each of its columns.

    Raises ValueError or OSError for a file that is not what its suffix says, naming the row where one is to blame.
    """
    if path.suffix == ".parquet":
        import pyarrow.parquet

        with pyarrow.parquet.ParquetFile(path) as file:
            return file.metadata.num_rows, _types(file.schema_arrow)
    table = _csv(path) if path.suffix == ".csv" else _jsonl(path)
    return table.num_rows, _types(table.schema)


def _types(schema: Any) -> dict[str, str]:
    return {field.name: str(field.type) for field in schema}


def read(path: Path, *, text_column: str, label_column: str) -> tuple[list[Any], list[Any]]:
    """The texts, undecoded where the file does not say that they are UTF-8, and the labels.

    Raises ValueError or OSError for a file that is not what its suffix says.
    """
    if path.suffix == ".parquet":
        import pyarrow.parquet

        table = pyarrow.parquet.read_table(path, columns=[text_column, label_column])
    elif path.suffix == ".csv":
        table = _csv(path, text_column=text_column)
    else:
        table = _jsonl(path)
    texts = table[text_column]
    # Text that calls itself UTF-8 and is not would raise without a word on where it stands.
    return texts.cast(pa.large_binary()).to_pylist(), table[label_column].to_pylist()


def _csv(path: Path, *, text_column: str | None = None) -> Any:
    """A CSV file, ``text_column`` of it as bytes whatever its cells look like."""
    import pyarrow.csv

    wrong: list[Any] = []

    def note(row: Any) -> str:
        wrong.append(row)
        return "skip"

    table = pyarrow.csv.read_csv(
        path,
        # In one thread, since only then a row knows its number.
        read_options=pyarrow.csv.ReadOptions(use_threads=False),
        parse_options=pyarrow.csv.ParseOptions(newlines_in_values=True, invalid_row_handler=note),
        convert_options=pyarrow.csv.ConvertOptions(column_types={text_column: pa.binary()} if text_column else None),
    )
    if wrong:
        row = wrong[0]
        raise ValueError(f"row {row.number - 1} has {row.actual_columns} columns, not {row.expected_columns}")
    return table


def _jsonl(path: Path) -> Any:
    import pyarrow.json

    try:
        return pyarrow.json.read_json(path)
    except (ValueError, UnicodeDecodeError) as error:
        raise ValueError(_first_bad_line(path) or str(error)) from error


def _first_bad_line(path: Path) -> str | None:
    """What Python's own reader has against the first line that it cannot read."""
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            try:
                json.loads(line.decode() or "null")
            except UnicodeDecodeError:
                return f"row {number} is not UTF-8"
            except ValueError as error:
                return f"row {number} is not JSON: {error}"
    return None


def check(
    texts: Iterable[str | bytes | None], labels: Iterable[object], *, label_values: Sequence[str | int]
) -> tuple[list[str], npt.NDArray[np.int64]]:
    """The texts as text and the labels as classes ``[n]``, 0 for the first of ``label_values`` and 1 for the second.

    Raises ValueError that names the first row with each kind of fault and says how many rows have it.
    """
    classes: dict[object, int] = {
        text: index for index, value in enumerate(label_values) for text in (value, str(value))
    }
    wanted = " or ".join(map(str, label_values))
    decoded: list[str] = []
    found: list[int] = []
    faults: dict[str, list[int]] = {}
    reasons: dict[str, str] = {}

    def fault(kind: str, row: int, reason: str) -> None:
        faults.setdefault(kind, []).append(row)
        reasons.setdefault(kind, reason)

    for row, (raw, label) in enumerate(zip(texts, labels, strict=True), start=1):
        text = raw or ""
        if isinstance(text, bytes):
            try:
                text = text.decode()
            except UnicodeDecodeError:
                fault("encoding", row, "the text is not UTF-8; save the file as UTF-8")
                continue
        if not text.strip():
            fault("empty", row, "the text is empty")
        class_ = classes.get(label) if isinstance(label, str | int | float) else None
        if class_ is None:
            shown = "is missing" if label is None else f"is {str(label)[:60]!r}"
            hint = "data.label_values names the two labels of other data"
            fault("label", row, f"the label {shown}, not {wanted}; {hint}")
        decoded.append(text)
        found.append(-1 if class_ is None else class_)
    if faults:
        raise ValueError("; ".join(_named(rows, reasons[kind]) for kind, rows in faults.items()))
    if len(set(found)) < 2:
        raise ValueError(f"all labels are {label_values[found[0]]}; two classes are needed" if found else "has no rows")
    return decoded, np.array(found, dtype=np.int64)


def _named(rows: Sequence[int], reason: str) -> str:
    more = len(rows) - 1
    return f"row {rows[0]:,}: {reason}" + (f" ({more:,} more such row{'s' if more > 1 else ''})" if more else "")
