"""Broken data files, each with its error message, and the form that error messages have."""

from __future__ import annotations

import codecs
import json
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet

SMALL = "data: {source: 'builtin:reviews'}\nfixed: {model: tiny-bert, epochs: 1, batch_size: 1}\n"
LONGEST_SECONDS = 10
Make = Callable[[Path], Path]
HEADER = b"text,label\n"
ROWS = 12


def check_lines(text: str, path: Path) -> None:
    """Assert that each line starts with a place in the file ``path`` or an option, and is plain text."""
    place = re.compile(rf"({re.escape(str(path))}:\d+:\d+|--(set|only|data)\b.*?): \S")
    assert text
    for line in text.split("\n"):
        assert place.match(line), line
        assert line.isprintable(), line
        assert not re.search(r"pydantic|Traceback|yaml\.|<class", line), line


def row(number: int) -> bytes:
    return b"a film of some kind %d,%d\n" % (number, number % 2)


GOOD_CSV = HEADER + b"".join(map(row, range(ROWS)))
GOOD_JSONL = b"".join(b'{"text": "a film %d", "label": %d}\n' % (number, number % 2) for number in range(ROWS))


def good_columns() -> dict[str, Any]:
    return {"text": [f"a film {number}" for number in range(ROWS)], "label": [number % 2 for number in range(ROWS)]}


