"""What was measured in a study, and how much of it is there?

Everything is read from the study's folder, be the study finished, running or half failed; what MLflow keeps of a study
is laid out as such a folder first (:mod:`analysis.from_mlflow`), so both ways give the same results.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import yaml

from analysis.references import PublishedResult, published
from analysis.statistics.probabilities import Scored, score
from study.plan.cell_results import CellResult, cell_result
from study.plan.plan import Cell, Plan, Trajectory, from_json
from study.records import Epoch, Interval, Outcome, Predictions, Record, Split, StudyFolder, read_predictions
from study.space.diagnostics import Faults
from study.space.yaml_document import parse

if TYPE_CHECKING:
    import pandas as pd

# Parquet files are many and small: their reading waits more than it computes.
READERS = 4

Floats = npt.NDArray[np.float64]
History = tuple[Sequence[Record], Outcome | None]


class ResultsError(ValueError):
    """There is nothing that could be reported on; the message says what to do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Census:
    """How many of the planned cells are there: ``missing`` were never started, ``running`` have begun and not ended.

    ``derived`` of the cells were read off a trajectory that another cell owns; ``non_finite`` of the complete ones
    ended because a loss was no number, and ``cut`` of them because a trial scheduler ended them;
    ``trajectories_ended`` counts those with an outcome. ``open`` says that a search will add cells.
    """

    planned: int
    complete: int
    failed: int
    running: int
    missing: int
    derived: int
    non_finite: int
    cut: int
    trajectories: int
    trajectories_ended: int
    open: bool

    @property
    def whole(self) -> bool:
        """Whether every planned cell is complete, and no more will be planned."""
        return self.complete == self.planned and not self.open


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """A trajectory: what it was to train, its records so far, and how it ended (None while it has not)."""

    trajectory: Trajectory
    owner: CellResult
    epochs: tuple[Epoch, ...]
    intervals: tuple[Interval, ...]
    outcome: Outcome | None

    @property
    def settings(self) -> Mapping[str, Any]:
        """The settings of the cell that owns the trajectory."""
        return self.owner.cell.settings

    @property
    def seed(self) -> int:
        """The seed of everything random in it."""
        return int(self.settings["seed"])

    @property
    def ended(self) -> bool:
        """Whether it came to an end of its own, a non-finite loss among them; one that was cut did not."""
        return self.scored and not self.cut

    @property
    def cut(self) -> bool:
        """Whether a trial scheduler ended it: what would have become of it is not known.

        One that was cut after the epoch at which it would have stopped by itself has lost nothing.
        """
        return self.owner.stop_reason == "cut"

    @property
    def scored(self) -> bool:
        """Whether it has ended or was cut, so that it has all the scores that it will have."""
        return self.outcome is not None and self.outcome.status == "complete" and bool(self.epochs)


