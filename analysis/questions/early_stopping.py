"""The question when to stop: what each stopping rule would have saved, and what it would have cost."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from analysis.answer import UNDETERMINED, Answer, Command, Figure, Line, Panel, Table, Value
from analysis.evidence.comparison import ended_runs, most_seeds
from analysis.evidence.conditions import SettingsKey, settings_key
from analysis.evidence.next_commands import complete_plan, extend, more_seeds, without_pruning
from analysis.results import Results
from analysis.statistics.estimate import Estimate
from analysis.statistics.intervals import mean_over_strata
from analysis.trajectory_results import TrajectoryResult
from analysis.wording import agree, count, percent, points, points_estimate, share_estimate
from study.scoring import METRICS
from study.stopping import StoppingPolicy, decide

QUESTION = "When should training stop?"
COUNTS_PRUNED_RUNS = False
# A rule is recommended if its whole interval of test accuracy lost lies below this.
ACCEPTED_LOSS = 0.005
PATIENCE = (1, 2, 3)

METHODS = (
    (
        "Every rule is applied to the same complete trajectories, as the study itself would apply it (Prechelt 1998, "
        "rules of patience): an epoch not trained is saved, and the checkpoint is the best on validation up to the "
        "stop. Rules that are in no cell of the study are tried too."
    ),
    (
        "Accuracy lost is that of the whole trajectory's selected checkpoint less that of the rule's, on test, in the "
        "same run. Intervals are Student's t over seeds, conditions being fixed strata."
    ),
    (
        f"Of the rules whose whole interval lies below {points(ACCEPTED_LOSS)} lost, the one that saves most is "
        "recommended. Bounds are corrected for the number of rules tried (Bonferroni)."
    ),
    (
        "Under a schedule that decays over the planned epochs, stopping early also means stopping before the rate has "
        "decayed; a schedule planned for fewer epochs would give other results."
    ),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class StoppingRuleResult:
    """A stopping rule and what it would have done: ``stopped`` of ``runs`` stopped early, ``saved`` and ``lost``.

    ``saved`` is a share of epochs, ``lost`` a difference of test accuracy, means over conditions and seeds.
    """

    metric: str
    patience: int
    saved: Estimate
    lost: Estimate
    stopped: int
    runs: int

    @property
    def name(self) -> str:
        """The rule in words."""
        return f"patience {self.patience} on {self.metric}"


def answer(results: Results, rng: np.random.Generator) -> Answer:
    """Apply every rule to every complete trajectory; the verdict names a rule. ``rng`` is not needed."""
    del rng
    whole = [run for run in ended_runs(results) if _is_whole(run)]
    runs = [run for run in whole if results.diagnoses[run.trajectory.id].learned]
    seeds = most_seeds(runs)
    if not runs:
        sentence = "No trajectory of two epochs or more learned and ran to its end without being stopped."
        return Answer(
            question=QUESTION, verdict=UNDETERMINED, sentence=sentence, next_commands=_commands_for_whole_runs(results)
        )
    tried = [(metric, patience) for metric in METRICS for patience in PATIENCE]
    level = 1 - 0.05 / len(tried)
    rules = [_apply(runs, metric, patience, level) for metric, patience in tried]
    verdict, sentence, best = _verdict(rules, seeds)
    return Answer(
        question=QUESTION,
        verdict=verdict,
        sentence=sentence,
        estimate=best.lost,
        estimated=f"test accuracy lost by {best.name} (interval corrected for {len(rules)} rules)",
        seeds=seeds,
        tables=[_table(rules)],
        figures=_figures(rules),
        methods=METHODS,
        caveats=_caveats(whole, runs),
        next_commands=_next_commands(results) if verdict == UNDETERMINED else [],
    )


def _is_whole(run: TrajectoryResult) -> bool:
    """Whether it trained all planned epochs, so that the end by any rule is within it."""
    outcome = run.outcome
    finished = outcome is not None and outcome.stop_reason not in ("stopped early", "cut")
    return finished and len(run.epochs) > 1 and run.owner.chosen is not None


def _apply(runs: Sequence[TrajectoryResult], metric: str, patience: int, level: float) -> StoppingRuleResult:
    saved: dict[SettingsKey, list[float]] = {}
    lost: dict[SettingsKey, list[float]] = {}
    stopped = 0
    for run in runs:
        history = [epoch.validation for epoch in run.epochs]
        policy = StoppingPolicy(
            max_epochs=run.trajectory.epochs,
            patience=patience,
            metric=metric,
            checkpoint_metric=run.settings.checkpoint_metric,
        )
        decision = decide(history, policy)
        whole = decide(history, StoppingPolicy(checkpoint_metric=policy.checkpoint_metric))
        if not decision.best_epoch or not whole.best_epoch:
            continue
        of_whole, of_rule = (run.epochs[end.best_epoch - 1].test_score("accuracy") for end in (whole, decision))
        if of_whole is None or of_rule is None:
            continue
        condition = settings_key(run.settings, ["seed"])
        saved.setdefault(condition, []).append(1 - decision.stop_epoch / len(run.epochs))
        lost.setdefault(condition, []).append(of_whole - of_rule)
        stopped += decision.stop_epoch < len(run.epochs)
    return StoppingRuleResult(
        metric=metric,
        patience=patience,
        saved=mean_over_strata(list(saved.values())),
        lost=mean_over_strata(list(lost.values()), level),
        stopped=stopped,
        runs=sum(map(len, lost.values())),
    )


def _verdict(rules: Sequence[StoppingRuleResult], seeds: int) -> tuple[str, str, StoppingRuleResult]:
    safe = [rule for rule in rules if rule.lost.high < ACCEPTED_LOSS and rule.saved.low > 0]
    most = max(safe or rules, key=lambda rule: rule.saved.value)
    cost = f"{points_estimate(most.lost)} of test accuracy"
    evidence = f"{most.name} would have saved {percent(most.saved.value)} of the epochs and cost {cost}"
    if seeds < 2:
        return UNDETERMINED, f"With one seed per condition, {evidence}; what it costs in general is unknown.", most
    if safe:
        return most.name, f"Stop early: {evidence}, over {count(most.runs, 'run')}.", most
    if all(rule.lost.low > ACCEPTED_LOSS for rule in rules):
        cheapest = min(rules, key=lambda rule: rule.lost.value)
        lowest = points_estimate(cheapest.lost)
        sentence = f"Train to the end: every rule costs accuracy, {cheapest.name} least ({lowest})."
        return "not early", sentence, cheapest
    if all(rule.stopped == 0 for rule in rules):
        return UNDETERMINED, "No rule would have stopped any run: these runs are too short to compare rules.", most
    if all(rule.saved.low <= 0 for rule in rules):
        saved = share_estimate(most.saved.clipped(0, 1))
        sentence = f"No rule is shown to save epochs: {most.name} would have saved {saved} and cost {cost}."
        return UNDETERMINED, sentence, most
    return (
        UNDETERMINED,
        f"No rule that saves epochs is shown to cost less than {points(ACCEPTED_LOSS)}: {evidence}.",
        most,
    )


def _table(rules: Sequence[StoppingRuleResult]) -> Table:
    rows: list[tuple[Value, ...]] = [(rule.name, rule.runs, rule.stopped, rule.saved, rule.lost) for rule in rules]
    return Table(
        title="What each rule would have saved and cost",
        columns=("rule", "runs", "stopped early", "epochs saved", "test accuracy lost"),
        formats=("t", "n", "n", "%", "+%"),
        rows=rows,
        note="Intervals of accuracy lost are corrected for the number of rules.",
    )


def _caveats(whole: Sequence[TrajectoryResult], runs: Sequence[TrajectoryResult]) -> list[str]:
    caveats = []
    if any(run.settings.lr_schedule != "constant" for run in runs):
        caveats.append("Some runs have a decaying rate: a rule that stops them early stops them at a high rate.")
    if max(len(run.epochs) for run in runs) < 4:
        caveats.append("Trajectories this short leave little to save: of three epochs, a rule saves at most two.")
    if failed := len(whole) - len(runs):
        caveats.append(
            f"{count(failed, 'run')} that ended no better than chance {agree(failed, 'is', 'are')} left out: there was "
            "no accuracy to lose."
        )
    return caveats


def _next_commands(results: Results) -> list[Command]:
    return [*complete_plan(results), more_seeds(results, "narrows the interval of what each rule costs")]


def _commands_for_whole_runs(results: Results) -> list[Command]:
    """Commands that add whole trajectories to a study without any."""
    commands = [*complete_plan(results), more_seeds(results, "adds runs that learn")]
    if all(cell.settings.early_stopping for cell in results.plan.cells):
        commands = [extend(results, "trains to the end, so that every rule can be tried", {"early_stopping": [None]})]
    if any(run.pruned for run in results.runs):
        commands.insert(0, without_pruning(results))
    return commands


def _y_range(rules: Sequence[StoppingRuleResult]) -> tuple[float, float]:
    """The range of accuracy lost that has all intervals, zero and the accepted loss."""
    ends = [end for rule in rules for end in (rule.lost.value, rule.lost.low, rule.lost.high)]
    bounds = [end for end in ends if math.isfinite(end)]
    low, high = min([-ACCEPTED_LOSS, *bounds]), max([2 * ACCEPTED_LOSS, *bounds])
    return low - 0.05 * (high - low), high + 0.05 * (high - low)


def _figures(rules: Sequence[StoppingRuleResult]) -> list[Figure]:
    lines = []
    for metric in METRICS:
        members = [rule for rule in rules if rule.metric == metric]
        lines.append(
            Line(
                x=[rule.saved.value for rule in members],
                y=[rule.lost.value for rule in members],
                low=[rule.lost.low for rule in members],
                high=[rule.lost.high for rule in members],
                group=f"patience {', '.join(map(str, PATIENCE))} on {metric} (from right to left)",
                dots=True,
            )
        )
    panel = Panel(
        title="What stopping early saves and costs",
        x_label="share of epochs saved",
        y_label="test accuracy lost",
        lines=lines,
        levels=[(0.0, ""), (ACCEPTED_LOSS, "accepted")],
        y_range=_y_range(rules),
        percent_y=True,
        percent_x=True,
    )
    caption = (
        "Test accuracy lost against epochs saved, for each rule; 95 % intervals over seeds, corrected for the number "
        "of rules."
    )
    return [Figure(name="early-stopping", caption=caption, panels=[panel])]
