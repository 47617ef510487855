"""What the design of a study can show at 80 % power, in words, before anything is trained."""

from __future__ import annotations

import re
import textwrap
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path

import numpy as np

from analysis.power import (
    ALPHA,
    POWER,
    Assumptions,
    all_against_none,
    detectable_accuracy,
    detectable_rate,
    detectable_rate_over_conditions,
    fewest_seeds,
)
from analysis.wording import count, join_words
from study.plan.plan import STOPPING_KEYS, Plan
from study.space.space import Space

WIDTH = 80
LABEL = "power      "
INDENT = " " * len(LABEL)
NO_BREAK = "\N{NO-BREAK SPACE}"
# Kinds of comparisons that have a line of their own; those with fewer conditions share the last.
MOST_LINES = 2
# A design with one seed is shown what this many would find.
SUGGESTED_SEEDS = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """The axes whose values are compared in so many conditions that differ in nothing else."""

    axes: tuple[str, ...]
    conditions: int

    def label(self, width: int) -> str:
        """The axes, or how many they are, and the conditions; the former if it is no wider than ``width``."""
        conditions = f": {self.conditions:,} conditions"
        label = ", ".join(self.axes) + conditions
        return label if len(label) <= width else count(len(self.axes), "axis", "axes") + conditions


def describe_power(space: Space, plan: Plan, pilot: Path | None = None) -> str:
    """What the design of ``space`` can show, as assumed or as the study in the folder ``pilot`` suggests.

    Raises StudyError where ``pilot`` is no study, or none of its runs has ended.
    """
    assumed, basis = Assumptions(), "assumed: no failures in one arm, seed sd 0.5 points"
    if pilot is not None:
        from analysis.pilot import read_pilot  # imports scipy.stats, which no other dry run needs

        assumed, basis = read_pilot(pilot)
    comparisons = [] if space.searching else compared(space, plan)
    if not space.searching and not comparisons:
        return f"{LABEL}nothing is compared: no two runs differ in anything but the seed"
    seeds = len(space.values_of("seed")) if space.searching else fewest_of_a_condition(plan)
    several = any(comparison.conditions > 1 for comparison in comparisons)
    examples = space.data.split_sizes(space.examples)["test"]
    one = _two_trials(space) if space.searching else "one condition"
    lines = [
        *_wrapped(seeds_sentence(seeds)),
        *_table(one, comparisons if several else [], assumed, seeds if seeds > 1 else SUGGESTED_SEEDS, examples),
        *_wrapped(
            f"{basis}, two runs disagree on {_percent(assumed.between)} % of {examples:,} test examples"
            + (f" ({_percent(assumed.within)} % if only the seed differs)" if assumed.within else "")
            + ("; a / b: runs of one seed are independent / alike" if several else "")
        ),
    ]
    return LABEL + "\n".join(lines).lstrip()


def compared(space: Space, plan: Plan) -> list[Comparison]:
    """The comparisons of a grid, those over most conditions first; what only decides when to stop is none.

    The conditions of an axis are those in which it has several values.
    """
    axes = {axis.name: axis.keys for axis in space.axes if not set(axis.keys) <= {*STOPPING_KEYS, "seed"}}
    # The values of each axis of every run as numbers, in which conditions are found quickly.
    rows = set(zip(*(_numbered(plan, keys) for keys in axes.values()), strict=True))
    by_conditions: dict[int, list[str]] = defaultdict(list)
    for place, name in enumerate(axes):
        arms = Counter(row[:place] + row[place + 1 :] for row in rows)
        by_conditions[sum(number > 1 for number in arms.values())].append(name)
    by_conditions.pop(0, None)
    return [Comparison(axes=tuple(by_conditions[n]), conditions=n) for n in sorted(by_conditions, reverse=True)]


def fewest_of_a_condition(plan: Plan) -> int:
    """The number of seeds of the condition that has fewest."""
    conditions = _numbered(plan, [key for key in plan.axes if key not in (*STOPPING_KEYS, "seed")])
    seeds = Counter(condition for condition, _ in set(zip(conditions, _numbered(plan, ["seed"]), strict=True)))
    return min(seeds.values())


