"""How often the runs of two arms fail, compared within conditions."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from analysis.answer import Table, Value
from analysis.diagnosis import DECIDED, Diagnoses, Diagnosis
from analysis.evidence.comparison import RunStratum
from analysis.evidence.conditions import describe, describe_setting, settings_key
from analysis.results import Results
from analysis.statistics.estimate import Estimate
from analysis.statistics.exact_tests import (
    ExactTest,
    FailureStratum,
    cell_exchange,
    common_difference,
    opposite_strata,
    stratified_exact,
)
from analysis.statistics.intervals import clopper_pearson
from analysis.trajectory_results import TrajectoryResult
from analysis.wording import agree, count, p_value, points_estimate
from study.settings import Settings

ALPHA = 0.05
MOST_ROWS = 60

Outcome = Literal["failed", "unstable"]
OUTCOMES: Mapping[Outcome, Callable[[Diagnosis], bool]] = {
    "failed": lambda diagnosis: diagnosis.failed,
    "unstable": lambda diagnosis: diagnosis.unstable,
}

METHODS = (
    (
        "Failures are compared within conditions, all other settings equal, and never added up over conditions: an "
        "exact test asks how each condition's failures would be divided between the arms by chance (Zelen 1971). A "
        "seed number that is used in several conditions is one unit in each arm, not several: a seed that fails "
        "everywhere counts once. Both arms have the same seed numbers, which makes the test conservative: a seed that "
        "moves both alike cannot make them differ. Conditions in which every run failed, or none, show nothing."
    ),
    (
        "Unstable runs, a second outcome, failed, declined by a large part of what they had learned, or did so and "
        "recovered. Where both outcomes could show a difference and are not the same runs, p-values are doubled."
    ),
    (
        "The common difference weights the conditions in which some runs failed as Mantel & Haenszel (1959) do; its "
        "interval combines the conditions' Newcombe (1998) intervals (Zou & Donner 2008)."
    ),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ConditionFailures:
    """Which runs of two arms failed, and which were unstable, in one condition that ``settings`` describe."""

    group: RunStratum
    failed: FailureStratum
    unstable: FailureStratum

    def of(self, outcome: Outcome) -> FailureStratum:
        """The runs by ``outcome``."""
        return self.failed if outcome == "failed" else self.unstable


@dataclass(frozen=True, slots=True, kw_only=True)
class FailureComparison:
    """Failures of two arms over the conditions that have both; ``undecided`` runs neither failed nor learned."""

    first: str
    second: str
    conditions: tuple[ConditionFailures, ...]
    undecided: int

    @property
    def outcome(self) -> Outcome:
        """The outcome that the comparison rests on: the one with the smaller p-value, failures if equal."""
        return "unstable" if self.test("unstable").p_value < self.test("failed").p_value else "failed"

    def strata(self, outcome: Outcome) -> list[FailureStratum]:
        """The conditions by ``outcome``."""
        return [condition.of(outcome) for condition in self.conditions]

    def test(self, outcome: Outcome) -> ExactTest:
        """The exact test of one outcome."""
        return stratified_exact(self.strata(outcome))

    @property
    def p_value(self) -> float:
        """The p-value of the two outcomes together."""
        tests = [self.test(outcome) for outcome in OUTCOMES]
        possible = [test.p_value for test in tests if test.attainable <= ALPHA]
        if not possible:
            return min(test.p_value for test in tests)
        same = self.strata("failed") == self.strata("unstable")
        return min(1.0, min(possible) * (1 if same else len(possible)))

    @property
    def attainable(self) -> bool:
        """Whether the runs could have shown a difference in either outcome."""
        return any(self.test(outcome).attainable <= ALPHA for outcome in OUTCOMES)

    @property
    def p_opposite(self) -> float:
        """The p-value that the arms differ in opposite directions in two conditions."""
        return min(1.0, 2 * min(opposite_strata(self.strata(outcome)) for outcome in OUTCOMES))

    @property
    def difference(self) -> Estimate | None:
        """The rate of the first arm less that of the second, over the conditions that can show one."""
        return common_difference(self.strata(self.outcome))

    @property
    def informative(self) -> list[ConditionFailures]:
        """The conditions in which some runs failed or were unstable and some were not."""
        return [condition for condition in self.conditions if condition.of(self.outcome).informative]

    def counts(self, conditions: Sequence[ConditionFailures]) -> str:
        """Failures of both arms in these conditions, in words."""
        pairs = [condition.of(self.outcome).counts for condition in conditions]
        (a, n), (b, m) = ((sum(pair[arm][0] for pair in pairs), sum(pair[arm][1] for pair in pairs)) for arm in (0, 1))
        verb = "failed" if self.outcome == "failed" else agree(a, "was unstable", "were unstable")
        return f"{a} of {count(n, f'{self.first} run')} and {b} of {count(m, f'{self.second} run')} {verb}"

    @property
    def evidence(self) -> str:
        """What was seen, in a clause without a full stop."""
        total, informative = len(self.conditions), self.informative
        if not informative:
            everywhere = "in the one condition" if total == 1 else f"in any of the {total} conditions"
            nothing = not any(any([*s.first.values(), *s.second.values()]) for s in self.strata("unstable"))
            return (
                f"no run failed {everywhere}"
                if nothing
                else "no condition has both runs that failed and runs that did not"
            )
        place = (
            "in the one condition"
            if total == 1
            else f"in {len(informative)} of {total} conditions{self._named(informative)} some runs failed: there"
        )
        seen = self.counts(informative)
        if len(informative) > 1 and self.difference is not None:
            rate = "failure rate" if self.outcome == "failed" else "rate of unstable runs"
            seen = f"the {rate} of {self.first} minus that of {self.second} is {points_estimate(self.difference)}"
        return f"{place} {seen}, {p_value(self.p_value)}"

    def _named(self, conditions: Sequence[ConditionFailures]) -> str:
        """The condition in brackets, after a space, where it is a single one."""
        if len(conditions) > 1:
            return ""
        keys = [key for key in Settings.model_fields if key != "seed" and self._tells_conditions_apart(key)]
        return f" ({describe(conditions[0].group.settings, keys)})" if keys else ""

    def _tells_conditions_apart(self, key: str) -> bool:
        groups = [condition.group for condition in self.conditions]
        compared = any(len({getattr(arm.settings, key) for arm in group.arms.values()}) > 1 for group in groups)
        return not compared and len({getattr(group.settings, key) for group in groups}) > 1

    @property
    def fewer(self) -> str:
        """The arm whose runs fail less often."""
        difference = self.difference
        return self.first if difference is None or difference.value < 0 else self.second

    def limits(self) -> str:
        """What this design could not have shown, in a sentence; empty where a difference could be shown."""
        if self.attainable or not self.informative:
            return ""
        seeds = min(min(len(s.first), len(s.second)) for s in self.strata(self.outcome))
        return (
            f"With {count(seeds, 'seed')} per condition, failures of these numbers cannot show a difference at the 5 % "
            "level, however they are divided."
        )

    def table(self, keys: Sequence[str]) -> Table:
        """Failures by condition, with each condition's own interval."""
        rows: list[tuple[Value, ...]] = []
        for condition in self.conditions:
            (a, n), (b, m) = condition.failed.counts
            (c, _), (d, _) = condition.unstable.counts
            rows.append(
                (
                    describe(condition.group.settings, keys),
                    f"{a} of {n}",
                    f"{b} of {m}",
                    condition.failed.difference,
                    condition.failed.p_value if condition.failed.informative else None,
                    f"{c} and {d}" if (a, b) != (c, d) else "the same",
                )
            )
        return Table(
            title=f"Failures of {self.first} and {self.second} runs, condition by condition",
            columns=("condition", self.first, self.second, "difference of rates", "p", "unstable runs"),
            formats=("t", "t", "t", "+%", "p", "t"),
            rows=rows,
            note="Each condition's Newcombe interval and Fisher test stand for it alone, without correction.",
            most_rows=MOST_ROWS,
        )


