"""How does a plan become results: what is done in which order, and what is a person told?"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from study.cells import cell_results, unfinished
from study.cluster import check_resources, check_shared, connect, disconnect, measured_precision, most_gpus
from study.contents import without_credentials
from study.manifest import Options, StudyError, describe, remember_precision
from study.plan import Plan, Trajectory
from study.preparation import prepare_models, write_configs
from study.progress import Progress
from study.records import StudyFolder
from study.settings import Run
from study.sharing import first_of_each_kind, kind, side_by_side
from study.signals import Interrupted, Signals
from study.space import Space
from study.summary import print_results
from study.tracking import Mirror, Mirroring, TrackingError
from study.tuner import train

# A file has no width that a table would have to keep within.
WIDTH_OF_A_LOG = 240


def run(space: Space, plan: Plan, folder: StudyFolder, storage: Path, options: Options) -> int:
    """Train what is left of ``plan`` in ``folder`` and mirror it; returns the exit code of :mod:`study.run`.

    Raises StudyError, before anything is trained, for what the user has to mend.
    """
    console = Console(highlight=False, markup=False)
    if not console.is_terminal:
        console.width = WIDTH_OF_A_LOG
    left = unfinished(plan, cell_results(folder, plan))
    console.print(
        f"study {plan.study}: {len(plan.cells):,} cells in {len(plan.trajectories):,} trajectories, "
        f"{len(plan.trajectories) - len(left):,} of them done"
    )
    stopped = False
    with Signals(folder, console.print) as signals:
        encoded = _encoded(space, left, storage / ".encoded", console)
        describe(folder, space, plan, tracking_uri=without_credentials(options.tracking_uri or "") or None)
        mirroring = _mirroring(folder, options)
        with mirroring:
            try:
                if left:
                    _train(space, plan, folder, left, encoded, options, signals, console)
            except (Interrupted, KeyboardInterrupt):
                stopped = True
                console.print(f"stopped by {signals.received or 'a signal'}; what was trained is kept")
            finally:
                disconnect()
                console.print("mirroring to MLflow …")
    results = cell_results(folder, plan)
    print_results(results, plan, folder, console)
    _report(folder, mirroring, console)
    if mirroring.error:
        console.print(f"MLflow does not show everything yet: {mirroring.error}", soft_wrap=True)
        console.print(f"  once it can be reached:  python -m study.sync {folder.path}", soft_wrap=True)
    console.print(f"MLflow UI:  {mirroring.mirror.ui_command}", soft_wrap=True)
    console.print(f"results:    {folder.path}", soft_wrap=True)
    if stopped or unfinished(plan, results):
        console.print(f"to go on:   {options.again}", soft_wrap=True)
        return 1
    return 0


def _report(folder: StudyFolder, mirroring: Mirroring, console: Console) -> None:
    """Write the report and mirror it. It comes on top: whatever goes wrong with it, the run stands as it is."""
    try:
        from analysis.report import write_report_of

        console.print(f"report:     {write_report_of(folder.path)}", soft_wrap=True)
        if not mirroring.error:
            mirroring.mirror.finish()
    except (Exception, KeyboardInterrupt) as error:
        console.print(f"no report was written ({type(error).__name__}: {error})", soft_wrap=True)
        console.print(f"  to try again:  python -m analysis.report {folder.path}", soft_wrap=True)


def _encoded(space: Space, left: Sequence[Trajectory], cache: Path, console: Console) -> dict[str, Path]:
    models = list(dict.fromkeys(trajectory.settings["model"] for trajectory in left))
    if models:
        console.print(f"preparing {space.examples:,} examples for {', '.join(models)} …")
    try:
        return prepare_models(space, models, cache=cache)
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
        console.print(f"Ray dashboard: {cluster.dashboard}  (token: ray get-auth-token)")
    sharing_gpus = space.run.gpu is None and most_gpus() > 0
    run = space.run if space.run.gpu is not None else space.run.model_copy(update={"gpu": float(sharing_gpus)})
    if warning := check_resources(run, cluster):
        console.print(warning)
    check_shared(folder)
    manifest = folder.manifest() or {}
    precision = manifest.get("precision")
    if precision is None and any(trajectory.settings["precision"] == "auto" for trajectory in left):
        precision = measured_precision(run)
        remember_precision(folder, precision)
    write_configs(folder, plan, left, space=space, encoded=encoded, auto_precision=precision or "float32")
    with Progress(left, console) as progress:
        if sharing_gpus:
            _train_sharing(plan, folder, left, run, progress, signals)
        else:
            train(folder, left, run, progress, signals)


def _train_sharing(
    plan: Plan, folder: StudyFolder, left: Sequence[Trajectory], run: Run, progress: Progress, signals: Signals
) -> None:
    """Train with as many trajectories to a GPU as those were seen to need that had one to themselves."""
    known = {kind(one): number for one in plan.trajectories if (number := _seen(folder, one)) is not None}
    measured = first_of_each_kind(left, known)
    if measured:
        train(folder, measured, run, progress, signals)
        known |= {kind(one): number for one in measured if (number := _seen(folder, one)) is not None}
    done = {trajectory.id for trajectory in measured}
    rest = [trajectory for trajectory in left if trajectory.id not in done]
    if rest:
        gpus = {trajectory.id: 1 / known.get(kind(trajectory), 1) for trajectory in rest}
        train(folder, rest, run, progress, signals, gpus)


def _seen(folder: StudyFolder, trajectory: Trajectory) -> int | None:
    outcome = folder.trajectory(trajectory.id).outcome()
    return side_by_side(outcome) if outcome is not None else None
