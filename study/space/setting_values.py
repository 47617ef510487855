"""Parses the values of settings and axes into canonical form, so that two ways to write one thing are one cell."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from pydantic import ValidationError

from study.errors import did_you_mean, enumerate_names, quote
from study.settings import Data, Run, Settings, setting_type
from study.space import sources
from study.space.axes import DURATION_KEYS, RANGE_KEYS, SCHEDULE_KEYS, Axis, PartialSettings, Range, value_as_file
from study.space.diagnostics import Diagnostics, Location, tuples
from study.space.yaml_document import flow

SETTING_KEYS = (*Settings.model_fields, "duration")
# What unions expect, for which pydantic has one error per member.
UNIONS = {"micro_batch_size": "auto or a whole number above 0", "compile": "auto, true or false"}
NEUTRAL_TWICE = {"compile": "auto and false"}


def is_list_of_values(key: str, raw: object) -> bool:
    """Whether ``raw`` is a list of values rather than one value that is a list, as Adam's betas are."""
    return isinstance(raw, list) and (key != "adam_betas" or all(isinstance(item, list) for item in raw))


class ValueReader:
    """Reads settings and axes.

    No batch may be larger than ``train_size``, where that is known. Models are looked for on disk, unless
    ``look_up_models`` is False: then names are taken as they are.
    """

    def __init__(self, diagnostics: Diagnostics, *, train_size: int | None = None, look_up_models: bool = True) -> None:
        self.diagnostics = diagnostics
        self.train_size = train_size
        self.look_up_models = look_up_models

    def value(self, key: str, raw: object, location: Location) -> PartialSettings | None:
        """The settings that one value of ``key`` decides, in canonical form, or None with the errors noted."""
        if key == "duration":
            return self._duration(raw, location)
        if key == "lr_schedule" and isinstance(raw, dict):
            return self._schedule(raw, location)
        try:
            checked = setting_type(key).validate_python(tuples(raw), strict=True)
        except ValidationError as error:
            if key in UNIONS:
                self.diagnostics.error(location, f"expected {UNIONS[key]}, got {quote(raw)}")
            else:
                self.diagnostics.validation_error(error, location, Settings)
            return None
        if key == "model" and self.look_up_models:
            checked = sources.resolve_model(self.diagnostics, checked, location)
            if checked is None:
                return None
        if key == "batch_size":
            self.check_batch_size(checked, location)
        return {key: setting_type(key).dump_python(checked, mode="json")}

    def _duration(self, raw: object, location: Location) -> PartialSettings | None:
        given = self.diagnostics.mapping(raw, location)
        if len(given) != 1 or next(iter(given)) not in DURATION_KEYS or None in given.values():
            self.diagnostics.error(location, "expected {epochs: number} or {optimizer_steps: number}")
            return None
        length = self.value(*next(iter(given.items())), (*location, *given))
        return length and {**dict.fromkeys(DURATION_KEYS), **length}

    def _schedule(self, raw: dict[str, Any], location: Location) -> PartialSettings | None:
        if unknown := [name for name in raw if name not in SCHEDULE_KEYS]:
            hint = did_you_mean(unknown[0], SCHEDULE_KEYS) or f"; known are {enumerate_names(SCHEDULE_KEYS)}"
            self.diagnostics.error((*location, unknown[0]), f"unknown key{hint}", key=True)
            return None
        if "name" not in raw:
            self.diagnostics.error((*location, "name"), "is missing")
            return None
        parts = [self.value(SCHEDULE_KEYS[name], each, (*location, name)) for name, each in raw.items()]
        return None if None in parts else {key: value for part in parts if part for key, value in part.items()}

    def check_batch_size(self, size: int, location: Location, origin: str = "") -> None:
        """Note an error if ``size`` exceeds the training split."""
        if self.train_size is not None and size > self.train_size:
            limit = f"the training split, which has {self.train_size:,} examples"
            self.diagnostics.error(location, f"{origin}{size:,} is larger than {limit}")

    def is_known(self, key: str, location: Location) -> bool:
        """Whether ``key`` is a setting; an error is noted if it is not."""
        if key in SETTING_KEYS:
            return True
        section = next((name for name, kind in (("data", Data), ("run", Run)) if key in kind.model_fields), None)
        hint = f"; it belongs under {section}" if section else did_you_mean(key, SETTING_KEYS)
        hint = hint or f"; known are {enumerate_names(SETTING_KEYS)}"
        self.diagnostics.error((*location, key), f"unknown setting{hint}", key=True)
        return False

    def values(self, key: str, raw: object, location: Location) -> tuple[PartialSettings, ...]:
        """The values of an axis or of a match; repeated and missing ones are noted as errors."""
        items = raw if isinstance(raw, list) else [raw]
        values: list[PartialSettings] = []
        for index, item in enumerate(items):
            place = (*location, index) if isinstance(raw, list) else location
            value = self.value(key, item, place)
            if value is not None and value in values:
                self._duplicate(key, value, place)
            elif value is not None and self._neutral_twice(key, (*values, value)):
                self.diagnostics.error(place, f"{NEUTRAL_TWICE[key]} are the same cells; give one of them")
            elif value is not None:
                values.append(value)
        if not items:
            self.diagnostics.error(location, "is empty; give at least one value")
        return tuple(values)

    @staticmethod
    def _neutral_twice(key: str, values: Sequence[PartialSettings]) -> bool:
        return key in NEUTRAL_TWICE and sum(value[key] in Settings.neutral_values(key) for value in values) > 1

    def _duplicate(self, key: str, value: PartialSettings, location: Location) -> None:
        self.diagnostics.error(location, f"duplicate value {flow(value_as_file(key, value))}")

    def mapping(self, raw: object, location: Location, claimed: dict[str, Location]) -> dict[str, Any]:
        """The settings of a mapping such as ``fixed``; where each was given is added to ``claimed``."""
        values: dict[str, Any] = {}
        for key, item in self.diagnostics.mapping(raw, location).items():
            if self.is_known(key, location) and (value := self.value(key, item, (*location, key))) is not None:
                self.claim(value, (*location, key), claimed)
                values.update(value)
        return values

    def claim(self, keys: Iterable[str], location: Location, claimed: dict[str, Location]) -> None:
        """Note in ``claimed`` that ``location`` decides ``keys``; a second one that does is an error."""
        for key in keys:
            if key in claimed and claimed[key] != location:
                other = ".".join(map(str, claimed[key]))
                self.diagnostics.error(location, f"{key} is also given by {other}; remove one of them", key=True)
            claimed.setdefault(key, location)

    def range(self, name: str, raw: dict[str, Any], location: Location) -> Range | None:
        """The range ``{low: number, high: number}`` of an axis, or None with the errors noted."""
        for key in raw:
            if key not in RANGE_KEYS:
                message = f"unknown key; a range has {enumerate_names(RANGE_KEYS)}"
                self.diagnostics.error((*location, key), message, key=True)
        ends: list[Any] = []
        for key in ("low", "high"):
            if key not in raw:
                self.diagnostics.error(location, f"a range needs {key}")
            elif (value := self.value(name, raw[key], (*location, key))) is not None:
                ends.append(value.get(name))
        log, step = raw.get("log", False), raw.get("step")
        if not isinstance(log, bool):
            self.diagnostics.error((*location, "log"), f"expected true or false, got {quote(log)}")
        if len(ends) != 2:
            return None
        if name == "seed" or not all(isinstance(end, int | float) and not isinstance(end, bool) for end in ends):
            self.diagnostics.error(location, f"{name} does not accept a range; give a list of values")
            return None
        low, high = ends
        if low >= high:
            self.diagnostics.error((*location, "high"), f"must be above low, which is {low:g}; got {high:g}")
        if log and low <= 0:
            self.diagnostics.error((*location, "low"), f"must be above 0 with log; got {low:g}")
        if log and step is not None:
            self.diagnostics.error((*location, "step"), "cannot be combined with log")
        if step is not None and not (
            type(step) in (int, float) and step > 0 and (type(low) is float or type(step) is int)
        ):
            number = "whole number" if type(low) is int else "number"
            self.diagnostics.error((*location, "step"), f"expected a {number} above 0, got {quote(step)}")
        return Range(low=low, high=high, log=log is True, step=step)

    def axes(self, raw: object, claimed: dict[str, Location]) -> list[Axis]:
        """The axes in the order of the file."""
        axes = []
        for name, items in self.diagnostics.mapping(raw, ("axes",)).items():
            location: Location = ("axes", name)
            if not self.is_known(name, ("axes",)):
                continue
            if isinstance(items, dict) and items.keys() & set(RANGE_KEYS):
                self.claim([name], location, claimed)
                if (range_ := self.range(name, items, location)) is not None:
                    axes.append(Axis(name=name, values=({name: range_.low}, {name: range_.high}), range=range_))
            elif isinstance(items, list):
                axes.append(self._list_axis(name, items, location, claimed))
            else:
                hint = "a single value belongs under fixed"
                self.diagnostics.error(location, f"expected a list of values, got {quote(items)}; {hint}")
        return axes

    def _list_axis(self, name: str, items: list[Any], location: Location, claimed: dict[str, Location]) -> Axis:
        """An axis with a list of values, completed so that all decide the same settings."""
        values = self.values(name, items, location)
        defaults = {key: Settings.model_fields[key].default for value in values for key in value}
        self.claim(defaults, location, claimed)
        complete = [{key: value.get(key, default) for key, default in defaults.items()} for value in values]
        for index, value in enumerate(complete):
            if value in complete[:index]:
                self._duplicate(name, value, (*location, index))
        return Axis(name=name, values=tuple(complete))
