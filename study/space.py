"""What does a space file ask for, and where is what it says wrong?

Every fault is one line, ``FILE:LINE:COLUMN: path.to.key: what is wrong``, and all that can be found at once are. Paths
in a file start at the file's folder, those on the command line at the current one.
"""

from __future__ import annotations

import difflib
import hashlib
import itertools
import math
import re
import stat
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import TypeAdapter, ValidationError

from study.settings import COMPARED, Data, EarlyStopping, Fractions, Reference, Run, Section, Settings

LARGEST_FILE_BYTES = 1_000_000
LARGEST_DOCUMENT_NODES = 10_000
DEEPEST_NESTING = 30
MOST_COMBINATIONS = 100_000
FEWEST_ROWS = 10
BUILT_IN_MODELS = ("tiny-bert", "tiny-roberta")
BUILT_IN_DATA = {"builtin:reviews": ("builtin:reviews version 1", 6_000)}  # what it is by content, examples
DATA_SUFFIXES = (".parquet", ".csv", ".jsonl")
FOREIGN_SUFFIXES = (".arrow", ".feather", ".gz", ".json", ".pkl", ".tsv", ".txt", ".xlsx", ".zip")
MODEL_FILES = (
    *("config.json", "*.safetensors", "*.safetensors.index.json", "tokenizer*.json", "special_tokens_map.json"),
    *("added_tokens.json", "vocab.*", "merges.txt", "*.model"),
)
SETTING_KEYS = (*Settings.model_fields, "duration")
TOP_KEYS = ("name", "data", "fixed", "axes", "when", "run", "references")
SCHEDULE_KEYS = {"name": "lr_schedule", "warmup_fraction": "warmup_fraction", "polynomial_power": "polynomial_power"}
DURATION_KEYS = ("epochs", "optimizer_steps")
NESTED: Mapping[object, type[Section]] = {"fractions": Fractions, "early_stopping": EarlyStopping}
HUB_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9][A-Za-z0-9._-]*)?")
TEXT_TYPE = re.compile(r"(dictionary<values=)?(large_)?string")
NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,99}")

Where = tuple[str | int, ...]
Values = Mapping[str, Any]
AnySection = TypeVar("AnySection", bound=Section)


class SpaceError(ValueError):
    """A space that cannot be used; as a string, one line per fault."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Axis:
    """One axis: each of ``values`` is the part of the settings that it decides; all decide the same keys."""

    name: str
    values: tuple[Values, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """Where the settings hold one of each of ``match``'s values, set ``set``, or drop the combination."""

    match: Mapping[str, tuple[Values, ...]]
    set: Values
    drop: bool

    def matches(self, settings: Values) -> bool:
        """Whether the rule applies to these settings, as the rules before it left them."""
        return all(any(_within(value, settings) for value in values) for values in self.match.values())


@dataclass(frozen=True, slots=True, kw_only=True)
class Space:
    """A valid space, after all overrides.

    ``fixed`` holds every setting that no axis decides, ``text`` is a space file that is read as this very space,
    ``identities`` says what the data (``"data"``) and each model are by content, ``examples`` counts the data's.
    """

    name: str
    data: Data
    fixed: Values
    axes: tuple[Axis, ...]
    when: tuple[Rule, ...]
    run: Run
    references: tuple[Reference, ...]
    text: str
    identities: Mapping[str, str]
    examples: int

    def cells(self) -> Iterator[dict[str, Any]]:
        """All settings of each combination, as plain JSON values; the first axis varies slowest."""
        return _cells(self.fixed, self.axes, self.when)


def read(
    path: str | Path,
    *,
    set: Sequence[str] = (),  # noqa: A002
    only: Sequence[str] = (),
    data: str | None = None,
) -> Space:
    """Read the space file ``path``, with ``--set KEY=VALUE``, ``--only AXIS=VALUE`` and ``--data SOURCE`` applied.

    Raises SpaceError with every fault that was found.
    """
    reader = _Reader(Path(path))
    raw = reader.document()
    if data is not None:
        raw["data"] = {**reader.mapping(raw.get("data"), ("data",)), "source": data, "examples": None}
        reader.override(("data", "source"), "--data")
    for text in set:
        reader.set(raw, text)
    return reader.space(raw, only)


def _within(part: Values, settings: Values) -> bool:
    return all(key in settings and settings[key] == value for key, value in part.items())


