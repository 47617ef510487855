"""What to run next: one command for all that is undetermined, separate studies apart, and what each would cost."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from analysis.answer import UNDETERMINED, Answer, Command
from analysis.evidence.next_commands import run_with, set_options
from analysis.results import Results
from analysis.trajectory_results import TrajectoryResult
from study.errors import SpaceError
from study.plan.cell_results import CellResult, cell_result, unfinished
from study.plan.plan import Plan, Trajectory, make_plan
from study.records import Record, TrajectoryRecords
from study.search.budget import search_budgets
from study.space.reader import read_kept
from study.space.space import Space
from study.storage import StudyFolder

# The option that lists the axes of which each value gets a search of its own.
PER = "search.per"
# A question and a command that is proposed for it.
Proposal = tuple[str, Command]


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """What a command would train.

    ``seconds`` is measured: what this study's runs took per example; None where none has trained. ``open`` says that a
    search will choose more. ``devices`` are those that the study was trained on.
    """

    trajectories: int
    optimizer_steps: int
    examples: int
    seconds: float | None
    devices: tuple[str, ...]
    open: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class NextRun:
    """A command with the questions that it serves, each with what it does for it, and what it would train.

    ``work`` is None where that cannot be planned from what the study has recorded.
    """

    command: Command
    purposes: tuple[tuple[str, str], ...]
    work: Work | None

    @property
    def separate(self) -> bool:
        """Whether it starts a study of its own."""
        return "name" in self.command.overrides


def next_runs(results: Results, answers: Iterable[Answer]) -> list[NextRun]:
    """The commands for all undetermined answers: one that extends the study, and those of separate studies."""
    proposals = [
        (answer.question, command)
        for answer in answers
        if answer.verdict == UNDETERMINED
        for command in answer.next_commands
    ]
    groups: dict[str, list[Proposal]] = {}
    for question, command in proposals:
        groups.setdefault(command.overrides.get("name", ""), []).append((question, command))
    # The study itself first.
    runs = [run for name in sorted(groups) for run in _merge_all(results, groups[name])]
    return [run for run in runs if run.work is None or run.work.trajectories or run.work.open]


def _merge_all(results: Results, proposals: Sequence[Proposal]) -> list[NextRun]:
    """Proposals for one study, merged; those that contradict those before them stay apart."""
    merged: list[tuple[Command, list[Proposal]]] = []
    for question, command in proposals:
        for position, (earlier, members) in enumerate(merged):
            if (joined := _join(results, earlier, command)) is not None:
                merged[position] = (joined, [*members, (question, command)])
                break
        else:
            merged.append((command, [(question, command)]))
    runs = []
    for command, members in merged:
        run = _next_run(results, command, members)
        if run is not None:
            runs.append(run)
        else:  # together they make a space that is refused, such as one with too many combinations
            alone = [_next_run(results, member, [(question, member)]) for question, member in members]
            runs += [run for run in alone if run is not None]
    return runs


def _next_run(results: Results, command: Command, members: Sequence[Proposal]) -> NextRun | None:
    """A command for its questions; None for one that would be refused."""
    purposes = dict.fromkeys((question, member.purpose) for question, member in members)
    try:
        return NextRun(command=command, purposes=tuple(purposes), work=planned_work(results, command))
    except SpaceError:
        return None


def _join(results: Results, first: Command, second: Command) -> Command | None:
    """One command that does what both do; None where they contradict each other."""
    added: dict[str, list[Any]] = {key: list(values) for key, values in first.added.items()}
    for key, values in second.added.items():
        present = added.setdefault(key, [])
        present += [value for value in values if value not in present]
    overrides = dict(first.overrides)
    for key, value in second.overrides.items():
        if key == PER and key in overrides:
            overrides[key] = _join_lists(overrides[key], value)
        elif overrides.setdefault(key, value) != value:
            return None
    return run_with(results, first.purpose, overrides, added)


def _join_lists(first: str, second: str) -> str:
    """Two lists of words in one, as a space file writes them."""
    words = [word for text in (first, second) for word in text.strip("[]").split(", ")]
    return f"[{', '.join(dict.fromkeys(words))}]"


def planned_work(results: Results, command: Command) -> Work | None:
    """What a command would train, as the planner says and ``--dry-run`` prints it.

    None where the study has not recorded enough to plan it. Raises SpaceError for a command that the reader refuses.
    """
    space = _space(results, command)
    if space is None:
        return None
    separate = "name" in command.overrides
    plan = make_plan(space, () if separate else results.plan.trials)
    cells = _cell_results(results, plan, separate=separate)
    left = unfinished(plan, cells, pruning=space.search.scheduler is not None)
    outcomes = [run.outcome for run in results.runs if run.outcome is not None]
    return Work(
        trajectories=len(left),
        optimizer_steps=sum(trajectory.optimizer_steps for trajectory in left),
        examples=sum(trajectory.examples for trajectory in left),
        seconds=_seconds(results, left),
        devices=tuple(dict.fromkeys(outcome.device for outcome in outcomes if outcome.device)),
        open=space.searching and any(budget.open for budget in search_budgets(space, plan, cells)),
    )


def _space(results: Results, command: Command) -> Space | None:
    """The space that the command reads, by what the study has recorded; None where that lacks data or space file."""
    if not results.space.document or not results.manifest.data:
        return None
    options = set_options(results, command.overrides, command.added)
    return read_kept(results.space.document, results.manifest, set=options)


def _cell_results(results: Results, plan: Plan, *, separate: bool) -> list[CellResult]:
    """Where every cell of the plan stands; also those that were trained before and are not in the study's plan."""
    records: dict[str, TrajectoryRecords] = {}
    if not separate:
        for run in results.runs:
            history: list[Record] = [*run.intervals, *run.epochs]
            records[run.trajectory.id] = TrajectoryRecords(history=history, outcome=run.outcome)
        for trajectory in plan.trajectories:
            if results.folder is not None and trajectory.id not in records:
                records[trajectory.id] = StudyFolder(results.folder).trajectory(trajectory.id).read()
    owners, none = plan.owners, TrajectoryRecords()
    return [
        cell_result(cell, owner=owners[cell.trajectory], records=records.get(cell.trajectory, none))
        for cell in plan.cells
    ]


def _seconds(results: Results, trajectories: Sequence[Trajectory]) -> float | None:
    """How long the trajectories would train, at the speed of the most similar runs of the study; None without any."""
    trained = [run for run in results.runs if run.epochs]
    if not trained:
        return None
    examples: Counter[tuple[str, int]] = Counter()
    for trajectory in trajectories:
        examples[trajectory.settings.model, trajectory.settings.batch_size] += trajectory.examples
    return sum(_seconds_per_example(trained, *kind) * total for kind, total in examples.items())


def _seconds_per_example(trained: Sequence[TrajectoryResult], model: str, batch_size: int) -> float:
    """The mean over the runs of the same model and batch size; else of the same model, else over all."""
    of_model = [run for run in trained if run.settings.model == model]
    same = [run for run in of_model if run.settings.batch_size == batch_size]
    runs = same or of_model or trained
    return sum(run.train_seconds for run in runs) / sum(run.epochs[-1].examples_seen for run in runs)
