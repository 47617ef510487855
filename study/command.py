"""Runs a study: reads its space, trains what is left of it, mirrors it to MLflow, and writes its report.

Exit codes: 0 all cells are done; 1 interrupted, or some cells failed (each is named) or are missing; 2 invalid input,
or the disk is full; 75 the process that drives the study died, as it does when the head of its cluster is lost or
memory runs out: the same command again resumes the study.
"""

from __future__ import annotations

import argparse
import errno
import shlex
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from study.cli import Parser, add_tracking_uri, print_text, python_command, shown_path
from study.credentials import without_credentials
from study.errors import SpaceError, StudyError
from study.execution.growth import find_plan
from study.plan.cell_results import CellResult, cell_results
from study.plan.gpu_speeds import GPUS, Gpu, gpu_named
from study.plan.plan import Plan
from study.space.reader import read
from study.space.space import Space
from study.storage import Storage, StudyFolder
from study.terminal.gpu_cost import describe_cluster_hours, describe_gpu_hours
from study.terminal.summary import describe_plan

# A full disk, or a full quota.
NO_SPACE = (errno.ENOSPC, errno.EDQUOT)


@dataclass(frozen=True, slots=True, kw_only=True)
class Begun:
    """What the process that drives a study tells the one that waits for it, once it holds the run lock."""

    folder: StudyFolder
    tracking_uri: str | None


def parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = Parser(
        prog="python -m study.run",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--space", required=True, metavar="FILE", help="the space file, such as search_spaces/paper.yaml")
    add("--set", action="append", default=[], metavar="KEY=VALUE", help="override a setting, data.KEY, run.KEY, "
        "search.KEY or name; a list or a range becomes an axis; may be repeated")  # fmt: skip
    add("--only", action="append", default=[], metavar="AXIS=VALUE[,VALUE]", help="restrict an axis to these values; "
        "may be repeated")  # fmt: skip
    add("--data", metavar="FILE", help="read the data from a .parquet, .csv or .jsonl file")
    add("--dry-run", action="store_true", help="print what would be trained, and train nothing")
    add("--pilot", metavar="STUDY", help="with --dry-run: an earlier study's folder, whose seeds and failures say what "
        "this one can show")  # fmt: skip
    add("--device", type=_gpu, metavar="NAME", help="with --dry-run: count GPU hours on this GPU, "
        f"{', '.join(gpu.name for gpu in GPUS)} (default: on those of the cluster at --address)")  # fmt: skip
    add("--storage", default="studies", metavar="FOLDER", help="where studies are kept; on a cluster, a folder that "
        "all nodes share (default: %(default)s)")  # fmt: skip
    add("--fresh", action="store_true", help="start over in a new folder beside the study's")
    add("--wait-lock", type=float, default=180, metavar="SECONDS", help="how long to wait for another process that "
        "runs the study (default: %(default)s)")  # fmt: skip
    add("--address", metavar="HOST:PORT", help="a running Ray cluster, or auto (default: start Ray on this machine)")
    add_tracking_uri(parser)
    add("--no-dashboard", action="store_false", dest="dashboard", help="start Ray without its dashboard, which is "
        "faster on a small machine")  # fmt: skip
    add("-v", "--verbose", action="store_true", help="also show Ray's log")
    return parser


def main(arguments: Sequence[str] | None = None, *, tell: Callable[[Begun], object] = lambda begun: None) -> int:
    """Run the command line in this process; returns the exit code. ``tell`` is called once the study is locked."""
    command_line = parser()
    given = command_line.parse_args(arguments)
    if given.pilot is not None and not given.dry_run:
        command_line.error("--pilot is only for --dry-run: it says what the study can show, and changes no training")
    if given.device is not None and not given.dry_run:
        command_line.error("--device is only for --dry-run: a study trains on the GPUs of its cluster")
    try:
        space = read(given.space, set=given.set, only=given.only, data=given.data)
        storage = Storage.locate(given.storage)
        if not given.dry_run:
            storage.create()
        folder = storage.study(space.name, fresh=given.fresh)
        if given.dry_run:
            plan = find_plan(folder, space)
            results = cell_results(folder, plan)
            summary = describe_plan(space, plan, results, shown_path(folder.path))
            hours = _describe_gpu_hours(space, plan, results, given)
            print_text("\n".join(filter(None, [summary, hours, _describe_power(space, plan, given.pilot)])))
            return 0
        with folder.run_lock(wait=given.wait_lock, tell=_say) as lease:
            tell(Begun(folder=folder, tracking_uri=given.tracking_uri))
            # These import torch, Ray, MLflow and matplotlib, which an invalid input need not wait for.
            from study.execution.driver import Options, run

            plan = find_plan(folder, space)
            options = Options(
                address=given.address,
                tracking_uri=given.tracking_uri,
                dashboard=given.dashboard,
                verbose=given.verbose,
                resume=resume_command(),
            )
            return run(space, plan, folder, storage, options, lease=lease, write_report=write_report)
    except (SpaceError, StudyError) as error:
        print(without_credentials(str(error)), file=sys.stderr)
        return 2
    except OSError as error:
        if error.errno not in NO_SPACE:
            raise
        where = f" ({error.filename})" if error.filename else ""
        print(f"no space left on device{where}; free some space, then resume with: {resume_command()}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"\nstopped; what was trained is kept; to resume: {resume_command()}", file=sys.stderr)
        return 1


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def write_report(folder: Path) -> Path:
    """Write the report of the study in ``folder``; what this imports can fail no study that is trained."""
    from analysis.report import write_report_of

    return write_report_of(folder)


def _gpu(name: str) -> Gpu:
    """The GPU of that name. Raises argparse's error for an unknown one."""
    try:
        return gpu_named(name)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _describe_gpu_hours(space: Space, plan: Plan, results: Sequence[CellResult], given: argparse.Namespace) -> str:
    """GPU hours on the device that is given, or on the cluster's GPUs; empty where there is neither."""
    if given.device is not None:
        return describe_gpu_hours(space, plan, results, given.device)
    if given.address is None or space.run.gpu == 0:
        return ""
    from study.execution.gpu_types import cluster_gpu_types  # imports Ray

    return describe_cluster_hours(space, plan, results, cluster_gpu_types(given.address, verbose=given.verbose))


def _describe_power(space: Space, plan: Plan, pilot: str | None) -> str:
    """What the study can show; only a dry run imports it."""
    from analysis.design import describe_power

    return describe_power(space, plan, Path(pilot) if pilot is not None else None)


def resume_command() -> str:
    """The command that resumes the study: this one, without ``--fresh`` and without credentials."""
    words = [without_credentials(word) for word in sys.argv[1:] if word != "--fresh"]
    return shlex.join([python_command(), "-m", "study.run", *words])
