"""Synthetic studies whose truth is known: real spaces and plans with made-up histories and predictions.

An example's label and difficulty are the same for all runs. A run of accuracy ``a`` has a log-odds of Gaussian signal,
which is calibrated by construction; multiplied by ``scale`` it is over-confident above 1 and under-confident below.
"""

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from scipy.special import log_softmax
from scipy.stats import norm
from study_builder import make_epoch

from analysis.predictions import PredictionsKey, PredictionStore
from analysis.results import Results, assemble
from analysis.statistics.estimate import FloatArray
from study.execution.manifest import write_study
from study.plan.plan import Plan, Trajectory, Trial, make_plan
from study.records import Interval, Manifest, Outcome, Record, Split, TrajectoryConfig, TrajectoryRecords
from study.scoring import METRICS, Predictions, Scores
from study.settings import Settings
from study.space.reader import read
from study.space.recorded import read_recorded
from study.space.space import Space
from study.stopping import best_epoch
from study.storage import StudyFolder

CREATED = 1_800_000_000.0
# The part of the noise that belongs to the example: fine-tuned encoders agree with one another about this much.
SHARED = 0.8
SPLITS: tuple[Split, ...] = ("validation", "test")

ENDED = Outcome(status="complete", stop_reason="epochs exhausted", epochs=4, device="CPU")


@dataclass(frozen=True, slots=True, kw_only=True)
class Story:
    """What happens to a run, an entry per epoch: true accuracy, scale of the log-odds, and training loss.

    An accuracy of None means that one class is predicted for every example, NaN that the logits are not finite.
    """

    accuracy: Sequence[float | None]
    train_loss: Sequence[float]
    scale: Sequence[float]
    outcome: Outcome | None = ENDED


def healthy(accuracy: float = 0.9, *, scale: float = 1.0, epochs: int = 4) -> Story:
    """Rises to ``accuracy`` and stays."""
    below = [0.06, 0.02, 0.005, *[0.0] * epochs][:epochs]
    return Story(
        accuracy=[accuracy - distance for distance in below],
        train_loss=[0.5 - 0.3 * i / epochs for i in range(1, epochs + 1)],
        scale=[scale] * epochs,
    )


def overfitting(accuracy: float = 0.9) -> Story:
    """Training loss continues to fall while validation loss rises; accuracy stays."""
    return Story(accuracy=[accuracy] * 4, train_loss=[0.3, 0.15, 0.06, 0.02], scale=[1.0, 1.6, 3.0, 5.0])


def collapsing(accuracy: float = 0.9) -> Story:
    """Learns for two epochs, then predicts one class to the end."""
    return Story(
        accuracy=[accuracy - 0.05, accuracy, None, None], train_loss=[0.5, 0.35, 0.694, 0.694], scale=[1.0] * 4
    )


def at_chance(epochs: int = 4) -> Story:
    """Never leaves chance."""
    return Story(accuracy=[None] * epochs, train_loss=[0.697, 0.695, 0.694, 0.694][:epochs], scale=[1.0] * epochs)


def majority_start(accuracy: float = 0.9) -> Story:
    """Predicts one class at first, and is healthy later."""
    return Story(accuracy=[None, accuracy - 0.1, accuracy, accuracy], train_loss=[0.69, 0.5, 0.3, 0.2], scale=[1.0] * 4)


def non_finite() -> Story:
    """Learns, and then has a non-finite loss."""
    return Story(
        accuracy=[0.85, float("nan")],
        train_loss=[0.5, float("nan")],
        scale=[1.0, 1.0],
        outcome=Outcome(status="complete", stop_reason="non-finite", epochs=2),
    )


def pruned(accuracy: float = 0.7, *, epochs: int = 1) -> Story:
    """Healthy until a trial scheduler stops it."""
    outcome = Outcome(status="complete", stop_reason="cut", epochs=epochs)
    return replace(healthy(accuracy, epochs=epochs), outcome=outcome)


