"""What would successive halving have saved, and what would it have lost?

Runs that were trained to their end are replayed as if a trial scheduler had watched them. Jamieson & Talwalkar (2016,
"Non-stochastic Best Arm Identification and Hyperparameter Optimization") let all runs train side by side to a rung,
keep the best 1 in ``factor``, and let these train ``factor`` times as long, to the next rung. Li et al. (2020, "A
System for Massively Parallel Hyperparameter Tuning", ASHA) do not wait for all: a run that comes to a rung is measured
by those that came before it. It is replayed in the form in which Ray has it: a run that is worse there than the best 1
in ``factor`` of those before it, by their quantile, is cut, and one that comes first goes on.
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
from study.plan.labels import label
from study.scoring import METRICS

FACTORS = (2, 3, 4)
GRACE_EPOCHS = 1
FEWEST_RUNS = 6
ORDERS = 100

METHODS = (
    (
        "Successive halving is replayed on runs that were trained to their end, by model: at every rung (the grace "
        f"epochs, here {GRACE_EPOCHS}, times a power of the factor) the runs' scores on validation at that epoch are "
        "compared. Side by side, the best 1 in so many go on, at least one (Jamieson & Talwalkar 2016); one after the "
        "other, each is measured by those before it (ASHA, Li et al. 2020, as Ray cuts). A run's last epoch cuts "
        "nothing."
    ),
    (
        "One after the other depends on the order, which chance decides: means over random orders, with the range of "
        "95 % of them. That range knows nothing of other runs than these."
    ),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """A run that was trained to its end, an entry for each epoch.

    ``gains`` are scores on validation of which more is better, -inf where one is no number; ``validation`` and ``test``
    are the accuracies of the checkpoint that is chosen if training ends there, NaN where there is none, ``best`` its
    gain, ``chosen`` its epoch (from 1; 0: none), and ``examples`` those seen by then.
    """

    gains: Sequence[float]
    best: Sequence[float]
    chosen: Sequence[int]
    validation: Sequence[float]
    test: Sequence[float]
    examples: Sequence[int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Replay:
    """What halving would have done: ``saved`` is a share of all examples.

    ``lost`` says whether the run that validation chooses was cut before the checkpoint that it chooses, and the regrets
    how much less accurate the choice among what is left would have been, on validation and on test (below zero where
    it is more accurate there).
    """

    cut: int
    saved: float
    lost: bool
    validation_regret: float
    test_regret: float


def rungs(epochs: int, *, grace: int, factor: int) -> list[int]:
    """The epochs at which runs of up to ``epochs`` are compared: ``grace`` times the powers of ``factor``."""
    assert grace > 0
    assert factor > 1
    found = []
    rung = grace
    while rung <= epochs:
        found.append(rung)
        rung *= factor
    return found


def halve(gains: Sequence[Sequence[float]], *, grace: int, factor: int) -> list[int | None]:
    """After which epoch each run is cut, None for never, if all train side by side (Jamieson & Talwalkar 2016).

    ``gains`` has each run's score after each epoch, of which more is better. At a rung, of the n runs that are left and
    reach it, the best ``n // factor`` go on, at least one; of equals, the earlier.
    """
    cut: list[int | None] = [None] * len(gains)
    for rung in rungs(max(map(len, gains), default=0), grace=grace, factor=factor):
        there = [i for i, one in enumerate(gains) if cut[i] is None and len(one) >= rung]
        ranked = sorted(there, key=lambda i: -gains[i][rung - 1])
        for i in ranked[max(1, len(there) // factor) :]:
            # Of one that ends here there is nothing to cut.
            if len(gains[i]) > rung:
                cut[i] = rung
    return cut


def halve_in_turn(
    gains: Sequence[Sequence[float]], order: Sequence[int], *, grace: int, factor: int
) -> list[int | None]:
    """The same if the runs train one after the other, in this ``order`` (ASHA: Li et al. 2020, as Ray cuts)."""
    cut: list[int | None] = [None] * len(gains)
    seen: dict[int, list[float]] = {}
    passed = {epochs: rungs(epochs, grace=grace, factor=factor) for epochs in set(map(len, gains))}
    for i in order:
        for rung in passed[len(gains[i])]:
            before, own = seen.setdefault(rung, []), gains[i][rung - 1]
            worse = bool(before) and own < _quantile(before, 1 - 1 / factor)
            insort(before, own)
            if worse and len(gains[i]) > rung:
                cut[i] = rung
                break
    return cut


def _quantile(ordered: Sequence[float], q: float) -> float:
    """Between the two nearest values, in proportion; the lower one where it is -inf."""
    place = (len(ordered) - 1) * q
    low, high = ordered[math.floor(place)], ordered[math.ceil(place)]
    return low if low == high or low == -math.inf else low + (place - math.floor(place)) * (high - low)


def replay(curves: Sequence[Curve], cut: Sequence[int | None]) -> Replay:
    """What these cuts would have saved and lost; of equals, the earlier run is the one that validation chooses."""
    ends = [end if end is not None else len(curve.gains) for curve, end in zip(curves, cut, strict=True)]
    best = max(range(len(curves)), key=lambda i: curves[i].best[-1])
    left = max(range(len(curves)), key=lambda i: curves[i].best[ends[i] - 1])
    whole, kept = curves[best], curves[left]
    trained = sum(curve.examples[end - 1] for curve, end in zip(curves, ends, strict=True))
    return Replay(
        cut=sum(end is not None for end in cut),
        saved=1 - trained / sum(curve.examples[-1] for curve in curves),
        lost=ends[best] < whole.chosen[-1],
        validation_regret=whole.validation[-1] - kept.validation[ends[left] - 1],
        test_regret=whole.test[-1] - kept.test[ends[left] - 1],
    )


def halving_table(results: Results, rng: np.random.Generator) -> Table | None:
    """What halving would have saved and lost for each model; None where no model has runs enough to tell."""
    rows: list[tuple[Value, ...]] = []
    for model, curves in _curves(results).items():
        if len(curves) < FEWEST_RUNS or max(len(curve.gains) for curve in curves) <= GRACE_EPOCHS:
            continue
        gains = [curve.gains for curve in curves]
        orders = [rng.permutation(len(curves)).tolist() for _ in range(ORDERS)]
        for factor in FACTORS:
            how = {"grace": GRACE_EPOCHS, "factor": factor}
            once = replay(curves, halve(gains, **how))
            lost = "yes" if once.lost else "no"
            regrets = (once.validation_regret, once.test_regret)
            rows.append((model, factor, "side by side", len(curves), once.cut, once.saved, lost, *regrets))
            many = [replay(curves, halve_in_turn(gains, order, **how)) for order in orders]
            lost = f"in {sum(one.lost for one in many) / len(many):.0%} of orders"
            found = [
                _over_orders([getattr(one, key) for one in many], len(curves))
                for key in ("cut", "saved", "validation_regret", "test_regret")
            ]
            rows.append((model, factor, "one after the other", len(curves), *found[:2], lost, *found[2:]))
    if not rows:
        return None
    return Table(
        title="What successive halving would have saved and lost",
        columns=(
            "model",
            "factor",
            "runs train",
            "runs",
            "cut",
            "examples saved",
            "best run lost",
            "validation accuracy lost",
            "test accuracy lost",
        ),
        formats=("t", "n", "t", "n", "g", "%", "t", "+%", "+%"),
        rows=rows,
        note="The best run is the one that validation chooses of all that were trained to their end, one seed's; it is "
        "lost if it is cut before the checkpoint that is chosen. Accuracy lost is that run's less that of the one that "
        "is chosen among what is left. In brackets: 95 % of the random orders.",
    )


def halving_caveat(results: Results) -> str:
    """Why nothing is told of halving where a trial scheduler was at work; empty where none was."""
    if not any(run.pruned for run in results.runs):
        return ""
    return (
        "What another scheduler would have saved and lost cannot be told of models whose runs were cut, for nobody "
        "knows what would have become of them."
    )


def _over_orders(values: Sequence[float], runs: int) -> Estimate:
    finite = [value for value in values if math.isfinite(value)]
    if not finite:
        return Estimate(value=math.nan, seeds=runs)
    low, high = np.quantile(finite, [0.025, 0.975])
    return Estimate(value=float(np.mean(finite)), low=float(low), high=float(high), seeds=runs)


def _curves(results: Results) -> dict[str, list[Curve]]:
    """The runs of each model that were trained to their end, none of a model of which one was cut."""
    found: dict[str, list[Curve]] = {}
    censored = {label("model", run.settings.model) for run in results.runs if run.pruned}
    for run in results.runs:
        model = label("model", run.settings.model)
        if run.ended and model not in censored:
            found.setdefault(model, []).append(curve(results, run))
    return found


def curve(results: Results, run: TrajectoryResult) -> Curve:
    """A run as halving sees it, by the study's objective; checkpoints are chosen as the run's own are."""
    objective, metric = METRICS[results.search.objective], METRICS[run.settings.checkpoint_metric]
    by_objective = [objective.gain(epoch.validation) for epoch in run.epochs]
    by_checkpoint = [metric.gain(epoch.validation) for epoch in run.epochs]
    chosen: list[int] = []
    for number, value in enumerate(by_checkpoint, start=1):
        before = chosen[-1] if chosen else 0
        best = by_checkpoint[before - 1] if before else -math.inf
        chosen.append(number if value > best else before)
    tests = [run.epochs[epoch - 1].test_score("accuracy") if epoch else None for epoch in chosen]
    return Curve(
        gains=by_objective,
        best=[by_objective[epoch - 1] if epoch else -math.inf for epoch in chosen],
        chosen=chosen,
        validation=[run.epochs[epoch - 1].validation["accuracy"] if epoch else math.nan for epoch in chosen],
        test=[math.nan if test is None else test for test in tests],
        examples=[epoch.examples_seen for epoch in run.epochs],
    )
