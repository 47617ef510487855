"""The opening of a report: the study's state, what each condition scored on test, and published results beside it."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from analysis.answer import Table, Value, sentences
from analysis.diagnosis import learned_threshold
from analysis.evidence.comparison import model_specific_keys
from analysis.evidence.conditions import SettingsKey, describe, schedule_keys, settings_key
from analysis.evidence.trials import (
    describe_selection,
    objective_gain,
    pruned_table,
    search_warnings,
    searches_table,
    trials_by_group,
)
from analysis.results import Census, Results
from analysis.statistics.estimate import Estimate
from analysis.statistics.intervals import mean_over_seeds
from analysis.statistics.multibootstrap import mean_over_seeds_and_examples
from analysis.wording import count, number, percent
from study.plan.cell_results import CellResult
from study.plan.labels import label
from study.settings import Reference, Settings

# The trials of each search that the opening shows.
BEST_TRIALS = 3
INTERVALS = "Intervals are over seeds and test examples (Cameron, Gelbach & Miller 2011)"


@dataclass(frozen=True, slots=True, kw_only=True)
class Overview:
    """What opens a report.

    ``origin`` says when the study started, its size and its data; ``selection`` how its cells were chosen, and
    ``warnings`` what a reader has to know before any number. ``main`` has models and schedules at one setting of
    everything else, or a search's best trials; ``all_conditions`` has every condition, ``searches`` what each search
    has spent, and ``pruned`` the cells that a trial scheduler stopped.
    """

    origin: str
    selection: Sequence[str]
    warnings: Sequence[str]
    main: Table
    all_conditions: Table | None
    searches: Table | None
    pruned: Table | None


def overview(results: Results) -> Overview:
    """Score every condition on test, failed runs included, and show published results beside them."""
    conditions = _conditions(results)
    tables = _search_tables(results, conditions) if results.searching else _grid_tables(results, conditions)
    return Overview(
        origin=_origin(results),
        selection=describe_selection(results),
        warnings=[*_census_warnings(results.census), *search_warnings(results)],
        main=tables[0],
        all_conditions=tables[1],
        searches=searches_table(results),
        pruned=pruned_table(results),
    )


def _origin(results: Results) -> str:
    manifest, data = results.manifest, results.manifest.data
    parts = [
        "started " + time.strftime("%Y-%m-%d", time.gmtime(manifest.created)),
        count(len(results.plan.cells), "cell"),
        count(len(results.runs), "trajectory", "trajectories"),
    ]
    if data:
        parts.append(f"data {_data_name(results)}, {data.get('examples')} examples, {data.get('max_length')} tokens")
    return " · ".join(parts)


def _data_name(results: Results) -> str:
    """The data's name; of a file, its name and the first digits of its content's hash."""
    content = str(results.manifest.data.get("source"))
    if not content.startswith("sha256:"):
        return content[:60]
    name = Path(results.space.data_source).name
    return f"{name} ({content[: len('sha256:') + 12]})".strip()


def _census_warnings(census: Census) -> list[str]:
    """What is incomplete, the worst first; empty where every planned cell is complete."""
    warnings = []
    if not census.whole:
        warnings.append(
            f"This report covers part of a study: {census.complete:,} of {count(census.planned, 'planned cell')} are "
            f"complete, {census.failed:,} failed, {census.running:,} started and have not ended, {census.missing:,} "
            "are missing."
        )
    if census.non_finite:
        warnings.append(f"{count(census.non_finite, 'complete cell')} ended with a non-finite loss.")
    return warnings


@dataclass(frozen=True, slots=True, kw_only=True)
class ConditionScores:
    """All cells of one condition, and the mean test scores of those that are complete and not pruned.

    ``at_chance`` of these are no better than chance on validation, and ``without_score`` have no score on test.
    """

    settings: Settings
    cells: Sequence[CellResult]
    accuracy: Estimate
    loss: Estimate
    at_chance: int
    without_score: int

    @property
    def complete(self) -> int:
        """How many of its cells reached their own end."""
        return sum(map(_reached_end, self.cells))

    @property
    def pruned(self) -> int:
        """How many of its cells a trial scheduler stopped; their scores are not those of whole runs, and left out."""
        return sum(result.stop_reason == "cut" for result in self.cells)


def _reached_end(result: CellResult) -> bool:
    return result.state == "complete" and result.stop_reason != "cut"


def _conditions(results: Results) -> list[ConditionScores]:
    """The scores of every condition, in the plan's order."""
    groups: dict[SettingsKey, list[CellResult]] = {}
    for result in results.cells:
        groups.setdefault(settings_key(result.cell.settings, ["seed"]), []).append(result)
    results.predictions.preload([result for result in results.cells if _reached_end(result)], ["test"])
    return [_condition_scores(results, group) for group in groups.values()]


def _condition_scores(results: Results, group: Sequence[CellResult]) -> ConditionScores:
    complete = [result for result in group if _reached_end(result)]
    examples = [scores for result in complete if (scores := results.predictions.scores(result, "test")) is not None]
    selected = [result.chosen for result in complete if result.chosen and result.chosen.test is not None]
    if examples and len(examples) == len(selected):
        accuracy = mean_over_seeds_and_examples(np.stack([scores.correct.astype(float) for scores in examples]))
        loss = mean_over_seeds_and_examples(np.stack([scores.nll for scores in examples]))
    else:
        tests = [epoch.test for epoch in selected if epoch.test is not None]
        accuracy, loss = (mean_over_seeds([scores[name] for scores in tests]) for name in ("accuracy", "loss"))
    threshold = learned_threshold(results.chance)
    return ConditionScores(
        settings=group[0].cell.settings,
        cells=group,
        accuracy=accuracy.clipped(0, 1),
        loss=loss.clipped(0, math.inf),
        at_chance=sum(epoch.validation["accuracy"] < threshold for epoch in selected),
        without_score=len(complete) - len(selected),
    )


