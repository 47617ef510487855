"""What did each condition score, and is that what was published?"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from analysis.answer import Table, Value
from analysis.evidence.comparison import own_keys
from analysis.evidence.conditions import SettingsKey, key_of, schedule_keys, words
from analysis.evidence.diagnosis import learned_threshold
from analysis.evidence.trials import by_group, how_chosen, pruned_table, search_warnings, searches_table, worth
from analysis.results import Results
from analysis.statistics.estimate import Estimate
from analysis.statistics.intervals import mean_over_seeds
from analysis.statistics.multibootstrap import mean_over_seeds_and_examples
from analysis.wording import number, percent
from study.plan.cell_results import CellResult
from study.plan.labels import label
from study.settings import Reference, Settings

MOST_OF_A_SEARCH = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Condition:
    """All cells of one condition, and what those that are complete score on test."""

    settings: Settings
    cells: Sequence[CellResult]
    accuracy: Estimate
    loss: Estimate
    at_chance: int
    without_score: int

    @property
    def complete(self) -> int:
        """How many of its cells came to an end of their own."""
        return sum(result.state == "complete" for result in self.cells) - self.cut

    @property
    def cut(self) -> int:
        """How many of its cells a trial scheduler cut; their scores are not those of whole runs, and left out."""
        return sum(result.stop_reason == "cut" for result in self.cells)


@dataclass(frozen=True, slots=True, kw_only=True)
class Overview:
    """The opening: how the cells were ``chosen`` and what to be warned of, and what each condition scored.

    ``main`` has models and schedules at one setting of everything else, or a search's best trials; ``everything`` has
    all conditions, ``searches`` what each search has spent, and ``pruned`` the cells that a trial scheduler stopped.
    """

    main: Table
    everything: Table | None
    chosen: Sequence[str] = ()
    warnings: Sequence[str] = ()
    searches: Table | None = None
    pruned: Table | None = None


def overview(results: Results) -> Overview:
    """Score every condition on test, failed runs included, and set published results beside them."""
    conditions = _conditions(results)
    scores = _of_search(results, conditions) if results.searching else _of_grid(results, conditions)
    return replace(
        scores,
        chosen=how_chosen(results),
        warnings=search_warnings(results),
        searches=searches_table(results),
        pruned=pruned_table(results),
    )


def _of_search(results: Results, conditions: Sequence[Condition]) -> Overview:
    """The best few trials of each search, by validation, and what was published."""
    keys = ["model", *(key for key in results.varying if key not in ("model", "seed"))]
    by_key = {key_of(one.settings, ["seed"]): one for one in conditions}
    main = [one for one in conditions if any(reference.matches(one.settings) for reference in results.space.references)]
    for trials in by_group(results).values():
        complete = [trial for trial in trials if trial.complete]
        best = sorted(complete, key=lambda trial: -worth(results, trial.cells))[:MOST_OF_A_SEARCH]
        main += [by_key[key_of(trial.settings, ["seed"])] for trial in best]
    published = any(reference.matches(one.settings) for one in main for reference in results.space.references)
    note = (
        f"The {MOST_OF_A_SEARCH} trials of each search that are best on validation, and their test scores. The best of "
        "many looks better on validation than it is; test had no part in the choice. Intervals are over seeds and test "
        "examples (Cameron, Gelbach & Miller 2011)."
    )
    title = "The best trials of each search"
    unique = list({id(one): one for one in main}.values())
    return Overview(
        main=_table(title, unique, results, keys, published=published, note=note + _sources(results, main)),
        everything=_all(results, conditions, keys),
    )


def _all(results: Results, conditions: Sequence[Condition], keys: Sequence[str]) -> Table:
    return _table("All conditions", conditions, results, keys, published=False)


def _sources(results: Results, conditions: Sequence[Condition]) -> str:
    sources = dict.fromkeys(r.source for one in conditions for r in results.space.references if r.matches(one.settings))
    if not sources:
        return ""
    return (
        " A published number is one run's: it is within ours if it lies in our interval, and it may lie outside "
        f"by the chance of its own seed, which that interval does not know. Published: {'; '.join(sources)}."
    )


def _of_grid(results: Results, conditions: Sequence[Condition]) -> Overview:
    schedule = schedule_keys(results.varying) or ("lr_schedule",)
    shown = ["model", *schedule, *(key for key in own_keys(results) if key not in schedule)]
    others = [key for key in results.varying if key not in (*shown, "seed")]
    home = _home(results)
    main = [one for one in conditions if key_of(one.settings, [*shown, "seed"]) == key_of(home, [*shown, "seed"])]
    at = words(home, others) if others else ""
    published = any(reference.matches(one.settings) for one in main for reference in results.space.references)
    note = (
        "Test scores of the checkpoints that validation chose, over all complete seeds, failed ones included. "
        "Intervals are over seeds and test examples (Cameron, Gelbach & Miller 2011), cut to what is possible; one "
        "seed has none."
    )
    if others:
        note += f" Here at {at}; all conditions are in the table that follows."
    note += _sources(results, main)
    rest = _all(results, conditions, [*shown, *others]) if others else None
    title = "Test loss and test accuracy"
    return Overview(main=_table(title, main, results, shown, published=published, note=note), everything=rest)


def _home(results: Results) -> Settings:
    """The settings at which models and schedules are shown: the first published result's, else the first cell's."""
    for reference in results.space.references:
        for cell in results.plan.cells:
            if reference.matches(cell.settings):
                return cell.settings
    return results.plan.cells[0].settings


def _conditions(results: Results) -> list[Condition]:
    """In the plan's order."""
    groups: dict[SettingsKey, list[CellResult]] = {}
    for result in results.cells:
        groups.setdefault(key_of(result.cell.settings, ["seed"]), []).append(result)
    whole = [result for result in results.cells if result.state == "complete" and result.stop_reason != "cut"]
    results.read_ahead(whole, ["test"])
    threshold = learned_threshold(results.chance)
    made: list[Condition] = []
    for group in groups.values():
        complete = [result for result in group if result.state == "complete" and result.stop_reason != "cut"]
        scored = [found for result in complete if (found := results.scored(result, "test")) is not None]
        chosen = [result.chosen for result in complete if result.chosen and result.chosen.test is not None]
        if scored and len(scored) == len(chosen):
            accuracy, loss = (
                mean_over_seeds_and_examples(np.stack(rows))
                for rows in ([one.correct.astype(float) for one in scored], [one.nll for one in scored])
            )
        else:
            tests = [epoch.test for epoch in chosen if epoch.test is not None]
            accuracy, loss = (mean_over_seeds([scores[name] for scores in tests]) for name in ("accuracy", "loss"))
        made.append(
            Condition(
                settings=group[0].cell.settings,
                cells=group,
                accuracy=accuracy.within(0, 1),
                loss=loss.within(0, math.inf),
                at_chance=sum(one.validation["accuracy"] < threshold for one in chosen),
                without_score=len(complete) - len(chosen),
            )
        )
    return made


