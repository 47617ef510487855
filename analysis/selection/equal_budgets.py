"""What had each model to choose from, when all were given the same budget?"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from analysis.evidence.comparison import model_names, own_keys
from analysis.evidence.conditions import SettingsKey, key_of
from analysis.evidence.trials import TrialResult, amount, exchangeable, spent, trial_results, worth
from analysis.results import Results
from analysis.trajectory_results import TrajectoryResult
from analysis.wording import count, listed
from study.plan.cell_results import CellResult
from study.plan.labels import label
from study.records import Split
from study.settings import Settings

# Fewer trials than this are no tuning.
FEWEST_TRIALS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A configuration of a model that was tried: its cells, by seed, and what the choice makes of them."""

    model: str
    settings: Settings
    cells: Mapping[int, CellResult]
    worth: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """A trial as the curves over trials have it: what ranks it, and its accuracies."""

    worth: float
    validation: float
    test: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """Equal budgets: the candidates of each model and, for curves, the scores of its trials, in their order.

    ``told`` says the budget in words, ``size`` is the smallest number of candidates of a model, ``shared`` whether all
    models were given the same configurations, ``exchangeable`` whether the order of the trials means nothing.
    """

    candidates: Mapping[str, Sequence[Candidate]]
    trials: Mapping[str, Sequence[Score]]
    told: str
    shared: bool
    exchangeable: bool
    caveats: Sequence[str] = ()

    @property
    def size(self) -> int:
        """The smallest number of candidates of a model."""
        return min(map(len, self.candidates.values()), default=0)


def equal_budgets(results: Results) -> Budget:
    """What each model has to choose from; no candidates at all where one of the models has none."""
    return _of_search(results) if results.searching else _of_grid(results)


def accuracy(results: Results, cell: CellResult, split: Split = "validation") -> float:
    """A cell's accuracy on a split; chance where it has none, because a search that met it had nothing."""
    scores = getattr(cell.chosen, split, None) or {}
    value = scores.get("accuracy", math.nan)
    return value if math.isfinite(value) else results.chance.accuracy


def _of_grid(results: Results) -> Budget:
    """The configurations that every model has; for curves, every run is a trial."""
    own = ["model", "seed", *own_keys(results)]
    by_model: dict[str, dict[SettingsKey, list[TrajectoryResult]]] = {name: {} for name in model_names(results)}
    for run in results.runs:
        if run.scored:
            key = key_of(run.settings, own)
            by_model[label("model", run.settings.model)].setdefault(key, []).append(run)
    first, *others = by_model.values()
    shared = [key for key in first if all(key in found for found in others)]
    planned = {key_of(cell.settings, own) for cell in results.plan.cells}
    told = count(len(shared), "configuration")
    caveats = [f"The answer holds for the {told} that were tried, and for no better one outside them."]
    if len(shared) < len(planned):
        caveats.append(f"Of {len(planned)} planned configurations, {len(shared)} have ended runs of every model.")
    cells = {name: [[run.owner for run in found[key]] for key in shared] for name, found in by_model.items()}
    return Budget(
        candidates={name: [_candidate(results, name, one) for one in found] for name, found in cells.items()},
        trials={name: [_score(results, [cell]) for one in found for cell in one] for name, found in cells.items()},
        told=f"{told} each",
        shared=True,
        exchangeable=exchangeable(results),
        caveats=caveats,
    )


