"""Collects errors in a space file and formats them as ``FILE:LINE:COLUMN: path.to.key: message``.

For a value from the command line, the option stands in place of file and position.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from study.errors import SpaceError, did_you_mean, enumerate_names, quote
from study.settings import EarlyStopping, Fractions, Section

NESTED: Mapping[object, type[Section]] = {"fractions": Fractions, "early_stopping": EarlyStopping}

# The keys and list positions that lead to a value.
Location = tuple[str | int, ...]
AnySection = TypeVar("AnySection", bound=Section)

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


def describe_error(error: Any) -> str:
    """One of pydantic's errors in the words of a space file."""
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
        near = did_you_mean(given, re.findall(r"\w+", expected)) if isinstance(given, str) else ""
    else:
        expected = next((text for start, text in EXPECTED.items() if kind.startswith(start)), "another value")
    return f"expected {expected.format(**context)}, got {text}{quote(given)}{near}"


def tuples(value: Any) -> Any:
    """``value`` with tuples for lists: pydantic's strict mode, which takes no text for a number, accepts no list."""
    if isinstance(value, list):
        return tuple(tuples(item) for item in value)
    return {key: tuples(item) for key, item in value.items()} if isinstance(value, dict) else value


class Diagnostics:
    """The errors found in the space file ``path`` so far, and the place in it, or the option, of each value."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.places: dict[Location, tuple[str, str]] = {(): (f"{path}:1:1", f"{path}:1:1")}  # of a key, of its value
        self.messages: dict[str, None] = {}

    def error(self, location: Location, message: str, *, key: bool = False) -> None:
        """Note an error; of the key itself rather than of its value with ``key``."""
        end = self._nearest_place(location)
        place = self.places[location[:end]][0 if key and end == len(location) else 1]
        path = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in location).removeprefix(".")
        prefix = "" if not path or place.startswith("--") else f"{path}: "
        self.error_at(place, f"{prefix}{message}")

    def error_at(self, place: str, message: str) -> None:
        """Note an error at a ``place`` of the file, or of an option."""
        self.messages[f"{place}: {message}"] = None

    def raise_errors(self) -> None:
        """Raise SpaceError with what was found so far, if anything was."""
        if self.messages:
            raise SpaceError(*self.messages)

    def override(self, location: Location, option: str) -> None:
        """Attribute to ``option`` from now on whatever is wrong at ``location``."""
        self.places = {place: mark for place, mark in self.places.items() if place[: len(location)] != location}
        self.places[location] = (option, option)

    def base_folder(self, location: Location) -> Path:
        """The folder that a relative path at ``location`` is relative to."""
        place = self.places[location[: self._nearest_place(location)]][1]
        return Path.cwd() if place.startswith("--") else self.path.parent

    def _nearest_place(self, location: Location) -> int:
        """How many parts of ``location`` lead to the innermost value whose place is known."""
        return next(end for end in range(len(location), -1, -1) if location[:end] in self.places)

    def mapping(self, raw: object, location: Location) -> dict[str, Any]:
        """``raw`` if it is a mapping; nothing at all is an empty one."""
        if raw is not None and not isinstance(raw, dict):
            self.error(location, f"expected a mapping, {{key: value}}, got {quote(raw)}")
        return raw if isinstance(raw, dict) else {}

    def sequence(self, raw: object, location: Location) -> list[Any]:
        """``raw`` if it is a list; nothing at all is an empty one."""
        if raw is not None and not isinstance(raw, list):
            self.error(location, f"expected a list, [value, value], got {quote(raw)}")
        return raw if isinstance(raw, list) else []

    def section(self, kind: type[AnySection], raw: object, location: Location) -> AnySection | None:
        """A validated section, or None with its errors noted."""
        values = self.mapping(raw, location)
        if raw is not None and values is not raw:
            return None
        try:
            return kind.model_validate(tuples(values), strict=True)
        except ValidationError as error:
            self.validation_error(error, location, kind)
            return None

    def validation_error(self, error: ValidationError, location: Location, kind: type[Section]) -> None:
        """Note what pydantic found at ``location``."""
        for detail in error.errors(include_url=False):
            inner = (*location, *detail["loc"])
            if detail["type"] == "extra_forbidden":
                known = NESTED.get(inner[-2], kind).model_fields
                hint = did_you_mean(inner[-1], known) or f"; known are {enumerate_names(known)}"
                self.error(inner, f"unknown key{hint}", key=True)
            else:
                self.error(inner, describe_error(detail))
