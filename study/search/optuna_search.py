"""What does a search try next, and what does it learn of what came of it?

Optuna chooses. Its study lies in the study's folder as ``optuna.db``, one for each search, for `optuna-dashboard` and
for the next start; the plan says which cells each of its trials has, and the records what came of them. A choice is in
that file before it is in the plan, and in the plan before anything trains it, so a process may be killed anywhere: what
was chosen is found again, and nothing is chosen twice. A file that is lost, damaged or made for other axes is made
again from the plan and the records.
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

from study.plan.cell_results import CellResult, cell_results, trial_score
from study.plan.plan import Plan, Trial, group_of, make_plan, stable_id
from study.records import StudyFolder
from study.search.budget import Account, accounts
from study.space.axes import Axis, Values, shown
from study.space.reader import Space
from study.space.yaml_document import flow

# After so many choices in a row that had been made before there is nothing left to try.
MOST_REPETITIONS = 100
# Optuna's own number of random trials before TPE begins, and its own population, are meant for larger budgets.
FEWEST_STARTUP_TRIALS, MOST_STARTUP_TRIALS = 3, 10
MOST_POPULATION = 50
# How long a dashboard that looks at the file may keep it from being written to.
PATIENCE_SECONDS = 60


def choices(axes: Sequence[Axis]) -> dict[str, BaseDistribution]:
    """What Optuna is told of the axes: of values that are no single word or number, their text in a space file."""
    found: dict[str, BaseDistribution] = {}
    for axis in axes:
        if axis.range is None:
            found[axis.name] = CategoricalDistribution([_choice(axis.name, value) for value in axis.values])
        elif axis.range.whole:
            step = int(axis.range.step or 1)
            found[axis.name] = IntDistribution(int(axis.range.low), int(axis.range.high), log=axis.range.log, step=step)
        else:
            found[axis.name] = FloatDistribution(
                axis.range.low, axis.range.high, log=axis.range.log, step=axis.range.step
            )
    return found


def _choice(name: str, value: Values) -> str | int | float | bool | None:
    word = shown(name, value)
    return word if word is None or isinstance(word, str | int | float | bool) else flow(word)


def part(axis: Axis, chosen: Any) -> Values:
    """The settings that Optuna's choice on an axis decides."""
    if axis.range is not None:
        return {axis.name: chosen}
    return next(value for value in axis.values if _choice(axis.name, value) == chosen)


