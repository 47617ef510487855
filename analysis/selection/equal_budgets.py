"""What each model has to select from, at the same budget for every model."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from analysis.evidence.comparison import model_names, model_specific_keys
from analysis.evidence.conditions import SettingsKey, settings_key
from analysis.evidence.trials import TrialResult, cost_of, describe_budget, exchangeable, objective_gain, trial_results
from analysis.results import Results
from analysis.trajectory_results import TrajectoryResult
from analysis.wording import agree, count, join_words
from study.plan.cell_results import CellResult
from study.records import Split
from study.settings import Settings

# A selection from fewer candidates than this is not tuning.
FEWEST_CANDIDATES = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A configuration of a model that was tried: its cells, by seed, and the gain that selection ranks it by."""

    model: str
    settings: Settings
    cells: Mapping[int, CellResult]
    gain: float


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialScore:
    """A trial in the curves over trials: the gain that ranks it, and its accuracies."""

    gain: float
    validation_accuracy: float
    test_accuracy: float

    def accuracy(self, split: Split) -> float:
        """The accuracy on ``split``."""
        return self.test_accuracy if split == "test" else self.validation_accuracy


@dataclass(frozen=True, slots=True, kw_only=True)
class EqualBudgets:
    """The candidates of each model and, for curves, the scores of its trials in their order; none at all if unequal.

    ``description`` is the budget in words; ``shared`` says whether all models were given the same configurations, and
    ``exchangeable`` whether the order of the trials means nothing.
    """

    candidates: Mapping[str, Sequence[Candidate]]
    trials: Mapping[str, Sequence[TrialScore]]
    description: str
    shared: bool
    exchangeable: bool
    caveats: Sequence[str] = ()

    @property
    def size(self) -> int:
        """The smallest number of candidates of a model."""
        return min(map(len, self.candidates.values()), default=0)


def equal_budgets(results: Results) -> EqualBudgets:
    """What each model has to select from; no candidates at all where one of the models has none."""
    return _of_search(results) if results.searching else _of_grid(results)


def accuracy_or_chance(results: Results, cell: CellResult, split: Split = "validation") -> float:
    """A cell's accuracy on a split; chance where it has none, since a search that met it would have had nothing."""
    scores = getattr(cell.chosen, split, None) or {}
    value = scores.get("accuracy", math.nan)
    return value if math.isfinite(value) else results.chance.accuracy


def _of_grid(results: Results) -> EqualBudgets:
    """The configurations that every model has; for curves, every run is a trial."""
    ignored = ["model", "seed", *model_specific_keys(results)]
    runs_by_model: dict[str, dict[SettingsKey, list[TrajectoryResult]]] = {name: {} for name in model_names(results)}
    for run in results.runs:
        if run.scored:
            key = settings_key(run.settings, ignored)
            runs_by_model[run.model].setdefault(key, []).append(run)
    first, *others = runs_by_model.values()
    shared = [key for key in first if all(key in runs for runs in others)]
    planned = {settings_key(run.settings, ignored) for run in results.runs}
    description = count(len(shared), "configuration")
    caveats = [f"The answer holds for the {description} that were tried, not for better ones outside them."]
    if len(shared) < len(planned):
        caveats.append(f"Of {len(planned)} planned configurations, {len(shared)} have ended runs of every model.")
    cells = {name: [[run.owner for run in runs[key]] for key in shared] for name, runs in runs_by_model.items()}
    return EqualBudgets(
        candidates={
            name: [_candidate(results, name, members) for members in configurations]
            for name, configurations in cells.items()
        },
        trials={
            name: [_trial_score(results, [cell]) for members in configurations for cell in members]
            for name, configurations in cells.items()
        },
        description=f"{description} each",
        shared=True,
        exchangeable=exchangeable(results),
        caveats=caveats,
    )


