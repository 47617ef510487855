"""Applies ``--set KEY=VALUE`` to the document of a space file."""

from __future__ import annotations

import itertools
from typing import Any

from study.errors import SpaceError, did_you_mean
from study.settings import Data, Run, Search, Section
from study.space import yaml_document
from study.space.axes import DURATION_KEYS
from study.space.diagnostics import Diagnostics
from study.space.setting_values import SETTING_KEYS, is_list_of_values


def apply(diagnostics: Diagnostics, raw: dict[str, Any], text: str) -> None:
    """Apply one ``--set KEY=VALUE`` to the document. Raises SpaceError for an unknown key."""
    key, equals, given = text.partition("=")
    option = f"--set {key}"
    parts = key.split(".")
    if not equals:
        raise SpaceError(f"{option}: expected KEY=VALUE")
    if key in SETTING_KEYS:
        _set_setting(diagnostics, raw, key, given)
    elif key in ("name", "search"):
        raw[key] = yaml_document.parse(diagnostics, given, (key,), option)
    elif parts[0] in ("data", "run", "search") and len(parts) > 1:
        if isinstance(raw.get("search"), str):
            raw["search"] = {"method": raw["search"]}
        section = raw
        for depth, part in enumerate(parts[:-1], start=1):
            section[part] = dict(diagnostics.mapping(section.get(part), tuple(parts[:depth])))
            section = section[part]
        section[parts[-1]] = yaml_document.parse(diagnostics, given, tuple(parts), option)
    else:
        sections: dict[str, type[Section]] = {"data": Data, "search": Search, "run": Run}
        known = [f"{name}.{field}" for name, section_ in sections.items() for field in section_.model_fields]
        raise SpaceError(f"{option}: unknown key{did_you_mean(key, [*SETTING_KEYS, 'name', 'search', *known])}")


def _set_setting(diagnostics: Diagnostics, raw: dict[str, Any], key: str, given: str) -> None:
    """Set a setting: a list or a range becomes an axis, any other value replaces a fixed value or an axis."""
    sections = {name: dict(diagnostics.mapping(raw.get(name), (name,))) for name in ("fixed", "axes")}
    raw.update(sections)
    duration = (*DURATION_KEYS, "duration")
    value = yaml_document.parse(diagnostics, given, ("set",), f"--set {key}")
    is_range = isinstance(value, dict) and value.keys() & {"low", "high"}
    target = "axes" if is_range or is_list_of_values(key, value) else "fixed"
    for section, name in itertools.product(sections, duration if key in duration else (key,)):
        if (section, name) != (target, key):  # an axis that stays one keeps its position
            sections[section].pop(name, None)
    sections[target][key] = value
    diagnostics.override((target, key), f"--set {key}")
