"""The question of when to stop: what each stopping rule would have saved, and what it would have cost."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from analysis.answer import NOT_ASKED, UNDETERMINED, Answer, Claim, Command, Figure, Line, Panel, Table, Value
from analysis.evidence.comparison import most_seeds, seed_scores, usable_runs
from analysis.evidence.conditions import describe
from analysis.evidence.cross_fitting import METHOD as CROSS_FITTING
from analysis.evidence.cross_fitting import held_out
from analysis.evidence.effects import METHODS as EFFECT_METHODS
from analysis.evidence.effects import Effect, effect_of
from analysis.evidence.next_commands import complete_plan, extend, more_seeds, without_pruning
from analysis.evidence.stopping_rules import ACCEPTED_LOSS, RULES, Replay, replay, rule_name, whole_runs
from analysis.results import Results
from analysis.statistics.intervals import clopper_pearson
from analysis.trajectory_results import TrajectoryResult
from analysis.wording import count, percent, points, points_estimate
from study.scoring import METRICS
from study.settings import EarlyStopping

QUESTION = "When should training stop?"
COUNTS_PRUNED_RUNS = False
ALPHA = 0.05
# A loss of accuracy that a rule may cause in a run that was not seen, where no run of this study shows one. With it, 17
# runs without a loss are the fewest that show a rule to be safe.
PLAUSIBLE_LOSS = 0.03
TO_THE_END = "not early"
DEPENDS = "depends on the condition"

METHODS = (
    (
        "Every rule is applied to the same whole trajectories, failed ones included, as the study itself would apply "
        "it (patience, close to the class UP of Prechelt 1998): epochs after the stop count as saved, and the "
        "checkpoint is the best on validation up to the stop. Rules that are in no cell of the study are tried too."
    ),
    (
        "The rule is selected on validation: of those that cost less than "
        f"{points(ACCEPTED_LOSS)} of validation accuracy on average, the one that saves most epochs. Its cost is the "
        "test accuracy of the whole trajectory's checkpoint minus that of the rule's, example by example."
    ),
    CROSS_FITTING,
    *EFFECT_METHODS,
    (
        "Most rules select the same checkpoint in most runs, so that their costs are ties and have no spread. A rule "
        "is called safe only if, besides, the share of runs that may lose (Clopper & Pearson 1934, upper 95 % bound) "
        f"times the largest loss seen, at least {points(PLAUSIBLE_LOSS)}, is below {points(ACCEPTED_LOSS)}, and no "
        "condition loses more than that beyond chance."
    ),
    (
        "Under a schedule that decays over the planned epochs, stopping early also means stopping before the rate has "
        "decayed; a schedule planned for fewer epochs would give other results."
    ),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class RuleCost:
    """What a rule saved and cost: shares of epochs, and test accuracy lost by condition, or None without predictions.

    ``harmed`` of ``runs`` lost more than is accepted, and ``worst`` is the largest loss of a run.
    """

    rule: EarlyStopping
    saved: float
    validation_lost: float
    lost: Effect | None
    stopped: int
    harmed: int
    runs: int
    worst: float


def answer(results: Results, rng: np.random.Generator) -> Answer:
    """Apply every rule to every whole trajectory; the verdict names a rule. ``rng`` is not needed."""
    del rng
    runs = whole_runs(results)
    seeds = most_seeds(runs)
    if all(run.trajectory.epochs < 2 for run in results.runs):
        sentence = "Every trajectory has one epoch, after which there is nothing to stop."
        return Answer(question=QUESTION, verdict=NOT_ASKED, sentence=sentence)
    if not runs:
        return Answer(
            question=QUESTION,
            verdict=UNDETERMINED,
            sentence="No trajectory of two epochs or more ran to its planned end with a checkpoint to select.",
            next_commands=_commands_for_whole_runs(results),
        )
    usable = {run.trajectory.id for run in usable_runs(results)}
    if not any(run.trajectory.id in usable for run in runs):
        return Answer(
            question=QUESTION,
            verdict=UNDETERMINED,
            sentence=f"None of {count(len(runs), 'whole run')} is better than chance: no stop can lose anything.",
            seeds=seeds,
            next_commands=_commands_for_whole_runs(results),
        )
    replays = [{rule: replay(results, run, rule) for rule in RULES} for run in runs]
    costs = {rule: _cost(results, [by_rule[rule] for by_rule in replays]) for rule in RULES}
    selected = _select(replays)
    fitted = _cross_fitted(results, replays)
    cost = costs[selected] if selected else max(costs.values(), key=lambda cost: cost.saved)
    headline = fitted or cost.lost
    return Answer(
        question=QUESTION,
        verdict=UNDETERMINED,
        sentence=_undetermined(cost, fitted, list(costs.values()), selected=selected is not None),
        claim=_claim(cost, fitted, list(costs.values()), selected=selected is not None),
        estimate=headline.mean.estimate() if headline else None,
        estimated="test accuracy lost by the rule that validation selects on the other seeds",
        seeds=seeds,
        tables=[_table(list(costs.values())), *_condition_tables(cost)],
        figures=_figures(list(costs.values())),
        methods=METHODS,
        caveats=_caveats(results, runs),
        next_commands=[*complete_plan(results), more_seeds(results, "narrows the interval of what each rule costs")],
    )


def _cost(results: Results, replays: Sequence[Replay]) -> RuleCost:
    """What one rule did to all runs."""
    losses = [replay.test_lost for replay in replays if replay.test_lost is not None]
    means = [float(loss.mean()) for loss in losses]
    errors = [float(loss.std(ddof=1)) / math.sqrt(len(loss)) for loss in losses]
    harmed = sum(mean > ACCEPTED_LOSS and mean > 2 * error for mean, error in zip(means, errors, strict=True))
    return RuleCost(
        rule=replays[0].rule,
        saved=float(np.mean([replay.saved for replay in replays])),
        validation_lost=float(np.mean([replay.validation_lost for replay in replays])),
        lost=_effect(results, replays),
        stopped=sum(replay.saved > 0 for replay in replays),
        harmed=harmed,
        runs=len(replays),
        worst=max(means, default=math.nan),
    )


def _effect(results: Results, replays: Sequence[Replay]) -> Effect | None:
    by_condition: dict[str, dict[int, Replay]] = {}
    for each in replays:
        name = describe(each.run.settings, results.condition_keys)
        by_condition.setdefault(name, {})[each.run.settings.seed] = each
    return effect_of(
        [
            (
                name,
                seed_scores({seed: r.test_lost for seed, r in by_seed.items() if r.test_lost is not None}),
            )
            for name, by_seed in by_condition.items()
        ]
    )


def _select(replays: Sequence[dict[EarlyStopping, Replay]]) -> EarlyStopping | None:
    """The rule that saves most of those that cost little on validation; None where none saves anything that cheaply."""
    best = max(RULES, key=lambda rule: _worth([by_rule[rule] for by_rule in replays]))
    return best if _worth([by_rule[best] for by_rule in replays]) > 0 else None


def _worth(replays: Sequence[Replay]) -> float:
    """The share of epochs that a rule saves; below zero where it costs too much on validation."""
    lost = float(np.mean([replay.validation_lost for replay in replays]))
    return float(np.mean([replay.saved for replay in replays])) if lost < ACCEPTED_LOSS else -lost


def _cross_fitted(results: Results, replays: Sequence[dict[EarlyStopping, Replay]]) -> Effect | None:
    """The cost of the rule that the other seeds select, for each seed; None with one seed."""
    by_seed: dict[int, list[dict[EarlyStopping, Replay]]] = {}
    for by_rule in replays:
        by_seed.setdefault(next(iter(by_rule.values())).run.settings.seed, []).append(by_rule)
    candidates = [{seed: [by_rule[rule] for by_rule in members] for seed, members in by_seed.items()} for rule in RULES]
    selected = held_out(candidates, lambda groups: _worth([replay for group in groups for replay in group]))
    return _effect(results, [replay for group in selected.values() for replay in group])


def _evidence(cost: RuleCost, effect: Effect) -> str:
    return (
        f"{rule_name(cost.rule)} would have stopped {cost.stopped:,} of {count(cost.runs, 'run')}, saved "
        f"{percent(cost.saved, 0)} of the epochs and cost {points_estimate(effect.mean.estimate())} of test accuracy"
        f"{', each seed scored by the rule that the others select' if effect is not cost.lost else ''}, with "
        f"{count(effect.mean.seeds, 'seed')} per condition"
    )


def _undetermined(cost: RuleCost, fitted: Effect | None, costs: Sequence[RuleCost], *, selected: bool) -> str:
    """The sentence where no rule is shown to be safe."""
    if all(other.stopped == 0 for other in costs):
        return "No rule would have stopped any run: these runs are too short, or improve to their end."
    effect = fitted or cost.lost
    if effect is None:
        return "Which accuracy the rules cost is not known: predictions of their checkpoints are missing."
    evidence = _evidence(cost, effect)
    if not effect.replicated:
        return f"With one seed per condition, {evidence}; what it costs with other seeds is not known."
    if not selected:
        return f"No rule that saves epochs costs less than {points(ACCEPTED_LOSS)} on validation: {evidence}."
    highest = clopper_pearson(cost.harmed, cost.runs, level=1 - 2 * ALPHA).high
    return (
        f"No rule is shown to be safe: {evidence}; {cost.harmed} of {cost.runs} runs lost more than "
        f"{points(ACCEPTED_LOSS)} beyond two standard errors, which is compatible with up to {percent(highest, 0)} of "
        "runs."
    )


def _claim(cost: RuleCost, fitted: Effect | None, costs: Sequence[RuleCost], *, selected: bool) -> Claim | None:
    """That the selected rule is safe, or that every rule costs accuracy."""
    tested = [other.lost for other in costs if other.lost is not None and other.stopped]
    if not selected or fitted is None or not fitted.replicated:
        if not tested or not all(effect.replicated for effect in tested):
            return None
        cheapest = min((other for other in costs if other.lost and other.stopped), key=_mean_lost)
        assert cheapest.lost is not None
        p = min(1.0, max(effect.mean.p_above(ACCEPTED_LOSS) for effect in tested))
        sentence = (
            f"Train to the end: every rule costs accuracy, {rule_name(cheapest.rule)} least "
            f"({points_estimate(cheapest.lost.mean.estimate())})."
        )
        return Claim(family="scores", p_value=p, verdict=TO_THE_END, sentence=sentence)
    if not _safe(cost):
        return None
    p = fitted.mean.p_above(ACCEPTED_LOSS)
    sentence = f"Stop early: {_evidence(cost, fitted)}."
    return Claim(family="scores", p_value=1 - p, verdict=rule_name(cost.rule), sentence=sentence)


def _mean_lost(cost: RuleCost) -> float:
    return cost.lost.mean.value if cost.lost else math.inf


def _safe(cost: RuleCost) -> bool:
    """Whether neither rare large losses nor a single condition's loss are likely to be hidden in the mean."""
    # One-sided: that few runs lose is no reason against a rule.
    may_lose = clopper_pearson(cost.harmed, cost.runs, level=1 - 2 * ALPHA).high * max(PLAUSIBLE_LOSS, cost.worst)
    if cost.lost is None or may_lose >= ACCEPTED_LOSS:
        return False
    conditions = cost.lost.by_condition
    p_values = [mean.p_above(ACCEPTED_LOSS) for mean in conditions]
    return not any(p < ALPHA / len(conditions) for p in p_values if not math.isnan(p))


