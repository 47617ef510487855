"""The question whether batch size explains a difference, by itself or through the number of updates that it leaves."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from analysis.answer import UNDETERMINED, Answer, Command, Figure, Line, Panel, Table, Value
from analysis.diagnosis import Diagnoses, count_failures, learning_rate
from analysis.evidence.batch_effects import BatchSizeEffects, arms_by_size, batch_size_effects
from analysis.evidence.comparison import (
    EQUIVALENCE,
    RunStratum,
    ended_runs,
    most_seeds,
    run_strata,
    selected_test_accuracies,
)
from analysis.evidence.conditions import describe
from analysis.evidence.next_commands import complete_plan, extend, more_seeds, paired_search, run_with
from analysis.results import Results
from analysis.statistics.intervals import fisher_exact, mean_over_seeds
from analysis.wording import count, p_value, points_estimate, upper_first

QUESTION = "Does batch size explain it: the batch itself, or the number of updates that it leaves?"
COUNTS_PRUNED_RUNS = False
MOST_ROWS = 80

METHODS = (
    (
        "Batch sizes are compared within each learning rate and scaling, all other settings equal, seed by seed: test "
        "accuracy of the largest less that of the smallest batch, failed runs included as they are. Intervals are "
        "Student's t over seeds, settings being fixed strata."
    ),
    (
        "At equal epochs a larger batch takes fewer updates, so a difference can be due to the batch or to the "
        "updates. At equal optimizer steps only the batch differs, and the examples seen with it (Shallue et al. "
        "2019)."
    ),
    (
        "With a constant rate and no warm-up, the record of a small batch's run after as many updates as a large "
        "batch's whole run is that of a shorter run, and is used too; it has validation accuracy, not test accuracy."
    ),
)


def answer(results: Results, rng: np.random.Generator) -> Answer:
    """Compare the largest with the smallest batch, at equal epochs and at equal steps. ``rng`` is not needed."""
    del rng
    sizes = sorted({cell.settings.batch_size for cell in results.plan.cells})
    rates = sorted({cell.settings.learning_rate for cell in results.plan.cells})
    if len(sizes) < 2:
        larger = {"batch_size": [4 * sizes[0], 16 * sizes[0]]}
        return Answer(
            question=QUESTION,
            verdict=UNDETERMINED,
            sentence=f"Every run uses batch size {sizes[0]:,}.",
            next_commands=[extend(results, "adds larger batches", larger)],
        )
    ended = ended_runs(results)
    groups = [group for group in run_strata(ended, ["batch_size"]) if len(group.arms) > 1]
    effects, seeds = batch_size_effects(groups), most_seeds(ended)
    single_rate = len(rates) < 2 and {cell.settings.lr_scaling for cell in results.plan.cells} == {"none"}
    verdict, sentence = _verdict(effects, seeds, single_rate)
    headline = effects.at_steps or effects.at_epochs
    diagnoses = results.diagnoses
    return Answer(
        question=QUESTION,
        verdict=verdict,
        sentence=sentence + _failures_sentence(groups, diagnoses),
        estimate=headline.difference if headline else None,
        estimated="accuracy of the largest batch less that of the smallest, "
        + ("at equal optimizer steps" if effects.at_steps else "at equal epochs"),
        seeds=seeds,
        tables=[_table(results, groups, diagnoses)],
        figures=_figures(groups),
        methods=METHODS,
        caveats=_caveats(effects, rates[0] if single_rate else None),
        next_commands=[
            *([] if groups else paired_search(results, ["batch_size"])),
            *(_next_commands(results, effects, seeds, rates) if verdict == UNDETERMINED else []),
        ],
    )


def _verdict(effects: BatchSizeEffects, seeds: int, single_rate: bool) -> tuple[str, str]:
    at_epochs, at_steps = effects.at_epochs, effects.at_steps
    if at_epochs is None and at_steps is None:
        return UNDETERMINED, "No two ended runs differ in batch size alone."
    parts = [
        f"batch {effect.largest:,} scored {points_estimate(effect.difference)} against batch {effect.smallest:,} at "
        f"equal {length}"
        for effect, length in ((at_epochs, "epochs"), (at_steps, "optimizer steps"))
        if effect is not None
    ]
    evidence = upper_first("; ".join(parts))
    no_difference = f"{evidence}: no difference beyond {100 * EQUIVALENCE:.0f} point."
    if seeds < 2:
        return UNDETERMINED, f"{evidence}, with one seed each."
    if single_rate:
        return (
            UNDETERMINED,
            f"{evidence}; but only one learning rate was tried, and the best rate depends on the batch.",
        )
    if at_steps is None:
        assert at_epochs is not None
        if at_epochs.difference.is_zero_within(EQUIVALENCE):
            return "no", no_difference
        return UNDETERMINED, f"{evidence}; no runs of equal optimizer steps separate the batch from the updates."
    if at_steps.difference.excludes_zero:
        return "yes", f"{evidence}: the batch itself makes a difference."
    if at_steps.difference.is_zero_within(EQUIVALENCE):
        if at_epochs is not None and at_epochs.difference.excludes_zero:
            return "the number of updates", f"{evidence}: a large batch only loses by having fewer updates."
        return "no", no_difference
    return UNDETERMINED, f"{evidence}: a difference at equal steps is neither shown nor excluded."


def _failures_sentence(groups: Sequence[RunStratum], diagnoses: Diagnoses) -> str:
    """Failures of the smallest and of the largest batch, after a space; empty where nothing failed."""
    small, large = (
        count_failures((run for group in groups for run in arms_by_size(group)[end].members.values()), diagnoses)
        for end in (0, -1)
    )
    if small.failed == large.failed == 0:
        return ""
    p = fisher_exact(small.events_and_trials, large.events_and_trials)
    return (
        f" Of the smallest batches {small.failed} of {count(small.runs, 'run')} failed, of the largest {large.failed} "
        f"of {large.runs} ({p_value(p)})."
    )


def _table(results: Results, groups: Sequence[RunStratum], diagnoses: Diagnoses) -> Table:
    keys = [key for key in results.condition_keys if key != "batch_size"]
    rows: list[tuple[Value, ...]] = []
    for group in groups:
        for arm in arms_by_size(group):
            runs = list(arm.members.values())
            accuracies = selected_test_accuracies(runs)
            rows.append(
                (
                    describe(group.settings, keys),
                    arm.settings.batch_size,
                    learning_rate(runs[0]).peak,
                    runs[0].trajectory.optimizer_steps,
                    runs[0].trajectory.examples,
                    len(runs),
                    count_failures(runs, diagnoses).rate,
                    mean_over_seeds(accuracies).clipped(0, 1) if accuracies else None,
                )
            )
    return Table(
        title="Batch sizes, other settings equal",
        columns=("condition", "batch size", "peak lr", "updates", "examples", "seeds", "failure rate", "test accuracy"),
        formats=("t", "n", "g", "n", "n", "n", "%", "%"),
        rows=rows,
        most_rows=MOST_ROWS,
    )


def _caveats(effects: BatchSizeEffects, single_rate: float | None) -> list[str]:
    """What limits the answer; ``single_rate`` is the learning rate where only one was tried, without scaling."""
    caveats = []
    if single_rate is not None:
        caveats.append(
            f"Only the learning rate {single_rate:g} was tried, without scaling. A rate that suits a small batch is "
            "too low for a large one (Goyal et al. 2017), so an effect of the rate can look like one of the batch."
        )
    if effects.at_steps_of_histories is not None:
        caveats.append("Equal steps were read off the histories of constant-rate runs, on validation.")
    if effects.at_epochs is not None and effects.at_steps is None:
        caveats.append("At equal epochs alone, the batch and the number of updates are confounded.")
    return caveats


def _next_commands(results: Results, effects: BatchSizeEffects, seeds: int, rates: Sequence[float]) -> list[Command]:
    commands = complete_plan(results)
    if seeds < 2:
        commands.append(more_seeds(results, "gives every batch size a spread over seeds"))
    if len(rates) < 2:
        higher = {"learning_rate": [2 * rates[0], 4 * rates[0]]}
        commands.append(extend(results, "gives large batches the rates that suit them", higher))
    if effects.at_steps is None:
        # Between the steps of the largest and of the smallest batch: enough for one, and not too long for the other.
        steps = [trajectory.optimizer_steps for trajectory in results.plan.trajectories]
        between = max(1, round(math.sqrt(min(steps) * max(steps))))
        overrides = {"name": f"{results.name}-equal-steps", "epochs": "none", "optimizer_steps": f"{between}"}
        purpose = "trains every batch size for the same number of optimizer steps, as a separate study"
        commands.append(run_with(results, purpose, overrides))
    if seeds >= 2 and not commands:
        commands.append(more_seeds(results, "narrows the interval"))
    return commands


def _figures(groups: Sequence[RunStratum]) -> list[Figure]:
    lines: dict[str, list[Line]] = {"epochs": [], "optimizer steps": []}
    for group in groups:
        by_size = [(arm, selected_test_accuracies(list(arm.members.values()))) for arm in arms_by_size(group)]
        points = [
            (arm.settings.batch_size, mean_over_seeds(accuracies).clipped(0, 1))
            for arm, accuracies in by_size
            if accuracies
        ]
        if points:
            lines["epochs" if group.settings.epochs is not None else "optimizer steps"].append(
                Line(
                    x=[size for size, _ in points],
                    y=[estimate.value for _, estimate in points],
                    low=[estimate.low for _, estimate in points],
                    high=[estimate.high for _, estimate in points],
                    group=describe(group.settings, ("model", "lr_schedule")),
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
        "Test accuracy of the checkpoint that validation selected, by batch size: means over seeds with t intervals."
    )
    return [Figure(name="batch-size", caption=caption, panels=panels)] if panels else []