def seeds_sentence(seeds: int) -> str:
    """Whether so many seeds can show that all runs of one arm fail and none of another, in one condition."""
    fewest = fewest_seeds()
    each = f"{seeds} of {seeds} against 0 of {seeds}: {_p_value(all_against_none(seeds))}"
    if seeds == 1:
        return f"one seed shows no difference: {each}; {fewest} seeds can. With {SUGGESTED_SEEDS}:"
    if seeds < fewest:
        return f"failures: {seeds} seeds cannot show {each}; {fewest} can"
    return f"failures: {seeds} seeds can show {each}; {fewest - 1} cannot"


def _table(one: str, comparisons: Sequence[Comparison], assumed: Assumptions, seeds: int, examples: int) -> list[str]:
    """The smallest differences: within one condition, and over all that each axis is compared in."""
    base, mean = assumed.failure_rate, assumed.mean_failure_rate
    alone = detectable_accuracy(assumed, seeds, 1, examples)
    merged = _merged(comparisons)
    rates, accuracies = ["failure rates", _rates(base, detectable_rate(base, seeds))], ["accuracy", _points(alone)]
    for comparison in merged:
        apart = detectable_rate_over_conditions(mean, seeds, comparison.conditions, np.random.default_rng(0))
        rates.append(_rates(mean, apart, detectable_rate(mean, seeds)))
        accuracies.append(_points(detectable_accuracy(assumed, seeds, comparison.conditions, examples), alone))
    second, third = max(map(len, rates)), max(map(len, accuracies))
    room = WIDTH - len(INDENT) - second - third - 4
    labels = [f"{100 * POWER:.0f} % power, one test at {100 * ALPHA:.0f} %", one]
    labels += [comparison.label(room) for comparison in merged]
    first = max(map(len, labels))
    rows = zip(labels, rates, accuracies, strict=True)
    return [f"{INDENT}{label:<{first}}  {rate:<{second}}  {accuracy}" for label, rate, accuracy in rows]


def _merged(comparisons: Sequence[Comparison]) -> list[Comparison]:
    """The comparisons, those beyond the last line merged into one over the fewest of their conditions."""
    if len(comparisons) <= MOST_LINES:
        return list(comparisons)
    rest = comparisons[MOST_LINES - 1 :]
    axes = tuple(axis for comparison in rest for axis in comparison.axes)
    return [*comparisons[: MOST_LINES - 1], Comparison(axes=axes, conditions=rest[-1].conditions)]


def _two_trials(space: Space) -> str:
    return f"best trials by {join_words(space.search.per)}" if space.search.per else "two trials"


def _numbered(plan: Plan, keys: Sequence[str]) -> list[int]:
    """A number for each trajectory, the same for those with the same values of ``keys``."""
    if not keys:
        return [0] * len(plan.trajectories)
    values = list(map(attrgetter(*(f"settings.{key}" for key in keys)), plan.trajectories))
    numbers = {value: number for number, value in enumerate(dict.fromkeys(values))}
    return [numbers[value] for value in values]


def _rates(base: float, *others: float | None) -> str:
    """A failure rate and those that can be distinguished from it."""
    found = [f"{_percent(rate)}" if rate is not None else "none" for rate in others]
    if all(rate is None for rate in others):
        return f"not {_percent(base)} v 100 %" if base <= 0.5 else f"not {_percent(base)} v 0 %"
    return f"{_percent(base)} v {' / '.join(dict.fromkeys(found))}" + (" %" if found[-1] != "none" else "")


def _points(*differences: float | None) -> str:
    """Differences of accuracy in points."""
    found = ["none" if d is None else f"{100 * d:.{0 if d >= 0.0995 else 1}f}" for d in differences]
    return f"{' / '.join(dict.fromkeys(found))} points" if found[-1] != "none" else " / ".join(found)


def _percent(share: float) -> str:
    return f"{100 * share:.{1 if 0 < share < 0.0995 and round(100 * share, 1) % 1 else 0}f}"


def _p_value(p: float) -> str:
    """A p-value as psychologists write it, without the zero before the point."""
    if p >= 0.9995:
        return "p = 1"
    return "p < .001" if p < 0.001 else f"p = {p:.{2 if p >= 0.0995 else 3}f}".replace("0.", ".")


def _wrapped(text: str) -> list[str]:
    """Indented lines; what belongs to a number stays beside it."""
    together = re.sub(r" (%|=|<|/) ?", lambda found: found[0].replace(" ", NO_BREAK), text)
    lines = textwrap.wrap(together, WIDTH, initial_indent=INDENT, subsequent_indent=INDENT)
    return [line.replace(NO_BREAK, " ") for line in lines]
