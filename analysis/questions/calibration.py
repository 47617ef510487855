"""Why does test loss rise with accuracy: is the model over- or under-confident?"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from analysis.answer import UNDETERMINED, Answer, Figure, Line, Panel, Table, Value
from analysis.evidence.comparison import EQUIVALENCE, most_seeds, read_test_scores, usable_runs
from analysis.evidence.conditions import SettingsKey, key_of, schedule_keys, words
from analysis.evidence.next_commands import complete_plan, more_seeds
from analysis.results import Results
from analysis.statistics.estimate import Estimate, FloatArray
from analysis.statistics.intervals import clopper_pearson, mean_over_seeds, mean_over_strata
from analysis.statistics.multibootstrap import example_weights, mean_over_seeds_and_examples, multibootstrap
from analysis.statistics.probabilities import (
    BINS,
    ExampleScores,
    calibration_error,
    calibration_error_interval,
    fit_temperature,
    reliability,
    score_examples,
)
from analysis.trajectory_results import TrajectoryResult
from analysis.wording import count, difference, number, plain

QUESTION = "Why does test loss rise with accuracy: is the model over- or under-confident?"
COUNTS_PRUNED_RUNS = False
MOST_ROWS = 16
# Resamples of a calibration error, whose interval needs fewer than a test does.
ECE_DRAWS = 100
MOST_PANELS = 8
# Pairs of conditions that are tested for a rise of both accuracy and loss, the largest rises of loss first.
MOST_PAIRS = 50
# A diagram of few examples has fewer bins, down to so many.
FEWEST_BINS, EXAMPLES_A_BIN = 5, 100

METHODS = (
    (
        "The gap is mean confidence (the largest probability) less accuracy on test, over the checkpoints that "
        "validation chose: above zero over-confident, below under-confident. Its interval is a bootstrap over seeds "
        "and test examples (Sellam et al. 2022), averaged over conditions."
    ),
    (
        f"Calibration error (ECE) over {BINS} bins of equal mass (Nguyen & O'Connor 2015; Roelofs et al. 2022), mean "
        "over seeds, less the bias of small bins, with a pivotal bootstrap interval (Davison & Hinkley 1997); raw is "
        "with the bias. Brier (1950) score, summed over classes."
    ),
    (
        "The temperature is fitted on validation alone, by NLL (Guo et al. 2017), per run; above 1 the model was "
        "over-confident. The table has its geometric mean over seeds, and the test loss after scaling."
    ),
    (
        "Loss is accuracy's only in part: it is the mean over right answers, which confidence lowers, and over wrong "
        "ones, which it raises. A model can gain accuracy and loss at once by being wrong with more confidence."
    ),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """The usable runs of one condition, and what their chosen checkpoints predict on test."""

    name: str
    runs: Sequence[TrajectoryResult]
    scored: Sequence[ExampleScores]
    temperatures: Sequence[float]
    scaled_nll: Sequence[float]

    @property
    def gaps(self) -> FloatArray:
        """Confidence minus being right, ``[seeds, examples]``."""
        return np.stack([one.gap for one in self.scored])


def answer(results: Results, rng: np.random.Generator) -> Answer:
    """Judge every condition's calibration; the verdict is on the mean over conditions."""
    usable = usable_runs(results)
    read_test_scores(results, usable)
    groups = _groups(results, usable)
    if not groups:
        sentence = "No ended run has a checkpoint better than chance whose predictions could be judged."
        return Answer(
            question=QUESTION,
            verdict=UNDETERMINED,
            sentence=sentence,
            next_commands=complete_plan(results) or [more_seeds(results, "adds runs that learn")],
        )
    weights = example_weights(groups[0].gaps.shape[1], rng)
    gap = multibootstrap([group.gaps for group in groups], weights, rng).estimate()
    gaps = [mean_over_seeds_and_examples(group.gaps) for group in groups]
    temperature = _temperature(groups)
    seeds = most_seeds(usable)
    verdict, sentence = _verdict(gap, gaps, temperature, seeds)
    trade, traded = _by_loss_or_accuracy(usable)
    return Answer(
        question=QUESTION,
        verdict=verdict,
        sentence=f"{sentence}{_rising(groups)}",
        estimate=gap,
        estimated="mean confidence less accuracy on test",
        seeds=seeds,
        tables=[_table(groups, gaps, weights, rng), *trade],
        figures=_figures(results, groups),
        methods=METHODS,
        caveats=_caveats(results, usable, groups, traded),
        next_commands=[more_seeds(results, "gives the gap an interval over seeds")] if verdict == UNDETERMINED else [],
    )


