"""Resolves model and data names to files or hub ids, and hashes their content."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path

from study.errors import did_you_mean, enumerate_names, quote
from study.settings import BUILT_IN_MODELS, Data
from study.space.diagnostics import Diagnostics, Location
from study.space.yaml_document import file_kind

BUILT_IN_DATA = {"builtin:reviews": ("builtin:reviews version 1", 6_000)}  # identity by content, examples
FEWEST_ROWS = 10
DATA_SUFFIXES = (".parquet", ".csv", ".jsonl")
FOREIGN_SUFFIXES = (".arrow", ".feather", ".gz", ".json", ".pkl", ".tsv", ".txt", ".xlsx", ".zip")
MODEL_FILES = (
    *("config.json", "*.safetensors", "*.safetensors.index.json", "tokenizer*.json", "special_tokens_map.json"),
    *("added_tokens.json", "vocab.*", "merges.txt", "*.model"),
)
HUB_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9][A-Za-z0-9._-]*)?")
TEXT_TYPE = re.compile(r"(dictionary<values=)?(large_)?string\b")
LABEL_TYPE = re.compile(TEXT_TYPE.pattern + r"|(dictionary<values=)?(u?int\d+|halffloat|float|double|bool|null)\b")
SOURCE: Location = ("data", "source")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def model_identity(model: str) -> str:
    """The hash of a model folder's content; a name is its own identity."""
    folder = Path(model)
    if not folder.is_absolute():
        return model
    content = "".join(f"{path.name} {_sha256(path)}\n" for path in _model_files(folder))
    return f"sha256:{hashlib.sha256(content.encode()).hexdigest()}"


def _model_files(folder: Path) -> list[Path]:
    return sorted({path for pattern in MODEL_FILES for path in folder.glob(pattern)})


def _readable(path: Path) -> bool:
    """Whether ``path`` is a file that can be read; opening a pipe would wait for its writer."""
    try:
        if file_kind(path) == "file":
            with path.open("rb") as file:
                file.read(1)
            return True
    except OSError:
        pass
    return False


def _json_problem(path: Path) -> str:
    """What is wrong with a JSON file of a model; empty for a valid one, and for other files."""
    try:
        valid = path.suffix != ".json" or isinstance(json.loads(path.read_bytes()), dict)
        return "" if valid else f"{path} is not a JSON object"
    except UnicodeDecodeError:
        return f"{path} is not UTF-8"
    except (ValueError, RecursionError):
        return f"{path} is not JSON"


def resolve_model(diagnostics: Diagnostics, name: str, location: Location) -> str | None:
    """The canonical name of a model: a built-in's, a hub id, or the absolute path of a folder.

    None, with the errors noted, for a name that is none of these.
    """
    if name in BUILT_IN_MODELS:
        return name
    if (folder := resolve_path(diagnostics, name, location)) is None:
        return None
    if file_kind(folder) == "folder" or name.startswith((".", "/", "~")):
        return _resolve_model_folder(diagnostics, folder, location)
    if near := "" if "/" in name else did_you_mean(name, BUILT_IN_MODELS):
        diagnostics.error(location, f"{quote(name)} is neither built in nor a folder{near}")
        return None
    if HUB_ID.fullmatch(name):
        return name
    known = f"{enumerate_names(BUILT_IN_MODELS)}, a folder's path, or a hub id such as bert-base-uncased"
    diagnostics.error(location, f"unknown model {quote(name)}; give {known}")
    return None


def _resolve_model_folder(diagnostics: Diagnostics, folder: Path, location: Location) -> str | None:
    written_by = "did save_pretrained write the folder?"
    if file_kind(folder) != "folder":
        diagnostics.error(location, f"the model folder {folder} does not exist")
    elif file_kind(folder / "config.json") != "file":
        diagnostics.error(location, f"the folder {folder} has no config.json; {written_by}")
    elif not any(folder.glob("*.safetensors")):
        diagnostics.error(location, f"the folder {folder} has no .safetensors weights; pickled weights are not read")
    elif unreadable := next((path for path in _model_files(folder) if not _readable(path)), None):
        diagnostics.error(location, f"{unreadable} is not a readable file")
    elif problems := "; ".join(filter(None, map(_json_problem, _model_files(folder)))):
        diagnostics.error(location, f"{problems}; {written_by}")
    elif _printable_path(diagnostics, folder, location):
        return str(folder.resolve())
    return None


def resolve_path(diagnostics: Diagnostics, name: str, location: Location) -> Path | None:
    """The path that ``name`` is; None, with an error noted, if its user does not exist."""
    try:
        return diagnostics.base_folder(location) / Path(name).expanduser()
    except (RuntimeError, ValueError):
        diagnostics.error(location, f"unknown user in path {quote(name.split('/')[0])}")
        return None


