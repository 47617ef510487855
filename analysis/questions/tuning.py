"""The question of which model is better when each is tuned, and at which budget."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from statistics import fmean

import numpy as np

from analysis.answer import UNDETERMINED, Answer, Claim, Command, Table, Value
from analysis.evidence.comparison import (
    EQUIVALENCE,
    ended_runs,
    model_names,
    model_specific_caveats,
    most_seeds,
    seed_scores,
    single_model_answer,
)
from analysis.evidence.conditions import describe
from analysis.evidence.cross_fitting import METHOD as CROSS_FITTING
from analysis.evidence.cross_fitting import held_out
from analysis.evidence.effects import correct_or_chance
from analysis.evidence.next_commands import complete_plan, extend, longer_search, more_seeds
from analysis.evidence.trials import objective_gain
from analysis.results import Results
from analysis.selection import curves
from analysis.selection.equal_budgets import (
    FEWEST_CANDIDATES,
    Candidate,
    EqualBudgets,
    accuracy_or_chance,
    equal_budgets,
)
from analysis.selection.halving import METHODS as HALVING_METHODS
from analysis.selection.halving import halving_caveat, halving_table
from analysis.statistics.clustered_means import ClusteredMean, mean_over_strata
from analysis.wording import join_words, p_value, points, points_estimate, upper_first
from study.scoring import METRICS

QUESTION = "Which model is better when each is tuned?"
COUNTS_PRUNED_RUNS = True

GRID = "Each model is given the same configurations, of which validation selects; test has no part in the selection."


def answer(results: Results, rng: np.random.Generator) -> Answer:
    """Compare what validation selected for each model; the verdict is on the two best by validation."""
    budgets = equal_budgets(results)
    single = single_model_answer(results, QUESTION)
    if budgets.size == 0:
        return single or _no_budgets(results)
    best = [max(candidates, key=lambda candidate: candidate.gain) for candidates in budgets.candidates.values()]
    best.sort(key=lambda candidate: -candidate.gain)
    seeds = max(len(candidate.cells) for candidate in best) if results.searching else most_seeds(ended_runs(results))
    halving = halving_table(results, rng)
    evidence = Answer(
        question=QUESTION,
        verdict=UNDETERMINED,
        sentence="",
        seeds=seeds,
        tables=[
            _table(results, best),
            curves.curves_table(budgets),
            *([halving] if halving else []),
        ],
        figures=[curves.curves_figure(budgets, rng)],
        methods=(
            *_methods(results, budgets),
            *curves.methods(budgets, trials_are_runs=not results.searching),
            *(HALVING_METHODS if halving else ()),
        ),
        caveats=_caveats(results, budgets, best, seeds),
    )
    if single:
        return replace(evidence, verdict=single.verdict, sentence=single.sentence, next_commands=single.next_commands)
    first, second = best[0].model, best[1].model
    difference = _compare(results, budgets.candidates[first], budgets.candidates[second])
    return replace(
        evidence,
        sentence=_undetermined(first, second, difference, budgets),
        claim=_claim(first, second, difference, budgets),
        estimate=difference.estimate() if difference else None,
        estimated=f"test accuracy of {first} minus that of {second}, each as validation selects it on other seeds",
        next_commands=_next_commands(results, budgets, seeds),
    )


def _no_budgets(results: Results) -> Answer:
    sentence = "No configuration has ended runs of every model, so budgets are not equal."
    if results.searching:
        models = join_words(model_names(results))
        sentence = f"Not all of {models} have complete trials, so budgets are not equal."
    return Answer(
        question=QUESTION,
        verdict=UNDETERMINED,
        sentence=sentence,
        seeds=most_seeds(ended_runs(results)),
        next_commands=complete_plan(results),
    )


def _methods(results: Results, budgets: EqualBudgets) -> list[str]:
    if not results.searching:
        return [GRID, CROSS_FITTING]
    search = results.search
    owner = "the same for all models" if budgets.shared else "each model's own"
    metric = f"{METRICS[search.objective].best_word} mean {search.objective}"
    return [
        (
            f"Budgets are equal: {budgets.description}, complete trials only, in the order of their numbers. They were "
            f"chosen by {search.chooser}, and are {owner}. The trial with the {metric} over seeds on validation is "
            "selected; test has no part in the selection."
        ),
        CROSS_FITTING,
    ]


def _compare(results: Results, first: Sequence[Candidate], second: Sequence[Candidate]) -> ClusteredMean | None:
    """First - second on test, each as the other seeds select it; None where too few seeds are shared."""
    chosen = [
        held_out(
            [candidate.cells for candidate in candidates],
            lambda cells: objective_gain(results, cells),
        )
        for candidates in (first, second)
    ]
    cells = [cell for by_seed in chosen for cell in by_seed.values()]
    results.predictions.preload(cells, ["test"])
    by_seed = {}
    for seed in sorted(chosen[0].keys() & chosen[1].keys()):
        a, b = (correct_or_chance(results, of_model[seed]) for of_model in chosen)
        if a is not None and b is not None:
            by_seed[seed] = a - b
    scores = seed_scores(by_seed)
    return mean_over_strata([scores]) if scores is not None else None


def _undetermined(first: str, second: str, difference: ClusteredMean | None, budgets: EqualBudgets) -> str:
    """The sentence where no difference is shown."""
    if difference is None:
        return "The configurations of the two models share too few seeds to select on some and to score another."
    evidence = upper_first(_evidence(first, second, difference, budgets))
    if budgets.size < FEWEST_CANDIDATES:
        return f"{evidence}; but a selection from so few is not tuning."
    return f"{evidence}; the smallest difference detectable with 80 % power is {points(difference.detectable)}."


def _evidence(first: str, second: str, difference: ClusteredMean, budgets: EqualBudgets) -> str:
    return (
        f"with {budgets.description}, each selected on the other seeds, {first} minus {second} is "
        f"{points_estimate(difference.estimate())} on test"
    )


def _claim(first: str, second: str, difference: ClusteredMean | None, budgets: EqualBudgets) -> Claim | None:
    if difference is None or difference.degrees_of_freedom == 0 or budgets.size < FEWEST_CANDIDATES:
        return None
    evidence = _evidence(first, second, difference, budgets)
    p, p_none = difference.p_value, difference.p_equivalence(EQUIVALENCE)
    if p <= p_none:
        better = first if difference.value > 0 else second
        sentence = f"{better} is better when tuned: {evidence} ({p_value(p)})."
        return Claim(family="scores", p_value=p, verdict=better, sentence=sentence)
    sentence = f"When tuned, neither is better by {points(EQUIVALENCE)} or more: {evidence}."
    return Claim(family="scores", p_value=p_none, verdict="neither", sentence=sentence)


def _table(results: Results, best: Sequence[Candidate]) -> Table:
    varying = results.varying if results.searching else results.varying_trained
    keys = [key for key in varying if key not in ("seed", "model")]
    rows: list[tuple[Value, ...]] = []
    for candidate in best:
        cells = list(candidate.cells.values())
        losses = [cell.chosen.test["loss"] for cell in cells if cell.chosen and cell.chosen.test]
        rows.append(
            (
                candidate.model,
                describe(candidate.settings, keys),
                len(cells),
                fmean(accuracy_or_chance(results, cell, "validation") for cell in cells),
                fmean(accuracy_or_chance(results, cell, "test") for cell in cells),
                float(np.mean(losses)) if losses else None,
            )
        )
    return Table(
        title="What validation selected for each model, at equal budgets",
        columns=("model", "configuration", "seeds", "validation accuracy", "test accuracy", "test loss"),
        formats=("t", "t", "n", "%", "%", ".3"),
        rows=rows,
    )


def _caveats(results: Results, budgets: EqualBudgets, best: Sequence[Candidate], seeds: int) -> list[str]:
    caveats = [*model_specific_caveats(results), *budgets.caveats]
    if len(best) > 2:
        caveats.append("The verdict is on the two models that were best on validation.")
    if 1 < seeds < 3:
        caveats.append("Two seeds say little about the spread of the selected configurations.")
    if caveat := halving_caveat(results):
        caveats.append(caveat)
    return caveats


def _next_commands(results: Results, budgets: EqualBudgets, seeds: int) -> list[Command]:
    commands = complete_plan(results)
    if seeds < 2:
        commands.append(more_seeds(results, "separates the configuration from the seed"))
    if budgets.size < FEWEST_CANDIDATES and results.searching:
        commands.append(longer_search(results, "gives every model more trials to select from"))
    elif budgets.size < FEWEST_CANDIDATES:
        rates = sorted({cell.settings.learning_rate for cell in results.plan.cells})
        more_rates = {"learning_rate": [rates[0] / 2, 2 * rates[-1]]}
        commands.append(extend(results, "adds learning rates to select from", more_rates))
    return commands or [more_seeds(results, "narrows the interval")]