# The story of a trajectory by its settings, with a generator of its own; None: it was never started.
StoryOf = Callable[[Settings, np.random.Generator], Story | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class SyntheticStudy:
    """A made-up study: its records and outcomes by trajectory id, and its predictions."""

    space: Space
    plan: Plan
    records: Mapping[str, Sequence[Record]]
    outcomes: Mapping[str, Outcome | None]
    predictions: Mapping[PredictionsKey, Predictions]

    def results(self) -> Results:
        """The results, without writing a study."""
        records = {
            id_: TrajectoryRecords(history=self.records[id_], outcome=self.outcomes[id_]) for id_ in self.records
        }
        cells, runs = assemble(self.plan, records)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "space.yaml"
            path.write_text(self.space.text)
            recorded = read_recorded(path)
        return Results(
            plan=self.plan,
            manifest=Manifest(id="made-up", name=self.plan.study, created=CREATED),
            cells=cells,
            runs=runs,
            predictions=PredictionStore(StudyFolder(Path("nowhere")), self.predictions),
            space=recorded,
        )

    def write_plan(self, storage: Path) -> StudyFolder:
        """The study's folder before anything is trained."""
        folder = StudyFolder(storage / self.plan.study)
        write_study(folder, self.space, self.plan, tracking_uri=None)
        return folder

    def write(self, storage: Path) -> StudyFolder:
        """The study as a folder in ``storage``, written by the functions that write real ones."""
        folder = self.write_plan(storage)
        cells = {cell.id: cell for cell in self.plan.cells}
        for trajectory in self.plan.trajectories:
            if not self.records[trajectory.id] and self.outcomes[trajectory.id] is None:
                continue
            trained = folder.trajectory(trajectory.id)
            trained.write_config(
                TrajectoryConfig(
                    name=trajectory.name,
                    settings=trajectory.settings,
                    encoded="nowhere",
                    policies=tuple(cells[id_].policy for id_ in trajectory.cells),
                    optimizer_steps=trajectory.optimizer_steps,
                )
            )
            for (id_, epoch, split), predictions in self.predictions.items():
                if id_ == trajectory.id:
                    trained.write_predictions(epoch, split, predictions)
            trained.append(self.records[trajectory.id])
            if (outcome := self.outcomes[trajectory.id]) is not None:
                trained.write_outcome(outcome)
        return folder


def plan_of(folder: Path, text: str) -> tuple[Space, Plan]:
    """The space of a space file's ``text`` and its plan."""
    path = folder / "made-up.yaml"
    path.write_text(text)
    space = read(path)
    return space, make_plan(space)


def search_of(
    folder: Path, text: str, choices: Sequence[Mapping[str, Any]] | Mapping[str, Sequence[Mapping[str, Any]]]
) -> tuple[Space, Plan]:
    """The space of a search's ``text`` and its plan after it has made ``choices``, the same or those of each model."""
    path = folder / "made-up.yaml"
    path.write_text(text)
    space = read(path)
    trials = []
    for group in space.groups():
        of_group = choices[group["model"]] if isinstance(choices, Mapping) else choices
        for number, choice in enumerate(of_group):
            settings = Settings.model_validate({**space.fixed, **group, **choice})
            trials.append(Trial(number=number, group="", settings=settings, cells=()))
    return space, make_plan(space, trials)


def make_synthetic(space: Space, plan: Plan, story_of: StoryOf, *, seed: int = 0) -> SyntheticStudy:
    """The study in which every trajectory has the story that ``story_of`` gives for its settings."""
    sizes = space.data.split_sizes(space.examples)
    rng = np.random.default_rng([seed, 1])
    splits = {split: _SyntheticSplit(sizes[split], rng) for split in SPLITS}
    records: dict[str, Sequence[Record]] = {}
    outcomes: dict[str, Outcome | None] = {}
    predictions: dict[PredictionsKey, Predictions] = {}
    for index, trajectory in enumerate(plan.trajectories):
        trajectory_rng = np.random.default_rng([seed, 2, index])
        story = story_of(trajectory.settings, trajectory_rng)
        records[trajectory.id] = []
        outcomes[trajectory.id] = story.outcome if story else None
        if story is not None:
            records[trajectory.id], by_epoch = _train(trajectory, story, splits, trajectory_rng)
            predictions |= {(trajectory.id, *key): value for key, value in by_epoch.items()}
    return SyntheticStudy(space=space, plan=plan, records=records, outcomes=outcomes, predictions=predictions)


class _SyntheticSplit:
    """Labels and difficulties of a split's examples."""

    def __init__(self, size: int, rng: np.random.Generator) -> None:
        self.label = rng.permutation(np.arange(size) % 2)
        self.noise = rng.normal(size=size)
        self.ids = np.arange(size)

    def predict(self, accuracy: float | None, scale: float, run_noise: FloatArray) -> Predictions:
        sign = 2.0 * self.label - 1
        if accuracy is None or not np.isfinite(accuracy):
            odds = np.full(len(sign), 0.01) + 1e-4 * run_noise
            if accuracy is not None:
                odds = np.full(len(sign), np.nan)
        else:
            signal = float(norm.ppf(accuracy))
            noise = np.sqrt(SHARED) * self.noise + np.sqrt(1 - SHARED) * run_noise
            odds = scale * 2 * signal * (sign * signal + noise)
        logits = np.stack([-odds / 2, odds / 2], axis=1).astype(np.float32)
        return Predictions(example_id=self.ids, label=self.label, logits=logits)


def _train(
    trajectory: Trajectory, story: Story, splits: Mapping[Split, _SyntheticSplit], rng: np.random.Generator
) -> tuple[list[Record], dict[tuple[int, Split], Predictions]]:
    run_noise = {split: rng.normal(size=len(examples.label)) for split, examples in splits.items()}
    history: list[Record] = []
    past: list[Scores] = []
    predictions: dict[tuple[int, Split], Predictions] = {}
    for number, (accuracy, loss, scale) in enumerate(
        zip(story.accuracy, story.train_loss, story.scale, strict=True), start=1
    ):
        by_split = {split: examples.predict(accuracy, scale, run_noise[split]) for split, examples in splits.items()}
        scores = {split: measure(predicted) for split, predicted in by_split.items()}
        past.append({name: scores["validation"][name] for name in METRICS})
        best = number in {best_epoch(past, metric) for metric in METRICS}
        if best:
            predictions |= {(number, split): predicted for split, predicted in by_split.items()}
        history += _records(trajectory, number, loss, scores, best)
    return history, predictions


def _records(
    trajectory: Trajectory, number: int, loss: float, scores: Mapping[Split, Mapping[str, Any]], best: bool
) -> list[Record]:
    epochs = trajectory.epochs
    seen, step = number * trajectory.examples // epochs, number * trajectory.optimizer_steps // epochs
    rate = trajectory.settings.learning_rate
    interval = Interval(
        examples_seen=seen,
        optimizer_step=step,
        train_loss=loss,
        gradient_norm=1.0,
        learning_rate=rate,
        time=CREATED + 10 * number,
    )
    validation, test = scores["validation"], scores["test"]
    epoch = make_epoch(
        number,
        examples_seen=seen,
        optimizer_step=step,
        train_loss=loss,
        validation={name: validation[name] for name in METRICS},
        test={name: test[name] for name in METRICS} if best else None,
        majority_share=validation["majority_share"],
        entropy=validation["entropy"],
        confidence=validation["confidence"],
        logit_std=validation["logit_std"],
        non_finite_steps=0 if np.isfinite(loss) else 1,
        learning_rate=rate,
        train_seconds=1.0,
        time=CREATED + 10 * number + 1,
    )
    return [replace(interval, examples_seen=seen - 1), interval, epoch]


def measure(predictions: Predictions) -> dict[str, float]:
    """The scores of predictions that an epoch's record contains."""
    logits = predictions.logits.astype(np.float64)
    if not np.isfinite(logits).all():
        return dict.fromkeys(("loss", "accuracy", "majority_share", "entropy", "confidence", "logit_std"), float("nan"))
    log_p = log_softmax(logits, axis=1)
    predicted = logits.argmax(axis=1)
    n = len(predicted)
    return {
        "loss": float(-log_p[np.arange(n), predictions.label].mean()),
        "accuracy": float((predicted == predictions.label).mean()),
        "majority_share": float(np.bincount(predicted, minlength=2).max() / n),
        "entropy": float(-(np.exp(log_p) * log_p).sum(axis=1).mean()),
        "confidence": float(np.exp(log_p).max(axis=1).mean()),
        "logit_std": float(logits.std(axis=0).mean()),
    }
