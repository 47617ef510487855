"""What do the names and paths in a space stand for, and what are they by content?"""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path

from study.settings import Data
from study.space.diagnostics import Faults, Where, listed, nearest, show
from study.space.yaml_document import file_kind

BUILT_IN_MODELS = ("tiny-bert", "tiny-roberta")
BUILT_IN_DATA = {"builtin:reviews": ("builtin:reviews version 1", 6_000)}  # what it is by content, examples
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


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def model_identity(model: str) -> str:
    """The content of a model folder; a name is its own identity."""
    folder = Path(model)
    if not folder.is_absolute():
        return model
    content = "".join(f"{path.name} {_sha256(path)}\n" for path in _model_files(folder))
    return f"sha256:{hashlib.sha256(content.encode()).hexdigest()}"


def _model_files(folder: Path) -> list[Path]:
    return sorted({path for pattern in MODEL_FILES for path in folder.glob(pattern)})


def _readable(path: Path) -> bool:
    """Whether there is a file to be read; opening a pipe would wait for whoever writes to it."""
    try:
        if file_kind(path) == "file":
            with path.open("rb") as file:
                file.read(1)
            return True
    except OSError:
        pass
    return False


def _wrong_json(path: Path) -> str:
    """Why a JSON file of a model cannot be one; empty for one that can, and for other files."""
    try:
        good = path.suffix != ".json" or isinstance(json.loads(path.read_bytes()), dict)
        return "" if good else f"{path} holds no JSON object"
    except UnicodeDecodeError:
        return f"{path} is not UTF-8"
    except (ValueError, RecursionError):
        return f"{path} is not JSON"


def model(faults: Faults, name: str, where: Where) -> str | None:
    """The canonical name of a model: a built-in's, a hub id, or the absolute path of a folder."""
    if name in BUILT_IN_MODELS:
        return name
    if (folder := located(faults, name, where)) is None:
        return None
    if file_kind(folder) == "folder" or name.startswith((".", "/", "~")):
        if file_kind(folder) != "folder":
            faults.add(where, f"the model folder {folder} does not exist")
        elif file_kind(folder / "config.json") != "file":
            faults.add(where, f"the folder {folder} has no config.json; is it one that save_pretrained wrote?")
        elif not any(folder.glob("*.safetensors")):
            faults.add(where, f"the folder {folder} has no .safetensors weights; pickled weights are not read")
        elif wrong := next((path for path in _model_files(folder) if not _readable(path)), None):
            faults.add(where, f"{wrong} is no file that can be read")
        elif told := "; ".join(filter(None, map(_wrong_json, _model_files(folder)))):
            faults.add(where, f"{told}; is the folder one that save_pretrained wrote?")
        elif _sayable(faults, folder, where):
            return str(folder.resolve())
        return None
    if near := "" if "/" in name else nearest(name, BUILT_IN_MODELS):
        faults.add(where, f"{show(name)} is neither built in nor a folder{near}")
    elif HUB_ID.fullmatch(name):
        return name
    else:
        hint = "a folder's path, or a hub id such as bert-base-uncased"
        faults.add(where, f"{show(name)} is no model; give {listed(BUILT_IN_MODELS)}, {hint}")
    return None


def located(faults: Faults, name: str, where: Where) -> Path | None:
    """The path that ``name`` would be; None if there is no such user."""
    try:
        return faults.folder(where) / Path(name).expanduser()
    except (RuntimeError, ValueError):
        faults.add(where, f"nobody's home folder is {show(name.split('/')[0])}")
        return None


def _sayable(faults: Faults, path: Path, where: Where) -> bool:
    """Whether a space file can hold this path; a fault if not."""
    if good := str(path.resolve()).isprintable():
        return good
    faults.add(where, f"the path {path} holds a character that cannot be printed")
    return False


