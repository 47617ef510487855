"""Distances of the best setting, on test, to the next best and to the default setting."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from analysis.evidence.comparison import seed_scores
from analysis.evidence.condition_scores import ConditionScores
from analysis.evidence.names import cell_naming, name_or_model
from analysis.evidence.selected_conditions import Choose, CrossFitted, accuracy_difference, cross_fit, trained_apart
from analysis.results import Results
from analysis.statistics.clustered_means import ClusteredMean, mean_over_strata
from analysis.wording import count, join_words, number, points, upper_first
from study.settings import Settings

# The length of training has no default.
WITHOUT_DEFAULT = ("model", "seed", "epochs", "optimizer_steps")


@dataclass(frozen=True, slots=True, kw_only=True)
class Distance:
    """Test accuracy of the best setting less that of another one, which is ``named``, such as "the next best, NAME".

    ``relation`` is the name's first part. ``mean`` is that of the two settings, on the same seeds and examples, None
    where they have none in common; ``fitted`` is chosen by other seeds than those that are scored.
    """

    relation: str
    named: str
    value: float
    mean: ClusteredMean | None
    fitted: CrossFitted | None

    @property
    def settled(self) -> bool:
        """Whether other seeds choose the same two settings, or there are none to choose by."""
        return self.fitted is None or self.fitted.stable


def distances(results: Results, ranked: Sequence[ConditionScores]) -> str:
    """How far the best setting is from the next best and from the default, in sentences; empty for one setting."""
    settings = trained_apart(ranked)
    if len(settings) < 2:
        return ""
    best, second = settings[:2]
    found = [_distance(results, settings, second, "the next best on validation", lambda order: (order[0], order[1]))]
    default, relation = find_default(results, ranked)
    remark = ""
    if default is not None and default.trajectories == best.trajectories:
        remark = f"The best setting is {relation}."
    elif default is not None and default.trajectories == second.trajectories:
        remark = f"The next best on validation is {relation}."
    elif default is not None and default.scored:
        found.append(_distance(results, settings, default, relation, _against(default)))
    elif default is not None:
        remark = f"{upper_first(relation)} has no score on test."
    return " ".join(filter(None, [_sentences(found), remark]))


def find_default(results: Results, ranked: Sequence[ConditionScores]) -> tuple[ConditionScores | None, str]:
    """The setting that others are compared with, and what it is; none of a search that tried no such setting.

    It is that of a published result, else that with the default of every setting, each for the best model if there is
    one, else the first of a grid.
    """
    published = [c for reference in results.space.references for c in ranked if reference.matches(c.settings)]
    if published:
        same_model = [c for c in published if c.settings.model == ranked[0].settings.model]
        return (same_model or published)[0], "the published setting"
    keys = [key for key in results.varying if key not in WITHOUT_DEFAULT]
    if keys and (found := next((c for c in ranked if _is_default(c.settings, keys)), None)):
        return found, "the default setting"
    if results.searching:
        return None, ""
    first = results.plan.cells[0].id
    return next(c for c in ranked if any(result.cell.id == first for result in c.cells)), "the study's first setting"


def _is_default(settings: Settings, keys: Sequence[str]) -> bool:
    return all(getattr(settings, key) == Settings.model_fields[key].default for key in keys)


def _against(default: ConditionScores) -> Choose:
    """The first of the conditions against this one."""

    def choose(order: Sequence[ConditionScores]) -> tuple[ConditionScores, ConditionScores] | None:
        other = next((condition for condition in order if condition.trajectories == default.trajectories), None)
        return None if other is None else (order[0], other)

    return choose


def _distance(
    results: Results, settings: Sequence[ConditionScores], other: ConditionScores, relation: str, choose: Choose
) -> Distance:
    best = settings[0]
    seeds = sorted(best.by_seed.keys() & other.by_seed.keys())
    plain = {seed: accuracy_difference(results, best, other, seed) for seed in seeds}
    scores = seed_scores({seed: difference for seed, difference in plain.items() if difference is not None})
    mean = mean_over_strata([scores]) if scores is not None else None
    return Distance(
        relation=relation,
        named=f"{relation}, {name_or_model(cell_naming(results), other.settings, without=['seed'])}",
        value=best.accuracy.value - other.accuracy.value if mean is None else mean.value,
        mean=mean,
        fitted=cross_fit(results, settings, choose),
    )


def _sentences(found: Sequence[Distance]) -> str:
    clauses = [
        f"{_above(distance.value)} {distance.named}{_evidence(distance.mean) if distance.settled else ''}"
        for distance in found
    ]
    sentences = [f"Its test accuracy is {'; it is '.join(clauses)}."]
    if any(distance.mean is not None and distance.mean.degrees_of_freedom == 0 for distance in found):
        sentences.append("With one seed a difference cannot be told from seed chance.")
    if unsettled := [distance for distance in found if not distance.settled]:
        clauses = [
            f"from {distance.relation} by {points(distance.fitted.mean.value, signed=True)}"
            f"{_evidence(distance.fitted.mean)}"
            for distance in unsettled
            if distance.fitted is not None
        ]
        sentences.append(
            "Other seeds choose other settings. With each seed scored by what the other seeds choose, the best differs "
            f"{join_words(clauses)}."
        )
    return " ".join(sentences)


def _above(value: float) -> str:
    """A difference in words, before what it is a difference to."""
    if abs(value) < 0.0005:
        return "equal to that of"
    return f"{points(abs(value))} {'above' if value > 0 else 'below'} that of"


def _evidence(mean: ClusteredMean | None) -> str:
    """The interval of a difference and its seeds, in brackets; that there is none, where it would say nothing."""
    if mean is None:
        return " (no interval: they share no seed with predictions)"
    if mean.degrees_of_freedom == 0:
        over = mean.over_examples()
        return f" (95% interval over the test examples alone {_signed(over.low)} to {_signed(over.high)})"
    estimate, seeds = mean.estimate(), count(mean.seeds, "seed")
    if estimate.high - estimate.low >= 2:
        return f" ({seeds}, too few for an interval)"
    chance = "" if estimate.excludes_zero else ": chance can explain it"
    return f" (95% interval {_signed(estimate.low)} to {_signed(estimate.high)}, {seeds}{chance})"


def _signed(value: float) -> str:
    return number(100 * value, "+.1f")
