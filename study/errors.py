"""Errors that a user can fix, and the wording that their messages share."""

from __future__ import annotations

import difflib
import itertools
from collections.abc import Iterable


def printable(text: str) -> str:
    """``text`` on one line, control characters escaped, whatever a file or a command line put into it."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


class SpaceError(ValueError):
    """A space file that cannot be used; as a string, one line per error."""

    def __init__(self, *messages: str) -> None:
        super().__init__("\n".join(map(printable, messages)))


class DamagedRecordWarning(UserWarning):
    """A record on disk cannot be read, and is left out."""


class StudyError(ValueError):
    """A study that cannot be run as asked; the message, on one line, says what to do."""

    def __init__(self, message: str) -> None:
        super().__init__(printable(message))


class NodeError(RuntimeError):
    """A node that cannot train what other nodes may; the message, on one line, says why and what to do."""


class NodeEndsError(RuntimeError):
    """A trajectory's node is about to end: its checkpoint is saved, and it resumes on another node."""


class TrackingError(RuntimeError):
    """MLflow could not be reached or refused a request; the message holds no credentials."""


def quote(value: object) -> str:
    """A value as a message quotes it, at most 60 characters of it."""
    if isinstance(value, dict | list | tuple) or value is None:
        return "nothing" if value is None else "a mapping" if isinstance(value, dict) else "a list"
    if isinstance(value, bool):
        return "true" if value else "false"
    text = str(value)
    return f"'{text[:60]}{'…' if len(text) > 60 else ''}'" if isinstance(value, str) else text


def did_you_mean(word: object, known: Iterable[str]) -> str:
    """The known name nearest to ``word``, as the end of a message; empty if none is near."""
    names = [name for name in itertools.islice(known, 1_000) if len(name) <= 60]
    text = str(word)[:60]
    longer = [name for name in names if len(text) > 2 and name.startswith(text)]
    near = longer or difflib.get_close_matches(text, names, n=1)
    return f"; did you mean {near[0]}?" if near else ""


def enumerate_names(names: Iterable[object]) -> str:
    """The first twelve of many names, as a message lists them."""
    shown = [str(name) for name in itertools.islice(names, 13)]
    return ", ".join(f"{name[:60]}…" if len(name) > 60 else name for name in shown[:12]) + ", …" * (len(shown) > 12)
