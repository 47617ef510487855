"""When a cell stops, and which of its checkpoints validation selects: pure functions of a history.

Training calls them while it runs, derived cells and ``analysis/`` afterwards, so a cell that shares a trajectory stops
exactly where the same cell trained alone would.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from study.scoring import METRICS, Scores


@dataclass(frozen=True, slots=True, kw_only=True)
class StoppingPolicy:
    """When one cell stops and how its checkpoint is selected; ``metric`` and ``checkpoint_metric`` name metrics.

    ``patience`` None never stops early; ``max_epochs`` None runs as long as the history is.
    """

    max_epochs: int | None = None
    patience: int | None = None
    min_delta: float = 0.0
    metric: str = "loss"
    checkpoint_metric: str = "accuracy"


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """Where a cell stands: epochs are counted from 1; ``best_epoch`` is 0 when no evaluation was finite."""

    stop_epoch: int
    best_epoch: int
    stopped: bool
    early: bool


def best_epoch(history: Sequence[Scores], metric: str) -> int:
    """The epoch (from 1) of the best score, the earlier one of equals; 0 when none is finite."""
    gains = [METRICS[metric].gain(scores) for scores in history]
    top = max(gains, default=-math.inf)
    return gains.index(top) + 1 if top > -math.inf else 0


def decide(history: Sequence[Scores], policy: StoppingPolicy) -> Decision:
    """Apply ``policy`` to ``history``, whose item ``i`` holds the validation scores after epoch ``i + 1``.

    The usual rule of patience, close to the class UP of Prechelt (1998, "Early Stopping - But When?"), which compares
    with the previous score where this compares with the best: the
    run ends at the ``patience``-th evaluation in a row that is not better than the best before it by more than
    ``min_delta``. ``stopped`` is False when the history ends before the cell does.
    """
    limit = len(history) if policy.max_epochs is None else min(policy.max_epochs, len(history))
    stop, early = limit, False
    if policy.patience is not None:
        best, waited = -math.inf, 0
        for epoch, scores in enumerate(history[:limit], start=1):
            gain = METRICS[policy.metric].gain(scores)
            if gain > best + policy.min_delta:
                best, waited = gain, 0
            else:
                waited += 1
            if waited >= policy.patience:
                stop, early = epoch, epoch != policy.max_epochs
                break
    finished = policy.max_epochs is not None and stop == policy.max_epochs
    return Decision(
        stop_epoch=stop,
        best_epoch=best_epoch(history[:stop], policy.checkpoint_metric),
        stopped=early or finished,
        early=early,
    )
