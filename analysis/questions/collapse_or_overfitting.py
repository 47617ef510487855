"""The question of whether any run failed, and how: by collapse, by overfitting or by never learning."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
import scipy.stats

from analysis.answer import UNDETERMINED, Answer, Bar, Figure, Table, Value, forests, not_shown, sentences
from analysis.diagnosis import RULES, Diagnosis, Finding
from analysis.epoch_tests import FLAT_LOSS
from analysis.evidence.comparison import most_seeds
from analysis.evidence.conditions import describe, group_by
from analysis.evidence.learning_curves import learning_curves
from analysis.evidence.next_commands import SEEDS_TO_COUNT, complete_plan, more_seeds, without_pruning
from analysis.results import Results
from analysis.statistics.estimate import Estimate
from analysis.statistics.intervals import clopper_pearson
from analysis.wording import agree, count, join_words, number, percent, upper_first

QUESTION = "Did any run fail or drop, and how?"
COUNTS_PRUNED_RUNS = False
COLLAPSES: tuple[Finding, ...] = ("collapsed", "collapsed and recovered", "non-finite")
OVERFITS: tuple[Finding, ...] = ("overfitting", "memorised")
DECLINES: tuple[Finding, ...] = ("declined", "declined and recovered")
ALPHA = 0.01
# How often the rules find a drop in a run that has none, measured over planted runs: four standard errors at each of a
# few epochs.
FALSE_DROPS = 3.5e-4
# Conditions that a sentence names.
MOST_NAMED = 4
MOST_RUNS = 60
MOST_CONDITIONS = 200
MOST_BARS = 24

EVIDENCE = (
    "That a run collapsed is a fact of its history, whatever the number of seeds; how often it happens in a condition "
    "has its Clopper-Pearson interval. Overfitting and declines are named in the verdict if they are more than the "
    "rules would find by chance among that many runs (binomial, 1 %)."
)


def answer(results: Results, rng: np.random.Generator) -> Answer:
    """Diagnose every trajectory; the verdict names how runs failed. ``rng`` is not needed."""
    del rng
    diagnoses = list(results.diagnoses.values())
    ended = [diagnosis for diagnosis in diagnoses if diagnosis.run.ended]
    seeds = most_seeds([diagnosis.run for diagnosis in ended])
    verdict, sentence = _verdict(results, ended)
    commands = []
    pruned = sum(diagnosis.run.pruned for diagnosis in diagnoses)
    if len(ended) + pruned < len(diagnoses):
        commands += complete_plan(results)
    if pruned:
        commands.append(without_pruning(results))
    if seeds < SEEDS_TO_COUNT:
        commands.append(more_seeds(results, "distinguishes a rare failure from none", SEEDS_TO_COUNT))
    return Answer(
        question=QUESTION,
        verdict=verdict,
        sentence=sentence,
        seeds=seeds,
        tables=(_condition_table(results, ended), _run_table(results, diagnoses)),
        figures=[*learning_curves(results, diagnoses), *_rate_figures(results, ended)],
        methods=(*RULES, EVIDENCE, _meaning_of_chance(results)),
        caveats=[*_resolution_caveats(results, ended), *_caveats(Counter(d.finding for d in ended))],
        next_commands=commands,
    )


def _verdict(results: Results, ended: Sequence[Diagnosis]) -> tuple[str, str]:
    """What happened to these runs, which is a fact of each, and how often it may happen in its condition."""
    if not ended:
        return UNDETERMINED, "No run has ended yet."
    collapsed = _with(ended, COLLAPSES)
    never = _with(ended, ("never learned",))
    overfitted = _with(ended, OVERFITS) if _beyond_chance(len(_with(ended, OVERFITS)), len(ended)) else []
    declined = _with(ended, DECLINES) if _beyond_chance(len(_with(ended, DECLINES)), len(ended)) else []
    kinds = [
        word
        for word, runs in (
            ("collapse", collapsed),
            ("overfitting", overfitted),
            ("decline", declined),
            ("never learned", never),
        )
        if runs
    ]
    total = count(len(ended), "ended run")
    parts = [
        f"{_runs(results, collapsed, len(ended))} collapsed{_how(results, collapsed)}" if collapsed else "",
        f"{_runs(results, fell, len(ended))} overfitted: validation loss rose beyond its error while training loss "
        "fell, and accuracy fell"
        if (fell := _with(overfitted, ("overfitting",)))
        else "",
        f"{_runs(results, memorised, len(ended))} memorised the training texts: training loss fell far below that of "
        "chance, and validation was never better than chance"
        if (memorised := _with(overfitted, ("memorised",)))
        else "",
        f"{_runs(results, declined, len(ended))} lost a large part of the accuracy without overfitting"
        if declined
        else "",
        f"{_runs(results, never, len(ended))} never learned" if never else "",
    ]
    late = len(_with(ended, ("over-confident late",)))
    rise = (
        f" In {late} of {total}, validation loss rose late with accuracy kept: over-confidence, not a drop."
        if late
        else ""
    )
    if kinds:
        return join_words(kinds), f"{'. '.join(upper_first(part) for part in parts if part)}.{rise}"
    if not any(diagnosis.learned for diagnosis in ended):
        return UNDETERMINED, f"None of {total} is shown to have learned ({_list_findings(ended)}), so none could drop."
    rest = [diagnosis for diagnosis in ended if not diagnosis.learned]
    left = f" {count(len(rest), 'run')}: {_list_findings(rest)}." if rest else ""
    return "no", f"None of {total} failed, and no run's accuracy is shown to have dropped.{left}{rise}"


def _with(diagnoses: Sequence[Diagnosis], findings: Sequence[Finding]) -> list[Diagnosis]:
    return [diagnosis for diagnosis in diagnoses if diagnosis.finding in findings]


def _beyond_chance(found: int, runs: int) -> bool:
    """Whether this many drops are more than the rule finds among runs that do not drop."""
    return found > 0 and float(scipy.stats.binom.sf(found - 1, runs, FALSE_DROPS)) < ALPHA


def _runs(results: Results, diagnoses: Sequence[Diagnosis], total: int) -> str:
    """How many of all runs these are, and their conditions by name with the rate in each."""
    conditions = _by_condition(results, [d for d in results.diagnoses.values() if d.run.ended])
    places = []
    for name, group in conditions.items():
        these = [diagnosis for diagnosis in group if diagnosis in diagnoses]
        if these:
            rate = clopper_pearson(len(these), len(group))
            span = f"{percent(rate.low, 0)} to {percent(rate.high, 0)} of its seeds"
            places.append(f"{name}: {len(these)} of {len(group)}, so {span}")
    shown = "; ".join(places[:MOST_NAMED]) + (
        f"; {len(places) - MOST_NAMED} more conditions" if len(places) > MOST_NAMED else ""
    )
    return f"{len(diagnoses)} of {count(total, 'ended run')} ({shown})"


def _how(results: Results, collapsed: Sequence[Diagnosis]) -> str:
    """What the earliest of these collapses looks like, and what rules overfitting out, as the end of a clause."""
    started = [d for d in collapsed if d.finding != "non-finite" and d.onset_epoch is not None]
    if not started:
        return ""
    first = min(started, key=lambda diagnosis: diagnosis.onset_epoch or 0)
    assert first.onset_epoch is not None
    epoch = first.run.epochs[first.onset_epoch - 1]
    what = "accuracy no better than chance"
    if results.epoch_tests.one_class(epoch):
        all_texts = epoch.majority_share > 0.999
        what = "one class for " + ("every text" if all_texts else f"{percent(epoch.majority_share, 0)} of the texts")
    loss = min((interval.train_loss for interval in first.run.intervals[-1:]), default=epoch.train_loss)
    flat = loss >= FLAT_LOSS * results.chance.loss
    reason = (
        f", training loss {number(loss, '.2f')} nats, which is that of chance and rules overfitting out" if flat else ""
    )
    start = "the first" if len(collapsed) > 1 else "it"
    return f" ({start} at epoch {first.onset_epoch}: {what}{reason})"


def _list_findings(diagnoses: Sequence[Diagnosis]) -> str:
    findings = Counter(diagnosis.finding for diagnosis in diagnoses)
    return join_words([f"{runs} {finding}" for finding, runs in findings.items()])


def _by_condition(results: Results, diagnoses: Sequence[Diagnosis]) -> dict[str, list[Diagnosis]]:
    """The diagnoses by condition, in the plan's order."""
    return group_by(diagnoses, lambda diagnosis: diagnosis.run.settings, results.condition_keys)