def _groups(results: Results, usable: Sequence[TrajectoryResult]) -> list[Group]:
    """By condition; the plan's order is kept."""
    keys = [key for key in results.varying_trained if key != "seed"]
    found: dict[str, list[tuple[TrajectoryResult, ExampleScores, float, float]]] = {}
    for run in usable:
        scored = results.scored(run.owner, "test")
        validation, test = (results.chosen_predictions(run.owner, split) for split in ("validation", "test"))
        if scored is not None and validation is not None and test is not None:
            temperature = fit_temperature(validation)
            scaled = float(score_examples(test, temperature).nll.mean())
            found.setdefault(words(run.settings, keys), []).append((run, scored, temperature, scaled))
    return [
        Group(
            name=name,
            runs=[run for run, *_ in members],
            scored=[scored for _, scored, _, _ in members],
            temperatures=[temperature for _, _, temperature, _ in members],
            scaled_nll=[scaled for *_, scaled in members],
        )
        for name, members in found.items()
    ]


def _temperature(groups: Sequence[Group]) -> Estimate:
    """The geometric mean over seeds, then over conditions."""
    log = mean_over_strata([[math.log(t) for t in group.temperatures] for group in groups])
    return Estimate(value=math.exp(log.value), low=math.exp(log.low), high=math.exp(log.high), seeds=log.seeds)


def _verdict(gap: Estimate, gaps: Sequence[Estimate], temperature: Estimate, seeds: int) -> tuple[str, str]:
    told = (
        f"confidence on test differs from accuracy by {difference(gap)}, and the temperature fitted on validation is "
        f"{plain(temperature, '.2f')}"
    )
    if seeds < 2:
        return UNDETERMINED, f"With one seed of each condition, {told}: no spread, no verdict."
    over, under = sum(one.low > 0 for one in gaps), sum(one.high < 0 for one in gaps)
    if len(gaps) > 1:
        told += f"; by themselves {over} of {len(gaps)} conditions are over-confident and {under} under-confident"
    if gap.low > 0:
        return "over-confident", f"The models are over-confident: {told}."
    if gap.high < 0:
        return "under-confident", f"The models are under-confident: {told}."
    if gap.low > -EQUIVALENCE and gap.high < EQUIVALENCE:
        return "calibrated", f"Over all conditions the models are calibrated within one point: {told}."
    return UNDETERMINED, f"Over all conditions {told}."


def _rising(groups: Sequence[Group]) -> str:
    """The pair of conditions in which loss rises most along with accuracy, beyond chance, and why."""
    accuracy = [float(np.mean([one.correct.mean() for one in group.scored])) for group in groups]
    losses = [float(np.mean([one.nll.mean() for one in group.scored])) for group in groups]
    pairs = [
        (losses[j] - losses[i], low, high)
        for i, low in enumerate(groups)
        for j, high in enumerate(groups)
        if accuracy[j] > accuracy[i] and losses[j] > losses[i]
    ]
    pairs.sort(key=lambda pair: -pair[0])
    found = next(((low, high) for _, low, high in pairs[:MOST_PAIRS] if _both_rise(low, high)), None)
    if found is None:
        return (
            " Nowhere in this study do test accuracy and test loss both rise from one condition to another "
            "beyond chance."
        )
    costs = [
        float(np.mean([one.nll[~one.correct].mean() for one in group.scored if not one.correct.all()]))
        for group in found
    ]
    told = f" Where loss rises with accuracy most ({found[0].name} to {found[1].name}), a wrong answer costs"
    if costs[1] > costs[0]:
        return (
            f"{told} {number(costs[1], '.2f')} nats instead of {number(costs[0], '.2f')}: it is given with more "
            "confidence."
        )
    return (
        f"{told} no more ({number(costs[1], '.2f')} against {number(costs[0], '.2f')} nats): right ones are given "
        "with less confidence."
    )


