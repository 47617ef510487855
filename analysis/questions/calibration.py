"""The question of whether models are over- or under-confident, and why test loss can rise along with accuracy."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from analysis.answer import UNDETERMINED, Answer, Claim, Figure, Line, Panel, Table, Value, not_shown, sentences
from analysis.evidence.comparison import EQUIVALENCE, most_seeds, usable_runs
from analysis.evidence.condition_calibration import ConditionCalibration, calibrations, largest_loss_rise
from analysis.evidence.conditions import describe, group_by, schedule_keys
from analysis.evidence.effects import METHODS as EFFECT_METHODS
from analysis.evidence.effects import Effect
from analysis.evidence.next_commands import complete_plan, more_seeds
from analysis.results import Results
from analysis.statistics.clustered_means import SeedScores, mean_over_seeds, mean_over_strata
from analysis.statistics.estimate import Estimate, FloatArray
from analysis.statistics.intervals import clopper_pearson
from analysis.statistics.multiplicity import holm
from analysis.statistics.probabilities import (
    BINS,
    ExampleScores,
    calibration_error,
    calibration_error_interval,
    example_weights,
    reliability,
    score_examples,
)
from analysis.trajectory_results import TrajectoryResult
from analysis.wording import agree, count, number, p_value, percent, points_estimate

QUESTION = "Are the models over- or under-confident, and does test loss rise with accuracy?"
COUNTS_PRUNED_RUNS = False
ALPHA = 0.05
DEPENDS = "depends on the condition"
# Resamples of a calibration error, whose interval needs fewer than a test does.
ECE_DRAWS = 100
# Each row of the table costs ECE_DRAWS resamples.
MOST_ROWS = 16
MOST_PANELS = 8
# A diagram of few examples has fewer bins, down to FEWEST_BINS.
FEWEST_BINS, EXAMPLES_A_BIN = 5, 100

METHODS = (
    (
        "The gap is mean confidence (the largest probability) minus accuracy on test, over the checkpoints that "
        "validation selected: above zero over-confident, below under-confident. A condition counts as either if its "
        "own gap differs from zero after correction for the number of conditions (Holm 1979)."
    ),
    *EFFECT_METHODS,
    (
        f"Calibration error (ECE) over {BINS} bins of equal mass (Nguyen & O'Connor 2015; Roelofs et al. 2022), mean "
        "over seeds, with the bias of small bins subtracted and a pivotal bootstrap interval (Davison & Hinkley 1997); "
        "the raw error includes the bias. Brier (1950) score, summed over classes."
    ),
    (
        "The temperature is fitted on validation alone, by negative log-likelihood (NLL; Guo et al. 2017), per run; "
        "above 1 the model was over-confident. The table has its geometric mean over seeds, and the test loss after "
        "scaling."
    ),
    (
        "Loss depends on accuracy only in part: it is the mean over correct answers, where more confidence lowers it, "
        "and wrong ones, where more confidence raises it. Accuracy and loss can rise together if wrong answers become "
        "more confident. Where they do is looked for over all pairs of conditions, and corrected for that."
    ),
)


def answer(results: Results, rng: np.random.Generator) -> Answer:
    """Judge every condition's calibration; the verdict is on the mean where all conditions agree."""
    usable = usable_runs(results)
    results.predictions.preload([run.owner for run in usable])
    groups = calibrations(results, usable)
    if not groups:
        return Answer(
            question=QUESTION,
            verdict=UNDETERMINED,
            sentence="No ended run has a checkpoint that is better than chance and has predictions.",
            next_commands=complete_plan(results) or [more_seeds(results, "adds runs that learn")],
        )
    effect = Effect(names=tuple(group.name for group in groups), strata=tuple(group.gaps for group in groups))
    weights = example_weights(len(groups[0].scores[0].correct), rng, ECE_DRAWS)
    by_metric = _checkpoint_changes(results, usable)
    rise = _loss_rise_sentence(groups)
    purpose = "narrows the interval of the gap" if effect.replicated else "gives the gap an interval over seeds"
    return Answer(
        question=QUESTION,
        verdict=UNDETERMINED,
        sentence=sentences(_undetermined(effect), rise),
        claim=_claim(effect, groups, rise),
        estimate=effect.mean.estimate() if effect.replicated else effect.mean.over_examples(),
        estimated="mean confidence minus accuracy on test"
        + ("" if effect.replicated else ", of these checkpoints, over examples"),
        seeds=most_seeds(usable),
        tables=[_table(groups, effect, weights, rng), *([by_metric[0]] if by_metric else [])],
        figures=_figures(results, groups),
        methods=METHODS,
        caveats=_caveats(results, usable, groups, loss_changes=by_metric is not None and by_metric[1]),
        next_commands=[more_seeds(results, purpose)],
    )


