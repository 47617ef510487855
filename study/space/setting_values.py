"""Which settings do the values in a space decide?

Every value is brought into its canonical form, so that two ways to write one thing are one cell.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from typing import Any

from pydantic import TypeAdapter, ValidationError

from study.settings import Data, Run, Settings
from study.space import sources
from study.space.axes import DURATION_KEYS, SCHEDULE_KEYS, Axis, Values, shown
from study.space.diagnostics import Faults, Where, listed, nearest, show, tuples
from study.space.ranges import RANGE_KEYS, Range
from study.space.yaml_document import flow

SETTING_KEYS = (*Settings.model_fields, "duration")


def several(key: str, raw: object) -> bool:
    """Whether ``raw`` is a list of values rather than one value that is a list, as Adam's betas are."""
    return isinstance(raw, list) and (key != "adam_betas" or all(isinstance(item, list) for item in raw))


@cache
def _setting(key: str) -> TypeAdapter[Any]:
    return TypeAdapter(Settings.model_fields[key].rebuild_annotation())


class ValueReader:
    """Reads settings and axes; no batch may be larger than ``train_size``, where that is known."""

    def __init__(self, faults: Faults, *, train_size: int | None) -> None:
        self.faults = faults
        self.train_size = train_size

    def value(self, key: str, raw: object, where: Where) -> Values | None:
        """The settings that one value of ``key`` decides, in canonical form, or None and the faults of it."""
        if key == "duration":
            given = self.faults.mapping(raw, where)
            if len(given) != 1 or next(iter(given)) not in DURATION_KEYS or None in given.values():
                self.faults.add(where, "expected {epochs: number} or {optimizer_steps: number}")
                return None
            one = self.value(*next(iter(given.items())), (*where, *given))
            return one and {**dict.fromkeys(DURATION_KEYS), **one}
        if key == "lr_schedule" and isinstance(raw, dict):
            if unknown := [name for name in raw if name not in SCHEDULE_KEYS]:
                near = nearest(unknown[0], SCHEDULE_KEYS) or f"; known are {listed(SCHEDULE_KEYS)}"
                self.faults.add((*where, unknown[0]), f"unknown key{near}", key=True)
                return None
            if "name" not in raw:
                self.faults.add((*where, "name"), "is missing")
                return None
            parts = [self.value(SCHEDULE_KEYS[name], each, (*where, name)) for name, each in raw.items()]
            return None if None in parts else {key: value for part in parts if part for key, value in part.items()}
        try:
            checked = _setting(key).validate_python(tuples(raw), strict=True)
        except ValidationError as error:
            if key == "micro_batch_size":  # a union: pydantic has one fault for each of its members
                self.faults.add(where, f"expected auto or a whole number above 0, got {show(raw)}")
            else:
                self.faults.wrong(error, where, Settings)
            return None
        if key == "model" and (checked := sources.model(self.faults, checked, where)) is None:
            return None
        if key == "batch_size":
            self.batch_size(checked, where)
        return {key: _setting(key).dump_python(checked, mode="json")}

    def batch_size(self, size: int, where: Where, origin: str = "") -> None:
        """A fault if no batch of ``size`` can be had."""
        if self.train_size is not None and size > self.train_size:
            held = f"the training split, which has {self.train_size:,} examples"
            self.faults.add(where, f"{origin}{size:,} is larger than {held}")

    def known(self, key: str, where: Where) -> bool:
        """Whether ``key`` is a setting; a fault if it is not."""
        if key in SETTING_KEYS:
            return True
        home = next((name for name, kind in (("data", Data), ("run", Run)) if key in kind.model_fields), None)
        hint = f"; it belongs under {home}" if home else nearest(key, SETTING_KEYS)
        self.faults.add((*where, key), f"unknown setting{hint or f'; known are {listed(SETTING_KEYS)}'}", key=True)
        return False

    def values(self, key: str, raw: object, where: Where) -> tuple[Values, ...]:
        """The values of an axis or of a match, completed so that all decide the same settings; faults if repeated."""
        items = raw if isinstance(raw, list) else [raw]
        places = [(*where, index) if isinstance(raw, list) else where for index in range(len(items))]
        found = [(self.value(key, item, place), place) for item, place in zip(items, places, strict=True)]
        kept: list[Values] = []
        for value, place in found:
            if value is not None and value in kept:
                self.faults.add(place, f"the value {flow(shown(key, value))} stands here twice")
            elif value is not None:
                kept.append(value)
        if not items:
            self.faults.add(where, "is empty; give at least one value")
        return tuple(kept)

    def given(self, raw: object, where: Where, claimed: dict[str, Where]) -> dict[str, Any]:
        """The settings of a mapping such as ``fixed``; ``claimed`` says where each was given, and becomes complete."""
        settings: dict[str, Any] = {}
        for key, item in self.faults.mapping(raw, where).items():
            if self.known(key, where) and (value := self.value(key, item, (*where, key))) is not None:
                self.claim(value, (*where, key), claimed)
                settings.update(value)
        return settings

    def claim(self, keys: Iterable[str], where: Where, claimed: dict[str, Where]) -> None:
        """Note that ``where`` decides ``keys``, which nothing else may."""
        for key in keys:
            if key in claimed and claimed[key] != where:
                other = ".".join(map(str, claimed[key]))
                self.faults.add(where, f"{key} is given twice, also by {other}; remove one of them", key=True)
            claimed.setdefault(key, where)

    def range(self, name: str, raw: dict[str, Any], where: Where) -> Range | None:
        """The range ``{low: number, high: number}`` of an axis, or None and the faults of it."""
        for key in raw:
            if key not in RANGE_KEYS:
                self.faults.add((*where, key), f"unknown key; a range has {listed(RANGE_KEYS)}", key=True)
        ends: list[Any] = []
        for key in ("low", "high"):
            if key not in raw:
                self.faults.add(where, f"a range needs {key}")
            elif (value := self.value(name, raw[key], (*where, key))) is not None:
                ends.append(value.get(name))
        log, step = raw.get("log", False), raw.get("step")
        if not isinstance(log, bool):
            self.faults.add((*where, "log"), f"expected true or false, got {show(log)}")
        if len(ends) != 2:
            return None
        if name == "seed" or not all(isinstance(end, int | float) and not isinstance(end, bool) for end in ends):
            self.faults.add(where, f"{name} takes no range; give a list of values")
            return None
        low, high = ends
        if low >= high:
            self.faults.add((*where, "high"), f"the range ends at {high:g}, where it begins at {low:g}")
        if log and low <= 0:
            self.faults.add((*where, "low"), "a range with log begins above 0")
        if log and step is not None:
            self.faults.add((*where, "step"), "has no meaning beside log")
        if step is not None and not (
            type(step) in (int, float) and step > 0 and (type(low) is float or type(step) is int)
        ):
            self.faults.add(
                (*where, "step"), f"expected a {'whole ' * (type(low) is int)}number above 0, got {show(step)}"
            )
        return Range(low=low, high=high, log=log is True, step=step)

    def axes(self, raw: object, claimed: dict[str, Where]) -> list[Axis]:
        """The axes in the order of the file."""
        axes = []
        for name, items in self.faults.mapping(raw, ("axes",)).items():
            where: Where = ("axes", name)
            if not self.known(name, ("axes",)):
                continue
            if isinstance(items, dict) and items.keys() & set(RANGE_KEYS):
                self.claim([name], where, claimed)
                if found := self.range(name, items, where):
                    axes.append(Axis(name=name, values=({name: found.low}, {name: found.high}), range=found))
                continue
            if not isinstance(items, list):
                self.faults.add(
                    where, f"expected a list of values, got {show(items)}; a single value belongs under fixed"
                )
                continue
            values = self.values(name, items, where)
            defaults = {key: Settings.model_fields[key].default for value in values for key in value}
            self.claim(defaults, where, claimed)
            complete = [{key: value.get(key, default) for key, default in defaults.items()} for value in values]
            for index, value in enumerate(complete):
                if value in complete[:index]:
                    self.faults.add((*where, index), f"the value {flow(shown(name, value))} stands here twice")
            axes.append(Axis(name=name, values=tuple(complete)))
        return axes
