"""The question whether models are over- or under-confident, and why test loss can rise along with accuracy."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from analysis.answer import UNDETERMINED, Answer, Figure, Line, Panel, Table, Value, not_shown, sentences
from analysis.evidence.comparison import EQUIVALENCE, most_seeds, usable_runs
from analysis.evidence.condition_calibration import (
    MOST_PAIRS,
    ConditionCalibration,
    calibrations,
    largest_loss_rise,
    mean_temperature,
)
from analysis.evidence.conditions import SettingsKey, group_by, schedule_keys, settings_key
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
    reliability,
    score_examples,
)
from analysis.trajectory_results import TrajectoryResult
from analysis.wording import agree, count, number, number_estimate, points_estimate

QUESTION = "Why does test loss rise with accuracy: is the model over- or under-confident?"
COUNTS_PRUNED_RUNS = False
# Resamples of a calibration error, whose interval needs fewer than a test does.
ECE_DRAWS = 100
# Each row of the table costs ECE_DRAWS resamples.
MOST_ROWS = 16
MOST_PANELS = 8
# Runs of a panel whose scaled predictions are scored.
MOST_SCALED_RUNS = 8
# A diagram of few examples has fewer bins, down to FEWEST_BINS.
FEWEST_BINS, EXAMPLES_A_BIN = 5, 100

METHODS = (
    (
        "The gap is mean confidence (the largest probability) less accuracy on test, over the checkpoints that "
        "validation selected: above zero over-confident, below under-confident. Its interval is a bootstrap over seeds "
        "and test examples (Sellam et al. 2022), averaged over conditions."
    ),
    (
        f"Calibration error (ECE) over {BINS} bins of equal mass (Nguyen & O'Connor 2015; Roelofs et al. 2022), mean "
        "over seeds, with the bias of small bins subtracted and a pivotal bootstrap interval (Davison & Hinkley 1997); "
        "the raw error includes the bias. Brier (1950) score, summed over classes."
    ),
    (
        "The temperature is fitted on validation alone, by NLL (Guo et al. 2017), per run; above 1 the model was "
        "over-confident. The table has its geometric mean over seeds, and the test loss after scaling."
    ),
    (
        "Loss depends on accuracy only in part: it is the mean over correct answers, where more confidence lowers it, "
        "and wrong ones, where more confidence raises it. Accuracy and loss can rise together if wrong answers become "
        "more confident."
    ),
)


def answer(results: Results, rng: np.random.Generator) -> Answer:
    """Judge every condition's calibration; the verdict is on the mean over conditions."""
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
    weights = example_weights(groups[0].gaps.shape[1], rng)
    gap = multibootstrap([group.gaps for group in groups], weights, rng).estimate()
    gaps = [mean_over_seeds_and_examples(group.gaps) for group in groups]
    temperature = mean_temperature(groups)
    seeds = most_seeds(usable)
    verdict, sentence = _verdict(gap, gaps, temperature, seeds)
    by_metric = _checkpoint_changes(usable)
    return Answer(
        question=QUESTION,
        verdict=verdict,
        sentence=sentences(sentence, _loss_rise_sentence(groups)),
        estimate=gap,
        estimated="mean confidence less accuracy on test",
        seeds=seeds,
        tables=[_table(groups, gaps, weights, rng), *([by_metric[0]] if by_metric else [])],
        figures=_figures(results, groups),
        methods=METHODS,
        caveats=_caveats(results, usable, groups, loss_changes=by_metric is not None and by_metric[1]),
        next_commands=[more_seeds(results, "gives the gap an interval over seeds")] if verdict == UNDETERMINED else [],
    )


def _verdict(gap: Estimate, gaps: Sequence[Estimate], temperature: Estimate, seeds: int) -> tuple[str, str]:
    evidence = (
        f"confidence on test differs from accuracy by {points_estimate(gap)}, and the temperature fitted on validation "
        f"is {number_estimate(temperature, '.2f')}"
    )
    if seeds < 2:
        return UNDETERMINED, f"With one seed per condition, {evidence}; without a spread there is no verdict."
    over, under = sum(estimate.low > 0 for estimate in gaps), sum(estimate.high < 0 for estimate in gaps)
    if len(gaps) > 1:
        evidence += f"; taken singly, {over} of {len(gaps)} conditions are over-confident and {under} under-confident"
    if gap.low > 0:
        return "over-confident", f"The models are over-confident: {evidence}."
    if gap.high < 0:
        return "under-confident", f"The models are under-confident: {evidence}."
    if gap.is_zero_within(EQUIVALENCE):
        return "calibrated", f"Over all conditions the models are calibrated within one point: {evidence}."
    return UNDETERMINED, f"Over all conditions, {evidence}."


