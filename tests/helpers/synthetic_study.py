"""Synthetic studies whose truth is known: real spaces and plans with made-up histories and predictions.

An example's label and difficulty are the same for all runs. A run of accuracy ``a`` has a log-odds of Gaussian signal,
which is calibrated by construction; multiplied by ``scale`` it is over-confident above 1 and under-confident below.
Predictions are kept as training keeps them: on validation of every finite epoch, on test of those that were the best so
far.
"""

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from synthetic_training import CREATED, State, SyntheticSplit, epoch_records, measure

from analysis.predictions import PredictionsKey, PredictionStore
from analysis.results import Results, assemble
from study.execution.manifest import data_content, write_study
from study.plan.plan import Plan, Trajectory, Trial, make_plan
from study.records import Manifest, Outcome, Record, Split, TrajectoryConfig, TrajectoryRecords
from study.scoring import METRICS, Predictions, Scores
from study.settings import Settings
from study.space.reader import read
from study.space.recorded import read_recorded
from study.space.space import Space
from study.stopping import best_epoch
from study.storage import StudyFolder

SPLITS: tuple[Split, ...] = ("validation", "test")

ENDED = Outcome(status="complete", stop_reason="epochs exhausted", epochs=4, device="CPU")


@dataclass(frozen=True, slots=True, kw_only=True)
class Story:
    """What happens to a run, an entry per epoch: true accuracy, scale of the log-odds, training loss, exact loss.

    An accuracy of None means that one class is predicted for every example, NaN that the logits are not finite. On
    validation, accuracy is higher by ``leak``. The rest is what :class:`synthetic_training.State` says.
    """

    accuracy: Sequence[float | None]
    train_loss: Sequence[float]
    scale: Sequence[float]
    outcome: Outcome | None = ENDED
    leak: float = 0.0
    spurious: float = 0.0
    flicker: float = 0.0
    trace: float = 0.0
    loss: Sequence[float | None] = ()

    def state(self, epoch: int, split: Split) -> State:
        """The model after ``epoch``, from 1, as it is on a split."""
        accuracy = self.accuracy[epoch - 1]
        return State(
            accuracy=accuracy + self.leak if accuracy is not None and split == "validation" else accuracy,
            scale=self.scale[epoch - 1],
            spurious=self.spurious,
            flicker=self.flicker,
            trace=self.trace,
            loss=self.loss[epoch - 1] if self.loss else None,
        )


def story(accuracy: Sequence[float | None], train_loss: Sequence[float], **values: Any) -> Story:
    """A story of calibrated predictions, unless ``values`` have a scale."""
    return Story(accuracy=accuracy, train_loss=train_loss, **{"scale": [1.0] * len(accuracy), **values})


def healthy(accuracy: float = 0.9, *, scale: float = 1.0, epochs: int = 4) -> Story:
    """Rises to ``accuracy`` and stays."""
    below = [0.06, 0.02, 0.005, *[0.0] * epochs][:epochs]
    return Story(
        accuracy=[accuracy - distance for distance in below],
        train_loss=[0.5 - 0.3 * i / epochs for i in range(1, epochs + 1)],
        scale=[scale] * epochs,
    )


def over_confident_late(accuracy: float = 0.9) -> Story:
    """Training loss continues to fall while validation loss rises; accuracy is kept."""
    return story([accuracy] * 4, [0.3, 0.15, 0.06, 0.02], scale=[1.0, 1.6, 3.0, 5.0])


def overfitting(accuracy: float = 0.9, *, loses: float = 0.06) -> Story:
    """The same, and accuracy falls by ``loses``."""
    fallen = [accuracy - 0.01, accuracy, accuracy - loses / 2, accuracy - loses]
    return story(fallen, [0.3, 0.15, 0.06, 0.02], scale=[1.0, 1.6, 3.0, 5.0])


def declining(accuracy: float = 0.9, *, to: float = 0.6) -> Story:
    """Loses a large part of what it had learned, in training too, and keeps some of it."""
    return story([accuracy - 0.05, accuracy, to, to], [0.5, 0.35, 0.66, 0.66])


