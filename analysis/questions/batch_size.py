"""Does batch size explain the drop, by itself or through the number of updates that it leaves?"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from analysis.answer import UNDETERMINED, Answer, Command, Figure, Line, Panel, Table, Value
from analysis.evidence.comparison import EQUIVALENCE, ended_runs, most_seeds, run_strata
from analysis.evidence.conditions import Stratum, words
from analysis.evidence.diagnosis import Diagnoses, learning_rate
from analysis.evidence.next_commands import complete_plan, grow, more_seeds, paired
from analysis.results import Results
from analysis.statistics.estimate import Estimate
from analysis.statistics.intervals import clopper_pearson, fisher_exact, mean_over_seeds, mean_over_strata
from analysis.trajectory_results import TrajectoryResult
from analysis.wording import count, difference, p_value

QUESTION = "Does batch size explain it: the batch itself, or the number of updates that it leaves?"
COUNTS_PRUNED_RUNS = False
# Runs of other batch sizes that took within this much as many updates are compared at equal updates.
SAME_STEPS = 0.05

METHODS = (
    (
        "Batch sizes are compared within each learning rate and scaling, all other settings equal, seed by seed: test "
        "accuracy of the largest less that of the smallest batch, failed runs included as they are. Intervals are "
        "Student's t over seeds, settings being fixed strata."
    ),
    (
        "At equal epochs a larger batch takes fewer updates, so that a difference there may be the batch's or the "
        "updates'. At equal optimizer steps only the batch differs, and the examples seen with it (Shallue et al. "
        "2019)."
    ),
    (
        "With a constant rate and no warm-up, the record of a small batch's run after as many updates as a large "
        "one's whole run is that of a shorter run, and is used too; it has validation accuracy, not test."
    ),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """The largest batch against the smallest, at equal epochs or at equal updates."""

    difference: Estimate
    smallest: int
    largest: int


def answer(results: Results, rng: np.random.Generator) -> Answer:
    """Compare the largest with the smallest batch, at equal epochs and at equal steps. ``rng`` is not needed."""
    del rng
    sizes = sorted({int(cell.settings.batch_size) for cell in results.plan.cells})
    rates = sorted({float(cell.settings.learning_rate) for cell in results.plan.cells})
    scalings = {str(cell.settings.lr_scaling) for cell in results.plan.cells}
    if len(sizes) < 2:
        wanted = grow(results, "adds larger batches", {"batch_size": [4 * sizes[0], 16 * sizes[0]]})
        sentence = f"Every run uses batch size {sizes[0]:,}."
        return Answer(question=QUESTION, verdict=UNDETERMINED, sentence=sentence, next_commands=[wanted])
    ended = ended_runs(results)
    groups = [group for group in run_strata(ended, ["batch_size"]) if len(group.arms) > 1]
    by_epochs = _reading([group for group in groups if group.settings.epochs is not None])
    by_steps = _reading([group for group in groups if group.settings.optimizer_steps is not None])
    by_history = _reading_of_histories(groups) if by_steps is None else None
    seeds = most_seeds(ended)
    one_rate = len(rates) < 2 and scalings == {"none"}
    verdict, sentence = _verdict(by_epochs, by_steps or by_history, seeds, one_rate)
    diagnoses = results.diagnoses
    failures = _failures(groups, diagnoses)
    headline = by_steps or by_history or by_epochs
    return Answer(
        question=QUESTION,
        verdict=verdict,
        sentence=sentence + (f" {failures}" if failures else ""),
        estimate=headline.difference if headline else None,
        estimated="accuracy of the largest batch less that of the smallest, "
        + ("at equal optimizer steps" if by_steps or by_history else "at equal epochs"),
        seeds=seeds,
        tables=[_table(results, groups, diagnoses)],
        figures=_figures(groups),
        methods=METHODS,
        caveats=_caveats(by_epochs, by_steps, by_history, one_rate, rates),
        next_commands=[
            *([] if groups else paired(results, ["batch_size"])),
            *_next(results, verdict, by_steps or by_history, seeds, rates),
        ],
    )


def _accuracy(run: TrajectoryResult) -> float | None:
    return run.owner.chosen.test_score("accuracy") if run.owner.chosen else None


def _ends(group: Stratum[TrajectoryResult]) -> tuple[str, str]:
    """The arms of the smallest and of the largest batch."""
    by_size = sorted(group.arms, key=lambda name: int(group.arms[name].settings.batch_size))
    return by_size[0], by_size[-1]


def _reading(groups: Sequence[Stratum[TrajectoryResult]]) -> Reading | None:
    """The difference over all strata, None where no seed has both ends."""
    found: list[tuple[Stratum[TrajectoryResult], list[float]]] = []
    for group in groups:
        small, large = _ends(group)
        differences = []
        for seed in group.shared_seeds(small, large):
            scores = [_accuracy(group.arms[arm].members[seed]) for arm in (small, large)]
            if scores[0] is not None and scores[1] is not None:
                differences.append(scores[1] - scores[0])
        found.append((group, differences))
    return _over_strata(found)


def _reading_of_histories(groups: Sequence[Stratum[TrajectoryResult]]) -> Reading | None:
    """The same at equal updates, from the histories of constant-rate runs; on validation, after the last epoch."""
    found: list[tuple[Stratum[TrajectoryResult], list[float]]] = []
    for group in groups:
        if group.settings.lr_schedule != "constant" or group.settings.warmup_fraction:
            continue
        small, large = _ends(group)
        differences = []
        for seed in group.shared_seeds(small, large):
            last = group.arms[large].members[seed].epochs[-1]
            near = [
                epoch
                for epoch in group.arms[small].members[seed].epochs
                if abs(epoch.optimizer_step / last.optimizer_step - 1) <= SAME_STEPS
            ]
            if near:
                differences.append(last.validation["accuracy"] - near[0].validation["accuracy"])
        found.append((group, differences))
    return _over_strata(found)


def _over_strata(found: Sequence[tuple[Stratum[TrajectoryResult], list[float]]]) -> Reading | None:
    """The mean of the strata's ``differences``, of those that have any."""
    used = [(group, differences) for group, differences in found if differences]
    if not used:
        return None
    sizes = {int(group.arms[arm].settings.batch_size) for group, _ in used for arm in _ends(group)}
    return Reading(
        difference=mean_over_strata([differences for _, differences in used]),
        smallest=min(sizes),
        largest=max(sizes),
    )


