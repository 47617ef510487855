"""Does a decaying learning rate prevent failures, and is it the shape or only the lower mean rate?"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from analysis.answer import UNDETERMINED, Answer, Bar, Command, Figure, Table, Value, forests
from analysis.evidence.comparison import (
    correct,
    ended_runs,
    most_seeds,
    paired_differences,
    read_test_scores,
    run_strata,
    usable_runs,
)
from analysis.evidence.conditions import Stratum, schedule_keys, words
from analysis.evidence.diagnosis import DECIDED, Diagnoses, learning_rate
from analysis.evidence.next_commands import SEEDS_TO_COUNT, complete_plan, grow, more_seeds, paired
from analysis.results import Results
from analysis.statistics.estimate import Estimate
from analysis.statistics.intervals import clopper_pearson, fisher_exact, share_difference
from analysis.statistics.multibootstrap import example_weights, multibootstrap
from analysis.trajectory_results import TrajectoryResult
from analysis.wording import count, difference, p_value, percent
from study.settings import Settings

QUESTION = "Does the learning-rate schedule prevent failures: its shape, or its lower mean rate?"
COUNTS_PRUNED_RUNS = False
BASELINE = "constant"
# Mean rates this near to each other are taken for the same.
SAME_RATE = 0.05
# A difference of failure rates within this is taken for none, when an interval lies wholly within.
SAME_FAILURES = 0.10
ALPHA = 0.05

METHODS = (
    (
        "Failure counts are compared by Fisher's exact test (1934), conditions with all other settings equal being "
        "added up; intervals of differences of shares are Newcombe's (1998, method 10)."
    ),
    (
        "Shape or mean rate: linear decay without warm-up has half the mean rate of a constant one. Runs of a "
        "constant rate whose mean is the decaying runs' (within 5 %) have the lower mean without the shape."
    ),
    (
        "Accuracy is compared among runs that learned, on the same seeds and test examples, by a bootstrap over both "
        "(Sellam et al. 2022). Such runs are a selection; failures are counted beside, not mixed in."
    ),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """Failures among the runs of one side of a comparison."""

    failed: int
    runs: int

    @property
    def pair(self) -> tuple[int, int]:
        """As the tests take it."""
        return self.failed, self.runs


def answer(results: Results, rng: np.random.Generator) -> Answer:
    """Compare every schedule with the constant one; the verdict is on the linear one where there is one."""
    schedules = list(dict.fromkeys(str(cell.settings.lr_schedule) for cell in results.plan.cells))
    if BASELINE not in schedules or len(schedules) < 2:
        wanted = grow(results, "trains the same conditions with both schedules", {"lr_schedule": [BASELINE, "linear"]})
        sentence = f"Every run uses the {schedules[0]} schedule, so there is nothing to compare it with."
        return Answer(question=QUESTION, verdict=UNDETERMINED, sentence=sentence, next_commands=[wanted])
    decaying = "linear" if "linear" in schedules else next(name for name in schedules if name != BASELINE)
    diagnoses = results.diagnoses
    every = ended_runs(results)
    ended = [run for run in every if diagnoses[run.trajectory.id].finding in DECIDED]
    groups = _strata(ended, results.varying)
    constant, decayed = _pooled(groups, diagnoses, decaying)
    seeds = most_seeds(ended)
    same_mean = _at_equal_mean(ended, diagnoses, decaying)
    verdict, sentence = _verdict(decaying, constant, decayed, seeds, same_mean, unclear=len(every) - len(ended))
    healthy, gain = _accuracy(results, decaying, rng)
    if gain is not None and gain.seeds > 1:
        sentence += f" Among runs that learned, {decaying} scored {difference(gain)} on test."
    informative = constant.runs > 0 and decayed.runs > 0
    return Answer(
        question=QUESTION,
        verdict=verdict,
        sentence=sentence,
        estimate=share_difference(decayed.pair, constant.pair) if informative else None,
        estimated=f"failure rate of {decaying} less that of {BASELINE}",
        seeds=seeds,
        tables=[_table(groups, diagnoses), *same_mean.tables, *healthy],
        figures=_figures(ended, diagnoses, results),
        methods=METHODS,
        caveats=_caveats(constant, decayed, same_mean, groups),
        next_commands=_next(results, verdict, same_mean, constant, decaying),
    )


def _strata(runs: Sequence[TrajectoryResult], varying: Sequence[str]) -> list[Stratum[TrajectoryResult]]:
    """By schedule, warm-up being equal; where no two schedules share a warm-up, it belongs to the schedule."""
    groups = run_strata(runs, ["lr_schedule"])
    if any(len(group.arms) > 1 for group in groups):
        return [group for group in groups if len(group.arms) > 1]
    return [group for group in run_strata(runs, schedule_keys(varying)) if len(group.arms) > 1]


def _counts(runs: Iterable[TrajectoryResult], diagnoses: Diagnoses) -> Counts:
    failed = [diagnoses[run.trajectory.id].failed for run in runs]
    return Counts(failed=sum(failed), runs=len(failed))


def _arm(group: Stratum[TrajectoryResult], schedule: str) -> list[TrajectoryResult]:
    arms = [arm for arm in group.arms.values() if arm.settings.lr_schedule == schedule]
    return [run for arm in arms for run in arm.members.values()]


def _pooled(groups: Sequence[Stratum[TrajectoryResult]], diagnoses: Diagnoses, decaying: str) -> tuple[Counts, Counts]:
    """Failures under the constant and the decaying schedule, over the conditions that have both."""
    both = [group for group in groups if _arm(group, BASELINE) and _arm(group, decaying)]
    sides = [[run for group in both for run in _arm(group, name)] for name in (BASELINE, decaying)]
    return _counts(sides[0], diagnoses), _counts(sides[1], diagnoses)


@dataclass(frozen=True, slots=True, kw_only=True)
class EqualMean:
    """Three arms at settings else equal: a constant rate, its decay, and a constant rate of the decay's mean."""

    full: Counts
    decayed: Counts
    lowered: Counts
    tables: tuple[Table, ...]

    @property
    def there(self) -> bool:
        """Whether the study has such runs."""
        return self.lowered.runs > 0


