"""The search of a study: Optuna chooses what to try next, and learns the results.

``optuna.db`` in the study's folder holds an Optuna study per search, for `optuna-dashboard` and for the next start; the
plan says which cells each trial has, and the records hold their results. A choice is in that file before
it is in the plan, and in the plan before anything trains it, so the process may be killed anywhere: what was chosen is
found again, and nothing is chosen twice. A file that is lost, damaged or made for other axes is rebuilt from the plan
and the records.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
    distribution_to_json,
)
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from study.ids import stable_id
from study.plan.cell_results import CellResult, cell_results, search_score
from study.plan.labels import search_groups
from study.plan.plan import Plan, Trial, make_plan
from study.scoring import METRICS
from study.search.budget import SearchBudget, search_budgets
from study.settings import Settings
from study.space.axes import Axis, PartialSettings, value_as_file
from study.space.space import Space
from study.space.yaml_document import flow
from study.storage import StudyFolder, replacing

# After so many choices in a row that repeat earlier ones, there is nothing left to try.
MOST_REPETITIONS = 100
# Optuna's own number of random trials before TPE begins, and its own population, are meant for larger budgets.
FEWEST_STARTUP_TRIALS, MOST_STARTUP_TRIALS = 3, 10
MOST_POPULATION = 50
# How long a dashboard that reads the file may lock it.
SQLITE_TIMEOUT_SECONDS = 60


def distributions(axes: Sequence[Axis]) -> dict[str, BaseDistribution]:
    """The axes as Optuna's distributions; a value that is not a single word or number becomes its text in a space."""
    by_axis: dict[str, BaseDistribution] = {}
    for axis in axes:
        if axis.range is None:
            by_axis[axis.name] = CategoricalDistribution([_to_optuna(axis.name, value) for value in axis.values])
        elif axis.range.whole:
            step = int(axis.range.step or 1)
            low, high = int(axis.range.low), int(axis.range.high)
            by_axis[axis.name] = IntDistribution(low, high, log=axis.range.log, step=step)
        else:
            by_axis[axis.name] = FloatDistribution(
                axis.range.low, axis.range.high, log=axis.range.log, step=axis.range.step
            )
    return by_axis


def _to_optuna(name: str, value: PartialSettings) -> str | int | float | bool | None:
    word = value_as_file(name, value)
    return word if word is None or isinstance(word, str | int | float | bool) else flow(word)


def from_optuna(axis: Axis, choice: Any) -> PartialSettings:
    """The settings that Optuna's choice on an axis decides."""
    if axis.range is not None:
        return {axis.name: choice}
    return next(value for value in axis.values if _to_optuna(axis.name, value) == choice)


