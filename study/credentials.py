"""Removes passwords and tokens from text that is printed, stored or sent."""

from __future__ import annotations

import re

SECRET_KEYS = "password|passwd|pwd|token|secret|key|sig|auth|credential"


def without_credentials(text: str) -> str:
    """``text`` without the ``user:password@`` of its URLs and without the values of secret keys in their queries.

    A slash, a quotation mark and an @ are not allowed in a URL's password, but occur there.
    """
    text = re.sub(r"(?<=://)([^/:@\s'\"]*:\S*|[^/\s'\"]*)@", "", text)
    return re.sub(rf"(?i)([?&;#][\w-]*(?:{SECRET_KEYS})[\w-]*=)[^&;\s'\"]+", r"\1***", text)