def _of_search(results: Results) -> Budget:
    """As many trials of each model as every model has, or all that lie within a budget of examples or GPU hours."""
    unit, budget = results.search.budget
    made = trial_results(results)
    complete = {name: [one for one in made if one.complete and one.model == name] for name in model_names(results)}
    apart = all(len({one.model for one in made if one.group == group}) == 1 for group in {one.group for one in made})
    by_count = unit == "trials" or not apart
    if by_count:
        size = min(map(len, complete.values()), default=0)
        kept = {name: trials[:size] for name, trials in complete.items()}
        told = f"{count(size, 'trial')} each"
    else:
        limit = min(spent(trials, unit) for trials in complete.values()) if results.plan.open else math.inf
        kept = {name: _within(trials, unit, limit) for name, trials in complete.items()}
        each = amount(limit if results.plan.open else budget, unit)
        told = f"{each} each ({listed([str(len(trials)) for trials in kept.values()])} trials)"
    sets = [{key_of(one.settings, ["model", "seed"]) for one in trials} for trials in kept.values()]
    if not all(kept.values()):
        kept = {}
    return Budget(
        candidates={name: [_candidate(results, name, one.cells) for one in found] for name, found in kept.items()},
        trials={name: [_score(results, one.cells) for one in found] for name, found in kept.items()},
        told=told,
        shared=all(one == sets[0] for one in sets),
        exchangeable=exchangeable(results),
        caveats=_caveats(results, made, complete, kept, apart=apart),
    )


def _within(trials: Sequence[TrialResult], unit: str, limit: float) -> list[TrialResult]:
    """The first trials, up to the one with which ``limit`` is spent."""
    return [one for index, one in enumerate(trials) if spent(trials[:index], unit) < limit]


def _candidate(results: Results, model: str, cells: Sequence[CellResult]) -> Candidate:
    by_seed = {result.cell.settings.seed: result for result in cells}
    return Candidate(model=model, settings=cells[0].cell.settings, cells=by_seed, worth=worth(results, cells))


def _score(results: Results, cells: Sequence[CellResult]) -> Score:
    validation, test = (fmean(accuracy(results, cell, split) for cell in cells) for split in ("validation", "test"))
    return Score(worth=worth(results, cells), validation=validation, test=test)


def _caveats(
    results: Results,
    made: Sequence[TrialResult],
    complete: Mapping[str, Sequence[TrialResult]],
    kept: Mapping[str, Sequence[TrialResult]],
    *,
    apart: bool,
) -> list[str]:
    caveats = ["The answer holds for the space that was searched, and for no better configuration outside it."]
    there = [f"{name} {len(trials)}" for name, trials in complete.items()]
    if any(len(complete[name]) > len(kept[name]) for name in kept):
        caveats.append(
            f"Budgets are not equal as they stand: complete trials are {listed(there)}. The first "
            f"{min(map(len, kept.values()))} of each are compared, by number."
        )
    if not apart and len(complete) > 1:
        caveats.append(
            "One search chose the model too, so that the models' budgets are not equal by design; to give each model "
            "one of its own, search with per: model."
        )
    if left := sum(not one.complete for one in made):
        failed = sum(any(result.state == "failed" for result in one.cells) for one in made)
        caveats.append(
            f"{count(left, 'trial')} of {len(made)} {'is' if left == 1 else 'are'} not complete and left out"
            f"{f', {failed} of them because a cell has failed' if failed else ''}."
        )
    worst = sum(any(not math.isfinite(_own_accuracy(result)) for result in one.cells) for one in made if one.complete)
    if worst:
        caveats.append(
            f"{count(worst, 'trial')} {'has' if worst == 1 else 'have'} a cell without a finite score: that counts as "
            "the worst when validation chooses, and as chance in the curves."
        )
    if cut := sum(any(result.stop_reason == "cut" for result in one.cells) for one in made):
        caveats.append(
            f"{count(cut, 'trial')} of {len(made)} {'has' if cut == 1 else 'have'} a cell that the scheduler cut, "
            "and it counts with what it scored by then, which is what the search had of it."
        )
    if results.search.adaptive:
        caveats.append(
            "Each model's trials were chosen for what its trials before had scored, from one search seed: with another "
            "seed, a search would have found another best. The interval does not know that."
        )
    return caveats


def _own_accuracy(result: CellResult) -> float:
    return result.chosen.validation["accuracy"] if result.chosen else math.nan
