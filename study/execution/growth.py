"""Finds the plan of a study that is already there, and checks that the space may continue it.

A study grows: axes and values may be added or left out, and only what is new is trained. What all of its cells have in
common may not change; that is a new study.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from study.errors import StudyError
from study.execution.manifest import data_content
from study.plan.cell_results import cell_results
from study.plan.plan import Plan, make_plan, read_plan
from study.records import Manifest
from study.search.budget import search_budgets
from study.settings import Data, Settings, setting_type
from study.space.space import Space
from study.storage import StudyFolder


def find_plan(folder: StudyFolder, space: Space) -> Plan:
    """The plan of ``space`` in ``folder``, with what its search has chosen so far.

    Raises StudyError when the study in the folder is another one: when what all of its cells have in common, or the
    content of the data or of a model, has changed.
    """
    manifest = folder.manifest()
    old = read_plan(folder) if manifest is not None else None
    plan = replace(make_plan(space, old.trials if old else ()), study=folder.name)
    if manifest is not None and old is not None and (changes := find_changes(space, manifest, old, plan)):
        raise StudyError(
            f"the space no longer matches the study in {folder.path}: {'; '.join(changes)}. Add values to an axis to "
            "extend a study; to start a new one, give --set name=NAME, or --fresh for a new folder"
        )
    if space.searching:
        budgets = search_budgets(space, plan, cell_results(folder, plan))
        plan = replace(plan, open=any(budget.open for budget in budgets))
    return plan


def find_changes(space: Space, manifest: Manifest, old: Plan, plan: Plan) -> list[str]:
    """What has changed that all cells of the study had in common, in words."""
    data = Data.stored(manifest.data).model_dump(mode="json")
    changes = [
        f"data.{key} was {_in_words(data[key])}, is now {_in_words(value)}"
        for key, value in data_content(space).items()
        if data[key] != value
    ]
    changes += [
        f"the files of the model {model} have changed"
        for model, content in space.identities.items()
        if manifest.models.get(model, content) != content
    ]
    for key in Settings.model_fields if old.cells else ():
        earlier = {getattr(cell.settings, key) for cell in old.cells}
        if not _keeps_one(space, plan, key, _and_neutral(key, earlier)):
            changes.append(f"{key} was {_listed(key, earlier)}, is now {_offered(space, plan, key)}")
    return changes


def _keeps_one(space: Space, plan: Plan, key: str, before: set[Any]) -> bool:
    """Whether the space still has one of the values that the study's cells had."""
    if not space.searching:
        return bool(before & {getattr(cell.settings, key) for cell in plan.cells})
    axis = next((axis for axis in space.axes if key in axis.keys), None)
    if axis is not None and axis.range is not None:
        return any(value in axis.range for value in before)
    return bool(before & _values(space, key))


def _and_neutral(key: str, values: set[Any]) -> set[Any]:
    """The values, and where one is neutral, all that are."""
    neutral = set(Settings.neutral_values(key))
    return values | neutral if values & neutral else values


def _values(space: Space, key: str) -> set[Any]:
    """The values that a search may give a setting, those of rules included."""
    from_rules = [rule.set[key] for rule in space.when if key in rule.set]
    return {setting_type(key).validate_python(value) for value in (*space.values_of(key), *from_rules)}


def _offered(space: Space, plan: Plan, key: str) -> str:
    """The values that the space gives a setting, in words."""
    if not space.searching:
        return _listed(key, {getattr(cell.settings, key) for cell in plan.cells})
    axis = next((axis for axis in space.axes if key in axis.keys), None)
    return str(axis.range) if axis is not None and axis.range is not None else _listed(key, _values(space, key))


def _listed(key: str, values: Iterable[Any]) -> str:
    plain = [setting_type(key).dump_python(value, mode="json") for value in values]
    return ", ".join(_in_words(value) for value in sorted(plain, key=lambda value: json.dumps(value, sort_keys=True)))


def _in_words(value: object) -> str:
    if value is None:
        return "none"
    return json.dumps(value) if isinstance(value, Mapping | list | bool) else str(value)
