"""The results of a study: its cells, its trajectories, what is missing, and what it was asked for.

Everything is read from the study's folder, whether the study is finished, running or partly failed. What MLflow has of
a study is first written as such a folder (:mod:`analysis.from_mlflow`), so that both ways give the same results.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from analysis.diagnosis import Diagnoses, diagnose
from analysis.epoch_tests import EpochTests
from analysis.predictions import PredictionStore
from analysis.trajectory_results import Chance, TrajectoryResult
from study.errors import StudyError
from study.plan.cell_results import CellResult, cell_result
from study.plan.plan import Plan, read_plan
from study.records import Manifest, TrajectoryRecords
from study.scoring import Predictions
from study.settings import Search, Settings
from study.space.recorded import RecordedSpace, read_recorded
from study.storage import StudyFolder

if TYPE_CHECKING:
    import pandas as pd


class ResultsError(ValueError):
    """There is no study that could be reported on; the message says what to do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Census:
    """How many of the planned cells are in which state.

    ``running`` cells have records and have not ended, ``missing`` ones were never started. ``derived`` cells were read
    off a trajectory that another cell owns. Of the complete cells, ``non_finite`` ended with a non-finite loss, and
    ``pruned`` ended because a trial scheduler stopped them. ``trajectories_ended`` counts trajectories with an outcome.
    ``open`` says that a search will add cells.
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
    """A study's results: cells and trajectories (``runs``) in the plan's order, and the space as it was run.

    ``folder`` is where the study is kept, None where it is not a folder of this machine.
    """

    plan: Plan
    manifest: Manifest
    cells: tuple[CellResult, ...]
    runs: tuple[TrajectoryResult, ...]
    predictions: PredictionStore = field(repr=False)
    space: RecordedSpace = field(default_factory=RecordedSpace)
    folder: Path | None = None

    @property
    def name(self) -> str:
        """The study's name."""
        return self.plan.study

    @cached_property
    def census(self) -> Census:
        """How many cells and trajectories are in which state."""
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
        """How the cells of the study were chosen."""
        return self.space.search

    @property
    def searching(self) -> bool:
        """Whether a search chose the cells, and not a grid."""
        return self.search.method != "grid"

    @cached_property
    def diagnoses(self) -> Diagnoses:
        """The diagnosis of every trajectory by its id, in the plan's order."""
        return {diagnosis.run.trajectory.id: diagnosis for diagnosis in diagnose(self.runs, self.epoch_tests)}

    @cached_property
    def epoch_tests(self) -> EpochTests:
        """Tests of the study's epochs against chance, and against one another."""
        return EpochTests(chance=self.chance, predictions=self.predictions)

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
    def condition_keys(self) -> tuple[str, ...]:
        """The settings by which the conditions of trajectories differ: :attr:`varying_trained` without the seed."""
        return tuple(key for key in self.varying_trained if key != "seed")

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
                predictions = self.predictions.of_epoch(run.trajectory.id, epoch.epoch, "validation")
                if predictions is not None:
                    return predictions
        return None

    def cells_frame(self) -> pd.DataFrame:
        """One row per cell, for notebooks: its settings, its state, and the record of its selected checkpoint."""
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
            selected = _flat_record(asdict(result.chosen)) if result.chosen else {}
            row |= result.cell.settings.model_dump(mode="json")
            rows.append(row | {f"chosen_{key}": value for key, value in selected.items()})
        return pd.DataFrame(rows)

    def epochs_frame(self) -> pd.DataFrame:
        """One row per epoch of each trajectory, for notebooks."""
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

    Raises ResultsError where it is not a study's folder, or the study cannot be read.
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
        reason = "; ".join(str(error).splitlines())  # a SpaceError has a line for each error in the file
        raise ResultsError(f"the study in {path} cannot be read: {type(error).__name__}: {reason}") from error
    return Results(
        plan=plan,
        manifest=manifest,
        cells=cells,
        runs=runs,
        predictions=PredictionStore(folder),
        space=space,
        folder=path,
    )


def assemble(
    plan: Plan, records: Mapping[str, TrajectoryRecords]
) -> tuple[tuple[CellResult, ...], tuple[TrajectoryResult, ...]]:
    """The result of every cell and of every trajectory, from the records of each trajectory by its id."""
    cells = {cell.id: cell for cell in plan.cells}
    results: dict[str, CellResult] = {}
    runs = []
    for trajectory in plan.trajectories:
        owner = trajectory.cells[0]
        for id_ in trajectory.cells:
            results[id_] = cell_result(cells[id_], owner=owner, records=records[trajectory.id])
        runs.append(TrajectoryResult.of(trajectory, results[owner], records[trajectory.id]))
    return tuple(results[cell.id] for cell in plan.cells), tuple(runs)
