"""A strict YAML 1.2 loader with size limits that records where each value stands.

Words and numbers are YAML 1.2's; tags are refused, and so is a document whose aliases outgrow the limits.
"""

from __future__ import annotations

import math
import re
import stat
from pathlib import Path
from typing import Any

import yaml

from study.errors import SpaceError, quote
from study.space.diagnostics import EXPECTED, Diagnostics, Location

LARGEST_FILE_BYTES = 1_000_000
LARGEST_DOCUMENT_NODES = 10_000
DEEPEST_NESTING = 30


class _Loader(yaml.SafeLoader):
    """Resolves YAML 1.2's words and numbers, and limits depth and size with all aliases expanded."""

    yaml_implicit_resolvers = {}  # noqa: RUF012

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.depth = self.nodes = 0
        self.sizes: dict[int, int] = {}

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        event: yaml.Event = self.peek_event()  # type: ignore[no-untyped-call]
        mark: Any = event.start_mark
        before = self.nodes
        self.depth += 1
        if self.depth > DEEPEST_NESTING:
            raise yaml.MarkedYAMLError(problem="nested too deeply", problem_mark=mark)
        node = super().compose_node(parent, index)
        self.depth -= 1
        if not isinstance(event, yaml.AliasEvent):
            self.nodes += 1
            self.sizes[id(node)] = self.nodes - before
        elif id(node) in self.sizes:
            self.nodes += self.sizes[id(node)]
        else:
            raise yaml.MarkedYAMLError(problem=f"*{event.anchor} contains itself", problem_mark=mark)
        if self.nodes > LARGEST_DOCUMENT_NODES:
            problem = f"with its aliases expanded, the file has more than {LARGEST_DOCUMENT_NODES:,} values"
            raise yaml.MarkedYAMLError(problem=problem, problem_mark=mark)
        return node


class _Dumper(yaml.SafeDumper):
    """Writes what ``_Loader`` reads."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


_PATTERNS = {
    "null": re.compile(r"^(?:~|null|Null|NULL|)$"),
    "bool": re.compile(r"^(?:true|True|TRUE|false|False|FALSE)$"),
    "int": re.compile(r"^(?:[-+]?[0-9]+|0x[0-9a-fA-F]+|0o[0-7]+)$"),
    "float": re.compile(
        r"^(?:[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.nan)$"
    ),
}
_Dumper.add_representer(float, lambda dumper, value: dumper.represent_scalar("tag:yaml.org,2002:float", repr(value)))
for _name, _pattern in _PATTERNS.items():
    for _class in (_Loader, _Dumper):
        _class.add_implicit_resolver(f"tag:yaml.org,2002:{_name}", _pattern, None)


def file_kind(path: Path) -> str:
    """The kind of ``path``: ``folder``, ``file``, ``something else`` or ``nothing``."""
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError):
        return "nothing"
    return "folder" if stat.S_ISDIR(mode) else "file" if stat.S_ISREG(mode) else "something else"


def flow(value: object) -> str:
    """A value on one line, as a space file would write it."""
    if value is None:
        return "none"
    options: dict[str, Any] = {"default_flow_style": True, "sort_keys": False, "allow_unicode": True, "width": math.inf}
    return str(yaml.dump(value, Dumper=_Dumper, **options)).removesuffix("\n").removesuffix("\n...")


def dump(document: object) -> str:
    """The text of a document, which :func:`read` reads as the same values."""
    text: str = yaml.dump(document, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120)
    return text


def read(diagnostics: Diagnostics) -> dict[str, Any]:
    """The file's mapping as plain values, with the place of each."""
    kind = file_kind(diagnostics.path)
    if kind != "file":
        problem = {"nothing": "no such file", "folder": "is a folder, not a file"}.get(kind, "is not a regular file")
        raise SpaceError(f"{diagnostics.path}:1:1: {problem}")
    try:
        if (size := diagnostics.path.stat().st_size) > LARGEST_FILE_BYTES:
            raise SpaceError(f"{diagnostics.path}:1:1: has {size:,} bytes; the limit is {LARGEST_FILE_BYTES:,}")
        content = diagnostics.path.read_bytes()
    except OSError as error:
        raise SpaceError(f"{diagnostics.path}:1:1: cannot be read: {error.strerror}") from error
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        before = content[: error.start]
        line, column = before.count(b"\n") + 1, error.start - (before.rfind(b"\n") + 1) + 1
        raise SpaceError(f"{diagnostics.path}:{line}:{column}: is not UTF-8; save it as UTF-8 text") from error
    raw = parse(diagnostics, text, (), None)
    diagnostics.raise_errors()
    if raw is None:
        raise SpaceError(f"{diagnostics.path}:1:1: is empty; expected at least data, fixed and axes")
    if not isinstance(raw, dict):
        raise SpaceError(f"{diagnostics.path}:1:1: expected a mapping, {{key: value}}, got {quote(raw)}")
    return raw


