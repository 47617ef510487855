"""The calibration of each condition's selected checkpoints, and where test loss rises along with accuracy."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from analysis.evidence.conditions import group_by
from analysis.results import Results
from analysis.statistics.clustered_means import SeedScores, mean_over_seeds
from analysis.statistics.estimate import Estimate, FloatArray
from analysis.statistics.intervals import mean_over_seeds as mean_of_values
from analysis.statistics.probabilities import ExampleScores, fit_temperature, score_examples
from analysis.trajectory_results import TrajectoryResult
from study.scoring import Predictions

ALPHA = 0.05


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


@dataclass(frozen=True, kw_only=True, eq=False)
class ConditionCalibration:
    """The usable runs of one condition, which ``name`` describes."""

    name: str
    runs: Sequence[RunCalibration]

    @cached_property
    def scores(self) -> list[ExampleScores]:
        """The scores of each run."""
        return [run.scores for run in self.runs]

    @cached_property
    def by_seed(self) -> Mapping[int, ExampleScores]:
        """The scores by seed."""
        return {run.run.settings.seed: run.scores for run in self.runs}

    @cached_property
    def gaps(self) -> SeedScores:
        """Confidence minus correctness."""
        return SeedScores(seeds=tuple(self.by_seed), scores=np.stack([scores.gap for scores in self.by_seed.values()]))

    @cached_property
    def accuracy(self) -> float:
        """Test accuracy, the mean over seeds."""
        return float(np.mean([scores.correct.mean() for scores in self.scores]))

    @cached_property
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
        return _exp(mean_of_values(self.log_temperatures))


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


def _exp(log: Estimate) -> Estimate:
    return Estimate(value=math.exp(log.value), low=math.exp(log.low), high=math.exp(log.high), seeds=log.seeds)


@dataclass(frozen=True, slots=True, kw_only=True)
class LossRise:
    """Two conditions, in ``low`` of which test accuracy and test loss are both below those in ``high``."""

    low: ConditionCalibration
    high: ConditionCalibration
    p_value: float


def largest_loss_rise(groups: Sequence[ConditionCalibration]) -> LossRise | None:
    """The pair of conditions between which accuracy and loss rise together most clearly; None where none do.

    Both have to rise on the same seeds and examples (an intersection-union test, Berger 1982), and the p-value is
    corrected for all pairs of conditions, those that were not worth a test included (Bonferroni).
    """
    pairs = len(groups) * (len(groups) - 1)
    clearest: LossRise | None = None
    for low in groups:
        for high in groups:
            if high.accuracy > low.accuracy and high.loss > low.loss:
                largest = clearest.p_value / pairs if clearest else math.inf
                p = min(1.0, pairs * _p_both_rise(low, high, largest))
                if clearest is None or p < clearest.p_value:
                    clearest = LossRise(low=low, high=high, p_value=p)
    return clearest


def _p_both_rise(low: ConditionCalibration, high: ConditionCalibration, largest: float) -> float:
    """The p-value that accuracy or loss does not rise; over the examples alone where a single seed is shared.

    It may stop at the p-value of loss where that alone is at least ``largest``.
    """
    before, after = low.by_seed, high.by_seed
    seeds = sorted(before.keys() & after.keys())
    if not seeds:
        return 1.0
    p = _p_rise([after[seed].nll - before[seed].nll for seed in seeds])
    if p >= largest:
        return p
    return max(p, _p_rise([after[seed].correct.astype(np.float64) - before[seed].correct for seed in seeds]))


def _p_rise(by_seed: Sequence[FloatArray]) -> float:
    """The one-sided p-value that the mean is not above zero."""
    mean = mean_over_seeds(np.stack(by_seed))
    return mean.p_above(0.0) if len(by_seed) > 1 else mean.p_over_examples / 2
