"""Brings MLflow up to date with a study's folder, for when the server was away: python -m study.sync STUDY."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from study.cli import Parser, add_tracking_uri
from study.errors import StudyError, TrackingError
from study.storage import StudyFolder


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns 0 when MLflow is up to date, 1 when it cannot be reached, 2 for invalid input."""
    parser = Parser(prog="python -m study.sync", description=__doc__)
    parser.add_argument("study", metavar="STUDY", help="the study's folder")
    add_tracking_uri(parser)
    given = parser.parse_args(arguments)
    folder = StudyFolder(Path(given.study))
    try:
        manifest = folder.manifest()
        if manifest is None:
            raise StudyError(f"{given.study} is not a study's folder: it has no study.json")
        from study.tracking.mirror import Mirror

        mirror = Mirror(folder, tracking_uri=given.tracking_uri or manifest.tracking)
        try:
            with folder.run_lock():
                mirror.finish()
        except StudyError:  # it is being run
            mirror.sync()
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    except TrackingError as error:
        print(f"MLflow could not be brought up to date: {error}", file=sys.stderr)
        return 1
    print(f"MLflow UI: {mirror.ui_command}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