def _at_equal_mean(runs: Sequence[TrajectoryResult], diagnoses: Diagnoses, decaying: str) -> EqualMean:
    groups: dict[str, list[list[TrajectoryResult]]] = {"full": [], "decayed": [], "lowered": []}
    for stratum in run_strata(runs, ["lr_schedule", "learning_rate"]):
        arms = [list(arm.members.values()) for arm in stratum.arms.values()]
        constants = [arm for arm in arms if arm[0].settings.lr_schedule == BASELINE]
        for decayed in (arm for arm in arms if arm[0].settings.lr_schedule == decaying):
            mean, peak = learning_rate(decayed[0]).mean, decayed[0].settings.learning_rate
            lowered = [arm for arm in constants if abs(learning_rate(arm[0]).mean / mean - 1) <= SAME_RATE]
            full = [arm for arm in constants if arm[0].settings.learning_rate == peak]
            if lowered and full:
                groups["full"] += full
                groups["decayed"].append(decayed)
                groups["lowered"] += lowered
    counts = {name: _counts((run for arm in arms for run in arm), diagnoses) for name, arms in groups.items()}
    names = {
        "full": f"{BASELINE}, the full rate",
        "decayed": f"{decaying}, from the full rate",
        "lowered": f"{BASELINE}, at {decaying}'s mean rate",
    }
    rows: list[tuple[Value, ...]] = [
        (names[name], found.runs, found.failed, clopper_pearson(*found.pair)) for name, found in counts.items()
    ]
    table = Table(
        title="The shape, or the lower mean rate?",
        columns=("schedule", "runs", "failed", "failure rate"),
        formats=("t", "n", "n", "%"),
        rows=rows,
        note="Only conditions that have all three. The second row has the shape and the lower mean, the third the "
        "mean alone.",
    )
    return EqualMean(**counts, tables=(table,) if counts["lowered"].runs else ())


