"""The question of which model is better on test at equal settings, and whether validation and test agree."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import scipy.stats

from analysis.answer import UNDETERMINED, Answer, Bar, Claim, Figure, Table, Value, forests
from analysis.evidence.comparison import (
    EQUIVALENCE,
    RunStratum,
    correctness,
    ended_runs,
    example_losses,
    model_pairs,
    model_specific_caveats,
    model_specific_keys,
    model_strata,
    most_seeds,
    run_differences,
    single_model_answer,
    usable_runs,
)
from analysis.evidence.conditions import describe
from analysis.evidence.effects import METHODS as EFFECT_METHODS
from analysis.evidence.effects import Effect, effect_of
from analysis.evidence.next_commands import complete_plan, more_seeds, paired_search
from analysis.power import Assumptions, detectable_accuracy
from analysis.results import Results
from analysis.statistics.estimate import Estimate, FloatArray
from analysis.statistics.intervals import mcnemar_exact
from analysis.trajectory_results import TrajectoryResult
from analysis.wording import agree, count, p_value, points, points_estimate
from study.records import Split

QUESTION = "Which model is better on test at equal settings, and do validation and test agree?"
COUNTS_PRUNED_RUNS = False
DEPENDS = "depends on the condition"
ALPHA = 0.05
MOST_ROWS = 60
# What is assumed of seeds where a study has one, and the largest number of seeds that is proposed.
ASSUMED = Assumptions()
MOST_SEEDS = 50
# How far apart the levels of validation and test have to be to be mentioned: a p-value.
LEVELS_APART = 0.01

METHODS = (
    (
        "Both scores are those of the same checkpoint, which validation selected; test selects nothing, but is scored "
        "at every epoch that is the best so far, and read by all questions of this report. Models are compared on the "
        "same seeds and the same examples, all other settings equal, among runs better than chance."
    ),
    *EFFECT_METHODS,
    (
        "Exact McNemar (1947) test for each condition and seed: it accounts for the sampling of the examples, not for "
        "the seeds."
    ),
    "The smallest detectable difference is the one that this design finds with 80 % power (Cohen 1988).",
    f"No difference: the whole interval lies within {points(EQUIVALENCE)} (two one-sided tests, Schuirmann 1987).",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class SplitComparison:
    """The differences first - second of two models on validation and on test.

    ``disagreement`` is validation's difference of accuracy minus test's.
    """

    first: str
    second: str
    validation: Effect
    test: Effect
    test_loss: Effect
    disagreement: Estimate

    @property
    def title(self) -> str:
        """The difference in words."""
        return f"{self.first} minus {self.second}"

    @property
    def z(self) -> float:
        """How clear the difference on test is, in standard errors."""
        mean = self.test.mean
        return abs(mean.value) / mean.standard_error if mean.standard_error else 0.0


def answer(results: Results, rng: np.random.Generator) -> Answer:
    """Compare every two models; the verdict is on the two that differ most clearly on test. ``rng`` is not needed."""
    del rng
    if single := single_model_answer(results, QUESTION):
        return single
    usable = usable_runs(results)
    results.predictions.preload([run.owner for run in usable])
    groups = model_strata(results, usable)
    pairs = [pair for names in model_pairs(results) if (pair := _compare(results, groups, *names))]
    seeds = most_seeds(usable)
    if not pairs:
        return Answer(
            question=QUESTION,
            verdict=UNDETERMINED,
            sentence=_nothing_to_compare(results, groups),
            seeds=seeds,
            next_commands=[
                *paired_search(results, ["model"]),
                *complete_plan(results),
                more_seeds(results, "adds runs that learn"),
            ],
        )
    clearest = max(pairs, key=lambda pair: pair.z)
    splits = " ".join(filter(None, (_agreement(clearest), _levels(results, usable))))
    claim = _claim(clearest, len(pairs), splits)
    return Answer(
        question=QUESTION,
        verdict=UNDETERMINED,
        sentence=f"{_undetermined(clearest)} {splits}",
        claim=claim,
        estimate=clearest.test.mean.estimate(),
        estimated=f"test accuracy of {clearest.first} minus that of {clearest.second}",
        seeds=seeds,
        tables=[
            _table(pairs),
            *(pair.test.table(f"{pair.title} by condition, on test", "test accuracy") for pair in pairs),
            _mcnemar_table(results, groups, pairs),
        ],
        figures=_figures(pairs),
        methods=METHODS,
        caveats=[*model_specific_caveats(results), *_caveats(results, usable, pairs)],
        next_commands=[more_seeds(results, "narrows the interval")],
    )


def _nothing_to_compare(results: Results, groups: Sequence[RunStratum]) -> str:
    if any(len(group.arms) > 1 for group in groups):
        return "Models have ended runs of the same settings, but none whose predictions of the same examples are kept."
    learned = "better than chance, " if len(usable_runs(results)) < len(ended_runs(results)) else ""
    return f"No two models have ended runs, {learned}of the same settings and seeds."


def _compare(results: Results, groups: Sequence[RunStratum], first: str, second: str) -> SplitComparison | None:
    both = [group for group in groups if first in group.arms and second in group.arms]

    def effect(split: Split, *, losses: bool = False) -> Effect | None:
        score_of = example_losses if losses else correctness
        return effect_of(
            [
                (
                    _condition(results, group),
                    run_differences(results, group.arms[first].members, group.arms[second].members, split, score_of),
                )
                for group in both
            ]
        )

    validation, test, test_loss = effect("validation"), effect("test"), effect("test", losses=True)
    if validation is None or test is None or test_loss is None:
        return None
    return SplitComparison(
        first=first,
        second=second,
        validation=validation,
        test=test,
        test_loss=test_loss,
        disagreement=_disagreement([s.scores for s in validation.strata], [s.scores for s in test.strata]),
    )


def _disagreement(validation: Sequence[FloatArray], test: Sequence[FloatArray]) -> Estimate:
    """Validation's difference less test's, with an interval for the sampling of the examples.

    A seed moves both scores of a run, so the seeds' spread of each difference does not count, only which examples came
    into which split (a normal approximation).
    """
    value = float(np.mean([scores.mean() for scores in validation]) - np.mean([scores.mean() for scores in test]))
    by_example = [sum(scores.mean(axis=0) for scores in strata) / len(strata) for strata in (validation, test)]
    error = math.sqrt(sum(float(np.var(means, ddof=1)) / len(means) for means in by_example))
    half = max(1.96 * error, max(1 / len(means) for means in by_example))
    return Estimate(value=value, low=value - half, high=value + half, seeds=min(map(len, test)))


def _evidence(pair: SplitComparison) -> str:
    return (
        f"{pair.title} is {points_estimate(pair.test.mean.estimate())} on test and "
        f"{points_estimate(pair.validation.mean.estimate())} on validation, {pair.test.support}"
    )


def _undetermined(pair: SplitComparison) -> str:
    """The sentence where no difference is shown."""
    mean = pair.test.mean
    if not pair.test.replicated:
        seeds = _seeds_to_detect(pair)
        price = (
            f"{seeds} seeds would find a difference of {points(EQUIVALENCE)} with 80 % power"
            if seeds
            else f"{MOST_SEEDS} seeds would not find a difference of {points(EQUIVALENCE)} on this many test examples"
        )
        over_examples = points_estimate(mean.over_examples())
        return (
            f"With one seed per condition, {pair.title} is {over_examples} on test over the examples alone "
            f"({p_value(mean.p_over_examples)}), and the seeds' chance comes on top; at a spread over seeds of "
            f"{points(ASSUMED.seed_sd)}, {price}."
        )
    return (
        f"No difference on test is shown: {_evidence(pair)}; the smallest difference that these runs detect with 80 % "
        f"power is {points(mean.detectable)}."
    )


def _seeds_to_detect(pair: SplitComparison) -> int | None:
    """The number of seeds at which these models' runs would show :data:`EQUIVALENCE`; None for too many.

    Runs of different models disagree as often as these do, and those of different seeds as is assumed of them.
    """
    strata = pair.test.strata
    between = float(np.mean([np.abs(stratum.scores).mean() for stratum in strata]))
    assumed = replace(ASSUMED, between=between, within=min(ASSUMED.within, between))
    for seeds in range(2, MOST_SEEDS + 1):
        found = detectable_accuracy(assumed, seeds, len(strata), strata[0].scores.shape[1])
        if found is not None and found <= EQUIVALENCE:
            return seeds
    return None


def _claim(pair: SplitComparison, comparisons: int, splits: str) -> Claim | None:
    effect = pair.test
    if not effect.replicated:
        return None
    if effect.opposite:
        return Claim(
            family="scores",
            p_value=min(1.0, effect.p_heterogeneity * comparisons),
            verdict=DEPENDS,
            sentence=f"Which model is better depends on the condition: {pair.title} on test is "
            f"{effect.conditions_in_words()}. {splits}",
        )
    p, p_none = (min(1.0, p * comparisons) for p in (effect.p_difference, effect.p_equivalence(EQUIVALENCE)))
    if p <= p_none:
        better = pair.first if effect.mean.value > 0 else pair.second
        sentence = f"{better} is better on test: {_evidence(pair)} ({p_value(p)}). {splits}"
        return Claim(family="scores", p_value=p, verdict=better, sentence=sentence)
    sentence = f"Neither model is better by {points(EQUIVALENCE)} or more: {_evidence(pair)}. {splits}"
    return Claim(family="scores", p_value=p_none, verdict="neither", sentence=sentence)


def _agreement(pair: SplitComparison) -> str:
    """Whether the splits agree on the difference between the models."""
    if pair.disagreement.excludes_zero:
        return (
            f"The splits disagree on that difference by {points_estimate(pair.disagreement)}: a leak into one of them "
            "would do that, and so does the sampling of the examples in one of twenty sound pipelines."
        )
    return "The splits agree on that difference within the sampling of their examples."


def _levels(results: Results, usable: Sequence[TrajectoryResult]) -> str:
    """How far validation lies above test over all runs, in a sentence; empty where the examples explain it."""
    by_split: list[list[FloatArray]] = [[], []]
    splits: tuple[Split, Split] = ("validation", "test")
    for run in usable:
        scores = [results.predictions.scores(run.owner, split) for split in splits]
        if scores[0] is not None and scores[1] is not None:
            for place, of_split in enumerate(scores):
                assert of_split is not None
                by_split[place].append(correctness(of_split))
    means = [np.mean(arrays, axis=0) for arrays in by_split]
    value = float(means[0].mean() - means[1].mean())
    error = math.sqrt(sum(float(np.var(mean, ddof=1)) / len(mean) for mean in means))
    p = float(2 * scipy.stats.norm.sf(abs(value) / error)) if error else 1.0
    if p >= LEVELS_APART or abs(value) < EQUIVALENCE:
        return ""
    higher = "Validation" if value > 0 else "Test"
    lower = "test" if value > 0 else "validation"
    return (
        f"{higher} lies {points(abs(value))} above {lower} over all runs, more than the sampling of the examples "
        f"explains ({p_value(p)}): the splits are not alike, or one has leaked."
    )


def _table(pairs: Sequence[SplitComparison]) -> Table:
    rows: list[tuple[Value, ...]] = [
        (
            pair.title,
            pair.test.pairs,
            pair.validation.mean.estimate(),
            pair.test.mean.estimate(),
            pair.test_loss.mean.estimate(),
            pair.test.mean.p_value,
            pair.test.mean.detectable,
            pair.disagreement,
        )
        for pair in pairs
    ]
    return Table(
        title="Models compared on the same seeds and examples",
        columns=(
            "difference",
            "pairs of runs",
            "validation accuracy",
            "test accuracy",
            "test loss",
            "p (test)",
            "smallest detectable",
            "validation minus test",
        ),
        formats=("t", "n", "+%", "+%", "+.3", "p", "+%", "+%"),
        rows=rows,
        note="p of this comparison alone; the verdict's is corrected.",
    )


def _mcnemar_table(results: Results, groups: Sequence[RunStratum], pairs: Sequence[SplitComparison]) -> Table:
    rows: list[tuple[Value, ...]] = []
    for group in groups:
        for pair in pairs:
            if pair.first not in group.arms or pair.second not in group.arms:
                continue
            for seed in group.shared_seeds(pair.first, pair.second):
                first, second = (
                    results.predictions.scores(group.arms[arm].members[seed].owner, "test")
                    for arm in (pair.first, pair.second)
                )
                if first is not None and second is not None:
                    models = f"{pair.first} / {pair.second}"
                    counts_and_p = mcnemar_exact(first.correct, second.correct)
                    rows.append((_condition(results, group), models, seed, *counts_and_p))
    return Table(
        title="McNemar's exact test for each seed, on test",
        columns=("condition", "models", "seed", "only the first correct", "only the second correct", "p"),
        formats=("t", "t", "n", "n", "n", "p"),
        rows=rows,
        most_rows=MOST_ROWS,
    )


def _condition(results: Results, group: RunStratum) -> str:
    """What is fixed in the stratum, in words."""
    compared = ("model", *model_specific_keys(results))
    return describe(group.settings, [key for key in results.condition_keys if key not in compared])


def _caveats(results: Results, usable: Sequence[TrajectoryResult], pairs: Sequence[SplitComparison]) -> list[str]:
    caveats = []
    excluded = len(ended_runs(results)) - len(usable)
    if excluded:
        caveats.append(
            f"{count(excluded, 'run')} not better than chance on validation {agree(excluded, 'is', 'are')} left out; "
            "how often models fail is compared where the report asks for the stable model."
        )
    if len(pairs) > 1:
        caveats.append(f"{len(pairs)} pairs of models were compared, and the verdict is on the clearest of them.")
    return caveats


def _figures(pairs: Sequence[SplitComparison]) -> list[Figure]:
    bars = [
        Bar(label=f"{pair.title}, {split}", estimate=effect.mean.estimate(), group=split)
        for pair in pairs
        for split, effect in (("validation", pair.validation), ("test", pair.test))
        if effect.replicated
    ]
    if not bars:
        return []
    caption = "Difference of accuracy between models on the same seeds and examples, with 95 % intervals."
    panels = forests("Difference of accuracy", "difference", bars, reference=0.0, percent=True)
    return [Figure(name="validation-and-test", caption=caption, panels=panels)]
