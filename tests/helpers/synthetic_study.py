"""Makes studies whose truth is known: real spaces and plans, trained by nobody, with predictions as real ones are.

An example's label and difficulty are the same for all runs. A run of accuracy ``a`` has a log-odds of Gaussian signal,
which is calibrated by construction; multiplied by ``scale`` it is over-confident above 1 and under-confident below.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.special import log_softmax
from scipy.stats import norm

from analysis.results import Results, assemble
from study.execution.manifest import describe
from study.plan.plan import Plan, SettingValues, Trajectory, Trial, make_plan
from study.records import Epoch, Interval, Outcome, Predictions, Record, Split, StudyFolder
from study.space.diagnostics import Faults
from study.space.reader import Space, read
from study.space.yaml_document import parse
from study.stopping import Metric, Scores, best_epoch

CREATED = 1_800_000_000.0
# The part of the noise that belongs to the example: as high as fine-tuned encoders agree with one another.
SHARED = 0.8
SPLITS: tuple[Split, ...] = ("validation", "test")
METRICS: tuple[Metric, ...] = ("loss", "accuracy")

ENDED = Outcome(status="complete", stop_reason="epochs exhausted", epochs=4, device="CPU")
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Story:
    """What happens to a run, an entry for each epoch: true accuracy (None: one class for all), scale, train loss."""

    accuracy: Sequence[float | None]
    train_loss: Sequence[float]
    scale: Sequence[float]
    outcome: Outcome | None = ENDED


def healthy(accuracy: float = 0.9, *, scale: float = 1.0, epochs: int = 4) -> Story:
    """Rises to ``accuracy`` and stays."""
    rise = [0.06, 0.02, 0.005, *[0.0] * epochs][:epochs]
    return Story(
        accuracy=[accuracy - below for below in rise],
        train_loss=[0.5 - 0.3 * i / epochs for i in range(1, epochs + 1)],
        scale=[scale] * epochs,
    )


def overfitting(accuracy: float = 0.9) -> Story:
    """Training loss goes on falling while validation loss rises, accuracy being kept."""
    return Story(accuracy=[accuracy] * 4, train_loss=[0.3, 0.15, 0.06, 0.02], scale=[1.0, 1.6, 3.0, 5.0])


def collapsing(accuracy: float = 0.9) -> Story:
    """Learns for two epochs, then names one class for ever."""
    return Story(
        accuracy=[accuracy - 0.05, accuracy, None, None], train_loss=[0.5, 0.35, 0.694, 0.694], scale=[1.0] * 4
    )


def dead(epochs: int = 4) -> Story:
    """Never leaves chance."""
    return Story(accuracy=[None] * epochs, train_loss=[0.697, 0.695, 0.694, 0.694][:epochs], scale=[1.0] * epochs)


def majority_start(accuracy: float = 0.9) -> Story:
    """One class at first, and healthy later."""
    return Story(accuracy=[None, accuracy - 0.1, accuracy, accuracy], train_loss=[0.69, 0.5, 0.3, 0.2], scale=[1.0] * 4)


def non_finite() -> Story:
    """Learns, and then its loss is no number."""
    return Story(
        accuracy=[0.85, float("nan")],
        train_loss=[0.5, float("nan")],
        scale=[1.0, 1.0],
        outcome=Outcome(status="complete", stop_reason="non-finite", epochs=2),
    )


def cut(accuracy: float = 0.7, *, epochs: int = 1) -> Story:
    """Ended by a trial scheduler, healthy as it was."""
    outcome = Outcome(status="complete", stop_reason="cut", epochs=epochs)
    return replace(healthy(accuracy, epochs=epochs), outcome=outcome)


Tell = Callable[[SettingValues, np.random.Generator], Story | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Synthetic:
    """A made-up study: its records and predictions by trajectory id."""

    space: Space
    plan: Plan
    records: Mapping[str, Sequence[Record]]
    outcomes: Mapping[str, Outcome | None]
    predictions: Mapping[tuple[str, int, Split], Predictions]

    def results(self) -> Results:
        """The results, without a folder having been written."""
        cells, runs = assemble(self.plan, {id_: (self.records[id_], self.outcomes[id_]) for id_ in self.records})
        return Results(
            plan=self.plan,
            manifest={"name": self.plan.study, "created": CREATED},
            references=(),
            cells=cells,
            runs=runs,
            folder=StudyFolder(Path("nowhere")),
            space=parse(Faults(Path("made-up.yaml")), self.space.text, (), None),
            loaded=dict(self.predictions),
        )

    def write_plan(self, storage: Path) -> StudyFolder:
        """What the study is, before anything is trained."""
        folder = StudyFolder(storage / self.plan.study)
        describe(folder, self.space, self.plan, tracking_uri=None)
        return folder

    def write(self, storage: Path) -> StudyFolder:
        """The study as a folder in ``storage``, written by the functions that write real ones."""
        folder = self.write_plan(storage)
        for trajectory in self.plan.trajectories:
            if not self.records[trajectory.id] and self.outcomes[trajectory.id] is None:
                continue
            kept = folder.trajectory(trajectory.id)
            kept.write_config({"settings": dict(trajectory.settings)})
            for (id_, epoch, split), predictions in self.predictions.items():
                if id_ == trajectory.id:
                    kept.write_predictions(epoch, split, predictions)
            kept.append(self.records[trajectory.id])
            if (outcome := self.outcomes[trajectory.id]) is not None:
                kept.write_outcome(outcome)
        return folder


def plan_of(folder: Path, text: str) -> tuple[Space, Plan]:
    """The space of a space file's ``text`` and its plan."""
    path = folder / "made-up.yaml"
    path.write_text(text)
    space = read(path)
    return space, make_plan(space)