def _of_search(results: Results) -> EqualBudgets:
    """As many trials of each model as every model has, or all that lie within a budget of examples or GPU hours."""
    unit, budget = results.search.budget
    trials = trial_results(results)
    complete = {
        name: [trial for trial in trials if trial.complete and trial.model == name] for name in model_names(results)
    }
    separate = _one_model_per_search(trials)
    if unit == "trials" or not separate:
        size = min(map(len, complete.values()), default=0)
        within = {name: members[:size] for name, members in complete.items()}
        description = f"{count(size, 'trial')} each"
    else:
        limit = min(cost_of(members, unit) for members in complete.values()) if results.plan.open else math.inf
        within = {name: _within_cost(members, unit, limit) for name, members in complete.items()}
        spent = describe_budget(limit if results.plan.open else budget, unit)
        description = f"{spent} each ({join_words([str(len(members)) for members in within.values()])} trials)"
    settings = [{settings_key(trial.settings, ["model", "seed"]) for trial in members} for members in within.values()]
    if not all(within.values()):
        within = {}
    return EqualBudgets(
        candidates={
            name: [_candidate(results, name, trial.cells) for trial in members] for name, members in within.items()
        },
        trials={name: [_trial_score(results, trial.cells) for trial in members] for name, members in within.items()},
        description=description,
        shared=all(keys == settings[0] for keys in settings),
        exchangeable=exchangeable(results),
        caveats=[
            "The answer holds for the space that was searched, not for better configurations outside it.",
            *_budget_caveats(complete, within, separate=separate),
            *_trial_caveats(trials),
            *_adaptive_caveats(results),
        ],
    )


def _one_model_per_search(trials: Sequence[TrialResult]) -> bool:
    models: dict[str, set[str]] = {}
    for trial in trials:
        models.setdefault(trial.group, set()).add(trial.model)
    return all(len(names) == 1 for names in models.values())


def _within_cost(trials: Sequence[TrialResult], unit: str, limit: float) -> list[TrialResult]:
    """The first trials, up to the one with which ``limit`` is spent."""
    return [trial for index, trial in enumerate(trials) if cost_of(trials[:index], unit) < limit]


def _candidate(results: Results, model: str, cells: Sequence[CellResult]) -> Candidate:
    by_seed = {result.cell.settings.seed: result for result in cells}
    gain = objective_gain(results, cells)
    return Candidate(model=model, settings=cells[0].cell.settings, cells=by_seed, gain=gain)


def _trial_score(results: Results, cells: Sequence[CellResult]) -> TrialScore:
    return TrialScore(
        gain=objective_gain(results, cells),
        validation_accuracy=fmean(accuracy_or_chance(results, cell, "validation") for cell in cells),
        test_accuracy=fmean(accuracy_or_chance(results, cell, "test") for cell in cells),
    )


def _budget_caveats(
    complete: Mapping[str, Sequence[TrialResult]], within: Mapping[str, Sequence[TrialResult]], *, separate: bool
) -> list[str]:
    caveats = []
    if any(len(complete[name]) > len(trials) for name, trials in within.items()):
        numbers = join_words([f"{name} {len(trials)}" for name, trials in complete.items()])
        fewest = min(map(len, within.values()))
        caveats.append(
            f"The models have different numbers of complete trials: {numbers}. The first {fewest} of each are compared."
        )
    if not separate and len(complete) > 1:
        caveats.append(
            "A single search chose the model too, so the models' budgets are not equal by design; to give each model a "
            "budget of its own, search with per: model."
        )
    return caveats


def _trial_caveats(trials: Sequence[TrialResult]) -> list[str]:
    """What is incomplete, without a score or pruned among the trials."""
    caveats = []
    if incomplete := sum(not trial.complete for trial in trials):
        failed = sum(any(result.state == "failed" for result in trial.cells) for trial in trials)
        reason = f", {failed} of them because a cell failed" if failed else ""
        verb = agree(incomplete, "is", "are")
        caveats.append(
            f"{count(incomplete, 'trial')} of {len(trials)} {verb} not complete and {verb} left out{reason}."
        )
    complete = [trial for trial in trials if trial.complete]
    if unscored := sum(not all(map(_has_finite_accuracy, trial.cells)) for trial in complete):
        caveats.append(
            f"{count(unscored, 'trial')} {agree(unscored, 'has', 'have')} a cell without a finite score: it counts "
            "as the worst score in the selection by validation, and as chance in the curves."
        )
    if pruned := sum(any(result.stop_reason == "cut" for result in trial.cells) for trial in trials):
        caveats.append(
            f"{count(pruned, 'trial')} of {len(trials)} {agree(pruned, 'has', 'have')} a cell that the scheduler "
            "pruned: it counts with its score at that time, which is what the search was given."
        )
    return caveats


def _adaptive_caveats(results: Results) -> list[str]:
    if not results.search.adaptive:
        return []
    caveat = (
        "Each model's trials were chosen for what its earlier trials had scored, from one search seed: with another "
        "seed, the search would have found another best configuration. The interval does not include that."
    )
    return [caveat]


def _has_finite_accuracy(result: CellResult) -> bool:
    return result.chosen is not None and math.isfinite(result.chosen.validation["accuracy"])
