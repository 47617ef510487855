"""The question whether a drop in accuracy was overfitting or a collapse of training."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np

from analysis.answer import UNDETERMINED, Answer, Bar, Figure, Table, Value, forests, not_shown, sentences
from analysis.diagnosis import (
    LEARNED_MARGIN,
    RULES,
    Diagnosis,
    FailureCounts,
    Finding,
    learned_threshold,
    learning_rate,
)
from analysis.evidence.comparison import most_seeds
from analysis.evidence.conditions import describe, group_by
from analysis.evidence.learning_curves import learning_curves
from analysis.evidence.next_commands import SEEDS_TO_COUNT, complete_plan, more_seeds, without_pruning
from analysis.results import Results
from analysis.wording import agree, count, join_words, number, percent, share_estimate

QUESTION = "Was the drop overfitting, or did training collapse?"
COUNTS_PRUNED_RUNS = False
COLLAPSES: tuple[Finding, ...] = ("collapsed", "collapsed and recovered", "never learned", "non-finite")
MOST_RUNS = 60
MOST_CONDITIONS = 200
MOST_BARS = 24


def answer(results: Results, rng: np.random.Generator) -> Answer:
    """Diagnose every trajectory; the verdict names what the drops were. ``rng`` is not needed."""
    del rng
    diagnoses = list(results.diagnoses.values())
    ended = [diagnosis for diagnosis in diagnoses if diagnosis.run.ended]
    findings = Counter(diagnosis.finding for diagnosis in ended)
    failures = _failures(ended)
    seeds = most_seeds([diagnosis.run for diagnosis in ended])
    verdict, sentence = _verdict(findings, seeds)
    if ended:
        sentence += f" {failures.failed} of {count(len(ended), 'run')} failed: {share_estimate(failures.rate)}."
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
        estimate=failures.rate if ended else None,
        estimated="share of all ended runs that failed (Clopper-Pearson)",
        unit="share",
        seeds=seeds,
        tables=(_condition_table(results, ended), _run_table(results, diagnoses)),
        figures=[*learning_curves(results, diagnoses), *_rate_figures(results, ended)],
        methods=(*RULES, _meaning_of_chance(results)),
        caveats=[*_resolution_caveats(results), *_caveats(ended, findings)],
        next_commands=commands,
    )


def _failures(diagnoses: Sequence[Diagnosis]) -> FailureCounts:
    return FailureCounts(failed=sum(diagnosis.failed for diagnosis in diagnoses), runs=len(diagnoses))


def _verdict(findings: Counter[Finding], seeds: int) -> tuple[str, str]:
    if not findings:
        return UNDETERMINED, "No run has ended yet."
    collapses, overfits = sum(findings[name] for name in COLLAPSES), findings["overfitting"]
    runs = f"{count(findings.total(), 'ended run')} ({_list_findings(findings)})"
    if seeds < 2:
        return UNDETERMINED, f"With one seed per condition, {runs} cannot show how often drops happen."
    if collapses and overfits:
        return "both", f"Of {runs}, {collapses} fell to chance or stayed there, which overfitting does not do."
    if collapses:
        return "collapse", f"Of {runs}, {collapses} fell to chance or stayed there, and none overfitted."
    if overfits:
        return "overfitting", f"Of {runs}, {overfits} overfitted: validation loss rose while training loss fell."
    if findings["healthy"] + findings["declined"] == 0:
        return UNDETERMINED, f"Of {runs}, none has learned, so no drop could have been seen."
    return "neither", f"Of {runs}, none collapsed and none overfitted by the end of training."


def _list_findings(findings: Mapping[Finding, int]) -> str:
    return join_words([f"{runs} {finding}" for finding, runs in findings.items()])


def _by_condition(results: Results, diagnoses: Sequence[Diagnosis]) -> dict[str, list[Diagnosis]]:
    """The diagnoses by condition, in the plan's order."""
    return group_by(diagnoses, lambda diagnosis: diagnosis.run.settings, results.condition_keys)


def _condition_table(results: Results, ended: Sequence[Diagnosis]) -> Table:
    rows: list[tuple[Value, ...]] = []
    conditions = list(_by_condition(results, ended).items())
    too_many = len(conditions) > MOST_CONDITIONS
    if too_many:
        conditions.sort(key=lambda condition: -_failures(condition[1]).rate.value)
    for name, group in conditions:
        failures, findings = _failures(group), Counter(diagnosis.finding for diagnosis in group)
        rows.append((name, len(group), failures.failed, failures.rate, _list_findings(findings)))
    return Table(
        title="Failures by condition",
        columns=("condition", "runs", "failed", "failure rate", "findings"),
        formats=("t", "n", "n", "%", "t"),
        rows=rows,
        note=sentences(
            "Failed: collapsed, never learned or non-finite. Intervals are Clopper-Pearson's.",
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
    start = f"{diagnosis.majority_start} epochs" if diagnosis.majority_start and diagnosis.learned_epoch else ""
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


def _resolution_caveats(results: Results) -> list[str]:
    """What a small validation split cannot show."""
    examples, threshold, chance = results.chance.examples, learned_threshold(results.chance), results.chance.accuracy
    if examples is None or threshold <= chance + LEARNED_MARGIN:
        return []
    caveat = (
        f"With {count(examples, 'validation example')}, an accuracy below {percent(threshold)} cannot be distinguished "
        f"from chance, {percent(chance)}: a run that learned less than that counts as one that did not learn."
    )
    return [caveat]


def _caveats(ended: Sequence[Diagnosis], findings: Counter[Finding]) -> list[str]:
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
    if len({learning_rate(diagnosis.run).peak for diagnosis in ended}) > 1:
        caveats.append("The rate over all runs mixes conditions that differ on purpose; the table has each condition.")
    return caveats


def _rate_figures(results: Results, ended: Sequence[Diagnosis]) -> list[Figure]:
    """Failure rates by condition; the highest where there are too many to show."""
    bars = [
        Bar(label=name, estimate=_failures(group).rate, group="failed")
        for name, group in _by_condition(results, ended).items()
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