def _cells(
    fixed: Values, axes: Sequence[Axis], when: Sequence[Rule], matched: dict[int, None] | None = None
) -> Iterator[dict[str, Any]]:
    """Every combination after the rules; ``matched`` collects the positions of the rules that applied to one."""
    blank = {key: fixed.get(key) for key in Settings.model_fields}
    resets = any(rule.set for rule in when)
    seen: set[str] = set()
    for combination in itertools.product(*(axis.values for axis in axes)):
        settings = blank.copy()
        for part in combination:
            settings.update(part)
        dropped = False
        for index, rule in enumerate(when):
            if not dropped and rule.matches(settings):
                settings.update(rule.set)
                dropped = rule.drop
                if matched is not None:
                    matched[index] = None
        if dropped:
            continue
        if resets:
            if (content := repr(settings)) in seen:
                continue
            seen.add(content)
        yield settings


def _contradiction(settings: Values) -> str:
    """Why these settings cannot be had together; empty if they can."""
    try:
        Settings.model_validate(settings)
    except ValidationError as error:
        return "; ".join(_wording(found) for found in error.errors(include_url=False))
    return ""


def _text(name: str, data: Data, fixed: Values, axes: Sequence[Axis], when: Sequence[Rule], more: Values) -> str:
    """The space as a file."""
    rules = []
    for rule in when:
        match = {key: [_shown(key, value) for value in values] for key, values in rule.match.items()}
        assigned = {key: value for key, value in rule.set.items() if value is not None or key not in DURATION_KEYS}
        rules.append({"match": match, **({"drop": True} if rule.drop else {"set": assigned})})
    document = {
        "name": name,
        "data": {key: value for key, value in data.model_dump(mode="json").items() if value is not None},
        "fixed": dict(fixed),
        "axes": {axis.name: [_shown(axis.name, value) for value in axis.values] for axis in axes},
        "when": rules,
        **more,
    }
    text: str = yaml.dump(document, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120)
    return text


class _Loader(yaml.SafeLoader):
    """YAML 1.2's words and numbers, and documents of bounded size however often they repeat themselves."""

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
            problem = f"with its aliases written out, the file has more than {LARGEST_DOCUMENT_NODES:,} values"
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


@cache
def _setting(key: str) -> TypeAdapter[Any]:
    return TypeAdapter(Settings.model_fields[key].rebuild_annotation())


def _kind(path: Path) -> str:
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError):
        return "nothing"
    return "folder" if stat.S_ISDIR(mode) else "file" if stat.S_ISREG(mode) else "something else"


def _show(value: object) -> str:
    if isinstance(value, dict | list | tuple) or value is None:
        return "nothing" if value is None else "a mapping" if isinstance(value, dict) else "a list"
    if isinstance(value, bool):
        return "true" if value else "false"
    text = str(value)
    return f"'{text[:60]}{'…' if len(text) > 60 else ''}'" if isinstance(value, str) else text


def _flow(value: object) -> str:
    """A value on one line, as a space file would have it."""
    if value is None:
        return "none"
    options: Values = {"default_flow_style": True, "sort_keys": False, "allow_unicode": True, "width": math.inf}
    return str(yaml.dump(value, Dumper=_Dumper, **options)).removesuffix("\n").removesuffix("\n...")


def _nearest(word: object, known: Iterable[str]) -> str:
    names = list(known)
    text = str(word)[:60]
    longer = [name for name in names if len(text) > 2 and name.startswith(text)]
    near = longer or difflib.get_close_matches(text, names, n=1)
    return f"; did you mean {near[0]}?" if near else ""


def _shown(name: str, value: Values) -> object:
    """One value of the axis ``name`` as a space file writes it."""
    if name == "duration":
        return {key: number for key, number in value.items() if number is not None}
    if len(value) > 1:
        return {word: value[key] for word, key in SCHEDULE_KEYS.items() if key in value}
    return next(iter(value.values()))


def _several(key: str, raw: object) -> bool:
    """Whether ``raw`` is a list of values rather than one value that is a list, as Adam's betas are."""
    return isinstance(raw, list) and (key != "adam_betas" or all(isinstance(item, list) for item in raw))


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _model_identity(model: str) -> str:
    """The content of a model folder; a name is its own identity."""
    folder = Path(model)
    if not folder.is_absolute():
        return model
    names = sorted({file.name for pattern in MODEL_FILES for file in folder.glob(pattern)})
    content = "".join(f"{name} {_sha256(folder / name)}\n" for name in names)
    return f"sha256:{hashlib.sha256(content.encode()).hexdigest()}"


def _listed(words: Iterable[object]) -> str:
    shown = [str(word) for word in words]
    return ", ".join(shown[:12]) + (", …" if len(shown) > 12 else "")


_EXPECTED = {
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "string_too_short": "at least one character",
    "string": "text",
    "tuple": "a list",
    "model": "a mapping, {{key: value}}",
    "dict": "a mapping, {{key: value}}",
    "greater_than_equal": "a number of at least {ge:g}",
    "greater_than": "a number above {gt:g}",
    "less_than_equal": "a number of at most {le:g}",
    "less_than": "a number below {lt:g}",
}