def _p_values(effect: Effect) -> list[float]:
    """Each condition's p-value; over the examples alone where a condition has a single seed."""
    means = effect.by_condition
    return [mean.p_over_examples if math.isnan(mean.p_value) else mean.p_value for mean in means]


def _directions(effect: Effect) -> tuple[int, int]:
    """How many conditions are over- and how many under-confident, corrected for their number."""
    adjusted = holm(_p_values(effect))
    values = [mean.value for mean in effect.by_condition]
    over = sum(p < ALPHA and value > 0 for p, value in zip(adjusted, values, strict=True))
    under = sum(p < ALPHA and value < 0 for p, value in zip(adjusted, values, strict=True))
    return over, under


def _evidence(effect: Effect) -> str:
    mean = effect.mean
    gap = mean.estimate() if effect.replicated else mean.over_examples()
    evidence = f"mean confidence minus accuracy on test is {points_estimate(gap)}"
    if not effect.replicated:
        evidence += ", over the test examples alone"
    if len(effect.strata) > 1:
        over, under = _directions(effect)
        evidence += (
            f"; of {len(effect.strata)} conditions, {over} {agree(over, 'is', 'are')} shown to be over-confident and "
            f"{under} under-confident"
        )
    return evidence


def _undetermined(effect: Effect) -> str:
    return f"Neither over- nor under-confidence is shown: {_evidence(effect)}."


def _claim(effect: Effect, groups: Sequence[ConditionCalibration], rise: str) -> Claim:
    """What the gaps show: of new seeds where there are several, otherwise of these checkpoints."""
    over, under = _directions(effect)
    evidence = _evidence(effect)
    if over and under:
        smallest = [
            min(p for p, mean in zip(_p_values(effect), effect.by_condition, strict=True) if sign * mean.value > 0)
            for sign in (1, -1)
        ]
        sentence = f"Some conditions are over- and some under-confident: {effect.conditions_in_words()}."
        p = min(1.0, len(groups) * max(smallest))
        return Claim(family="scores", p_value=p, verdict=DEPENDS, sentence=sentences(sentence, rise))
    mean = effect.mean
    p = mean.p_value if effect.replicated else mean.p_over_examples
    p_none = effect.p_equivalence(EQUIVALENCE) if effect.replicated else 1.0
    if p <= p_none:
        verdict = "over-confident" if mean.value > 0 else "under-confident"
        who = "The models are" if effect.replicated or len(groups) > 1 else "This checkpoint is"
        detail = "" if effect.replicated else f" {_confidence_in_words(groups)}"
        sentence = f"{who} {verdict}: {evidence}.{detail}"
        return Claim(family="scores", p_value=p, verdict=verdict, sentence=sentences(sentence, rise))
    sentence = f"The models are calibrated within one point: {evidence}."
    return Claim(family="scores", p_value=p_none, verdict="calibrated", sentence=sentences(sentence, rise))