def _condition_table(results: Results, ended: Sequence[Diagnosis]) -> Table:
    rows: list[tuple[Value, ...]] = []
    conditions = list(_by_condition(results, ended).items())
    too_many = len(conditions) > MOST_CONDITIONS
    if too_many:
        conditions.sort(key=lambda condition: -_rate(condition[1]).value)
    for name, group in conditions:
        failed, unstable = sum(d.failed for d in group), sum(d.unstable for d in group)
        rate = _rate(group) if len(group) > 1 else None
        rows.append((name, len(group), failed, unstable, rate, _list_findings(group)))
    return Table(
        title="Failures by condition",
        columns=("condition", "runs", "failed", "unstable", "failure rate", "findings"),
        formats=("t", "n", "n", "n", "%", "t"),
        rows=rows,
        note=sentences(
            "Failed: collapsed, never learned or non-finite. Unstable: failed, declined, or recovered from either. "
            "Intervals are Clopper-Pearson's; one run has none worth showing.",
            "Conditions that failed most come first." if too_many else "",
        ),
        most_rows=MOST_CONDITIONS,
    )


def _run_table(results: Results, diagnoses: Sequence[Diagnosis]) -> Table:
    """The evidence for each finding; healthy runs come last where there are too many to show."""
    if len(diagnoses) > MOST_RUNS:
        diagnoses = sorted(diagnoses, key=lambda diagnosis: diagnosis.finding == "healthy")
    chance = results.chance
    return Table(
        title="Each run at its last epoch",
        columns=(
            "run",
            "finding",
            "onset",
            "majority-class start",
            "train loss",
            "majority-class share",
            "entropy",
            "logit spread",
            "gradient norm",
            "update ratio",
        ),
        formats=("t", "t", "t", "t", ".3", "%", ".3", ".3", ".2", "g"),
        rows=[_run_row(results, diagnosis) for diagnosis in diagnoses],
        note=f"Chance: loss {number(chance.loss)} nats, accuracy {percent(chance.accuracy)}; the largest entropy is "
        f"ln {chance.classes} = {math.log(chance.classes):.3f}.",
        most_rows=MOST_RUNS,
    )


