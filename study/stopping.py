"""When does early stopping end a run, and which of its checkpoints does validation choose?

Pure functions of a history. Training asks them while it runs, derived cells and `analysis/` afterwards, so a cell that
shares a trajectory stops exactly where the same cell trained alone would.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Metric = Literal["loss", "accuracy"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Scores:
    """One evaluation on validation."""

    loss: float
    accuracy: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """When one cell stops and how its checkpoint is chosen.

    ``patience`` None never stops early; ``max_epochs`` None runs as long as the history is.
    """

    max_epochs: int | None = None
    patience: int | None = None
    min_delta: float = 0.0
    metric: Metric = "loss"
    checkpoint_metric: Metric = "accuracy"


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """Where a cell stands: epochs are counted from 1; ``best_epoch`` is 0 when no evaluation was finite."""

    stop_epoch: int
    best_epoch: int
    stopped: bool
    early: bool


def gain(score: Scores, metric: Metric) -> float:
    """The score as a number of which more is better; a non-finite one is worse than every finite one."""
    value = -score.loss if metric == "loss" else score.accuracy
    return value if math.isfinite(value) else -math.inf


def best_epoch(history: Sequence[Scores], metric: Metric) -> int:
    """The epoch (from 1) of the best score, the earlier one of equals; 0 when none is finite."""
    gains = [gain(score, metric) for score in history]
    top = max(gains, default=-math.inf)
    return gains.index(top) + 1 if top > -math.inf else 0


def decide(history: Sequence[Scores], policy: Policy) -> Decision:
    """Apply ``policy`` to ``history``, whose item ``i`` is the validation score after epoch ``i + 1``.

    The rule is the usual one (Prechelt 1998, "Early Stopping - But When?", the class UP with strips of one epoch): the
    run ends at the ``patience``-th evaluation in a row that is not better than the best before it by more than
    ``min_delta``. ``stopped`` is False when the history ends before the cell does.
    """
    limit = len(history) if policy.max_epochs is None else min(policy.max_epochs, len(history))
    stop, early = limit, False
    if policy.patience is not None:
        best, waited = -math.inf, 0
        for epoch, score in enumerate(history[:limit], start=1):
            value = gain(score, policy.metric)
            if value > best + policy.min_delta:
                best, waited = value, 0
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
