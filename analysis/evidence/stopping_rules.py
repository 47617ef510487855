"""Stopping rules, applied to whole trajectories after the fact."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from analysis.results import Results
from analysis.statistics.estimate import FloatArray
from analysis.trajectory_results import TrajectoryResult
from study.plan.labels import label
from study.scoring import METRICS
from study.settings import EarlyStopping
from study.stopping import StoppingPolicy, decide

# A rule may cost this much test accuracy.
ACCEPTED_LOSS = 0.005
PATIENCE = (1, 2, 3)


RULES = tuple(EarlyStopping(metric=metric, patience=patience) for metric in METRICS for patience in PATIENCE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Replay:
    """What a rule would have done to a run: the epochs saved, and the accuracy lost.

    ``test_lost`` is by example, ``[examples]``; None where the predictions of a checkpoint are missing.
    """

    run: TrajectoryResult
    rule: EarlyStopping
    epochs_saved: int
    validation_lost: float
    test_lost: FloatArray | None

    @property
    def saved(self) -> float:
        """The share of the run's epochs that is saved."""
        return self.epochs_saved / len(self.run.epochs)


def rule_name(rule: EarlyStopping) -> str:
    """A rule in words, such as "patience 1 on loss"."""
    return label("early_stopping", rule)


def whole_runs(results: Results) -> list[TrajectoryResult]:
    """The runs of two epochs or more that trained all of theirs, so that the end by any rule is within them.

    Failed runs are among them, but for those without a checkpoint to select.
    """
    return [
        run
        for run in results.runs
        if run.ended
        and run.outcome is not None
        and run.outcome.stop_reason not in ("stopped early", "cut")
        and len(run.epochs) > 1
        and run.owner.chosen is not None
    ]


def replay(results: Results, run: TrajectoryResult, rule: EarlyStopping) -> Replay:
    """The rule applied to one of the :func:`whole_runs`, as the study itself would apply it."""
    history = [epoch.validation for epoch in run.epochs]
    selected_by = run.settings.checkpoint_metric
    whole = decide(history, StoppingPolicy(checkpoint_metric=selected_by))
    early = decide(
        history,
        StoppingPolicy(
            max_epochs=run.trajectory.epochs,
            patience=rule.patience,
            min_delta=rule.min_delta,
            metric=rule.metric,
            checkpoint_metric=selected_by,
        ),
    )
    selected = early.best_epoch or whole.best_epoch
    of_whole = _correct(results, run, whole.best_epoch)
    of_rule = of_whole if selected == whole.best_epoch else _correct(results, run, selected)
    return Replay(
        run=run,
        rule=rule,
        epochs_saved=len(run.epochs) - early.stop_epoch,
        validation_lost=history[whole.best_epoch - 1]["accuracy"] - history[selected - 1]["accuracy"],
        test_lost=None if of_whole is None or of_rule is None else of_whole - of_rule,
    )


def _correct(results: Results, run: TrajectoryResult, epoch: int) -> FloatArray | None:
    """Whether the checkpoint after ``epoch`` classifies each test example correctly."""
    predictions = results.predictions.of_epoch(run.trajectory.id, epoch, "test")
    usable = predictions is not None and predictions.finite
    return predictions.correct.astype(np.float64) if predictions is not None and usable else None
