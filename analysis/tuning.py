"""Which model is better when each is tuned, how does that depend on the budget, and which settings matter?"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from analysis.answer import UNDETERMINED, Answer, Command, Estimate, Figure, Line, Panel, Table, Value
from analysis.commands import go_on, grow, more_seeds
from analysis.comparison import EQUIVALENCE, ended_runs, model_names, most_seeds, one_model, read_test_scores, right
from analysis.conditions import key_of, words
from analysis.importance import importance
from analysis.multibootstrap import MultiBootstrap, example_weights, multibootstrap
from analysis.results import Floats, Results, Run
from analysis.statistics import expected_best
from analysis.wording import count, difference, p_value, points
from study.plan import label

QUESTION = "Which model is better when each is tuned?"
ALPHA = 0.05
# Fewer configurations than this are no tuning.
FEWEST_CONFIGURATIONS = 3
DRAWS = 300

METHODS = (
    (
        "Each model is given the same configurations. The best by mean validation accuracy over seeds is scored on "
        "test once; since test had no part in the choice, the comparison of the chosen ones needs no correction for "
        "the search."
    ),
    "The chosen configurations are compared by a bootstrap over seeds and test examples (Sellam et al. 2022).",
    (
        "Expected best validation after n trials by Tang et al.'s (2020) unbiased estimator. Dodge et al.'s (2019) "
        "draws trials with replacement: the best of the trials made is missed too often, and the curve lies too low. "
        "Trials are all runs, so that seeds are part of the search; failed runs count with what they scored, and runs "
        "without a score as chance."
    ),
    "The bands resample trials (bootstrap, pointwise), and say nothing of trials better than any that was made.",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Best:
    """A model's configuration that validation chose: its runs, by seed."""

    model: str
    runs: dict[int, Run]
    validation: float


def answer(results: Results, rng: np.random.Generator) -> Answer:
    """Compare what validation chose for each model; the verdict is on the two best by validation."""
    if alone := one_model(results, QUESTION):
        return alone
    names = model_names(results)
    by_model = _configurations(results)
    shared = set.intersection(*(set(by_model.get(name, {})) for name in names))
    seeds = most_seeds(ended_runs(results))
    if not shared:
        sentence = "No configuration has ended runs of every model, so budgets are not equal."
        go = [go_on(results, "trains what is planned and not there")]
        return Answer(question=QUESTION, verdict=UNDETERMINED, sentence=sentence, seeds=seeds, next_commands=go)
    best = sorted((_best(name, by_model[name], shared) for name in names), key=lambda one: -one.validation)
    found = _compare(results, best[0], best[1], rng)
    verdict, sentence = _verdict(best, found, len(shared), seeds)
    trials = {name: [run for key in sorted(shared) for run in by_model[name][key]] for name in names}
    weights = importance(results)
    return Answer(
        question=QUESTION,
        verdict=verdict,
        sentence=sentence,
        estimate=found.estimate() if found else None,
        estimated=f"test accuracy of {best[0].model} less that of {best[1].model}, each as validation chose it",
        seeds=seeds,
        tables=[_table(results, best), _expected(results, trials), *weights.tables],
        figures=_figures(results, trials, rng),
        methods=(*METHODS, *weights.methods),
        caveats=_caveats(results, len(shared), best, seeds),
        next_commands=_next(results, verdict, len(shared), seeds),
    )


def _configurations(results: Results) -> dict[str, dict[str, list[Run]]]:
    """Ended runs by model and by all settings but model and seed."""
    found: dict[str, dict[str, list[Run]]] = {}
    for run in ended_runs(results):
        key = key_of(run.settings, ["model", "seed"])
        found.setdefault(label("model", run.settings["model"]), {}).setdefault(key, []).append(run)
    return found


def _score(results: Results, run: Run, split: str = "validation") -> float:
    """A run's accuracy on a split; chance where it has none, because a search that met it had nothing."""
    chosen = run.owner.chosen
    value = getattr(chosen, f"{split}_accuracy") if chosen else None
    return float(value) if value is not None and math.isfinite(value) else results.chance_accuracy


def _best(model: str, configurations: dict[str, list[Run]], shared: set[str]) -> Best:
    def mean(runs: Sequence[Run]) -> float:
        scores = [run.owner.chosen.validation_accuracy for run in runs if run.owner.chosen]
        return float(np.mean(scores)) if len(scores) == len(runs) else 0.0

    key = max(sorted(shared), key=lambda key: mean(configurations[key]))
    runs = configurations[key]
    return Best(model=model, runs={run.seed: run for run in runs}, validation=mean(runs))


def _compare(results: Results, first: Best, second: Best, rng: np.random.Generator) -> MultiBootstrap | None:
    rows: list[Floats] = []
    read_test_scores(results, [*first.runs.values(), *second.runs.values()])
    for seed in sorted(first.runs.keys() & second.runs.keys()):
        one, other = (results.scored(best.runs[seed].owner, "test") for best in (first, second))
        if one is not None and other is not None:
            rows.append(right(one) - right(other))
    if not rows:
        return None
    return multibootstrap([np.stack(rows)], example_weights(rows[0].shape[0], rng), rng)


