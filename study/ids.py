"""Identifiers by content: the same for equal content on every machine."""

from __future__ import annotations

import hashlib
import json


def stable_id(content: object) -> str:
    """Twelve hexadecimal digits of the SHA-256 of JSON ``content``; the order of keys does not matter."""
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:12]