def _verdict(
    decaying: str, constant: Counts, decayed: Counts, seeds: int, same_mean: EqualMean, *, unclear: int
) -> tuple[str, str]:
    told = (
        f"{decayed.failed} of {count(decayed.runs, f'{decaying} run')} failed and {constant.failed} of {constant.runs} "
        f"{BASELINE} ones"
    )
    if constant.runs == 0 or decayed.runs == 0:
        told = f"No condition has ended runs of both the {BASELINE} and the {decaying} schedule"
        if unclear:
            told += f" that are known to have failed or not; of {count(unclear, 'run')} at chance that is open"
        return UNDETERMINED, f"{told}."
    if seeds < 2:
        return UNDETERMINED, f"{told}, with one seed each, which is no evidence of a rate."
    if constant.failed == decayed.failed == 0:
        return UNDETERMINED, f"Nothing failed ({told}), so there was nothing to prevent."
    p = fisher_exact(decayed.pair, constant.pair)
    gap = share_difference(decayed.pair, constant.pair)
    if p < ALPHA and gap.value > 0:
        return "no", f"The {decaying} schedule did harm: {told} ({p_value(p)})."
    if p >= ALPHA:
        if gap.low > -SAME_FAILURES and gap.high < SAME_FAILURES:
            return "no", f"The {decaying} schedule made no difference beyond {percent(SAME_FAILURES, 0)}: {told}."
        return UNDETERMINED, f"{told}, a difference that chance can make ({p_value(p)})."
    return "yes", f"The {decaying} schedule prevents failures: {told} ({p_value(p)}); {_shape(decaying, same_mean)}."


def _shape(decaying: str, arms: EqualMean) -> str:
    """Shape or mean, once it is known that the schedule helps."""
    if not arms.there:
        return "whether by its shape or by its lower mean rate is undetermined, for no constant run has that mean"
    if fisher_exact(arms.decayed.pair, arms.lowered.pair) < ALPHA and arms.decayed.failed < arms.lowered.failed:
        return (
            f"by its shape, for {arms.lowered.failed} of {arms.lowered.runs} failed at a constant rate of the same mean"
        )
    helped = fisher_exact(arms.lowered.pair, arms.full.pair) < ALPHA and arms.lowered.failed < arms.full.failed
    gap = share_difference(arms.lowered.pair, arms.decayed.pair)
    if helped and gap.high < 2 * SAME_FAILURES:
        return (
            f"its lower mean rate suffices, for {arms.lowered.failed} of {arms.lowered.runs} failed at a constant rate "
            "of the same mean"
        )
    if helped:
        return "a lower constant rate helps too, and these runs do not tell whether the shape adds to that"
    return "whether by its shape or by its lower mean rate is undetermined with so few runs"


def _table(groups: Sequence[Stratum[TrajectoryResult]], diagnoses: Diagnoses) -> Table:
    rows: list[tuple[Value, ...]] = []
    keys = [key for key in _differing(groups) if key not in ("seed", "lr_schedule")]
    for group in groups:
        base = _counts(_arm(group, BASELINE), diagnoses)
        for value, arm in group.arms.items():
            if arm.settings.lr_schedule == BASELINE:
                continue
            found = _counts(arm.members.values(), diagnoses)
            p = fisher_exact(found.pair, base.pair) if base.runs else None
            shown = words(arm.settings, keys)
            rows.append((shown, value, f"{base.failed} of {base.runs}", f"{found.failed} of {found.runs}", p))
    return Table(
        title="Failures by schedule, other settings equal",
        columns=("condition", "schedule", f"failed, {BASELINE}", "failed, schedule", "Fisher's p"),
        formats=("t", "t", "t", "t", "p"),
        rows=rows,
        most_rows=60,
    )