def _printable_path(diagnostics: Diagnostics, path: Path, location: Location) -> bool:
    """Whether a space file can contain this path; an error is noted if not."""
    if printable := str(path.resolve()).isprintable():
        return printable
    diagnostics.error(location, f"the path {path} contains an unprintable character")
    return False


def resolve_data(diagnostics: Diagnostics, raw: object) -> tuple[Data, str, int] | None:
    """The data with its source in canonical form, its identity by content, and its number of examples.

    None, with the errors noted, for data that cannot be used.
    """
    data = diagnostics.section(Data, raw, ("data",))
    if data is None or (resolved := _resolve_source(diagnostics, data)) is None:
        return None
    data, identity, available = resolved
    examples = data.examples or available
    if examples is None:
        message = "is missing; give the number of examples of the hub's data set, for planning"
        diagnostics.error(("data", "examples"), message)
        return None
    if available is not None and data.source not in BUILT_IN_DATA and examples > available:
        diagnostics.error(("data", "examples"), f"{examples:,} exceeds the {available:,} examples of {data.source}")
        return None
    sizes = data.split_sizes(examples)
    if min(sizes.values()) < 1:
        shown = ", ".join(f"{name} {size}" for name, size in sizes.items())
        diagnostics.error(("data", "fractions"), f"of {examples:,} examples these leave a split empty ({shown})")
        return None
    return data, identity, examples


def _resolve_source(diagnostics: Diagnostics, data: Data) -> tuple[Data, str, int | None] | None:
    """The data with its source in canonical form, its identity, and the number of examples that are available."""
    source = data.source
    if (path := resolve_path(diagnostics, source, SOURCE)) is None:
        return None
    if source in BUILT_IN_DATA:
        return data, *BUILT_IN_DATA[source]
    if "://" in source:
        diagnostics.error(SOURCE, f"{quote(source)} is a URL; give a file, a hub id or builtin:reviews")
    elif path.suffix in DATA_SUFFIXES:
        if (rows := count_rows(diagnostics, data, path)) is not None:
            return data.model_copy(update={"source": str(path.resolve())}), f"sha256:{_sha256(path)}", rows
    elif source.startswith((".", "/", "~")) or path.suffix in FOREIGN_SUFFIXES or file_kind(path) == "file":
        suffixes = enumerate_names(DATA_SUFFIXES)
        diagnostics.error(SOURCE, f"{quote(source)} is not a supported data file; its name must end in {suffixes}")
    elif not HUB_ID.fullmatch(source):
        hint = did_you_mean(source, BUILT_IN_DATA) or "; give a file, a hub id or builtin:reviews"
        diagnostics.error(SOURCE, f"unknown data set {quote(source)}{hint}")
    else:
        return data, source, None
    return None


def count_rows(diagnostics: Diagnostics, data: Data, path: Path) -> int | None:
    """Number of rows of a data file, or None with its errors noted."""
    if file_kind(path) != "file":
        problem = "does not exist" if file_kind(path) == "nothing" else "is not a regular file"
        diagnostics.error(SOURCE, f"the file {path} {problem}")
        return None
    if not _printable_path(diagnostics, path, SOURCE):
        return None
    from study.data import files  # imports pyarrow, which other spaces can do without

    try:
        rows, columns = files.describe(path)
    except (ValueError, OSError) as error:
        kind = path.suffix.removeprefix(".")
        diagnostics.error(SOURCE, f"{path} cannot be read as {kind}: {' '.join(str(error).split())}")
        return None
    usable = True
    for setting, column, type_ in (
        ("text_column", data.text_column, TEXT_TYPE),
        ("label_column", data.label_column, LABEL_TYPE),
    ):
        if column not in columns:
            hint = did_you_mean(column, columns) or f"; set data.{setting} to one of them"
            known = enumerate_names(columns) or "none"
            diagnostics.error(("data", setting), f"{path} has no column {quote(column)}, it has {known}{hint}")
            usable = False
        elif path.suffix == ".parquet" and not type_.match(columns[column]):
            wanted = "text" if setting == "text_column" else "labels"
            message = f"the column {quote(column)} of {path} holds {columns[column]}, not {wanted}"
            diagnostics.error(("data", setting), message)
            usable = False
    if rows < FEWEST_ROWS:
        diagnostics.error(SOURCE, f"{path} has {rows} rows; at least {FEWEST_ROWS} are needed")
        usable = False
    return rows if usable else None


def check_content(diagnostics: Diagnostics, data: Data) -> None:
    """Raise SpaceError for what is wrong with the rows of a data file; all of it has to be read for that."""
    path = Path(data.source)
    if path.is_absolute():
        from study.data import files

        try:
            columns = files.read(path, text_column=data.text_column, label_column=data.label_column)
            files.check(*columns, label_values=data.label_values)
        except (ValueError, OSError) as error:
            diagnostics.error(SOURCE, f"{path}, {' '.join(str(error).split())}")
    diagnostics.raise_errors()
