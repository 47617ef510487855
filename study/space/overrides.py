"""What does ``--set`` change in a space?"""

from __future__ import annotations

import itertools
from typing import Any

from study.settings import Data, Run, Search
from study.space import yaml_document as document
from study.space.axes import DURATION_KEYS
from study.space.diagnostics import Faults, SpaceError, nearest
from study.space.setting_values import SETTING_KEYS, several


def apply(faults: Faults, raw: dict[str, Any], text: str) -> None:
    """Apply one ``--set KEY=VALUE`` to the document."""
    key, equals, given = text.partition("=")
    option = f"--set {key}"
    parts = key.split(".")
    if not equals:
        raise SpaceError(f"{option}: expected KEY=VALUE")
    if key in SETTING_KEYS:
        _set_setting(faults, raw, key, given)
    elif key in ("name", "search"):
        raw[key] = document.parse(faults, given, (key,), option)
    elif parts[0] in ("data", "run", "search") and len(parts) > 1:
        if isinstance(raw.get("search"), str):
            raw["search"] = {"method": raw["search"]}
        section = raw
        for depth, part in enumerate(parts[:-1], start=1):
            section[part] = dict(faults.mapping(section.get(part), tuple(parts[:depth])))
            section = section[part]
        section[parts[-1]] = document.parse(faults, given, tuple(parts), option)
    else:
        known = [*SETTING_KEYS, "name", *(f"data.{k}" for k in Data.model_fields)]
        known += ["search", *(f"search.{k}" for k in Search.model_fields), *(f"run.{k}" for k in Run.model_fields)]
        raise SpaceError(f"{option}: unknown key{nearest(key, known)}")


def _set_setting(faults: Faults, raw: dict[str, Any], key: str, given: str) -> None:
    """A list or a range becomes an axis, any other value replaces what was fixed or an axis."""
    sections = {name: dict(faults.mapping(raw.get(name), (name,))) for name in ("fixed", "axes")}
    raw.update(sections)
    duration = (*DURATION_KEYS, "duration")
    value = document.parse(faults, given, ("set",), f"--set {key}")
    ranged = isinstance(value, dict) and value.keys() & {"low", "high"}
    target = "axes" if ranged or several(key, value) else "fixed"
    for section, name in itertools.product(sections, duration if key in duration else (key,)):
        if (section, name) != (target, key):  # an axis that stays one keeps its position
            sections[section].pop(name, None)
    sections[target][key] = value
    faults.override((target, key), f"--set {key}")
