"""The question whether a decaying learning rate prevents failures, and by its shape or by its lower mean rate."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from analysis.answer import UNDETERMINED, Answer, Bar, Command, Figure, Table, Value, forests
from analysis.diagnosis import DECIDED, Diagnoses, FailureCounts, count_failures
from analysis.evidence.comparison import (
    RunStratum,
    correctness,
    ended_runs,
    most_seeds,
    paired_differences,
    run_strata,
    usable_runs,
)
from analysis.evidence.conditions import describe, group_by, schedule_keys
from analysis.evidence.mean_rate import BASELINE, MeanRateComparison, compare_mean_rates
from analysis.evidence.next_commands import SEEDS_TO_COUNT, complete_plan, extend, more_seeds, paired_search
from analysis.results import Results
from analysis.statistics.estimate import Estimate
from analysis.statistics.intervals import clopper_pearson, fisher_exact, share_difference
from analysis.statistics.multibootstrap import example_weights, multibootstrap
from analysis.trajectory_results import TrajectoryResult
from analysis.wording import count, p_value, percent, points_estimate
from study.settings import Settings

QUESTION = "Does the learning-rate schedule prevent failures: its shape, or its lower mean rate?"
COUNTS_PRUNED_RUNS = False
# A difference of failure rates within this margin is taken as none, where the whole interval lies within it.
SAME_FAILURES = 0.10
ALPHA = 0.05
MOST_ROWS = 60

METHODS = (
    (
        "Failure counts are compared by Fisher's exact test (1934), summed over conditions with all other settings "
        "equal; intervals of differences of shares are Newcombe's (1998, method 10)."
    ),
    (
        "Shape or mean rate: linear decay without warm-up has half the mean rate of a constant schedule. Constant runs "
        "at the mean rate of the decaying runs (within 5 %) have the lower mean without the shape."
    ),
    (
        "Accuracy is compared among runs that learned, on the same seeds and test examples, by a bootstrap over both "
        "(Sellam et al. 2022). Such runs are a selection; failures are counted separately, not mixed in."
    ),
)


def answer(results: Results, rng: np.random.Generator) -> Answer:
    """Compare every schedule with the constant one; the verdict is on the linear one where there is one."""
    schedules = list(dict.fromkeys(str(cell.settings.lr_schedule) for cell in results.plan.cells))
    if BASELINE not in schedules or len(schedules) < 2:
        both = {"lr_schedule": [BASELINE, "linear"]}
        return Answer(
            question=QUESTION,
            verdict=UNDETERMINED,
            sentence=f"Every run uses the {schedules[0]} schedule, so there is nothing to compare it with.",
            next_commands=[extend(results, "trains the same conditions with both schedules", both)],
        )
    decaying = "linear" if "linear" in schedules else next(name for name in schedules if name != BASELINE)
    diagnoses = results.diagnoses
    ended = ended_runs(results)
    decided = [run for run in ended if diagnoses[run.trajectory.id].finding in DECIDED]
    groups = _schedule_strata(decided, results.varying)
    constant, decayed = _pooled_failures(groups, diagnoses, decaying)
    seeds = most_seeds(decided)
    mean_rates = compare_mean_rates(decided, diagnoses, decaying)
    verdict, sentence = _verdict(constant, decayed, seeds, mean_rates, undecided=len(ended) - len(decided))
    accuracy_tables, gain = _accuracy_effect(results, decaying, rng)
    if gain is not None and gain.seeds > 1:
        sentence += f" Among runs that learned, {decaying} scored {points_estimate(gain)} on test."
    comparable = constant.runs > 0 and decayed.runs > 0
    rates = (decayed.events_and_trials, constant.events_and_trials)
    return Answer(
        question=QUESTION,
        verdict=verdict,
        sentence=sentence,
        estimate=share_difference(*rates) if comparable else None,
        estimated=f"failure rate of {decaying} less that of {BASELINE}",
        seeds=seeds,
        tables=[_table(groups, diagnoses), *mean_rates.tables(), *accuracy_tables],
        figures=_figures(decided, diagnoses, results),
        methods=METHODS,
        caveats=_caveats(constant, decayed, mean_rates, groups),
        next_commands=_next_commands(results, verdict, mean_rates, constant),
    )


def _schedule_strata(runs: Sequence[TrajectoryResult], varying: Sequence[str]) -> list[RunStratum]:
    """By schedule at equal warm-up; where no two schedules share a warm-up, it belongs to the schedule."""
    groups = [group for group in run_strata(runs, ["lr_schedule"]) if len(group.arms) > 1]
    return groups or [group for group in run_strata(runs, schedule_keys(varying)) if len(group.arms) > 1]


def _runs_of(group: RunStratum, schedule: str) -> list[TrajectoryResult]:
    arms = [arm for arm in group.arms.values() if arm.settings.lr_schedule == schedule]
    return [run for arm in arms for run in arm.members.values()]


def _pooled_failures(
    groups: Sequence[RunStratum], diagnoses: Diagnoses, decaying: str
) -> tuple[FailureCounts, FailureCounts]:
    """Failures under the constant and the decaying schedule, over the conditions that have both."""
    both = [group for group in groups if _runs_of(group, BASELINE) and _runs_of(group, decaying)]
    constant, decayed = ([run for group in both for run in _runs_of(group, name)] for name in (BASELINE, decaying))
    return count_failures(constant, diagnoses), count_failures(decayed, diagnoses)


def _verdict(
    constant: FailureCounts, decayed: FailureCounts, seeds: int, mean_rates: MeanRateComparison, *, undecided: int
) -> tuple[str, str]:
    decaying = mean_rates.schedule
    if constant.runs == 0 or decayed.runs == 0:
        sentence = f"No condition has ended runs of both the {BASELINE} and the {decaying} schedule"
        if undecided:
            runs = count(undecided, "run")
            sentence += f" that are known to have failed or not; for {runs} at chance this is unknown"
        return UNDETERMINED, f"{sentence}."
    evidence = (
        f"{decayed.failed} of {count(decayed.runs, f'{decaying} run')} failed and {constant.failed} of {constant.runs} "
        f"{BASELINE} ones"
    )
    if seeds < 2:
        return UNDETERMINED, f"{evidence}, with one seed each, which is no evidence of a rate."
    if constant.failed == decayed.failed == 0:
        return UNDETERMINED, f"Nothing failed ({evidence}), so there was nothing to prevent."
    p = fisher_exact(decayed.events_and_trials, constant.events_and_trials)
    gap = share_difference(decayed.events_and_trials, constant.events_and_trials)
    if p < ALPHA and gap.value > 0:
        return "no", f"The {decaying} schedule did harm: {evidence} ({p_value(p)})."
    if p >= ALPHA:
        if gap.is_zero_within(SAME_FAILURES):
            return "no", f"The {decaying} schedule made no difference beyond {percent(SAME_FAILURES, 0)}: {evidence}."
        return UNDETERMINED, f"{evidence}, a difference that can be due to chance ({p_value(p)})."
    return "yes", f"The {decaying} schedule prevents failures: {evidence} ({p_value(p)}); {_shape_or_mean(mean_rates)}."


def _shape_or_mean(mean_rates: MeanRateComparison) -> str:
    """Whether a schedule that helps does so by its shape or by its lower mean rate, as the end of a sentence."""
    if not mean_rates.available:
        return "whether by its shape or by its lower mean rate is undetermined, because no constant run has that mean"
    full_rate, decaying, mean_rate = mean_rates.full_rate, mean_rates.decaying, mean_rates.mean_rate
    failures = f"{mean_rate.failed} of {mean_rate.runs} failed at a constant rate of the same mean"
    if _fails_less(decaying, mean_rate):
        return f"by its shape, because {failures}"
    if not _fails_less(mean_rate, full_rate):
        return "whether by its shape or by its lower mean rate is undetermined with so few runs"
    gap = share_difference(mean_rate.events_and_trials, decaying.events_and_trials)
    if gap.high < 2 * SAME_FAILURES:
        return f"its lower mean rate suffices, because {failures}"
    return "a lower constant rate helps too, and these runs do not show whether the shape adds to that"


def _fails_less(first: FailureCounts, second: FailureCounts) -> bool:
    """Whether the first fails less often than the second, beyond chance."""
    return fisher_exact(first.events_and_trials, second.events_and_trials) < ALPHA and first.failed < second.failed


def _table(groups: Sequence[RunStratum], diagnoses: Diagnoses) -> Table:
    rows: list[tuple[Value, ...]] = []
    keys = [key for key in _differing(groups) if key not in ("seed", "lr_schedule")]
    for group in groups:
        base = count_failures(_runs_of(group, BASELINE), diagnoses)
        for schedule, arm in group.arms.items():
            if arm.settings.lr_schedule == BASELINE:
                continue
            counts = count_failures(arm.members.values(), diagnoses)
            p = fisher_exact(counts.events_and_trials, base.events_and_trials) if base.runs else None
            failed = (f"{base.failed} of {base.runs}", f"{counts.failed} of {counts.runs}")
            rows.append((describe(arm.settings, keys), schedule, *failed, p))
    return Table(
        title="Failures by schedule, other settings equal",
        columns=("condition", "schedule", f"failed, {BASELINE}", "failed, schedule", "Fisher's p"),
        formats=("t", "t", "t", "t", "p"),
        rows=rows,
        most_rows=MOST_ROWS,
    )


def _differing(groups: Sequence[RunStratum]) -> list[str]:
    return [key for key in Settings.model_fields if len({getattr(group.settings, key) for group in groups}) > 1]


def _accuracy_effect(results: Results, decaying: str, rng: np.random.Generator) -> tuple[list[Table], Estimate | None]:
    """The effect on test accuracy among runs that learned, over all conditions that have both schedules."""
    groups = _schedule_strata(usable_runs(results), results.varying)
    runs = [run for group in groups for arm in group.arms.values() for run in arm.members.values()]
    results.predictions.preload([run.owner for run in runs])
    differences = []
    for group in groups:
        decayed, base = (
            next((name for name, arm in group.arms.items() if arm.settings.lr_schedule == schedule), None)
            for schedule in (decaying, BASELINE)
        )
        if decayed is not None and base is not None:
            differences += paired_differences(results, [group], decayed, base, "test", correctness)
    if not differences:
        return [], None
    mean = multibootstrap(differences, example_weights(differences[0].shape[1], rng), rng)
    gain, pairs = mean.estimate(), sum(map(len, differences))
    table = Table(
        title="Test accuracy among runs that learned",
        columns=("difference", "conditions", "pairs of runs", "accuracy", "p"),
        formats=("t", "n", "n", "+%", "p"),
        rows=[(f"{decaying} less {BASELINE}", len(differences), pairs, gain, mean.p_value)],
    )
    return [table], gain


def _caveats(
    constant: FailureCounts,
    decayed: FailureCounts,
    mean_rates: MeanRateComparison,
    groups: Sequence[RunStratum],
) -> list[str]:
    caveats = []
    if any(len({arm.settings.warmup_fraction for arm in group.arms.values()}) > 1 for group in groups):
        caveats.append("The schedules have different warm-ups here, so the effects of the two are not separated.")
    if constant.runs and decayed.runs and constant.failed == decayed.failed == 0:
        highest = clopper_pearson(0, constant.runs).high
        caveats.append(
            f"No failure in {constant.runs} {BASELINE} runs is compatible with a failure rate of up to "
            f"{percent(highest)}."
        )
    if not mean_rates.available:
        caveats.append(
            "Without constant runs at the decaying schedule's mean rate, shape and mean rate are confounded."
        )
    return caveats


def _next_commands(
    results: Results, verdict: str, mean_rates: MeanRateComparison, constant: FailureCounts
) -> list[Command]:
    commands = complete_plan(results)
    rates = sorted({cell.settings.learning_rate for cell in results.plan.cells})
    if constant.failed == 0 and constant.runs:
        higher = {"learning_rate": [2 * rates[-1], 4 * rates[-1]]}
        commands.append(extend(results, "looks for failures at higher rates", higher))
    if constant.runs == 0:
        commands += paired_search(results, ["lr_schedule"])
    # Of rates from a range, none is half of another.
    if not mean_rates.available and "learning_rate" not in results.space.ranges:
        purpose = f"adds half the rate, whose constant runs have the mean rate of {mean_rates.schedule} decay"
        commands.append(extend(results, purpose, {"learning_rate": [rate / 2 for rate in rates]}))
    if verdict == UNDETERMINED:
        commands.append(more_seeds(results, "makes the failure counts large enough to compare", SEEDS_TO_COUNT))
    return commands


def _figures(runs: Sequence[TrajectoryResult], diagnoses: Diagnoses, results: Results) -> list[Figure]:
    keys = ["model", *schedule_keys(results.varying_listed)]
    if "learning_rate" in results.varying_listed:
        keys.append("learning_rate")
    bars = [
        Bar(label=name, estimate=count_failures(members, diagnoses).rate, group=members[0].settings.lr_schedule)
        for name, members in group_by(runs, lambda run: run.settings, keys).items()
    ]
    if not bars:
        return []
    return [
        Figure(
            name="failures-by-schedule",
            caption="Share of runs that failed under each schedule, with Clopper-Pearson intervals.",
            panels=forests("Failure rate by schedule", "share of runs", bars, percent=True),
        )
    ]
