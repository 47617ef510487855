"""The best setting by validation, with its test score."""

from __future__ import annotations

from collections.abc import Sequence

from analysis.evidence.comparison import seed_scores
from analysis.evidence.condition_scores import ConditionScores
from analysis.evidence.effects import correct_or_chance
from analysis.evidence.names import cell_naming, name_or_model
from analysis.evidence.selected_conditions import cross_fit, trained_apart
from analysis.results import Results
from analysis.statistics.clustered_means import mean_over_strata
from analysis.wording import count, percent, share_estimate


def best_setting(results: Results, ranked: Sequence[ConditionScores]) -> str:
    """The best setting and its test score, in sentences; ``ranked`` has the best condition first."""
    settings = trained_apart(ranked)
    if not settings:
        return "No run has a score on test yet."
    best = settings[0]
    name = name_or_model(cell_naming(results), best.settings, without=["seed"])
    apart = " that are trained apart" if len(settings) < len(ranked) else ""
    head = f"{name}, of {len(settings):,} settings{apart}" if len(settings) > 1 else f"There is one setting, {name}"
    seeds = count(best.complete, "seed")
    sentence = (
        f"{head}: validation accuracy {percent(best.validation)}, test accuracy {_test_accuracy(results, best)}, "
        f"{seeds}."
    )
    if best.collapsed:
        runs = count(best.complete, "run")
        sentence += f" {best.collapsed:,} of its {runs} failed; scored is the checkpoint that validation selected."
    fitted = cross_fit(results, settings, lambda order: (order[0], None)) if len(settings) > 1 else None
    if fitted is None or fitted.stable:
        return sentence
    accuracy = share_estimate(fitted.mean.estimate().clipped(0, 1))
    return (
        f"{sentence} With other seeds another setting may be the best: chosen without the seed that it is scored on, "
        f"the best setting has {accuracy}."
    )


def _test_accuracy(results: Results, condition: ConditionScores) -> str:
    """The condition's own mean test accuracy with its interval, or with that over the examples alone."""
    if condition.accuracy.has_interval:
        return share_estimate(condition.accuracy)
    value = percent(condition.accuracy.value)
    if condition.complete > 1:
        return f"{value} (too few seeds for an interval)"
    by_seed = {seed: correct_or_chance(results, cell) for seed, cell in condition.by_seed.items()}
    examples = seed_scores({seed: scores for seed, scores in by_seed.items() if scores is not None})
    if examples is None:
        return value
    over = mean_over_strata([examples]).over_examples().clipped(0, 1)
    return f"{value} (95% interval over the test examples alone {percent(over.low)} to {percent(over.high)})"