def parse(diagnostics: Diagnostics, text: str, location: Location, option: str | None) -> Any:
    """The value of a YAML text: the file's, or that of a command-line ``option``."""
    if option:
        diagnostics.override(location, option)
    try:
        node = yaml.compose(text, Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = option or f"{diagnostics.path}:{mark.line + 1 if mark else 1}:{mark.column + 1 if mark else 1}"
        problem = error.problem or "cannot be read"
        if "expected a single document" in str(error.context):
            problem = "a second document starts here; a space file has one"
        raise SpaceError(f"{place}: not valid YAML: {problem}") from error
    except yaml.reader.ReaderError as error:
        before = text[: error.position]
        line, column = before.count("\n") + 1, error.position - (before.rfind("\n") + 1) + 1
        place = option or f"{diagnostics.path}:{line}:{column}"
        raise SpaceError(f"{place}: not valid YAML: unprintable character") from error
    except (ValueError, OverflowError) as error:
        raise SpaceError(f"{option or f'{diagnostics.path}:1:1'}: not valid YAML: {error}") from error
    return None if node is None else _construct(diagnostics, node, location, option)


def _construct(diagnostics: Diagnostics, node: yaml.Node, location: Location, option: str | None) -> Any:
    """The plain value of ``node``."""
    place = option or f"{diagnostics.path}:{node.start_mark.line + 1}:{node.start_mark.column + 1}"
    diagnostics.places[location] = (diagnostics.places.get(location, (place, place))[0], place)
    kind = node.tag.removeprefix("tag:yaml.org,2002:")
    if isinstance(node, yaml.ScalarNode) and kind in ("str", *_PATTERNS):
        return _scalar(diagnostics, kind, node.value, location)
    if isinstance(node, yaml.SequenceNode) and kind == "seq":
        return [_construct(diagnostics, item, (*location, index), option) for index, item in enumerate(node.value)]
    if not isinstance(node, yaml.MappingNode) or kind != "map":
        diagnostics.error(
            location,
            f"the tag {quote(node.tag.replace('tag:yaml.org,2002:', '!!'))} is not supported; remove it",
        )
        return None
    values: dict[str, Any] = {}
    for key_node, value_node in node.value:
        mark = key_node.start_mark
        here = option or f"{diagnostics.path}:{mark.line + 1}:{mark.column + 1}"
        key = key_node.value
        if not isinstance(key, str) or not key_node.tag.endswith(":str") or not key.isprintable():
            diagnostics.error_at(here, f"expected a word as key, got {quote(key)}")
            continue
        if key in values:
            first = diagnostics.places[(*location, key)][0].removeprefix(f"{diagnostics.path}:").split(":")[0]
            diagnostics.places[(*location, key)] = (here, here)
            diagnostics.error((*location, key), "duplicate key" + ("" if option else f", first on line {first}"))
            continue
        diagnostics.places[(*location, key)] = (here, here)
        values[key] = _construct(diagnostics, value_node, (*location, key), option)
    return values


def _scalar(diagnostics: Diagnostics, kind: str, text: str, location: Location) -> Any:
    """The value of one word or number."""
    if kind == "str":
        if not text.replace("\n", "").isprintable():
            diagnostics.error(location, "contains an unprintable character")
        return text
    if not _PATTERNS[kind].match(text):
        diagnostics.error(location, f"expected {EXPECTED.get(kind, 'nothing')}, got {quote(text)}")
    elif kind == "bool":
        return text.lower() == "true"
    elif kind == "int" and len(text) > 18:
        diagnostics.error(location, f"the number {quote(text)} is too large")
    elif kind == "int":
        return int(text, 0) if text[:2] in ("0x", "0o") else int(text)
    elif kind == "float":
        value = math.inf if text[-1] in "fFnN" else float(text)
        if math.isfinite(value):
            return value
        diagnostics.error(location, f"expected a finite number, got {text[:60]}")
    return None