def _search_tables(results: Results, conditions: Sequence[ConditionScores]) -> tuple[Table, Table]:
    """The best trials of each search, by validation, with what was published, and all conditions."""
    keys = ["model", *(key for key in results.varying if key not in ("model", "seed"))]
    by_key = {settings_key(condition.settings, ["seed"]): condition for condition in conditions}
    main = [condition for condition in conditions if _reference(results, condition.settings)]
    for trials in trials_by_group(results).values():
        complete = [trial for trial in trials if trial.complete]
        best = sorted(complete, key=lambda trial: -objective_gain(results, trial.cells))[:BEST_TRIALS]
        main += [by_key[settings_key(trial.settings, ["seed"])] for trial in best]
    note = (
        f"The {BEST_TRIALS} trials of each search that are best on validation, and their test scores. The best of many "
        "trials looks better on validation than it is; test had no part in the selection. "
        f"{INTERVALS}."
    )
    unique = list({id(condition): condition for condition in main}.values())
    best_table = _table("The best trials of each search", unique, results, keys)
    all_conditions = _table("All conditions", conditions, results, keys, published=False)
    return replace(best_table, note=sentences(note, _sources(results, main))), all_conditions


def _grid_tables(results: Results, conditions: Sequence[ConditionScores]) -> tuple[Table, Table | None]:
    """Models and schedules at one setting of everything else, and all conditions where there are more."""
    schedule = schedule_keys(results.varying) or ("lr_schedule",)
    keys = ["model", *schedule, *(key for key in model_specific_keys(results) if key not in schedule)]
    others = [key for key in results.varying if key not in (*keys, "seed")]
    shown_at = _main_settings(results)
    main_key = settings_key(shown_at, [*keys, "seed"])
    main = [condition for condition in conditions if settings_key(condition.settings, [*keys, "seed"]) == main_key]
    note = (
        "Test scores of the checkpoints that validation selected, over all complete seeds, failed runs included. "
        f"{INTERVALS}, clipped to what is possible; a single seed has none."
    )
    if others:
        note += f" Shown at {describe(shown_at, others)}; the next table has all conditions."
    main_table = _table("Test loss and test accuracy", main, results, keys)
    all_keys = [*keys, *others]
    all_conditions = _table("All conditions", conditions, results, all_keys, published=False) if others else None
    return replace(main_table, note=sentences(note, _sources(results, main))), all_conditions


def _main_settings(results: Results) -> Settings:
    """The settings at which models and schedules are shown: the first published result's, else the first cell's."""
    for reference in results.space.references:
        for cell in results.plan.cells:
            if reference.matches(cell.settings):
                return cell.settings
    return results.plan.cells[0].settings


def _reference(results: Results, settings: Settings) -> Reference | None:
    """The first published result with these settings."""
    return next((reference for reference in results.space.references if reference.matches(settings)), None)


def _sources(results: Results, conditions: Sequence[ConditionScores]) -> str:
    sources = dict.fromkeys(
        reference.source
        for condition in conditions
        for reference in results.space.references
        if reference.matches(condition.settings)
    )
    if not sources:
        return ""
    return (
        "A published number is that of a single run: it agrees with ours if it lies within our interval, and may lie "
        "outside because of its own seed, which that interval does not include. "
        f"Published: {'; '.join(sources)}."
    )


def _table(
    title: str,
    conditions: Sequence[ConditionScores],
    results: Results,
    keys: Sequence[str],
    *,
    published: bool = True,
) -> Table:
    """A row per condition; with ``published``, columns for published results where any condition has one."""
    keys = [key for key in keys if key != "model"]
    references = [_reference(results, condition.settings) if published else None for condition in conditions]
    published = any(references)
    rows: list[tuple[Value, ...]] = []
    for condition, reference in zip(conditions, references, strict=True):
        model, complete = label("model", condition.settings.model), condition.complete
        scores: tuple[Value, ...] = (condition.loss, condition.accuracy)
        if complete <= condition.without_score:
            scores = (None, None)
        failed = f"{condition.at_chance + condition.without_score} of {complete}" if complete else ""
        pruned = f", {condition.pruned} pruned" if condition.pruned else ""
        cells = f"{complete} of {len(condition.cells)}{pruned}"
        row = (model, describe(condition.settings, keys), *scores, cells, failed)
        rows.append((*row, *_published(reference, condition)) if published else row)
    columns = ["model", "schedule" if len(keys) < 4 else "condition", "test loss", "test accuracy"]
    columns += ["cells", "at chance"]
    formats = ["t", "t", ".3", "%", "t", "t"]
    if published:
        columns += ["published loss", "published accuracy"]
        formats += ["t", "t"]
    return Table(title=title, columns=columns, formats=formats, rows=rows)


def _published(reference: Reference | None, condition: ConditionScores) -> tuple[Value, ...]:
    """The published loss and accuracy, each with whether it lies within our interval."""
    if reference is None:
        return "", ""
    loss, accuracy = reference.test_loss, reference.test_accuracy
    return (
        "" if loss is None else f"{number(loss)} {_agreement(loss, condition.loss)}",
        "" if accuracy is None else f"{percent(accuracy)} {_agreement(accuracy, condition.accuracy)}",
    )


def _agreement(published: float, ours: Estimate) -> str:
    if not ours.has_interval:
        return "(no interval)"
    return "(within)" if ours.low <= published <= ours.high else "(outside)"
