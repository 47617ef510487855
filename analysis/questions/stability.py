"""The question of which model is the stable choice: how often each fails, and how far its seeds spread."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from analysis.answer import UNDETERMINED, Answer, Bar, Claim, Figure, Table, Value, forests
from analysis.evidence.comparison import (
    RunStratum,
    ended_runs,
    model_names,
    model_pairs,
    model_specific_caveats,
    model_specific_keys,
    model_strata,
    most_seeds,
    run_strata,
    seed_scores,
    selected_test_accuracies,
    selected_test_accuracy,
    single_model_answer,
    usable_runs,
)
from analysis.evidence.conditions import describe
from analysis.evidence.effects import Effect, correct_or_chance, effect_of
from analysis.evidence.failures import METHODS as FAILURE_METHODS
from analysis.evidence.failures import FailureComparison, compare_failures, rate_of
from analysis.evidence.next_commands import SEEDS_TO_COUNT, complete_plan, more_seeds, paired_search
from analysis.results import Results
from analysis.statistics.intervals import (
    interquartile_mean_interval,
    probability_of_improvement,
    spread_ratio,
)
from analysis.trajectory_results import TrajectoryResult
from analysis.wording import number_estimate, p_value, points, points_estimate, upper_first

QUESTION = "Which model is the stable choice?"
COUNTS_PRUNED_RUNS = False
ALPHA = 0.05
DEPENDS = "depends on the condition"

METHODS = (
    (
        "A model is more stable if its runs fail, or become unstable, less often; where failures do not decide, if its "
        "seeds spread less and it does not fail more often."
    ),
    *FAILURE_METHODS,
    (
        "Spread is the standard deviation of test accuracy over seeds within a condition, among runs better than "
        "chance, over conditions that both models have; compared by ranks of Helmert contrasts (Mann & Whitney 1947), "
        "each over all conditions because a seed number moves them together, with an F interval for the ratio."
    ),
    (
        "The recommendation has one criterion: the test accuracy to expect of one new run whose checkpoint validation "
        "selects, failed runs included with what they score, all conditions equally likely."
    ),
    (
        "Interquartile mean and probability of improvement as in Agarwal et al. (2021), over all ended runs, failures "
        "included, with bootstrap intervals over seeds within each condition."
    ),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class StabilityComparison:
    """Two models, over the conditions that both have: their failures, and test accuracies by condition.

    ``learned_accuracies`` are those of runs that learned, ``accuracies`` those of all ended runs; ``expected`` is the
    difference of test accuracy, failed runs included.
    """

    first: str
    second: str
    failures: FailureComparison
    learned_accuracies: tuple[list[dict[int, float]], list[dict[int, float]]]
    accuracies: list[tuple[list[float], list[float]]]
    expected: Effect | None


def answer(results: Results, rng: np.random.Generator) -> Answer:
    """Compare failures and spread of every two models; the verdict is on the pair that differs most clearly."""
    if single := single_model_answer(results, QUESTION):
        return single
    ended = ended_runs(results)
    results.predictions.preload([run.owner for run in ended], ["test"])
    seeds = most_seeds(ended)
    pairs = [pair for names in model_pairs(results) if (pair := _compare(results, *names)) is not None]
    caveats = [*model_specific_caveats(results), *_caveats(pairs, seeds)]
    commands = [*complete_plan(results), more_seeds(results, "shows spread and failure rates", SEEDS_TO_COUNT)]
    if not pairs:
        return Answer(
            question=QUESTION,
            verdict=UNDETERMINED,
            sentence="No two models have ended runs of the same settings that failed or learned.",
            seeds=seeds,
            tables=[_model_table(results, ended, rng)],
            figures=_figures(results, ended),
            methods=METHODS,
            caveats=caveats,
            next_commands=[*paired_search(results, ["model"]), *commands],
        )
    pair = min(pairs, key=lambda pair: min(pair.failures.p_value, _spread(pair)[1]))
    ratio, _ = spread_ratio(*pair.learned_accuracies)
    by_failures = bool(pair.failures.informative)
    recommended = _recommendation(pair)
    keys = [key for key in results.condition_keys if key not in ("model", *model_specific_keys(results))]
    return Answer(
        question=QUESTION,
        verdict=UNDETERMINED,
        sentence=f"{_undetermined(pair, seeds)}{recommended}",
        claim=_claim(pair, len(pairs), recommended) if seeds > 1 else None,
        estimate=(pair.failures.difference if by_failures else ratio) if seeds > 1 else None,
        estimated=f"rate of {pair.failures.outcome} runs, {pair.first} minus {pair.second}"
        if by_failures
        else f"spread over seeds of {pair.first} as a multiple of that of {pair.second}",
        unit="points" if by_failures else "number",
        seeds=seeds,
        tables=[
            *(pair.failures.table(keys) for pair in pairs),
            _model_table(results, ended, rng),
            _pair_table(pairs, rng),
        ],
        figures=_figures(results, ended),
        methods=METHODS,
        caveats=caveats,
        next_commands=commands,
    )


def _compare(results: Results, first: str, second: str) -> StabilityComparison | None:
    """The two models over the conditions that both have; None where there are none."""
    groups = _with_both(model_strata(results, ended_runs(results)), first, second)
    failures = compare_failures(groups, first, second, results.diagnoses)
    if failures is None:
        return None
    learned = _with_both(model_strata(results, usable_runs(results)), first, second)
    return StabilityComparison(
        first=first,
        second=second,
        failures=failures,
        learned_accuracies=(
            [_by_seed(group, first) for group in learned],
            [_by_seed(group, second) for group in learned],
        ),
        accuracies=[(_accuracies(group, first), _accuracies(group, second)) for group in groups],
        expected=_expected(results, groups, first, second),
    )


def _expected(results: Results, groups: Sequence[RunStratum], first: str, second: str) -> Effect | None:
    """The difference of test accuracy between the models, failed runs included."""
    named = []
    for group in groups:
        by_seed = {}
        for seed in group.shared_seeds(first, second):
            a, b = (correct_or_chance(results, group.arms[arm].members[seed].owner) for arm in (first, second))
            if a is not None and b is not None:
                by_seed[seed] = a - b
        named.append((describe(group.settings, results.condition_keys), seed_scores(by_seed)))
    return effect_of(named)


def _with_both(groups: Sequence[RunStratum], first: str, second: str) -> list[RunStratum]:
    return [group for group in groups if first in group.arms and second in group.arms]


def _accuracies(group: RunStratum, model: str) -> list[float]:
    return selected_test_accuracies(list(group.arms[model].members.values()))


def _by_seed(group: RunStratum, model: str) -> dict[int, float]:
    accuracies = {seed: selected_test_accuracy(run) for seed, run in group.arms[model].members.items()}
    return {seed: accuracy for seed, accuracy in accuracies.items() if accuracy is not None}


def _spread(pair: StabilityComparison) -> tuple[float, float]:
    """The ratio of the spreads and its p-value; 1 where they cannot be compared."""
    ratio, p = spread_ratio(*pair.learned_accuracies)
    return ratio.value, 1.0 if math.isnan(p) else p


def _undetermined(pair: StabilityComparison, seeds: int) -> str:
    """The sentence where neither model is shown to be more stable."""
    evidence = upper_first(pair.failures.evidence)
    if seeds < 2:
        return f"{evidence}; with one seed per condition there is no spread to compare."
    return f"Neither model is shown to be more stable. {evidence}; {_spread_in_words(pair)}."


def _spread_in_words(pair: StabilityComparison) -> str:
    ratio, p = spread_ratio(*pair.learned_accuracies)
    if math.isnan(ratio.value):
        return "their spreads over seeds cannot be compared"
    spread = number_estimate(ratio, ".2f")
    return f"the spread of {pair.first} over seeds is {spread} times that of {pair.second} ({p_value(p)})"


def _claim(pair: StabilityComparison, comparisons: int, recommended: str) -> Claim | None:
    """That one model fails less often or, where failures show nothing, spreads less."""
    failures = pair.failures
    if failures.p_opposite < min(ALPHA, failures.p_value):
        return Claim(
            family="failures",
            p_value=min(1.0, failures.p_opposite * comparisons),
            verdict=DEPENDS,
            sentence=f"Which model fails less often depends on the condition: {failures.evidence}.{recommended}",
        )
    p_failures = min(1.0, failures.p_value * comparisons)
    ratio, p = _spread(pair)
    p_spread = min(1.0, p * comparisons)
    if failures.attainable and (p_failures < ALPHA or p_failures <= p_spread):
        stable = failures.fewer
        what = "fail" if failures.outcome == "failed" else "become unstable"
        sentence = f"Runs of {stable} {what} less often: {failures.evidence}.{recommended}"
        return Claim(family="failures", p_value=p_failures, verdict=stable, sentence=sentence)
    stable = pair.first if ratio < 1 else pair.second
    if math.isnan(ratio) or (failures.informative and failures.fewer != stable):
        return None
    sentence = f"Seeds of {stable} spread less: {_spread_in_words(pair)}, and {failures.evidence}.{recommended}"
    return Claim(family="scores", p_value=p_spread, verdict=stable, sentence=sentence)


def _recommendation(pair: StabilityComparison) -> str:
    """Which model to expect more of, failures included, in a sentence after a space."""
    if pair.expected is None:
        return ""
    mean = pair.expected.mean
    first, second = (pair.first, pair.second) if mean.value >= 0 else (pair.second, pair.first)
    if not pair.expected.replicated:
        return ""
    estimate = mean.estimate()
    if not estimate.excludes_zero:
        return (
            f" Of one new run, failures included, neither model can be expected to score more on test "
            f"({pair.first} minus {pair.second}: {points_estimate(estimate)})."
        )
    return (
        f" Of one new run, failures included, {first} can be expected to score {points(abs(mean.value))} more on test "
        f"than {second} ({pair.first} minus {pair.second}: {points_estimate(estimate)})."
    )


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
                sum(results.diagnoses[run.trajectory.id].failed for run in runs),
                sum(results.diagnoses[run.trajectory.id].unstable for run in runs),
                interquartile_mean_interval(by_condition, rng),
                float(np.sqrt(np.mean(variances))) if variances else None,
                min(accuracies, default=None),
                max(accuracies, default=None),
            )
        )
    return Table(
        title="Each model over all its ended runs",
        columns=("model", "runs", "failed", "unstable", "interquartile mean", "sd over seeds", "lowest", "highest"),
        formats=("t", "n", "n", "n", "%", "%", "%", "%"),
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
                pair.failures.difference,
                pair.failures.p_value,
                ratio,
                p_spread,
                probability_of_improvement(pair.accuracies, rng),
                pair.expected.mean.estimate() if pair.expected else None,
            )
        )
    return Table(
        title="Every two models, over the conditions that both have",
        columns=(
            "models",
            "failure rate, first minus second",
            "p",
            "spread, first / second",
            "p",
            "first beats second",
            "expected accuracy, first minus second",
        ),
        formats=("t", "+%", "p", ".2", "p", "%", "+%"),
        rows=rows,
        note="The failure rates are those of the conditions in which some runs failed.",
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


def _figures(results: Results, ended: Sequence[TrajectoryResult]) -> list[Figure]:
    """Failure rates of the conditions with several seeds: one run's rate has no interval worth drawing."""
    bars = [
        Bar(
            label=describe(group.settings, results.condition_keys),
            estimate=rate_of(list(arm.members.values()), results.diagnoses),
            group=next(iter(arm.members.values())).model,
        )
        for group in run_strata(ended, [])
        for arm in group.arms.values()
        if len(arm.members) > 1
    ]
    if not bars:
        return []
    caption = "Share of runs that failed, condition by condition, with Clopper-Pearson intervals."
    return [
        Figure(
            name="stability",
            caption=caption,
            panels=forests("Failure rate by model", "share of runs", bars, percent=True),
        )
    ]
