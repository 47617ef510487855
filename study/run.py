"""Runs a study, python -m study.run: in a process of its own, so that something is said where that one dies.

What the command is and does stands in study/command.py, which imports much: only the other process does that.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

from study.credentials import hide_command_line
from study.supervision import Death, supervise

if TYPE_CHECKING:
    from study.command import Begun

# EX_TEMPFAIL of sysexits.h: not a failure of the study, and worth another try.
DRIVER_DIED = 75


def run_command() -> int:
    """Run the command line; returns the exit code. Call it before anything that starts a thread is imported."""
    hide_command_line()
    return supervise(_drive, _say_last_words)


def _drive(tell: Callable[[Begun], object]) -> int:
    from study.command import main

    return main(tell=tell)


def _say_last_words(begun: Begun | None, death: Death) -> int:
    """Say how a study stands whose driver has died; returns the exit code."""
    from study.command import resume_command, write_report
    from study.execution.ending import say_last_words

    if begun is None:
        print(f"{_cause(death)}, before it began; to try again: {resume_command()}", file=sys.stderr)
    else:
        say_last_words(
            begun.folder, begun.tracking_uri, _cause(death), resume=resume_command(), write_report=write_report
        )
    return 1 if death.asked else DRIVER_DIED


def _cause(death: Death) -> str:
    """How the driver died, in words."""
    if death.asked:
        return f"stopped by {death.signal}"
    if death.signal is None:
        return f"Ray ended the study's driver (exit code {death.code}), as it does when the head of its cluster is lost"
    if death.signal == "SIGKILL":
        return "the study's driver was killed (SIGKILL), as the system does where memory runs out"
    return f"the study's driver crashed ({death.signal})"


if __name__ == "__main__":
    sys.exit(run_command())
