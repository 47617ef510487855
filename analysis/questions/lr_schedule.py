"""The question of whether the learning-rate schedule changes how often runs fail, and by what."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

import numpy as np

from analysis.answer import NOT_ASKED, UNDETERMINED, Answer, Bar, Claim, Command, Figure, Table, forests
from analysis.diagnosis import Diagnoses
from analysis.evidence.comparison import (
    RunStratum,
    correctness,
    ended_runs,
    most_seeds,
    paired_differences,
    run_strata,
    usable_runs,
)
from analysis.evidence.conditions import describe, schedule_keys
from analysis.evidence.failures import METHODS as FAILURE_METHODS
from analysis.evidence.failures import FailureComparison, compare_failures, rate_of
from analysis.evidence.mean_rate import BASELINE, MeanRateComparison, compare_mean_rates
from analysis.evidence.next_commands import SEEDS_TO_COUNT, complete_plan, extend, more_seeds, paired_search
from analysis.results import Results
from analysis.statistics.clustered_means import mean_over_strata
from analysis.trajectory_results import TrajectoryResult
from analysis.wording import agree, count, points_estimate, upper_first

QUESTION = "Does the learning-rate schedule change how often runs fail?"
COUNTS_PRUNED_RUNS = False
DEPENDS = "depends on the condition"

METHODS = (
    *FAILURE_METHODS,
    (
        "Shape or mean rate: linear decay without warm-up has half the mean rate of a constant schedule. Constant runs "
        "at the mean rate of the decaying runs (within 5 %) have the lower mean without the shape."
    ),
    (
        "Accuracy is compared among runs that learned, on the same seeds and test examples. Such runs are a selection; "
        "failures are counted separately, not mixed in."
    ),
)


def answer(results: Results, rng: np.random.Generator) -> Answer:
    """Compare a decaying schedule with the constant one, the linear one where there is one. ``rng`` is not needed."""
    del rng
    schedules = list(dict.fromkeys(str(cell.settings.lr_schedule) for cell in results.plan.cells))
    if BASELINE not in schedules or len(schedules) < 2:
        return _not_asked(results, schedules)
    decaying = "linear" if "linear" in schedules else next(name for name in schedules if name != BASELINE)
    ended, seeds = ended_runs(results), most_seeds(ended_runs(results))
    groups, with_warmup = _schedule_strata(ended, results.varying)
    names = _arm_names(groups, decaying)
    comparison = compare_failures(groups, *names, results.diagnoses) if names else None
    mean_rates = compare_mean_rates(ended, results.diagnoses, decaying)
    accuracy_tables, accuracy = _accuracy_effect(results, decaying)
    if comparison is None:
        return Answer(
            question=QUESTION,
            verdict=UNDETERMINED,
            sentence=_nothing_to_compare(results, ended, decaying),
            seeds=seeds,
            tables=accuracy_tables,
            methods=METHODS,
            next_commands=[*complete_plan(results), *paired_search(results, ["lr_schedule"])],
        )
    compared = ("lr_schedule", *(("warmup_fraction",) if with_warmup else ()))
    keys = [key for key in results.condition_keys if key not in compared]
    return Answer(
        question=QUESTION,
        verdict=UNDETERMINED,
        sentence=f"{_undetermined(comparison, seeds)}{accuracy}",
        claim=_claim(comparison, seeds, _reason(mean_rates, with_warmup=with_warmup), accuracy),
        estimate=comparison.difference if seeds > 1 else None,
        estimated=f"rate of {comparison.outcome} runs, {comparison.first} minus {comparison.second}",
        seeds=seeds,
        tables=[comparison.table(keys), *mean_rates.tables(), *accuracy_tables],
        figures=_figures(ended, results.diagnoses, results),
        methods=METHODS,
        caveats=_caveats(comparison, mean_rates, with_warmup=with_warmup),
        next_commands=_next_commands(results, comparison, mean_rates),
    )


def _not_asked(results: Results, schedules: Sequence[str]) -> Answer:
    sentence = f"Every run uses the {schedules[0]} schedule."
    if len(schedules) > 1:
        sentence = f"Schedules are compared with the {BASELINE} one, which this study does not have."
    both = {"lr_schedule": [BASELINE, "linear"]}
    return Answer(
        question=QUESTION,
        verdict=NOT_ASKED,
        sentence=sentence,
        next_commands=[extend(results, "trains the same conditions with both schedules", both)],
    )


def _schedule_strata(runs: Sequence[TrajectoryResult], varying: Sequence[str]) -> tuple[list[RunStratum], bool]:
    """By schedule at equal warm-up; where no two schedules share a warm-up, it belongs to the schedule (True)."""
    groups = [group for group in run_strata(runs, ["lr_schedule"]) if len(group.arms) > 1]
    if groups:
        return groups, False
    return [group for group in run_strata(runs, schedule_keys(varying)) if len(group.arms) > 1], True


def _arm_names(groups: Sequence[RunStratum], decaying: str) -> tuple[str, str] | None:
    """The decaying and the constant arm that most strata have both of."""
    pairs = Counter(
        (first, second)
        for group in groups
        for first, arm in group.arms.items()
        for second, base in group.arms.items()
        if arm.settings.lr_schedule == decaying and base.settings.lr_schedule == BASELINE
    )
    return pairs.most_common(1)[0][0] if pairs else None


def _nothing_to_compare(results: Results, ended: Sequence[TrajectoryResult], decaying: str) -> str:
    sentence = f"No condition has ended runs of both the {BASELINE} and the {decaying} schedule"
    undecided = sum(
        not results.diagnoses[run.trajectory.id].failed and not results.diagnoses[run.trajectory.id].learned
        for run in ended
    )
    if undecided:
        runs = count(undecided, "run")
        sentence += f" that are known to have failed or to have learned; for {runs} at chance this is unknown"
    return f"{sentence}."


def _undetermined(comparison: FailureComparison, seeds: int) -> str:
    """The sentence where no difference is shown."""
    evidence = upper_first(comparison.evidence)
    if not comparison.informative:
        return f"{evidence}, so no difference between schedules could be seen."
    if seeds < 2:
        return f"{evidence}: with one seed per condition, another seed may reverse that."
    limits = comparison.limits()
    return f"{evidence}: a difference that can be due to chance." if not limits else f"{evidence}. {limits}"


def _reason(mean_rates: MeanRateComparison, *, with_warmup: bool) -> str:
    """Why the decaying schedule may help, as the end of a sentence."""
    if with_warmup:
        return "whether by its warm-up, its shape or its lower mean rate is not known, since these vary together"
    return mean_rates.conclusion()


def _claim(comparison: FailureComparison, seeds: int, reason: str, accuracy: str) -> Claim | None:
    """That one schedule fails less often, and the ``reason`` where it is the decaying one; None without a test."""
    if seeds < 2:
        return None
    evidence = comparison.evidence
    # Failures in opposite conditions may cancel out, so that no division of all of them could show a difference.
    if comparison.p_opposite < comparison.p_value:
        sentence = (
            f"Which schedule fails less often depends on the condition ({upper_first(evidence)}): the arms differ in "
            f"opposite directions; the table has each condition.{accuracy}"
        )
        return Claim(family="failures", p_value=comparison.p_opposite, verdict=DEPENDS, sentence=sentence)
    if not comparison.attainable:
        return None
    fewer = comparison.fewer
    why = f"; {reason}" if fewer == comparison.first else ""
    what = "fail" if comparison.outcome == "failed" else "become unstable"
    return Claim(
        family="failures",
        p_value=comparison.p_value,
        verdict=f"fewer under {fewer}",
        sentence=f"Runs {what} less often under the {fewer} schedule: {evidence}{why}.{accuracy}",
    )


def _accuracy_effect(results: Results, decaying: str) -> tuple[list[Table], str]:
    """The effect on test accuracy among runs that learned, and a sentence on it after a space."""
    usable = usable_runs(results)
    groups, _ = _schedule_strata(usable, results.varying)
    names = _arm_names(groups, decaying)
    if names is None:
        return [], ""
    results.predictions.preload([run.owner for run in usable])
    differences = paired_differences(results, groups, *names, "test", correctness)
    if not differences:
        return [], ""
    mean = mean_over_strata(differences)
    gain, pairs = mean.estimate(), sum(len(scores.seeds) for scores in differences)
    table = Table(
        title="Test accuracy among runs that learned",
        columns=("difference", "conditions", "pairs of runs", "accuracy", "p"),
        formats=("t", "n", "n", "+%", "p"),
        rows=[(f"{names[0]} minus {names[1]}", len(differences), pairs, gain, mean.p_value)],
        note="Exploratory: this p-value is not corrected for the report's other comparisons.",
    )
    if math.isnan(mean.p_value):
        return [table], ""
    return [table], f" Among runs that learned, {names[0]} scores {points_estimate(gain)} on test against {names[1]}."


def _caveats(comparison: FailureComparison, mean_rates: MeanRateComparison, *, with_warmup: bool) -> list[str]:
    caveats = []
    if with_warmup:
        caveats.append(
            "The schedules have different warm-ups here: a difference belongs to schedule and warm-up together."
        )
    if comparison.undecided:
        verb = agree(comparison.undecided, "is", "are")
        caveats.append(
            f"{count(comparison.undecided, 'run')} {verb} neither known to have failed nor shown to have learned, and "
            "left out."
        )
    if not mean_rates.available:
        caveats.append(
            "Without constant runs at the decaying schedule's mean rate, shape and mean rate are confounded."
        )
    return caveats


def _next_commands(results: Results, comparison: FailureComparison, mean_rates: MeanRateComparison) -> list[Command]:
    commands = complete_plan(results)
    rates = sorted({cell.settings.learning_rate for cell in results.plan.cells})
    if not comparison.informative:
        where, values = _rates_to_try(comparison, rates)
        commands.append(extend(results, f"looks for rates at which some runs fail: {where}", {"learning_rate": values}))
    # Of rates from a range, none is half of another.
    if not mean_rates.available and "learning_rate" not in results.space.ranges:
        purpose = f"adds half the rate, whose constant runs have the mean rate of {mean_rates.schedule} decay"
        commands.append(extend(results, purpose, {"learning_rate": [rate / 2 for rate in rates]}))
    commands.append(more_seeds(results, "makes the failure counts large enough to compare", SEEDS_TO_COUNT))
    return commands


def _rates_to_try(comparison: FailureComparison, rates: Sequence[float]) -> tuple[str, list[float]]:
    """Where failures that schedules could prevent may be found, in words and as rates, if all or no runs fail now."""
    failing = [
        condition.group.settings.learning_rate
        for condition in comparison.conditions
        if any([*condition.failed.first.values(), *condition.failed.second.values()])
    ]
    if not failing:
        return "higher ones", [2 * rates[-1], 4 * rates[-1]]
    safe = [rate for rate in rates if rate < min(failing)]
    if not safe:
        return "lower ones", [rates[0] / 4, rates[0] / 2]
    return "between those that always fail and the others", [float(f"{math.sqrt(safe[-1] * min(failing)):.2g}")]


def _figures(runs: Sequence[TrajectoryResult], diagnoses: Diagnoses, results: Results) -> list[Figure]:
    """Failure rates of the conditions with several seeds: one run's rate has no interval worth drawing."""
    bars = []
    for group in run_strata(runs, []):
        for arm in group.arms.values():
            if len(arm.members) > 1:
                label = describe(group.settings, results.condition_keys)
                rate = rate_of(list(arm.members.values()), diagnoses)
                bars.append(Bar(label=label, estimate=rate, group=str(group.settings.lr_schedule)))
    if not bars:
        return []
    return [
        Figure(
            name="failures-by-schedule",
            caption="Share of runs that failed, condition by condition, with Clopper-Pearson intervals.",
            panels=forests("Failure rate by schedule", "share of runs", bars, percent=True),
        )
    ]
