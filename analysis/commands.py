"""Which runs would settle what is undetermined, as a command that can be run as it stands?"""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterable, Mapping

from analysis.answer import Command
from analysis.results import Results

# Seeds that a comparison is given at least, and those with which a rare failure can be told from none.
SEEDS_TO_COMPARE = 5
SEEDS_TO_COUNT = 10


def grow(results: Results, purpose: str, values: Mapping[str, Iterable[object]]) -> Command:
    """Grow the study by values of these settings, beside those that it has; what is trained already stays."""
    words = ["python", "-m", "study.run", "--space", f"studies/{results.name}/space.yaml"]
    for key, added in values.items():
        held = [cell.settings.get(key) for cell in results.plan.cells]
        both = list({json.dumps(value, sort_keys=True): value for value in [*held, *added]}.values())
        words += ["--set", f"{key}=[{', '.join(map(_written, both))}]"]
    return Command(purpose=purpose, command=shlex.join(words))


def more_seeds(results: Results, purpose: str, seeds: int = SEEDS_TO_COMPARE) -> Command:
    """Grow the study to so many seeds, or to twice as many as it has where it has them already."""
    held = sorted({int(cell.settings["seed"]) for cell in results.plan.cells})
    wanted = seeds if len(held) < seeds else 2 * len(held)
    new = (seed for seed in range(10**6) if seed not in held)
    return grow(results, purpose, {"seed": [next(new) for _ in range(wanted - len(held))]})


def go_on(results: Results, purpose: str) -> Command:
    """Train what is planned and not there."""
    return Command(
        purpose=purpose, command=f"python -m study.run --space studies/{shlex.quote(results.name)}/space.yaml"
    )


def _written(value: object) -> str:
    """A value as a space file writes it, within a list."""
    if value is None:
        return "none"
    return json.dumps(value) if isinstance(value, dict | list | str) else str(value)
