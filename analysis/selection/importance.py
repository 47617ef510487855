"""Which settings matter for validation accuracy: in a full grid by analysis of variance, else by PED-ANOVA."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

import numpy as np

from analysis.answer import Table, Value
from analysis.evidence.comparison import ended_runs
from analysis.evidence.trials import trial_results
from analysis.results import Results
from analysis.selection.equal_budgets import accuracy
from study.settings import Settings, setting_type
from study.space.axes import Range

# An analysis of variance of fewer residual degrees of freedom fits noise.
FEWEST_RESIDUALS = 4
# PED-ANOVA compares the best part of the trials with all.
FEWEST_TRIALS = 10
MOST_ROWS = 15


@dataclass(frozen=True, slots=True, kw_only=True)
class Importance:
    """Tables, and how they were made; both empty where there is too little to say."""

    tables: tuple[Table, ...] = ()
    methods: tuple[str, ...] = ()


def importance(results: Results) -> Importance:
    """The part of the variance of validation accuracy that each setting explains."""
    trials = _trials(results) if results.searching else _runs(results)
    keys = _factors(trials, results.space.ranges)
    if not keys:
        return Importance()
    if not results.searching and _is_full_grid(trials, keys):
        return _anova(trials, keys)
    return _ped_anova(trials, keys, results.space.ranges)


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoredTrial:
    """A run's settings, or those of a search's trial, and its accuracy on validation, or its seeds' mean."""

    settings: Settings
    score: float


def _runs(results: Results) -> list[ScoredTrial]:
    ended = [(run, run.owner.chosen) for run in ended_runs(results)]
    return [ScoredTrial(settings=run.settings, score=chosen.validation["accuracy"]) for run, chosen in ended if chosen]


def _trials(results: Results) -> list[ScoredTrial]:
    """The complete trials; a cell without a score counts as chance."""
    return [
        ScoredTrial(settings=trial.settings, score=fmean(accuracy(results, cell) for cell in trial.cells))
        for trial in trial_results(results)
        if trial.complete
    ]


def _factors(runs: Sequence[ScoredTrial], spans: Mapping[str, Range]) -> list[str]:
    """The settings that vary over the runs, but for the seed; of several that always vary together the first.

    Two that are drawn from ranges differ in every trial, and were drawn apart all the same.
    """
    keys, seen = [], set()
    for key in Settings.model_fields if runs else ():
        if key == "seed":
            continue
        values = [_text(run, key) for run in runs]
        codes = tuple(values.index(value) for value in values)
        if any(codes) and (key in spans or codes not in seen):
            seen.add(codes)
            keys.append(key)
    return keys


def _text(run: ScoredTrial, key: str) -> str:
    return json.dumps(setting_type(key).dump_python(getattr(run.settings, key), mode="json"), sort_keys=True)


def _is_full_grid(runs: Sequence[ScoredTrial], keys: Sequence[str]) -> bool:
    levels = math.prod(len({_text(run, key) for run in runs}) for key in keys)
    return len({tuple(_text(run, key) for key in keys) for run in runs}) == levels


def _anova(runs: Sequence[ScoredTrial], keys: Sequence[str]) -> Importance:
    """Type II sums of squares, with all interactions of two where enough is left to judge them by."""
    import pandas as pd
    from statsmodels.formula.api import ols
    from statsmodels.stats.anova import anova_lm

    frame = pd.DataFrame([{f"x{i}": _text(run, key) for i, key in enumerate(keys)} for run in runs])
    frame["y"] = [run.score for run in runs]
    if float(np.var(frame["y"])) < 1e-12:
        return Importance()
    terms = [f"C(x{i})" for i in range(len(keys))]
    levels = [frame[f"x{i}"].nunique() for i in range(len(keys))]
    main = 1 + sum(n - 1 for n in levels)
    pairs = sum((a - 1) * (b - 1) for i, a in enumerate(levels) for b in levels[i + 1 :])
    interactions = len(runs) - main - pairs >= FEWEST_RESIDUALS
    if len(runs) - main < FEWEST_RESIDUALS:
        return Importance()
    formula = f"y ~ ({' + '.join(terms)}){'**2' if interactions else ''}"
    found = anova_lm(ols(formula, data=frame).fit(), typ=2)
    total = float(found["sum_sq"].sum())
    rows: list[tuple[Value, ...]] = []
    for term, row in found.sort_values("sum_sq", ascending=False).iterrows():
        name = " × ".join(keys[int(i)] for i in re.findall(r"x(\d+)", str(term))) or "the rest: seeds and what is left"
        p = float(row["PR(>F)"])
        rows.append((name, int(row["df"]), float(row["sum_sq"]) / total, p if math.isfinite(p) else None))
    table = Table(
        title="Which settings matter: analysis of variance of validation accuracy",
        columns=("setting", "degrees of freedom", "share of variance", "p"),
        formats=("t", "n", "%", "p"),
        rows=rows[:MOST_ROWS],
        note="All ended runs, failures included: a setting that makes runs fail matters much.",
    )
    how = (
        "with interactions of two settings"
        if interactions
        else "without interactions, for which there are too few runs"
    )
    return Importance(
        tables=(table,),
        methods=(
            f"Importance in a full grid: analysis of variance (Fisher 1925), type II, {how}; shares are eta squared.",
        ),
    )


def _ped_anova(runs: Sequence[ScoredTrial], keys: Sequence[str], spans: Mapping[str, Range]) -> Importance:
    """Watanabe et al. (2023): how much each setting of the best trials differs from that of all."""
    if len(runs) < FEWEST_TRIALS:
        return Importance()
    import optuna
    from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution
    from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    space: dict[str, BaseDistribution] = {}
    numbers = {key for key in keys if key in spans and all(_is_number(getattr(run.settings, key)) for run in runs)}
    for key in keys:
        if key in numbers:
            values = [float(getattr(run.settings, key)) for run in runs]
            space[key] = FloatDistribution(min(values), max(values), log=spans[key].log and min(values) > 0)
        else:
            space[key] = CategoricalDistribution(sorted({_text(run, key) for run in runs}))
    study = optuna.create_study(direction="maximize")
    for run in runs:
        params = {key: float(getattr(run.settings, key)) if key in numbers else _text(run, key) for key in keys}
        study.add_trial(optuna.trial.create_trial(params=params, distributions=space, value=run.score))
    found = get_param_importances(study, evaluator=PedAnovaImportanceEvaluator())
    if not all(map(math.isfinite, found.values())):
        return Importance()
    table = Table(
        title="Which settings matter: PED-ANOVA of validation accuracy",
        columns=("setting", "importance"),
        formats=("t", "%"),
        rows=[(key, value) for key, value in found.items()][:MOST_ROWS],
        note="Parts of a whole. The trials are no full grid, so that interactions are not told apart.",
    )
    return Importance(
        tables=(table,), methods=("Importance in a sample: PED-ANOVA (Watanabe et al. 2023), by Optuna.",)
    )


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