def _confidence_in_words(groups: Sequence[ConditionCalibration]) -> str:
    """What the checkpoints with the largest gap say of their texts: facts of these runs, whatever other seeds do."""
    most = max(groups, key=lambda group: abs(float(group.gaps.scores.mean())))
    confidence = float(np.mean([scores.confidence.mean() for scores in most.scores]))
    return (
        f"The largest gap is that of {most.name}: mean confidence {percent(confidence)} at accuracy "
        f"{percent(most.accuracy)}, temperature {number(most.temperature.value, '.2f')}."
    )


def _loss_rise_sentence(groups: Sequence[ConditionCalibration]) -> str:
    """Where accuracy and loss rise together beyond what sampling explains, and why; empty for a single condition."""
    if len(groups) < 2:
        return ""
    rise = largest_loss_rise(groups)
    if rise is None or rise.p_value >= ALPHA:
        return "In no pair of conditions are test accuracy and test loss shown to rise together."
    before, after = rise.low.loss_of_wrong or math.nan, rise.high.loss_of_wrong or math.nan
    place = (
        f"From {rise.low.name} to {rise.high.name}, test accuracy and test loss both rise ({p_value(rise.p_value)}, "
        "corrected for all pairs): a wrong answer costs"
    )
    costs = f"{number(after, '.2f')} nats instead of {number(before, '.2f')}"
    if after > before:
        return f"{place} {costs}, so wrong answers are given with more confidence."
    return f"{place} no more ({costs}), so correct answers are given with less confidence."


def _table(
    groups: Sequence[ConditionCalibration], effect: Effect, weights: FloatArray, rng: np.random.Generator
) -> Table:
    gaps = [mean.estimate() for mean in effect.by_condition]
    shown = list(zip(groups, gaps, strict=True))[:MOST_ROWS]
    return Table(
        title="Calibration of the selected checkpoints on test",
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
            "NLL, correct",
            "NLL, wrong",
            "temperature",
            "NLL, scaled",
        ),
        formats=("t", "n", "%", "%", "+%", "%", "%", ".3", ".3", ".3", ".2", ".2", ".3"),
        rows=[_row(group, gap, weights, rng) for group, gap in shown],
        note=sentences(
            "NLL in nats; correct and wrong are its means over correct and wrong answers.",
            not_shown(len(groups), MOST_ROWS, "condition"),
        ),
    )


def _row(
    group: ConditionCalibration, gap: Estimate, weights: FloatArray, rng: np.random.Generator
) -> tuple[Value, ...]:
    by_seed = group.scores
    raw_errors = [calibration_error(scores.confidence, scores.correct) for scores in by_seed]
    return (
        group.name,
        len(by_seed),
        group.accuracy,
        float(np.mean([scores.confidence.mean() for scores in by_seed])),
        gap,
        calibration_error_interval(by_seed, weights, rng),
        float(np.mean(raw_errors)),
        float(np.mean([scores.brier.mean() for scores in by_seed])),
        mean_over_seeds(np.stack([scores.nll for scores in by_seed])).estimate(),
        group.loss_of_correct,
        group.loss_of_wrong,
        group.temperature,
        group.scaled_loss,
    )


