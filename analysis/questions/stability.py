"""The question which model is the stable choice: how often each fails, and how far its seeds spread."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from analysis.answer import UNDETERMINED, Answer, Bar, Command, Figure, Forest, Table, Value
from analysis.diagnosis import FailureCounts, count_failures
from analysis.evidence.comparison import (
    RunStratum,
    ended_runs,
    model_names,
    model_pairs,
    model_specific_caveats,
    model_strata,
    most_seeds,
    run_strata,
    selected_test_accuracies,
    single_model_answer,
    usable_runs,
)
from analysis.evidence.next_commands import SEEDS_TO_COUNT, complete_plan, more_seeds, paired_search
from analysis.results import Results
from analysis.statistics.intervals import (
    fisher_exact,
    interquartile_mean_interval,
    probability_of_improvement,
    share_difference,
    spread_ratio,
)
from analysis.trajectory_results import TrajectoryResult
from analysis.wording import count, number_estimate, p_value

QUESTION = "Which model is the stable choice?"
COUNTS_PRUNED_RUNS = False
# Two tests can find a difference, of failures and of spread: each has half of the level.
ALPHA = 0.025

METHODS = (
    (
        "A model is more stable if it fails less often (Fisher's exact test) or, where failures do not decide, if its "
        "seeds spread less and do not fail more; each at half the level, since either can decide."
    ),
    (
        "Spread is the standard deviation of test accuracy over seeds within a condition, among runs better than "
        "chance, pooled over conditions that both models have; compared by ranks of Helmert contrasts (Mann & Whitney "
        "1947), with an F interval for the ratio."
    ),
    (
        "Interquartile mean and probability of improvement as in Agarwal et al. (2021), over all ended runs, failures "
        "included, with bootstrap intervals over seeds within each condition."
    ),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class StabilityComparison:
    """Two models, over the conditions that both have: their failures, and test accuracies by condition.

    ``learned_accuracies`` are those of runs that learned, ``accuracies`` those of all ended runs.
    """

    first: str
    second: str
    failures: tuple[FailureCounts, FailureCounts]
    learned_accuracies: tuple[list[list[float]], list[list[float]]]
    accuracies: list[tuple[list[float], list[float]]]

    @property
    def failure_counts(self) -> tuple[tuple[int, int], tuple[int, int]]:
        """Failed runs and all runs of both models, in the form that :mod:`analysis.statistics.intervals` takes."""
        return self.failures[0].events_and_trials, self.failures[1].events_and_trials


@dataclass(frozen=True, slots=True, kw_only=True)
class StabilityVerdict:
    """The verdict on two models, its sentence, and the smaller of its two p-values, corrected."""

    p: float
    verdict: str
    sentence: str


def answer(results: Results, rng: np.random.Generator) -> Answer:
    """Compare failures and spread of every two models; the verdict is on the pair that differs most clearly."""
    if single := single_model_answer(results, QUESTION):
        return single
    ended = ended_runs(results)
    seeds = most_seeds(ended)
    pairs = [pair for names in model_pairs(results) if (pair := _compare(results, *names)) is not None]
    tables = [_model_table(results, ended, rng), _pair_table(pairs, rng)]
    if not pairs:
        return Answer(
            question=QUESTION,
            verdict=UNDETERMINED,
            sentence="No two models have ended runs of the same settings.",
            seeds=seeds,
            tables=tables,
            figures=_figures(results, ended),
            methods=METHODS,
            caveats=[*model_specific_caveats(results), *_caveats(pairs, seeds)],
            next_commands=[*paired_search(results, ["model"]), *_next_commands(results)],
        )
    verdicts = [_judge(pair, len(pairs)) for pair in pairs]
    clearest, pair = min(zip(verdicts, pairs, strict=True), key=lambda judged: judged[0].p)
    verdict, sentence = clearest.verdict, clearest.sentence
    if seeds < 2:
        verdict = UNDETERMINED
        sentence = f"With one seed per condition there is no spread to compare. {sentence}"
    by_failures = any(failures.failed for failures in pair.failures)
    estimated = f"spread over seeds of {pair.first} as a multiple of that of {pair.second}"
    if by_failures:
        estimated = f"failure rate of {pair.first} less that of {pair.second}"
    estimate = share_difference(*pair.failure_counts) if by_failures else spread_ratio(*pair.learned_accuracies)[0]
    return Answer(
        question=QUESTION,
        verdict=verdict,
        sentence=sentence,
        estimate=estimate if seeds > 1 else None,
        estimated=estimated,
        unit="points" if by_failures else "number",
        seeds=seeds,
        tables=tables,
        figures=_figures(results, ended),
        methods=METHODS,
        caveats=[*model_specific_caveats(results), *_caveats(pairs, seeds)],
        next_commands=_next_commands(results) if verdict == UNDETERMINED else [],
    )


def _compare(results: Results, first: str, second: str) -> StabilityComparison | None:
    """The two models over the conditions that both have; None where there are none."""
    groups = _with_both(model_strata(results, ended_runs(results)), first, second)
    if not groups:
        return None
    learned = _with_both(model_strata(results, usable_runs(results)), first, second)
    return StabilityComparison(
        first=first,
        second=second,
        failures=(_failures(results, groups, first), _failures(results, groups, second)),
        learned_accuracies=(
            [_accuracies(group, first) for group in learned],
            [_accuracies(group, second) for group in learned],
        ),
        accuracies=[(_accuracies(group, first), _accuracies(group, second)) for group in groups],
    )


def _with_both(groups: Sequence[RunStratum], first: str, second: str) -> list[RunStratum]:
    return [group for group in groups if first in group.arms and second in group.arms]


def _failures(results: Results, groups: Sequence[RunStratum], model: str) -> FailureCounts:
    return count_failures((run for group in groups for run in group.arms[model].members.values()), results.diagnoses)


def _accuracies(group: RunStratum, model: str) -> list[float]:
    return selected_test_accuracies(list(group.arms[model].members.values()))


def _judge(pair: StabilityComparison, comparisons: int) -> StabilityVerdict:
    """Decide by failures first, then by spread, with p-values corrected for the number of ``comparisons``."""
    first, second = pair.failures
    p_failures = min(1.0, fisher_exact(*pair.failure_counts) * comparisons)
    ratio, p = spread_ratio(*pair.learned_accuracies)
    p_spread = 1.0 if math.isnan(p) else min(1.0, p * comparisons)
    failures = (
        f"{first.failed} of {count(first.runs, 'run')} of {pair.first} and {second.failed} of {second.runs} of "
        f"{pair.second} failed"
    )
    spread = "their spreads over seeds cannot be compared"
    if not math.isnan(ratio.value):
        spread = f"the spread of {pair.first} over seeds is {number_estimate(ratio, '.2f')} times that of {pair.second}"
    if p_failures < ALPHA:
        stable = pair.first if first.rate.value < second.rate.value else pair.second
        sentence = f"{stable} is the stable choice: {failures} ({p_value(p_failures)})."
        return StabilityVerdict(p=p_failures, verdict=stable, sentence=sentence)
    if p_spread < ALPHA:
        stable, own, other = (pair.first, first, second) if ratio.value < 1 else (pair.second, second, first)
        if own.rate.value > other.rate.value:
            sentence = f"Spread and failures point to different models: {spread} ({p_value(p_spread)}), but {failures}."
            return StabilityVerdict(p=p_spread, verdict=UNDETERMINED, sentence=sentence)
        sentence = f"{stable} is the stable choice: {spread} ({p_value(p_spread)}), and {failures}."
        return StabilityVerdict(p=p_spread, verdict=stable, sentence=sentence)
    sentence = f"Neither model is shown to be more stable: {failures}, and {spread}."
    return StabilityVerdict(p=min(p_failures, p_spread), verdict=UNDETERMINED, sentence=sentence)


def _model_table(results: Results, ended: Sequence[TrajectoryResult], rng: np.random.Generator) -> Table:
    rows: list[tuple[Value, ...]] = []
    for name, runs in _runs_by_model(results, ended).items():
        accuracies = selected_test_accuracies(runs)
        by_condition = [
            selected_test_accuracies(list(arm.members.values()))
            for group in run_strata(runs, [])
            for arm in group.arms.values()
        ]
        variances = [float(np.var(condition, ddof=1)) for condition in by_condition if len(condition) > 1]
        rows.append(
            (
                name,
                len(runs),
                count_failures(runs, results.diagnoses).rate,
                interquartile_mean_interval(by_condition, rng),
                float(np.sqrt(np.mean(variances))) if variances else None,
                min(accuracies, default=None),
                max(accuracies, default=None),
            )
        )
    return Table(
        title="Each model over all its ended runs",
        columns=("model", "runs", "failure rate", "interquartile mean", "sd over seeds", "lowest", "highest"),
        formats=("t", "n", "%", "%", "%", "%", "%"),
        rows=rows,
        note="Test accuracy of the checkpoints that validation selected; failed runs are included in the interquartile "
        "mean, the standard deviation (within conditions) and the extremes.",
    )


def _runs_by_model(results: Results, runs: Sequence[TrajectoryResult]) -> dict[str, list[TrajectoryResult]]:
    """The runs of each model, by stratum, the models in the plan's order."""
    by_model: dict[str, list[TrajectoryResult]] = {}
    for group in model_strata(results, runs):
        for name, arm in group.arms.items():
            by_model.setdefault(name, []).extend(arm.members.values())
    return {name: by_model[name] for name in model_names(results) if name in by_model}


