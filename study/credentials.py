"""Removes passwords and tokens from text that is printed, stored or sent."""

from __future__ import annotations

import ctypes
import os
import re
import sys
from pathlib import Path

SECRET_KEYS = "password|passwd|pwd|token|secret|key|sig|auth|credential"


def without_credentials(text: str) -> str:
    """``text`` without the ``user:password@`` of its URLs and without the values of secret keys in their queries.

    A slash, a quotation mark and an @ are not allowed in a URL's password, but occur there.
    """
    text = re.sub(r"(?<=://)([^/:@\s'\"]*:\S*|[^/\s'\"]*)@", "", text)
    return re.sub(rf"(?i)([?&;#][\w-]*(?:{SECRET_KEYS})[\w-]*=)[^&;\s'\"]+", r"\1***", text)


def hide_command_line() -> None:
    """Take the credentials out of this process's command line, which others see in ``ps`` and on Ray's dashboard.

    Only Linux says where it lies in memory (proc(5), "/proc/pid/stat": arg_start and arg_end).
    """
    shown = [without_credentials(word) for word in sys.orig_argv]
    status = Path("/proc/self/stat")
    if shown == sys.orig_argv or not status.exists():
        return
    start, end = map(int, status.read_text().rpartition(")")[2].split()[45:47])
    text = b"\0".join(map(os.fsencode, shown))
    ctypes.memmove(start, text[: end - start].ljust(end - start, b"\0"), end - start)
