"""What will a study train, and what came of it, in a terminal's width?"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from statistics import fmean

from rich.console import Console
from rich.table import Table
from rich.text import Text

from study.plan.cell_results import CellResult, trial_score, unfinished
from study.plan.plan import SHORT_NAMES, Plan, SettingValues, Trajectory, label
from study.records import StudyFolder
from study.search.budget import accounts
from study.space.reader import Space

# More cells than this are shown by condition, over their seeds.
MOST_ROWS = 40


def describe_plan(space: Space, plan: Plan, results: Sequence[CellResult], folder: str) -> str:
    """What ``--dry-run`` prints; ``results`` say what is done already."""
    axes = axis_values(space, plan)
    width = max((len(name) for name in axes), default=4)
    trajectories = len(plan.trajectories)
    left = unfinished(plan, results, cutting=space.search.scheduler is not None)
    done = sum(result.state == "complete" for result in results)
    lines = [f"study {plan.study}", ""]
    lines += [f"  {name:<{width}}  {', '.join(values)}" for name, values in axes.items()]
    lines.append("")
    if space.searching:
        lines += budget_lines(space, plan, results)
        lines.append(f"chosen     {len(plan.trials):,} trials: {len(plan.cells):,} cells, {_work(plan.trajectories)}")
    else:
        lines.append(f"{len(plan.cells):,} cells, trained by {trajectories:,} trajectories")
        lines.append(f"to train   {_work(plan.trajectories)}; {plan.shared_fraction:.0%} less than cell by cell")
    lines += [
        f"done       {trajectories - len(left):,} trajectories, {done:,} cells, in {folder}",
        f"left       {_work(left)}" + (", and what the search chooses" if plan.open else ""),
    ]
    return "\n".join(lines)


def budget_lines(space: Space, plan: Plan, results: Sequence[CellResult]) -> list[str]:
    """What a search does, with which budget, and what of it is spent."""
    search, found = space.search, accounts(space, plan, results)
    unit, budget = search.budget
    seeds = next((len(axis.values) for axis in space.axes if axis.name == "seed"), 1)
    each = f" for each {' and '.join(search.per)}" if search.per else ""
    trained = f"each trial with {seeds} {'seed' if seeds == 1 else 'seeds'}"
    lines = [f"search     {search.chooser}, seed {search.seed}: {_amount(unit, budget)}{each}, {trained}"]
    if unit == "trials":
        cells = int(budget) * seeds * len(found)
        most = max(_examples(space), default=0) * cells
        lines.append(f"at most    {cells:,} cells, {most:,} examples")
    if search.scheduler is not None:
        lines.append(f"scheduler  {search.scheduler.name}: cuts what does badly; what it would have come to is lost")
    lines += [
        f"spent      {account.group}: {_number(unit, account.spent)} of {_amount(unit, budget)}"
        + (f" in {account.trials:,} trials" if unit != "trials" else "")
        + ("; there are no other combinations" if account.share < 1 and not account.open else "")
        for account in found
    ]
    return lines


def best_lines(space: Space, plan: Plan, results: Sequence[CellResult]) -> list[str]:
    """The best trial of each search so far, by what it was told to look for on validation."""
    by_id = {result.cell.id: result for result in results}
    lines = []
    for group in dict.fromkeys(trial.group for trial in plan.trials if trial.cells):
        found = [
            (trial_score(ended, space.search.objective), trial.number, ended)
            for trial in plan.trials
            if trial.group == group
            and (ended := [by_id[id_] for id_ in trial.cells])
            and all(one.state == "complete" for one in ended)
        ]
        if found:
            choose = max if space.search.objective == "accuracy" else min
            score, number, ended = choose(found, key=lambda one: one[0])
            name = ended[0].cell.name.rpartition(" · seed ")[0] or ended[0].cell.name
            seeds = f"mean of {len(ended)} seeds" if len(ended) > 1 else "one seed"
            lines.append(
                f"best       trial {number}, validation {space.search.objective} {score:.3f} ({seeds}): {name}"
            )
    return lines


def _amount(unit: str, value: float) -> str:
    return f"{_number(unit, value)} {unit.replace('gpu_', 'GPU ')}"


def _number(unit: str, value: float) -> str:
    return f"{value:.2f}" if unit == "gpu_hours" else f"{value:,.0f}"


def _examples(space: Space) -> list[int]:
    """The examples of cells at the ends of every axis that decides about them."""
    size = space.data.split_sizes(space.examples)["train"]
    found: list[int] = []
    for key in ("epochs", "optimizer_steps"):
        values = [value[key] for axis in space.axes for value in axis.values if value.get(key)]
        values = values or [space.fixed[key]] * bool(space.fixed.get(key))
        batches = [value["batch_size"] for axis in space.axes for value in axis.values if "batch_size" in value]
        batch = max(batches, default=space.fixed.get("batch_size") or 0)
        found += [value * (size if key == "epochs" else batch) for value in values]
    return found


def _work(trajectories: Sequence[Trajectory]) -> str:
    steps, examples = (sum(getattr(t, key) for t in trajectories) for key in ("optimizer_steps", "examples"))
    return f"{len(trajectories):,} trajectories, {steps:,} optimizer steps, {examples:,} examples"


def print_results(results: Sequence[CellResult], plan: Plan, folder: StudyFolder, console: Console) -> None:
    """The result table, each cell that has failed, with its reason, and how many are missing."""
    console.print(result_table(results, plan.axes))
    failed = [result for result in results if result.state == "failed" and result.outcome]
    for result in failed[:MOST_ROWS]:
        assert result.outcome is not None
        console.print(
            f"{result.cell.name}: failed: {result.outcome.error}; its log: {result.outcome.log}", soft_wrap=True
        )
    if len(failed) > MOST_ROWS:
        console.print(f"and {len(failed) - MOST_ROWS:,} more cells have failed", soft_wrap=True)
    missing = sum(result.state != "complete" for result in results) - len(failed)
    if missing:
        console.print(f"{missing:,} of {len(results):,} cells {'is' if missing == 1 else 'are'} not done")


def result_table(results: Sequence[CellResult], axes: Sequence[str]) -> Table:
    """A row for each cell or, where these are many, for each condition with the range over its seeds."""
    shown = [key for key in axes if len({_key(result.cell.settings.get(key)) for result in results}) > 1]
    if len(results) > MOST_ROWS:
        return _condition_table(results, [key for key in shown if key != "seed"])
    table = _table(shown)
    for name in ("best epoch", "val. acc.", "test acc.", "test loss", "one class"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("ended", no_wrap=True)
    for result in results:
        table.add_row(*_words(shown, result.cell.settings), *_scores(result))
    return table


def _words(keys: Iterable[str], settings: SettingValues) -> list[Text]:
    """What gives way, rather than a number, where the terminal is narrow."""
    return [Text(_value(key, settings), no_wrap=True, overflow="ellipsis") for key in keys]


def _table(keys: Iterable[str]) -> Table:
    table = Table(box=None, header_style="bold", padding=(0, 1, 0, 0))
    for key in keys:
        table.add_column(Text(SHORT_NAMES.get(key, key).replace("_", " "), no_wrap=True, overflow="ellipsis"))
    return table


def _scores(result: CellResult) -> list[str]:
    chosen, last = result.chosen, result.last
    # It is shown when the driver is through, and nothing trains any more.
    ended: str = result.stop_reason or ("interrupted" if result.state == "running" else result.state)
    if result.state == "failed" and result.outcome is not None and result.outcome.error:
        ended = f"failed: {result.outcome.error[:60]}"
    if last is None or chosen is None:
        return ["" if last is None else f"none of {last.epoch}", "", "", "", "", ended]
    return [
        f"{chosen.epoch} of {last.epoch}",
        f"{chosen.validation_accuracy:.3f}",
        "" if chosen.test_accuracy is None else f"{chosen.test_accuracy:.3f}",
        "" if chosen.test_loss is None else f"{chosen.test_loss:.3f}",
        f"{last.majority_share:.0%}",
        ended,
    ]


def _condition_table(results: Sequence[CellResult], keys: Sequence[str]) -> Table:
    conditions: dict[tuple[str, ...], list[CellResult]] = {}
    for result in results:
        conditions.setdefault(tuple(_value(key, result.cell.settings) for key in keys), []).append(result)
    table = _table(keys)
    for name in ("seeds", "val. acc.", "test acc. (lowest–highest)", "test loss (lowest–highest)"):
        table.add_column(name, justify="right", no_wrap=True)
    for condition, group in conditions.items():
        chosen = [result.chosen for result in group if result.state == "complete" and result.chosen is not None]
        accuracy = [epoch.validation_accuracy for epoch in chosen]
        table.add_row(
            *(Text(word, no_wrap=True, overflow="ellipsis") for word in condition),
            f"{len(chosen)} of {len(group)}",
            f"{fmean(accuracy):.3f}" if accuracy else "",
            _range([epoch.test_accuracy for epoch in chosen if epoch.test_accuracy is not None]),
            _range([epoch.test_loss for epoch in chosen if epoch.test_loss is not None]),
        )
    return table


def _range(values: Sequence[float]) -> str:
    return f"{fmean(values):.3f} ({min(values):.3f}–{max(values):.3f})" if values else ""


def _value(key: str, settings: SettingValues) -> str:
    """A setting's value in words, without its name, which heads the column."""
    if key == "early_stopping" and settings[key] is None:
        return "none"
    return label(key, settings.get(key)).removeprefix(f"{key} ")


def axis_values(space: Space, plan: Plan) -> dict[str, list[str]]:
    """The values of each axis in words, in the plan's order; of a search, all that it may choose."""
    if not space.searching:
        return {key: list(dict.fromkeys(_value(key, cell.settings) for cell in plan.cells)) for key in plan.axes}
    return {
        axis.name: [str(axis.range)]
        if axis.range
        else [" and ".join(_value(key, value) for key in value) for value in axis.values]
        for axis in space.axes
    }


def _key(value: object) -> str:
    return json.dumps(value, sort_keys=True)
