"""The JSON Schema of a space file and the page of all settings, made from the docstrings of the settings' fields.

``python -m study.schema`` writes ``search_spaces/schema.json`` and ``docs/settings.md``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from study.settings import Data, EarlyStopping, Fractions, Reference, Run, Scheduler, Search, Section, Settings
from study.space.axes import SCHEDULE_KEYS

SCHEMA_FILE = Path("search_spaces/schema.json")
PAGE_FILE = Path("docs/settings.md")

# What pydantic calls a bound that stands behind a validator, and what JSON Schema calls it.
BOUNDS = {"gt": "exclusiveMinimum", "ge": "minimum", "lt": "exclusiveMaximum", "le": "maximum"}
BOUNDS_IN_WORDS = {"exclusiveMinimum": "> {}", "minimum": "≥ {}", "exclusiveMaximum": "< {}", "maximum": "≤ {}"}
TYPES_IN_WORDS = {"integer": "whole number", "number": "number", "boolean": "`true` or `false`", "string": "text"}
# The words that mean null, or a default, in a space file; which fields accept them is asked of the fields.
WORDS = ("none", "off", "auto")

PAGE_HEAD = """# Settings

<!-- Made by `make docs` from study/settings.py; change the docstrings there. -->

Everything that a space file can set. Each setting of a cell can stand under `fixed`, be an axis with a list of values
(a search also takes a range, `{low: …, high: …, log: true}`), or be set by a rule under `when`. With `schema.json`
beside the space files, an editor completes and checks them.
"""


def value_schema(section: type[Section], key: str) -> dict[str, Any]:
    """The JSON Schema of one value of a field, with the words that it accepts."""
    field = section.model_fields[key]
    adapter: TypeAdapter[Any] = TypeAdapter(field.rebuild_annotation())
    schema: dict[str, Any] = _standard(adapter.json_schema())
    schema.pop("$defs", None)
    alternatives = schema.get("anyOf", [schema])
    known = json.dumps(schema)
    words = [word for word in WORDS if f'"{word}"' not in known and not _is_text(schema) and _accepts(adapter, word)]
    if key == "per":  # a single axis is allowed in place of a list
        return {"anyOf": [*alternatives, {"type": "string"}]}
    if key == "lr_schedule":
        return {"anyOf": [*alternatives, _schedule_schema()]}
    if key == "scheduler":  # its name is allowed in place of a mapping
        words += value_schema(Scheduler, "name")["enum"]
    return {"anyOf": [*alternatives, {"enum": words}]} if words else schema


def _accepts(adapter: TypeAdapter[Any], word: str) -> bool:
    try:
        adapter.validate_python(word, strict=True)
    except ValidationError:
        return False
    return True


def _is_text(schema: Mapping[str, Any]) -> bool:
    return schema.get("type") == "string" and "enum" not in schema


def _standard(schema: Any) -> Any:
    """The schema with standard names of bounds, one line per description, and without generated titles."""
    if isinstance(schema, list):
        return [_standard(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    standard = {BOUNDS.get(key, key): _standard(value) for key, value in schema.items()}
    if isinstance(description := standard.get("description"), str):
        standard["description"] = " ".join(description.split())
    if isinstance(standard.get("title"), str):
        del standard["title"]
    return standard


def _described(section: type[Section], key: str) -> dict[str, Any]:
    return {"description": _meaning(section, key), **value_schema(section, key)}


def _meaning(section: type[Section], key: str) -> str:
    """The field's docstring on one line."""
    description = section.model_fields[key].description
    assert description, f"{section.__name__}.{key} has no docstring"
    return " ".join(description.split())


def _schedule_schema() -> dict[str, Any]:
    """An lr schedule with its warm-up or power, as one value."""
    keys = {word: value_schema(Settings, key) for word, key in SCHEDULE_KEYS.items() if word != "name"}
    names = TypeAdapter(Settings.model_fields["lr_schedule"].rebuild_annotation()).json_schema()
    return _mapping({"name": names, **keys}, required=["name"])


def _mapping(properties: Mapping[str, Any], *, required: list[str] | None = None) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "object", "properties": dict(properties), "additionalProperties": False}
    return schema | {"required": required} if required else schema


def _section_schema(section: type[Section]) -> dict[str, Any]:
    properties = {key: _described(section, key) for key in section.model_fields}
    required = [key for key, field in section.model_fields.items() if field.is_required()]
    return {"description": _summary(section), **_mapping(properties, required=required)}


def _summary(section: type[Section]) -> str:
    return " ".join((section.__doc__ or "").split("\n\n")[0].split())