def _loss_rise_sentence(groups: Sequence[ConditionCalibration]) -> str:
    """Where loss rises most along with accuracy, beyond chance, and why."""
    rise = largest_loss_rise(groups)
    if rise.conditions is None:
        none = "No two conditions of this study show"
        if rise.untested:
            none = f"Of the {MOST_PAIRS} pairs of conditions with the largest rises of loss, none shows"
        return f"{none} a rise of both test accuracy and test loss beyond chance."
    low, high = rise.conditions
    before, after = low.loss_of_wrong or math.nan, high.loss_of_wrong or math.nan
    place = f"Where loss rises most with accuracy ({low.name} to {high.name}), a wrong answer costs"
    if after > before:
        return (
            f"{place} {number(after, '.2f')} nats instead of {number(before, '.2f')}: wrong answers are given with "
            "more confidence."
        )
    return (
        f"{place} no more ({number(after, '.2f')} against {number(before, '.2f')} nats): correct answers are given "
        "with less confidence."
    )


def _table(
    groups: Sequence[ConditionCalibration], gaps: Sequence[Estimate], weights: FloatArray, rng: np.random.Generator
) -> Table:
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
        rows=[_row(group, gap, weights[:ECE_DRAWS], rng) for group, gap in shown],
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
        mean_over_seeds([float(scores.nll.mean()) for scores in by_seed]),
        group.loss_of_correct,
        group.loss_of_wrong,
        group.temperature,
        group.scaled_loss,
    )


def _checkpoint_changes(usable: Sequence[TrajectoryResult]) -> tuple[Table, bool] | None:
    """What selecting the checkpoint by validation loss instead of accuracy changes on test, in the same runs.

    The second item says whether the test loss changes beyond chance. None where no run has both test scores.
    """
    changes: dict[str, dict[SettingsKey, list[float]]] = {"accuracy": {}, "loss": {}}
    same = total = 0
    for run in usable:
        finite = [epoch for epoch in run.epochs if math.isfinite(epoch.validation["loss"])]
        by_accuracy = max(finite, key=lambda epoch: epoch.validation["accuracy"])
        by_loss = min(finite, key=lambda epoch: epoch.validation["loss"])
        if by_accuracy.test is None or by_loss.test is None:
            continue
        total += 1
        same += by_loss.epoch == by_accuracy.epoch
        condition = settings_key(run.settings, ["seed"])
        for metric, by_condition in changes.items():
            by_condition.setdefault(condition, []).append(by_loss.test[metric] - by_accuracy.test[metric])
    if not total:
        return None
    accuracy, loss = (mean_over_strata(list(changes[metric].values())) for metric in ("accuracy", "loss"))
    table = Table(
        title="The checkpoint by validation loss instead of accuracy",
        columns=("runs", "same checkpoint", "change of test accuracy", "change of test loss"),
        formats=("n", "n", "+%", "+.3"),
        rows=[(total, same, accuracy, loss)],
        note="Selected by loss less selected by accuracy, within each run over all its epochs.",
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
            f"{count(excluded, 'run')} no better than chance on validation {agree(excluded, 'is', 'are')} left out: a "
            "model has to learn before it can be calibrated."
        )
    if loss_changes:
        caveats.append(
            "Selecting checkpoints by validation loss would change the test loss: part of the effect is due to the "
            "selection."
        )
    if any(not 0.1 <= run.temperature <= 10 for group in groups for run in group.runs):
        caveats.append("Some temperatures are at the ends of their range: those logits have hardly any scale.")
    if len(groups) > 1:
        caveats.append("The verdict is on the mean over conditions; the table has each condition, which may differ.")
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
                    [score_examples(run.test, run.temperature) for run in runs[:MOST_SCALED_RUNS]],
                    "after temperature scaling",
                ),
            ],
            diagonal=True,
            percent_y=True,
        )
        for name, runs in list(pooled.items())[:MOST_PANELS]
    ]
    unscaled = max(map(len, pooled.values())) > MOST_SCALED_RUNS
    caption = sentences(
        "Reliability on test: accuracy against confidence, in bins of equal mass, as predicted and after temperature "
        "scaling; below the diagonal a model is over-confident. Bars are Clopper-Pearson intervals.",
        f"After scaling, each panel has its first {MOST_SCALED_RUNS} runs only." if unscaled else "",
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
