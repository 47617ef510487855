"""The question of whether batch size affects accuracy, by itself or through the number of updates that it leaves."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean

import numpy as np

from analysis.answer import NOT_ASKED, UNDETERMINED, Answer, Claim, Command, Figure, Line, Panel, Table, Value
from analysis.evidence.batch_effects import BatchSizeEffect, BatchStratum, batch_size_effect, batch_strata, selected_at
from analysis.evidence.comparison import EQUIVALENCE, ended_runs, most_seeds, selected_test_accuracies
from analysis.evidence.conditions import describe
from analysis.evidence.cross_fitting import METHOD as CROSS_FITTING
from analysis.evidence.effects import METHODS as EFFECT_METHODS
from analysis.evidence.effects import correct_or_chance
from analysis.evidence.next_commands import complete_plan, extend, more_seeds, paired_search, run_with
from analysis.results import Results
from analysis.statistics.clustered_means import mean_over_seeds
from analysis.trajectory_results import TrajectoryResult
from analysis.wording import p_value, points_estimate, upper_first
from study.settings import Settings

QUESTION = "Does batch size affect accuracy: by itself, or through the number of updates?"
COUNTS_PRUNED_RUNS = False
DEPENDS = "depends on the condition"
MOST_ROWS = 80

METHODS = (
    (
        "The largest and the smallest batch size are compared at equal settings otherwise, each at the learning rate "
        "(and scaling) that validation selects for it, on test, failed runs included with what they scored: the best "
        "rate depends on the batch size (Shallue et al. 2019)."
    ),
    CROSS_FITTING,
    *EFFECT_METHODS,
    (
        "At equal epochs a larger batch takes fewer updates, so a difference can be due to the batch or to the "
        "updates. At equal optimizer steps only the batch differs, and the examples seen with it."
    ),
)


def answer(results: Results, rng: np.random.Generator) -> Answer:
    """Compare the largest with the smallest batch, at equal epochs and at equal steps. ``rng`` is not needed."""
    del rng
    sizes = sorted({cell.settings.batch_size for cell in results.plan.cells})
    if len(sizes) < 2:
        return Answer(
            question=QUESTION,
            verdict=NOT_ASKED,
            sentence=f"Every run uses batch size {sizes[0]:,}.",
            next_commands=[extend(results, "adds larger batches", {"batch_size": [4 * sizes[0], 16 * sizes[0]]})],
        )
    ended = ended_runs(results)
    results.predictions.preload([run.owner for run in ended], ["test"])
    strata = batch_strata(results, ended)
    at_epochs = batch_size_effect(results, strata, "epochs")
    at_steps = batch_size_effect(results, strata, "optimizer steps")
    single_rate = all(stratum.most_rates < 2 for stratum in strata)
    seeds = most_seeds(ended)
    headline = at_steps or at_epochs
    return Answer(
        question=QUESTION,
        verdict=UNDETERMINED,
        sentence=_undetermined(at_epochs, at_steps, single_rate=single_rate),
        claim=None if single_rate else _claim(at_epochs, at_steps),
        estimate=headline.effect.mean.estimate() if headline else None,
        estimated="accuracy of the largest batch minus that of the smallest, "
        + ("at equal optimizer steps" if at_steps else "at equal epochs"),
        seeds=seeds,
        tables=[*_effect_tables(at_epochs, at_steps), _table(results, ended)],
        figures=_figures(results, strata),
        methods=METHODS,
        caveats=_caveats(at_epochs, at_steps, strata, single_rate=single_rate),
        next_commands=[
            *([] if strata else paired_search(results, ["batch_size"])),
            *_next_commands(results, at_steps, seeds),
        ],
    )


def _evidence(at_epochs: BatchSizeEffect | None, at_steps: BatchSizeEffect | None) -> str:
    parts = [
        f"at equal {length}, the accuracy of batch {found.largest:,} minus that of batch {found.smallest:,} is "
        f"{points_estimate(found.effect.mean.estimate())} ({found.effect.support})"
        for found, length in ((at_epochs, "epochs"), (at_steps, "optimizer steps"))
        if found is not None
    ]
    return upper_first("; ".join(parts))


def _undetermined(at_epochs: BatchSizeEffect | None, at_steps: BatchSizeEffect | None, *, single_rate: bool) -> str:
    """The sentence where nothing is shown."""
    found = at_steps or at_epochs
    if found is None:
        return "No two batch sizes have ended runs that are equal otherwise and can be compared."
    evidence = _evidence(at_epochs, at_steps)
    if not found.effect.replicated:
        return f"{evidence}; one seed per condition does not separate that from the seeds."
    if single_rate:
        return f"{evidence}; but each size has one learning rate only, and the best rate depends on the batch size."
    if at_steps is None:
        return f"{evidence}; no runs of equal optimizer steps separate the batch from the updates."
    return f"{evidence}: a difference at equal steps is neither shown nor excluded."


def _claim(at_epochs: BatchSizeEffect | None, at_steps: BatchSizeEffect | None) -> Claim | None:
    """What the effects show, each at its tuned rate; None where nothing can be tested."""
    found = at_steps or at_epochs
    if found is None or not found.effect.replicated:
        return None
    effect, evidence = found.effect, _evidence(at_epochs, at_steps)
    if effect.opposite:
        sentence = f"Conditions differ in the effect of batch size: {effect.conditions_in_words()}."
        return Claim(family="scores", p_value=effect.p_heterogeneity, verdict=DEPENDS, sentence=sentence)
    p_none = effect.p_equivalence(EQUIVALENCE)
    if at_steps is not None and effect.p_difference <= p_none:
        word = "better" if effect.mean.value > 0 else "worse"
        sentence = f"{evidence}: the batch itself makes a difference ({p_value(effect.p_difference)})."
        return Claim(
            family="scores", p_value=effect.p_difference, verdict=f"{word} with larger batches", sentence=sentence
        )
    if at_steps is not None and at_epochs is not None and at_epochs.effect.p_difference < 0.05:
        p = max(p_none, at_epochs.effect.p_difference)
        sentence = f"{evidence}: a large batch differs by having fewer updates, not by itself."
        return Claim(family="scores", p_value=p, verdict="by the number of updates", sentence=sentence)
    sentence = f"{evidence}: no difference beyond {100 * EQUIVALENCE:.0f} point ({p_value(p_none)})."
    return Claim(family="scores", p_value=p_none, verdict="no", sentence=sentence)


def _effect_tables(at_epochs: BatchSizeEffect | None, at_steps: BatchSizeEffect | None) -> list[Table]:
    return [
        found.effect.table(
            f"Batch {found.largest:,} minus batch {found.smallest:,} at equal {length}, each at its own rate",
            "test accuracy",
        )
        for found, length in ((at_epochs, "epochs"), (at_steps, "optimizer steps"))
        if found is not None
    ]


def _table(results: Results, ended: Sequence[TrajectoryResult]) -> Table:
    """Every condition as it was run, for comparisons within a rate."""
    by_condition: dict[str, list[TrajectoryResult]] = {}
    settings: dict[str, Settings] = {}
    keys = [key for key in results.condition_keys if key != "batch_size"]
    for run in sorted(ended, key=lambda run: run.settings.batch_size):
        name = describe(run.settings, [*keys, "batch_size"])
        by_condition.setdefault(name, []).append(run)
        settings[name] = run.settings
    rows: list[tuple[Value, ...]] = []
    for name, runs in by_condition.items():
        scores = [array for run in runs if (array := correct_or_chance(results, run.owner)) is not None]
        accuracies = selected_test_accuracies(runs)
        accuracy = fmean(accuracies) if accuracies else None
        rows.append(
            (
                describe(settings[name], keys),
                settings[name].batch_size,
                runs[0].trajectory.optimizer_steps,
                runs[0].trajectory.examples,
                len(runs),
                f"{sum(results.diagnoses[run.trajectory.id].failed for run in runs)} of {len(runs)}",
                mean_over_seeds(np.stack(scores)).estimate().clipped(0, 1) if len(scores) == len(runs) else accuracy,
            )
        )
    return Table(
        title="Every batch size and rate",
        columns=("condition", "batch size", "updates", "examples", "seeds", "failed", "test accuracy"),
        formats=("t", "n", "n", "n", "n", "t", "%"),
        rows=rows,
        most_rows=MOST_ROWS,
    )


def _caveats(
    at_epochs: BatchSizeEffect | None,
    at_steps: BatchSizeEffect | None,
    strata: Sequence[BatchStratum],
    *,
    single_rate: bool,
) -> list[str]:
    caveats = []
    if strata and single_rate:
        caveats.append(
            "Each batch size was tried at one learning rate, without scaling. A rate that suits a small batch is too "
            "low for a large one (Goyal et al. 2017), so an effect of the rate can look like one of the batch."
        )
    if at_epochs is not None and at_steps is None:
        caveats.append("At equal epochs alone, the batch and the number of updates are confounded.")
    return caveats


def _next_commands(results: Results, at_steps: BatchSizeEffect | None, seeds: int) -> list[Command]:
    commands = complete_plan(results)
    rates = sorted({cell.settings.learning_rate for cell in results.plan.cells})
    if len(rates) < 2 and {cell.settings.lr_scaling for cell in results.plan.cells} == {"none"}:
        higher = {"learning_rate": [2 * rates[0], 4 * rates[0]]}
        commands.append(extend(results, "gives large batches the rates that suit them", higher))
    if at_steps is None:
        # Between the steps of the largest and of the smallest batch: enough for one, and not too long for the other.
        steps = [trajectory.optimizer_steps for trajectory in results.plan.trajectories]
        between = max(1, round(math.sqrt(min(steps) * max(steps))))
        overrides = {"name": f"{results.name}-equal-steps", "epochs": "none", "optimizer_steps": f"{between}"}
        purpose = "trains every batch size for the same number of optimizer steps, as a separate study"
        commands.append(run_with(results, purpose, overrides))
    if seeds < 2 or not commands:
        commands.append(more_seeds(results, "gives every batch size a spread over seeds"))
    return commands


def _figures(results: Results, strata: Sequence[BatchStratum]) -> list[Figure]:
    lines: dict[str, list[Line]] = {"epochs": [], "optimizer steps": []}
    keys = [key for key in results.condition_keys if key not in ("batch_size", "learning_rate", "lr_scaling")]
    for stratum in strata:
        points = []
        for size, candidates in stratum.candidates.items():
            cells = selected_at(results, candidates).values()
            scores = [array for cell in cells if (array := correct_or_chance(results, cell)) is not None]
            if scores:
                points.append((size, mean_over_seeds(np.stack(scores)).estimate().clipped(0, 1)))
        if points:
            lines[stratum.length].append(
                Line(
                    x=[size for size, _ in points],
                    y=[estimate.value for _, estimate in points],
                    low=[estimate.low for _, estimate in points],
                    high=[estimate.high for _, estimate in points],
                    group=describe(stratum.settings, keys),
                    dots=True,
                )
            )
    panels = [
        Panel(
            title=f"at equal {length}",
            x_label="batch size",
            y_label="test accuracy",
            lines=lines_at_length,
            log_x=True,
            percent_y=True,
        )
        for length, lines_at_length in lines.items()
        if lines_at_length
    ]
    caption = (
        "Test accuracy by batch size, each at the learning rate that validation selects for it on the other seeds: "
        "means over seeds, with intervals over seeds and examples."
    )
    return [Figure(name="batch-size", caption=caption, panels=panels)] if panels else []
