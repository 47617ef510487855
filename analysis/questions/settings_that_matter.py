"""The question of which settings matter, and which combination is best."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from analysis.answer import NOT_ASKED, UNDETERMINED, Answer, Claim, Table, Value, sentences
from analysis.evidence.axis_effects import AxisEffect, axes_of, axis_effects
from analysis.evidence.comparison import ended_runs, most_seeds, seed_scores
from analysis.evidence.condition_scores import ConditionScores, ranked_conditions
from analysis.evidence.conditions import describe
from analysis.evidence.cross_fitting import METHOD as CROSS_FITTING
from analysis.evidence.effects import METHODS as EFFECT_METHODS
from analysis.evidence.effects import Effect
from analysis.evidence.next_commands import complete_plan, more_seeds
from analysis.evidence.selected_conditions import accuracy_difference, cross_fit, trained_apart
from analysis.results import Results
from analysis.selection.importance import importance
from analysis.statistics.clustered_means import heterogeneity, mean_over_strata
from analysis.statistics.estimate import Estimate
from analysis.statistics.multiplicity import holm
from analysis.wording import join_words, number, p_value, points_estimate, share_estimate

QUESTION = "Which settings matter, and which combination is best?"
COUNTS_PRUNED_RUNS = False
ALPHA = 0.05
MOST_ROWS = 40

METHODS = (
    (
        "Each value of an axis is compared with the mean of its other values, in conditions that are equal in "
        "everything else and have all values, on test, failed runs included with what they scored. p-values are "
        "corrected for the values of an axis (Bonferroni) and for the axes (Holm 1979). Settings that never vary apart "
        "are one axis."
    ),
    *EFFECT_METHODS,
    CROSS_FITTING,
)


def answer(results: Results, rng: np.random.Generator) -> Answer:
    """Test every axis, and rank the combinations by validation. ``rng`` is not needed."""
    del rng
    if not axes_of(results):
        return Answer(question=QUESTION, verdict=NOT_ASKED, sentence="Runs differ in nothing but their seed.")
    ended = ended_runs(results)
    results.predictions.preload([run.owner for run in ended], ["test"])
    axes = [] if results.searching else axis_effects(results, ended)
    ranked = trained_apart(ranked_conditions(results))
    importances = importance(results)
    seeds = most_seeds(ended)
    expected = _expected(results, ranked)
    best = _best_sentence(results, ranked, expected)
    return Answer(
        question=QUESTION,
        verdict=UNDETERMINED,
        sentence=sentences(_undetermined(results, axes, seeds), best),
        claim=_claim(axes, best),
        estimate=expected,
        estimated="test accuracy of the combination that validation selects, on seeds that did not select it",
        unit="share",
        seeds=seeds,
        tables=[*_axis_tables(axes), *([_ranking(results, ranked)] if ranked else []), *importances.tables],
        methods=(*METHODS, *importances.methods),
        caveats=[] if ranked else ["No run has ended with a checkpoint."],
        next_commands=[*complete_plan(results), more_seeds(results, "narrows the intervals of all effects")],
    )


def _undetermined(results: Results, axes: Sequence[AxisEffect], seeds: int) -> str:
    """The sentence where no axis is shown to matter."""
    if results.searching:
        return "A search tries few combinations twice, so single settings are ranked by importance, not tested."
    if not axes:
        return "No two ended runs differ in one setting alone."
    if seeds < 2:
        return "With one seed per condition, the effect of a setting is not told apart from that of the seed."
    adjusted = holm([axis.p_value for axis in axes])
    shown = join_words([f"{axis.name} {p_value(p)}" for axis, p in zip(axes, adjusted, strict=True)])
    return f"No setting is shown to matter ({shown}, corrected for their number)."


def _claim(axes: Sequence[AxisEffect], best: str) -> Claim | None:
    """That the clearest setting matters, and wider claims with the next ones."""
    adjusted = sorted(zip(axes, holm([axis.p_value for axis in axes]), strict=True), key=lambda item: item[1])
    matter = [(axis, p) for axis, p in adjusted if p < ALPHA]
    claims = [_joint_claim(matter[:size], len(axes), best) for size in range(len(matter), 0, -1)]
    return replace(claims[-1], wider=claims[:-1]) if claims else None


def _joint_claim(matter: Sequence[tuple[AxisEffect, float]], settings: int, best: str) -> Claim:
    """That these of the ``settings`` matter, the clearest first, each with its p-value."""
    parts = [
        f"{axis.name} ({axis.best} scores {points_estimate(axis.by_value[axis.best].mean.estimate())} against "
        f"{'the other' if len(axis.by_value) == 2 else 'the mean of the others'}{_range(axis.by_value[axis.best])})"
        for axis, _ in matter
    ]
    differs = [axis.name for axis, _ in matter if axis.p_interaction < ALPHA / settings]
    caution = f" The effect of {join_words(differs)} differs between conditions." if differs else ""
    verb = "matters" if len(matter) == 1 else "matter"
    sentence = f"Of {settings} settings, {join_words(parts)} {verb} ({p_value(matter[-1][1])}).{caution}"
    return Claim(
        family="scores",
        p_value=matter[-1][1],
        verdict=join_words([axis.name for axis, _ in matter]),
        sentence=sentences(sentence, best),
    )


def _range(effect: Effect) -> str:
    """The smallest and the largest effect of a condition, where there are several."""
    values = [mean.value for mean in effect.by_condition]
    if len(values) < 2:
        return ""
    lowest, highest = (number(100 * value, "+.1f") for value in (min(values), max(values)))
    return f", by condition {lowest} to {highest} points"


def _best_sentence(results: Results, ranked: Sequence[ConditionScores], expected: Estimate | None) -> str:
    if not ranked:
        return ""
    best = f"Validation selects {describe(ranked[0].settings, results.condition_keys)}"
    if expected is None:
        return f"{best}."
    return f"{best}; what it selects on other seeds scores {share_estimate(expected)} on test."


def _expected(results: Results, ranked: Sequence[ConditionScores]) -> Estimate | None:
    """The test accuracy of what validation selects, on seeds that had no part in the selection."""
    fitted = cross_fit(results, ranked, lambda order: (order[0], None))
    return fitted.mean.estimate().clipped(0, 1) if fitted is not None else None


def _axis_tables(axes: Sequence[AxisEffect]) -> list[Table]:
    if not axes:
        return []
    rows: list[tuple[Value, ...]] = []
    for axis, p in zip(axes, holm([axis.p_value for axis in axes]), strict=True):
        for value, effect in axis.by_value.items():
            rows.append((axis.name, value, effect.pairs, effect.mean.estimate(), p, heterogeneity(effect.strata)))
    return [
        Table(
            title="Each setting against its other values, everything else equal",
            columns=(
                "setting",
                "value",
                "comparisons",
                "test accuracy",
                "p of the setting",
                "p that conditions differ",
            ),
            formats=("t", "t", "n", "+%", "p", "p"),
            rows=rows,
            most_rows=MOST_ROWS,
            note="p of a setting is corrected for its values and for the number of settings; that of conditions is not "
            "corrected, and is held to a fifth of the level.",
        )
    ]


def _ranking(results: Results, ranked: Sequence[ConditionScores]) -> Table:
    rows: list[tuple[Value, ...]] = []
    best = ranked[0]
    for rank, condition in enumerate(ranked, start=1):
        paired = {seed: accuracy_difference(results, condition, best, seed) for seed in condition.by_seed}
        behind = seed_scores({seed: difference for seed, difference in paired.items() if difference is not None})
        rows.append(
            (
                rank,
                describe(condition.settings, results.condition_keys),
                condition.complete,
                condition.validation,
                condition.accuracy,
                mean_over_strata([behind]).estimate() if behind is not None and condition is not best else None,
            )
        )
    return Table(
        title="All combinations, the best on validation first",
        columns=("rank", "combination", "seeds", "validation accuracy", "test accuracy", "minus the first"),
        formats=("n", "t", "n", "%", "%", "+%"),
        rows=rows,
        most_rows=MOST_ROWS,
        note="The first looks better than it is, because the same seeds selected it; intervals are without correction.",
    )
