"""The report of a study: report.html, report.md and figures/.

STUDY is a study's folder, or mlflow:EXPERIMENT for a study on an MLflow server. The study may still be running.

Exit codes: 0 the report is written; 2 invalid input, or the report cannot be written.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from analysis.findings import answer_all
from analysis.rendering.markdown import markdown
from analysis.rendering.page import page
from analysis.rendering.plots import for_paper, render
from analysis.results import Results, ResultsError, read
from study.cli import Parser
from study.storage import write_bytes

MLFLOW = "mlflow:"


def write_report(results: Results, out: Path) -> Path:
    """Write report.html, report.md and figures/ into ``out``; returns the page's path.

    Raises OSError where ``out`` cannot be written to.
    """
    report = answer_all(results)
    figures = [figure for answer in report.answers.values() for figure in answer.figures]
    rendered = {figure.name: render(figure) for figure in figures}
    (out / "figures").mkdir(parents=True, exist_ok=True)
    for stale in (out / "figures").glob("*.svg"):
        if stale.stem not in rendered:
            stale.unlink()
    for name, figure in rendered.items():
        write_bytes(out / "figures" / f"{name}.svg", for_paper(figure.whole).encode())
    write_bytes(out / "report.md", markdown(report).encode())
    write_bytes(out / "report.html", page(report, rendered).encode())
    return out / "report.html"


def write_report_of(folder: Path) -> Path:
    """Write the report of the study in ``folder`` into it; returns the page's path.

    Raises ResultsError where there is no study, OSError where ``folder`` cannot be written to.
    """
    return write_report(read(folder), folder)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    command_line = Parser(
        prog="python -m analysis.report", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    command_line.add_argument(
        "study", metavar="STUDY", help="a study's folder, such as studies/quickstart, or mlflow:EXPERIMENT"
    )
    command_line.add_argument(
        "--tracking-uri",
        default=os.environ.get("MLFLOW_TRACKING_URI"),
        metavar="URI",
        help="where MLflow keeps the experiment (default: $MLFLOW_TRACKING_URI)",
    )
    command_line.add_argument(
        "--out", metavar="FOLDER", help="where to write (default: the study's folder, or the current one)"
    )
    return command_line


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    options = parser().parse_args(arguments)
    try:
        with contextlib.ExitStack() as stack:
            in_mlflow = options.study.startswith(MLFLOW)
            if in_mlflow:
                from analysis.from_mlflow import (
                    study_from_mlflow,
                )  # imports MLflow, which reading a folder does not need

                experiment = options.study.removeprefix(MLFLOW)
                folder = stack.enter_context(study_from_mlflow(experiment, tracking_uri=options.tracking_uri))
                out = Path(options.out or ".")
            else:
                folder = Path(options.study)
                out = Path(options.out or folder)
            results = read(folder)
            if in_mlflow:
                results = replace(results, folder=None)
            print(f"report: {write_report(results, out)}")
    except ResultsError as error:
        print(error, file=sys.stderr)
        return 2
    except OSError as error:
        print(f"the report cannot be written: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
