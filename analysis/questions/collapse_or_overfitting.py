"""Was the drop in accuracy overfitting, or did training collapse?"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

import numpy as np

from analysis.answer import UNDETERMINED, Answer, Bar, Figure, Line, Panel, Table, Value, forests
from analysis.evidence.comparison import most_seeds
from analysis.evidence.conditions import schedule_keys, words
from analysis.evidence.diagnosis import LEARNED_MARGIN, RULES, Diagnosis, learned_threshold, learning_rate
from analysis.evidence.next_commands import SEEDS_TO_COUNT, complete_plan, more_seeds, without_pruning
from analysis.results import Results
from analysis.statistics.estimate import Estimate
from analysis.statistics.intervals import clopper_pearson
from analysis.wording import count, listed, number, percent, share

QUESTION = "Was the drop overfitting, or did training collapse?"
COUNTS_PRUNED_RUNS = False
COLLAPSES = ("collapsed", "collapsed and recovered", "never learned", "non-finite")
OVERFITTED = ("overfitting",)
# More panels than this are no longer looked at one by one.
MOST_PANELS = 12
MOST_ROWS = 60
MOST_CONDITIONS = 200
MOST_BARS = 24


def answer(results: Results, rng: np.random.Generator) -> Answer:
    """Diagnose every trajectory; the verdict names what the drops were. The rules draw nothing from ``rng``."""
    del rng
    diagnoses = list(results.diagnoses.values())
    ended = [one for one in diagnoses if one.run.ended]
    findings: Counter[str] = Counter(one.finding for one in ended)
    failed = sum(one.failed for one in ended)
    rate = clopper_pearson(failed, len(ended))
    seeds = most_seeds([one.run for one in ended])
    verdict, sentence = _verdict(findings, seeds)
    if ended:
        sentence += f" {failed} of {count(len(ended), 'run')} failed: {share(rate)}."
    commands = [more_seeds(results, "tells a rare failure from none", SEEDS_TO_COUNT)] if seeds < SEEDS_TO_COUNT else []
    cut = sum(one.run.pruned for one in diagnoses)
    if cut:
        commands.insert(0, without_pruning(results, "trains the runs that were cut to their end"))
    if len(ended) + cut < len(diagnoses):
        commands = [*complete_plan(results), *commands]
    return Answer(
        question=QUESTION,
        verdict=verdict,
        sentence=sentence,
        estimate=rate if ended else None,
        estimated="share of all ended runs that failed (Clopper-Pearson)",
        unit="share",
        seeds=seeds,
        tables=(_by_condition(results, ended), _by_run(results, diagnoses)),
        figures=_figures(results, diagnoses),
        methods=(*RULES, _how_half_is_possible(results)),
        caveats=[*_resolution(results), *_caveats(ended, findings)],
        next_commands=commands,
    )


def _verdict(findings: Counter[str], seeds: int) -> tuple[str, str]:
    collapses, overfits = (sum(findings[name] for name in names) for names in (COLLAPSES, OVERFITTED))
    told = [f"{findings[name]} {name}" for name in findings]
    what = f"Of {count(findings.total(), 'ended run')}, {listed(told)}" if told else "No run has ended yet"
    if not told:
        return UNDETERMINED, what + "."
    if seeds < 2:
        return UNDETERMINED, f"{what}; with one seed of each condition, how often that happens is not known."
    if collapses and overfits:
        return "both", f"{what}: {collapses} fell to chance or stayed there, which overfitting does not do."
    if collapses:
        return "collapse", f"{what}: what fell to chance or stayed there had collapsed; no run overfitted."
    if overfits:
        return "overfitting", f"{what}: validation loss rose while training loss fell; none collapsed."
    if findings["healthy"] + findings["declined"] == 0:
        return UNDETERMINED, f"{what}: no run has learned, so no drop could have been seen."
    return "neither", f"{what}: none collapsed and none overfitted by the end of training."


def _condition_keys(results: Results) -> list[str]:
    """What tells the conditions of trajectories apart."""
    return [key for key in results.varying_trained if key != "seed"]


def _conditions(results: Results, ended: Sequence[Diagnosis]) -> list[tuple[str, list[Diagnosis]]]:
    """The ended runs by condition, in the plan's order."""
    keys = _condition_keys(results)
    groups: dict[str, list[Diagnosis]] = {}
    for one in ended:
        groups.setdefault(words(one.run.settings, keys), []).append(one)
    return list(groups.items())