def _both_rise(low: Group, high: Group) -> bool:
    """Whether both accuracy and loss of ``high`` are above those of ``low``, on the same seeds, beyond chance."""
    by_seed = [
        {run.settings.seed: scored for run, scored in zip(group.runs, group.scored, strict=True)}
        for group in (low, high)
    ]
    seeds = sorted(by_seed[0].keys() & by_seed[1].keys())
    if len(seeds) < 2:
        return False
    rises = (
        np.stack([getattr(by_seed[1][seed], name).astype(float) - getattr(by_seed[0][seed], name) for seed in seeds])
        for name in ("correct", "nll")
    )
    return all(mean_over_seeds_and_examples(rise).low > 0 for rise in rises)


def _row(group: Group, gap: Estimate, weights: FloatArray, rng: np.random.Generator) -> tuple[Value, ...]:
    scored = group.scored
    ece, low, high = calibration_error_interval(scored, weights[:ECE_DRAWS], rng)
    right = [float(one.nll[one.correct].mean()) for one in scored if one.correct.any()]
    wrong = [float(one.nll[~one.correct].mean()) for one in scored if not one.correct.all()]
    log = mean_over_seeds([math.log(t) for t in group.temperatures])
    return (
        group.name,
        len(scored),
        float(np.mean([one.correct.mean() for one in scored])),
        float(np.mean([one.confidence.mean() for one in scored])),
        gap,
        Estimate(value=ece, low=low, high=high, seeds=len(scored)),
        float(np.mean([calibration_error(one.confidence, one.correct) for one in scored])),
        float(np.mean([one.brier.mean() for one in scored])),
        mean_over_seeds([float(one.nll.mean()) for one in scored]),
        float(np.mean(right)) if right else None,
        float(np.mean(wrong)) if wrong else None,
        Estimate(value=math.exp(log.value), low=math.exp(log.low), high=math.exp(log.high), seeds=log.seeds),
        float(np.mean(group.scaled_nll)),
    )


def _table(groups: Sequence[Group], gaps: Sequence[Estimate], weights: FloatArray, rng: np.random.Generator) -> Table:
    shown = list(zip(groups, gaps, strict=True))[:MOST_ROWS]
    left = f" {len(groups) - MOST_ROWS:,} more conditions are not shown." if len(groups) > MOST_ROWS else ""
    return Table(
        title="Calibration of the chosen checkpoints on test",
        columns=(
            "condition",
            "seeds",
            "accuracy",
            "confidence",
            "gap",
            "ECE",
            "ECE, raw",
            "Brier",
            "NLL",
            "NLL, right",
            "NLL, wrong",
            "temperature",
            "NLL, scaled",
        ),
        formats=("t", "n", "%", "%", "+%", "%", "%", ".3", ".3", ".3", ".2", ".2", ".3"),
        rows=[_row(group, gap, weights, rng) for group, gap in shown],
        note="NLL in nats; right and wrong are its means over right and wrong answers." + left,
    )