def _verdict(by_epochs: Reading | None, by_steps: Reading | None, seeds: int, one_rate: bool) -> tuple[str, str]:
    if by_epochs is None and by_steps is None:
        return UNDETERMINED, "No two ended runs differ in batch size alone."
    told = [
        f"batch {reading.largest:,} scored {difference(reading.difference)} against batch {reading.smallest:,} at "
        f"equal {what}"
        for reading, what in ((by_epochs, "epochs"), (by_steps, "optimizer steps"))
        if reading is not None
    ]
    what = "; ".join(told)
    what = what[0].upper() + what[1:]
    if seeds < 2:
        return UNDETERMINED, f"{what}, with one seed each."
    if one_rate:
        return UNDETERMINED, f"{what}; but only one learning rate was tried, and the best rate moves with the batch."
    if by_steps is None:
        assert by_epochs is not None
        if _none(by_epochs.difference):
            return "no", f"{what}: no difference beyond {100 * EQUIVALENCE:.0f} point."
        return UNDETERMINED, f"{what}; no runs of equal optimizer steps tell the batch from the number of updates."
    if by_steps.difference.excludes_zero:
        return "yes", f"{what}: the batch itself makes a difference."
    if _none(by_steps.difference):
        if by_epochs is not None and by_epochs.difference.excludes_zero:
            return "the number of updates", f"{what}: what a large batch loses are updates."
        return "no", f"{what}: no difference beyond {100 * EQUIVALENCE:.0f} point."
    return UNDETERMINED, f"{what}: a difference at equal steps is neither shown nor excluded."


def _none(estimate: Estimate) -> bool:
    return estimate.low > -EQUIVALENCE and estimate.high < EQUIVALENCE


def _failures(groups: Sequence[Stratum[TrajectoryResult]], diagnoses: Diagnoses) -> str:
    """Failures of the smallest and of the largest batch, in a sentence; empty where there are none."""
    counts = []
    for end in (0, 1):
        runs = [run for group in groups for run in group.arms[_ends(group)[end]].members.values()]
        counts.append((sum(diagnoses[run.trajectory.id].failed for run in runs), len(runs)))
    (small_failed, small), (large_failed, large) = counts
    if small_failed == large_failed == 0:
        return ""
    p = fisher_exact(counts[0], counts[1])
    return (
        f"Of the smallest batches {small_failed} of {count(small, 'run')} failed, of the largest {large_failed} of "
        f"{large} ({p_value(p)})."
    )


