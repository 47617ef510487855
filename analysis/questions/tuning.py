"""The question which model is better when each is tuned, at which budget, and which settings matter."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from statistics import fmean

import numpy as np

from analysis.answer import UNDETERMINED, Answer, Command, Table, Value
from analysis.evidence.comparison import (
    EQUIVALENCE,
    correctness,
    ended_runs,
    model_names,
    model_specific_caveats,
    most_seeds,
    single_model_answer,
)
from analysis.evidence.conditions import describe
from analysis.evidence.next_commands import complete_plan, extend, longer_search, more_seeds
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
from analysis.selection.importance import importance
from analysis.statistics.estimate import FloatArray
from analysis.statistics.multibootstrap import MultiBootstrap, example_weights, multibootstrap
from analysis.wording import join_words, p_value, points, points_estimate, upper_first
from study.scoring import METRICS

QUESTION = "Which model is better when each is tuned?"
COUNTS_PRUNED_RUNS = True
ALPHA = 0.05

UNCORRECTED = (
    "since test had no part in the selection, the comparison of the selected configurations needs no correction for "
    "the search."
)
GRID = (
    "Each model is given the same configurations. The best by mean validation accuracy over seeds is scored on test "
    f"once; {UNCORRECTED}"
)
COMPARISON = (
    "The selected configurations are compared by a bootstrap over seeds and test examples (Sellam et al. 2022)."
)


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
    importances = importance(results)
    evidence = Answer(
        question=QUESTION,
        verdict=UNDETERMINED,
        sentence="",
        seeds=seeds,
        tables=[
            _table(results, best),
            curves.curves_table(budgets),
            *([halving] if halving else []),
            *importances.tables,
        ],
        figures=[curves.curves_figure(budgets, rng)],
        methods=(
            *_methods(results, budgets),
            *curves.methods(budgets, trials_are_runs=not results.searching),
            *(HALVING_METHODS if halving else ()),
            *importances.methods,
        ),
        caveats=_caveats(results, budgets, best, seeds),
    )
    if single:
        return replace(evidence, sentence=single.sentence, next_commands=single.next_commands)
    difference = _compare(results, best[0], best[1], rng)
    verdict, sentence = _verdict(best, difference, budgets, seeds)
    return replace(
        evidence,
        verdict=verdict,
        sentence=sentence,
        estimate=difference.estimate() if difference else None,
        estimated=f"test accuracy of {best[0].model} less that of {best[1].model}, each as validation selected it",
        next_commands=_next_commands(results, budgets, seeds) if verdict == UNDETERMINED else [],
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
        return [GRID, COMPARISON]
    search = results.search
    owner = "the same for all models" if budgets.shared else "each model's own"
    metric = f"{METRICS[search.objective].best_word} mean {search.objective}"
    return [
        (
            f"Budgets are equal: {budgets.description}, complete trials only, in the order of their numbers. They were "
            f"chosen by {search.chooser}, and are {owner}. The trial with the {metric} over seeds on validation is "
            f"scored on test once; {UNCORRECTED}"
        ),
        COMPARISON,
    ]


def _compare(results: Results, first: Candidate, second: Candidate, rng: np.random.Generator) -> MultiBootstrap | None:
    """The difference of test accuracy on the same seeds and examples; None where no seed has both predictions."""
    differences: list[FloatArray] = []
    results.predictions.preload([*first.cells.values(), *second.cells.values()])
    for seed in sorted(first.cells.keys() & second.cells.keys()):
        of_first, of_second = (
            results.predictions.scores(candidate.cells[seed], "test") for candidate in (first, second)
        )
        if of_first is not None and of_second is not None:
            differences.append(correctness(of_first) - correctness(of_second))
    if not differences:
        return None
    return multibootstrap([np.stack(differences)], example_weights(differences[0].shape[0], rng), rng)


def _verdict(
    best: Sequence[Candidate], difference: MultiBootstrap | None, budgets: EqualBudgets, seeds: int
) -> tuple[str, str]:
    first, second = best[0].model, best[1].model
    if difference is None:
        return UNDETERMINED, "The selected configurations share no seed that has predictions of both."
    estimate = difference.estimate()
    scores = f"the {first} that validation selected scores {points_estimate(estimate)} on test against the {second}"
    if seeds < 2 or difference.seeds < 2:
        sentence = f"With one seed and {budgets.description}, {scores}: the selection may be due to the seed."
        return UNDETERMINED, sentence
    evidence = f"with {budgets.description}, {scores}"
    if budgets.size < FEWEST_CANDIDATES:
        return UNDETERMINED, f"{upper_first(evidence)}, but a selection from so few is not tuning."
    if difference.p_value < ALPHA:
        better = first if estimate.value > 0 else second
        return better, f"{better} is better when tuned: {evidence} ({p_value(difference.p_value)})."
    if estimate.is_zero_within(EQUIVALENCE):
        return "neither", f"When tuned, neither is better by {points(EQUIVALENCE)} or more: {evidence}."
    smallest = points(difference.detectable)
    return UNDETERMINED, f"{upper_first(evidence)}; a difference under {smallest} would not be found."


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
