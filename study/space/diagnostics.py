"""Where is what is wrong with a space, and in which words is it said?

A fault is one line, ``FILE:LINE:COLUMN: path.to.key: what is wrong``; of a value from the command line, the option
stands where the file's position would.
"""

from __future__ import annotations

import difflib
import itertools
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from study.settings import EarlyStopping, Fractions, Section

NESTED: Mapping[object, type[Section]] = {"fractions": Fractions, "early_stopping": EarlyStopping}

Where = tuple[str | int, ...]
AnySection = TypeVar("AnySection", bound=Section)


def printable(text: str) -> str:
    """``text`` on one line and without control characters, whatever a file or a command line put into it."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


class SpaceError(ValueError):
    """A space that cannot be used; as a string, one line per fault."""

    def __init__(self, *faults: str) -> None:
        super().__init__("\n".join(map(printable, faults)))


def show(value: object) -> str:
    """A value as a message quotes it."""
    if isinstance(value, dict | list | tuple) or value is None:
        return "nothing" if value is None else "a mapping" if isinstance(value, dict) else "a list"
    if isinstance(value, bool):
        return "true" if value else "false"
    text = str(value)
    return f"'{text[:60]}{'…' if len(text) > 60 else ''}'" if isinstance(value, str) else text


def nearest(word: object, known: Iterable[str]) -> str:
    """The known name that was meant, as the end of a message; empty if none is near."""
    names = [name for name in itertools.islice(known, 1_000) if len(name) <= 60]
    text = str(word)[:60]
    longer = [name for name in names if len(text) > 2 and name.startswith(text)]
    near = longer or difflib.get_close_matches(text, names, n=1)
    return f"; did you mean {near[0]}?" if near else ""


def listed(words: Iterable[object]) -> str:
    """The first of many words, as a message lists them."""
    shown = [str(word) for word in itertools.islice(words, 13)]
    return ", ".join(f"{word[:60]}…" if len(word) > 60 else word for word in shown[:12]) + ", …" * (len(shown) > 12)


EXPECTED = {
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


def wording(error: Any) -> str:
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
        near = nearest(given, re.findall(r"\w+", expected)) if isinstance(given, str) else ""
    else:
        expected = next((text for start, text in EXPECTED.items() if kind.startswith(start)), "another value")
    return f"expected {expected.format(**context)}, got {text}{show(given)}{near}"


def tuples(value: Any) -> Any:
    """Lists as tuples: pydantic's strict mode, which takes no text for a number, takes no list for a tuple either."""
    if isinstance(value, list):
        return tuple(tuples(item) for item in value)
    return {key: tuples(item) for key, item in value.items()} if isinstance(value, dict) else value


class Faults:
    """The faults found in the space file ``path`` so far, and the place in it, or the option, of each value."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.places: dict[Where, tuple[str, str]] = {(): (f"{path}:1:1", f"{path}:1:1")}  # of a key, of its value
        self.found: dict[str, None] = {}

    def add(self, where: Where, message: str, *, key: bool = False) -> None:
        """Note a fault; of the key itself rather than of its value where ``key`` says so."""
        end = next(end for end in range(len(where), -1, -1) if where[:end] in self.places)
        place = self.places[where[:end]][0 if key and end == len(where) else 1]
        named = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in where).removeprefix(".")
        named = "" if not named or place.startswith("--") else f"{named}: "
        self.found[f"{place}: {named}{message}"] = None

    def check(self) -> None:
        """Raise what was found so far."""
        if self.found:
            raise SpaceError(*self.found)

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
            self.add(where, f"expected a mapping, {{key: value}}, got {show(raw)}")
        return raw if isinstance(raw, dict) else {}

    def listing(self, raw: object, where: Where) -> list[Any]:
        """``raw`` if it is a list; nothing at all is an empty one."""
        if raw is not None and not isinstance(raw, list):
            self.add(where, f"expected a list, [value, value], got {show(raw)}")
        return raw if isinstance(raw, list) else []

    def section(self, kind: type[AnySection], raw: object, where: Where) -> AnySection | None:
        """A validated section, or None and the faults of it."""
        values = self.mapping(raw, where)
        if raw is not None and values is not raw:
            return None
        try:
            return kind.model_validate(tuples(values), strict=True)
        except ValidationError as error:
            self.wrong(error, where, kind)
            return None

    def wrong(self, error: ValidationError, where: Where, kind: type[Section]) -> None:
        """Note what pydantic found at ``where``."""
        for found in error.errors(include_url=False):
            place = (*where, *found["loc"])
            if found["type"] == "extra_forbidden":
                known = NESTED.get(place[-2], kind).model_fields
                self.add(place, f"unknown key{nearest(place[-1], known) or f'; known are {listed(known)}'}", key=True)
            else:
                self.add(place, wording(found))
