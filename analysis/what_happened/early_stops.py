"""What stopping rules would have saved in epochs and cost in test accuracy, over whole runs, failed ones included."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from analysis.evidence.conditions import SettingsKey, settings_key
from analysis.results import Results
from analysis.statistics.clustered_means import ClusteredMean, SeedScores, mean_over_strata
from analysis.statistics.estimate import FloatArray
from analysis.trajectory_results import TrajectoryResult
from analysis.wording import count, number, percent, points, points_estimate, upper_first
from study.plan.labels import label
from study.settings import EarlyStopping
from study.stopping import StoppingPolicy, decide

# The rule that is always tried, before those of the space; more rules than these are left to the question.
FIRST_RULE = EarlyStopping(patience=1, metric="loss")
MOST_RULES = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class StoppedRun:
    """A whole run stopped by a rule: ``saved`` of its ``epochs``, and what accuracy on test changed by, by example."""

    condition: SettingsKey
    seed: int
    epochs: int
    saved: int
    change: FloatArray


def early_stops(results: Results) -> str:
    """What each rule would have saved and cost, in sentences."""
    whole = [run for run in results.runs if _is_whole(run)]
    if not whole:
        if results.runs and all(run.trajectory.epochs < 2 for run in results.runs):
            return "Every run has one epoch, so that there is nothing to stop."
        return "No run of two epochs or more was trained to its planned end, so that rules cannot be tried."
    present = [rule for run in results.plan.cells if (rule := run.settings.early_stopping) is not None]
    rules = list(dict.fromkeys([FIRST_RULE, *present]))
    return " ".join(_sentence(results, whole, rule) for rule in rules[:MOST_RULES])


def _is_whole(run: TrajectoryResult) -> bool:
    """Whether it trained all planned epochs, so that the end by any rule is within it; failed runs included."""
    finished = run.ended and run.outcome is not None and run.outcome.stop_reason != "stopped early"
    return finished and len(run.epochs) > 1


def _sentence(results: Results, whole: Sequence[TrajectoryResult], rule: EarlyStopping) -> str:
    name = label("early_stopping", rule)
    stopped = [run for run in (_stopped(results, run, rule) for run in whole) if run is not None]
    if not stopped:
        return f"{upper_first(name)}: no whole run has the predictions to say what it would have cost."
    epochs, saved = sum(run.epochs for run in stopped), sum(run.saved for run in stopped)
    head = f"{upper_first(name)} would have saved {saved:,} of {epochs:,} epochs ({percent(saved / epochs, 0)})"
    if not saved:
        return f"{head}: it stops none of the {count(len(stopped), 'whole run')}."
    runs = f"over {count(len(stopped), 'whole run')}, failed ones included"
    change = _mean_change(stopped)
    if change.degrees_of_freedom:
        return f"{head} and changed test accuracy by {points_estimate(change.estimate())}, {runs}."
    over = change.over_examples()
    return (
        f"{head} and changed test accuracy by {points(change.value, signed=True)} (95% interval over the test examples "
        f"alone {number(100 * over.low, '+.1f')} to {number(100 * over.high, '+.1f')}), {runs}; with one seed each, "
        "what it costs with other seeds is not known."
    )


def _stopped(results: Results, run: TrajectoryResult, rule: EarlyStopping) -> StoppedRun | None:
    """The run as the rule would have stopped it; None where a checkpoint has no predictions on test."""
    history = [epoch.validation for epoch in run.epochs]
    selected_by = run.settings.checkpoint_metric
    policy = StoppingPolicy(
        max_epochs=run.trajectory.epochs,
        patience=rule.patience,
        min_delta=rule.min_delta,
        metric=rule.metric,
        checkpoint_metric=selected_by,
    )
    end, whole = decide(history, policy), decide(history, StoppingPolicy(checkpoint_metric=selected_by))
    change = _change(results, run, whole.best_epoch, end.best_epoch)
    if change is None:
        return None
    return StoppedRun(
        condition=settings_key(run.settings, ["seed"]),
        seed=run.settings.seed,
        epochs=len(run.epochs),
        saved=len(run.epochs) - end.stop_epoch,
        change=change,
    )


def _change(results: Results, run: TrajectoryResult, before: int, after: int) -> FloatArray | None:
    """The change of accuracy on each test example from the checkpoint of one epoch to that of another, ``[examples]``.

    None without the predictions of both.
    """
    first, second = (
        results.predictions.of_epoch(run.trajectory.id, epoch, "test") if epoch else None for epoch in (before, after)
    )
    if first is None or second is None or not (first.finite and second.finite):
        return None
    if first is second:
        return np.zeros(len(first.label))
    return second.correct.astype(np.float64) - first.correct


def _mean_change(stopped: Sequence[StoppedRun]) -> ClusteredMean:
    """The mean change of test accuracy over conditions, each with the same weight."""
    by_condition: dict[SettingsKey, dict[int, FloatArray]] = {}
    for run in stopped:
        by_condition.setdefault(run.condition, {})[run.seed] = run.change
    return mean_over_strata(
        [SeedScores(seeds=tuple(seeds), scores=np.stack(list(seeds.values()))) for seeds in by_condition.values()]
    )
