"""What was measured in a study, and how much of it is there.

Everything is read from the study's folder, whether the study is finished, running or partly failed; what MLflow has of
a study is laid out as such a folder first (:mod:`analysis.from_mlflow`), so both ways give the same results.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from analysis.evidence.diagnosis import Diagnoses, diagnose
from analysis.statistics.probabilities import ExampleScores, score_examples
from analysis.trajectory_results import Chance, TrajectoryResult
from study.errors import StudyError
from study.plan.cell_results import CellResult, cell_result
from study.plan.plan import Plan, read_plan
from study.records import Manifest, Split, TrajectoryRecords
from study.scoring import Predictions
from study.settings import Search, Settings
from study.space.recorded import RecordedSpace, read_recorded
from study.storage import StudyFolder, read_predictions

if TYPE_CHECKING:
    import pandas as pd

# Parquet files are many and small: reading them waits more than it computes.
READERS = 4

PredictionsKey = tuple[str, int, Split]


class ResultsError(ValueError):
    """There is nothing that could be reported on; the message says what to do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Census:
    """How many of the planned cells are there: ``missing`` were never started, ``running`` have begun and not ended.

    ``derived`` of the cells were read off a trajectory that another cell owns; ``non_finite`` of the complete ones
    ended with a non-finite loss, and ``pruned`` of them because a trial scheduler stopped them; ``trajectories_ended``
    counts those with an outcome. ``open`` says that a search will add cells.
    """

    planned: int
    complete: int
    failed: int
    running: int
    missing: int
    derived: int
    non_finite: int
    pruned: int
    trajectories: int
    trajectories_ended: int
    open: bool

    @property
    def whole(self) -> bool:
        """Whether every planned cell is complete, and no more will be planned."""
        return self.complete == self.planned and not self.open


@dataclass(frozen=True, kw_only=True, eq=False)
class Results:
    """A study's results, in the plan's order.

    ``folder`` holds the predictions, which are read when they are needed and then kept in ``loaded``. ``space`` is the
    space as it was run.
    """

    plan: Plan
    manifest: Manifest
    cells: tuple[CellResult, ...]
    runs: tuple[TrajectoryResult, ...]
    folder: StudyFolder
    space: RecordedSpace = field(default_factory=RecordedSpace)
    loaded: dict[PredictionsKey, Predictions | None] = field(default_factory=dict, repr=False)
    _scored: dict[PredictionsKey, ExampleScores | None] = field(default_factory=dict, repr=False)

    @property
    def name(self) -> str:
        """The study's name."""
        return self.plan.study

    @cached_property
    def census(self) -> Census:
        """What is there, and what is not."""
        states = Counter(result.state for result in self.cells)
        return Census(
            planned=len(self.cells),
            complete=states["complete"],
            failed=states["failed"],
            running=states["running"],
            missing=states["planned"],
            derived=sum(result.derived for result in self.cells),
            non_finite=sum(result.stop_reason == "non-finite" for result in self.cells),
            pruned=sum(result.stop_reason == "cut" for result in self.cells),
            trajectories=len(self.runs),
            trajectories_ended=sum(run.outcome is not None for run in self.runs),
            open=self.plan.open,
        )

    @property
    def search(self) -> Search:
        """How the study chose its cells."""
        return self.space.search

    @property
    def searching(self) -> bool:
        """Whether a search chose the cells, and not a grid."""
        return self.search.method != "grid"

    @cached_property
    def diagnoses(self) -> Diagnoses:
        """The diagnosis of every trajectory by its id, in the plan's order."""
        return {diagnosis.run.trajectory.id: diagnosis for diagnosis in diagnose(self.runs, self.chance)}

    @cached_property
    def varying(self) -> tuple[str, ...]:
        """The settings of which the cells have more than one value, the plan's axes first."""
        keys = dict.fromkeys([*self.plan.axes, *Settings.model_fields])
        return tuple(key for key in keys if len({getattr(cell.settings, key) for cell in self.plan.cells}) > 1)

    @cached_property
    def varying_trained(self) -> tuple[str, ...]:
        """The same for trajectories: without what only decides when a cell stops, unless trajectories differ in it."""
        return tuple(key for key in self.varying if len({getattr(run.settings, key) for run in self.runs}) > 1)

    @cached_property
    def varying_listed(self) -> tuple[str, ...]:
        """Those of :attr:`varying` without a range, which has about as many values as there are trials."""
        return tuple(key for key in self.varying if key not in self.space.ranges)

    @cached_property
    def chance(self) -> Chance:
        """What the best constant prediction scores on validation."""
        return Chance.of(self._first_validation)

    @cached_property
    def _first_validation(self) -> Predictions | None:
        for run in self.runs:
            for epoch in run.epochs:
                predictions = self.predictions(run.trajectory.id, epoch.epoch, "validation")
                if predictions is not None:
                    return predictions
        return None

    def predictions(self, trajectory: str, epoch: int, split: Split) -> Predictions | None:
        """The predictions of the checkpoint after ``epoch``, None where it was never the best so far."""
        key = (trajectory, epoch, split)
        if key not in self.loaded:
            self.loaded[key] = _in_order(self.folder.trajectory(trajectory).predictions(epoch, split))
        return self.loaded[key]

    def chosen_predictions(self, result: CellResult, split: Split) -> Predictions | None:
        """The predictions of a cell's selected checkpoint."""
        return self.predictions(result.cell.trajectory, result.chosen.epoch, split) if result.chosen else None

    def scored(self, result: CellResult, split: Split) -> ExampleScores | None:
        """Each example's scores by a cell's selected checkpoint; None where there is none, or a logit is not finite."""
        if result.chosen is None:
            return None
        key = (result.cell.trajectory, result.chosen.epoch, split)
        if key not in self._scored:
            predictions = self.predictions(*key)
            usable = predictions is not None and predictions.finite
            self._scored[key] = score_examples(predictions) if predictions is not None and usable else None
        return self._scored[key]

    def read_ahead(self, results: Sequence[CellResult], splits: Sequence[Split] = ("validation", "test")) -> None:
        """Read the predictions of these cells' selected checkpoints, several at a time."""
        wanted: dict[PredictionsKey, Path] = {}
        for result in results:
            if result.chosen is not None:
                for split in splits:
                    key = (result.cell.trajectory, result.chosen.epoch, split)
                    if key not in self.loaded:
                        folder = self.folder.trajectory(result.cell.trajectory)
                        wanted[key] = folder.predictions_path(result.chosen.epoch, split)
        with ThreadPoolExecutor(READERS) as readers:
            for key, predictions in zip(wanted, readers.map(read_predictions, wanted.values()), strict=True):
                self.loaded[key] = _in_order(predictions)

    def cells_frame(self) -> pd.DataFrame:
        """One row a cell: its settings, its state, and the record of its selected checkpoint, for notebooks."""
        import pandas as pd

        rows = []
        for result in self.cells:
            row: dict[str, Any] = {
                "cell": result.cell.id,
                "name": result.cell.name,
                "trajectory": result.cell.trajectory,
                "state": result.state,
                "stop_reason": result.stop_reason,
                "trained_by": result.trained_by,
            }
            chosen = _flat_record(asdict(result.chosen)) if result.chosen else {}
            row |= result.cell.settings.model_dump(mode="json")
            rows.append(row | {f"chosen_{key}": value for key, value in chosen.items()})
        return pd.DataFrame(rows)

    def epochs_frame(self) -> pd.DataFrame:
        """One row an epoch of each trajectory, for notebooks."""
        import pandas as pd

        return pd.DataFrame(
            [
                {"trajectory": run.trajectory.id, **_flat_record(asdict(epoch))}
                for run in self.runs
                for epoch in run.epochs
            ]
        )


