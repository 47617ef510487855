"""Commands that a report proposes: they would settle what is undetermined, and can be run as they are."""

from __future__ import annotations

import itertools
import json
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from analysis.answer import Command
from analysis.results import Results
from analysis.wording import setting_name
from study.cli import python_command, shown_path
from study.settings import setting_type

# The fewest seeds of a comparison, and the fewest that distinguish a rare failure from none.
SEEDS_TO_COMPARE = 5
SEEDS_TO_COUNT = 10


def extend(results: Results, purpose: str, values: Mapping[str, Iterable[object]]) -> Command:
    """Extend the study by values of these settings, beside those that it has; what is trained already is kept."""
    return run_with(results, purpose, {}, added={key: list(added) for key, added in values.items()})


def run_with(
    results: Results, purpose: str, overrides: Mapping[str, str], added: Mapping[str, Sequence[Any]] | None = None
) -> Command:
    """Run the study's space with these ``--set`` options, keyed by what they set, and with ``added`` values."""
    added = added or {}
    options = set_options(results, overrides, added)
    words = [python_command(), "-m", "study.run", *_space_and_storage(results)]
    words += [word for option in options for word in ("--set", option)]
    return Command(purpose=purpose, command=shlex.join(words), added=added, overrides=overrides)


def set_options(results: Results, overrides: Mapping[str, str], added: Mapping[str, Sequence[Any]]) -> list[str]:
    """The values of the ``--set`` options: those that settings get beside the values that they have, and others."""
    extended = {key: _extended(results, key, values) for key, values in added.items()}
    return [f"{key}={value}" for key, value in (extended | dict(overrides)).items()]


def _space_and_storage(results: Results) -> list[str]:
    """The options by which the study's own space is found, and its folder, from the current one."""
    if results.folder is None:  # it was read from an MLflow server
        return ["--space", f"studies/{results.name}/space.yaml"]
    folder = results.folder.resolve()
    words = ["--space", shown_path(folder / "space.yaml")]
    return words if folder.parent == Path("studies").resolve() else [*words, "--storage", shown_path(folder.parent)]


def _extended(results: Results, key: str, added: Sequence[Any]) -> str:
    """The values of a setting and those ``added``; a range is widened to contain them."""
    if (span := results.space.ranges.get(key)) is not None:
        wider = replace(span, low=min(span.low, *added), high=max(span.high, *added)).as_file()
        return f"{{{', '.join(f'{name}: {json.dumps(value)}' for name, value in wider.items())}}}"
    used = [setting_type(key).dump_python(getattr(cell.settings, key), mode="json") for cell in results.plan.cells]
    # A search may not have tried every value of its axis.
    present = results.space.lists.get(key, used) if results.searching else used
    values = {json.dumps(value, sort_keys=True): value for value in [*present, *added]}
    return f"[{', '.join(map(_as_file, values.values()))}]"


def longer_search(results: Results, purpose: str) -> Command:
    """Give every search twice the budget that it has."""
    unit, budget = results.search.budget
    doubled = f"{2 * budget:g}" if unit == "gpu_hours" else f"{2 * budget}"
    return run_with(results, purpose, {f"search.{unit}": doubled})


def paired_search(results: Results, keys: Sequence[str]) -> list[Command]:
    """A new study in which a random search tries the same configurations with each value of these settings.

    Nothing where the study does that already, or has no lists of these values.
    """
    search = results.search
    if not results.searching or not set(keys) <= results.space.lists.keys():
        return []
    if search.method == "random" and set(keys) <= set(search.per):
        return []
    per = dict.fromkeys([*search.per, *keys])
    overrides = {"name": f"{results.name}-paired", "search.method": "random", "search.per": f"[{', '.join(per)}]"}
    if search.sampler is not None:
        overrides["search.sampler"] = "null"
    purpose = f"tries the same configurations with each {' and '.join(map(setting_name, keys))}"
    return [run_with(results, purpose, overrides)]


def without_pruning(results: Results) -> Command:
    """Train to the end what the trial scheduler stopped."""
    return run_with(results, "trains the pruned runs to their end", {"search.scheduler": "none"})


def more_seeds(results: Results, purpose: str, seeds: int = SEEDS_TO_COMPARE) -> Command:
    """Extend the study to this many seeds, or to twice as many as it has if it has them already."""
    present = {cell.settings.seed for cell in results.plan.cells}
    total = seeds if len(present) < seeds else 2 * len(present)
    unused = (seed for seed in itertools.count() if seed not in present)
    return extend(results, purpose, {"seed": [next(unused) for _ in range(total - len(present))]})


def complete_plan(results: Results) -> list[Command]:
    """Train what is planned and missing, if anything is."""
    if results.census.whole:
        return []
    return [run_with(results, "trains what is planned and missing", {})]


def _as_file(value: object) -> str:
    """A value as a space file writes it within a list."""
    if value is None:
        return "none"
    return json.dumps(value) if isinstance(value, dict | list | str) else str(value)