def _pair_table(pairs: Sequence[StabilityComparison], rng: np.random.Generator) -> Table:
    rows: list[tuple[Value, ...]] = []
    for pair in pairs:
        ratio, p_spread = spread_ratio(*pair.learned_accuracies)
        rows.append(
            (
                f"{pair.first} / {pair.second}",
                share_difference(*pair.failure_counts),
                fisher_exact(*pair.failure_counts),
                ratio,
                p_spread,
                probability_of_improvement(pair.accuracies, rng),
            )
        )
    return Table(
        title="Every two models, over the conditions that both have",
        columns=("models", "failure rate, first less second", "p", "spread, first / second", "p", "first beats second"),
        formats=("t", "+%", "p", ".2", "p", "%"),
        rows=rows,
    )


def _caveats(pairs: Sequence[StabilityComparison], seeds: int) -> list[str]:
    caveats = ["The spread is that of runs that learned; it is smaller for a model whose unstable runs fail."]
    if 1 < seeds < SEEDS_TO_COUNT:
        caveats.append(
            f"With {seeds} seeds per condition, only a large difference of failure rates or spreads can be shown."
        )
    if len(pairs) > 1:
        caveats.append(f"p-values of the verdict are corrected for {len(pairs)} pairs of models (Bonferroni).")
    return caveats


def _next_commands(results: Results) -> list[Command]:
    return [*complete_plan(results), more_seeds(results, "shows spread and failure rates", SEEDS_TO_COUNT)]


def _figures(results: Results, ended: Sequence[TrajectoryResult]) -> list[Figure]:
    bars = [
        Bar(label=name, estimate=count_failures(runs, results.diagnoses).rate, group=name)
        for name, runs in _runs_by_model(results, ended).items()
    ]
    if not bars:
        return []
    caption = "Share of each model's ended runs that failed, over all its conditions, with Clopper-Pearson intervals."
    panel = Forest(title="Failure rate by model", x_label="share of runs", bars=bars, percent=True)
    return [Figure(name="stability", caption=caption, panels=[panel])]