def _failure_rate(group: Sequence[Diagnosis]) -> Estimate:
    return clopper_pearson(sum(one.failed for one in group), len(group))


def _by_condition(results: Results, ended: Sequence[Diagnosis]) -> Table:
    rows: list[tuple[Value, ...]] = []
    conditions = _conditions(results, ended)
    if len(conditions) > MOST_CONDITIONS:
        conditions = sorted(conditions, key=lambda one: -sum(run.failed for run in one[1]) / len(one[1]))
    for name, group in conditions[:MOST_CONDITIONS]:
        found = Counter(one.finding for one in group)
        told = [f"{found[finding]} {finding}" for finding in found]
        rows.append((name, len(group), sum(one.failed for one in group), _failure_rate(group), listed(told)))
    left = f" The {MOST_CONDITIONS} of {len(conditions):,} conditions that failed most."
    left = left if len(conditions) > MOST_CONDITIONS else ""
    return Table(
        title="Failures by condition",
        columns=("condition", "runs", "failed", "failure rate", "findings"),
        formats=("t", "n", "n", "%", "t"),
        rows=rows,
        note=f"Failed: collapsed, never learned or non-finite. Intervals are Clopper-Pearson's.{left}",
    )


def _by_run(results: Results, diagnoses: Sequence[Diagnosis]) -> Table:
    """What each finding rests on; the worst first, where there are too many to show."""
    keys = [*_condition_keys(results), *(["seed"] if "seed" in results.varying else [])]
    shown = sorted(diagnoses, key=lambda one: one.finding == "healthy") if len(diagnoses) > MOST_ROWS else diagnoses
    rows = []
    for one in shown[:MOST_ROWS]:
        last = one.run.epochs[-1] if one.run.epochs else None
        set_in = f"epoch {one.onset_epoch}, {one.onset_examples:,} examples" if one.onset_epoch else ""
        signs = (
            (last.train_loss, last.majority_share, last.entropy, last.logit_std, last.gradient_norm_mean)
            if last
            else (None,) * 5
        )
        update = last.update_ratio if last else None
        start = f"{one.majority_start} epochs" if one.majority_start and one.learned_epoch else ""
        finding = f"{one.finding} when it was cut" if one.run.pruned else one.finding
        rows.append((words(one.run.settings, keys), finding, set_in, start, *signs, update))
    left = f" {len(diagnoses) - MOST_ROWS:,} more runs are not shown." if len(diagnoses) > MOST_ROWS else ""
    return Table(
        title="Each run at its last epoch",
        columns=(
            "run",
            "finding",
            "set in",
            "majority-class start",
            "train loss",
            "one class",
            "entropy",
            "logit spread",
            "gradient norm",
            "update ratio",
        ),
        formats=("t", "t", "t", "t", ".3", "%", ".3", ".3", ".2", "g"),
        rows=rows,
        note=f"Chance: loss {number(results.chance.loss)} nats, accuracy {percent(results.chance.accuracy)}; the "
        f"largest entropy is ln {results.chance.classes} = {math.log(results.chance.classes):.3f}.{left}",
    )


def _how_half_is_possible(results: Results) -> str:
    """Why an accuracy of one half is no bug."""
    return (
        f"How an accuracy of {percent(results.chance.accuracy)} is possible: a model whose output no longer depends on "
        "its input names one class for every example, and is right as often as that class occurs. Its loss is then "
        f"least when it gives each class the share that it has, which costs {number(results.chance.loss)} nats an "
        "example: the loss at which collapsed runs stand still."
    )


def _resolution(results: Results) -> list[str]:
    """What so few validation examples cannot show."""
    examples, threshold, chance = results.chance.examples, learned_threshold(results.chance), results.chance.accuracy
    if examples is None or threshold <= chance + LEARNED_MARGIN:
        return []
    told = (
        f"With {count(examples, 'validation example')}, an accuracy under {percent(threshold)} is not "
        f"told from chance, {percent(chance)}: a run that learned less than that counts as one that did not."
    )
    return [told]


