"""The course of one run, drawn from the truth of its condition: true accuracy, scale of log-odds, training loss."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any, Literal

import numpy as np
from scipy import stats

from benchmarks.planted.noise import FloatArray, Noise
from benchmarks.planted.truth import Collapse, NoiseTruth, Overfit, Rule, RunTruth
from study.plan.plan import Trajectory
from study.settings import Settings

End = Literal["complete", "non-finite", "failed", "missing"]
SEEDS_DF = 4
NORMAL = NormalDist()
# No run's true accuracy is above this.
HIGHEST = 0.9995
# Relative noise of a training loss, as it is and where one class is predicted.
LOSS_NOISE, CHANCE_NOISE = 0.01, 0.002
# Training loss at the end of overfitting, as a share of what it was before.
OVERFITTED = 0.15
POINTS_PER_INTERVAL = 8


class SharedDraws:
    """Normal numbers that the runs of one cluster of a study have in common."""

    def __init__(self, seed: Sequence[int]) -> None:
        self._seed = seed
        self._drawn: dict[str, float] = {}

    def normal(self, purpose: str, settings: Settings, cluster: Sequence[str]) -> float:
        """A normal number for a purpose, the same for all runs with the same values of the ``cluster``'s settings."""
        key = repr([purpose, *((name, getattr(settings, name)) for name in cluster)])
        if key not in self._drawn:
            rng = np.random.default_rng([*self._seed, zlib.crc32(key.encode())])
            self._drawn[key] = float(rng.normal())
        return self._drawn[key]


@dataclass(frozen=True, slots=True, kw_only=True)
class Course:
    """What happens to a run, an entry for each epoch; ``one_class`` says where a single class is predicted.

    ``before`` is the accuracy that the run would have without a fall, which its training loss has until then.
    ``falls`` and ``recovers`` are the epochs, in fractions, between which training has collapsed. ``epochs`` of the
    run are trained.
    """

    accuracy: FloatArray
    before: FloatArray
    validation: float
    scale: FloatArray
    spurious: float
    one_class: FloatArray
    fit: FloatArray
    falls: float
    recovers: float
    fallen_accuracy: float | None
    end: End
    epochs: int

    def train_loss(self, edges: FloatArray, noise: Noise, rng: np.random.Generator) -> FloatArray:
        """Mean training loss between each two of ``edges``, points of training in epochs."""
        inside = (np.arange(POINTS_PER_INTERVAL) + 0.5) / POINTS_PER_INTERVAL
        places = edges[:-1, None] + (edges[1:] - edges[:-1])[:, None] * inside
        ends = np.arange(len(self.accuracy) + 1)
        accuracy = np.interp(places, ends, [noise.chance_accuracy, *self.before])
        loss = noise.loss(accuracy) * np.interp(places, ends, [1.0, *self.fit])
        loss *= 1 + LOSS_NOISE * rng.normal(size=loss.shape)
        fallen = (places >= self.falls) & (places < self.recovers)
        level = noise.chance_loss if self.fallen_accuracy is None else float(noise.loss(self.fallen_accuracy))
        at_chance = level * (1 + CHANCE_NOISE * np.abs(rng.normal(size=loss.shape)))
        mean: FloatArray = np.where(fallen, at_chance, loss).mean(axis=1)
        return mean


def truth_of(settings: Settings, rules: Sequence[Rule], rng: np.random.Generator) -> RunTruth:
    """The truth of a run: later rules overrule earlier ones; a rule with a chance is for some of the runs."""
    values: dict[str, Any] = {}
    for rule in rules:
        if rule.matches(settings) and (rule.chance >= 1 or rng.random() < rule.chance):
            values.update(rule.values)
    return RunTruth.model_construct(**{**_DEFAULTS, **values})


_DEFAULTS = {name: field.default for name, field in RunTruth.model_fields.items()}


