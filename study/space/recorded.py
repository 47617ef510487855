"""Reads the space that a study keeps, without the data and models that it names: they may be on another machine."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from study.settings import Reference, Search
from study.space import yaml_document
from study.space.axes import Axis, Range
from study.space.diagnostics import Diagnostics
from study.space.reader import read_references
from study.space.search_section import read_search
from study.space.setting_values import ValueReader


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordedSpace:
    """What a study was asked for: its axes, how their values were chosen, published results, and the data's name.

    ``document`` is the whole space file as plain values.
    """

    axes: tuple[Axis, ...] = ()
    search: Search = field(default_factory=Search)
    references: tuple[Reference, ...] = ()
    data_source: str = ""
    document: Mapping[str, Any] = field(default_factory=dict, repr=False)

    @property
    def ranges(self) -> Mapping[str, Range]:
        """The settings that a search draws from a range, which have about as many values as there are trials."""
        return {axis.name: axis.range for axis in self.axes if axis.range is not None}

    @property
    def lists(self) -> Mapping[str, list[object]]:
        """The values of each axis that has a list, as the space file writes them."""
        return {axis.name: list(_listed(axis)) for axis in self.axes if axis.range is None}


def _listed(axis: Axis) -> list[object]:
    values = axis.as_file()
    assert isinstance(values, list)
    return values


def read_recorded(path: Path) -> RecordedSpace:
    """The space in a study's ``space.yaml``. Raises SpaceError for one that this version did not write."""
    diagnostics = Diagnostics(path)
    raw = yaml_document.read(diagnostics)
    values = ValueReader(diagnostics, look_up_models=False)
    axes = values.axes(raw.get("axes"), {})
    search = read_search(diagnostics, raw.get("search"), axes, run=None)
    references = read_references(diagnostics, values, raw.get("references"))
    diagnostics.raise_errors()
    assert search is not None
    data = diagnostics.mapping(raw.get("data"), ("data",))
    return RecordedSpace(
        axes=tuple(axes),
        search=search,
        references=tuple(references),
        data_source=str(data.get("source", "")),
        document=raw,
    )
