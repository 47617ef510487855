"""One run of a study, from its plan to its results: preparation, training, mirroring, report."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from study.credentials import without_credentials
from study.errors import StudyError
from study.execution.cluster import NO_TOKEN, connect, disconnect, needs_no_token
from study.execution.ending import print_ending, print_resume
from study.execution.execution import Execution
from study.execution.interruption import Interrupted, InterruptHandler
from study.execution.manifest import write_study
from study.execution.preparation import prepare_models
from study.locks import Lease
from study.plan.cell_results import cell_results, unfinished
from study.plan.plan import Plan, Trajectory
from study.space.space import Space
from study.storage import Storage, StudyFolder
from study.terminal.stream import open_console
from study.terminal.summary import budget_lines
from study.tracking.background import mirror_in_background


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How a study is run this time; ``resume`` is the command that continues it."""

    address: str | None = None
    tracking_uri: str | None = None
    dashboard: bool = True
    verbose: bool = False
    resume: str = ""


def run(
    space: Space,
    plan: Plan,
    folder: StudyFolder,
    storage: Storage,
    options: Options,
    *,
    lease: Lease,
    write_report: Callable[[Path], Path],
) -> int:
    """Train what is left of ``plan`` in ``folder``, mirror it, and report on it; returns the exit code of study.run.

    ``write_report`` writes the report of a study's folder and returns its path, ``lease`` is that of the run lock.
    Raises LockLostError where another process takes over, and StudyError, before anything is trained, for what the user
    has to fix.
    """
    console = open_console()
    results = cell_results(folder, plan)
    left = unfinished(plan, results, pruning=space.search.scheduler is not None)
    console.print(f"study {plan.study}: {_size(plan, left)}")
    if space.searching:
        console.print("\n".join(budget_lines(space, plan, results)), soft_wrap=True)
    stopped = False
    with InterruptHandler(folder, lease, console.print) as interrupts:
        encoded = _encode(space, plan, left, storage, console)
        write_study(folder, space, plan, tracking_uri=without_credentials(options.tracking_uri or "") or None)
        with mirror_in_background(folder, options.tracking_uri) as mirroring:
            try:
                if left or plan.open:
                    _train(space, plan, left, folder, encoded, options, interrupts, console)
            except (Interrupted, KeyboardInterrupt):
                stopped = True
                console.print(f"stopped by {interrupts.received or 'a signal'}; what was trained is kept")
            finally:
                disconnect()
                console.print("mirroring to MLflow …")
    if print_ending(folder, space.search, mirroring, console, write_report=write_report) and not stopped:
        return 0
    print_resume(options.resume, console)
    return 1


def _size(plan: Plan, left: Sequence[Trajectory]) -> str:
    if not plan.cells:
        return "a search that has not chosen anything yet"
    done = len(plan.trajectories) - len(left)
    return f"{len(plan.cells):,} cells in {len(plan.trajectories):,} trajectories, {done:,} of them done"


def _encode(
    space: Space, plan: Plan, left: Sequence[Trajectory], storage: Storage, console: Console
) -> dict[str, Path]:
    """Encode the data for all models that may be trained. Raises StudyError for data or models that cannot be used."""
    # A search that is resumed may try another model with the budget that a trial returns by stopping early.
    choosing = plan.open or (bool(left) and space.search.method != "grid")
    models = space.models if choosing else tuple(dict.fromkeys(trajectory.settings.model for trajectory in left))
    if models:
        console.print(f"preparing {space.examples:,} examples for {', '.join(models)} …")
    try:
        return prepare_models(space, models, cache=storage.encoded)
    except ValueError as error:
        raise StudyError(str(error)) from error


def _train(
    space: Space,
    plan: Plan,
    left: Sequence[Trajectory],
    folder: StudyFolder,
    encoded: Mapping[str, Path],
    options: Options,
    interrupts: InterruptHandler,
    console: Console,
) -> None:
    cluster = connect(options.address, verbose=options.verbose, dashboard=options.dashboard)
    interrupts.install()
    if cluster.dashboard:
        ray = Path(sys.executable).with_name("ray")
        console.print(f"Ray dashboard: {cluster.dashboard}  (token: {ray} get-auth-token)")
    if needs_no_token(cluster):
        console.print(f"warning: the Ray at {options.address} {NO_TOKEN}", soft_wrap=True)
    Execution(
        space, plan, left, folder, encoded=encoded, cluster=cluster, interrupts=interrupts, console=console
    ).train()
