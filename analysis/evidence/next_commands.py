"""Which runs would settle what is undetermined, as a command that can be run as it stands?"""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from analysis.answer import Command
from analysis.evidence.trials import lists, ranges, search_of, searching
from analysis.results import Results

# Seeds that a comparison is given at least, and those with which a rare failure can be told from none.
SEEDS_TO_COMPARE = 5
SEEDS_TO_COUNT = 10


def grow(results: Results, purpose: str, values: Mapping[str, Iterable[object]]) -> Command:
    """Grow the study by values of these settings, beside those that it has; what is trained already stays."""
    return change(results, purpose, {key: _grown(results, key, list(added)) for key, added in values.items()})


def change(results: Results, purpose: str, settings: Mapping[str, str]) -> Command:
    """Run the study again with these ``--set`` options, by what they set."""
    words = ["python", "-m", "study.run", "--space", f"studies/{results.name}/space.yaml"]
    for key, value in settings.items():
        words += ["--set", f"{key}={value}"]
    return Command(purpose=purpose, command=shlex.join(words))


def _grown(results: Results, key: str, added: Sequence[Any]) -> str:
    """The values of a setting and those ``added``; a range grows to hold them."""
    if (span := ranges(results).get(key)) is not None:
        wider = replace(span, low=min(span.low, *added), high=max(span.high, *added)).as_file()
        return f"{{{', '.join(f'{name}: {json.dumps(value)}' for name, value in wider.items())}}}"
    tried = [cell.settings.get(key) for cell in results.plan.cells]
    # A search may not have tried all that its axis holds.
    held = lists(results).get(key, tried) if searching(results) else tried
    both = list({json.dumps(value, sort_keys=True): value for value in [*held, *added]}.values())
    return f"[{', '.join(map(_written, both))}]"


def longer_search(results: Results, purpose: str) -> Command:
    """Give every search twice the budget that it has."""
    unit, budget = search_of(results).budget
    return change(results, purpose, {f"search.{unit}": f"{2 * budget:g}" if unit == "gpu_hours" else f"{2 * budget}"})


def paired(results: Results, keys: Sequence[str]) -> list[Command]:
    """A new study in which a random search tries the same configurations with each value of these settings.

    Nothing where the study does that anyhow, or has no lists of these values.
    """
    search = search_of(results)
    if not searching(results) or not set(keys) <= lists(results).keys():
        return []
    if search.method == "random" and set(keys) <= set(search.per):
        return []
    per = dict.fromkeys([*search.per, *keys])
    settings = {"name": f"{results.name}-paired", "search.method": "random", "search.per": f"[{', '.join(per)}]"}
    if search.sampler is not None:
        settings["search.sampler"] = "null"
    purpose = f"tries the same configurations with each {' and '.join(key.replace('_', ' ') for key in keys)}"
    return [change(results, purpose, settings)]


def uncut(results: Results, purpose: str) -> Command:
    """Train to the end what the trial scheduler has cut."""
    return change(results, purpose, {"search.scheduler": "none"})


def more_seeds(results: Results, purpose: str, seeds: int = SEEDS_TO_COMPARE) -> Command:
    """Grow the study to so many seeds, or to twice as many as it has where it has them already."""
    held = sorted({int(cell.settings["seed"]) for cell in results.plan.cells})
    wanted = seeds if len(held) < seeds else 2 * len(held)
    new = (seed for seed in range(10**6) if seed not in held)
    return grow(results, purpose, {"seed": [next(new) for _ in range(wanted - len(held))]})


def go_on(results: Results) -> list[Command]:
    """Train what is planned and not there, if anything is."""
    if results.census.whole:
        return []
    command = f"python -m study.run --space studies/{shlex.quote(results.name)}/space.yaml"
    return [Command(purpose="trains what is planned and not there", command=command)]


def _written(value: object) -> str:
    """A value as a space file writes it, within a list."""
    if value is None:
        return "none"
    return json.dumps(value) if isinstance(value, dict | list | str) else str(value)
