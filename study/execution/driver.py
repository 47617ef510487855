"""How does a plan become results: what is done in which order, and what is a person told?"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TextIO, cast

from rich.console import Console

from study.execution.cluster import check_resources, check_shared, connect, disconnect, measured_precision, most_gpus
from study.execution.gpu_sharing import Kind, first_of_each_kind, kind, side_by_side
from study.execution.interruption import Interrupted, Signals
from study.execution.manifest import Options, StudyError, describe, remember_precision
from study.execution.preparation import prepare_models, write_configs
from study.execution.trial_schedulers import PerGroup, groups
from study.execution.tuner import train
from study.plan.cell_results import cell_results, unfinished
from study.plan.plan import Plan, Trajectory, from_json
from study.records import StudyFolder
from study.search.optuna_search import Search
from study.search.trajectory_queue import Queue
from study.space.reader import Space
from study.terminal.progress import Lasting, Progress
from study.terminal.summary import best_lines, budget_lines, print_results
from study.tracking.mirror import Mirror, Mirroring, TrackingError
from study.tracking.run_contents import without_credentials

# A file has no width that a table would have to keep within.
WIDTH_OF_A_LOG = 240


def run(space: Space, plan: Plan, folder: StudyFolder, storage: Path, options: Options) -> int:
    """Train what is left of ``plan`` in ``folder`` and mirror it; returns the exit code of :mod:`study.run`.

    Raises StudyError, before anything is trained, for what the user has to mend.
    """
    console = Console(highlight=False, markup=False, file=cast("TextIO", Lasting(sys.stdout)))
    if not console.is_terminal:
        console.width = WIDTH_OF_A_LOG
    cutting = space.search.scheduler is not None
    results = cell_results(folder, plan)
    left = unfinished(plan, results, cutting=cutting)
    held = (
        f"{len(plan.cells):,} cells in {len(plan.trajectories):,} trajectories, "
        f"{len(plan.trajectories) - len(left):,} of them done"
    )
    console.print(f"study {plan.study}: {held if plan.cells else 'a search that has chosen nothing yet'}")
    if space.searching:
        console.print("\n".join(budget_lines(space, plan, results)), soft_wrap=True)
    stopped = False
    with Signals(folder, console.print) as signals:
        models = [model for model in space.identities if model != "data"]
        wanted = models if plan.open else [trajectory.settings["model"] for trajectory in left]
        encoded = _encoded(space, wanted, storage / ".encoded", console)
        describe(folder, space, plan, tracking_uri=without_credentials(options.tracking_uri or "") or None)
        mirroring = _mirroring(folder, options)
        with mirroring:
            try:
                if left or plan.open:
                    _train(space, plan, folder, left, encoded, options, signals, console)
            except (Interrupted, KeyboardInterrupt):
                stopped = True
                console.print(f"stopped by {signals.received or 'a signal'}; what was trained is kept")
            finally:
                disconnect()
                console.print("mirroring to MLflow …")
    plan = from_json(folder.plan() or {})
    results = cell_results(folder, plan)
    print_results(results, plan, folder, console)
    if space.searching:
        console.print("\n".join(best_lines(space, plan, results)), soft_wrap=True)
    _report(folder, mirroring, console)
    if mirroring.error:
        console.print(f"MLflow does not show everything yet: {mirroring.error}", soft_wrap=True)
        console.print(f"  once it can be reached:  python -m study.sync {folder.path}", soft_wrap=True)
    console.print(f"MLflow UI:  {mirroring.mirror.ui_command}", soft_wrap=True)
    console.print(f"results:    {folder.path}", soft_wrap=True)
    if stopped or plan.open or unfinished(plan, results, cutting=cutting):
        console.print(f"to go on:   {options.again}", soft_wrap=True)
        return 1
    return 0


def _report(folder: StudyFolder, mirroring: Mirroring, console: Console) -> None:
    """Write the report and mirror it. It comes on top: whatever goes wrong with it, the run stands as it is."""
    try:
        from analysis.report import write_report_of

        console.print(f"report:     {write_report_of(folder.path)}", soft_wrap=True)
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
            mirroring.error = "interrupted before it had the report"


def _encoded(space: Space, models: Sequence[str], cache: Path, console: Console) -> dict[str, Path]:
    wanted = list(dict.fromkeys(models))
    if wanted:
        console.print(f"preparing {space.examples:,} examples for {', '.join(wanted)} …")
    try:
        return prepare_models(space, wanted, cache=cache)
    except ValueError as error:
        raise StudyError(str(error)) from error


def _mirroring(folder: StudyFolder, options: Options) -> Mirroring:
    try:
        return Mirroring(Mirror(folder, tracking_uri=options.tracking_uri))
    except ValueError as error:
        raise StudyError(str(error)) from error
    except TrackingError as error:
        raise StudyError(f"{folder.path / 'mlflow.db'}: {error}; without the file, it is made again") from error


def _train(
    space: Space,
    plan: Plan,
    folder: StudyFolder,
    left: Sequence[Trajectory],
    encoded: dict[str, Path],
    options: Options,
    signals: Signals,
    console: Console,
) -> None:
    cluster = connect(options.address, verbose=options.verbose)
    signals.take()
    if cluster.dashboard:
        console.print(
            f"Ray dashboard: {cluster.dashboard}  (token: {Path(sys.executable).with_name('ray')} get-auth-token)"
        )
    sharing_gpus = space.run.gpu is None and most_gpus() > 0
    if space.searching and space.search.gpu_hours is not None and space.run.gpu is None and not sharing_gpus:
        raise StudyError("search.gpu_hours counts the hours of GPUs, and no node has one; give trials or examples")
    run = space.run if space.run.gpu is not None else space.run.model_copy(update={"gpu": float(sharing_gpus)})
    if warning := check_resources(run, cluster):
        console.print(warning)
    check_shared(folder)
    precision = (folder.manifest() or {}).get("precision")
    if precision is None and "auto" in _precisions(space, left):
        precision = measured_precision(run)
        remember_precision(folder, precision)

    def lay_out(trajectories: Sequence[Trajectory], gpus: Mapping[str, float] | None = None) -> None:
        precision_ = precision or "float32"
        now = search.plan if search is not None else plan
        write_configs(folder, now, trajectories, space=space, encoded=encoded, auto_precision=precision_, gpus=gpus)

    search = Search(space, plan, folder) if space.searching else None

    def train_some(some: Sequence[Trajectory] | Queue, *, cutting: bool = True) -> None:
        now = _scheduler(space, folder, lambda: search.plan if search is not None else plan) if cutting else None
        train(folder, some, run, progress, signals, scheduler=now)

    begun = {one.id: len(folder.trajectory(one.id).epochs()) for one in left}
    with Progress(left, console, begun=begun, searching=search is not None) as progress:
        if search is not None:

            def begin(trajectory: Trajectory) -> None:
                share = _share(folder, search.plan, trajectory) if sharing_gpus else run.gpu or 0.0
                lay_out([trajectory], {trajectory.id: share})
                progress.add(trajectory)

            train_some(Queue(search, begin))
        elif sharing_gpus:
            # A trajectory that is cut tells nothing of what it used.
            _train_sharing(plan, folder, left, lay_out, lambda some: train_some(some, cutting=False), train_some)
        else:
            lay_out(left)
            train_some(left)


def _precisions(space: Space, left: Sequence[Trajectory]) -> set[str]:
    """The precisions that what is left may be trained with."""
    if space.searching:
        axis = next((axis for axis in space.axes if axis.name == "precision"), None)
        return {value["precision"] for value in axis.values} if axis else {space.fixed["precision"]}
    return {trajectory.settings["precision"] for trajectory in left}


def _scheduler(space: Space, folder: StudyFolder, plan: Callable[[], Plan]) -> PerGroup | None:
    """The trial scheduler, which knows what earlier runs of the study have reported."""
    if space.search.scheduler is None:
        return None
    scheduler = PerGroup(space.search.scheduler, lambda trajectory: groups(plan()).get(trajectory, ""))
    scheduler.remember(folder, plan(), space.search.objective)
    return scheduler


def _train_sharing(
    plan: Plan,
    folder: StudyFolder,
    left: Sequence[Trajectory],
    lay_out: Callable[[Sequence[Trajectory], Mapping[str, float]], None],
    train_alone: Callable[[Sequence[Trajectory]], None],
    train_together: Callable[[Sequence[Trajectory]], None],
) -> None:
    """Train with as many trajectories to a GPU as those were seen to need that had one to themselves."""
    known = _known(folder, plan)
    measured = first_of_each_kind(left, known)
    if measured:
        lay_out(measured, {trajectory.id: 1.0 for trajectory in measured})
        train_alone(measured)
        known |= _known(folder, plan)
    done = {trajectory.id for trajectory in measured}
    rest = [trajectory for trajectory in left if trajectory.id not in done]
    if rest:
        lay_out(rest, {trajectory.id: 1 / known.get(kind(trajectory), 1) for trajectory in rest})
        train_together(rest)


def _share(folder: StudyFolder, plan: Plan, trajectory: Trajectory) -> float:
    """What part of a GPU a trajectory of a search gets, by what others of its kind have used."""
    return 1 / _known(folder, plan).get(kind(trajectory), 1)


def _known(folder: StudyFolder, plan: Plan) -> dict[Kind, int]:
    """How many of each kind fit on one GPU: as measured, and one where its use could not be measured."""
    ended = [(kind(one), folder.trajectory(one.id).outcome()) for one in plan.trajectories]
    measured = {key: number for key, outcome in ended if outcome and (number := side_by_side(outcome)) is not None}
    whole = {key for key, outcome in ended if outcome and outcome.gpus and outcome.stop_reason not in (None, "cut")}
    return dict.fromkeys(whole, 1) | measured