def _table(costs: Sequence[RuleCost]) -> Table:
    rows: list[tuple[Value, ...]] = [
        (
            rule_name(cost.rule),
            cost.runs,
            cost.stopped,
            cost.saved,
            cost.validation_lost,
            cost.lost.mean.estimate() if cost.lost else None,
            cost.harmed,
            cost.worst,
        )
        for cost in costs
    ]
    return Table(
        title="What each rule would have saved and cost",
        columns=(
            "rule",
            "runs",
            "stopped early",
            "epochs saved",
            "validation accuracy lost",
            "test accuracy lost",
            "runs that lost",
            "largest loss",
        ),
        formats=("t", "n", "n", "%", "+%", "+%", "n", "+%"),
        rows=rows,
        note=f"Runs that lost: more than {points(ACCEPTED_LOSS)} of test accuracy, and two standard errors.",
    )


def _condition_tables(cost: RuleCost) -> list[Table]:
    if cost.lost is None or len(cost.lost.strata) < 2:
        return []
    return [cost.lost.table(f"What {rule_name(cost.rule)} costs in each condition", "test accuracy lost")]


def _caveats(results: Results, runs: Sequence[TrajectoryResult]) -> list[str]:
    caveats = []
    if any(run.settings.lr_schedule != "constant" for run in runs):
        caveats.append("Some runs have a decaying rate: a rule that stops them early stops them at a high rate.")
    if max(len(run.epochs) for run in runs) < 4:
        caveats.append("Trajectories this short leave little to save: of three epochs, a rule saves at most one.")
    failed = sum(results.diagnoses[run.trajectory.id].failed for run in runs)
    if failed:
        caveats.append(
            f"{count(failed, 'run')} that failed {'is' if failed == 1 else 'are'} included: stopping saves their last "
            "epochs and keeps the checkpoint from before."
        )
    return caveats


