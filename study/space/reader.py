"""What does a space file ask for, and where is what it says wrong?

All faults that can be found at once are. Paths in a file start at the file's folder, those on the command line at the
current one.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from study.settings import COMPARED, Data, Reference, Run, Search, Settings
from study.space import overrides, sources
from study.space import search_section as searches
from study.space import yaml_document as document
from study.space.axes import DURATION_KEYS, Axis, Rule, Values, as_file, combinations, contradiction, shown, within
from study.space.diagnostics import Faults, Where, listed, nearest, show
from study.space.setting_values import SETTING_KEYS, ValueReader, several
from study.space.yaml_document import flow

MOST_COMBINATIONS = 100_000
MOST_COUNTED = 10_000
TOP_KEYS = ("name", "data", "fixed", "axes", "when", "search", "run", "references")
NAME = re.compile(r"[A-Za-z0-9_-]([A-Za-z0-9._-]{0,98}[A-Za-z0-9_-])?")
NAMES_OF_DEVICES = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Space:
    """A valid space, after all overrides.

    ``fixed`` holds every setting that no axis decides, ``text`` is a space file that is read as this very space,
    ``identities`` says what the data (``"data"``) and each model are by content, ``examples`` counts the data's.
    """

    name: str
    data: Data
    fixed: Values
    axes: tuple[Axis, ...]
    when: tuple[Rule, ...]
    run: Run
    search: Search
    references: tuple[Reference, ...]
    text: str
    identities: Mapping[str, str]
    examples: int

    @property
    def searching(self) -> bool:
        """Whether a search chooses what is tried."""
        return self.search.method != "grid"

    @property
    def searched(self) -> tuple[Axis, ...]:
        """The axes whose values a search chooses."""
        return tuple(axis for axis in self.axes if axis.name not in (*self.search.per, "seed"))

    def groups(self) -> list[Values]:
        """The combinations of the ``per`` axes' values; each has a search of its own."""
        parts = itertools.product(*(axis.values for axis in self.axes if axis.name in self.search.per))
        return [{key: value for part in combination for key, value in part.items()} for combination in parts]

    def chosen(self, settings: Values) -> list[dict[str, Any]]:
        """All settings of the cells, one a seed, of what a search has chosen; none where the space does not hold it.

        ``settings`` are those before any rule.
        """
        axes = []
        for axis in self.axes:
            part = axis.part(settings)
            if part is None and axis.name != "seed":
                return []
            axes.append(axis if axis.name == "seed" else Axis(name=axis.name, values=(part or {},)))
        if any(settings.get(key, value) != value for key, value in self.fixed.items()):
            return []
        return list(combinations(self.fixed, axes, self.when))

    def choices(self, group: Values) -> int | None:
        """How many different trials the search of a ``group`` can make; None where there is a range, or very many."""
        count = math.prod(len(axis.values) for axis in self.searched)
        if count > MOST_COUNTED or any(axis.range is not None for axis in self.searched):
            return None
        return len({repr(settings) for settings in combinations({**self.fixed, **group}, self.searched, self.when)})

    def cells(self) -> Iterator[dict[str, Any]]:
        """All settings of each combination, as plain JSON values; the first axis varies slowest."""
        return combinations(self.fixed, self.axes, self.when)


def read(
    path: str | Path,
    *,
    set: Sequence[str] = (),  # noqa: A002
    only: Sequence[str] = (),
    data: str | None = None,
) -> Space:
    """Read the space file ``path``, with ``--set KEY=VALUE``, ``--only AXIS=VALUE`` and ``--data SOURCE`` applied.

    Raises SpaceError with every fault that was found.
    """
    faults = Faults(Path(path))
    raw = document.read(faults)
    if data is not None:
        raw["data"] = {**faults.mapping(raw.get("data"), ("data",)), "source": data, "examples": None}
        faults.override(("data", "source"), "--data")
    for text in set:
        overrides.apply(faults, raw, text)
    return _Reader(faults).space(raw, only)