class Search:
    """All searches of one space. ``plan`` holds what they have chosen so far, and is on disk whenever it changes.

    Raises OSError where the folder cannot be written to.
    """

    def __init__(self, space: Space, plan: Plan, folder: StudyFolder) -> None:
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self.space = space
        self.folder = folder
        self.plan = plan
        self.choices = choices(space.searched)
        self.groups = {group_of(space, settings): settings for settings in space.groups()}
        self.exhausted: set[str] = set()
        self._path = folder.path / "optuna.db"
        self._results: dict[str, CellResult] = {}
        self._read()
        self._studies = self._open()
        self._adopt()
        self._close_accounts()

    def settle(self) -> None:
        """Tell Optuna of every trial whose cells are complete; one of which a cell has failed stays open."""
        self._read()
        cells = {(trial.group, trial.number): trial.cells for trial in self.plan.trials}
        for group, study in self._studies.items():
            for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
                results = [self._results[id_] for id_ in cells.get((group, trial.number), ())]
                if results and all(result.state == "complete" for result in results):
                    study.tell(trial.number, trial_score(results, self.space.search.objective))

    @property
    def results(self) -> Sequence[CellResult]:
        """Where every cell of the plan stood when that was last looked at, in the plan's order."""
        return list(self._results.values())

    def accounts(self) -> list[Account]:
        """Every search's budget."""
        return accounts(self.space, self.plan, self.results)

    def suggest(self) -> Trial | None:
        """Choose another trial, of the search that has spent least of its budget; None once all is spent.

        Its cells are in the plan, of which some or all may be there already.
        """
        self.settle()
        open_ = [account for account in self.accounts() if account.open and account.group not in self.exhausted]
        if not open_:
            self._close_accounts()
            return None
        group = min(open_, key=lambda account: account.share).group
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
            asked = study.ask(dict(self.choices))
        found = self._add([self._trial(group, asked.number, asked.params)])
        if not found:
            study.tell(asked.number, state=TrialState.PRUNED)
            return None
        asked.set_user_attr("cells", list(found[0].cells))
        return found[0]

    def _sampler(self, number: int) -> optuna.samplers.BaseSampler:
        """The sampler for the trial ``number`` of a search, whose random numbers are its own whoever was there before.

        The same for every search, so that all of them start with the same choices.
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
        settings = {**self.space.fixed, **self.groups[group]}
        for axis in self.space.searched:
            settings.update(part(axis, params[axis.name]))
        return Trial(number=number, group=group, settings=settings, cells=())

    def _add(self, trials: Sequence[Trial]) -> list[Trial]:
        """Put trials into the plan; returns those that have cells."""
        added = make_plan(self.space, [*self.plan.trials, *trials])
        new = [trial for trial in added.trials[len(self.plan.trials) :] if trial.cells]
        if new:
            kept = added.trials[: len(self.plan.trials)]
            self.plan = replace(added, study=self.plan.study, trials=(*kept, *new), open=self.plan.open)
            self._read()
            self._write()
        return new

    def _read(self) -> None:
        """Learn what has become of the cells that had not ended."""
        self._results = {result.cell.id: result for result in cell_results(self.folder, self.plan, ended=self._results)}

    def _close_accounts(self) -> None:
        open_ = any(account.open and account.group not in self.exhausted for account in self.accounts())
        if open_ != self.plan.open:
            self.plan = replace(self.plan, open=open_)
            self._write()

    def _write(self) -> None:
        self.folder.write_plan(self.plan.to_json())

    def _adopt(self) -> None:
        """Take what a process that was killed had chosen, and not put into the plan, into it."""
        known = {(trial.group, trial.number) for trial in self.plan.trials}
        lost = []
        for group, study in self._studies.items():
            for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
                if (group, trial.number) in known:
                    continue
                if trial.params.keys() == self.choices.keys():
                    lost.append(self._trial(group, trial.number, trial.params))
                else:  # the choice itself was cut short
                    study.tell(trial.number, state=TrialState.FAIL)
        found = self._add(lost)
        for trial_ in lost:
            if (trial_.group, trial_.number) not in {(one.group, one.number) for one in found}:
                self._studies[trial_.group].tell(trial_.number, state=TrialState.PRUNED)
        self.settle()

    def _open(self) -> dict[str, optuna.Study]:
        """Optuna's studies by group, made again unless those on disk are of these axes and hold what the plan does."""
        described = {name: distribution_to_json(choice) for name, choice in self.choices.items()}
        try:
            studies = self._load(self._path)
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
            f"sqlite:///{path}", engine_kwargs={"connect_args": {"timeout": PATIENCE_SECONDS}}
        )
        direction = StudyDirection.MAXIMIZE if self.space.search.objective == "accuracy" else StudyDirection.MINIMIZE
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
        """Make the file whole or not at all."""
        part_ = self._path.with_name(f".{self._path.name}.part")
        for old in (part_, *part_.parent.glob(f"{part_.name}-*")):
            old.unlink(missing_ok=True)
        for group, study in self._load(part_, create=True).items():
            study.set_user_attr("axes", dict(described))
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # that names are experimental
                study.set_metric_names([f"validation {self.space.search.objective}"])
            trials = {trial.number: trial for trial in self.plan.trials if trial.group == group}
            for number in range(max(trials, default=-1) + 1):
                study.add_trial(self._past(trials.get(number)))
        part_.replace(self._path)
        return self._load(self._path)

    def _past(self, trial: Trial | None) -> FrozenTrial:
        """A trial of the plan as Optuna shall remember it.

        One that the space no longer holds keeps its number only, and so does one beside the steps that a range has now.
        """
        if trial is None or not trial.cells:
            return optuna.trial.create_trial(state=TrialState.FAIL)
        params = {axis.name: _chosen(axis, trial.settings) for axis in self.space.searched}
        results = [self._results[id_] for id_ in trial.cells]
        complete = all(result.state == "complete" for result in results)
        try:
            return optuna.trial.create_trial(
                state=TrialState.COMPLETE if complete else TrialState.RUNNING,
                value=trial_score(results, self.space.search.objective) if complete else None,
                params=params,
                distributions=dict(self.choices),
                user_attrs={"cells": list(trial.cells)},
            )
        except ValueError:
            return optuna.trial.create_trial(state=TrialState.FAIL)


def _chosen(axis: Axis, settings: Mapping[str, Any]) -> Any:
    found = axis.part(settings)
    assert found is not None, f"{axis.name} does not hold what the plan says"
    return found[axis.name] if axis.range is not None else _choice(axis.name, found)
