"""The importance of settings for validation accuracy: analysis of variance in a full grid, otherwise PED-ANOVA."""

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
from analysis.selection.equal_budgets import accuracy_or_chance
from study.settings import Settings, setting_type
from study.space.axes import Range

# An analysis of variance with fewer residual degrees of freedom fits noise.
FEWEST_RESIDUALS = 4
# PED-ANOVA compares the best part of the trials with all.
FEWEST_TRIALS = 10
MOST_ROWS = 15


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportanceTables:
    """Tables, and the methods behind them; both empty where there are too few runs."""

    tables: tuple[Table, ...] = ()
    methods: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoredTrial:
    """The settings of a run or of a search's trial, and its validation accuracy, for a trial the mean over seeds."""

    settings: Settings
    accuracy: float

    def value(self, key: str) -> str:
        """The value of a setting as JSON, so that all values can be compared."""
        return json.dumps(setting_type(key).dump_python(getattr(self.settings, key), mode="json"), sort_keys=True)


def importance(results: Results) -> ImportanceTables:
    """The part of the variance of validation accuracy that each setting explains."""
    trials = _search_trials(results) if results.searching else _grid_runs(results)
    keys = _factors(trials, results.space.ranges)
    if not keys:
        return ImportanceTables()
    if not results.searching and _is_full_grid(trials, keys):
        return _anova(trials, keys)
    return _ped_anova(trials, keys, results.space.ranges)


def _grid_runs(results: Results) -> list[ScoredTrial]:
    return [
        ScoredTrial(settings=run.settings, accuracy=run.owner.chosen.validation["accuracy"])
        for run in ended_runs(results)
        if run.owner.chosen
    ]


def _search_trials(results: Results) -> list[ScoredTrial]:
    """The complete trials; a cell without a score counts as chance."""
    return [
        ScoredTrial(settings=trial.settings, accuracy=fmean(accuracy_or_chance(results, cell) for cell in trial.cells))
        for trial in trial_results(results)
        if trial.complete
    ]


def _factors(trials: Sequence[ScoredTrial], ranges: Mapping[str, Range]) -> list[str]:
    """The settings that vary over the trials, except the seed; of several that always vary together, the first.

    Two settings with ranges differ in every trial, but were drawn independently: both are kept.
    """
    keys, patterns = [], set()
    for key in Settings.model_fields if trials else ():
        if key == "seed":
            continue
        values = [trial.value(key) for trial in trials]
        pattern = tuple(values.index(value) for value in values)
        if any(pattern) and (key in ranges or pattern not in patterns):
            patterns.add(pattern)
            keys.append(key)
    return keys


def _is_full_grid(trials: Sequence[ScoredTrial], keys: Sequence[str]) -> bool:
    combinations = math.prod(len({trial.value(key) for trial in trials}) for key in keys)
    return len({tuple(trial.value(key) for key in keys) for trial in trials}) == combinations


def _anova(trials: Sequence[ScoredTrial], keys: Sequence[str]) -> ImportanceTables:
    """Type II sums of squares, with all interactions of two settings where enough residual degrees remain."""
    import pandas as pd
    from statsmodels.formula.api import ols
    from statsmodels.stats.anova import anova_lm

    frame = pd.DataFrame([{f"x{i}": trial.value(key) for i, key in enumerate(keys)} for trial in trials])
    frame["y"] = [trial.accuracy for trial in trials]
    if float(np.var(frame["y"])) < 1e-12:
        return ImportanceTables()
    levels = [frame[f"x{i}"].nunique() for i in range(len(keys))]
    main_effects = 1 + sum(n - 1 for n in levels)
    pairs = sum((a - 1) * (b - 1) for i, a in enumerate(levels) for b in levels[i + 1 :])
    interactions = len(trials) - main_effects - pairs >= FEWEST_RESIDUALS
    if len(trials) - main_effects < FEWEST_RESIDUALS:
        return ImportanceTables()
    terms = " + ".join(f"C(x{i})" for i in range(len(keys)))
    table = anova_lm(ols(f"y ~ ({terms}){'**2' if interactions else ''}", data=frame).fit(), typ=2)
    total = float(table["sum_sq"].sum())
    rows: list[tuple[Value, ...]] = []
    for term, row in table.sort_values("sum_sq", ascending=False).iterrows():
        name = " × ".join(keys[int(i)] for i in re.findall(r"x(\d+)", str(term))) or "residual: seeds and the rest"
        rows.append((name, int(row["df"]), float(row["sum_sq"]) / total))
    model = "with interactions of two settings" if interactions else "without interactions, because runs are too few"
    return ImportanceTables(
        tables=(
            Table(
                title="Shares of the variance of validation accuracy",
                columns=("setting", "degrees of freedom", "share of variance"),
                formats=("t", "n", "%"),
                rows=rows,
                note="All ended runs, failed ones included: a setting that makes runs fail has a large share.",
                most_rows=MOST_ROWS,
            ),
        ),
        methods=(
            f"Importance in a full grid: analysis of variance (Fisher 1925), type II, {model}; shares are eta squared.",
        ),
    )


def _ped_anova(trials: Sequence[ScoredTrial], keys: Sequence[str], ranges: Mapping[str, Range]) -> ImportanceTables:
    """Watanabe et al. (2023): how much each setting of the best trials differs from that of all trials."""
    if len(trials) < FEWEST_TRIALS or len({trial.accuracy for trial in trials}) == 1:
        return ImportanceTables()
    import optuna
    from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution
    from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    distributions: dict[str, BaseDistribution] = {}
    numeric = {
        key for key in keys if key in ranges and all(_is_number(getattr(trial.settings, key)) for trial in trials)
    }
    for key in keys:
        if key in numeric:
            values = [float(getattr(trial.settings, key)) for trial in trials]
            log = ranges[key].log and min(values) > 0
            distributions[key] = FloatDistribution(min(values), max(values), log=log)
        else:
            distributions[key] = CategoricalDistribution(sorted({trial.value(key) for trial in trials}))
    study = optuna.create_study(direction="maximize")
    for trial in trials:
        params = {key: float(getattr(trial.settings, key)) if key in numeric else trial.value(key) for key in keys}
        study.add_trial(optuna.trial.create_trial(params=params, distributions=distributions, value=trial.accuracy))
    importances = get_param_importances(study, evaluator=PedAnovaImportanceEvaluator())
    if not all(map(math.isfinite, importances.values())):
        return ImportanceTables()
    table = Table(
        title="Importance for validation accuracy: PED-ANOVA",
        columns=("setting", "importance"),
        formats=("t", "%"),
        rows=list(importances.items()),
        note="Shares of the total. The trials are not a full grid, so interactions are not separated.",
        most_rows=MOST_ROWS,
    )
    return ImportanceTables(
        tables=(table,), methods=("Importance in a sample: PED-ANOVA (Watanabe et al. 2023), by Optuna.",)
    )


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