def _commands_for_whole_runs(results: Results) -> list[Command]:
    """Commands that add whole trajectories to a study without any."""
    commands = [*complete_plan(results), more_seeds(results, "adds runs that learn")]
    if all(cell.settings.early_stopping for cell in results.plan.cells):
        commands = [extend(results, "trains to the end, so that every rule can be tried", {"early_stopping": [None]})]
    if any(run.pruned for run in results.runs):
        commands.insert(0, without_pruning(results))
    return commands


def _figures(costs: Sequence[RuleCost]) -> list[Figure]:
    lines = []
    for metric in METRICS:
        members = [(cost, cost.lost.mean.estimate()) for cost in costs if cost.rule.metric == metric and cost.lost]
        if members:
            lines.append(
                Line(
                    x=[cost.saved for cost, _ in members],
                    y=[lost.value for _, lost in members],
                    low=[lost.low for _, lost in members],
                    high=[lost.high for _, lost in members],
                    group=f"patience on {metric}, the longest at the left",
                    dots=True,
                )
            )
    if not lines:
        return []
    bounds = [bound for line in lines for bound in (*line.y, *(line.low or ()), *(line.high or ()))]
    finite = [bound for bound in bounds if math.isfinite(bound)]
    low, high = min([-ACCEPTED_LOSS, *finite]), max([2 * ACCEPTED_LOSS, *finite])
    margin = 0.05 * (high - low)
    panel = Panel(
        title="What stopping early saves and costs",
        x_label="share of epochs saved",
        y_label="test accuracy lost",
        lines=lines,
        levels=[(0.0, ""), (ACCEPTED_LOSS, "accepted")],
        y_range=(low - margin, high + margin),
        percent_y=True,
        percent_x=True,
    )
    caption = "Test accuracy lost against epochs saved, for each rule; 95 % intervals over seeds and examples."
    return [Figure(name="early-stopping", caption=caption, panels=[panel])]
