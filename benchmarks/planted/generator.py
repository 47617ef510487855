"""Results of studies with a planted truth, in memory: histories and predictions of every trajectory of a real plan.

Runs share the examples and their difficulties. The predictions of validation are there for every epoch, those of test
for each epoch that was the best so far, as the loop keeps them.
"""

from __future__ import annotations

import tempfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from analysis.predictions import PredictionsKey, PredictionStore
from analysis.results import Results, assemble
from benchmarks.planted.course import Course, SharedDraws, draw_course, truth_of
from benchmarks.planted.noise import EPOCH, EXAMPLE, RUN, FloatArray, Noise, logistic, noise_of
from benchmarks.planted.records import EpochScores, history_of, outcome_of, score_odds
from benchmarks.planted.truth import Truth
from study.plan.plan import Cell, Plan, Trajectory, make_plan
from study.records import Manifest, Record, Split, TrajectoryRecords
from study.scoring import METRICS, Predictions, Scores
from study.space.recorded import RecordedSpace, read_recorded
from study.space.space import Space
from study.stopping import best_epoch, decide
from study.storage import StudyFolder

CREATED = 1_800_000_000.0
SPLITS: tuple[Split, ...] = ("validation", "test")
# Log-odds of a run that predicts one class: this far from those of the classes' shares.
BIAS, JITTER = 0.02, 1e-3
NOWHERE = StudyFolder(Path("planted"))


@dataclass(frozen=True, slots=True, kw_only=True)
class PlantedStudy:
    """The results of a planted study, and the true accuracy of each trajectory after each epoch."""

    results: Results
    accuracy: Mapping[str, FloatArray]


def plant(truth: Truth, number: int) -> PlantedStudy:
    """The study with a truth and a number; the same number gives the same study, and another truth another."""
    seed = [number, zlib.crc32(truth.name.encode())]
    plan, recorded = _planned(truth.space.text, truth.space)
    noise = noise_of(truth.noise.difficulty, truth.noise.class_share)
    sizes = truth.space.data.split_sizes(truth.space.examples)
    splits = {
        split: Examples(sizes[split], noise, np.random.default_rng([*seed, 1, index]))
        for index, split in enumerate(SPLITS)
    }
    shared = SharedDraws([*seed, 2])
    cells = {cell.id: cell for cell in plan.cells}
    records: dict[str, TrajectoryRecords] = {}
    predictions: dict[PredictionsKey, Predictions | None] = {}
    accuracy = {}
    for index, trajectory in enumerate(plan.trajectories):
        rng = np.random.default_rng([*seed, 3, index])
        course = draw_course(
            trajectory, truth_of(trajectory.settings, truth.rules, rng), truth.noise, noise, shared, rng
        )
        trained = _train(trajectory, [cells[id_] for id_ in trajectory.cells], course, splits, noise, rng)
        records[trajectory.id] = trained.records
        predictions |= trained.predictions
        accuracy[trajectory.id] = course.accuracy
    results, runs = assemble(plan, records)
    return PlantedStudy(
        results=Results(
            plan=plan,
            manifest=Manifest(id="planted", name=plan.study, created=CREATED),
            cells=results,
            runs=runs,
            predictions=PredictionStore(NOWHERE, predictions),
            space=recorded,
        ),
        accuracy=accuracy,
    )


_PLANS: dict[str, tuple[Plan, RecordedSpace]] = {}


def _planned(text: str, space: Space) -> tuple[Plan, RecordedSpace]:
    """The plan of a space and the space as a study records it, made once for each text of a space."""
    if text not in _PLANS:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "space.yaml"
            path.write_text(text)
            _PLANS[text] = make_plan(space), read_recorded(path)
    return _PLANS[text]


class Examples:
    """The examples of a split: labels, difficulties and ids."""

    def __init__(self, size: int, noise: Noise, rng: np.random.Generator) -> None:
        self.label: npt.NDArray[np.int64] = (rng.random(size) < noise.class_share).astype(np.int64)
        self.sign = 2.0 * self.label - 1
        self.difficulty = np.sqrt(EXAMPLE) * noise.difficulties(rng, size)
        self.ids = np.arange(size)

    def odds(
        self, course: Course, epochs: Sequence[int], offset: float, noise: Noise, rng: np.random.Generator
    ) -> npt.NDArray[np.float32]:
        """Log-odds [epochs, examples] of a run after these epochs (from 0), its accuracy ``offset`` from the true."""
        chosen = np.asarray(epochs, dtype=np.int64)
        of_run = self.difficulty + np.sqrt(RUN) * logistic(rng, len(self.label))
        of_epoch = np.sqrt(EPOCH) * logistic(rng, (len(chosen), len(self.label)))
        signal = noise.signal(course.accuracy[chosen] + offset)[:, None]
        odds = course.scale[chosen, None] * noise.log_odds(self.sign * signal + of_run + of_epoch, signal)
        if course.spurious:
            odds += course.spurious * rng.normal(size=len(self.label))
        side = BIAS * (1 if noise.prior > 0 or (noise.prior == 0 and rng.random() < 0.5) else -1)
        flat = noise.prior + side + JITTER * of_run
        one_class: npt.NDArray[np.float32] = np.where(course.one_class[chosen, None], flat, odds).astype(np.float32)
        return one_class

    def predictions(self, odds: npt.NDArray[np.float32]) -> Predictions:
        """Predictions with these log-odds of label 1."""
        return Predictions(example_id=self.ids, label=self.label, logits=np.stack([-odds / 2, odds / 2], axis=1))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Trained:
    """What a trajectory leaves behind."""

    records: TrajectoryRecords
    predictions: Mapping[PredictionsKey, Predictions | None]


def _train(
    trajectory: Trajectory,
    cells: Sequence[Cell],
    course: Course,
    splits: Mapping[Split, Examples],
    noise: Noise,
    rng: np.random.Generator,
) -> _Trained:
    """Records and predictions of a trajectory with this course; it ends when the last of its cells has stopped."""
    validation, test = (splits[split] for split in SPLITS)
    epochs = list(range(course.epochs))
    odds = validation.odds(course, epochs, course.validation, noise, rng)
    if course.end == "non-finite" and epochs:
        odds[-1] = np.nan
    scores: list[EpochScores] = [score_odds(odds[epoch], validation.label) for epoch in epochs]
    past: list[Scores] = [each.metrics for each in scores]
    stop = max(decide(past, cell.policy).stop_epoch for cell in cells)
    scores, past, epochs = scores[:stop], past[:stop], epochs[:stop]
    best = [epoch for epoch in epochs if _is_best(past, epoch)]
    test_odds = test.odds(course, best, 0.0, noise, rng)
    on_test = {epoch: score_odds(test_odds[index], test.label).metrics for index, epoch in enumerate(best)}
    predictions: dict[PredictionsKey, Predictions | None] = {}
    for epoch in epochs:
        predictions[trajectory.id, epoch + 1, "validation"] = validation.predictions(odds[epoch])
        predictions[trajectory.id, epoch + 1, "test"] = (
            test.predictions(test_odds[best.index(epoch)]) if epoch in on_test else None
        )
    history: list[Record] = history_of(trajectory, course, scores, on_test, noise, rng)
    outcome = outcome_of(course, trained=len(epochs), planned=trajectory.epochs)
    return _Trained(records=TrajectoryRecords(history=history, outcome=outcome), predictions=predictions)


def _is_best(past: Sequence[Scores], epoch: int) -> bool:
    """Whether an epoch (from 0) was the best so far, by any metric."""
    return epoch + 1 in {best_epoch(past[: epoch + 1], metric) for metric in METRICS}
