"""Stopping rules, applied to whole trajectories after the fact."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from analysis.results import Results
from analysis.statistics.estimate import FloatArray
from analysis.trajectory_results import TrajectoryResult
from study.scoring import METRICS
from study.stopping import StoppingPolicy, decide

# A rule may cost this much test accuracy.
ACCEPTED_LOSS = 0.005
PATIENCE = (1, 2, 3)


@dataclass(frozen=True, slots=True, kw_only=True)
class StoppingRule:
    """Stop after ``patience`` evaluations in a row without an improvement of ``metric`` on validation."""

    metric: str
    patience: int

    @property
    def name(self) -> str:
        """The rule in words."""
        return f"patience {self.patience} on {self.metric}"


RULES = tuple(StoppingRule(metric=metric, patience=patience) for metric in METRICS for patience in PATIENCE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Replay:
    """What a rule would have done to a run: the share of epochs saved, and the accuracy lost.

    ``test_lost`` is by example, ``[examples]``; None where the predictions of a checkpoint are missing.
    """

    run: TrajectoryResult
    rule: StoppingRule
    saved: float
    validation_lost: float
    test_lost: FloatArray | None


def replay_rules(results: Results, runs: Sequence[TrajectoryResult]) -> list[dict[StoppingRule, Replay]]:
    """Every rule applied to every run that has a checkpoint to select."""
    replays = []
    for run in runs:
        whole = decide([epoch.validation for epoch in run.epochs], _policy(run, None))
        if whole.best_epoch:
            replays.append({rule: _replay(results, run, rule, whole.best_epoch) for rule in RULES})
    return replays


def _policy(run: TrajectoryResult, rule: StoppingRule | None) -> StoppingPolicy:
    return StoppingPolicy(
        max_epochs=run.trajectory.epochs,
        patience=rule.patience if rule else None,
        metric=rule.metric if rule else "loss",
        checkpoint_metric=run.settings.checkpoint_metric,
    )


def _replay(results: Results, run: TrajectoryResult, rule: StoppingRule, whole: int) -> Replay:
    """The rule applied to a run whose selected checkpoint is that of epoch ``whole``."""
    decision = decide([epoch.validation for epoch in run.epochs], _policy(run, rule))
    stopped = decision.best_epoch or whole
    accuracies = [run.epochs[epoch - 1].validation["accuracy"] for epoch in (whole, stopped)]
    of_whole = _correct(results, run, whole)
    of_rule = of_whole if stopped == whole else _correct(results, run, stopped)
    return Replay(
        run=run,
        rule=rule,
        saved=1 - decision.stop_epoch / len(run.epochs),
        validation_lost=accuracies[0] - accuracies[1],
        test_lost=None if of_whole is None or of_rule is None else of_whole - of_rule,
    )


def _correct(results: Results, run: TrajectoryResult, epoch: int) -> FloatArray | None:
    """Whether the checkpoint after ``epoch`` classifies each test example correctly."""
    predictions = results.predictions.of_epoch(run.trajectory.id, epoch, "test")
    usable = predictions is not None and predictions.finite
    return predictions.correct.astype(np.float64) if predictions is not None and usable else None
