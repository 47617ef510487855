"""The calibration of each condition's selected checkpoints, and where test loss rises along with accuracy."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from analysis.evidence.conditions import group_by
from analysis.results import Results
from analysis.statistics.estimate import Estimate, FloatArray
from analysis.statistics.intervals import mean_over_seeds, mean_over_strata
from analysis.statistics.multibootstrap import mean_over_seeds_and_examples
from analysis.statistics.probabilities import ExampleScores, fit_temperature, score_examples
from analysis.trajectory_results import TrajectoryResult
from study.scoring import Predictions

# Pairs of conditions that are tested for a rise of both accuracy and loss, the largest rises of loss first.
MOST_PAIRS = 50


@dataclass(frozen=True, slots=True, kw_only=True)
class RunCalibration:
    """What the selected checkpoint of a run predicts on test.

    ``temperature`` is fitted on validation, and ``scaled_loss`` is the mean test loss (nats) after scaling by it.
    """

    run: TrajectoryResult
    test: Predictions
    scores: ExampleScores
    temperature: float
    scaled_loss: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ConditionCalibration:
    """The usable runs of one condition, which ``name`` describes."""

    name: str
    runs: Sequence[RunCalibration]

    @property
    def scores(self) -> list[ExampleScores]:
        """The scores of each run."""
        return [run.scores for run in self.runs]

    @property
    def by_seed(self) -> Mapping[int, ExampleScores]:
        """The scores by seed."""
        return {run.run.settings.seed: run.scores for run in self.runs}

    @property
    def gaps(self) -> FloatArray:
        """Confidence less correctness, ``[seeds, examples]``."""
        return np.stack([scores.gap for scores in self.scores])

    @property
    def accuracy(self) -> float:
        """Test accuracy, the mean over seeds."""
        return float(np.mean([scores.correct.mean() for scores in self.scores]))

    @property
    def loss(self) -> float:
        """Test loss, the mean over seeds, in nats."""
        return float(np.mean([scores.nll.mean() for scores in self.scores]))

    @property
    def scaled_loss(self) -> float:
        """Test loss after temperature scaling, the mean over seeds, in nats."""
        return float(np.mean([run.scaled_loss for run in self.runs]))

    @property
    def loss_of_correct(self) -> float | None:
        """The mean loss of correct answers, in nats; None without any."""
        losses = [float(scores.nll[scores.correct].mean()) for scores in self.scores if scores.correct.any()]
        return float(np.mean(losses)) if losses else None

    @property
    def loss_of_wrong(self) -> float | None:
        """The mean loss of wrong answers, in nats; None without any."""
        losses = [float(scores.nll[~scores.correct].mean()) for scores in self.scores if not scores.correct.all()]
        return float(np.mean(losses)) if losses else None

    @property
    def log_temperatures(self) -> list[float]:
        """The logarithm of each run's temperature."""
        return [math.log(run.temperature) for run in self.runs]

    @property
    def temperature(self) -> Estimate:
        """The geometric mean of the temperatures over seeds."""
        return _exp(mean_over_seeds(self.log_temperatures))


def calibrations(results: Results, usable: Sequence[TrajectoryResult]) -> list[ConditionCalibration]:
    """The calibration of each condition of the ``usable`` runs, in the plan's order."""
    runs = [calibration for run in usable if (calibration := _calibration(results, run)) is not None]
    groups = group_by(runs, lambda calibration: calibration.run.settings, results.condition_keys)
    return [ConditionCalibration(name=name, runs=members) for name, members in groups.items()]


def _calibration(results: Results, run: TrajectoryResult) -> RunCalibration | None:
    """The calibration of a run; None where its predictions are missing or not finite."""
    scores = results.predictions.scores(run.owner, "test")
    validation, test = (results.predictions.of_cell(run.owner, split) for split in ("validation", "test"))
    if scores is None or validation is None or test is None:
        return None
    temperature = fit_temperature(validation)
    scaled_loss = float(score_examples(test, temperature).nll.mean())
    return RunCalibration(run=run, test=test, scores=scores, temperature=temperature, scaled_loss=scaled_loss)


def mean_temperature(groups: Sequence[ConditionCalibration]) -> Estimate:
    """The geometric mean of the temperatures over seeds, then over conditions."""
    return _exp(mean_over_strata([group.log_temperatures for group in groups]))


def _exp(log: Estimate) -> Estimate:
    return Estimate(value=math.exp(log.value), low=math.exp(log.low), high=math.exp(log.high), seeds=log.seeds)


@dataclass(frozen=True, slots=True, kw_only=True)
class LossRise:
    """The two conditions between which loss rises most along with accuracy, beyond chance; None where none do.

    ``untested`` is the number of pairs of conditions in which both rise that were not tested.
    """

    conditions: tuple[ConditionCalibration, ConditionCalibration] | None
    untested: int


def largest_loss_rise(groups: Sequence[ConditionCalibration]) -> LossRise:
    """Find the two conditions between which loss rises most along with accuracy, on the same seeds, beyond chance."""
    accuracies, losses = [group.accuracy for group in groups], [group.loss for group in groups]
    pairs = [
        (losses[j] - losses[i], low, high)
        for i, low in enumerate(groups)
        for j, high in enumerate(groups)
        if accuracies[j] > accuracies[i] and losses[j] > losses[i]
    ]
    pairs.sort(key=lambda pair: -pair[0])
    tested = ((low, high) for _, low, high in pairs[:MOST_PAIRS] if _both_rise(low, high))
    return LossRise(conditions=next(tested, None), untested=max(0, len(pairs) - MOST_PAIRS))


def _both_rise(low: ConditionCalibration, high: ConditionCalibration) -> bool:
    """Whether both accuracy and loss of ``high`` are above those of ``low``, on the same seeds, beyond chance."""
    before, after = low.by_seed, high.by_seed
    seeds = sorted(before.keys() & after.keys())
    if len(seeds) < 2:
        return False
    rises = (
        np.stack([after[seed].correct.astype(float) - before[seed].correct for seed in seeds]),
        np.stack([after[seed].nll - before[seed].nll for seed in seeds]),
    )
    return all(mean_over_seeds_and_examples(rise).low > 0 for rise in rises)
