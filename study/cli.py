"""What the command lines share: options, and printing that outlives its reader."""

from __future__ import annotations

import argparse
import os
import sys
import warnings
from pathlib import Path
from typing import Any, NoReturn

from study.credentials import without_credentials
from study.errors import DamagedRecordWarning

FORMAT_WARNING = warnings.formatwarning


class Parser(argparse.ArgumentParser):
    """A parser whose errors quote no credentials of an option that it does not know.

    Its program prints a warning of damaged records as a sentence, without the line of code that it comes from.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        warnings.formatwarning = _format_warning

    def error(self, message: str) -> NoReturn:
        """Print usage and message, and exit with 2."""
        super().error(without_credentials(message))


def _format_warning(
    message: Warning | str, category: type[Warning], filename: str, lineno: int, line: str | None = None
) -> str:
    if issubclass(category, DamagedRecordWarning):
        return f"{message}\n"
    return FORMAT_WARNING(message, category, filename, lineno, line)


def add_tracking_uri(parser: argparse.ArgumentParser) -> None:
    """Add ``--tracking-uri``."""
    parser.add_argument(
        "--tracking-uri",
        type=_uri_with_scheme,
        default=os.environ.get("MLFLOW_TRACKING_URI"),
        metavar="URI",
        help="an MLflow server (default: $MLFLOW_TRACKING_URI, else a sqlite file in the study's folder)",
    )


def _uri_with_scheme(uri: str) -> str:
    """A URI whose credentials can be recognized. Raises argparse's error, which does not quote it."""
    if "@" in uri and "://" not in uri:
        raise argparse.ArgumentTypeError(
            "a URI with credentials needs a scheme, such as http://USER:PASSWORD@HOST:PORT"
        )
    return uri


def shown_path(path: Path) -> str:
    """A path as a person would write it in the current folder."""
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)


def python_command() -> str:
    """The Python that runs this, as a person would write it in the current folder."""
    return shown_path(Path(sys.executable))


def print_text(text: str) -> None:
    """Print ``text``; its reader may stop reading, as ``head`` does."""
    try:
        print(text, flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