class OptunaSearch:
    """All searches of one space. ``plan`` holds what they have chosen so far, and is written whenever it changes.

    Raises OSError where the folder cannot be written to.
    """

    def __init__(self, space: Space, plan: Plan, folder: StudyFolder) -> None:
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self.space = space
        self.folder = folder
        self.plan = plan
        self.distributions = distributions(space.searched)
        self.groups = search_groups(space)
        self.exhausted: set[str] = set()
        self._results: dict[str, CellResult] = {}
        self._read()
        self._studies = self._open()
        self._adopt()
        self._close_spent()

    def settle(self) -> None:
        """Tell Optuna the score of every trial whose cells are complete; a trial with a failed cell stays open."""
        self._read()
        cells = {(trial.group, trial.number): trial.cells for trial in self.plan.trials}
        for group, study in self._studies.items():
            for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
                results = [self._results[id_] for id_ in cells.get((group, trial.number), ())]
                if results and all(result.state == "complete" for result in results):
                    study.tell(trial.number, search_score(results, self.space.search.objective))

    @property
    def results(self) -> Sequence[CellResult]:
        """Where every cell of the plan stood when it was last read, in the plan's order."""
        return list(self._results.values())

    def budgets(self) -> list[SearchBudget]:
        """Every search's budget."""
        return search_budgets(self.space, self.plan, self.results)

    def suggest(self) -> Trial | None:
        """Choose another trial, of the search that has spent least of its budget; None once all is spent.

        Its cells are then in the plan; some or all of them may have been before.
        """
        self.settle()
        open_ = [budget for budget in self.budgets() if budget.open and budget.group not in self.exhausted]
        if not open_:
            self._close_spent()
            return None
        group = min(open_, key=lambda budget: budget.share).group
        known = {trial.cells for trial in self.plan.trials if trial.group == group}
        for _ in range(MOST_REPETITIONS):
            trial = self._ask(group)
            if trial is None:
                continue
            if trial.cells not in known:
                return trial
            self.settle()
        self.exhausted.add(group)
        return self.suggest()

    def _ask(self, group: str) -> Trial | None:
        """Optuna's next choice, as part of the plan; None for a combination that a rule drops."""
        study = self._studies[group]
        number = len(study.get_trials(deepcopy=False))
        study.sampler = self._sampler(number)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what of a sampler is experimental
            asked = study.ask(dict(self.distributions))
        added = self._extend_plan([self._trial(group, asked.number, asked.params)])
        if not added:
            study.tell(asked.number, state=TrialState.PRUNED)
            return None
        asked.set_user_attr("cells", list(added[0].cells))
        return added[0]

    def _sampler(self, number: int) -> optuna.samplers.BaseSampler:
        """The sampler for the trial ``number`` of a search, with random numbers of its own, whatever came before.

        It is the same for every search, so that all of them start with the same choices.
        """
        search = self.space.search
        seed = int(stable_id([search.seed, number])[:8], 16)
        budget = search.trials or 4 * MOST_POPULATION
        startup = min(MOST_STARTUP_TRIALS, max(FEWEST_STARTUP_TRIALS, budget // 3))
        if search.method == "random":
            return optuna.samplers.RandomSampler(seed=seed)
        if search.sampler == "cmaes":
            return optuna.samplers.CmaEsSampler(seed=seed, n_startup_trials=startup)
        if search.sampler == "nsga2":
            return optuna.samplers.NSGAIISampler(seed=seed, population_size=max(2, min(MOST_POPULATION, budget // 4)))
        return optuna.samplers.TPESampler(seed=seed, n_startup_trials=startup, constant_liar=True)

    def _trial(self, group: str, number: int, params: Mapping[str, Any]) -> Trial:
        values = {**self.space.fixed, **self.groups[group]}
        for axis in self.space.searched:
            values.update(from_optuna(axis, params[axis.name]))
        return Trial(number=number, group=group, settings=Settings.model_validate(values), cells=())

    def _extend_plan(self, trials: Sequence[Trial]) -> list[Trial]:
        """Put trials into the plan; returns those that have cells."""
        extended = make_plan(self.space, [*self.plan.trials, *trials])
        new = [trial for trial in extended.trials[len(self.plan.trials) :] if trial.cells]
        if new:
            earlier = extended.trials[: len(self.plan.trials)]
            self.plan = replace(extended, study=self.plan.study, trials=(*earlier, *new), open=self.plan.open)
            self._read()
            self._write()
        return new

    def _read(self) -> None:
        """Read the results of the cells that had not ended."""
        self._results = {result.cell.id: result for result in cell_results(self.folder, self.plan, ended=self._results)}

    def _close_spent(self) -> None:
        """Note in the plan whether any search has budget left."""
        open_ = any(budget.open and budget.group not in self.exhausted for budget in self.budgets())
        if open_ != self.plan.open:
            self.plan = replace(self.plan, open=open_)
            self._write()

    def _write(self) -> None:
        self.folder.write_plan(self.plan.to_json())

    def _adopt(self) -> None:
        """Add to the plan what a process that was killed had chosen and not added."""
        known = {(trial.group, trial.number) for trial in self.plan.trials}
        lost = []
        for group, study in self._studies.items():
            for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
                if (group, trial.number) in known:
                    continue
                if trial.params.keys() == self.distributions.keys():
                    lost.append(self._trial(group, trial.number, trial.params))
                else:  # the choice itself was cut short
                    study.tell(trial.number, state=TrialState.FAIL)
        added = {(trial.group, trial.number) for trial in self._extend_plan(lost)}
        for trial_ in lost:
            if (trial_.group, trial_.number) not in added:
                self._studies[trial_.group].tell(trial_.number, state=TrialState.PRUNED)
        self.settle()

    def _open(self) -> dict[str, optuna.Study]:
        """Optuna's studies by group, rebuilt unless those on disk have these axes and all trials of the plan."""
        described = {name: distribution_to_json(choice) for name, choice in self.distributions.items()}
        try:
            studies = self._load(self.folder.optuna_file)
            for group, study in studies.items():
                numbers = {trial.number for trial in study.get_trials(deepcopy=False)}
                planned = {trial.number for trial in self.plan.trials if trial.group == group}
                if study.user_attrs.get("axes") != described or not planned <= numbers:
                    raise KeyError(group)
        except Exception:  # SQLAlchemy's, sqlite's and Optuna's own, for whatever is wrong with the file
            return self._rebuild(described)
        return studies

    def _load(self, path: Path, *, create: bool = False) -> dict[str, optuna.Study]:
        if not create and not path.exists():
            raise KeyError(path.name)
        storage = optuna.storages.RDBStorage(
            f"sqlite:///{path}", engine_kwargs={"connect_args": {"timeout": SQLITE_TIMEOUT_SECONDS}}
        )
        higher = METRICS[self.space.search.objective].higher_is_better
        direction = StudyDirection.MAXIMIZE if higher else StudyDirection.MINIMIZE
        if create:
            for group in self.groups:
                optuna.create_study(storage=storage, study_name=self._name(group), direction=direction)
        studies = {group: optuna.load_study(study_name=self._name(group), storage=storage) for group in self.groups}
        if any(study.direction != direction for study in studies.values()):
            raise KeyError(direction.name)
        return studies

    def _name(self, group: str) -> str:
        return f"{self.plan.study} · {group}"

    def _rebuild(self, described: Mapping[str, str]) -> dict[str, optuna.Study]:
        """Write the file from the plan and the records."""
        with replacing(self.folder.optuna_file) as part:
            for group, study in self._load(part, create=True).items():
                study.set_user_attr("axes", dict(described))
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")  # that names are experimental
                    study.set_metric_names([f"validation {self.space.search.objective}"])
                trials = {trial.number: trial for trial in self.plan.trials if trial.group == group}
                for number in range(max(trials, default=-1) + 1):
                    study.add_trial(self._frozen(trials.get(number)))
        return self._load(self.folder.optuna_file)

    def _frozen(self, trial: Trial | None) -> FrozenTrial:
        """A trial of the plan as Optuna's.

        One that the space no longer holds keeps only its number, and so does one between the steps of its range.
        """
        if trial is None or not trial.cells:
            return optuna.trial.create_trial(state=TrialState.FAIL)
        params = {axis.name: _choice(axis, trial.settings) for axis in self.space.searched}
        results = [self._results[id_] for id_ in trial.cells]
        complete = all(result.state == "complete" for result in results)
        try:
            return optuna.trial.create_trial(
                state=TrialState.COMPLETE if complete else TrialState.RUNNING,
                value=search_score(results, self.space.search.objective) if complete else None,
                params=params,
                distributions=dict(self.distributions),
                user_attrs={"cells": list(trial.cells)},
            )
        except ValueError:
            return optuna.trial.create_trial(state=TrialState.FAIL)


def _choice(axis: Axis, settings: Settings) -> Any:
    part = axis.part(settings.model_dump(mode="json"))
    assert part is not None, f"{axis.name} lacks a value that the plan has"
    return part[axis.name] if axis.range is not None else _to_optuna(axis.name, part)