def compare_failures(
    groups: Sequence[RunStratum], first: str, second: str, diagnoses: Diagnoses
) -> FailureComparison | None:
    """The failures of two arms over the strata that have both; None where none has."""
    conditions, undecided = [], 0
    for group in groups:
        if first not in group.arms or second not in group.arms:
            continue
        arms = [
            {seed: diagnoses[run.trajectory.id] for seed, run in group.arms[arm].members.items()}
            for arm in (first, second)
        ]
        decided = [{s: d for s, d in arm.items() if d.finding in DECIDED} for arm in arms]
        undecided += sum(map(len, arms)) - sum(map(len, decided))
        if not all(decided):
            continue
        by_outcome = {
            outcome: FailureStratum(
                first={seed: holds(d) for seed, d in decided[0].items()},
                second={seed: holds(d) for seed, d in decided[1].items()},
            )
            for outcome, holds in OUTCOMES.items()
        }
        conditions.append(ConditionFailures(group=group, failed=by_outcome["failed"], unstable=by_outcome["unstable"]))
    if not conditions:
        return None
    return FailureComparison(first=first, second=second, conditions=tuple(conditions), undecided=undecided)


def failures_by_chance(results: Results, runs: Sequence[TrajectoryResult], keys: Sequence[str]) -> float:
    """The p-value that failures are spread by chance over the combinations of ``keys``, all else and the seed equal."""
    diagnoses = results.diagnoses
    smallest = 1.0
    for holds in OUTCOMES.values():
        blocks: dict[object, dict[str, bool]] = {}
        for run in runs:
            diagnosis = diagnoses[run.trajectory.id]
            if diagnosis.finding in DECIDED:
                cell = " · ".join(describe_setting(key, run.settings) for key in keys)
                blocks.setdefault(settings_key(run.settings, keys), {})[cell] = holds(diagnosis)
        smallest = min(smallest, cell_exchange(list(blocks.values())))
    return smallest


def rate_of(runs: Sequence[TrajectoryResult], diagnoses: Diagnoses) -> Estimate:
    """The failure rate of one condition's runs, with its Clopper-Pearson interval."""
    return clopper_pearson(sum(diagnoses[run.trajectory.id].failed for run in runs), len(runs))