@dataclass(frozen=True, kw_only=True, eq=False)
class Results:
    """A study's results, in the plan's order.

    ``folder`` holds the predictions, which are read when they are asked for and then kept in ``loaded``. ``space`` is
    the space file as it was written down.
    """

    plan: Plan
    manifest: Mapping[str, Any]
    references: tuple[PublishedResult, ...]
    cells: tuple[CellResult, ...]
    runs: tuple[Run, ...]
    folder: StudyFolder
    space: Mapping[str, Any] = field(default_factory=dict)
    loaded: dict[tuple[str, int, Split], Predictions | None] = field(default_factory=dict, repr=False)
    _scored: dict[tuple[str, int, Split], Scored | None] = field(default_factory=dict, repr=False)

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
            derived=sum(result.trained_by != result.cell.id for result in self.cells),
            non_finite=sum(result.stop_reason == "non-finite" for result in self.cells),
            cut=sum(result.stop_reason == "cut" for result in self.cells),
            trajectories=len(self.runs),
            trajectories_ended=sum(run.outcome is not None for run in self.runs),
            open=self.plan.open,
        )

    @cached_property
    def varying(self) -> tuple[str, ...]:
        """The settings of which the cells hold more than one value, the plan's axes first."""
        keys = dict.fromkeys([*self.plan.axes, *self.plan.cells[0].settings])
        several = [key for key in keys if len({repr(cell.settings.get(key)) for cell in self.plan.cells}) > 1]
        return tuple(several)

    @cached_property
    def varying_trained(self) -> tuple[str, ...]:
        """The same for trajectories: without what only decides when a cell stops, unless trajectories differ in it."""
        return tuple(
            key for key in self.varying if len({repr(run.owner.cell.settings.get(key)) for run in self.runs}) > 1
        )

    @cached_property
    def varying_listed(self) -> tuple[str, ...]:
        """Those that :attr:`varying` names and no range gives: a range has about as many values as there are trials."""
        axes = self.space.get("axes") or {}
        return tuple(key for key in self.varying if not isinstance(axes.get(key), Mapping))

    @cached_property
    def classes(self) -> int:
        """How many classes are told apart; two where no predictions say otherwise."""
        return self._first_validation.logits.shape[1] if self._first_validation is not None else 2

    @cached_property
    def chance_accuracy(self) -> float:
        """The accuracy, on validation, of naming the commonest class always."""
        if self._first_validation is None:
            return 1 / self.classes
        counts = np.bincount(self._first_validation.label, minlength=self.classes)
        return float(counts.max() / counts.sum())

    @cached_property
    def chance_loss(self) -> float:
        """The loss (nats) of the best constant prediction: ln 2 for two classes of equal size."""
        if self._first_validation is None:
            return math.log(self.classes)
        counts = np.bincount(self._first_validation.label, minlength=self.classes)
        shares = counts[counts > 0] / counts.sum()
        return float(-(shares * np.log(shares)).sum())

    @cached_property
    def validation_examples(self) -> int | None:
        """How many examples validation has; None where no predictions say so."""
        return len(self._first_validation.label) if self._first_validation is not None else None

    @cached_property
    def _first_validation(self) -> Predictions | None:
        for run in self.runs:
            for epoch in run.epochs:
                if found := self.predictions(run.trajectory.id, epoch.epoch, "validation"):
                    return found
        return None

    def predictions(self, trajectory: str, epoch: int, split: Split) -> Predictions | None:
        """The predictions of the checkpoint after ``epoch``, None where it was never the best so far."""
        key = (trajectory, epoch, split)
        if key not in self.loaded:
            self.loaded[key] = _in_order(self.folder.trajectory(trajectory).predictions(epoch, split))
        return self.loaded[key]

    def chosen_predictions(self, result: CellResult, split: Split) -> Predictions | None:
        """The predictions of a cell's chosen checkpoint."""
        return self.predictions(result.cell.trajectory, result.chosen.epoch, split) if result.chosen else None

    def scored(self, result: CellResult, split: Split) -> Scored | None:
        """Each example's scores by a cell's chosen checkpoint; None where there is none, or logits are no numbers."""
        if result.chosen is None:
            return None
        key = (result.cell.trajectory, result.chosen.epoch, split)
        if key not in self._scored:
            found = self.predictions(*key)
            usable = found is not None and bool(np.isfinite(found.logits).all())
            self._scored[key] = score(found) if found is not None and usable else None
        return self._scored[key]

    def read_ahead(self, results: Sequence[CellResult], splits: Sequence[Split] = ("validation", "test")) -> None:
        """Read the predictions of these cells' chosen checkpoints, several at a time."""
        wanted: dict[tuple[str, int, Split], Path] = {}
        for result in results:
            if result.chosen is not None:
                for split in splits:
                    key = (result.cell.trajectory, result.chosen.epoch, split)
                    if key not in self.loaded:
                        folder = self.folder.trajectory(result.cell.trajectory)
                        wanted[key] = folder.predictions_path(result.chosen.epoch, split)
        with ThreadPoolExecutor(READERS) as readers:
            for key, found in zip(wanted, readers.map(read_predictions, wanted.values()), strict=True):
                self.loaded[key] = _in_order(found)

    def cells_frame(self) -> pd.DataFrame:
        """One row a cell: its settings, its state, and the scores of its chosen checkpoint, for notebooks."""
        import pandas as pd

        rows = []
        for result in self.cells:
            scores = {f"chosen_{key}": value for key, value in asdict(result.chosen).items()} if result.chosen else {}
            row: dict[str, Any] = {
                "cell": result.cell.id,
                "name": result.cell.name,
                "trajectory": result.cell.trajectory,
            }
            row |= {"state": result.state, "stop_reason": result.stop_reason, "trained_by": result.trained_by}
            rows.append({**row, **result.cell.settings, **scores})
        return pd.DataFrame(rows)

    def epochs_frame(self) -> pd.DataFrame:
        """One row an epoch of each trajectory, for notebooks."""
        import pandas as pd

        return pd.DataFrame([{"trajectory": run.trajectory.id, **asdict(e)} for run in self.runs for e in run.epochs])