def _verdict(best: Sequence[Best], found: MultiBootstrap | None, budget: int, seeds: int) -> tuple[str, str]:
    first, second = best[0].model, best[1].model
    if found is None:
        return UNDETERMINED, "The chosen configurations share no seed whose predictions are there."
    estimate = found.estimate()
    told = (
        f"with {count(budget, 'configuration')} each, the {first} that validation chose scores {difference(estimate)} "
        f"on test against the {second}"
    )
    if seeds < 2 or found.seeds < 2:
        return UNDETERMINED, f"With one seed, {told}: the choice may be the seed's."
    if budget < FEWEST_CONFIGURATIONS:
        return UNDETERMINED, f"{told[0].upper()}{told[1:]}, but {count(budget, 'configuration')} is no tuning."
    if found.p_value < ALPHA:
        better = first if estimate.value > 0 else second
        return better, f"{better} is better when tuned: {told} ({p_value(found.p_value)})."
    if estimate.low > -EQUIVALENCE and estimate.high < EQUIVALENCE:
        return "neither", f"Tuned, neither is better by {points(EQUIVALENCE)} or more: {told}."
    return (
        UNDETERMINED,
        f"{told[0].upper()}{told[1:]}; a difference under {points(found.detectable)} would not be found.",
    )


def _table(results: Results, best: Sequence[Best]) -> Table:
    keys = [key for key in results.varying_trained if key not in ("seed", "model")]
    rows: list[tuple[Value, ...]] = []
    for one in best:
        runs = list(one.runs.values())
        tests = [_score(results, run, "test") for run in runs]
        losses = [
            run.owner.chosen.test_loss for run in runs if run.owner.chosen and run.owner.chosen.test_loss is not None
        ]
        chosen = words(runs[0].settings, keys)
        rows.append(
            (
                one.model,
                chosen,
                len(runs),
                one.validation,
                float(np.mean(tests)),
                float(np.mean(losses)) if losses else None,
            )
        )
    return Table(
        title="What validation chose for each model, at equal budgets",
        columns=("model", "configuration", "seeds", "validation accuracy", "test accuracy", "test loss"),
        formats=("t", "t", "n", "%", "%", ".3"),
        rows=rows,
    )


def _expected(results: Results, trials: dict[str, list[Run]]) -> Table:
    budgets = sorted({n for n in (1, 2, 4, 8, 16, 32, 64, 128) if n <= min(map(len, trials.values()))})
    rows: list[tuple[Value, ...]] = []
    for name, runs in trials.items():
        validation = [_score(results, run) for run in runs]
        curve = expected_best(validation, [_score(results, run, "test") for run in runs])
        rows.append((name, len(runs), *(float(curve[n - 1]) for n in budgets)))
    return Table(
        title="Expected test accuracy of the best by validation after n trials",
        columns=("model", "trials", *(f"n = {n}" for n in budgets)),
        formats=("t", "n", *("%" for _ in budgets)),
        rows=rows,
    )


def _caveats(results: Results, budget: int, best: Sequence[Best], seeds: int) -> list[str]:
    caveats = [
        (
            f"The answer holds for the {count(budget, 'configuration')} that were tried, and for no better one outside "
            "them."
        )
    ]
    everything = {key_of(cell.settings, ["model", "seed"]) for cell in results.plan.cells}
    if budget < len(everything):
        caveats.append(f"Of {len(everything)} planned configurations, {budget} have ended runs of every model.")
    if len(best) > 2:
        caveats.append("The verdict is on the two models that were best on validation.")
    if 1 < seeds < 3:
        caveats.append("Two seeds tell little of the spread of the chosen configurations.")
    return caveats


def _next(results: Results, verdict: str, budget: int, seeds: int) -> list[Command]:
    if verdict != UNDETERMINED:
        return []
    commands = [] if results.census.whole else [go_on(results, "trains what is planned and not there")]
    if seeds < 2:
        commands.append(more_seeds(results, "tells the configuration from the seed"))
    if budget < FEWEST_CONFIGURATIONS:
        rates = sorted({cell.settings["learning_rate"] for cell in results.plan.cells})
        commands.append(
            grow(results, "adds learning rates to choose from", {"learning_rate": [rates[0] / 2, 2 * rates[-1]]})
        )
    return commands or [more_seeds(results, "narrows the interval")]


def _figures(results: Results, trials: dict[str, list[Run]], rng: np.random.Generator) -> list[Figure]:
    panels = []
    for split, y_label in (("validation", "expected validation accuracy"), ("test", "its test accuracy")):
        lines = []
        for name, runs in trials.items():
            validation = np.array([_score(results, run) for run in runs])
            scores = np.array([_score(results, run, split) for run in runs])
            band = _band(validation, scores, rng)
            lines.append(
                Line(
                    x=list(range(1, len(runs) + 1)),
                    y=expected_best(validation.tolist(), scores.tolist()).tolist(),
                    low=[one.low for one in band],
                    high=[one.high for one in band],
                    group=name,
                    dots=len(runs) == 1,
                )
            )
        panels.append(Panel(title=f"on {split}", x_label="trials", y_label=y_label, lines=lines, percent_y=True))
    caption = "Expected accuracy of the best trial by validation among n, with pointwise bootstrap bands (95 %)."
    return [Figure(name="expected-best", caption=caption, panels=panels)]


def _band(validation: Floats, scores: Floats, rng: np.random.Generator) -> list[Estimate]:
    curves = []
    for _ in range(DRAWS):
        picked = rng.integers(0, len(validation), len(validation))
        curves.append(expected_best(validation[picked].tolist(), scores[picked].tolist()))
    low, high = np.quantile(curves, [0.025, 0.975], axis=0)
    return [Estimate(value=math.nan, low=float(a), high=float(b)) for a, b in zip(low, high, strict=True)]
