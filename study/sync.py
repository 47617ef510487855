"""Brings MLflow up to date with a study's folder, for when the server was away: python -m study.sync STUDY."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from study.execution.manifest import StudyError, alone
from study.records import StudyFolder
from study.run import Parser, add_tracking_uri


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns 0 when MLflow holds everything, 1 when it could not be reached, 2 for no study."""
    parser = Parser(prog="python -m study.sync", description=__doc__)
    parser.add_argument("study", metavar="STUDY", help="the study's folder")
    add_tracking_uri(parser)
    given = parser.parse_args(arguments)
    folder = StudyFolder(Path(given.study))
    manifest = folder.manifest()
    if manifest is None:
        print(f"{given.study} holds no study", file=sys.stderr)
        return 2
    from study.tracking.mirror import Mirror, TrackingError

    try:
        mirror = Mirror(folder, tracking_uri=given.tracking_uri or manifest["tracking"])
        try:
            with alone(folder):
                mirror.finish()
        except StudyError:  # somebody runs it
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
