"""A valid space: what its axes, rules and search ask for."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from study.settings import Data, Reference, Run, Search, Settings
from study.space.axes import Axis, PartialSettings, WhenRule, combinations

# The combinations of a search are counted up to this many.
MOST_COUNTED = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Space:
    """A valid space, after all overrides.

    ``fixed`` holds every setting that no axis decides, ``text`` is a space file that is read as this very space,
    ``identities`` identifies each model by its content, ``data_content`` the data, and ``examples`` is the number of
    its examples.
    """

    name: str
    data: Data
    fixed: PartialSettings
    axes: tuple[Axis, ...]
    when: tuple[WhenRule, ...]
    run: Run
    search: Search
    references: tuple[Reference, ...]
    text: str
    identities: Mapping[str, str]
    data_content: str
    examples: int

    @property
    def models(self) -> tuple[str, ...]:
        """The models of all combinations."""
        return tuple(self.identities)

    @property
    def data_identity(self) -> dict[str, Any]:
        """What the ids of cells hold of the data."""
        return {**self.data.identity(), "source": self.data_content, "examples": self.examples}

    @property
    def searching(self) -> bool:
        """Whether a search chooses what is trained."""
        return self.search.method != "grid"

    @property
    def searched(self) -> tuple[Axis, ...]:
        """The axes whose values a search chooses."""
        return tuple(axis for axis in self.axes if axis.name not in (*self.search.per, "seed"))

    def values_of(self, key: str) -> list[Any]:
        """The values that the space gives a setting, rules apart; of a range, its ends."""
        axis = next((axis for axis in self.axes if key in axis.keys), None)
        return [part[key] for part in axis.values] if axis else [self.fixed[key]]

    @property
    def per_keys(self) -> tuple[str, ...]:
        """The settings that the ``per`` axes decide."""
        return tuple(key for axis in self.axes if axis.name in self.search.per for key in axis.keys)

    def groups(self) -> list[PartialSettings]:
        """The combinations of the ``per`` axes' values; each has a search of its own."""
        per = [axis.values for axis in self.axes if axis.name in self.search.per]
        return [{k: v for part in parts for k, v in part.items()} for parts in itertools.product(*per)]

    def chosen(self, settings: Settings) -> list[Settings]:
        """The settings of the cells, one a seed, that a search's choice gives; none where the space excludes it.

        ``settings`` are those before any rule.
        """
        values = settings.model_dump(mode="json")
        if any(values[key] != value for key, value in self.fixed.items()):
            return []
        axes = []
        for axis in self.axes:
            part = axis.part(values)
            if axis.name == "seed":
                axes.append(axis)
            elif part is None:
                return []
            else:
                axes.append(Axis(name=axis.name, values=(part,)))
        return list(combinations(self.fixed, axes, self.when))

    def choices(self, group: PartialSettings) -> int | None:
        """How many different trials the search of a ``group`` can make; None where there is a range, or very many."""
        count = math.prod(len(axis.values) for axis in self.searched)
        if count > MOST_COUNTED or any(axis.range is not None for axis in self.searched):
            return None
        return len(set(combinations({**self.fixed, **group}, self.searched, self.when)))

    def cells(self) -> Iterator[Settings]:
        """The settings of each combination; the first axis varies slowest."""
        return combinations(self.fixed, self.axes, self.when)