def _table(results: Results, groups: Sequence[Stratum[TrajectoryResult]], diagnoses: Diagnoses) -> Table:
    keys = [key for key in results.varying_trained if key not in ("seed", "batch_size")]
    rows: list[tuple[Value, ...]] = []
    for group in groups:
        for arm in sorted(group.arms.values(), key=lambda arm: int(arm.settings.batch_size)):
            runs = list(arm.members.values())
            failed = sum(diagnoses[run.trajectory.id].failed for run in runs)
            scores = [score for run in runs if (score := _accuracy(run)) is not None]
            rows.append(
                (
                    words(group.settings, keys),
                    int(arm.settings.batch_size),
                    learning_rate(runs[0]).peak,
                    runs[0].trajectory.optimizer_steps,
                    runs[0].trajectory.examples,
                    len(runs),
                    clopper_pearson(failed, len(runs)),
                    mean_over_seeds(scores).within(0, 1) if scores else None,
                )
            )
    return Table(
        title="Batch sizes, other settings equal",
        columns=("condition", "batch size", "peak lr", "updates", "examples", "seeds", "failure rate", "test accuracy"),
        formats=("t", "n", "g", "n", "n", "n", "%", "%"),
        rows=rows,
        most_rows=80,
    )


def _caveats(
    by_epochs: Reading | None,
    by_steps: Reading | None,
    by_history: Reading | None,
    one_rate: bool,
    rates: Sequence[float],
) -> list[str]:
    caveats = []
    if one_rate:
        caveats.append(
            f"Only the learning rate {rates[0]:g} was tried, unscaled. A rate that suits a small batch is too low for "
            "a large one (Goyal et al. 2017), so what looks like the batch's doing may be the rate's."
        )
    if by_steps is None and by_history is not None:
        caveats.append("Equal steps were read off the histories of constant-rate runs, on validation.")
    if by_epochs is not None and by_steps is None and by_history is None:
        caveats.append("At equal epochs alone, the batch and the number of updates are confounded.")
    return caveats


def _next(
    results: Results, verdict: str, by_steps: Reading | None, seeds: int, rates: Sequence[float]
) -> list[Command]:
    if verdict != UNDETERMINED:
        return []
    commands = complete_plan(results)
    if seeds < 2:
        commands.append(more_seeds(results, "gives every batch size a spread over seeds"))
    if len(rates) < 2:
        commands.append(
            grow(
                results, "gives large batches the rates that suit them", {"learning_rate": [2 * rates[0], 4 * rates[0]]}
            )
        )
    if by_steps is None:
        # Between what the largest and the smallest batch took: enough for one, and not endless for the other.
        steps = [t.optimizer_steps for t in results.plan.trajectories]
        between = max(1, round(math.sqrt(min(steps) * max(steps))))
        commands.append(
            Command(
                purpose="trains every batch size for as many optimizer steps, as a study of its own",
                command=f"python -m study.run --space studies/{results.name}/space.yaml --set "
                f"name={results.name}-equal-steps --set epochs=none --set optimizer_steps={between}",
            )
        )
    if seeds >= 2 and not commands:
        commands.append(more_seeds(results, "narrows the interval"))
    return commands


def _figures(groups: Sequence[Stratum[TrajectoryResult]]) -> list[Figure]:
    lines: dict[str, list[Line]] = {"epochs": [], "optimizer steps": []}
    for group in groups:
        points: list[tuple[int, Estimate]] = []
        for arm in sorted(group.arms.values(), key=lambda arm: int(arm.settings.batch_size)):
            scores = [score for run in arm.members.values() if (score := _accuracy(run)) is not None]
            if scores:
                points.append((int(arm.settings.batch_size), mean_over_seeds(scores).within(0, 1)))
        if points:
            keys = ("model", "lr_schedule")
            mode = "epochs" if group.settings.epochs is not None else "optimizer steps"
            lines[mode].append(
                Line(
                    x=[size for size, _ in points],
                    y=[estimate.value for _, estimate in points],
                    low=[estimate.low for _, estimate in points],
                    high=[estimate.high for _, estimate in points],
                    group=words(group.settings, keys),
                    dots=True,
                )
            )
    panels = [
        Panel(
            title=f"at equal {mode}",
            x_label="batch size",
            y_label="test accuracy",
            lines=found,
            log_x=True,
            percent_y=True,
        )
        for mode, found in lines.items()
        if found
    ]
    caption = "Test accuracy of the checkpoint that validation chose, by batch size: means over seeds with t intervals."
    return [Figure(name="batch-size", caption=caption, panels=panels)] if panels else []
