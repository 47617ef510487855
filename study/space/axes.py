"""Which combinations do the axes and the rules of a space make?"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from study.settings import Data, Settings
from study.space.diagnostics import wording
from study.space.ranges import Range
from study.space.yaml_document import dump

Values = Mapping[str, Any]
SCHEDULE_KEYS = {"name": "lr_schedule", "warmup_fraction": "warmup_fraction", "polynomial_power": "polynomial_power"}
DURATION_KEYS = ("epochs", "optimizer_steps")


@dataclass(frozen=True, slots=True, kw_only=True)
class Axis:
    """One axis: each of ``values`` is the part of the settings that it decides; all decide the same keys.

    Of a ``range``, the values are its two ends.
    """

    name: str
    values: tuple[Values, ...]
    range: Range | None = None

    def part(self, settings: Values) -> Values | None:
        """What ``settings`` hold of this axis, None if it is none of its values."""
        if self.range is not None:
            value = settings[self.name]
            return {self.name: value} if value in self.range else None
        return next((value for value in self.values if within(value, settings)), None)

    def as_file(self) -> object:
        """The axis' values as a space file writes them."""
        return self.range.as_file() if self.range else [shown(self.name, value) for value in self.values]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """Where the settings hold one of each of ``match``'s values, set ``set``, or drop the combination."""

    match: Mapping[str, tuple[Values, ...]]
    set: Values
    drop: bool

    def matches(self, settings: Values) -> bool:
        """Whether the rule applies to these settings, as the rules before it left them."""
        return all(any(within(value, settings) for value in values) for values in self.match.values())


def within(part: Values, settings: Values) -> bool:
    """Whether ``settings`` hold what ``part`` decides."""
    return all(key in settings and settings[key] == value for key, value in part.items())


def combinations(
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


def contradiction(settings: Values) -> str:
    """Why these settings cannot be had together; empty if they can."""
    try:
        Settings.model_validate(settings)
    except ValidationError as error:
        return "; ".join(wording(found) for found in error.errors(include_url=False))
    return ""


def as_file(name: str, data: Data, fixed: Values, axes: Sequence[Axis], when: Sequence[Rule], more: Values) -> str:
    """The space as a file."""
    rules = []
    for rule in when:
        match = {key: [shown(key, value) for value in values] for key, values in rule.match.items()}
        assigned = {key: value for key, value in rule.set.items() if value is not None or key not in DURATION_KEYS}
        rules.append({"match": match, **({"drop": True} if rule.drop else {"set": assigned})})
    document = {
        "name": name,
        "data": {key: value for key, value in data.model_dump(mode="json").items() if value is not None},
        "fixed": dict(fixed),
        "axes": {axis.name: axis.as_file() for axis in axes},
        "when": rules,
        **more,
    }
    return dump(document)


def shown(name: str, value: Values) -> object:
    """One value of the axis ``name`` as a space file writes it."""
    if name == "duration":
        return {key: number for key, number in value.items() if number is not None}
    if len(value) > 1:
        return {word: value[key] for word, key in SCHEDULE_KEYS.items() if key in value}
    return next(iter(value.values()))
