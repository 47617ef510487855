"""Runs a study: reads its space, trains what is left of it, mirrors it to MLflow.

Exit codes: 0 all cells are done; 1 some failed, each named, or are missing; 2 something that the user has to mend.
"""

from __future__ import annotations

import argparse
import errno
import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from study.execution.manifest import Options, StudyError, alone, find_plan, find_study, storage_folder
from study.plan.cell_results import cell_results
from study.space.diagnostics import SpaceError
from study.space.reader import read
from study.terminal.summary import describe_plan
from study.tracking.run_contents import without_credentials

# A disk, or a user's part of one, that has no room left.
NO_ROOM = (errno.ENOSPC, errno.EDQUOT)


class Parser(argparse.ArgumentParser):
    """Quotes no credentials of an option that it does not know."""

    def error(self, message: str) -> NoReturn:
        """Print usage and message, and exit with 2."""
        super().error(without_credentials(message))


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = Parser(
        prog="python -m study.run",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument("--space", required=True, metavar="FILE", help="the space file, such as search_spaces/paper.yaml")
    made.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="override a setting, data.KEY, "
                      "run.KEY, search.KEY or name; a list or a range becomes an axis; may be repeated")  # fmt: skip
    made.add_argument("--only", action="append", default=[], metavar="AXIS=VALUE[,VALUE]", help="keep these values of "
                      "an axis; may be repeated")  # fmt: skip
    made.add_argument("--data", metavar="FILE", help="read the data from a .parquet, .csv or .jsonl file")
    made.add_argument("--dry-run", action="store_true", help="print what would be trained, and train nothing")
    made.add_argument("--storage", default="studies", metavar="FOLDER", help="where studies are kept; on a cluster, a "
                      "folder that all nodes share (default: %(default)s)")  # fmt: skip
    made.add_argument("--fresh", action="store_true", help="start over in a new folder beside the study's")
    made.add_argument(
        "--address", metavar="HOST:PORT", help="a running Ray cluster, or auto (default: a Ray of its own)"
    )
    add_tracking_uri(made)
    made.add_argument("-v", "--verbose", action="store_true", help="show what Ray prints")
    return made


def add_tracking_uri(parser: argparse.ArgumentParser) -> None:
    """Add ``--tracking-uri``."""
    told = "an MLflow server (default: $MLFLOW_TRACKING_URI, else a sqlite file in the study's folder)"
    default = os.environ.get("MLFLOW_TRACKING_URI")
    parser.add_argument("--tracking-uri", type=_with_scheme, default=default, metavar="URI", help=told)


def _with_scheme(uri: str) -> str:
    """A URI whose credentials can be told from the rest. Raises argparse's error, which does not quote it."""
    if "@" in uri and "://" not in uri:
        raise argparse.ArgumentTypeError("what is before the @ is nothing without its ://, as in http://USER@HOST:PORT")
    return uri


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    given = parser().parse_args(arguments)
    try:
        space = read(given.space, set=given.set, only=given.only, data=given.data)
        storage = Path(given.storage) if given.dry_run and "://" not in given.storage else storage_folder(given.storage)
        folder = find_study(storage, space.name, fresh=given.fresh)
        plan = find_plan(folder, space)
        if given.dry_run:
            return show(describe_plan(space, plan, cell_results(folder, plan), str(folder.path)))
        with alone(folder):
            from study.execution.driver import run  # imports torch, Ray and MLflow, which a fault need not wait for

            return run(space, plan, folder, storage, options(given))
    except (SpaceError, StudyError) as error:
        print(without_credentials(str(error)), file=sys.stderr)
        return 2
    except OSError as error:
        if error.errno not in NO_ROOM:
            raise
        where = f" for {error.filename}" if error.filename else ""
        print(f"there is no room left on the disk{where}; make some, and go on: {again()}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"\nstopped; what was trained is kept; to go on: {again()}", file=sys.stderr)
        return 1


def show(text: str) -> int:
    """Print ``text``; whoever reads it may stop reading, as ``head`` does."""
    try:
        print(text, flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


def options(given: argparse.Namespace) -> Options:
    """What the driver has to know of the command line."""
    return Options(address=given.address, tracking_uri=given.tracking_uri, verbose=given.verbose, again=again())


def again() -> str:
    """The command that goes on with the study: this one, but for ``--fresh`` and for what a URI says in confidence."""
    program = Path(sys.executable)
    shown = str(program.relative_to(Path.cwd())) if program.is_relative_to(Path.cwd()) else str(program)
    words = [without_credentials(word) for word in sys.argv[1:] if word != "--fresh"]
    return shlex.join([shown, "-m", "study.run", *words])


if __name__ == "__main__":
    sys.exit(main())
