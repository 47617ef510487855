"""One run of a study, from its plan to its results: preparation, training, mirroring, report."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO, cast

from rich.console import Console

from study.credentials import without_credentials
from study.errors import StudyError, TrackingError
from study.execution.cluster import connect, disconnect
from study.execution.execution import Execution
from study.execution.interruption import Interrupted, InterruptHandler
from study.execution.manifest import write_study
from study.execution.preparation import prepare_models
from study.locks import Lease
from study.plan.cell_results import cell_results, unfinished
from study.plan.plan import Plan, Trajectory, read_plan
from study.space.space import Space
from study.storage import Storage, StudyFolder
from study.terminal.stream import DetachableStream
from study.terminal.summary import best_lines, budget_lines, print_results
from study.tracking.background import BackgroundMirror
from study.tracking.mirror import Mirror

# The width of the output where it is not a terminal, so that tables are not cut.
LOG_WIDTH = 240


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
    console = Console(highlight=False, markup=False, file=cast("TextIO", DetachableStream(sys.stdout)))
    if not console.is_terminal:
        console.width = LOG_WIDTH
    pruning = space.search.scheduler is not None
    results = cell_results(folder, plan)
    left = unfinished(plan, results, pruning=pruning)
    console.print(f"study {plan.study}: {_size(plan, left)}")
    if space.searching:
        console.print("\n".join(budget_lines(space, plan, results)), soft_wrap=True)
    stopped = False
    with InterruptHandler(folder, lease, console.print) as interrupts:
        encoded = _encode(space, plan, left, storage, console)
        write_study(folder, space, plan, tracking_uri=without_credentials(options.tracking_uri or "") or None)
        mirroring = _mirror(folder, options)
        with mirroring:
            try:
                if left or plan.open:
                    _train(space, plan, left, folder, encoded, options, interrupts, console)
            except (Interrupted, KeyboardInterrupt):
                stopped = True
                console.print(f"stopped by {interrupts.received or 'a signal'}; what was trained is kept")
            finally:
                disconnect()
                console.print("mirroring to MLflow …")
    plan = read_plan(folder) or plan
    results = cell_results(folder, plan)
    print_results(results, plan, console)
    if space.searching:
        console.print("\n".join(best_lines(space, plan, results)), soft_wrap=True)
    _report(folder, mirroring, write_report, console)
    _print_places(folder, mirroring, console)
    if stopped or plan.open or unfinished(plan, results, pruning=pruning):
        console.print(f"to resume:  {options.resume}", soft_wrap=True)
        return 1
    return 0


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


def _mirror(folder: StudyFolder, options: Options) -> BackgroundMirror:
    try:
        return BackgroundMirror(Mirror(folder, tracking_uri=options.tracking_uri))
    except ValueError as error:
        raise StudyError(str(error)) from error
    except TrackingError as error:
        raise StudyError(f"{folder.mlflow_file}: {error}; delete the file, and it is rebuilt from the study") from error


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
    if cluster.open:
        console.print(
            f"warning: the Ray at {options.address} asks for no token, so whoever reaches it can run code on its "
            "nodes; start it with one (README, On a cluster)",
            soft_wrap=True,
        )
    Execution(
        space, plan, left, folder, encoded=encoded, cluster=cluster, interrupts=interrupts, console=console
    ).train()


def _report(
    folder: StudyFolder, mirroring: BackgroundMirror, write_report: Callable[[Path], Path], console: Console
) -> None:
    """Write the report and mirror it. The run stands as it is, whatever goes wrong with the report."""
    try:
        console.print(f"report:     {write_report(folder.path)}", soft_wrap=True)
    except (Exception, KeyboardInterrupt) as error:
        console.print(f"no report was written ({type(error).__name__}: {error})", soft_wrap=True)
        console.print(f"  to try again:  python -m analysis.report {folder.path}", soft_wrap=True)
        return
    if not mirroring.error:
        try:
            mirroring.mirror.finish()
        except TrackingError as error:
            mirroring.error = str(error)
        except KeyboardInterrupt:
            mirroring.error = "interrupted before the report was mirrored"


def _print_places(folder: StudyFolder, mirroring: BackgroundMirror, console: Console) -> None:
    """Where the results can be seen."""
    if mirroring.error:
        console.print(f"MLflow does not show everything yet: {mirroring.error}", soft_wrap=True)
        console.print(f"  once it can be reached:  python -m study.sync {folder.path}", soft_wrap=True)
    console.print(f"MLflow UI:  {mirroring.mirror.ui_command}", soft_wrap=True)
    console.print(f"results:    {folder.path}", soft_wrap=True)
