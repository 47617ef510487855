"""The opening of a report: what happened, what each condition scored, and the study's state."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from analysis.answer import Table, Value, sentences
from analysis.evidence.condition_scores import ConditionScores, ranked_conditions
from analysis.evidence.effects import examples_of
from analysis.evidence.names import Naming, cell_naming
from analysis.evidence.trials import describe_selection, pruned_table, search_warnings, searches_table, trials_by_group
from analysis.results import Census, Results
from analysis.statistics.estimate import Estimate
from analysis.what_happened.best_setting import best_setting
from analysis.what_happened.cost import training_cost
from analysis.what_happened.distances import distances
from analysis.what_happened.early_stops import early_stops
from analysis.what_happened.failed_runs import failed_runs
from analysis.wording import count, number, percent
from study.plan.labels import label
from study.settings import Reference, Settings

# Conditions that the first table shows; of more, these are the best, and another table has all.
MOST_SHOWN = 20
# The trials of each search that are shown, however many are better in other searches.
BEST_TRIALS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Statement:
    """One line of what happened: a heading of a few words, and sentences."""

    heading: str
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Overview:
    """What opens a report.

    ``origin`` says when the study started, its size and its data, ``warnings`` what a reader has to know before any
    number, and ``what_happened`` the facts in a few lines. ``main`` has the conditions, the best on validation first,
    and ``all_conditions`` those that ``main`` has no room for, too. ``selection`` says how the study's cells were
    chosen; ``searches`` has what each search has spent, and ``pruned`` the cells that a trial scheduler stopped.
    """

    origin: str
    warnings: Sequence[str]
    what_happened: Sequence[Statement]
    main: Table
    all_conditions: Table | None
    selection: Sequence[str]
    searches: Table | None
    pruned: Table | None


def overview(results: Results) -> Overview:
    """Say what happened, and rank every condition, failed runs included, with published results beside them."""
    ranked = ranked_conditions(results)
    main, all_conditions = _tables(results, ranked)
    return Overview(
        origin=_origin(results),
        warnings=[*_census_warnings(results.census), *search_warnings(results)],
        what_happened=_what_happened(results, ranked),
        main=main,
        all_conditions=all_conditions,
        selection=describe_selection(results),
        searches=searches_table(results),
        pruned=pruned_table(results),
    )


def _what_happened(results: Results, ranked: Sequence[ConditionScores]) -> list[Statement]:
    if not any(run.epochs for run in results.runs):
        return [Statement(heading="Runs", text="No run has an evaluation yet.")]
    parts = {
        "Failed runs": failed_runs(results),
        "Best setting by validation": best_setting(results, ranked),
        "Distance to other settings": distances(results, ranked),
        "Stopping early": early_stops(results),
        "Cost": training_cost(results),
    }
    return [Statement(heading=heading, text=text) for heading, text in parts.items() if text]


def _origin(results: Results) -> str:
    manifest, data = results.manifest, results.manifest.data
    parts = [
        "started " + time.strftime("%Y-%m-%d", time.gmtime(manifest.created)),
        count(len(results.plan.cells), "cell"),
        count(len(results.runs), "trajectory", "trajectories"),
    ]
    if data:
        parts.append(f"data {_data_name(results)}, {data.get('examples'):,} examples{_split_sizes(results)}")
        parts.append(f"{data.get('max_length')} tokens")
    return " · ".join(parts)


def _split_sizes(results: Results) -> str:
    """How many examples validation and test have, where there are predictions."""
    sizes = {split: examples_of(results, split) for split in ("validation", "test")}
    parts = [f"{size:,} for {split}" for split, size in sizes.items() if size]
    return f" ({', '.join(parts)})" if parts else ""


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


def _tables(results: Results, ranked: Sequence[ConditionScores]) -> tuple[Table, Table | None]:
    """The best conditions, those with a published result, and each search's best; and all, where these are more."""
    shown = list(ranked)
    if len(ranked) > MOST_SHOWN:
        kept = {id(condition) for condition in [*ranked[:MOST_SHOWN], *_best_of_searches(results, ranked)]}
        shown = [c for c in ranked if id(c) in kept or _reference(results, c.settings) is not None]
    note = (
        "Best first by mean validation accuracy over seeds, which selects and so looks better than it is. Test scores "
        "are those of the checkpoints that validation selected, over all complete seeds, failed runs included; their "
        "95 % intervals are for new seeds and new test examples, and a single seed has none. Failed: runs that "
        "ended collapsed, never learned, or ended with a non-finite loss. At chance: of the selected checkpoints."
    )
    if results.searching:
        note = note.replace("validation accuracy", f"validation {results.search.objective}", 1)
    title = "Settings, the best first"
    if len(shown) < len(ranked):
        title = f"The best of {len(ranked):,} settings"
    main = _table(title, shown, results, note=sentences(note, _sources(results, shown)))
    if len(shown) == len(ranked):
        return main, None
    return main, _table(f"All {len(ranked):,} settings", ranked, results, published=False)