def search_of(
    folder: Path, text: str, choices: Sequence[SettingValues] | Mapping[str, Sequence[SettingValues]]
) -> tuple[Space, Plan]:
    """The space of a search's ``text`` and its plan once it has made ``choices``, the same or those of each model."""
    path = folder / "made-up.yaml"
    path.write_text(text)
    space = read(path)
    trials = []
    for group in space.groups():
        chosen = choices[group["model"]] if isinstance(choices, Mapping) else choices
        for number, choice in enumerate(chosen):
            settings = {**space.fixed, **group, **choice}
            trials.append(Trial(number=number, group="", settings=settings, cells=()))
    return space, make_plan(space, trials)


def make(space: Space, plan: Plan, tell: Tell, *, seed: int = 0) -> Synthetic:
    """Let every trajectory be what ``tell`` says of its settings; None: it was never started."""
    sizes = space.data.split_sizes(space.examples)
    rng = np.random.default_rng([seed, 1])
    splits = {split: _Split(sizes[split], rng) for split in SPLITS}
    records: dict[str, Sequence[Record]] = {}
    outcomes: dict[str, Outcome | None] = {}
    predictions: dict[tuple[str, int, Split], Predictions] = {}
    for index, trajectory in enumerate(plan.trajectories):
        own = np.random.default_rng([seed, 2, index])
        story = tell({**plan.cells[0].settings, **trajectory.settings}, own)
        records[trajectory.id] = []
        outcomes[trajectory.id] = story.outcome if story else None
        if story is not None:
            records[trajectory.id], kept = _train(trajectory, story, splits, own)
            predictions |= {(trajectory.id, *key): value for key, value in kept.items()}
    return Synthetic(space=space, plan=plan, records=records, outcomes=outcomes, predictions=predictions)


class _Split:
    """Labels and difficulties of a split's examples."""

    def __init__(self, size: int, rng: np.random.Generator) -> None:
        self.label = rng.permutation(np.arange(size) % 2)
        self.noise = rng.normal(size=size)
        self.ids = np.arange(size)

    def predict(self, accuracy: float | None, scale: float, own: Floats) -> Predictions:
        sign = 2.0 * self.label - 1
        if accuracy is None or not np.isfinite(accuracy):
            odds = np.full(len(sign), 0.01) + 1e-4 * own
            if accuracy is not None:
                odds = np.full(len(sign), np.nan)
        else:
            signal = float(norm.ppf(accuracy))
            odds = scale * 2 * signal * (sign * signal + np.sqrt(SHARED) * self.noise + np.sqrt(1 - SHARED) * own)
        logits = np.stack([-odds / 2, odds / 2], axis=1).astype(np.float32)
        return Predictions(example_id=self.ids, label=self.label, logits=logits)


def _train(
    trajectory: Trajectory, story: Story, splits: Mapping[Split, _Split], rng: np.random.Generator
) -> tuple[list[Record], dict[tuple[int, Split], Predictions]]:
    own = {split: rng.normal(size=len(found.label)) for split, found in splits.items()}
    history: list[Record] = []
    past: list[Scores] = []
    kept: dict[tuple[int, Split], Predictions] = {}
    epochs = trajectory.epochs
    for number, (accuracy, loss, scale) in enumerate(
        zip(story.accuracy, story.train_loss, story.scale, strict=True), start=1
    ):
        found = {split: part.predict(accuracy, scale, own[split]) for split, part in splits.items()}
        scores = {split: measure(one) for split, one in found.items()}
        past.append(Scores(loss=scores["validation"]["loss"], accuracy=scores["validation"]["accuracy"]))
        best = number in {best_epoch(past, metric) for metric in METRICS}
        if best:
            kept |= {(number, split): one for split, one in found.items()}
        history += _records(trajectory, number, epochs, loss, scores, best)
    return history, kept


def _records(
    trajectory: Trajectory, number: int, epochs: int, loss: float, scores: Mapping[Split, Mapping[str, Any]], best: bool
) -> list[Record]:
    seen, step = number * trajectory.examples // epochs, number * trajectory.optimizer_steps // epochs
    rate = trajectory.settings["learning_rate"]
    interval = Interval(
        examples_seen=seen,
        optimizer_step=step,
        train_loss=loss,
        gradient_norm=1.0,
        learning_rate=rate,
        time=CREATED + 10 * number,
    )
    validation, test = scores["validation"], scores["test"]
    epoch = Epoch(
        epoch=number,
        examples_seen=seen,
        optimizer_step=step,
        train_loss=loss,
        validation_loss=validation["loss"],
        validation_accuracy=validation["accuracy"],
        test_loss=test["loss"] if best else None,
        test_accuracy=test["accuracy"] if best else None,
        gradient_norm_mean=1.0,
        gradient_norm_max=2.0,
        update_ratio=1e-3,
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
    """The scores that a record holds of predictions."""
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
