"""Which model is the stable choice: how often does each fail, and how far do its seeds spread?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from analysis.answer import UNDETERMINED, Answer, Bar, Command, Figure, Forest, Table, Value
from analysis.evidence.comparison import (
    ended_runs,
    model_names,
    model_pairs,
    model_strata,
    most_seeds,
    one_model,
    own_settings,
    run_strata,
    usable_runs,
)
from analysis.evidence.conditions import Stratum
from analysis.evidence.next_commands import SEEDS_TO_COUNT, complete_plan, more_seeds, paired
from analysis.results import Results
from analysis.statistics.intervals import (
    clopper_pearson,
    fisher_exact,
    probability_of_improvement,
    share_difference,
    spread_ratio,
    stratified_bootstrap,
)
from analysis.trajectory_results import TrajectoryResult
from analysis.wording import count, p_value, plain

QUESTION = "Which model is the stable choice?"
COUNTS_PRUNED_RUNS = False
# Two tests can find a difference, of failures and of spread: each is held to half.
ALPHA = 0.025

METHODS = (
    (
        "A model is the more stable if it fails less often (Fisher's exact test) or, where failures do not decide, if "
        "its seeds spread less and do not fail more; each at half the level, since either can decide."
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
class Pair:
    """Two models: failures among their runs of the same conditions, and the ratio of their spreads."""

    first: str
    second: str
    failures: tuple[tuple[int, int], tuple[int, int]]
    spreads: tuple[list[list[float]], list[list[float]]]
    scores: list[tuple[list[float], list[float]]]


def answer(results: Results, rng: np.random.Generator) -> Answer:
    """Compare failures and spread of every two models; the verdict is on the pair that differs most clearly."""
    if alone := one_model(results, QUESTION):
        return alone
    ended = ended_runs(results)
    seeds = most_seeds(ended)
    pairs = [pair for two in model_pairs(results) if (pair := _pair(results, *two)) is not None]
    judged = [(_judge(pair, len(pairs)), pair) for pair in pairs]
    verdict, sentence, pair = UNDETERMINED, "No two models have ended runs of the same settings.", None
    if judged:
        (_, verdict, sentence), pair = min(judged, key=lambda one: one[0][0])
        if seeds < 2:
            verdict, sentence = (
                UNDETERMINED,
                f"With one seed of each condition there is no spread to compare. {sentence}",
            )
    ratio = spread_ratio(*pair.spreads)[0] if pair else None
    by_failure = pair is not None and any(failed for failed, _ in pair.failures)
    estimate = share_difference(*pair.failures) if pair and by_failure else ratio
    return Answer(
        question=QUESTION,
        verdict=verdict,
        sentence=sentence,
        estimate=estimate if seeds > 1 else None,
        estimated=f"{'failure rate' if by_failure else 'spread over seeds'} of {pair.first} "
        f"{'less that' if by_failure else 'as a multiple of that'} of {pair.second}"
        if pair
        else "",
        unit="points" if by_failure else "number",
        seeds=seeds,
        tables=[_by_model(results, ended, rng), _by_pair(pairs, rng)],
        figures=_figures(results, ended),
        methods=METHODS,
        caveats=[*own_settings(results), *_caveats(pairs, seeds)],
        next_commands=[*([] if pairs else paired(results, ["model"])), *_next(results, verdict)],
    )


def _pair(results: Results, first: str, second: str) -> Pair | None:
    """What both models have, over the conditions that both have."""
    diagnoses = results.diagnoses
    ended = model_strata(results, ended_runs(results))
    both = [group for group in ended if first in group.arms and second in group.arms]
    if not both:
        return None
    failures = []
    for name in (first, second):
        found = [diagnoses[run.trajectory.id].failed for group in both for run in group.arms[name].members.values()]
        failures.append((sum(found), len(found)))
    learned = [g for g in model_strata(results, usable_runs(results)) if first in g.arms and second in g.arms]
    return Pair(
        first=first,
        second=second,
        failures=(failures[0], failures[1]),
        spreads=([_scores(group, first) for group in learned], [_scores(group, second) for group in learned]),
        scores=[(_scores(group, first), _scores(group, second)) for group in both],
    )


def _scores(group: Stratum[TrajectoryResult], model: str) -> list[float]:
    return _test_accuracies(list(group.arms[model].members.values()))


def _test_accuracies(runs: Sequence[TrajectoryResult]) -> list[float]:
    scores = [run.owner.chosen.test_score("accuracy") for run in runs if run.owner.chosen]
    return [score for score in scores if score is not None]


def _judge(pair: Pair, comparisons: int) -> tuple[float, str, str]:
    """The smaller of both p-values (corrected), the verdict, and the sentence."""
    (failed_1, runs_1), (failed_2, runs_2) = pair.failures
    p_failures = min(1.0, fisher_exact(*pair.failures) * comparisons)
    ratio, p_spread = spread_ratio(*pair.spreads)
    p_spread = min(1.0, p_spread * comparisons) if p_spread == p_spread else 1.0
    failed = f"{failed_1} of {count(runs_1, 'run')} of {pair.first} and {failed_2} of {runs_2} of {pair.second} failed"
    spread = "their spreads over seeds cannot be compared"
    if ratio.value == ratio.value:
        spread = f"the spread of {pair.first} over seeds is {plain(ratio, '.2f')} times that of {pair.second}"
    if p_failures < ALPHA:
        stable = pair.first if failed_1 / runs_1 < failed_2 / runs_2 else pair.second
        return p_failures, stable, f"{stable} is the stable choice: {failed} ({p_value(p_failures)})."
    if p_spread < ALPHA:
        stable = pair.first if ratio.value < 1 else pair.second
        calmer, other = (failed_1 / runs_1, failed_2 / runs_2)[:: 1 if stable == pair.first else -1]
        if calmer > other:
            against = f"Spread and failures point to different models: {spread} ({p_value(p_spread)}), but {failed}."
            return p_spread, UNDETERMINED, against
        return p_spread, stable, f"{stable} is the stable choice: {spread} ({p_value(p_spread)}), and {failed}."
    return (
        min(p_failures, p_spread),
        UNDETERMINED,
        f"Neither model is shown to be the more stable: {failed}, and {spread}.",
    )


def _by_model(results: Results, ended: Sequence[TrajectoryResult], rng: np.random.Generator) -> Table:
    diagnoses = results.diagnoses
    rows: list[tuple[Value, ...]] = []
    for name, runs in _of_models(results, ended).items():
        failed = sum(diagnoses[run.trajectory.id].failed for run in runs)
        scores = _test_accuracies(runs)
        groups = [_test_accuracies(list(arm.members.values())) for g in run_strata(runs, []) for arm in g.arms.values()]
        deviations = [float(np.var(group, ddof=1)) for group in groups if len(group) > 1]
        spread = float(np.sqrt(np.mean(deviations))) if deviations else None
        low, high = (min(scores), max(scores)) if scores else (None, None)
        rows.append(
            (name, len(runs), clopper_pearson(failed, len(runs)), stratified_bootstrap(groups, rng), spread, low, high)
        )
    return Table(
        title="Each model over all its ended runs",
        columns=("model", "runs", "failure rate", "interquartile mean", "sd over seeds", "lowest", "highest"),
        formats=("t", "n", "%", "%", "%", "%", "%"),
        rows=rows,
        note="Test accuracy of the checkpoints that validation chose; failed runs are in the interquartile mean, the "
        "standard deviation (within conditions) and the extremes.",
    )


def _of_models(results: Results, runs: Sequence[TrajectoryResult]) -> dict[str, list[TrajectoryResult]]:
    found: dict[str, list[TrajectoryResult]] = {}
    for group in model_strata(results, runs):
        for name, arm in group.arms.items():
            found.setdefault(name, []).extend(arm.members.values())
    return {name: found[name] for name in model_names(results) if name in found}


def _by_pair(pairs: Sequence[Pair], rng: np.random.Generator) -> Table:
    rows: list[tuple[Value, ...]] = []
    for pair in pairs:
        ratio, p = spread_ratio(*pair.spreads)
        rows.append(
            (
                f"{pair.first} / {pair.second}",
                share_difference(*pair.failures),
                fisher_exact(*pair.failures),
                ratio,
                p,
                probability_of_improvement(pair.scores, rng),
            )
        )
    return Table(
        title="Every two models, over the conditions that both have",
        columns=("models", "failure rate, first less second", "p", "spread, first / second", "p", "first beats second"),
        formats=("t", "+%", "p", ".2", "p", "%"),
        rows=rows,
    )


def _caveats(pairs: Sequence[Pair], seeds: int) -> list[str]:
    caveats = [
        "The spread is that of runs which learned; a model whose unstable runs fail altogether looks the calmer for it."
    ]
    if 1 < seeds < SEEDS_TO_COUNT:
        caveats.append(
            f"With {seeds} seeds for a condition, only a large difference of failure rates or spreads can be shown."
        )
    if len(pairs) > 1:
        caveats.append(f"p-values of the verdict are corrected for {len(pairs)} pairs of models (Bonferroni).")
    return caveats


def _next(results: Results, verdict: str) -> list[Command]:
    if verdict != UNDETERMINED:
        return []
    return [*complete_plan(results), more_seeds(results, "shows spread and failure rates", SEEDS_TO_COUNT)]


def _figures(results: Results, ended: Sequence[TrajectoryResult]) -> list[Figure]:
    diagnoses = results.diagnoses
    bars = []
    for name, runs in _of_models(results, ended).items():
        failed = sum(diagnoses[run.trajectory.id].failed for run in runs)
        bars.append(Bar(label=name, estimate=clopper_pearson(failed, len(runs)), group=name))
    if not bars:
        return []
    caption = "Share of each model's ended runs that failed, over all its conditions, with Clopper-Pearson intervals."
    panel = Forest(title="Failure rate by model", x_label="share of runs", bars=bars, percent=True)
    return [Figure(name="stability", caption=caption, panels=[panel])]