class _Reader:
    """Reads a document as a space."""

    def __init__(self, faults: Faults) -> None:
        self.faults = faults
        self.settings = ValueReader(faults, train_size=None)

    def rules(self, raw: object) -> list[tuple[Rule, Where]]:
        """The ``when`` rules, and where each stands."""
        rules = []
        for index, item in enumerate(self.faults.listing(raw, ("when",))):
            where: Where = ("when", index)
            parts = self.faults.mapping(item, where)
            for key in parts:
                if key not in ("match", "set", "drop"):
                    self.faults.add((*where, key), "unknown key; a rule has match, and set or drop", key=True)
            match = self.faults.mapping(parts.get("match"), (*where, "match"))
            if not match:
                self.faults.add(where, "a rule needs match: {key: value}")
            wanted = {
                key: self.settings.values(key, values if several(key, values) else [values], (*where, "match", key))
                for key, values in match.items()
                if self.settings.known(key, (*where, "match"))
            }
            assigned = self.settings.given(parts.get("set"), (*where, "set"), {})
            if len(present := [key for key in DURATION_KEYS if key in assigned]) == 1:
                assigned = {**assigned, **dict.fromkeys(DURATION_KEYS), present[0]: assigned[present[0]]}
            if (
                ("set" in parts) == ("drop" in parts)
                or parts.get("drop", True) is not True
                or parts.get("set", 1) == {}
            ):
                self.faults.add(where, "a rule needs either set: {key: value} or drop: true")
            rules.append((Rule(match=wanted, set=assigned, drop="drop" in parts), where))
        return rules

    def references(self, raw: object) -> list[Reference]:
        """The published results, matched by canonical settings."""
        references = []
        for index, item in enumerate(self.faults.listing(raw, ("references",))):
            where: Where = ("references", index)
            reference = self.faults.section(Reference, item, where)
            if reference is None:
                continue
            if reference.test_loss is None and reference.test_accuracy is None:
                self.faults.add(where, "gives neither test_loss nor test_accuracy")
            match = self.settings.given(item["match"], (*where, "match"), {})
            references.append(reference.model_copy(update={"match": match}))
        return references

    def name(self, raw: object) -> str:
        """The study's name, which becomes a folder's."""
        name = self.faults.path.stem if raw is None else raw
        if not isinstance(name, str) or not NAME.fullmatch(name):
            rule = "letters, digits, '.', '_' and '-', at most 100, and neither starts nor ends with '.'"
            self.faults.add(("name",), f"{show(name)} is no name; a name consists of {rule}")
        elif NAMES_OF_DEVICES.fullmatch(name):
            self.faults.add(("name",), f"{show(name)} names a device on Windows, where a study may be copied to")
        return str(name)

    def space(self, raw: dict[str, Any], only: Sequence[str]) -> Space:
        """The space of a document, with ``only`` these values of its axes."""
        for key in raw:
            if key not in TOP_KEYS:
                hint = "; it belongs under fixed or axes" if key in SETTING_KEYS else nearest(key, TOP_KEYS)
                self.faults.add((key,), f"unknown key{hint or f'; known are {listed(TOP_KEYS)}'}", key=True)
        name = self.name(raw.get("name"))
        found = sources.data(self.faults, raw.get("data"))
        if found is not None:
            self.settings.train_size = found[0].split_sizes(found[2])["train"]
        claimed: dict[str, Where] = {}
        fixed = self.settings.given(raw.get("fixed"), ("fixed",), claimed)
        axes = self.settings.axes(raw.get("axes"), claimed)
        rules = self.rules(raw.get("when"))
        run = self.faults.section(Run, raw.get("run"), ("run",))
        search = searches.search(self.faults, raw.get("search"), axes, run)
        references = self.references(raw.get("references"))
        if not any("model" in section for key in ("fixed", "axes") if isinstance(section := raw.get(key), dict)):
            self.faults.add(("fixed", "model"), "is missing; give a model here or a list of them under axes")
        for text in only:
            self.only(axes, text)
        self.faults.check()
        assert found is not None
        assert run is not None
        assert search is not None
        data, identity, examples = found
        decided = {key for axis in axes for key in axis.values[0]}
        defaults = {key: field.default for key, field in Settings.model_fields.items() if key not in decided}
        fixed = {key: fixed.get(key, default) for key, default in defaults.items()}
        fixed = {key: list(value) if isinstance(value, tuple) else value for key, value in fixed.items()}
        if "batch_size" in defaults and "batch_size" not in claimed:
            self.settings.batch_size(defaults["batch_size"], ("fixed", "batch_size"), "the default, ")
            self.faults.check()
        checked = axes if search.method == "grid" else searches.telling(axes, [rule for rule, _ in rules])
        models, used = self.combinations(fixed, checked, rules, claimed, reshaped=bool(only))
        sources.content(self.faults, data)
        more = {
            **({"search": search.model_dump(mode="json", exclude_defaults=True)} if search != Search() else {}),
            "run": run.model_dump(mode="json"),
            "references": [reference.model_dump(mode="json") for reference in references],
        }
        return Space(
            name=name,
            data=data,
            fixed=fixed,
            axes=tuple(axes),
            when=tuple(used),
            run=run,
            search=search,
            references=tuple(references),
            text=as_file(name, data, fixed, axes, used, more),
            identities={"data": identity, **{model: sources.model_identity(model) for model in models}},
            examples=examples,
        )

    def combinations(
        self,
        fixed: Values,
        axes: list[Axis],
        rules: list[tuple[Rule, Where]],
        claimed: Mapping[str, Where],
        reshaped: bool,
    ) -> tuple[list[str], list[Rule]]:
        """The models of all combinations and the rules that matter; faults of combinations and of useless rules.

        Where the command line ``reshaped`` the axes, a rule may have lost what it was for.
        """
        if (count := math.prod(len(axis.values) for axis in axes)) > MOST_COMBINATIONS:
            self.faults.add(("axes",), f"make {count:,} combinations; a study has at most {MOST_COMBINATIONS:,}")
            self.faults.check()
        matched: dict[int, None] = {}
        models: dict[str, None] = {}
        checked: dict[tuple[Any, ...], str] = {}
        wrong: dict[str, str] = {}
        for settings in combinations(fixed, axes, [rule for rule, _ in rules], matched):
            models[str(settings["model"])] = None
            compared = tuple(settings[key] for key in COMPARED)
            if compared not in checked:
                checked[compared] = contradiction(settings)
                named = ", ".join(f"{key} {flow(settings[key])}" for axis in axes for key in axis.values[0])
                wrong.setdefault(checked[compared], f" (in the combination {named})" if named else "")
        wrong.pop("", None)
        claimed = {**{key: (*where, "set") for rule, where in rules for key in rule.set}, **claimed}
        for message, combination in wrong.items():
            where = next((claimed[word] for word in message.split() if word in claimed), ("fixed",))
            self.faults.add(where, message + combination, key=True)
        if not models:
            self.faults.add(("when",), "leaves no combination of the axes")
        ranged = {axis.name for axis in axes if axis.range is not None}  # of which only the ends were tried
        reshaped = reshaped or any(place.startswith("--set") for _, place in self.faults.places.values())
        for index, (_, where) in enumerate(rules):
            if index not in matched and not reshaped and not ranged & rules[index][0].match.keys():
                self.faults.add(where, "matches no combination of the axes")
        self.faults.check()
        used = [rule for index, (rule, _) in enumerate(rules) if index in matched or ranged & rule.match.keys()]
        return list(models), used

    def only(self, axes: list[Axis], text: str) -> None:
        """Keep the values of an axis that one ``--only AXIS=VALUE[,VALUE]`` names."""
        name, equals, given = text.partition("=")
        option, where = f"--only {name}", ("only", name)
        self.faults.override(where, option)
        position = next((i for i, axis in enumerate(axes) if axis.name == name), None)
        if position is None or not equals:
            there = f"the axes are {listed(axis.name for axis in axes)}" if axes else "there are no axes"
            self.faults.add(where, f"no such axis; {there}" if equals else "expected AXIS=VALUE[,VALUE]")
            return
        axis = axes[position]
        if axis.range is not None:
            self.faults.add(where, f"is a range; narrow it with --set '{name}={flow(axis.as_file())}'")
            return
        wanted = self.settings.values(name, document.parse(self.faults, f"[{given}]", where, option), where)
        for value in wanted:
            if not any(within(value, held) for held in axis.values):
                there = listed(flow(shown(name, held)) for held in axis.values)
                self.faults.add(where, f"no value {flow(shown(name, value))}; there are {there}")
        kept = tuple(held for held in axis.values if any(within(value, held) for value in wanted))
        axes[position] = Axis(name=name, values=kept or axis.values)
