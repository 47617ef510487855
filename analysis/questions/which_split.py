"""Validation favours one model and test the other: which is right, and is any difference larger than chance?"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from analysis.answer import UNDETERMINED, Answer, Bar, Figure, Table, Value, forests
from analysis.evidence.comparison import (
    EQUIVALENCE,
    correct,
    ended_runs,
    loss,
    model_pairs,
    model_strata,
    most_seeds,
    one_model,
    own_keys,
    own_settings,
    paired_differences,
    read_test_scores,
    usable_runs,
)
from analysis.evidence.conditions import Stratum, words
from analysis.evidence.next_commands import complete_plan, more_seeds, paired
from analysis.results import Results
from analysis.statistics.estimate import Estimate, FloatArray
from analysis.statistics.intervals import mcnemar_exact
from analysis.statistics.multibootstrap import (
    MultiBootstrap,
    example_weights,
    mean_over_seeds_and_examples,
    multibootstrap,
)
from analysis.trajectory_results import TrajectoryResult
from analysis.wording import count, difference, p_value, points

QUESTION = "Validation favours one model, test the other: which is right?"
COUNTS_PRUNED_RUNS = False
ALPHA = 0.05
MOST_ROWS = 60

METHODS = (
    (
        "Both scores are those of the same checkpoint, which validation chose; test is scored once. Models are "
        "compared on the same seeds and the same examples, all other settings equal, among runs better than chance."
    ),
    (
        "Paired bootstrap over seeds and examples at once (Sellam et al. 2022, the MultiBERTs), seeds within each "
        "condition stretched for their small number (Rao & Wu 1988), with Student's t on Satterthwaite's (1946) "
        "degrees of freedom."
    ),
    "Exact McNemar (1947) test for each condition and seed: it knows the examples' chance, and not the seeds'.",
    "The smallest difference that this design can show is the one it would find with 80 % power (Cohen 1988).",
    f"No difference: the whole interval lies within {points(EQUIVALENCE)} (two one-sided tests, Schuirmann 1987).",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """first - second, on validation and on test, and the difference of the two differences."""

    first: str
    second: str
    validation: MultiBootstrap
    test: MultiBootstrap
    test_loss: MultiBootstrap
    disagreement: Estimate
    runs: int


def answer(results: Results, rng: np.random.Generator) -> Answer:
    """Compare every two models; the verdict is on the two that are furthest apart on test."""
    if alone := one_model(results, QUESTION):
        return alone
    usable = usable_runs(results)
    read_test_scores(results, usable)
    groups = model_strata(results, usable)
    pairs = [pair for names in model_pairs(results) if (pair := _pair(results, groups, *names, rng))]
    seeds = most_seeds(usable)
    if not pairs:
        sentence = "No two models have ended runs, better than chance, of the same settings and seeds."
        return Answer(
            question=QUESTION,
            verdict=UNDETERMINED,
            sentence=sentence,
            seeds=seeds,
            next_commands=[
                *paired(results, ["model"]),
                *complete_plan(results),
                more_seeds(results, "adds runs that learn"),
            ],
        )
    pair = max(pairs, key=lambda one: abs(one.test.value) / (one.test.standard_error or math.inf))
    verdict, sentence = _verdict(pair, seeds, comparisons=len(pairs))
    return Answer(
        question=QUESTION,
        verdict=verdict,
        sentence=sentence,
        estimate=pair.test.estimate(),
        estimated=f"test accuracy of {pair.first} less that of {pair.second}",
        seeds=seeds,
        tables=[_table(pairs), _by_condition(results, groups, pairs), _mcnemar(results, groups, pairs)],
        figures=_figures(pairs),
        methods=METHODS,
        caveats=[*own_settings(results), *_caveats(results, usable, pair, pairs)],
        next_commands=[more_seeds(results, "narrows the interval")] if verdict == UNDETERMINED else [],
    )


def _pair(
    results: Results, groups: Sequence[Stratum[TrajectoryResult]], first: str, second: str, rng: np.random.Generator
) -> Pair | None:
    validation = paired_differences(results, groups, first, second, "validation", correct)
    test = paired_differences(results, groups, first, second, "test", correct)
    if not validation or not test:
        return None
    on_validation = multibootstrap(validation, example_weights(validation[0].shape[1], rng), rng)
    weights = example_weights(test[0].shape[1], rng)
    on_test = multibootstrap(test, weights, rng)
    losses = multibootstrap(paired_differences(results, groups, first, second, "test", loss), weights, rng)
    return Pair(
        first=first,
        second=second,
        validation=on_validation,
        test=on_test,
        test_loss=losses,
        disagreement=_disagreement(validation, test),
        runs=sum(map(len, test)),
    )


def _disagreement(validation: Sequence[FloatArray], test: Sequence[FloatArray]) -> Estimate:
    """Validation's difference less test's, for the same seeds: only the examples' chance, and what depends on both.

    A run's seed moves both of its scores, so that the seeds' own spread of the difference is what counts, together
    with the chance of which examples came into which split (a normal approximation, at thousands of examples).
    """
    value = float(np.mean([v.mean() for v in validation]) - np.mean([t.mean() for t in test]))
    by_example = [sum(part.mean(axis=0) for part in parts) / len(parts) for parts in (validation, test)]
    error = math.sqrt(sum(float(np.var(one, ddof=1)) / len(one) for one in by_example))
    return Estimate(value=value, low=value - 1.96 * error, high=value + 1.96 * error, seeds=min(map(len, test)))


def _verdict(pair: Pair, seeds: int, comparisons: int) -> tuple[str, str]:
    estimate, p = pair.test.estimate(), min(1.0, pair.test.p_value * comparisons)
    names = f"{pair.first} less {pair.second}"
    told = f"{names} is {difference(estimate)} on test and {difference(pair.validation.estimate())} on validation"
    if seeds < 2 or not math.isfinite(p):
        return UNDETERMINED, f"With one seed of each condition, {told}; how much of that is the seed is not known."
    apart = " The two splits disagree by more than chance, which points to a fault in the pipeline."
    tail = apart if pair.disagreement.excludes_zero else " The two splits agree within chance."
    if p < ALPHA:
        better = pair.first if estimate.value > 0 else pair.second
        return (
            better,
            (
                f"{better} is better on test: {told}, over {count(pair.runs, 'pair of runs', 'pairs of runs')} "
                f"({p_value(p)}).{tail}"
            ),
        )
    if estimate.low > -EQUIVALENCE and estimate.high < EQUIVALENCE:
        return "neither", f"Neither model is better by {points(EQUIVALENCE)} or more: {told}.{tail}"
    return (
        UNDETERMINED,
        (
            f"Neither split shows which is better: {told}, and these runs would only find a difference of "
            f"{points(pair.test.detectable)} or more.{tail}"
        ),
    )


def _table(pairs: Sequence[Pair]) -> Table:
    rows: list[tuple[Value, ...]] = [
        (
            f"{pair.first} less {pair.second}",
            pair.runs,
            pair.validation.estimate(),
            pair.test.estimate(),
            pair.test_loss.estimate(),
            pair.test.p_value,
            pair.test.detectable,
            pair.disagreement,
        )
        for pair in pairs
    ]
    return Table(
        title="Models compared on the same seeds and examples",
        columns=(
            "difference",
            "pairs of runs",
            "validation accuracy",
            "test accuracy",
            "test loss",
            "p (test)",
            "smallest that can be shown",
            "validation less test",
        ),
        formats=("t", "n", "+%", "+%", "+.3", "p", "+%", "+%"),
        rows=rows,
        note="p without correction for the number of pairs; the verdict corrects (Bonferroni)."
        if len(pairs) > 1
        else "",
    )


def _by_condition(results: Results, groups: Sequence[Stratum[TrajectoryResult]], pairs: Sequence[Pair]) -> Table:
    keys = [key for key in results.varying_trained if key not in ("seed", "model", *own_keys(results))]
    rows: list[tuple[Value, ...]] = []
    for group in groups:
        for pair in pairs:
            found = [
                paired_differences(results, [group], pair.first, pair.second, s, correct)
                for s in ("validation", "test")
            ]
            if not found[1]:
                continue
            estimates = [mean_over_seeds_and_examples(one[0]) for one in found]
            rows.append((words(group.settings, keys), f"{pair.first} less {pair.second}", len(found[1][0]), *estimates))
    return Table(
        title="The same by condition",
        columns=("condition", "difference", "seeds", "validation accuracy", "test accuracy"),
        formats=("t", "t", "n", "+%", "+%"),
        rows=rows,
        most_rows=MOST_ROWS,
    )


def _mcnemar(results: Results, groups: Sequence[Stratum[TrajectoryResult]], pairs: Sequence[Pair]) -> Table:
    keys = [key for key in results.varying_trained if key not in ("seed", "model", *own_keys(results))]
    rows: list[tuple[Value, ...]] = []
    for group in groups:
        for pair in pairs:
            if pair.first not in group.arms or pair.second not in group.arms:
                continue
            for seed in group.shared_seeds(pair.first, pair.second):
                one, other = (
                    results.scored(group.arms[arm].members[seed].owner, "test") for arm in (pair.first, pair.second)
                )
                if one is not None and other is not None:
                    only_first, only_second, p = mcnemar_exact(one.correct, other.correct)
                    name = f"{pair.first} / {pair.second}"
                    rows.append((words(group.settings, keys), name, seed, only_first, only_second, p))
    return Table(
        title="McNemar's exact test for each seed, on test",
        columns=("condition", "models", "seed", "only the first right", "only the second right", "p"),
        formats=("t", "t", "n", "n", "n", "p"),
        rows=rows,
        most_rows=MOST_ROWS,
    )


def _caveats(results: Results, usable: Sequence[TrajectoryResult], pair: Pair, pairs: Sequence[Pair]) -> list[str]:
    caveats = []
    left_out = len(ended_runs(results)) - len(usable)
    if left_out:
        caveats.append(
            f"{count(left_out, 'run')} no better than chance on validation are left out. How often that happens is a "
            "difference between models of its own (see failures and stability)."
        )
    if np.sign(pair.validation.value) != np.sign(pair.test.value):
        caveats.append("The splits point to different models; with intervals this wide that is what chance does.")
    if len(pairs) > 1:
        caveats.append(f"{len(pairs)} pairs of models were looked at, and the verdict is on the clearest of them.")
    if pair.validation.seeds < 3:
        caveats.append(
            "With so few seeds for a condition the interval leans on their spread being like that of others."
        )
    return caveats


def _figures(pairs: Sequence[Pair]) -> list[Figure]:
    bars = [
        Bar(label=f"{pair.first} less {pair.second}, {split}", estimate=found.estimate(), group=split)
        for pair in pairs
        for split, found in (("validation", pair.validation), ("test", pair.test))
    ]
    caption = "Difference of accuracy between models on the same seeds and examples, with 95 % intervals."
    panels = forests("Difference of accuracy", "difference", bars, reference=0.0, percent=True)
    return [Figure(name="validation-and-test", caption=caption, panels=panels)]