def _flat_record(values: Mapping[str, Any]) -> dict[str, Any]:
    """An epoch's values, with a column for each score, such as ``validation_loss``."""
    flat = {key: value for key, value in values.items() if key not in ("validation", "test")}
    for split in ("validation", "test"):
        flat |= {f"{split}_{metric}": (values[split] or {}).get(metric) for metric in values["validation"]}
    return flat


def read(path: Path) -> Results:
    """The results in the study folder ``path``.

    Raises ResultsError when it holds no study, or one that cannot be read.
    """
    folder = StudyFolder(path)
    try:
        manifest, plan = folder.manifest(), read_plan(folder)
        if manifest is None or plan is None:
            raise ResultsError(f"{path} is not a study's folder: it has no study.json and plan.json")
        if not plan.cells:
            raise ResultsError(f"the study in {path} has no cells yet: its search has only started")
        space = read_recorded(folder.space_file)
        cells, runs = assemble(plan, {t.id: folder.trajectory(t.id).read() for t in plan.trajectories})
    except (ResultsError, StudyError) as error:
        raise ResultsError(str(error)) from error
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise ResultsError(f"the study in {path} cannot be read: {type(error).__name__}: {error}") from error
    return Results(plan=plan, manifest=manifest, cells=cells, runs=runs, folder=folder, space=space)


def assemble(
    plan: Plan, records: Mapping[str, TrajectoryRecords]
) -> tuple[tuple[CellResult, ...], tuple[TrajectoryResult, ...]]:
    """Every cell's and every trajectory's result, from each trajectory's records."""
    cells = {cell.id: cell for cell in plan.cells}
    results: dict[str, CellResult] = {}
    runs = []
    for trajectory in plan.trajectories:
        owner = trajectory.cells[0]
        for id_ in trajectory.cells:
            results[id_] = cell_result(cells[id_], owner=owner, records=records[trajectory.id])
        runs.append(TrajectoryResult.of(trajectory, results[owner], records[trajectory.id]))
    return tuple(results[cell.id] for cell in plan.cells), tuple(runs)


def _in_order(predictions: Predictions | None) -> Predictions | None:
    """In the order of the example ids, so that the same place is the same example in all of a study's predictions."""
    if predictions is None or bool((np.diff(predictions.example_id) > 0).all()):
        return predictions
    order = np.argsort(predictions.example_id, kind="stable")
    return Predictions(
        example_id=predictions.example_id[order], label=predictions.label[order], logits=predictions.logits[order]
    )