def read(path: Path) -> Results:
    """The results in the study folder ``path``.

    Raises ResultsError when it holds no study, or one that cannot be read.
    """
    folder = StudyFolder(path)
    try:
        manifest, values = folder.manifest(), folder.plan()
        if manifest is None or values is None:
            raise ResultsError(f"{path} holds no study: a study's folder has a study.json and a plan.json in it")
        plan = from_json(values)
        if not plan.cells:
            raise ResultsError(f"the study in {path} has no cells yet: its search has only begun")
        text = (path / "space.yaml").read_text() if (path / "space.yaml").exists() else ""
        references, space = published(text), parse(Faults(path / "space.yaml"), text, (), None)
        cells, runs = assemble(plan, _histories(folder, plan))
    except (OSError, ValueError, TypeError, KeyError, AttributeError, yaml.YAMLError) as error:
        if isinstance(error, ResultsError):
            raise
        raise ResultsError(f"the study in {path} cannot be read: {type(error).__name__}: {error}") from error
    return Results(
        plan=plan, manifest=manifest, references=references, cells=cells, runs=runs, folder=folder, space=space or {}
    )


def _histories(folder: StudyFolder, plan: Plan) -> dict[str, History]:
    found: dict[str, History] = {}
    for trajectory in plan.trajectories:
        records = folder.trajectory(trajectory.id)
        # The outcome is written after the history: read in the other order, a history might lack its end.
        outcome, history = records.outcome(), records.history()
        found[trajectory.id] = (history, outcome)
    return found


def assemble(plan: Plan, histories: Mapping[str, History]) -> tuple[tuple[CellResult, ...], tuple[Run, ...]]:
    """Every cell's result and every trajectory's run, from each trajectory's records and outcome."""
    by_id: dict[str, Cell] = {cell.id: cell for cell in plan.cells}
    results: dict[str, CellResult] = {}
    runs = []
    for trajectory in plan.trajectories:
        history, outcome = histories[trajectory.id]
        epochs = [record for record in history if isinstance(record, Epoch)]
        for id_ in trajectory.cells:
            results[id_] = _cell(by_id[id_], trajectory, epochs, history, outcome)
        runs.append(
            Run(
                trajectory=trajectory,
                owner=results[trajectory.cells[0]],
                epochs=tuple(epochs),
                intervals=tuple(record for record in history if isinstance(record, Interval)),
                outcome=outcome,
            )
        )
    return tuple(results[cell.id] for cell in plan.cells), tuple(runs)


def _cell(
    cell: Cell, trajectory: Trajectory, epochs: list[Epoch], history: Sequence[Record], outcome: Outcome | None
) -> CellResult:
    result = cell_result(cell, owner=trajectory.cells[0], epochs=epochs, outcome=outcome)
    if result.state == "planned" and history:
        # It has trained, and not yet come to its first evaluation.
        return CellResult(
            cell=cell,
            state="running",
            trained_by=result.trained_by,
            stop_reason=None,
            last=None,
            chosen=None,
            outcome=outcome,
        )
    return result


def _in_order(predictions: Predictions | None) -> Predictions | None:
    """In the order of the example ids, so that the same place is the same example in all of a study's predictions."""
    if predictions is None or bool((np.diff(predictions.example_id) > 0).all()):
        return predictions
    order = np.argsort(predictions.example_id, kind="stable")
    return Predictions(
        example_id=predictions.example_id[order], label=predictions.label[order], logits=predictions.logits[order]
    )