def draw_course(
    trajectory: Trajectory,
    truth: RunTruth,
    kind: NoiseTruth,
    noise: Noise,
    shared: SharedDraws,
    rng: np.random.Generator,
) -> Course:
    """The course of a trajectory with this truth. Chances are drawn whether they matter or not."""
    epochs, settings = trajectory.epochs, trajectory.settings
    own, own_fall, *chances = rng.normal(size=2).tolist() + rng.random(4).tolist()
    weight = np.sqrt(truth.shared)
    effect = weight * shared.normal("accuracy", settings, truth.cluster) + np.sqrt(1 - truth.shared) * own
    if kind.seeds == "student":
        effect = _student(effect)
    accuracy = truth.accuracy + truth.seed_sd * effect + _curve(truth, epochs)
    accuracy += truth.epoch_sd * rng.normal(size=epochs)
    scale, fit = np.full(epochs, truth.scale), np.geomspace(1, truth.fit, epochs + 1)[1:]
    if truth.overfit is not None and chances[0] < truth.overfit.chance:
        accuracy, scale, fit = _overfitted(truth.overfit, accuracy, scale, fit)
    fall = truth.collapse if truth.collapse is not None and _falls(truth, settings, shared, own_fall) else None
    falls, recovers = (fall.onset, fall.until or np.inf) if fall else (np.inf, np.inf)
    ends = np.arange(1, epochs + 1)
    fallen = (ends > falls) & (ends <= recovers)
    before = np.clip(accuracy, noise.chance_accuracy, HIGHEST)
    if fall is not None and fall.accuracy is not None:
        accuracy = np.where(fallen, fall.accuracy + truth.epoch_sd * rng.normal(size=epochs), accuracy)
        one_class = np.zeros(epochs, dtype=bool)
    else:
        accuracy, one_class = np.where(fallen, noise.chance_accuracy, accuracy), fallen
    end = _end(truth, chances[1:])
    return Course(
        accuracy=np.clip(accuracy, noise.chance_accuracy, HIGHEST),
        before=before,
        validation=truth.validation,
        scale=scale,
        spurious=truth.spurious,
        one_class=one_class,
        fit=fit,
        falls=falls,
        recovers=recovers,
        fallen_accuracy=fall.accuracy if fall else None,
        end=end,
        epochs={"complete": epochs, "missing": 0}.get(end, epochs // 2 + (end == "non-finite")),
    )


def _student(normal: float) -> float:
    """A number of Student's distribution and variance 1, from a normal one."""
    quantile = stats.t.ppf(NORMAL.cdf(normal), SEEDS_DF)
    return float(quantile * np.sqrt((SEEDS_DF - 2) / SEEDS_DF))


def _curve(truth: RunTruth, epochs: int) -> FloatArray:
    """Differences of accuracy from that at the end, after each epoch."""
    if truth.curve is not None:
        held = [*truth.curve, *[truth.curve[-1]] * epochs]
        return np.array(held[:epochs])
    left = 1 - np.arange(1, epochs + 1) / epochs
    climb: FloatArray = -truth.climb * left**2
    return climb


def _overfitted(
    overfit: Overfit, accuracy: FloatArray, scale: FloatArray, fit: FloatArray
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Accuracy, scale and training loss of a run that overfits after an epoch."""
    epochs = len(accuracy)
    progress = np.clip((np.arange(1, epochs + 1) - overfit.after) / max(1, epochs - overfit.after), 0, 1)
    return accuracy - overfit.loses * progress, scale * overfit.scale**progress, fit * OVERFITTED**progress


def _falls(truth: RunTruth, settings: Settings, shared: SharedDraws, own: float) -> bool:
    """Whether the run collapses; runs of a cluster do so together as far as the chance is ``shared``."""
    fall: Collapse | None = truth.collapse
    assert fall is not None
    in_common = shared.normal("collapse", settings, truth.cluster)
    latent = np.sqrt(fall.shared) * in_common + np.sqrt(1 - fall.shared) * own
    return bool(NORMAL.cdf(float(latent)) < fall.chance)


def _end(truth: RunTruth, chances: Sequence[float]) -> End:
    if chances[0] < truth.missing:
        return "missing"
    if chances[1] < truth.failed:
        return "failed"
    return "non-finite" if chances[2] < truth.non_finite else "complete"
