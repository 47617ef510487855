"""What stopping rules would have saved in epochs and cost in test accuracy, over whole runs, failed ones included."""

from __future__ import annotations

from collections.abc import Sequence

from analysis.evidence.comparison import seed_scores
from analysis.evidence.conditions import SettingsKey, settings_key
from analysis.evidence.stopping_rules import Replay, replay, rule_name, whole_runs
from analysis.results import Results
from analysis.statistics.clustered_means import ClusteredMean, mean_over_strata
from analysis.statistics.estimate import FloatArray
from analysis.trajectory_results import TrajectoryResult
from analysis.wording import count, number, percent, points, points_estimate, upper_first
from study.settings import EarlyStopping

# The rule that is always tried, before those of the space; more rules than these are left to the question.
FIRST_RULE = EarlyStopping(patience=1, metric="loss")
MOST_RULES = 3


def early_stops(results: Results) -> str:
    """What each rule would have saved and cost, in sentences."""
    whole = whole_runs(results)
    if not whole:
        if results.runs and all(run.trajectory.epochs < 2 for run in results.runs):
            return "Every run has one epoch, so that there is nothing to stop."
        return "No run of two epochs or more was trained to its planned end, so that rules cannot be tried."
    present = [rule for run in results.plan.cells if (rule := run.settings.early_stopping) is not None]
    rules = list(dict.fromkeys([FIRST_RULE, *present]))
    return " ".join(_sentence(results, whole, rule) for rule in rules[:MOST_RULES])


def _sentence(results: Results, whole: Sequence[TrajectoryResult], rule: EarlyStopping) -> str:
    name = upper_first(rule_name(rule))
    stopped = [replayed for run in whole if (replayed := replay(results, run, rule)).test_lost is not None]
    if not stopped:
        return f"{name}: no whole run has the predictions to say what it would have cost."
    epochs, saved = sum(len(each.run.epochs) for each in stopped), sum(each.epochs_saved for each in stopped)
    head = f"{name} would have saved {saved:,} of {epochs:,} epochs ({percent(saved / epochs, 0)})"
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


def _mean_change(stopped: Sequence[Replay]) -> ClusteredMean:
    """The mean change of test accuracy over conditions, each with the same weight."""
    by_condition: dict[SettingsKey, dict[int, FloatArray]] = {}
    for each in stopped:
        if each.test_lost is not None:
            condition = settings_key(each.run.settings, ["seed"])
            by_condition.setdefault(condition, {})[each.run.settings.seed] = 0.0 - each.test_lost
    return mean_over_strata([scores for by_seed in by_condition.values() if (scores := seed_scores(by_seed))])