def _wording(error: Any) -> str:
    """What pydantic found, in the words of a space file."""
    kind, given, context = error["type"], error["input"], error.get("ctx", {})
    if kind == "value_error":
        return str(context["error"])
    if kind == "missing":
        return "is missing"
    if kind in ("too_long", "too_short"):
        return f"expected a list of {context.get('max_length', context.get('min_length'))}, got {len(given)}"
    near = ""
    text = "the text " if isinstance(given, str) and re.fullmatch(r"[-+.\d]\S*", given) else ""
    if kind == "literal_error":
        expected = context["expected"].replace("'", "")
        near = _nearest(given, re.findall(r"\w+", expected)) if isinstance(given, str) else ""
    else:
        expected = next((text for start, text in _EXPECTED.items() if kind.startswith(start)), "another value")
    return f"expected {expected.format(**context)}, got {text}{_show(given)}{near}"


def _tuples(value: Any) -> Any:
    """Lists as tuples: pydantic's strict mode, which takes no text for a number, takes no list for a tuple either."""
    if isinstance(value, list):
        return tuple(_tuples(item) for item in value)
    return {key: _tuples(item) for key, item in value.items()} if isinstance(value, dict) else value


class _Reader:
    """Reads one space and collects its faults, each with the place in the file, or the option, that is to blame."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.places: dict[Where, tuple[str, str]] = {(): (f"{path}:1:1", f"{path}:1:1")}  # of a key, of its value
        self.faults: dict[str, None] = {}
        self.train_size: int | None = None

    # Faults and places

    def fault(self, where: Where, message: str, *, key: bool = False) -> None:
        """Note a fault; of the key itself rather than of its value where ``key`` says so."""
        end = next(end for end in range(len(where), -1, -1) if where[:end] in self.places)
        place = self.places[where[:end]][0 if key and end == len(where) else 1]
        named = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in where).removeprefix(".")
        named = "" if not named or place.startswith("--") else f"{named}: "
        self.faults[f"{place}: {named}{message}"] = None

    def check(self) -> None:
        """Raise what was found so far."""
        if self.faults:
            raise SpaceError("\n".join(self.faults))

    def override(self, where: Where, option: str) -> None:
        """Blame ``option`` from now on for whatever is wrong at ``where``."""
        self.places = {place: mark for place, mark in self.places.items() if place[: len(where)] != where}
        self.places[where] = (option, option)

    def folder(self, where: Where) -> Path:
        """Where relative paths start."""
        end = next(end for end in range(len(where), -1, -1) if where[:end] in self.places)
        return Path.cwd() if self.places[where[:end]][1].startswith("--") else self.path.parent

    def mapping(self, raw: object, where: Where) -> dict[str, Any]:
        """``raw`` if it is a mapping; nothing at all is an empty one."""
        if raw is not None and not isinstance(raw, dict):
            self.fault(where, f"expected a mapping, {{key: value}}, got {_show(raw)}")
        return raw if isinstance(raw, dict) else {}

    def listing(self, raw: object, where: Where) -> list[Any]:
        """``raw`` if it is a list; nothing at all is an empty one."""
        if raw is not None and not isinstance(raw, list):
            self.fault(where, f"expected a list, [value, value], got {_show(raw)}")
        return raw if isinstance(raw, list) else []

    # From text to values

    def document(self) -> dict[str, Any]:
        """The file's mapping as plain values, with the place of each."""
        if _kind(self.path) != "file":
            kind = "is a folder, not a space file" if _kind(self.path) == "folder" else "no such file"
            raise SpaceError(f"{self.path}:1:1: {kind}")
        try:
            content = self.path.read_bytes()
        except OSError as error:
            raise SpaceError(f"{self.path}:1:1: cannot be read: {error.strerror}") from error
        if len(content) > LARGEST_FILE_BYTES:
            raise SpaceError(f"{self.path}:1:1: has {len(content):,} bytes; a space has at most {LARGEST_FILE_BYTES:,}")
        try:
            text = content.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            before = content[: error.start]
            line, column = before.count(b"\n") + 1, error.start - (before.rfind(b"\n") + 1) + 1
            raise SpaceError(f"{self.path}:{line}:{column}: is not UTF-8; save it as UTF-8 text") from error
        raw = self.parse(text, (), None)
        self.check()
        if raw is None:
            raise SpaceError(f"{self.path}:1:1: holds nothing; it needs data, fixed and axes at least")
        if not isinstance(raw, dict):
            raise SpaceError(f"{self.path}:1:1: expected a mapping, {{key: value}}, got {_show(raw)}")
        return raw

    def parse(self, text: str, where: Where, option: str | None) -> Any:
        """The value of a YAML text: the file's, or that of a command-line ``option``."""
        if option:
            self.override(where, option)
        try:
            node = yaml.compose(text, Loader=_Loader)
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            place = option or f"{self.path}:{mark.line + 1 if mark else 1}:{mark.column + 1 if mark else 1}"
            problem = error.problem or "cannot be read"
            if "expected a single document" in str(error.context):
                problem = "a second document begins; a space file has one"
            raise SpaceError(f"{place}: not valid YAML: {problem}") from error
        except yaml.reader.ReaderError as error:
            before = text[: error.position]
            line, column = before.count("\n") + 1, error.position - (before.rfind("\n") + 1) + 1
            place = option or f"{self.path}:{line}:{column}"
            raise SpaceError(f"{place}: not valid YAML: a character that cannot be printed") from error
        except (ValueError, OverflowError) as error:
            raise SpaceError(f"{option or f'{self.path}:1:1'}: not valid YAML: {error}") from error
        return None if node is None else self.construct(node, where, option)

    def construct(self, node: yaml.Node, where: Where, option: str | None) -> Any:
        """The plain value of ``node``."""
        place = option or f"{self.path}:{node.start_mark.line + 1}:{node.start_mark.column + 1}"
        self.places[where] = (self.places.get(where, (place, place))[0], place)
        kind = node.tag.removeprefix("tag:yaml.org,2002:")
        if isinstance(node, yaml.ScalarNode) and kind in ("str", *_PATTERNS):
            return self.scalar(kind, node.value, where)
        if isinstance(node, yaml.SequenceNode) and kind == "seq":
            return [self.construct(item, (*where, index), option) for index, item in enumerate(node.value)]
        if not isinstance(node, yaml.MappingNode) or kind != "map":
            self.fault(
                where,
                f"the tag {_show(node.tag.replace('tag:yaml.org,2002:', '!!'))} has no meaning here; leave it out",
            )
            return None
        values: dict[str, Any] = {}
        for key_node, value_node in node.value:
            mark = key_node.start_mark
            here = option or f"{self.path}:{mark.line + 1}:{mark.column + 1}"
            key = key_node.value
            if not isinstance(key, str) or not key_node.tag.endswith(":str") or not key.isprintable():
                self.faults[f"{here}: expected a word as key, got {_show(key)}"] = None
                continue
            if key in values:
                first = self.places[(*where, key)][0].removeprefix(f"{self.path}:").split(":")[0]
                self.places[(*where, key)] = (here, here)
                self.fault((*where, key), f"given twice, first on line {first}")
                continue
            self.places[(*where, key)] = (here, here)
            values[key] = self.construct(value_node, (*where, key), option)
        return values

    def scalar(self, kind: str, text: str, where: Where) -> Any:
        """The value of one word or number."""
        if kind == "str":
            if not text.replace("\n", "").isprintable():
                self.fault(where, "holds a character that cannot be printed")
            return text
        if not _PATTERNS[kind].match(text):
            self.fault(where, f"expected {_EXPECTED.get(kind, 'nothing')}, got {_show(text)}")
        elif kind == "bool":
            return text.lower() == "true"
        elif kind == "int" and len(text) > 18:
            self.fault(where, f"the number {_show(text)} is too large")
        elif kind == "int":
            return int(text, 0) if text[:2] in ("0x", "0o") else int(text)
        elif kind == "float":
            value = math.inf if text[-1] in "fFnN" else float(text)
            if math.isfinite(value):
                return value
            self.fault(where, f"expected a finite number, got {text[:60]}")
        return None

    def set(self, raw: dict[str, Any], text: str) -> None:
        """Apply one ``--set KEY=VALUE`` to the document."""
        key, equals, given = text.partition("=")
        option = f"--set {key}"
        parts = key.split(".")
        if not equals:
            raise SpaceError(f"{option}: expected KEY=VALUE")
        if key in SETTING_KEYS:
            self.set_setting(raw, key, given)
        elif key == "name":
            raw["name"] = self.parse(given, ("name",), option)
        elif parts[0] in ("data", "run") and len(parts) > 1:
            section = raw
            for depth, part in enumerate(parts[:-1], start=1):
                section[part] = dict(self.mapping(section.get(part), tuple(parts[:depth])))
                section = section[part]
            section[parts[-1]] = self.parse(given, tuple(parts), option)
        else:
            known = [*SETTING_KEYS, "name", *(f"data.{k}" for k in Data.model_fields)]
            known += [f"run.{k}" for k in Run.model_fields]
            raise SpaceError(f"{option}: unknown key{_nearest(key, known)}")

    def set_setting(self, raw: dict[str, Any], key: str, given: str) -> None:
        """A list becomes an axis, any other value replaces what was fixed or an axis."""
        sections = {name: dict(self.mapping(raw.get(name), (name,))) for name in ("fixed", "axes")}
        raw.update(sections)
        duration = (*DURATION_KEYS, "duration")
        value = self.parse(given, ("set",), f"--set {key}")
        target = "axes" if _several(key, value) else "fixed"
        for section, name in itertools.product(sections, duration if key in duration else (key,)):
            if (section, name) != (target, key):  # an axis that stays one keeps its position
                sections[section].pop(name, None)
        sections[target][key] = value
        self.override((target, key), f"--set {key}")

    # From values to settings

    def section(self, kind: type[AnySection], raw: object, where: Where) -> AnySection | None:
        """A validated section, or None and the faults of it."""
        values = self.mapping(raw, where)
        if raw is not None and values is not raw:
            return None
        try:
            return kind.model_validate(_tuples(values), strict=True)
        except ValidationError as error:
            self.wrong(error, where, kind)
            return None

    def wrong(self, error: ValidationError, where: Where, kind: type[Section]) -> None:
        """Note what pydantic found at ``where``."""
        for found in error.errors(include_url=False):
            place = (*where, *found["loc"])
            if found["type"] == "extra_forbidden":
                known = NESTED.get(place[-2], kind).model_fields
                self.fault(
                    place, f"unknown key{_nearest(place[-1], known) or f'; known are {_listed(known)}'}", key=True
                )
            else:
                self.fault(place, _wording(found))

    def value(self, key: str, raw: object, where: Where) -> Values | None:
        """The settings that one value of ``key`` decides, in canonical form, or None and the faults of it."""
        if key == "duration":
            given = self.mapping(raw, where)
            if len(given) != 1 or next(iter(given)) not in DURATION_KEYS or None in given.values():
                self.fault(where, "expected {epochs: number} or {optimizer_steps: number}")
                return None
            one = self.value(*next(iter(given.items())), (*where, *given))
            return one and {**dict.fromkeys(DURATION_KEYS), **one}
        if key == "lr_schedule" and isinstance(raw, dict):
            if unknown := [name for name in raw if name not in SCHEDULE_KEYS]:
                near = _nearest(unknown[0], SCHEDULE_KEYS) or f"; known are {_listed(SCHEDULE_KEYS)}"
                self.fault((*where, unknown[0]), f"unknown key{near}", key=True)
                return None
            if "name" not in raw:
                self.fault((*where, "name"), "is missing")
                return None
            parts = [self.value(SCHEDULE_KEYS[name], each, (*where, name)) for name, each in raw.items()]
            return None if None in parts else {key: value for part in parts if part for key, value in part.items()}
        try:
            checked = _setting(key).validate_python(_tuples(raw), strict=True)
        except ValidationError as error:
            if key == "micro_batch_size":  # a union: pydantic has one fault for each of its members
                self.fault(where, f"expected auto or a whole number above 0, got {_show(raw)}")
            else:
                self.wrong(error, where, Settings)
            return None
        if key == "model" and (checked := self.model(checked, where)) is None:
            return None
        if key == "batch_size":
            self.batch_size(checked, where)
        return {key: _setting(key).dump_python(checked, mode="json")}

    def batch_size(self, size: int, where: Where, origin: str = "") -> None:
        """A fault if no batch of ``size`` can be had."""
        if self.train_size is not None and size > self.train_size:
            held = f"the training split, which has {self.train_size:,} examples"
            self.fault(where, f"{origin}{size:,} is larger than {held}")

    def known(self, key: str, where: Where) -> bool:
        """Whether ``key`` is a setting; a fault if it is not."""
        if key in SETTING_KEYS:
            return True
        home = next((name for name, kind in (("data", Data), ("run", Run)) if key in kind.model_fields), None)
        hint = f"; it belongs under {home}" if home else _nearest(key, SETTING_KEYS)
        self.fault((*where, key), f"unknown setting{hint or f'; known are {_listed(SETTING_KEYS)}'}", key=True)
        return False

    def values(self, key: str, raw: object, where: Where) -> tuple[Values, ...]:
        """The values of an axis or of a match, completed so that all decide the same settings; faults if repeated."""
        items = raw if isinstance(raw, list) else [raw]
        places = [(*where, index) if isinstance(raw, list) else where for index in range(len(items))]
        found = [(self.value(key, item, place), place) for item, place in zip(items, places, strict=True)]
        kept: list[Values] = []
        for value, place in found:
            if value is not None and value in kept:
                self.fault(place, f"the value {_flow(_shown(key, value))} stands here twice")
            elif value is not None:
                kept.append(value)
        if not items:
            self.fault(where, "is empty; give at least one value")
        return tuple(kept)

    def given(self, raw: object, where: Where, claimed: dict[str, Where]) -> dict[str, Any]:
        """The settings of a mapping such as ``fixed``; ``claimed`` says where each was given, and becomes complete."""
        settings: dict[str, Any] = {}
        for key, item in self.mapping(raw, where).items():
            if self.known(key, where) and (value := self.value(key, item, (*where, key))) is not None:
                self.claim(value, (*where, key), claimed)
                settings.update(value)
        return settings

    def claim(self, keys: Iterable[str], where: Where, claimed: dict[str, Where]) -> None:
        """Note that ``where`` decides ``keys``, which nothing else may."""
        for key in keys:
            if key in claimed and claimed[key] != where:
                other = ".".join(map(str, claimed[key]))
                self.fault(where, f"{key} is given twice, also by {other}; remove one of them", key=True)
            claimed.setdefault(key, where)

    def axes(self, raw: object, claimed: dict[str, Where]) -> list[Axis]:
        """The axes in the order of the file."""
        axes = []
        for name, items in self.mapping(raw, ("axes",)).items():
            where: Where = ("axes", name)
            if not self.known(name, ("axes",)):
                continue
            if not isinstance(items, list):
                self.fault(where, f"expected a list of values, got {_show(items)}; a single value belongs under fixed")
                continue
            values = self.values(name, items, where)
            defaults = {key: Settings.model_fields[key].default for value in values for key in value}
            self.claim(defaults, where, claimed)
            complete = [{key: value.get(key, default) for key, default in defaults.items()} for value in values]
            for index, value in enumerate(complete):
                if value in complete[:index]:
                    self.fault((*where, index), f"the value {_flow(_shown(name, value))} stands here twice")
            axes.append(Axis(name=name, values=tuple(complete)))
        return axes

    def rules(self, raw: object) -> list[tuple[Rule, Where]]:
        """The ``when`` rules, and where each stands."""
        rules = []
        for index, item in enumerate(self.listing(raw, ("when",))):
            where: Where = ("when", index)
            parts = self.mapping(item, where)
            for key in parts:
                if key not in ("match", "set", "drop"):
                    self.fault((*where, key), "unknown key; a rule has match, and set or drop", key=True)
            match = self.mapping(parts.get("match"), (*where, "match"))
            if not match:
                self.fault(where, "a rule needs match: {key: value}")
            wanted = {
                key: self.values(key, values if _several(key, values) else [values], (*where, "match", key))
                for key, values in match.items()
                if self.known(key, (*where, "match"))
            }
            assigned = self.given(parts.get("set"), (*where, "set"), {})
            if len(present := [key for key in DURATION_KEYS if key in assigned]) == 1:
                assigned = {**assigned, **dict.fromkeys(DURATION_KEYS), present[0]: assigned[present[0]]}
            if (
                ("set" in parts) == ("drop" in parts)
                or parts.get("drop", True) is not True
                or parts.get("set", 1) == {}
            ):
                self.fault(where, "a rule needs either set: {key: value} or drop: true")
            rules.append((Rule(match=wanted, set=assigned, drop="drop" in parts), where))
        return rules

    def references(self, raw: object) -> list[Reference]:
        """The published results, matched by canonical settings."""
        references = []
        for index, item in enumerate(self.listing(raw, ("references",))):
            where: Where = ("references", index)
            reference = self.section(Reference, item, where)
            if reference is None:
                continue
            if reference.test_loss is None and reference.test_accuracy is None:
                self.fault(where, "gives neither test_loss nor test_accuracy")
            match = self.given(item["match"], (*where, "match"), {})
            references.append(reference.model_copy(update={"match": match}))
        return references

    # What names and paths stand for

    def model(self, name: str, where: Where) -> str | None:
        """The canonical name of a model: a built-in's, a hub id, or the absolute path of a folder."""
        if name in BUILT_IN_MODELS:
            return name
        folder = self.located(name, where)
        if folder is not None and (_kind(folder) == "folder" or name.startswith((".", "/", "~"))):
            if _kind(folder) != "folder":
                self.fault(where, f"the model folder {folder} does not exist")
            elif _kind(folder / "config.json") != "file":
                self.fault(where, f"the folder {folder} has no config.json; is it one that save_pretrained wrote?")
            elif not any(folder.glob("*.safetensors")):
                self.fault(where, f"the folder {folder} has no .safetensors weights; pickled weights are not read")
            else:
                return str(folder.resolve())
            return None
        if near := "" if "/" in name else _nearest(name, BUILT_IN_MODELS):
            self.fault(where, f"{_show(name)} is neither built in nor a folder{near}")
        elif HUB_ID.fullmatch(name):
            return name
        else:
            hint = "a folder's path, or a hub id such as bert-base-uncased"
            self.fault(where, f"{_show(name)} is no model; give {_listed(BUILT_IN_MODELS)}, {hint}")
        return None

    def located(self, name: str, where: Where) -> Path | None:
        """The path that ``name`` would be; None if there is no such user."""
        try:
            return self.folder(where) / Path(name).expanduser()
        except RuntimeError:
            self.fault(where, f"nobody's home folder is {_show(name.split('/')[0])}")
            return None

    def data(self, raw: object) -> tuple[Data, str, int] | None:
        """The data with its source in canonical form, what it is by content, and its number of examples."""
        data = self.section(Data, raw, ("data",))
        where: Where = ("data", "source")
        if data is None or (path := self.located(data.source, where)) is None:
            return None
        most: int | None = None
        if data.source in BUILT_IN_DATA:
            identity, default = BUILT_IN_DATA[data.source]
            examples = data.examples or default
        elif path.suffix in DATA_SUFFIXES:
            if (most := self.rows(data, path)) is None:
                return None
            data = data.model_copy(update={"source": str(path.resolve())})
            identity, examples = f"sha256:{_sha256(path)}", data.examples or most
        elif data.source.startswith((".", "/", "~")) or path.suffix in FOREIGN_SUFFIXES or _kind(path) == "file":
            self.fault(where, f"{_show(data.source)} is no data file; its name must end in {_listed(DATA_SUFFIXES)}")
            return None
        elif not HUB_ID.fullmatch(data.source):
            near = _nearest(data.source, BUILT_IN_DATA) or "; give a file, a hub id or builtin:reviews"
            self.fault(where, f"{_show(data.source)} is no data set{near}")
            return None
        elif data.examples is None:
            self.fault(("data", "examples"), "is missing: say how many examples the hub's data set has, to plan with")
            return None
        else:
            identity, examples = data.source, data.examples
        if most is not None and examples > most:
            self.fault(("data", "examples"), f"asks for {examples:,} examples; {data.source} has {most:,}")
            return None
        sizes = data.split_sizes(examples)
        if min(sizes.values()) < 1:
            shown = ", ".join(f"{name} {size}" for name, size in sizes.items())
            self.fault(("data", "fractions"), f"of {examples:,} examples these leave a split empty ({shown})")
            return None
        return data, identity, examples

    def rows(self, data: Data, path: Path) -> int | None:
        """How many rows a data file has, or None and the faults of it."""
        where: Where = ("data", "source")
        if _kind(path) != "file":
            self.fault(where, f"the file {path} " + ("does not exist" if _kind(path) == "nothing" else "is no file"))
            return None
        from study import datafile  # imports pyarrow, which other spaces can do without

        try:
            rows, columns = datafile.describe(path)
        except (ValueError, OSError) as error:
            kind = path.suffix.removeprefix(".")
            self.fault(where, f"{path} cannot be read as {kind}: {' '.join(str(error).split())}")
            return None
        good = True
        for setting, column in (("text_column", data.text_column), ("label_column", data.label_column)):
            if column not in columns:
                hint = _nearest(column, columns) or f"; name one of them with data.{setting}"
                self.fault(("data", setting), f"{path} has no column {_show(column)}, it has {_listed(columns)}{hint}")
                good = False
            elif setting == "text_column" and path.suffix != ".csv" and not TEXT_TYPE.match(columns[column]):
                self.fault(("data", setting), f"the column {_show(column)} of {path} holds {columns[column]}, not text")
                good = False
        if rows < FEWEST_ROWS:
            self.fault(where, f"{path} has {rows} rows; at least {FEWEST_ROWS} are needed")
        return rows if good and rows >= FEWEST_ROWS else None

    def content(self, data: Data) -> None:
        """Raise what is wrong with the rows of a data file; all of it has to be read for that."""
        path = Path(data.source)
        if path.is_absolute():
            from study import datafile

            try:
                columns = datafile.read(path, text_column=data.text_column, label_column=data.label_column)
                datafile.check(*columns, label_values=data.label_values)
            except (ValueError, OSError) as error:
                self.fault(("data", "source"), f"{path}, {' '.join(str(error).split())}")
        self.check()

    # The whole

    def name(self, raw: object) -> str:
        """The study's name, which becomes a folder's."""
        name = self.path.stem if raw is None else raw
        if not isinstance(name, str) or not NAME.fullmatch(name):
            rule = "letters, digits, '.', '_' and '-', at most 100, and does not start with '.'"
            self.fault(("name",), f"{_show(name)} is no name; a name consists of {rule}")
        return str(name)

    def space(self, raw: dict[str, Any], only: Sequence[str]) -> Space:
        """The space of a document, with ``only`` these values of its axes."""
        for key in raw:
            if key not in TOP_KEYS:
                hint = "; it belongs under fixed or axes" if key in SETTING_KEYS else _nearest(key, TOP_KEYS)
                self.fault((key,), f"unknown key{hint or f'; known are {_listed(TOP_KEYS)}'}", key=True)
        name = self.name(raw.get("name"))
        found = self.data(raw.get("data"))
        if found is not None:
            self.train_size = found[0].split_sizes(found[2])["train"]
        claimed: dict[str, Where] = {}
        fixed = self.given(raw.get("fixed"), ("fixed",), claimed)
        axes = self.axes(raw.get("axes"), claimed)
        rules = self.rules(raw.get("when"))
        run = self.section(Run, raw.get("run"), ("run",))
        references = self.references(raw.get("references"))
        if not any("model" in section for key in ("fixed", "axes") if isinstance(section := raw.get(key), dict)):
            self.fault(("fixed", "model"), "is missing; give a model here or a list of them under axes")
        for text in only:
            self.only(axes, text)
        self.check()
        assert found is not None
        assert run is not None
        data, identity, examples = found
        decided = {key for axis in axes for key in axis.values[0]}
        defaults = {key: field.default for key, field in Settings.model_fields.items() if key not in decided}
        fixed = {key: fixed.get(key, default) for key, default in defaults.items()}
        fixed = {key: list(value) if isinstance(value, tuple) else value for key, value in fixed.items()}
        if "batch_size" in defaults and "batch_size" not in claimed:
            self.batch_size(defaults["batch_size"], ("fixed", "batch_size"), "the default, ")
            self.check()
        models, used = self.combinations(fixed, axes, rules, claimed, reshaped=bool(only))
        self.content(data)
        more = {
            "run": run.model_dump(mode="json"),
            "references": [reference.model_dump(mode="json") for reference in references],
        }
        return Space(
            name=name,
            data=data,
            fixed=fixed,
            axes=tuple(axes),
            when=tuple(used),
            run=run,
            references=tuple(references),
            text=_text(name, data, fixed, axes, used, more),
            identities={"data": identity, **{model: _model_identity(model) for model in models}},
            examples=examples,
        )

    def combinations(
        self,
        fixed: Values,
        axes: list[Axis],
        rules: list[tuple[Rule, Where]],
        claimed: Mapping[str, Where],
        reshaped: bool,
    ) -> tuple[list[str], list[Rule]]:
        """The models of all combinations and the rules that matter; faults of combinations and of useless rules.

        Where the command line ``reshaped`` the axes, a rule may have lost what it was for.
        """
        if (count := math.prod(len(axis.values) for axis in axes)) > MOST_COMBINATIONS:
            self.fault(("axes",), f"make {count:,} combinations; a study has at most {MOST_COMBINATIONS:,}")
            self.check()
        matched: dict[int, None] = {}
        models: dict[str, None] = {}
        checked: dict[tuple[Any, ...], str] = {}
        wrong: dict[str, str] = {}
        for settings in _cells(fixed, axes, [rule for rule, _ in rules], matched):
            models[str(settings["model"])] = None
            compared = tuple(settings[key] for key in COMPARED)
            if compared not in checked:
                checked[compared] = _contradiction(settings)
                shown = ", ".join(f"{key} {_flow(settings[key])}" for axis in axes for key in axis.values[0])
                wrong.setdefault(checked[compared], f" (in the combination {shown})" if shown else "")
        wrong.pop("", None)
        claimed = {**{key: (*where, "set") for rule, where in rules for key in rule.set}, **claimed}
        for message, combination in wrong.items():
            where = next((claimed[word] for word in message.split() if word in claimed), ("fixed",))
            self.fault(where, message + combination, key=True)
        if not models:
            self.fault(("when",), "leaves no combination of the axes")
        reshaped = reshaped or any(place.startswith("--set") for _, place in self.places.values())
        for index, (_, where) in enumerate(rules):
            if index not in matched and not reshaped:
                self.fault(where, "matches no combination of the axes")
        self.check()
        return list(models), [rule for index, (rule, _) in enumerate(rules) if index in matched]

    def only(self, axes: list[Axis], text: str) -> None:
        """Keep the values of an axis that one ``--only AXIS=VALUE[,VALUE]`` names."""
        name, equals, given = text.partition("=")
        option, where = f"--only {name}", ("only", name)
        self.override(where, option)
        position = next((i for i, axis in enumerate(axes) if axis.name == name), None)
        if position is None or not equals:
            there = f"the axes are {_listed(axis.name for axis in axes)}" if axes else "there are no axes"
            self.fault(where, f"no such axis; {there}" if equals else "expected AXIS=VALUE[,VALUE]")
            return
        axis = axes[position]
        wanted = self.values(name, self.parse(f"[{given}]", where, option), where)
        for value in wanted:
            if not any(_within(value, held) for held in axis.values):
                there = _listed(_flow(_shown(name, held)) for held in axis.values)
                self.fault(where, f"no value {_flow(_shown(name, value))}; there are {there}")
        kept = tuple(held for held in axis.values if any(_within(value, held) for value in wanted))
        axes[position] = Axis(name=name, values=kept or axis.values)
