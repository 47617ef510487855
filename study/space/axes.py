"""Axes, ranges and ``when`` rules, and the combinations of settings that they make.

Parts of settings are mappings from a setting's name to its canonical JSON value, as a space file would have it.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from study.settings import Data, Settings, setting_type
from study.space.yaml_document import dump

PartialSettings = Mapping[str, Any]

RANGE_KEYS = ("low", "high", "log", "step")
SCHEDULE_KEYS = {"name": "lr_schedule", "warmup_fraction": "warmup_fraction", "polynomial_power": "polynomial_power"}
DURATION_KEYS = ("epochs", "optimizer_steps")


@dataclass(frozen=True, slots=True, kw_only=True)
class Range:
    """The numbers from ``low`` to ``high``, both included; whole numbers if these are.

    With ``log`` a search tries equal parts of their logarithms equally often; with ``step`` only ``low`` and every
    ``step`` after it count.
    """

    low: float
    high: float
    log: bool = False
    step: float | None = None

    @property
    def whole(self) -> bool:
        """Whether only whole numbers count."""
        return isinstance(self.low, int)

    def __contains__(self, value: object) -> bool:
        """Whether ``value`` is between the ends; a ``step`` that has changed excludes no number."""
        if isinstance(value, bool) or not isinstance(value, int if self.whole else int | float):
            return False
        return self.low <= value <= self.high

    def as_file(self) -> dict[str, Any]:
        """The range as a space file writes it."""
        values: dict[str, Any] = {"low": self.low, "high": self.high}
        if self.log:
            values["log"] = True
        if self.step is not None:
            values["step"] = self.step
        return values

    def __str__(self) -> str:
        """The range in words."""
        ends = f"{self.low:g} to {self.high:g}"
        return ends + (" (log)" if self.log else f" in steps of {self.step:g}" if self.step else "")


@dataclass(frozen=True, slots=True, kw_only=True)
class Axis:
    """One axis: each of ``values`` is the part of the settings that it decides; all decide the same keys.

    Of a ``range``, the values are its two ends.
    """

    name: str
    values: tuple[PartialSettings, ...]
    range: Range | None = None

    @property
    def keys(self) -> tuple[str, ...]:
        """The settings that the axis decides."""
        return tuple(self.values[0])

    def part(self, values: PartialSettings) -> PartialSettings | None:
        """The part of ``values`` that this axis decides, None if it is none of the axis' own."""
        if self.range is not None:
            number = values[self.name]
            return {self.name: number} if number in self.range else None
        return next((part for part in self.values if is_part(part, values)), None)

    def as_file(self) -> object:
        """The axis' values as a space file writes them."""
        return self.range.as_file() if self.range else [value_as_file(self.name, value) for value in self.values]


@dataclass(frozen=True, slots=True, kw_only=True)
class WhenRule:
    """Where the settings have one of each of ``match``'s values, set ``set``, or drop the combination."""

    match: Mapping[str, tuple[PartialSettings, ...]]
    set: PartialSettings
    drop: bool

    def matches(self, values: PartialSettings) -> bool:
        """Whether the rule applies to these settings, as the rules before it left them."""
        return all(any(is_part(part, values) for part in alternatives) for alternatives in self.match.values())


def is_part(part: PartialSettings, values: PartialSettings) -> bool:
    """Whether ``values`` have every value of ``part``."""
    return all(key in values and values[key] == value for key, value in part.items())


def combinations(
    fixed: PartialSettings,
    axes: Sequence[Axis],
    when: Sequence[WhenRule],
    matched: dict[int, None] | None = None,
) -> Iterator[Settings]:
    """Every combination after the rules; ``matched`` collects the positions of the rules that applied to one.

    The first axis varies slowest. Combinations that the rules make equal are given once.
    """
    sets_values = any(rule.set for rule in when)
    seen: set[Settings] = set()
    # Every value is checked already, so that settings are copies of one with other values: five times as fast.
    parsed = [[(part, _parse(part)) for part in axis.values] for axis in axes]
    rules = [(rule, _parse(rule.set)) for rule in when]
    template = Settings.model_construct(**_parse(fixed))
    for combination in itertools.product(*parsed):
        values, changes = dict(fixed), {}
        for part, parsed_part in combination:
            values.update(part)
            changes.update(parsed_part)
        if not _apply_rules(rules, values, changes, matched):
            continue
        settings = template.model_copy(update=changes)
        if sets_values:
            if settings in seen:
                continue
            seen.add(settings)
        yield settings


def _parse(part: PartialSettings) -> dict[str, Any]:
    """JSON values as the settings' own types."""
    return {key: setting_type(key).validate_python(value) for key, value in part.items()}


def _apply_rules(
    rules: Sequence[tuple[WhenRule, dict[str, Any]]],
    values: dict[str, Any],
    changes: dict[str, Any],
    matched: dict[int, None] | None,
) -> bool:
    """Change the JSON ``values``, and ``changes`` in the settings' types; False where a rule drops the combination."""
    for index, (rule, parsed_set) in enumerate(rules):
        if rule.matches(values):
            values.update(rule.set)
            changes.update(parsed_set)
            if matched is not None:
                matched[index] = None
            if rule.drop:
                return False
    return True


def as_file(
    name: str,
    data: Data,
    fixed: PartialSettings,
    axes: Sequence[Axis],
    when: Sequence[WhenRule],
    more: Mapping[str, Any],
) -> str:
    """The text of a space file with these sections, and ``more`` after them."""
    rules = []
    for rule in when:
        match = {key: [value_as_file(key, value) for value in values] for key, values in rule.match.items()}
        # The duration that a rule does not give is none; a rule that gives none of both says so.
        given = any(rule.set.get(key) is not None for key in DURATION_KEYS)
        assigned = {
            k: value for k, value in rule.set.items() if value is not None or k not in DURATION_KEYS or not given
        }
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


def value_as_file(name: str, value: PartialSettings) -> object:
    """One value of the axis ``name`` as a space file writes it."""
    if name == "duration":
        return {key: number for key, number in value.items() if number is not None}
    if len(value) > 1:
        return {word: value[key] for word, key in SCHEDULE_KEYS.items() if key in value}
    return next(iter(value.values()))