def data(faults: Faults, raw: object) -> tuple[Data, str, int] | None:
    """The data with its source in canonical form, what it is by content, and its number of examples."""
    data = faults.section(Data, raw, ("data",))
    where: Where = ("data", "source")
    if data is None or (path := located(faults, data.source, where)) is None:
        return None
    most: int | None = None
    if data.source in BUILT_IN_DATA:
        identity, default = BUILT_IN_DATA[data.source]
        examples = data.examples or default
    elif "://" in data.source:
        faults.add(where, f"{show(data.source)} is an address; give a file, a hub id or builtin:reviews")
        return None
    elif path.suffix in DATA_SUFFIXES:
        if (most := rows(faults, data, path)) is None:
            return None
        data = data.model_copy(update={"source": str(path.resolve())})
        identity, examples = f"sha256:{_sha256(path)}", data.examples or most
    elif data.source.startswith((".", "/", "~")) or path.suffix in FOREIGN_SUFFIXES or file_kind(path) == "file":
        faults.add(where, f"{show(data.source)} is no data file; its name must end in {listed(DATA_SUFFIXES)}")
        return None
    elif not HUB_ID.fullmatch(data.source):
        near = nearest(data.source, BUILT_IN_DATA) or "; give a file, a hub id or builtin:reviews"
        faults.add(where, f"{show(data.source)} is no data set{near}")
        return None
    elif data.examples is None:
        faults.add(("data", "examples"), "is missing: say how many examples the hub's data set has, to plan with")
        return None
    else:
        identity, examples = data.source, data.examples
    if most is not None and examples > most:
        faults.add(("data", "examples"), f"asks for {examples:,} examples; {data.source} has {most:,}")
        return None
    sizes = data.split_sizes(examples)
    if min(sizes.values()) < 1:
        shown = ", ".join(f"{name} {size}" for name, size in sizes.items())
        faults.add(("data", "fractions"), f"of {examples:,} examples these leave a split empty ({shown})")
        return None
    return data, identity, examples


def rows(faults: Faults, data: Data, path: Path) -> int | None:
    """How many rows a data file has, or None and the faults of it."""
    where: Where = ("data", "source")
    if file_kind(path) != "file":
        faults.add(where, f"the file {path} " + ("does not exist" if file_kind(path) == "nothing" else "is no file"))
        return None
    if not _sayable(faults, path, where):
        return None
    from study.data import files as datafile  # imports pyarrow, which other spaces can do without

    try:
        rows, columns = datafile.describe(path)
    except (ValueError, OSError) as error:
        kind = path.suffix.removeprefix(".")
        faults.add(where, f"{path} cannot be read as {kind}: {' '.join(str(error).split())}")
        return None
    good = True
    for setting, column, type_ in (
        ("text_column", data.text_column, TEXT_TYPE),
        ("label_column", data.label_column, LABEL_TYPE),
    ):
        if column not in columns:
            hint = nearest(column, columns) or f"; name one of them with data.{setting}"
            faults.add(
                ("data", setting), f"{path} has no column {show(column)}, it has {listed(columns) or 'none'}{hint}"
            )
            good = False
        elif path.suffix == ".parquet" and not type_.match(columns[column]):
            wanted = "text" if setting == "text_column" else "labels"
            faults.add(("data", setting), f"the column {show(column)} of {path} holds {columns[column]}, not {wanted}")
            good = False
    if rows < FEWEST_ROWS:
        faults.add(where, f"{path} has {rows} rows; at least {FEWEST_ROWS} are needed")
    return rows if good and rows >= FEWEST_ROWS else None


def content(faults: Faults, data: Data) -> None:
    """Raise what is wrong with the rows of a data file; all of it has to be read for that."""
    path = Path(data.source)
    if path.is_absolute():
        from study.data import files as datafile

        try:
            columns = datafile.read(path, text_column=data.text_column, label_column=data.label_column)
            datafile.check(*columns, label_values=data.label_values)
        except (ValueError, OSError) as error:
            faults.add(("data", "source"), f"{path}, {' '.join(str(error).split())}")
    faults.check()