def _best_of_searches(results: Results, ranked: Sequence[ConditionScores]) -> list[ConditionScores]:
    """The best complete trials of each search."""
    best = []
    for trials in trials_by_group(results).values():
        cells = {trial.cells[0].cell.id for trial in trials if trial.complete}
        of_search = [c for c in ranked if any(result.cell.id in cells for result in c.cells)]
        best += of_search[:BEST_TRIALS]
    return best


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
    title: str, conditions: Sequence[ConditionScores], results: Results, *, note: str = "", published: bool = True
) -> Table:
    """A row per condition; with ``published``, columns for published results where any condition has one."""
    naming = cell_naming(results)
    references = [_reference(results, condition.settings) if published else None for condition in conditions]
    settings = [key for key in naming.keys if key not in ("model", "seed")]
    columns = ["model", *(["setting"] if settings else [])]
    columns += ["validation accuracy", "test accuracy", "test loss", "seeds", "failed", "at chance"]
    formats = ["t", *("t" for _ in settings[:1]), "%", "%", ".3", "t", "t", "t"]
    rows = []
    for condition, reference in zip(conditions, references, strict=True):
        row = _row(condition, naming, named=bool(settings))
        rows.append((*row, *_published(reference, condition)) if any(references) else row)
    if any(references):
        columns += ["published accuracy", "published loss"]
        formats += ["t", "t"]
    return Table(title=title, columns=columns, formats=formats, rows=rows, note=note)


def _row(condition: ConditionScores, naming: Naming, *, named: bool) -> tuple[Value, ...]:
    complete = condition.complete
    name = [naming.name(condition.settings, without=["model", "seed"])] if named else []
    scores: tuple[Value, ...] = (condition.validation, condition.accuracy, condition.loss)
    if not condition.scored:
        scores = (None, None, None)
    pruned = f", {condition.pruned} pruned" if condition.pruned else ""
    failed = (condition.collapsed, condition.at_chance + condition.without_score)
    counts = [f"{runs} of {complete}" if complete else "" for runs in failed]
    seeds = f"{complete} of {len(condition.cells)}{pruned}"
    return (label("model", condition.settings.model), *name, *scores, seeds, *counts)


def _published(reference: Reference | None, condition: ConditionScores) -> tuple[Value, ...]:
    """The published accuracy and loss, each with whether it lies within our interval."""
    if reference is None:
        return "", ""
    loss, accuracy = reference.test_loss, reference.test_accuracy
    return (
        "" if accuracy is None else f"{percent(accuracy)} {_agreement(accuracy, condition.accuracy)}",
        "" if loss is None else f"{number(loss)} {_agreement(loss, condition.loss)}",
    )


def _agreement(published: float, ours: Estimate) -> str:
    if not ours.has_interval:
        return "(no interval)"
    return "(within)" if ours.low <= published <= ours.high else "(outside)"