def _caveats(ended: Sequence[Diagnosis], findings: Counter[str]) -> list[str]:
    caveats = []
    if findings["flat, cause open"]:
        caveats.append(
            f"{count(findings['flat, cause open'], 'run')} never left chance, and no run of the same model is there to "
            "say whether the budget was ample; they are counted neither as failed nor as healthy."
        )
    if findings["not learned yet"]:
        caveats.append(
            f"{count(findings['not learned yet'], 'run')} look like a collapse and are none: they ended before runs of "
            "the same model had begun to learn."
        )
    if findings["collapsed and recovered"]:
        caveats.append("A run that collapsed and recovered is no failure here; one more epoch may change either.")
    if len({learning_rate(one.run).peak for one in ended}) > 1:
        caveats.append("The rate over all runs mixes conditions on purpose unlike; the table has each by itself.")
    return caveats


def _figures(results: Results, diagnoses: Sequence[Diagnosis]) -> list[Figure]:
    started = [one for one in diagnoses if one.run.epochs]
    if not started:
        return []
    keys = ["model", *schedule_keys(results.varying_listed)]
    panels: dict[str, list[Diagnosis]] = {}
    for one in started:
        panels.setdefault(words(one.run.settings, keys), []).append(one)
    shown = list(panels.items())[:MOST_PANELS]
    accuracy, loss = (_range(started, accuracy=which) for which in (True, False))
    figures = [
        Figure(
            name="learning-curves",
            caption="Validation accuracy and training loss against examples seen. Each line is one run, coloured by "
            "what became of it; a cross marks where a collapse set in.",
            mark="collapse set in",
            panels=[
                *(_curves(name, group, results.chance.accuracy, accuracy, accuracy=True) for name, group in shown),
                *(_curves(name, group, results.chance.loss, loss, accuracy=False) for name, group in shown),
            ],
        )
    ]
    ended = [one for one in diagnoses if one.run.ended]
    bars = [
        Bar(label=name, estimate=_failure_rate(group), group="failed") for name, group in _conditions(results, ended)
    ]
    # Where there are very many conditions, those that failed most are what is looked for.
    shown_bars = bars if len(bars) <= MOST_BARS else sorted(bars, key=lambda bar: -bar.estimate.value)[:MOST_BARS]
    if bars:
        left = f" The {MOST_BARS} highest of {len(bars):,} conditions." if len(bars) > MOST_BARS else ""
        figures.append(
            Figure(
                name="failure-rates",
                caption=f"Share of runs that failed, by condition, with Clopper-Pearson intervals.{left}",
                panels=forests("Failure rate", "share of runs", shown_bars, percent=True),
            )
        )
    return figures


def _curves(
    name: str, group: Sequence[Diagnosis], chance: float, y_range: tuple[float, float], *, accuracy: bool
) -> Panel:
    lines = []
    for one in group:
        points = (
            [(epoch.examples_seen, epoch.validation["accuracy"]) for epoch in one.run.epochs]
            if accuracy
            else [(interval.examples_seen, interval.train_loss) for interval in one.run.intervals]
            or [(epoch.examples_seen, epoch.train_loss) for epoch in one.run.epochs]
        )
        xs, ys = zip(*points, strict=True)
        lines.append(
            Line(x=xs, y=ys, group=one.finding, thin=True, dots=accuracy, marks=_set_in(one, points, accuracy))
        )
    return Panel(
        title=name,
        x_label="examples seen",
        y_label="validation accuracy" if accuracy else "training loss (nats)",
        lines=lines,
        levels=[(chance, "chance")],
        percent_y=accuracy,
        y_range=y_range,
    )


def _set_in(one: Diagnosis, points: Sequence[tuple[float, float]], accuracy: bool) -> list[tuple[float, float]]:
    """Where a collapse set in on a curve: the epoch that was found dead, or the last training loss before it."""
    if one.onset_epoch is None or one.onset_examples is None or not one.finding.startswith("collapsed"):
        return []
    if accuracy:
        return [points[one.onset_epoch - 1]]
    return [point for point in points if point[0] <= one.onset_examples][-1:]


def _range(runs: Sequence[Diagnosis], *, accuracy: bool) -> tuple[float, float]:
    """One range for all panels of a quantity, so that they can be compared by eye."""
    values = [
        value
        for one in runs
        for value in (
            [epoch.validation["accuracy"] for epoch in one.run.epochs]
            if accuracy
            else [interval.train_loss for interval in one.run.intervals]
            + [epoch.train_loss for epoch in one.run.epochs]
        )
        if math.isfinite(value)
    ]
    low, high = min(values, default=0.0), max(values, default=1.0)
    # A loss that blew up would flatten all others.
    high = min(high, 3 * sorted(values)[len(values) // 2]) if values and not accuracy else high
    margin = 0.05 * (high - low or 1)
    return low - margin, high + margin
