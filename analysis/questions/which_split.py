"""The question which split to believe where validation favours one model and test the other."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from analysis.answer import UNDETERMINED, Answer, Bar, Figure, Table, Value, forests
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
    paired_differences,
    single_model_answer,
    usable_runs,
)
from analysis.evidence.conditions import describe
from analysis.evidence.next_commands import complete_plan, more_seeds, paired_search
from analysis.results import Results
from analysis.statistics.estimate import Estimate, FloatArray
from analysis.statistics.intervals import mcnemar_exact
from analysis.statistics.multibootstrap import (
    MultiBootstrap,
    example_weights,
    mean_over_seeds_and_examples,
    multibootstrap,
)
from analysis.trajectory_results import TrajectoryResult
from analysis.wording import agree, count, p_value, points, points_estimate

QUESTION = "Validation favours one model, test the other: which is right?"
COUNTS_PRUNED_RUNS = False
ALPHA = 0.05
MOST_ROWS = 60

METHODS = (
    (
        "Both scores are those of the same checkpoint, which validation selected; test is scored once. Models are "
        "compared on the same seeds and the same examples, all other settings equal, among runs better than chance."
    ),
    (
        "Paired bootstrap over seeds and examples at once (Sellam et al. 2022, the MultiBERTs), seeds within each "
        "condition stretched for their small number (Rao & Wu 1988), with Student's t on Satterthwaite's (1946) "
        "degrees of freedom."
    ),
    (
        "Exact McNemar (1947) test for each condition and seed: it accounts for the chance of the examples, not for "
        "that of the seeds."
    ),
    "The smallest difference that this design can show is the one it would find with 80 % power (Cohen 1988).",
    f"No difference: the whole interval lies within {points(EQUIVALENCE)} (two one-sided tests, Schuirmann 1987).",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class SplitComparison:
    """The differences first - second of two models on validation and on test.

    ``disagreement`` is validation's difference of accuracy less test's, and ``runs`` the number of pairs of runs.
    """

    first: str
    second: str
    validation: MultiBootstrap
    test: MultiBootstrap
    test_loss: MultiBootstrap
    disagreement: Estimate
    runs: int

    @property
    def title(self) -> str:
        """The difference in words."""
        return f"{self.first} less {self.second}"


def answer(results: Results, rng: np.random.Generator) -> Answer:
    """Compare every two models; the verdict is on the two that differ most clearly on test."""
    if single := single_model_answer(results, QUESTION):
        return single
    usable = usable_runs(results)
    results.predictions.preload([run.owner for run in usable])
    groups = model_strata(results, usable)
    pairs = [pair for names in model_pairs(results) if (pair := _compare(results, groups, *names, rng))]
    seeds = most_seeds(usable)
    if not pairs:
        return Answer(
            question=QUESTION,
            verdict=UNDETERMINED,
            sentence="No two models have ended runs better than chance with the same settings and seeds.",
            seeds=seeds,
            next_commands=[
                *paired_search(results, ["model"]),
                *complete_plan(results),
                more_seeds(results, "adds runs that learn"),
            ],
        )
    clearest = max(pairs, key=lambda pair: abs(pair.test.value) / (pair.test.standard_error or math.inf))
    verdict, sentence = _verdict(clearest, seeds, comparisons=len(pairs))
    return Answer(
        question=QUESTION,
        verdict=verdict,
        sentence=sentence,
        estimate=clearest.test.estimate(),
        estimated=f"test accuracy of {clearest.first} less that of {clearest.second}",
        seeds=seeds,
        tables=[_table(pairs), _condition_table(results, groups, pairs), _mcnemar_table(results, groups, pairs)],
        figures=_figures(pairs),
        methods=METHODS,
        caveats=[*model_specific_caveats(results), *_caveats(results, usable, clearest, pairs)],
        next_commands=[more_seeds(results, "narrows the interval")] if verdict == UNDETERMINED else [],
    )


def _compare(
    results: Results, groups: Sequence[RunStratum], first: str, second: str, rng: np.random.Generator
) -> SplitComparison | None:
    validation = paired_differences(results, groups, first, second, "validation", correctness)
    test = paired_differences(results, groups, first, second, "test", correctness)
    if not validation or not test:
        return None
    on_validation = multibootstrap(validation, example_weights(validation[0].shape[1], rng), rng)
    weights = example_weights(test[0].shape[1], rng)
    on_test = multibootstrap(test, weights, rng)
    losses = paired_differences(results, groups, first, second, "test", example_losses)
    return SplitComparison(
        first=first,
        second=second,
        validation=on_validation,
        test=on_test,
        test_loss=multibootstrap(losses, weights, rng),
        disagreement=_disagreement(validation, test),
        runs=sum(map(len, test)),
    )


def _disagreement(validation: Sequence[FloatArray], test: Sequence[FloatArray]) -> Estimate:
    """Validation's difference less test's, with an interval for the chance of the examples.

    A seed moves both scores of a run, so the seeds' spread of each difference does not count, only which examples came
    into which split (a normal approximation, at thousands of examples).
    """
    value = float(np.mean([scores.mean() for scores in validation]) - np.mean([scores.mean() for scores in test]))
    by_example = [sum(scores.mean(axis=0) for scores in strata) / len(strata) for strata in (validation, test)]
    error = math.sqrt(sum(float(np.var(means, ddof=1)) / len(means) for means in by_example))
    return Estimate(value=value, low=value - 1.96 * error, high=value + 1.96 * error, seeds=min(map(len, test)))


def _verdict(pair: SplitComparison, seeds: int, comparisons: int) -> tuple[str, str]:
    estimate, p = pair.test.estimate(), min(1.0, pair.test.p_value * comparisons)
    evidence = (
        f"{pair.title} is {points_estimate(estimate)} on test and {points_estimate(pair.validation.estimate())} on "
        "validation"
    )
    if seeds < 2 or not math.isfinite(p):
        return UNDETERMINED, f"With one seed per condition, {evidence}; how much of that is due to the seed is unknown."
    splits = "The two splits agree within chance."
    if pair.disagreement.excludes_zero:
        splits = "The two splits disagree by more than chance, which points to an error in the pipeline."
    if p < ALPHA:
        better = pair.first if estimate.value > 0 else pair.second
        runs = count(pair.runs, "pair of runs", "pairs of runs")
        return better, f"{better} is better on test: {evidence}, over {runs} ({p_value(p)}). {splits}"
    if estimate.is_zero_within(EQUIVALENCE):
        return "neither", f"Neither model is better by {points(EQUIVALENCE)} or more: {evidence}. {splits}"
    smallest = f"these runs would only find a difference of {points(pair.test.detectable)} or more"
    return UNDETERMINED, f"Neither split shows which is better: {evidence}, and {smallest}. {splits}"


def _table(pairs: Sequence[SplitComparison]) -> Table:
    rows: list[tuple[Value, ...]] = [
        (
            pair.title,
            pair.runs,
            pair.validation.estimate(),
            pair.test.estimate(),
            pair.test_loss.estimate(),
            pair.test.p_value,
            pair.test.detectable,
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
            "smallest that can be shown",
            "validation less test",
        ),
        formats=("t", "n", "+%", "+%", "+.3", "p", "+%", "+%"),
        rows=rows,
        note="p without correction for the number of pairs; the verdict corrects (Bonferroni)."
        if len(pairs) > 1
        else "",
    )


def _condition_table(results: Results, groups: Sequence[RunStratum], pairs: Sequence[SplitComparison]) -> Table:
    rows: list[tuple[Value, ...]] = []
    for group in groups:
        for pair in pairs:
            validation, test = (
                paired_differences(results, [group], pair.first, pair.second, split, correctness)
                for split in ("validation", "test")
            )
            if test:
                estimates = [mean_over_seeds_and_examples(differences[0]) for differences in (validation, test)]
                rows.append((_condition(results, group), pair.title, len(test[0]), *estimates))
    return Table(
        title="The same by condition",
        columns=("condition", "difference", "seeds", "validation accuracy", "test accuracy"),
        formats=("t", "t", "n", "+%", "+%"),
        rows=rows,
        most_rows=MOST_ROWS,
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


def _caveats(
    results: Results,
    usable: Sequence[TrajectoryResult],
    clearest: SplitComparison,
    pairs: Sequence[SplitComparison],
) -> list[str]:
    caveats = []
    excluded = len(ended_runs(results)) - len(usable)
    if excluded:
        caveats.append(
            f"{count(excluded, 'run')} no better than chance on validation {agree(excluded, 'is', 'are')} left out. "
            "How often models fail is compared where the report asks for the stable choice."
        )
    if np.sign(clearest.validation.value) != np.sign(clearest.test.value):
        caveats.append("The splits point to different models, which intervals this wide allow by chance.")
    if len(pairs) > 1:
        caveats.append(f"{len(pairs)} pairs of models were compared, and the verdict is on the clearest of them.")
    if clearest.validation.seeds < 3:
        caveats.append(
            "With so few seeds per condition, the interval relies on the assumption that conditions spread alike."
        )
    return caveats


def _figures(pairs: Sequence[SplitComparison]) -> list[Figure]:
    bars = [
        Bar(label=f"{pair.title}, {split}", estimate=difference.estimate(), group=split)
        for pair in pairs
        for split, difference in (("validation", pair.validation), ("test", pair.test))
    ]
    caption = "Difference of accuracy between models on the same seeds and examples, with 95 % intervals."
    panels = forests("Difference of accuracy", "difference", bars, reference=0.0, percent=True)
    return [Figure(name="validation-and-test", caption=caption, panels=panels)]
