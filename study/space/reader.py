"""Reads a space file, with the command line's overrides, and reports every error that can be found at once.

Paths in a file are relative to the file's folder, those on the command line to the current one.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from study.errors import did_you_mean, enumerate_names, quote
from study.records import Manifest
from study.settings import COMPARED, Data, Reference, Run, Search, Settings
from study.space import overrides, sources, yaml_document
from study.space.axes import (
    DURATION_KEYS,
    Axis,
    PartialSettings,
    WhenRule,
    as_file,
    combinations,
    is_part,
    value_as_file,
)
from study.space.diagnostics import Diagnostics, Location
from study.space.search_section import read_search, relevant_axes
from study.space.setting_values import SETTING_KEYS, ValueReader, is_list_of_values
from study.space.space import Space
from study.space.yaml_document import flow

MOST_COMBINATIONS = 100_000
TOP_KEYS = ("name", "data", "fixed", "axes", "when", "search", "run", "references")
NAME = re.compile(r"[A-Za-z0-9_-]([A-Za-z0-9._-]{0,98}[A-Za-z0-9_-])?")
WINDOWS_DEVICES = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)

PlacedRule = tuple[WhenRule, Location]


def read(
    path: str | Path,
    *,
    set: Sequence[str] = (),  # noqa: A002
    only: Sequence[str] = (),
    data: str | None = None,
) -> Space:
    """Read the space file ``path``, with ``--set KEY=VALUE``, ``--only AXIS=VALUE`` and ``--data SOURCE`` applied.

    Raises SpaceError with every error that was found.
    """
    diagnostics = Diagnostics(Path(path))
    raw = yaml_document.read(diagnostics)
    if data is not None:
        raw["data"] = {**diagnostics.mapping(raw.get("data"), ("data",)), "source": data, "examples": None}
        diagnostics.override(("data", "source"), "--data")
    for text in set:
        overrides.apply(diagnostics, raw, text)
    return _Reader(diagnostics).space(raw, only)


def read_kept(document: Mapping[str, Any], manifest: Manifest, *, set: Sequence[str] = ()) -> Space:  # noqa: A002
    """The space that a study keeps as ``document``, with ``--set KEY=VALUE`` applied.

    Data and models are what the study's manifest says of their content: they may be on another machine. Raises
    SpaceError with every error that was found.
    """
    diagnostics = Diagnostics(Path("space.yaml"))
    raw = dict(document)
    for text in set:
        overrides.apply(diagnostics, raw, text)
    return _Reader(diagnostics, manifest).space(raw, ())


class _Reader:
    """Reads a document as a space; with a ``manifest``, without looking for the data and models that it names."""

    def __init__(self, diagnostics: Diagnostics, manifest: Manifest | None = None) -> None:
        self.diagnostics = diagnostics
        self.manifest = manifest
        self.values = ValueReader(diagnostics, look_up_models=manifest is None)

    def space(self, raw: dict[str, Any], only: Sequence[str]) -> Space:
        """The space of a document, with ``only`` these values of its axes."""
        self._check_keys(raw)
        name = self._name(raw.get("name"))
        resolved = self._data(raw.get("data"))
        if resolved is not None:
            data, _, examples = resolved
            self.values.train_size = data.split_sizes(examples)["train"]
        claimed: dict[str, Location] = {}
        fixed = self.values.mapping(raw.get("fixed"), ("fixed",), claimed)
        axes = self.values.axes(raw.get("axes"), claimed)
        rules = self._rules(raw.get("when"))
        run = self.diagnostics.section(Run, raw.get("run"), ("run",))
        search = read_search(self.diagnostics, raw.get("search"), axes, run)
        references = read_references(self.diagnostics, self.values, raw.get("references"))
        for text in only:
            self._keep_only(axes, text)
        self.diagnostics.raise_errors()
        assert resolved is not None
        assert run is not None
        assert search is not None
        data, data_content, examples = resolved
        complete = self._with_defaults(fixed, axes, claimed)
        checked = axes if search.method == "grid" else relevant_axes(axes, [rule for rule, _ in rules])
        models, used = self._check_combinations(complete, checked, rules, claimed, narrowed=bool(only))
        if self.manifest is None:
            sources.check_content(self.diagnostics, data)
        return Space(
            name=name,
            data=data,
            fixed=complete,
            axes=tuple(axes),
            when=tuple(used),
            run=run,
            search=search,
            references=tuple(references),
            text=as_file(name, data, complete, axes, used, _other_sections(search, run, references)),
            identities={model: self._model_identity(model) for model in models},
            data_content=data_content,
            examples=examples,
        )

    def _data(self, raw: object) -> tuple[Data, str, int] | None:
        """The data, its identity by content and its number of examples; None with the errors noted."""
        if self.manifest is None:
            return sources.resolve_data(self.diagnostics, raw)
        content = self.manifest.data
        return Data.stored(content), content["source"], content["examples"]

    def _model_identity(self, model: str) -> str:
        if self.manifest is None:
            return sources.model_identity(model)
        return self.manifest.models.get(model, model)

    def _check_keys(self, raw: dict[str, Any]) -> None:
        for key in raw:
            if key not in TOP_KEYS:
                hint = "; it belongs under fixed or axes" if key in SETTING_KEYS else did_you_mean(key, TOP_KEYS)
                hint = hint or f"; known are {enumerate_names(TOP_KEYS)}"
                self.diagnostics.error((key,), f"unknown key{hint}", key=True)
        if not any("model" in section for key in ("fixed", "axes") if isinstance(section := raw.get(key), dict)):
            self.diagnostics.error(("fixed", "model"), "is missing; give a model here or a list of them under axes")

    def _name(self, raw: object) -> str:
        """The study's name, which becomes a folder's."""
        name = self.diagnostics.path.stem if raw is None else raw
        if not isinstance(name, str) or not NAME.fullmatch(name):
            rule = "use letters, digits, '.', '_' and '-', at most 100, without '.' at either end"
            self.diagnostics.error(("name",), f"invalid name {quote(name)}: {rule}")
        elif WINDOWS_DEVICES.fullmatch(name):
            reason = "names a device on Windows, where a study may be copied to"
            self.diagnostics.error(("name",), f"invalid name {quote(name)}: it {reason}")
        return str(name)

    def _rules(self, raw: object) -> list[PlacedRule]:
        """The ``when`` rules, and where each stands."""
        return [
            self._rule(item, ("when", index)) for index, item in enumerate(self.diagnostics.sequence(raw, ("when",)))
        ]

    def _rule(self, item: object, location: Location) -> PlacedRule:
        parts = self.diagnostics.mapping(item, location)
        for key in parts:
            if key not in ("match", "set", "drop"):
                message = "unknown key; a rule has match, and set or drop"
                self.diagnostics.error((*location, key), message, key=True)
        match = self.diagnostics.mapping(parts.get("match"), (*location, "match"))
        if not match:
            self.diagnostics.error(location, "a rule needs match: {key: value}")
        wanted = {
            key: self.values.values(
                key, values if is_list_of_values(key, values) else [values], (*location, "match", key)
            )
            for key, values in match.items()
            if self.values.is_known(key, (*location, "match"))
        }
        assigned = self.values.mapping(parts.get("set"), (*location, "set"), {})
        if len(present := [key for key in DURATION_KEYS if key in assigned]) == 1:
            assigned = {**assigned, **dict.fromkeys(DURATION_KEYS), present[0]: assigned[present[0]]}
        if (
            ("set" in parts) == ("drop" in parts)
            or parts.get("drop", True) is not True
            or parts.get("set", 1) in (None, {})
        ):
            self.diagnostics.error(location, "a rule needs either set: {key: value} or drop: true")
        return WhenRule(match=wanted, set=assigned, drop="drop" in parts), location

    def _with_defaults(
        self, fixed: PartialSettings, axes: Sequence[Axis], claimed: Mapping[str, Location]
    ) -> PartialSettings:
        """``fixed`` with the defaults of all settings that neither it nor an axis decides."""
        decided = {key for axis in axes for key in axis.keys}
        complete: dict[str, Any] = {}
        for key, field in Settings.model_fields.items():
            if key not in decided:
                value = fixed.get(key, field.default)
                complete[key] = list(value) if isinstance(value, tuple) else value
        if "batch_size" in complete and "batch_size" not in claimed:
            self.values.check_batch_size(complete["batch_size"], ("fixed", "batch_size"), "the default, ")
            self.diagnostics.raise_errors()
        return complete

    def _check_combinations(
        self,
        fixed: PartialSettings,
        axes: Sequence[Axis],
        rules: Sequence[PlacedRule],
        claimed: Mapping[str, Location],
        *,
        narrowed: bool,
    ) -> tuple[list[str], list[WhenRule]]:
        """The models of all combinations and the rules that match one; raises SpaceError for invalid combinations.

        Where the command line ``narrowed`` or replaced axes, a rule may match nothing without being an error.
        """
        if (count := math.prod(len(axis.values) for axis in axes)) > MOST_COMBINATIONS:
            message = f"make {count:,} combinations; the limit is {MOST_COMBINATIONS:,}"
            self.diagnostics.error(("axes",), message)
            self.diagnostics.raise_errors()
        matched: dict[int, None] = {}
        models: dict[str, None] = {}
        contradictions: dict[tuple[Any, ...], str] = {}
        examples: dict[str, str] = {}
        for settings in combinations(fixed, axes, [rule for rule, _ in rules], matched):
            models[settings.model] = None
            compared = tuple(getattr(settings, key) for key in COMPARED)
            if compared not in contradictions:
                contradictions[compared] = settings.contradiction
                examples.setdefault(settings.contradiction, _combination_in_words(settings, axes))
        examples.pop("", None)
        claimed = {**{key: (*location, "set") for rule, location in rules for key in rule.set}, **claimed}
        for message, combination in examples.items():
            location = next((claimed[word] for word in message.split() if word in claimed), ("fixed",))
            self.diagnostics.error(location, message + combination, key=True)
        if not models:
            self.diagnostics.error(("when",), "the rules drop every combination")
        ranges = {axis.name for axis in axes if axis.range is not None}  # of which only the ends were tried
        overridden = any(place.startswith("--set") for _, place in self.diagnostics.places.values())
        for index, (rule, location) in enumerate(rules):
            if index not in matched and not (narrowed or overridden or ranges & rule.match.keys()):
                self.diagnostics.error(location, "matches no combination of the axes")
        self.diagnostics.raise_errors()
        used = [rule for index, (rule, _) in enumerate(rules) if index in matched or ranges & rule.match.keys()]
        return list(models), used

    def _keep_only(self, axes: list[Axis], text: str) -> None:
        """Keep the values of an axis that one ``--only AXIS=VALUE[,VALUE]`` names."""
        name, equals, given = text.partition("=")
        option = f"--only {name}"
        location: Location = ("only", name)
        self.diagnostics.override(location, option)
        position = next((index for index, axis in enumerate(axes) if axis.name == name), None)
        if position is None or not equals:
            known = f"the axes are {enumerate_names(axis.name for axis in axes)}" if axes else "there are no axes"
            message = f"no such axis; {known}" if equals else "expected AXIS=VALUE[,VALUE]"
            self.diagnostics.error(location, message)
            return
        axis = axes[position]
        if axis.range is not None:
            hint = f"narrow it with --set '{name}={flow(axis.as_file())}'"
            self.diagnostics.error(location, f"is a range; {hint}")
            return
        raw = yaml_document.parse(self.diagnostics, f"[{given}]", location, option)
        wanted = self.values.values(name, raw, location)
        for value in wanted:
            if not any(is_part(value, present) for present in axis.values):
                known = enumerate_names(flow(value_as_file(name, present)) for present in axis.values)
                self.diagnostics.error(location, f"no value {flow(value_as_file(name, value))}; there are {known}")
        kept = tuple(present for present in axis.values if any(is_part(value, present) for value in wanted))
        axes[position] = Axis(name=name, values=kept or axis.values)


def read_references(diagnostics: Diagnostics, values: ValueReader, raw: object) -> list[Reference]:
    """The published results of a ``references`` section, with ``match`` in canonical form."""
    references = []
    for index, item in enumerate(diagnostics.sequence(raw, ("references",))):
        location: Location = ("references", index)
        reference = diagnostics.section(Reference, item, location)
        if reference is None:
            continue
        if reference.test_loss is None and reference.test_accuracy is None:
            diagnostics.error(location, "gives neither test_loss nor test_accuracy")
        match = values.mapping(item["match"], (*location, "match"), {})
        references.append(reference.model_copy(update={"match": match}))
    return references


def _combination_in_words(settings: Settings, axes: Sequence[Axis]) -> str:
    values = settings.model_dump(mode="json")
    words = ", ".join(f"{key} {flow(values[key])}" for axis in axes for key in axis.keys)
    return f" (in the combination {words})" if words else ""


def _other_sections(search: Search, run: Run, references: Sequence[Reference]) -> dict[str, Any]:
    """The sections that a space file has after axes and rules."""
    return {
        **({"search": search.model_dump(mode="json", exclude_defaults=True)} if search != Search() else {}),
        "run": run.model_dump(mode="json"),
        "references": [reference.model_dump(mode="json") for reference in references],
    }