def _run_row(results: Results, diagnosis: Diagnosis) -> tuple[Value, ...]:
    keys = [*results.condition_keys, *(["seed"] if "seed" in results.varying else [])]
    run = diagnosis.run
    onset = f"epoch {diagnosis.onset_epoch}, {diagnosis.onset_examples:,} examples" if diagnosis.onset_epoch else ""
    start = count(diagnosis.majority_start, "epoch") if diagnosis.majority_start and diagnosis.learned_epoch else ""
    finding = f"{diagnosis.finding} when it was pruned" if run.pruned else diagnosis.finding
    names = ("train_loss", "majority_share", "entropy", "logit_std", "gradient_norm_mean", "update_ratio")
    signs = [getattr(run.epochs[-1], name) if run.epochs else None for name in names]
    return (describe(run.settings, keys), finding, onset, start, *signs)


def _meaning_of_chance(results: Results) -> str:
    """Why an accuracy of one half is not a bug."""
    return (
        f"How an accuracy of {percent(results.chance.accuracy)} is possible: a model whose output no longer depends on "
        "its input predicts one class for every example, and is correct as often as that class occurs. Its loss is "
        "then lowest if it gives each class the probability with which it occurs, which costs "
        f"{number(results.chance.loss)} nats per example: the loss at which collapsed runs stay."
    )


def _resolution_caveats(results: Results, ended: Sequence[Diagnosis]) -> list[str]:
    """What a small validation split cannot show."""
    unknown, examples = len(_with(ended, ("not shown to have learned",))), results.chance.examples
    if not unknown or examples is None:
        return []
    caveat = (
        f"{count(unknown, 'run')} {agree(unknown, 'is', 'are')} not shown to have learned: with "
        f"{count(examples, 'validation example')}, such a score cannot be distinguished from chance. They are counted "
        "neither as failed nor as learned."
    )
    return [caveat]


def _caveats(findings: Mapping[Finding, int]) -> list[str]:
    caveats = []
    if flat := findings["flat, cause open"]:
        caveats.append(
            f"{count(flat, 'run')} never left chance, and no run of the same model shows whether the learning-rate "
            "budget was sufficient; they are counted neither as failed nor as healthy."
        )
    if early := findings["not learned yet"]:
        caveats.append(
            f"{count(early, 'run')} {agree(early, 'looks', 'look')} like a collapse without being one: the other "
            "runs of the same model needed a larger learning-rate budget to start learning."
        )
    if findings["collapsed and recovered"]:
        caveats.append(
            "A run that collapsed and recovered does not count as failed; one more epoch may change either finding."
        )
    return caveats


def _rate(diagnoses: Sequence[Diagnosis]) -> Estimate:
    return clopper_pearson(sum(diagnosis.failed for diagnosis in diagnoses), len(diagnoses))


def _rate_figures(results: Results, ended: Sequence[Diagnosis]) -> list[Figure]:
    """Failure rates by condition; the highest where there are too many to show."""
    bars = [
        Bar(label=name, estimate=_rate(group), group="failed")
        for name, group in _by_condition(results, ended).items()
        if len(group) > 1
    ]
    if not bars:
        return []
    too_many = len(bars) > MOST_BARS
    if too_many:
        bars.sort(key=lambda bar: -bar.estimate.value)
    return [
        Figure(
            name="failure-rates",
            caption=sentences(
                "Share of runs that failed, by condition, with Clopper-Pearson intervals.",
                "The highest rates are shown." if too_many else "",
                not_shown(len(bars), MOST_BARS, "condition"),
            ),
            panels=forests("Failure rate", "share of runs", bars[:MOST_BARS], percent=True),
        )
    ]