def _by_loss_or_accuracy(usable: Sequence[TrajectoryResult]) -> tuple[list[Table], bool]:
    """What choosing the checkpoint by validation loss instead of accuracy changes on test, in the same runs."""
    differences: dict[str, dict[SettingsKey, list[float]]] = {"accuracy": {}, "loss": {}}
    same = total = 0
    for run in usable:
        finite = [epoch for epoch in run.epochs if math.isfinite(epoch.validation["loss"])]
        by_accuracy = max(finite, key=lambda epoch: epoch.validation["accuracy"])
        by_loss = min(finite, key=lambda epoch: epoch.validation["loss"])
        if by_accuracy.test is None or by_loss.test is None:
            continue
        total += 1
        same += by_loss.epoch == by_accuracy.epoch
        condition = key_of(run.settings, ["seed"])
        for name in differences:
            differences[name].setdefault(condition, []).append(by_loss.test[name] - by_accuracy.test[name])
    if not total:
        return [], False
    estimates = {name: mean_over_strata(list(found.values())) for name, found in differences.items()}
    table = Table(
        title="The checkpoint by validation loss instead of accuracy",
        columns=("runs", "same checkpoint", "change of test accuracy", "change of test loss"),
        formats=("n", "n", "+%", "+.3"),
        rows=[(total, same, estimates["accuracy"], estimates["loss"])],
        note="Loss chosen less accuracy chosen, within each run over all its epochs.",
    )
    return [table], estimates["loss"].excludes_zero


def _caveats(results: Results, usable: Sequence[TrajectoryResult], groups: Sequence[Group], traded: bool) -> list[str]:
    caveats = []
    left_out = sum(run.ended for run in results.runs) - len(usable)
    if left_out:
        caveats.append(
            f"{count(left_out, 'run')} no better than chance on validation are left out: they have no calibration."
        )
    if traded:
        caveats.append(
            "Choosing checkpoints by validation loss would change the test loss: part of what is seen is the choice."
        )
    if any(min(group.temperatures) < 0.1 or max(group.temperatures) > 10 for group in groups):
        caveats.append("Some temperatures lie at the ends of their range: those logits hold hardly any scale.")
    if len(groups) > 1:
        caveats.append("The verdict is on the mean over conditions; single ones may differ, and the table has them.")
    return caveats


def _figures(results: Results, groups: Sequence[Group]) -> list[Figure]:
    """Reliability diagrams, by model and schedule, over all seeds and conditions."""
    keys = ["model", *schedule_keys(results.varying_listed)]
    pooled: dict[str, list[ExampleScores]] = {}
    scaled: dict[str, list[ExampleScores]] = {}
    for group in groups:
        for run, scored, temperature in zip(group.runs, group.scored, group.temperatures, strict=True):
            name = words(run.settings, keys)
            pooled.setdefault(name, []).append(scored)
            test = results.chosen_predictions(run.owner, "test")
            assert test is not None
            if len(scaled.setdefault(name, [])) < MOST_PANELS:
                scaled[name].append(score_examples(test, temperature))
    panels = []
    for name in list(pooled)[:MOST_PANELS]:
        lines = [_reliability(pooled[name], "as predicted"), _reliability(scaled[name], "after temperature scaling")]
        panels.append(
            Panel(
                title=name,
                x_label="confidence",
                y_label="accuracy",
                lines=lines,
                diagonal=True,
                percent_y=True,
            )
        )
    caption = (
        "Reliability on test: accuracy against confidence, in bins of equal mass; below the diagonal a model is "
        "over-confident. Bars are Clopper-Pearson intervals."
    )
    return [Figure(name="reliability", caption=caption, panels=panels)] if panels else []


def _reliability(scored: Sequence[ExampleScores], group: str) -> Line:
    confidence = np.concatenate([one.confidence for one in scored])
    right = np.concatenate([one.correct for one in scored])
    bins = reliability(confidence, right, max(FEWEST_BINS, min(BINS, len(scored[0].correct) // EXAMPLES_A_BIN)))
    # Seeds answer the same examples: an interval may count each example but once.
    shares = [clopper_pearson(round(b.correct / len(scored)), max(1, round(b.examples / len(scored)))) for b in bins]
    return Line(
        x=[one.confidence for one in bins],
        y=[one.accuracy for one in bins],
        low=[min(share.low, one.accuracy) for share, one in zip(shares, bins, strict=True)],
        high=[max(share.high, one.accuracy) for share, one in zip(shares, bins, strict=True)],
        group=group,
        dots=True,
    )
