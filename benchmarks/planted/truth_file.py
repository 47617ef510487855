"""Reads the truth of a planted study from a YAML file, and reports every error with its place.

The file has the keys ``about``, ``space``, ``set``, ``noise``, ``truth``, ``expect`` and ``no_effect``;
``benchmarks/planted/example.yaml`` shows them all, and :mod:`benchmarks.planted.truth` documents what they hold.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.planted.truth import Collapse, Expectation, NoiseTruth, Overfit, Rule, RunTruth, Truth
from study.errors import SpaceError, did_you_mean, enumerate_names, quote
from study.plan.plan import make_plan
from study.settings import Section, Settings
from study.space import reader, yaml_document
from study.space.diagnostics import Diagnostics, Location
from study.space.setting_values import ValueReader, is_list_of_values
from study.space.space import Space

# The report's questions, and what they may answer where there is nothing to find.
NO_EFFECT: Mapping[str, tuple[str, ...]] = {
    "collapse_or_overfitting": ("no",),
    "lr_schedule": (),
    "batch_size": ("no",),
    "calibration": ("calibrated",),
    "which_split": ("neither",),
    "stability": (),
    "tuning": ("neither",),
    "early_stopping": ("patience *",),
    "settings_that_matter": (),
}
KEYS = ("about", "space", "set", "noise", "truth", "expect", "no_effect")
PARTS: Mapping[str, type[Section]] = {"collapse": Collapse, "overfit": Overfit}


def read_truth(path: Path) -> Truth:
    """The truth in the file ``path``. Raises SpaceError with every error that was found."""
    return _Reader(Diagnostics(path)).truth()


class _Reader:
    """Reads a document as a truth."""

    def __init__(self, diagnostics: Diagnostics) -> None:
        self.diagnostics = diagnostics
        self.values = ValueReader(diagnostics, look_up_models=False)

    def truth(self) -> Truth:
        """The truth of the whole document."""
        raw = yaml_document.read(self.diagnostics)
        self._check_keys(raw, (), KEYS)
        about, null = self._typed(raw, "about", str, ""), self._typed(raw, "no_effect", bool, False)
        noise = self.diagnostics.section(NoiseTruth, raw.get("noise"), ("noise",))
        rules = [
            self._rule(item, ("truth", index))
            for index, item in enumerate(self.diagnostics.sequence(raw.get("truth"), ("truth",)))
        ]
        expect = self._expectations(raw.get("expect"), null=null)
        space = self._space(raw.get("space"), self.diagnostics.mapping(raw.get("set"), ("set",)))
        if space is not None and not self.diagnostics.messages:
            self._check_matches(space, rules)
        self.diagnostics.raise_errors()
        assert space is not None
        assert noise is not None
        name = self.diagnostics.path.stem
        return Truth(
            name=name, about=about or name, space=space, noise=noise, rules=tuple(rules), expect=expect, null=null
        )

    def _check_keys(self, raw: Mapping[str, Any], location: Location, known: Sequence[str]) -> None:
        for key in raw:
            if key not in known:
                hint = did_you_mean(key, known) or f"; known are {enumerate_names(known)}"
                self.diagnostics.error((*location, key), f"unknown key{hint}", key=True)

    def _typed(self, raw: Mapping[str, Any], key: str, kind: type, default: Any) -> Any:
        value = raw.get(key, default)
        if not isinstance(value, kind):
            expected = {str: "text", bool: "true or false"}[kind]
            self.diagnostics.error((key,), f"expected {expected}, got {quote(value)}")
        return value

    def _space(self, raw: object, changes: Mapping[str, Any]) -> Space | None:
        """The space: a file's, or one that stands in the truth file itself as a mapping or as text."""
        settings = [f"{key}={yaml_document.flow(value)}" for key, value in changes.items()]
        try:
            if isinstance(raw, str) and "\n" not in raw:
                return reader.read(self.diagnostics.path.parent / raw, set=settings)
            if isinstance(raw, str | dict):
                with tempfile.TemporaryDirectory() as folder:
                    path = Path(folder) / f"{self.diagnostics.path.stem}.yaml"
                    path.write_text(raw if isinstance(raw, str) else yaml_document.dump(raw))
                    return self._inline_space(path, settings)
            self.diagnostics.error(("space",), f"expected a path, a mapping or text, got {quote(raw)}")
        except SpaceError as error:
            for message in str(error).splitlines():
                self.diagnostics.error(("set",) if message.startswith("--set") else ("space",), message)
        return None

    def _inline_space(self, path: Path, settings: Sequence[str]) -> Space:
        """The space in a temporary file, whose errors are reported without that file's name."""
        try:
            return reader.read(path, set=settings)
        except SpaceError as error:
            prefix = f"{path}:"
            raise SpaceError(
                *(
                    line.removeprefix(prefix).split(": ", 1)[1] if line.startswith(prefix) else line
                    for line in str(error).splitlines()
                )
            ) from error

    def _rule(self, item: object, location: Location) -> Rule:
        given = self.diagnostics.mapping(item, location)
        self._check_keys(given, location, ("match", "chance", *RunTruth.model_fields))
        match = {
            key: self.values.values(key, raw if is_list_of_values(key, raw) else [raw], (*location, "match", key))
            for key, raw in self.diagnostics.mapping(given.get("match"), (*location, "match")).items()
            if self.values.is_known(key, (*location, "match"))
        }
        chance = given.get("chance", 1.0)
        if isinstance(chance, bool) or not isinstance(chance, int | float) or not 0 <= chance <= 1:
            self.diagnostics.error((*location, "chance"), f"expected a number from 0 to 1, got {quote(chance)}")
            chance = 1.0
        plain = {key: value for key, value in given.items() if key in RunTruth.model_fields and key not in PARTS}
        checked = self.diagnostics.section(RunTruth, plain, location)
        values = {key: getattr(checked, key) for key in plain} if checked is not None else {}
        for key, kind in PARTS.items():
            if key in given:
                off = given[key] in (None, "none", "off")
                values[key] = None if off else self.diagnostics.section(kind, given[key], (*location, key))
        for index, name in enumerate(values.get("cluster", ())):
            if name not in Settings.model_fields:
                hint = did_you_mean(name, Settings.model_fields)
                self.diagnostics.error((*location, "cluster", index), f"unknown setting {quote(name)}{hint}")
        return Rule(match=match, chance=float(chance), values=values)

    def _expectations(self, raw: object, *, null: bool) -> dict[str, Expectation]:
        """What is expected of each question; of a null study's, no claim of an effect."""
        expected = {name: Expectation(right=right) for name, right in NO_EFFECT.items()} if null else {}
        for name, item in self.diagnostics.mapping(raw, ("expect",)).items():
            location: Location = ("expect", name)
            if name not in NO_EFFECT:
                hint = did_you_mean(name, NO_EFFECT) or f"; known are {enumerate_names(NO_EFFECT)}"
                self.diagnostics.error(location, f"unknown question{hint}", key=True)
                continue
            parts = {"right": item} if isinstance(item, list) else item
            section = self.diagnostics.section(Expectation, parts, location)
            if section is not None:
                expected[name] = section
        return expected

    def _check_matches(self, space: Space, rules: Sequence[Rule]) -> None:
        """Note rules that match no run; a search has no runs to match before it has chosen them."""
        if space.searching:
            self.diagnostics.error(("space",), "a search chooses its runs by their results; give a grid")
            return
        trajectories = make_plan(space).trajectories
        for index, rule in enumerate(rules):
            if not any(rule.matches(trajectory.settings) for trajectory in trajectories):
                self.diagnostics.error(("truth", index), "matches no run of the space")
