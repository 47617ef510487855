"""How good is the best of the first trials that a search makes, by its sampler?

One repeat is a random search and one by TPE, with the same seeds and the same budget, as
:mod:`study.search.optuna_search` makes them and :mod:`study.training.trajectory` trains them, in one process of one
thread. A configuration that both searches choose is trained once: on one processor the second time would give the same
bits.
"""

from __future__ import annotations

import shutil
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import transformers

from study.execution.manifest import find_plan
from study.execution.preparation import write_configs
from study.plan.cell_results import CellResult, cell_results, trial_score
from study.plan.plan import Trajectory
from study.records import StudyFolder
from study.search.optuna_search import Search
from study.search.trajectory_queue import Queue
from study.space.reader import Space
from study.training.trajectory import train_trajectory

METHODS: Mapping[str, Literal["random", "optuna"]] = {"random": "random", "TPE": "optuna"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Repeat:
    """What one repeat searches: ``space``, with the seed of search and training that it says, in ``folder``.

    ``at_once`` trials are under way whenever a search chooses the next.
    """

    seed: int
    space: Space
    encoded: Mapping[str, Path]
    precision: str
    folder: Path
    at_once: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Searched:
    """What one search's trials scored on validation, in their order, and on test; ``trained`` were so many of them."""

    validation: tuple[float, ...]
    test: tuple[float, ...]
    trained: int

    def best(self, trials: int) -> int:
        """The position of the best by validation among the first ``trials``."""
        return max(range(trials), key=self.validation.__getitem__)


def search_both(repeat: Repeat) -> dict[str, Searched]:
    """Make one repeat, in a process of its own."""
    transformers.utils.logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    folders: list[StudyFolder] = []
    found = {}
    for name in METHODS:
        folder = StudyFolder(repeat.folder / name)
        found[name] = _search(repeat, METHODS[name], folder, folders)
        folders.append(folder)
    return found


def _search(
    repeat: Repeat, method: Literal["random", "optuna"], folder: StudyFolder, others: list[StudyFolder]
) -> Searched:
    """One search to its end. Who began first ends first, as if all trials took equally long."""
    space = replace(
        repeat.space,
        fixed={**repeat.space.fixed, "seed": repeat.seed},
        search=repeat.space.search.model_copy(update={"method": method, "seed": repeat.seed}),
    )
    folder.path.mkdir(parents=True)
    search = Search(space, find_plan(folder, space), folder)

    def lay_out(trajectory: Trajectory) -> None:
        encoded = dict(repeat.encoded)
        write_configs(folder, search.plan, [trajectory], space=space, encoded=encoded, auto_precision=repeat.precision)

    queue = Queue(search, lay_out)
    under_way: deque[Trajectory] = deque()
    trained = 0
    while True:
        while len(under_way) < repeat.at_once and (trajectory := queue.take()) is not None:
            under_way.append(trajectory)
        if not under_way:
            break
        oldest = under_way.popleft()
        trained += _train(oldest.id, folder, others)
        queue.ended(oldest.id)
    results = {result.cell.id: result for result in cell_results(folder, search.plan)}
    trials = [[results[id_] for id_ in trial.cells] for trial in search.plan.trials]
    return Searched(
        validation=tuple(trial_score(trial, space.search.objective) for trial in trials),
        test=tuple(_test_accuracy(trial[0]) for trial in trials),
        trained=trained,
    )


def _train(id_: str, folder: StudyFolder, others: list[StudyFolder]) -> bool:
    """Train a trajectory, or take it over from the other search, whose ids say that it is the same; whether trained."""
    ours = folder.trajectory(id_)
    for other in others:
        if other.trajectory(id_).outcome() is not None:
            shutil.copytree(other.trajectory(id_).path, ours.path, dirs_exist_ok=True)
            return False
    train_trajectory(ours, cpu_threads=1, report=lambda _: None)
    return True


def _test_accuracy(result: CellResult) -> float:
    """Of the checkpoint that validation chose; 0 where there is none, as a search scores it."""
    return (result.chosen.test_accuracy if result.chosen else None) or 0.0
