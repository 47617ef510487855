"""Random search and TPE with the same budget: the best of their first trials.

One repeat is a random search and one by TPE with the same seed, as :mod:`study.search.optuna_search` makes them and
:mod:`study.training.trajectory` trains them, in one process with one thread. A configuration that both searches choose
is trained once: on one CPU, training it again would give the same bits.
"""

from __future__ import annotations

import shutil
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import transformers

from study.execution.growth import find_plan
from study.execution.preparation import write_configs
from study.plan.cell_results import CellResult, cell_results, search_score
from study.plan.plan import Trajectory
from study.records import Precision
from study.scoring import ACCURACY
from study.search.optuna_search import OptunaSearch
from study.search.trajectory_queue import TrajectoryQueue
from study.space.space import Space
from study.storage import StudyFolder
from study.training.trajectory import train_trajectory

METHODS: Mapping[str, Literal["random", "optuna"]] = {"random": "random", "TPE": "optuna"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Repeat:
    """What one repeat searches: ``space``, with ``seed`` for search and training, in ``folder``.

    ``at_once`` trials are running whenever a search chooses the next.
    """

    seed: int
    space: Space
    encoded: Mapping[str, Path]
    precision: Precision
    folder: Path
    at_once: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchScores:
    """The scores of one search's trials on validation and on test, in their order; ``trained`` of them were trained."""

    validation: tuple[float, ...]
    test: tuple[float, ...]
    trained: int

    def best(self, trials: int) -> int:
        """The position of the best on validation among the first ``trials``."""
        return max(range(trials), key=self.validation.__getitem__)


def search_both(repeat: Repeat) -> dict[str, SearchScores]:
    """Make one repeat, in a process of its own."""
    transformers.utils.logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    folders: list[StudyFolder] = []
    scores = {}
    for name in METHODS:
        folder = StudyFolder(repeat.folder / name)
        scores[name] = _search(repeat, METHODS[name], folder, folders)
        folders.append(folder)
    return scores


def _search(
    repeat: Repeat, method: Literal["random", "optuna"], folder: StudyFolder, others: Sequence[StudyFolder]
) -> SearchScores:
    """One search to its end. Trajectories end in the order in which they started, as if all took equally long."""
    space = replace(
        repeat.space,
        fixed={**repeat.space.fixed, "seed": repeat.seed},
        search=repeat.space.search.model_copy(update={"method": method, "seed": repeat.seed}),
    )
    folder.path.mkdir(parents=True)
    search = OptunaSearch(space, find_plan(folder, space), folder)

    def prepare(trajectory: Trajectory) -> None:
        write_configs(
            folder,
            search.plan,
            [trajectory],
            space=space,
            encoded=repeat.encoded,
            commits={},
            auto_precision=repeat.precision,
            gpus=0.0,
        )

    queue = TrajectoryQueue(search, prepare)
    running: deque[Trajectory] = deque()
    trained = 0
    while True:
        while len(running) < repeat.at_once and (trajectory := queue.next()) is not None:
            running.append(trajectory)
        if not running:
            break
        oldest = running.popleft()
        trained += _train(oldest.id, folder, others)
        queue.trajectory_ended(oldest.id)
    results = {result.cell.id: result for result in cell_results(folder, search.plan)}
    trials = [[results[id_] for id_ in trial.cells] for trial in search.plan.trials]
    return SearchScores(
        validation=tuple(search_score(trial, space.search.objective) for trial in trials),
        test=tuple(_test_accuracy(trial[0]) for trial in trials),
        trained=trained,
    )


def _train(id_: str, folder: StudyFolder, others: Sequence[StudyFolder]) -> bool:
    """Train a trajectory, or copy it from a search that has trained the same one; returns whether it was trained."""
    target = folder.trajectory(id_)
    for other in others:
        if other.trajectory(id_).outcome() is not None:
            shutil.copytree(other.trajectory(id_).path, target.path, dirs_exist_ok=True)
            return False
    train_trajectory(target, cpu_threads=1)
    return True


def _test_accuracy(result: CellResult) -> float:
    """Test accuracy of the selected checkpoint; 0 where there is none, as a search scores it."""
    return (result.chosen.test_score(ACCURACY.name) if result.chosen else None) or 0.0
