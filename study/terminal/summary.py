"""What a study will train, and what came of it, in a terminal's width."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from statistics import fmean

from rich.console import Console
from rich.table import Table
from rich.text import Text

from study.plan.cell_results import CellResult, search_score, unfinished
from study.plan.labels import label, short_name
from study.plan.plan import Plan, Trajectory
from study.scoring import ACCURACY, LOSS, METRICS
from study.search.budget import search_budgets
from study.settings import Search, Settings, setting_type
from study.space.space import Space

# More cells than this are shown by condition, over their seeds.
MOST_ROWS = 40


def describe_plan(space: Space, plan: Plan, results: Sequence[CellResult], folder: str) -> str:
    """What ``--dry-run`` prints; ``results`` say what is done already."""
    axes = axis_values(space, plan)
    width = max((len(name) for name in axes), default=4)
    left = unfinished(plan, results, pruning=space.search.scheduler is not None)
    done = sum(result.state == "complete" for result in results)
    lines = [f"study {plan.study}", ""]
    lines += [f"  {name:<{width}}  {', '.join(values)}" for name, values in axes.items()]
    lines.append("")
    if space.searching:
        lines += budget_lines(space, plan, results)
        lines.append(f"chosen     {len(plan.trials):,} trials: {len(plan.cells):,} cells, {_work(plan.trajectories)}")
    else:
        lines.append(f"{len(plan.cells):,} cells, trained by {len(plan.trajectories):,} trajectories")
        lines.append(f"to train   {_work(plan.trajectories)}; {plan.shared_fraction:.0%} less than cell by cell")
    lines += [
        f"done       {len(plan.trajectories) - len(left):,} trajectories, {done:,} cells, in {folder}",
        f"left       {_work(left)}" + (", and what the search chooses" if plan.open else ""),
    ]
    return "\n".join(lines)


def budget_lines(space: Space, plan: Plan, results: Sequence[CellResult]) -> list[str]:
    """What a search does, with which budget, and what of it is spent."""
    search, budgets = space.search, search_budgets(space, plan, results)
    unit, budget = search.budget
    seeds = len(space.values_of("seed"))
    each = f" for each {' and '.join(search.per)}" if search.per else ""
    trained = f"each trial with {seeds} {'seed' if seeds == 1 else 'seeds'}"
    lines = [f"search     {search.chooser}, seed {search.seed}: {_amount(unit, budget)}{each}, {trained}"]
    if unit == "trials":
        cells = int(budget) * seeds * len(budgets)
        most = max(_examples_per_cell(space), default=0) * cells
        lines.append(f"at most    {cells:,} cells, {most:,} examples")
    if search.scheduler is not None:
        lines.append(f"scheduler  {search.scheduler.name}: stops poor trials early; their final results are unknown")
    lines += [
        f"spent      {spent.group}: {_number(unit, spent.spent)} of {_amount(unit, budget)}"
        + (f" in {spent.trials:,} trials" if unit != "trials" else "")
        + ("; there are no other combinations" if spent.share < 1 and not spent.open else "")
        for spent in budgets
    ]
    return lines


def best_lines(search: Search, plan: Plan, results: Sequence[CellResult]) -> list[str]:
    """The best trial of each search so far, by its objective on validation."""
    metric = METRICS[search.objective]
    by_id = {result.cell.id: result for result in results}
    best: dict[str, tuple[float, str]] = {}
    for trial in plan.trials:
        cells = [by_id[id_] for id_ in trial.cells]
        if not cells or any(result.state != "complete" for result in cells):
            continue
        score = search_score(cells, metric.name)
        name = cells[0].cell.name.rpartition(" · seed ")[0] or cells[0].cell.name
        seeds = f"mean of {len(cells)} seeds" if len(cells) > 1 else "one seed"
        line = f"best       trial {trial.number}, validation {metric.name} {score:.3f} ({seeds}): {name}"
        if trial.group not in best or metric.signed(score) > best[trial.group][0]:
            best[trial.group] = (metric.signed(score), line)
    return [line for _, line in best.values()]


def _amount(unit: str, value: float) -> str:
    return f"{_number(unit, value)} {unit.replace('gpu_', 'GPU ')}"


def _number(unit: str, value: float) -> str:
    return f"{value:.2f}" if unit == "gpu_hours" else f"{value:,.0f}"


def _examples_per_cell(space: Space) -> list[int]:
    """The training examples of cells at the ends of every axis that decides about them."""
    train_size = space.data.split_sizes(space.examples)["train"]
    largest_batch = max(space.values_of("batch_size"))
    epochs = [value * train_size for value in space.values_of("epochs") if value]
    return epochs + [value * largest_batch for value in space.values_of("optimizer_steps") if value]


def _work(trajectories: Sequence[Trajectory]) -> str:
    steps = sum(trajectory.optimizer_steps for trajectory in trajectories)
    examples = sum(trajectory.examples for trajectory in trajectories)
    return f"{len(trajectories):,} trajectories, {steps:,} optimizer steps, {examples:,} examples"


def print_results(results: Sequence[CellResult], plan: Plan, console: Console) -> None:
    """Print the result table, each cell that has failed, with its reason, and how many are missing."""
    console.print(result_table(results, plan.axes))
    failed = [result for result in results if result.state == "failed" and result.outcome]
    for result in failed[:MOST_ROWS]:
        assert result.outcome is not None
        console.print(
            f"{result.cell.name}: failed: {result.outcome.error}; its log: {result.outcome.log}", soft_wrap=True
        )
    if len(failed) > MOST_ROWS:
        console.print(f"{len(failed) - MOST_ROWS:,} more cells have failed", soft_wrap=True)
    missing = sum(result.state != "complete" for result in results) - len(failed)
    if missing:
        console.print(f"{missing:,} of {len(results):,} cells {'is' if missing == 1 else 'are'} not done")


def result_table(results: Sequence[CellResult], axes: Sequence[str]) -> Table:
    """A row for each cell or, where these are many, for each condition with the range over its seeds."""
    keys = [key for key in axes if len({getattr(result.cell.settings, key) for result in results}) > 1]
    if len(results) > MOST_ROWS:
        return _condition_table(results, [key for key in keys if key != "seed"])
    table = _table(keys)
    for name in ("best epoch", "val. acc.", "test acc.", "test loss", "majority"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("ended", no_wrap=True)
    for result in results:
        table.add_row(*_words(keys, result.cell.settings), *_scores(result))
    return table


def _words(keys: Iterable[str], settings: Settings) -> list[Text]:
    """The settings' values, which shrink before the numbers do on a narrow terminal."""
    return [Text(value_in_words(key, getattr(settings, key)), no_wrap=True, overflow="ellipsis") for key in keys]


