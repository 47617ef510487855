"""Checks that all nodes of a cluster can train studies in a storage: python -m study.doctor --storage FOLDER.

Each node is asked, all at once, whether it sees the storage and may write there, whether a lock that this process
holds is refused there, when it notices new, changed and removed files, how much space is left, and which code and
GPUs it has. One line for each finding, with what to do about it.

Exit codes: 0 all is well; 1 there are warnings; 2 a node cannot train, the storage would lose records, or the input is
invalid.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from study.cli import Parser
from study.credentials import without_credentials
from study.errors import StudyError
from study.storage import Storage

if TYPE_CHECKING:
    from study.execution.node_findings import Finding


def parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = Parser(
        prog="python -m study.doctor", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--storage", default="studies", metavar="FOLDER", help="where studies are kept (default: %(default)s)")
    add("--address", metavar="HOST:PORT", help="a running Ray cluster, or auto (default: this machine alone)")
    add("--seconds", type=float, default=75, metavar="N", help="how long to wait until nodes notice changed files "
        "(default: %(default)s)")  # fmt: skip
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    given = parser().parse_args(arguments)
    try:
        storage = Storage.locate(given.storage).create()
        from study.execution.checkup import check_cluster, check_machine  # imports Ray

        if given.address is None:
            findings = check_machine(storage.path)
        else:
            findings = check_cluster(storage.path, given.address, seconds=given.seconds)
    except StudyError as error:
        print(without_credentials(str(error)), file=sys.stderr)
        return 2
    for finding in findings:
        print(finding)
    print(_verdict(findings, cluster=given.address is not None))
    return max({"ok": 0, "warning": 1, "error": 2}[finding.level] for finding in findings)


def _verdict(findings: Sequence[Finding], *, cluster: bool) -> str:
    levels = [finding.level for finding in findings]
    where = "all nodes" if cluster else "this machine"
    if any(finding.unsafe for finding in findings):
        return "the storage would lose records; studies are refused"
    if "error" in levels:
        return "some nodes cannot train; studies leave them out" if cluster else "this machine cannot train"
    if "warning" in levels:
        return f"{where} can train; see the warnings"
    alone = "" if cluster else " (give --address HOST:PORT to check a cluster)"
    return f"{where} can train{alone}"


if __name__ == "__main__":
    sys.exit(main())