def _table(
    title: str,
    conditions: Sequence[Condition],
    results: Results,
    keys: Sequence[str],
    *,
    published: bool,
    note: str = "",
) -> Table:
    schedule = [key for key in keys if key != "model"]
    rows: list[tuple[Value, ...]] = []
    for one in conditions:
        name = label("model", one.settings.model)
        scores: tuple[Value, ...] = (one.loss, one.accuracy) if one.complete > one.without_score else (None, None)
        failed = f"{one.at_chance + one.without_score} of {one.complete}" if one.complete else ""
        cells = f"{one.complete} of {len(one.cells)}{f', {one.cut} cut' if one.cut else ''}"
        row: tuple[Value, ...] = (name, words(one.settings, schedule), *scores, cells, failed)
        if published:
            reference = next((r for r in results.space.references if r.matches(one.settings)), None)
            row = (*row, *_beside(reference, one))
        rows.append(row)
    columns: tuple[str, ...] = ("model", "schedule" if len(schedule) < 4 else "condition", "test loss", "test accuracy")
    columns += ("cells", "at chance")
    formats: tuple[str, ...] = ("t", "t", ".3", "%", "t", "t")
    if published:
        columns += ("published loss", "published accuracy")
        formats += ("t", "t")
    return Table(title=title, columns=columns, formats=formats, rows=rows, note=note)


def _beside(reference: Reference | None, one: Condition) -> tuple[Value, ...]:
    """The published loss and accuracy, each with whether it lies within our interval."""
    if reference is None:
        return "", ""
    loss, accuracy = reference.test_loss, reference.test_accuracy
    return (
        "" if loss is None else f"{number(loss)} {_within(loss, one.loss)}",
        "" if accuracy is None else f"{percent(accuracy)} {_within(accuracy, one.accuracy)}",
    )


def _within(published: float, ours: Estimate) -> str:
    if not math.isfinite(ours.low):
        return "(no interval)"
    return "(within)" if ours.low <= published <= ours.high else "(outside)"
