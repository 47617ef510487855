"""Which model is better when each is tuned, how does that depend on the budget, and which settings matter?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from statistics import fmean

import numpy as np

from analysis.answer import UNDETERMINED, Answer, Command, Table, Value
from analysis.evidence.comparison import (
    EQUIVALENCE,
    correct,
    ended_runs,
    model_names,
    most_seeds,
    one_model,
    own_settings,
)
from analysis.evidence.conditions import words
from analysis.evidence.next_commands import complete_plan, grow, longer_search, more_seeds
from analysis.results import Results
from analysis.selection import curves
from analysis.selection.equal_budgets import FEWEST_TRIALS, Budget, Candidate, accuracy, equal_budgets
from analysis.selection.halving import METHODS as HALVING
from analysis.selection.halving import halving_caveat, halving_table
from analysis.selection.importance import importance
from analysis.statistics.estimate import FloatArray
from analysis.statistics.multibootstrap import MultiBootstrap, example_weights, multibootstrap
from analysis.wording import difference, listed, p_value, points
from study.scoring import METRICS

QUESTION = "Which model is better when each is tuned?"
COUNTS_PRUNED_RUNS = True
ALPHA = 0.05

GRID = (
    "Each model is given the same configurations. The best by mean validation accuracy over seeds is scored on test "
    "once; since test had no part in the choice, the comparison of the chosen ones needs no correction for the search."
)
COMPARED = "The chosen configurations are compared by a bootstrap over seeds and test examples (Sellam et al. 2022)."


def answer(results: Results, rng: np.random.Generator) -> Answer:
    """Compare what validation chose for each model; the verdict is on the two best by validation."""
    budget = equal_budgets(results)
    alone = one_model(results, QUESTION)
    if budget.size == 0:
        return alone or _nothing(results)
    best = [max(found, key=lambda one: one.worth) for found in budget.candidates.values()]
    best.sort(key=lambda one: -one.worth)
    halving = halving_table(results, rng)
    weights = importance(results)
    evidence = Answer(
        question=QUESTION,
        verdict=UNDETERMINED,
        sentence="",
        seeds=_seeds(results, best),
        tables=[
            _table(results, best),
            curves.curves_table(budget),
            *([halving] if halving else []),
            *weights.tables,
        ],
        figures=[curves.curves_figure(budget, rng)],
        methods=(
            *_methods(results, budget),
            *curves.methods(budget, trials_are_runs=not results.searching),
            *(HALVING if halving else ()),
            *weights.methods,
        ),
        caveats=_caveats(results, budget, best, _seeds(results, best)),
    )
    if alone:
        return replace(evidence, sentence=alone.sentence, next_commands=alone.next_commands)
    found = _compare(results, best[0], best[1], rng)
    verdict, sentence = _verdict(best, found, budget, evidence.seeds)
    return replace(
        evidence,
        verdict=verdict,
        sentence=sentence,
        estimate=found.estimate() if found else None,
        estimated=f"test accuracy of {best[0].model} less that of {best[1].model}, each as validation chose it",
        next_commands=_next(results, verdict, budget, evidence.seeds),
    )


def _nothing(results: Results) -> Answer:
    sentence = "No configuration has ended runs of every model, so budgets are not equal."
    if results.searching:
        sentence = f"There are no complete trials of all of {listed(model_names(results))}, so budgets are not equal."
    return Answer(
        question=QUESTION,
        verdict=UNDETERMINED,
        sentence=sentence,
        seeds=most_seeds(ended_runs(results)),
        next_commands=complete_plan(results),
    )


def _seeds(results: Results, best: Sequence[Candidate]) -> int:
    return max(len(one.cells) for one in best) if results.searching else most_seeds(ended_runs(results))


def _methods(results: Results, budget: Budget) -> list[str]:
    if not results.searching:
        return [GRID, COMPARED]
    search = results.search
    paired = "the same for all models" if budget.shared else "each model's own"
    metric = f"{METRICS[search.objective].best_word} mean {search.objective}"
    return [
        (
            f"Budgets are equal: {budget.told}, complete ones alone, in the order of their numbers. "
            f"They were chosen by {search.chooser}, and are {paired}. The trial of the {metric} over seeds on "
            "validation is scored on test once; since test had no part in the choice, the comparison of the chosen "
            "ones needs no correction for the search."
        ),
        COMPARED,
    ]


def _compare(results: Results, first: Candidate, second: Candidate, rng: np.random.Generator) -> MultiBootstrap | None:
    rows: list[FloatArray] = []
    results.read_ahead([*first.cells.values(), *second.cells.values()])
    for seed in sorted(first.cells.keys() & second.cells.keys()):
        one, other = (results.scored(chosen.cells[seed], "test") for chosen in (first, second))
        if one is not None and other is not None:
            rows.append(correct(one) - correct(other))
    if not rows:
        return None
    return multibootstrap([np.stack(rows)], example_weights(rows[0].shape[0], rng), rng)


def _verdict(best: Sequence[Candidate], found: MultiBootstrap | None, budget: Budget, seeds: int) -> tuple[str, str]:
    first, second = best[0].model, best[1].model
    if found is None:
        return UNDETERMINED, "The chosen configurations share no seed whose predictions are there."
    estimate = found.estimate()
    told = (
        f"with {budget.told}, the {first} that validation chose scores {difference(estimate)} on test against the "
        f"{second}"
    )
    if seeds < 2 or found.seeds < 2:
        return UNDETERMINED, f"With one seed, {told}: the choice may be the seed's."
    if budget.size < FEWEST_TRIALS:
        return UNDETERMINED, f"{told[0].upper()}{told[1:]}, but so few are no tuning."
    if found.p_value < ALPHA:
        better = first if estimate.value > 0 else second
        return better, f"{better} is better when tuned: {told} ({p_value(found.p_value)})."
    if estimate.low > -EQUIVALENCE and estimate.high < EQUIVALENCE:
        return "neither", f"Tuned, neither is better by {points(EQUIVALENCE)} or more: {told}."
    return (
        UNDETERMINED,
        f"{told[0].upper()}{told[1:]}; a difference under {points(found.detectable)} would not be found.",
    )


def _table(results: Results, best: Sequence[Candidate]) -> Table:
    keys = [key for key in results.varying if key not in ("seed", "model")]
    keys = keys if results.searching else [key for key in keys if key in results.varying_trained]
    rows: list[tuple[Value, ...]] = []
    for one in best:
        cells = list(one.cells.values())
        losses = [cell.chosen.test["loss"] for cell in cells if cell.chosen and cell.chosen.test]
        validation, test = (fmean(accuracy(results, cell, split) for cell in cells) for split in ("validation", "test"))
        loss = float(np.mean(losses)) if losses else None
        rows.append((one.model, words(one.settings, keys), len(cells), validation, test, loss))
    return Table(
        title="What validation chose for each model, at equal budgets",
        columns=("model", "configuration", "seeds", "validation accuracy", "test accuracy", "test loss"),
        formats=("t", "t", "n", "%", "%", ".3"),
        rows=rows,
    )


def _caveats(results: Results, budget: Budget, best: Sequence[Candidate], seeds: int) -> list[str]:
    caveats = [*own_settings(results), *budget.caveats]
    if len(best) > 2:
        caveats.append("The verdict is on the two models that were best on validation.")
    if 1 < seeds < 3:
        caveats.append("Two seeds tell little of the spread of the chosen configurations.")
    if told := halving_caveat(results):
        caveats.append(told)
    return caveats


def _next(results: Results, verdict: str, budget: Budget, seeds: int) -> list[Command]:
    if verdict != UNDETERMINED:
        return []
    commands = complete_plan(results)
    if seeds < 2:
        commands.append(more_seeds(results, "tells the configuration from the seed"))
    if budget.size < FEWEST_TRIALS and results.searching:
        commands.append(longer_search(results, "gives every model more trials to choose from"))
    elif budget.size < FEWEST_TRIALS:
        rates = sorted({cell.settings.learning_rate for cell in results.plan.cells})
        commands.append(
            grow(results, "adds learning rates to choose from", {"learning_rate": [rates[0] / 2, 2 * rates[-1]]})
        )
    return commands or [more_seeds(results, "narrows the interval")]
