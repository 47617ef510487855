"""Another Python process that does something and waits."""

import contextlib
import subprocess
import sys
from collections.abc import Iterator

from places import ROOT


@contextlib.contextmanager
def other_process(code: str, *arguments: object) -> Iterator[subprocess.Popen[str]]:
    """A process that runs ``code`` to its first printed line, and waits; it ends with the block."""
    command = [sys.executable, "-c", f"{code}\nprint('ready', flush=True); sys.stdin.read()", *map(str, arguments)]
    process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        yield process
    finally:
        process.kill()
        process.communicate()