def recovering(accuracy: float = 0.9, *, at: float | None = 0.6) -> Story:
    """Falls to the accuracy ``at``, or to one class where that is None, and comes back."""
    return story([accuracy, at, accuracy, accuracy], [0.4, 0.66 if at else 0.694, 0.4, 0.3])


def memorised() -> Story:
    """Training loss falls to nearly nothing, and validation never beats chance."""
    return story([0.5] * 4, [0.6, 0.4, 0.2, 0.05], spurious=4.0)


def collapsing_at_the_end(accuracy: float = 0.9) -> Story:
    """Collapses within the last interval of the last epoch, whose mean training loss is not yet that of chance."""
    return story([accuracy - 0.05, accuracy, accuracy, None], [0.5, 0.35, 0.3, 0.55])


def collapsing(accuracy: float = 0.9) -> Story:
    """Learns for two epochs, then predicts one class to the end."""
    return story([accuracy - 0.05, accuracy, None, None], [0.5, 0.35, 0.694, 0.694])


def at_chance(epochs: int = 4) -> Story:
    """Never leaves chance."""
    return story([None] * epochs, [0.697, 0.695, 0.694, 0.694][:epochs])


def majority_start(accuracy: float = 0.9) -> Story:
    """Predicts one class at first, and is healthy later."""
    return story([None, accuracy - 0.1, accuracy, accuracy], [0.69, 0.5, 0.3, 0.2])


def non_finite() -> Story:
    """Learns, and then has a non-finite loss."""
    outcome = Outcome(status="complete", stop_reason="non-finite", epochs=2)
    return story([0.85, float("nan")], [0.5, float("nan")], outcome=outcome)


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
            manifest=Manifest(
                id="made-up",
                name=self.plan.study,
                created=CREATED,
                data=data_content(self.space),
                models=self.space.identities,
            ),
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


def make_synthetic(
    space: Space, plan: Plan, story_of: StoryOf, *, seed: int = 0, positive: float = 0.5
) -> SyntheticStudy:
    """The study in which every trajectory has the story that ``story_of`` gives for its settings.

    ``positive`` is the share of examples with label 1.
    """
    sizes = space.data.split_sizes(space.examples)
    rng = np.random.default_rng([seed, 1])
    splits = {split: SyntheticSplit(sizes[split], rng, positive) for split in SPLITS}
    records: dict[str, Sequence[Record]] = {}
    outcomes: dict[str, Outcome | None] = {}
    predictions: dict[PredictionsKey, Predictions] = {}
    for index, trajectory in enumerate(plan.trajectories):
        trajectory_rng = np.random.default_rng([seed, 2, index])
        told = story_of(trajectory.settings, trajectory_rng)
        records[trajectory.id] = []
        outcomes[trajectory.id] = told.outcome if told else None
        if told is not None:
            records[trajectory.id], by_epoch = _train(trajectory, told, splits, trajectory_rng)
            predictions |= {(trajectory.id, *key): value for key, value in by_epoch.items()}
    return SyntheticStudy(space=space, plan=plan, records=records, outcomes=outcomes, predictions=predictions)


def _train(
    trajectory: Trajectory, told: Story, splits: Mapping[Split, SyntheticSplit], rng: np.random.Generator
) -> tuple[list[Record], dict[tuple[int, Split], Predictions]]:
    run_noise = {split: rng.normal(size=len(examples.label)) for split, examples in splits.items()}
    history: list[Record] = []
    past: list[Scores] = []
    predictions: dict[tuple[int, Split], Predictions] = {}
    for number, loss in enumerate(told.train_loss, start=1):
        epoch_noise = {
            split: rng.normal(size=len(noise)) if told.flicker else noise for split, noise in run_noise.items()
        }
        by_split = {
            split: examples.predict(told.state(number, split), run_noise[split], epoch_noise[split])
            for split, examples in splits.items()
        }
        scores = {split: measure(predicted) for split, predicted in by_split.items()}
        past.append({name: scores["validation"][name] for name in METRICS})
        best = number in {best_epoch(past, metric) for metric in METRICS}
        kept = SPLITS if best else SPLITS[:1] if by_split["validation"].finite else ()
        predictions |= {(number, split): by_split[split] for split in kept}
        history += epoch_records(trajectory, number, loss, scores, best)
    return history, predictions
