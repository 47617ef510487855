"""Successive halving replayed on runs that were trained to their end: what it would have saved and lost.

Jamieson & Talwalkar (2016, "Non-stochastic Best Arm Identification and Hyperparameter Optimization") let all runs train
side by side up to a rung, keep the best 1 in ``factor``, and let these train ``factor`` times as long, to the next
rung. Li et al. (2020, "A System for Massively Parallel Hyperparameter Tuning", ASHA) do not wait for all: a run that
reaches a rung is compared with those that reached it before. This is replayed as Ray implements it: a run that is worse
at a rung than the quantile of the best 1 in ``factor`` of those before it is stopped, and the first one continues.
"""

from __future__ import annotations

import math
from bisect import insort
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from analysis.answer import Table, Value
from analysis.results import Results
from analysis.statistics.estimate import Estimate
from analysis.trajectory_results import TrajectoryResult
from study.scoring import METRICS

FACTORS = (2, 3, 4)
GRACE_EPOCHS = 1
FEWEST_RUNS = 6
# Random orders in which runs are replayed one after the other.
ORDERS = 100

METHODS = (
    (
        "Successive halving is replayed on runs that were trained to their end, by model: at every rung (the grace "
        f"epochs, here {GRACE_EPOCHS}, times a power of the factor) the runs' validation scores at that epoch are "
        "compared. Side by side, the best 1 in that many continue, at least one (Jamieson & Talwalkar 2016); one after "
        "the other, each is compared with those before it (ASHA, Li et al. 2020, as Ray implements it). A rung at a "
        "run's last epoch stops nothing."
    ),
    (
        "One after the other depends on the order, which is random: means over random orders, with the range of 95 % "
        "of them. That range does not include what other runs would have done."
    ),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class HalvingCurve:
    """A run that was trained to its end, as halving sees it: one entry per epoch.

    ``gains`` are validation scores of which more is better, -inf where one is not finite. The others describe the
    checkpoint that is selected if training stops there: ``selected`` is its epoch (from 1; 0: none), ``best`` its gain,
    ``validation`` and ``test`` its accuracies (NaN without one). ``examples`` are those seen by then.
    """

    gains: Sequence[float]
    best: Sequence[float]
    selected: Sequence[int]
    validation: Sequence[float]
    test: Sequence[float]
    examples: Sequence[int]


@dataclass(frozen=True, slots=True, kw_only=True)
class HalvingEffect:
    """What halving would have done: how many runs it stops, and the share of all examples that it saves.

    ``lost`` says whether the run that validation selects was stopped before its selected checkpoint. The regrets say
    how much less accurate the selection from what remains is, on validation and on test (negative if more accurate).
    """

    stopped: int
    saved: float
    lost: bool
    validation_regret: float
    test_regret: float


def rungs(epochs: int, *, grace: int, factor: int) -> list[int]:
    """The epochs at which runs of up to ``epochs`` are compared: ``grace`` times the powers of ``factor``."""
    assert grace > 0
    assert factor > 1
    compared_at = []
    rung = grace
    while rung <= epochs:
        compared_at.append(rung)
        rung *= factor
    return compared_at


def halve(gains: Sequence[Sequence[float]], *, grace: int, factor: int) -> list[int | None]:
    """The epoch after which each run is stopped, None for never, if all train side by side (Jamieson & Talwalkar 2016).

    ``gains`` has each run's score after each epoch, of which more is better. At a rung, of the n remaining runs that
    reach it, the best ``n // factor`` continue, at least one; of equals, the earlier.
    """
    stops: list[int | None] = [None] * len(gains)
    for rung in rungs(max(map(len, gains), default=0), grace=grace, factor=factor):
        remaining = [i for i, by_epoch in enumerate(gains) if stops[i] is None and len(by_epoch) >= rung]
        ranked = sorted(remaining, key=lambda i: -gains[i][rung - 1])
        for i in ranked[max(1, len(remaining) // factor) :]:
            # A run whose last epoch this is has ended by itself.
            if len(gains[i]) > rung:
                stops[i] = rung
    return stops


def halve_in_turn(
    gains: Sequence[Sequence[float]], order: Sequence[int], *, grace: int, factor: int
) -> list[int | None]:
    """The same if the runs train one after the other, in this ``order`` (Li et al. 2020, as Ray implements it)."""
    stops: list[int | None] = [None] * len(gains)
    gains_at: dict[int, list[float]] = {}
    reached = {epochs: rungs(epochs, grace=grace, factor=factor) for epochs in set(map(len, gains))}
    for i in order:
        for rung in reached[len(gains[i])]:
            before, own = gains_at.setdefault(rung, []), gains[i][rung - 1]
            worse = bool(before) and own < _quantile(before, 1 - 1 / factor)
            insort(before, own)
            if worse and len(gains[i]) > rung:
                stops[i] = rung
                break
    return stops


def _quantile(ordered: Sequence[float], q: float) -> float:
    """Interpolated between the two nearest values; the lower of them where it is -inf."""
    place = (len(ordered) - 1) * q
    low, high = ordered[math.floor(place)], ordered[math.ceil(place)]
    return low if low == high or low == -math.inf else low + (place - math.floor(place)) * (high - low)


def replay(curves: Sequence[HalvingCurve], stops: Sequence[int | None]) -> HalvingEffect:
    """What stopping the runs there would have saved and lost; of equals, validation selects the earlier run."""
    ends = [stop if stop is not None else len(curve.gains) for curve, stop in zip(curves, stops, strict=True)]
    best_whole = max(range(len(curves)), key=lambda i: curves[i].best[-1])
    best_stopped = max(range(len(curves)), key=lambda i: curves[i].best[ends[i] - 1])
    whole, stopped, end = curves[best_whole], curves[best_stopped], ends[best_stopped]
    trained = sum(curve.examples[last - 1] for curve, last in zip(curves, ends, strict=True))
    return HalvingEffect(
        stopped=sum(stop is not None for stop in stops),
        saved=1 - trained / sum(curve.examples[-1] for curve in curves),
        lost=ends[best_whole] < whole.selected[-1],
        validation_regret=whole.validation[-1] - stopped.validation[end - 1],
        test_regret=whole.test[-1] - stopped.test[end - 1],
    )


def halving_table(results: Results, rng: np.random.Generator) -> Table | None:
    """What halving would have saved and lost for each model; None where no model has enough runs."""
    rows: list[tuple[Value, ...]] = []
    for model, curves in _curves_by_model(results).items():
        if len(curves) >= FEWEST_RUNS and max(len(curve.gains) for curve in curves) > GRACE_EPOCHS:
            orders = [rng.permutation(len(curves)).tolist() for _ in range(ORDERS)]
            rows += [row for factor in FACTORS for row in _rows(model, curves, factor, orders)]
    if not rows:
        return None
    return Table(
        title="What successive halving would have saved and lost",
        columns=(
            "model",
            "factor",
            "runs train",
            "runs",
            "stopped",
            "examples saved",
            "best run lost",
            "validation accuracy lost",
            "test accuracy lost",
        ),
        formats=("t", "n", "t", "n", "g", "%", "t", "+%", "+%"),
        rows=rows,
        note="The best run is the one that validation selects of all runs that were trained to their end, which has "
        "one seed; it is lost if it is stopped before its selected checkpoint. Accuracy lost is that run's less that "
        "of the run that is selected from what remains. In brackets: 95 % of the random orders.",
    )


def _rows(
    model: str, curves: Sequence[HalvingCurve], factor: int, orders: Sequence[Sequence[int]]
) -> list[tuple[Value, ...]]:
    gains = [curve.gains for curve in curves]
    effect = replay(curves, halve(gains, grace=GRACE_EPOCHS, factor=factor))
    effects = [replay(curves, halve_in_turn(gains, order, grace=GRACE_EPOCHS, factor=factor)) for order in orders]
    share_lost = sum(in_turn.lost for in_turn in effects) / len(effects)
    return [
        (
            *(model, factor, "side by side", len(curves), effect.stopped, effect.saved),
            *("yes" if effect.lost else "no", effect.validation_regret, effect.test_regret),
        ),
        (
            *(model, factor, "one after the other", len(curves)),
            _over_orders([in_turn.stopped for in_turn in effects], len(curves)),
            _over_orders([in_turn.saved for in_turn in effects], len(curves)),
            f"in {share_lost:.0%} of orders",
            _over_orders([in_turn.validation_regret for in_turn in effects], len(curves)),
            _over_orders([in_turn.test_regret for in_turn in effects], len(curves)),
        ),
    ]


def halving_caveat(results: Results) -> str:
    """Why halving is not replayed for pruned models; empty where no run was pruned."""
    if not any(run.pruned for run in results.runs):
        return ""
    return (
        "What another scheduler would have saved and lost is unknown for models with pruned runs, because their final "
        "results are."
    )


def _over_orders(values: Sequence[float], runs: int) -> Estimate:
    finite = [value for value in values if math.isfinite(value)]
    if not finite:
        return Estimate(value=math.nan, seeds=runs)
    low, high = np.quantile(finite, [0.025, 0.975])
    return Estimate(value=float(np.mean(finite)), low=float(low), high=float(high), seeds=runs)


def _curves_by_model(results: Results) -> dict[str, list[HalvingCurve]]:
    """The runs of each model that were trained to their end; none of a model that has a pruned run."""
    curves: dict[str, list[HalvingCurve]] = {}
    censored = {run.model for run in results.runs if run.pruned}
    for run in results.runs:
        if run.ended and run.model not in censored:
            curves.setdefault(run.model, []).append(halving_curve(results, run))
    return curves


def halving_curve(results: Results, run: TrajectoryResult) -> HalvingCurve:
    """A run as halving sees it, by the study's objective; checkpoints are selected as the run's own are."""
    objective, metric = METRICS[results.search.objective], METRICS[run.settings.checkpoint_metric]
    by_objective = [objective.gain(epoch.validation) for epoch in run.epochs]
    by_checkpoint = [metric.gain(epoch.validation) for epoch in run.epochs]
    selected: list[int] = []
    for epoch_number, gain in enumerate(by_checkpoint, start=1):
        before = selected[-1] if selected else 0
        best = by_checkpoint[before - 1] if before else -math.inf
        selected.append(epoch_number if gain > best else before)
    tests = [run.epochs[epoch - 1].test_score("accuracy") if epoch else None for epoch in selected]
    return HalvingCurve(
        gains=by_objective,
        best=[by_objective[epoch - 1] if epoch else -math.inf for epoch in selected],
        selected=selected,
        validation=[run.epochs[epoch - 1].validation["accuracy"] if epoch else math.nan for epoch in selected],
        test=[math.nan if test is None else test for test in tests],
        examples=[epoch.examples_seen for epoch in run.epochs],
    )