def _differing(groups: Sequence[Stratum[TrajectoryResult]]) -> list[str]:
    if not groups:
        return []
    return [key for key in Settings.model_fields if len({getattr(group.settings, key) for group in groups}) > 1]


def _accuracy(results: Results, decaying: str, rng: np.random.Generator) -> tuple[list[Table], Estimate | None]:
    """The effect on test accuracy among runs that learned, over all conditions that have both schedules."""
    usable = usable_runs(results)
    groups = _strata(usable, results.varying)
    read_test_scores(results, [run for g in groups for arm in g.arms.values() for run in arm.members.values()])
    differences = []
    for group in groups:
        decayed = next((name for name, arm in group.arms.items() if arm.settings.lr_schedule == decaying), None)
        base = next((name for name, arm in group.arms.items() if arm.settings.lr_schedule == BASELINE), None)
        if decayed is not None and base is not None:
            differences += paired_differences(results, [group], decayed, base, "test", correct)
    if not differences:
        return [], None
    found = multibootstrap(differences, example_weights(differences[0].shape[1], rng), rng)
    gain = found.estimate()
    pairs = sum(map(len, differences))
    row = (f"{decaying} less {BASELINE}", len(differences), pairs, gain, found.p_value)
    table = Table(
        title="Test accuracy among runs that learned",
        columns=("difference", "conditions", "pairs of runs", "accuracy", "p"),
        formats=("t", "n", "n", "+%", "p"),
        rows=[row],
    )
    return [table], gain


def _caveats(
    constant: Counts, decayed: Counts, same_mean: EqualMean, groups: Sequence[Stratum[TrajectoryResult]]
) -> list[str]:
    caveats = []
    if any(len({arm.settings.warmup_fraction for arm in group.arms.values()}) > 1 for group in groups):
        caveats.append("The schedules come with different warm-ups here, so that the two are not told apart.")
    if constant.runs and decayed.runs and constant.failed == decayed.failed == 0:
        highest = clopper_pearson(0, constant.runs).high
        caveats.append(
            f"No failure in {constant.runs} {BASELINE} runs still allows a failure rate of up to {percent(highest)}."
        )
    if not same_mean.there:
        caveats.append(
            "Without constant runs at the decaying schedule's mean rate, shape and mean rate are confounded."
        )
    return caveats


def _next(results: Results, verdict: str, same_mean: EqualMean, constant: Counts, decaying: str) -> list[Command]:
    commands = complete_plan(results)
    rates = sorted({cell.settings.learning_rate for cell in results.plan.cells})
    if constant.failed == 0 and constant.runs:
        commands.append(
            grow(results, "looks for failures at higher rates", {"learning_rate": [2 * rates[-1], 4 * rates[-1]]})
        )
    if constant.runs == 0:
        commands += paired(results, ["lr_schedule"])
    # A rate drawn from a range is half of no other.
    if not same_mean.there and "learning_rate" not in results.space.ranges:
        purpose = f"adds half the rate, whose constant runs have the mean rate of {decaying} decay"
        commands.append(grow(results, purpose, {"learning_rate": [rate / 2 for rate in rates]}))
    if verdict == UNDETERMINED or "undetermined" in verdict:
        commands.append(more_seeds(results, "makes the failure counts large enough to compare", SEEDS_TO_COUNT))
    return commands


def _figures(ended: Sequence[TrajectoryResult], diagnoses: Diagnoses, results: Results) -> list[Figure]:
    keys = [
        "model",
        *schedule_keys(results.varying_listed),
        *(["learning_rate"] if "learning_rate" in results.varying_listed else []),
    ]
    arms: dict[str, list[TrajectoryResult]] = {}
    for run in ended:
        arms.setdefault(words(run.settings, keys), []).append(run)
    bars = [
        Bar(
            label=name,
            estimate=clopper_pearson(*_counts(runs, diagnoses).pair),
            group=str(runs[0].settings.lr_schedule),
        )
        for name, runs in arms.items()
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