def space_schema() -> dict[str, Any]:
    """The JSON Schema (draft 2020-12) of a space file."""
    values = {key: value_schema(Settings, key) for key in Settings.model_fields}
    values["duration"] = {
        "oneOf": [_mapping({key: values[key]}, required=[key]) for key in ("epochs", "optimizer_steps")]
    }
    meanings = {key: _meaning(Settings, key) for key in Settings.model_fields}
    meanings["duration"] = "An axis of lengths, some in epochs and some in optimizer steps."
    number = {"type": "number"}
    range_ = _mapping(
        {"low": number, "high": number, "log": {"type": "boolean"}, "step": number}, required=["low", "high"]
    )

    fixed, axes, match = {}, {}, {}
    for key, meaning in meanings.items():
        value, described = {"$ref": f"#/$defs/settings/{key}"}, {"description": meaning}
        fixed[key] = described | value
        axes[key] = described | {"anyOf": [{"type": "array", "items": value, "minItems": 1}, range_]}
        match[key] = described | {"anyOf": [value, {"type": "array", "items": value}]}
    settings = {"$ref": "#/$defs/fixed"}
    rule = {
        "oneOf": [
            _mapping({"match": {"$ref": "#/$defs/match"}, "set": settings}, required=["match", "set"]),
            _mapping({"match": {"$ref": "#/$defs/match"}, "drop": {"const": True}}, required=["match", "drop"]),
        ]
    }
    data = _section_schema(Data)
    data["properties"]["fractions"] = _section_schema(Fractions)
    reference = _section_schema(Reference)
    reference["properties"]["match"] = settings
    search = _section_schema(Search)
    methods = search["properties"]["method"]["enum"]
    properties = {
        "name": {"description": "The study's name, and its folder's; the file's name if left out.", "type": "string"},
        "data": data,
        "fixed": {"description": "Settings that all cells share.", **settings},
        "axes": {"description": "Settings whose combinations, or a search's choice, are trained.", **_mapping(axes)},
        "when": {"description": "Exceptions: set other values, or drop combinations.", "type": "array", "items": rule},
        "search": {"anyOf": [{"enum": methods}, search]},
        "run": _section_schema(Run),
        "references": {"description": "Published results, shown beside the study's.", "type": "array",
                       "items": reference},
    }  # fmt: skip
    definitions = {
        "settings": values,
        "fixed": _mapping(fixed),
        "match": _mapping(match),
        "EarlyStopping": _section_schema(EarlyStopping),
        "Fractions": _section_schema(Fractions),
        "Scheduler": _section_schema(Scheduler),
    }
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "A space of settings for python -m study.run",
        **_mapping(properties, required=["data"]),
        "$defs": definitions,
    }


def values_in_words(schema: Mapping[str, Any]) -> str:
    """The values that a schema allows, in a few words of Markdown."""
    if "anyOf" in schema:
        words = [values_in_words(part) for part in schema["anyOf"] if part.get("type") != "null"]
        if len(words) < len(schema["anyOf"]) and not any("none" in word for word in words):
            words.append("`null`")
        return " or ".join(dict.fromkeys(words))
    if "enum" in schema:
        return ", ".join(f"`{value}`" for value in schema["enum"])
    if "const" in schema:
        return f"`{schema['const']}`"
    if "$ref" in schema:
        name = str(schema["$ref"]).rsplit("/", 1)[-1]
        return f"[{name}](#{name.lower()})"
    if schema.get("type") == "array":
        items = schema.get("prefixItems") or [schema.get("items", {})]
        count = f"{len(items)} of " if "prefixItems" in schema else "list of "
        return count + values_in_words(items[0])
    if schema.get("type") == "object":
        return "mapping"
    bounds = [text.format(f"{schema[key]:g}") for key, text in BOUNDS_IN_WORDS.items() if key in schema]
    kind = TYPES_IN_WORDS.get(str(schema.get("type")), "any value")
    return f"{kind} {', '.join(bounds)}".strip()


def settings_page() -> str:
    """The Markdown page of all settings."""
    sections: list[tuple[str, type[Section]]] = [
        ("Settings of a cell: `fixed`, `axes`, `when`", Settings),
        ("EarlyStopping", EarlyStopping),
        ("Data: `data`", Data),
        ("Fractions", Fractions),
        ("Search: `search`", Search),
        ("Scheduler", Scheduler),
        ("Resources: `run`", Run),
        ("References: `references`", Reference),
    ]
    return PAGE_HEAD + "".join(_section_page(title, section) for title, section in sections)


def _section_page(title: str, section: type[Section]) -> str:
    paragraphs = [" ".join(part.split()) for part in (section.__doc__ or "").split("\n\n")]
    lines = ["", f"## {title}", "", "\n\n".join(map(_markdown, paragraphs)), ""]
    lines += ["| setting | values | default | meaning |", "|---|---|---|---|"]
    for key, field in section.model_fields.items():
        words = values_in_words(value_schema(section, key)).replace("|", "\\|")
        default = "required" if field.is_required() else f"`{_default(section, key)}`".replace("`–`", "–")
        lines.append(f"| `{key}` | {words} | {default} | {_markdown(_meaning(section, key))} |")
    return "\n".join(lines) + "\n"


def _default(section: type[Section], key: str) -> str:
    value = section.model_fields[key].default
    if isinstance(value, Section):
        return ", ".join(f"{name}: {getattr(value, name)}" for name in type(value).model_fields)
    if value is None:
        return next((word for word in WORDS if f'"{word}"' in json.dumps(value_schema(section, key))), "–")
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return f"[{', '.join(map(str, value))}]"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _markdown(text: str) -> str:
    """A docstring's reStructuredText as Markdown."""
    return re.sub(r":\w+:`~?([^`]*)`", r"`\1`", text.replace("``", "`"))


def main() -> None:
    """Write both files, from the repository's root."""
    SCHEMA_FILE.write_text(json.dumps(space_schema(), indent=1, ensure_ascii=False) + "\n")
    PAGE_FILE.write_text(settings_page())
    print(f"{SCHEMA_FILE}, {PAGE_FILE}")


if __name__ == "__main__":
    main()
