"""What a run says and does at its end: results, report, the mirror's last look, and the command that resumes it.

The driver ends with it, and in its place the process that started it, where the driver died (study/supervision.py). So
nothing here imports Ray or torch.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from rich.console import Console

from study.errors import StudyError, TrackingError
from study.plan.cell_results import cell_results, unfinished
from study.plan.plan import read_plan
from study.settings import Search
from study.space.recorded import read_recorded
from study.storage import StudyFolder
from study.terminal.stream import open_console
from study.terminal.summary import best_lines, print_results
from study.tracking.background import BackgroundMirror, mirror_in_background

# How long the lock of a driver that died may take to be free: on NFS, the server has to hear of it.
FREE_WITHIN_SECONDS = 10


def print_ending(
    folder: StudyFolder,
    search: Search,
    mirroring: BackgroundMirror,
    console: Console,
    *,
    write_report: Callable[[Path], Path],
) -> bool:
    """Print the results of a study that nobody trains any longer, and report on it; returns whether all is done.

    ``write_report`` writes the report of a study's folder and returns its path.
    """
    plan = read_plan(folder)
    assert plan is not None, f"{folder.path} holds no plan"
    results = cell_results(folder, plan)
    print_results(results, plan, console)
    for line in best_lines(search, plan, results):
        console.print(line, soft_wrap=True)
    _report(folder, mirroring, write_report, console)
    _print_places(folder, mirroring, console)
    return not plan.open and not unfinished(plan, results, pruning=search.scheduler is not None)


def print_resume(resume: str, console: Console) -> None:
    """Print the command that resumes a study."""
    console.print(f"to resume:  {resume}", soft_wrap=True)


def say_last_words(
    folder: StudyFolder,
    tracking_uri: str | None,
    cause: str,
    *,
    resume: str,
    write_report: Callable[[Path], Path],
) -> None:
    """End a run in place of its driver, which died of ``cause``: it had written what it trained, and no more."""
    console = open_console()
    console.show_cursor()  # which the driver's table hides
    console.print(f"\n{cause}; what was trained is kept", soft_wrap=True)
    try:
        with folder.run_lock(wait=FREE_WITHIN_SECONDS):
            if folder.manifest() is not None:
                console.print("mirroring to MLflow …")
                with mirror_in_background(folder, tracking_uri) as mirroring:
                    pass
                search = read_recorded(folder.space_file).search
                print_ending(folder, search, mirroring, console, write_report=write_report)
    except (Exception, KeyboardInterrupt) as error:  # whatever it is, the study can be resumed
        console.print(str(error) if isinstance(error, StudyError) else f"{type(error).__name__}: {error}")
    print_resume(resume, console)


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