def _checkpoint_changes(results: Results, usable: Sequence[TrajectoryResult]) -> tuple[Table, bool] | None:
    """What selecting the checkpoint by validation loss instead of accuracy changes on test, in the same runs.

    The second item says whether the test loss changes beyond chance. None where no run has both test scores.
    """
    changes: dict[str, dict[int, tuple[FloatArray, FloatArray]]] = {}
    same = total = 0
    for run in usable:
        finite = [epoch for epoch in run.epochs if math.isfinite(epoch.validation["loss"])]
        by_accuracy = max(finite, key=lambda epoch: epoch.validation["accuracy"])
        by_loss = min(finite, key=lambda epoch: epoch.validation["loss"])
        predictions = [
            results.predictions.of_epoch(run.trajectory.id, epoch.epoch, "test") for epoch in (by_loss, by_accuracy)
        ]
        if predictions[0] is None or predictions[1] is None:
            continue
        total, same = total + 1, same + (by_loss.epoch == by_accuracy.epoch)
        selected = score_examples(predictions[0])
        other = selected if by_loss is by_accuracy else score_examples(predictions[1])
        condition = describe(run.settings, results.condition_keys)
        changes.setdefault(condition, {})[run.settings.seed] = (
            selected.correct.astype(float) - other.correct,
            selected.nll - other.nll,
        )
    if not total:
        return None
    accuracy, loss = (
        mean_over_strata(
            [
                SeedScores(seeds=tuple(by_seed), scores=np.stack([pair[place] for pair in by_seed.values()]))
                for by_seed in changes.values()
            ]
        ).estimate()
        for place in (0, 1)
    )
    table = Table(
        title="The checkpoint by validation loss instead of accuracy",
        columns=("runs", "same checkpoint", "change of test accuracy", "change of test loss"),
        formats=("n", "n", "+%", "+.3"),
        rows=[(total, same, accuracy, loss)],
        note="Selected by loss minus selected by accuracy, within each run over all its epochs.",
    )
    return table, loss.excludes_zero


def _caveats(
    results: Results,
    usable: Sequence[TrajectoryResult],
    groups: Sequence[ConditionCalibration],
    *,
    loss_changes: bool,
) -> list[str]:
    caveats = []
    excluded = sum(run.ended for run in results.runs) - len(usable)
    if excluded:
        caveats.append(
            f"{count(excluded, 'run')} not better than chance on validation {agree(excluded, 'is', 'are')} left out: a "
            "model has to learn before it can be calibrated."
        )
    if loss_changes:
        caveats.append(
            "Selecting checkpoints by validation loss would change the test loss: part of the effect is due to the "
            "selection."
        )
    if any(not 0.1 <= run.temperature <= 10 for group in groups for run in group.runs):
        caveats.append("Some temperatures are at the ends of their range: those logits have hardly any scale.")
    return caveats


def _figures(results: Results, groups: Sequence[ConditionCalibration]) -> list[Figure]:
    """Reliability diagrams by model and schedule, over all seeds and conditions."""
    keys = ["model", *schedule_keys(results.varying_listed)]
    calibrated = [run for group in groups for run in group.runs]
    pooled = group_by(calibrated, lambda calibration: calibration.run.settings, keys)
    panels = [
        Panel(
            title=name,
            x_label="confidence",
            y_label="accuracy",
            lines=[
                _reliability_line([run.scores for run in runs], "as predicted"),
                _reliability_line(
                    [score_examples(run.test, run.temperature) for run in runs],
                    "after temperature scaling",
                ),
            ],
            diagonal=True,
            percent_y=True,
        )
        for name, runs in list(pooled.items())[:MOST_PANELS]
    ]
    caption = sentences(
        "Reliability on test: accuracy against confidence, in bins of equal mass, as predicted and after temperature "
        "scaling; below the diagonal a model is over-confident. Bars are Clopper-Pearson intervals.",
        not_shown(len(pooled), MOST_PANELS, "panel"),
    )
    return [Figure(name="reliability", caption=caption, panels=panels)]


def _reliability_line(by_run: Sequence[ExampleScores], group: str) -> Line:
    confidence = np.concatenate([scores.confidence for scores in by_run])
    correct = np.concatenate([scores.correct for scores in by_run])
    examples = len(by_run[0].correct)
    bins = reliability(confidence, correct, max(FEWEST_BINS, min(BINS, examples // EXAMPLES_A_BIN)))
    # All runs predict the same examples, so an interval may count each example only once.
    shares = [
        clopper_pearson(round(part.correct / len(by_run)), max(1, round(part.examples / len(by_run)))) for part in bins
    ]
    return Line(
        x=[part.confidence for part in bins],
        y=[part.accuracy for part in bins],
        low=[min(share.low, part.accuracy) for share, part in zip(shares, bins, strict=True)],
        high=[max(share.high, part.accuracy) for share, part in zip(shares, bins, strict=True)],
        group=group,
        dots=True,
    )