def _table(keys: Iterable[str]) -> Table:
    table = Table(box=None, header_style="bold", padding=(0, 1, 0, 0))
    for key in keys:
        table.add_column(Text(short_name(key), no_wrap=True, overflow="ellipsis"))
    return table


def _scores(result: CellResult) -> list[str]:
    chosen, last = result.chosen, result.last
    # The table is printed at the end of a run, when nothing trains any more.
    ended: str = result.stop_reason or ("interrupted" if result.state == "running" else result.state)
    if result.stop_reason == "cut":
        ended = "pruned"
    if result.state == "failed" and result.outcome is not None and result.outcome.error:
        ended = f"failed: {result.outcome.error[:60]}"
    if last is None or chosen is None:
        return ["" if last is None else f"none of {last.epoch}", "", "", "", "", ended]
    return [
        f"{chosen.epoch} of {last.epoch}",
        f"{chosen.validation[ACCURACY.name]:.3f}",
        *("" if (score := chosen.test_score(metric.name)) is None else f"{score:.3f}" for metric in (ACCURACY, LOSS)),
        f"{last.majority_share:.0%}",
        ended,
    ]


def _condition_table(results: Sequence[CellResult], keys: Sequence[str]) -> Table:
    conditions: dict[tuple[str, ...], list[CellResult]] = {}
    for result in results:
        condition = tuple(value_in_words(key, getattr(result.cell.settings, key)) for key in keys)
        conditions.setdefault(condition, []).append(result)
    table = _table(keys)
    for name in ("seeds", "val. acc.", "test acc. (lowest–highest)", "test loss (lowest–highest)"):
        table.add_column(name, justify="right", no_wrap=True)
    for condition, group in conditions.items():
        chosen = [result.chosen for result in group if result.state == "complete" and result.chosen is not None]
        accuracy = [epoch.validation[ACCURACY.name] for epoch in chosen]
        tests = [epoch.test for epoch in chosen if epoch.test is not None]
        table.add_row(
            *(Text(word, no_wrap=True, overflow="ellipsis") for word in condition),
            f"{len(chosen)} of {len(group)}",
            f"{fmean(accuracy):.3f}" if accuracy else "",
            *(_mean_and_range([scores[metric.name] for scores in tests]) for metric in (ACCURACY, LOSS)),
        )
    return table


def _mean_and_range(values: Sequence[float]) -> str:
    return f"{fmean(values):.3f} ({min(values):.3f}–{max(values):.3f})" if values else ""


def value_in_words(key: str, value: object) -> str:
    """A setting's value in words, without its name, which heads the column."""
    if key == "early_stopping" and value is None:
        return "none"
    return label(key, value).removeprefix(f"{key} ")


def axis_values(space: Space, plan: Plan) -> dict[str, list[str]]:
    """The values of each axis in words, in the plan's order; of a search, all that it may choose."""
    if not space.searching:
        return {
            key: list(dict.fromkeys(value_in_words(key, getattr(cell.settings, key)) for cell in plan.cells))
            for key in plan.axes
        }
    return {
        axis.name: [str(axis.range)]
        if axis.range
        else [
            " and ".join(value_in_words(key, setting_type(key).validate_python(raw)) for key, raw in value.items())
            for value in axis.values
        ]
        for axis in space.axes
    }