def parquet(columns: Mapping[str, Any] | pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    pyarrow.parquet.write_table(columns if isinstance(columns, pa.Table) else pa.table(dict(columns)), sink)
    content: bytes = sink.getvalue().to_pybytes()
    return content


def with_column(name: str, values: Any) -> bytes:
    """A Parquet file with other ``values`` in the column ``name``."""
    return parquet({**good_columns(), name: values})


def with_column_twice(name: str) -> bytes:
    columns = good_columns()
    names = [*columns, name]
    return parquet(pa.Table.from_arrays([pa.array(columns[column]) for column in names], names=names))


def file(name: str, content: bytes) -> Make:
    def make(folder: Path) -> Path:
        (folder / name).write_bytes(content)
        return folder / name

    return make


def csv(content: bytes) -> Make:
    return file("data.csv", content)


def jsonl(content: bytes) -> Make:
    return file("data.jsonl", content)


def table(content: bytes) -> Make:
    return file("data.parquet", content)


def labelled(*labels: object) -> Make:
    """JSONL with one more row for each of these labels."""
    return jsonl(GOOD_JSONL + b"".join(json.dumps({"text": "a", "label": label}).encode() + b"\n" for label in labels))


def a_folder(folder: Path) -> Path:
    (folder / "data.csv").mkdir()
    return folder / "data.csv"


def a_pipe(folder: Path) -> Path:
    os.mkfifo(folder / "data.csv")
    return folder / "data.csv"


def links_in_a_circle(folder: Path) -> Path:
    (folder / "data.csv").symlink_to(folder / "other.csv")
    (folder / "other.csv").symlink_to(folder / "data.csv")
    return folder / "data.csv"


def unreadable(name: str) -> Make:
    """A file that can be opened but not read, not even by root."""

    def make(folder: Path) -> Path:
        (folder / name).symlink_to("/proc/self/mem")
        return folder / name

    return make


def declared_as_text(column: str) -> bytes:
    """Parquet whose ``column`` is declared as text and is not UTF-8."""
    raw = pa.array([b"caf\xe9"] * ROWS, pa.binary())
    return with_column(column, pa.Array.from_buffers(pa.string(), ROWS, raw.buffers()))


WHOLE = parquet(good_columns())
TRUNCATED = WHOLE[: len(WHOLE) // 2]
NESTED = with_column("text", [{"title": "a", "body": "b"}] * ROWS)
TIMES = pa.array([2**62] * ROWS, pa.timestamp("us"))
OPEN_QUOTE = HEADER + b'"never closed,1\n' + b"".join(map(row, range(ROWS)))
LONG_ROW = HEADER + b'"' + b"x" * 9_000_000 + b'",1\n' + b"".join(map(row, range(ROWS)))
MANY_COLUMNS = b",".join(b"%d" % number for number in range(20_000)) + b"\n"
OF_ONE_CLASS = HEADER + b"a film,1\n" * ROWS

DATA: Mapping[str, tuple[Make, str]] = {
    "csv: empty": (csv(b""), "cannot be read as csv: Empty CSV file"),
    "csv: empty lines": (csv(b"\n\n\n"), "cannot be read as csv: .*Empty CSV file"),
    "csv: header only": (csv(HEADER), "has 0 rows; at least 10 are needed"),
    "csv: few rows": (csv(HEADER + row(0) + row(1)), "has 2 rows; at least 10 are needed"),
    "csv: no header": (csv(GOOD_CSV.removeprefix(HEADER)), "has no column 'text', it has a film of some kind 0, 0"),
    "csv: no label column": (csv(GOOD_CSV.replace(b"label", b"lable", 1)), "no column 'label', .* did you mean lable"),
    "csv: other separator": (csv(GOOD_CSV.replace(b",", b";")), "has no column 'text', it has text;label"),
    "csv: tabs": (csv(GOOD_CSV.replace(b",", b"\t")), r"has no column 'text', it has text\\tlabel"),
    "csv: column twice": (csv(b"text,label,text\n" + b"a,1,b\n" * ROWS), "more than one column is named 'text'"),
    "csv: longer row": (csv(GOOD_CSV + b"a,1,2\n"), "row 13 has 3 columns, not 2"),
    "csv: shorter row": (csv(GOOD_CSV + b"a\n" + GOOD_CSV), "row 13 has 1 columns, not 2"),
    "csv: longer row not in UTF-8": (csv(GOOD_CSV + b"caf\xe9,1,2\n"), "row 13 has 3 columns, not 2"),
    "csv: not UTF-8": (csv(GOOD_CSV + b"caf\xe9,1\n"), "row 13: the text is not UTF-8; save the file as UTF-8"),
    "csv: header not UTF-8": (csv(b"t\xe9xt,label\n" + b"a,1\n" * ROWS), "a column's name or a label is not UTF-8"),
    "csv: label not UTF-8": (csv(GOOD_CSV + b"a,\xe9\n"), "row 13: the label is '.', not 0 or 1"),
    "csv: UTF-16": (csv(GOOD_CSV.decode().encode("utf-16")), "cannot be read as csv"),
    "csv: zeros": (csv(bytes(4_096)), "cannot be read as csv"),
    "csv: NUL in a text": (csv(GOOD_CSV + b"a\0b,1\n"), "row 13: the text contains a NUL character"),
    "csv: empty text": (csv(GOOD_CSV + b",1\n"), "row 13: the text is empty"),
    "csv: label 2": (csv(GOOD_CSV + b"a,2\n"), "row 13: the label is '2', not 0 or 1"),
    "csv: label missing": (csv(GOOD_CSV + b"a,\n"), "row 13: the label is missing"),
    "csv: date as label": (csv(HEADER + b"a,2026-11-24\n" * ROWS), "row 1: the label is '2026-11-24', not 0 or 1"),
    "csv: one class": (csv(OF_ONE_CLASS), "all labels are 1; two classes are needed"),
    "csv: one long line": (
        csv(b"x" * 1_000_000 + b"\n"),
        "has no column 'text', it has x{60}…; set data.text_column to one of them",
    ),
    "csv: very many columns": (
        csv(MANY_COLUMNS),
        "has no column 'text', it has 0, .*, 11, …; set data.text_column to one",
    ),
    "csv: open quote": (csv(OPEN_QUOTE), "row 1 has 1 columns, not 2"),
    "csv: huge field": (csv(LONG_ROW), "a row is longer than 4,000,000 bytes; is a quotation mark never closed"),
    "csv: Parquet with another suffix": (csv(WHOLE), "cannot be read as csv|has no column"),
    "jsonl: empty": (jsonl(b""), "cannot be read as jsonl: it has no rows"),
    "jsonl: empty lines": (jsonl(b"\n \n\r\n"), "it has no rows"),
    "jsonl: few rows": (jsonl(GOOD_JSONL.splitlines(keepends=True)[0] * 2), "has 2 rows; at least 10 are needed"),
    "jsonl: array": (jsonl(b"[" + b",".join(GOOD_JSONL.splitlines()) + b"]"), "row 1 is not a JSON object"),
    "jsonl: numbers": (jsonl(b"1\n" * ROWS), "row 1 is not a JSON object"),
    "jsonl: nulls": (jsonl(b"null\n" * ROWS), "row 1 is not a JSON object"),
    "jsonl: an array among objects": (jsonl(GOOD_JSONL + b'["a", 1]\n'), "row 13 is not a JSON object"),
    "jsonl: empty objects": (jsonl(b"{}\n" * ROWS), "has no column 'text'"),
    "jsonl: cut short": (jsonl(GOOD_JSONL[:-10]), "row 12 is not JSON: "),
    "jsonl: not JSON": (jsonl(GOOD_JSONL + b"\n{'text': 'a', 'label': 1}\n"), "row 13 is not JSON: "),
    "jsonl: pretty": (jsonl(b'{\n "text": "a",\n "label": 1\n}\n' * ROWS), "row 1 is not JSON: "),
    "jsonl: deep": (jsonl(GOOD_JSONL + b"[" * 100_000 + b"\n"), "row 13 is nested too deeply"),
    "jsonl: not UTF-8": (jsonl(GOOD_JSONL + b'{"text": "caf\xe9", "label": 1}\n'), "row 13: the text is not UTF-8"),
    "jsonl: half a pair": (jsonl(GOOD_JSONL + b'{"text": "\\ud83d", "label": 1}\n'), "row 13: the text is not UTF-8"),
    "jsonl: UTF-16": (jsonl(codecs.BOM_UTF16_LE + GOOD_JSONL.decode().encode("utf-16-le")), "row 1: .* not UTF-8"),
    "jsonl: number as text": (jsonl(GOOD_JSONL + b'{"text": 5, "label": 1}\n'), "row 13: the text is 5, not text"),
    "jsonl: list as text": (jsonl(GOOD_JSONL + b'{"text": ["a"], "label": 1}\n'), "row 13: the text is a list"),
    "jsonl: mapping as text": (jsonl(GOOD_JSONL + b'{"text": {}, "label": 1}\n'), "row 13: the text is a mapping"),
    "jsonl: false as text": (jsonl(GOOD_JSONL + b'{"text": false, "label": 1}\n'), "row 13: the text is false"),
    "jsonl: no text": (jsonl(GOOD_JSONL + b'{"label": 1}\n'), "row 13: the text is empty"),
    "jsonl: label -1": (labelled(-1), "row 13: the label is '-1', not 0 or 1"),
    "jsonl: label null": (labelled(0, None), "row 14: the label is missing, not 0 or 1"),
    "jsonl: label in words": (
        labelled("good"),
        "row 13: the label is 'good', not 0 or 1; set data.label_values to the two",
    ),
    "jsonl: label a half": (labelled(0.5), "row 13: the label is '0.5', not 0 or 1"),
    "jsonl: label NaN": (labelled(float("nan")), "row 13: the label is 'nan', not 0 or 1"),
    "jsonl: label a list": (labelled([1], [0]), r"row 13: the label is '\[1\]', not 0 or 1.* \(1 more such row\)"),
    "jsonl: label of 30 digits": (labelled(10**29), "row 13: the label is '100000000000000000000000000000', not 0 or"),
    "jsonl: number of 5,000 digits": (jsonl(b'{"label": ' + b"1" * 5_000 + b"}\n"), "row 1 is not JSON: "),
    "parquet: empty": (table(b""), "cannot be read as parquet"),
    "parquet: magic only": (table(b"PAR1PAR1"), "cannot be read as parquet"),
    "parquet: wrong magic": (table(b"PAR2" + WHOLE[4:-4] + b"PAR2"), "cannot be read as parquet: .*magic bytes"),
    "parquet: encrypted": (table(WHOLE[:-4] + b"PARE"), "cannot be read as parquet"),
    "parquet: cut short": (table(TRUNCATED), "cannot be read as parquet: .*magic bytes"),
    "parquet: pages overwritten": (
        table(WHOLE[:4] + bytes(150) + WHOLE[154:]),
        "data.parquet, Couldn't deserialize thrift",
    ),
    "parquet: CSV with another suffix": (table(GOOD_CSV), "cannot be read as parquet: .*magic bytes"),
    "parquet: column twice": (table(with_column_twice("text")), "more than one column is named 'text'"),
    "parquet: nested text": (table(NESTED), "the column 'text' of .* holds struct<.*>, not text"),
    "parquet: lists as text": (table(with_column("text", [["a"]] * ROWS)), "holds list<.*>, not text"),
    "parquet: numbers as text": (table(with_column("text", list(range(ROWS)))), "holds int64, not text"),
    "parquet: all texts null": (table(with_column("text", [None] * ROWS)), "holds null, not text"),
    "parquet: times as labels": (
        table(with_column("label", TIMES)),
        r"the column 'label' .* timestamp\[us\], not labels",
    ),
    "parquet: text not UTF-8": (table(declared_as_text("text")), "row 1: the text is not UTF-8"),
    "parquet: label not UTF-8": (table(declared_as_text("label")), "a column's name or a label is not UTF-8"),
    "parquet: label 2": (table(with_column("label", [0, 1, 2] * 4)), r"row 3: the label is '2'.* \(3 more such rows\)"),
    "parquet: labels null": (table(with_column("label", [None] * ROWS)), r"row 1: the label is missing.* \(11 more"),
    "parquet: one class": (table(with_column("label", [0] * ROWS)), "all labels are 0; two classes are needed"),
    "a folder": (a_folder, "data.csv is not a regular file"),
    "a pipe": (a_pipe, "data.csv is not a regular file"),
    "links in a circle": (links_in_a_circle, "data.csv does not exist"),
    "unreadable csv": (unreadable("data.csv"), "data.csv cannot be read as csv"),
    "unreadable jsonl": (unreadable("data.jsonl"), "data.jsonl cannot be read as jsonl"),
    "unreadable parquet": (unreadable("data.parquet"), "data.parquet cannot be read as parquet"),
    "another kind": (
        file("data.xlsx", b"PK"),
        "is not a supported data file; its name must end in .parquet, .csv, .jsonl",
    ),
    "pickled": (
        file("data.pkl", b"\x80\x04N."),
        "is not a supported data file; its name must end in .parquet, .csv, .jsonl",
    ),
    "compressed": (
        file("data.csv.gz", b"\x1f\x8b"),
        "is not a supported data file; its name must end in .parquet, .csv, .jsonl",
    ),
    "a name of two lines": (file("da\nta.csv", GOOD_CSV), "contains an unprintable character"),
}
