"""Writes the report of a study: report.html, report.md and figures/.

STUDY is a study's folder, or mlflow:EXPERIMENT for what an MLflow server keeps of one. The study may still be running.

Exit codes: 0 the report is written; 2 something that the user has to mend.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from analysis.findings import find
from analysis.rendering.markdown import markdown
from analysis.rendering.page import page
from analysis.rendering.plots import draw, for_paper
from analysis.results import Results, ResultsError, read
from study.storage import write_bytes

MLFLOW = "mlflow:"


def write_report(results: Results, out: Path) -> Path:
    """Write report.html, report.md and figures/ into ``out``; returns the page's path.

    Raises OSError where that cannot be written to.
    """
    findings = find(results)
    figures = [figure for answer in findings.answers.values() for figure in answer.figures]
    drawn = {figure.name: draw(figure) for figure in figures}
    (out / "figures").mkdir(parents=True, exist_ok=True)
    for name, picture in drawn.items():
        write_bytes(out / "figures" / f"{name}.svg", for_paper(picture.whole).encode())
    write_bytes(out / "report.md", markdown(findings).encode())
    write_bytes(out / "report.html", page(findings, drawn).encode())
    return out / "report.html"


def write_report_of(folder: Path) -> Path:
    """Write the report of the study in ``folder`` into it; returns the page's path.

    Raises ResultsError where there is no study, OSError where nothing can be written.
    """
    return write_report(read(folder), folder)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(
        prog="python -m analysis.report", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument(
        "study", metavar="STUDY", help="a study's folder, such as studies/quickstart, or mlflow:EXPERIMENT"
    )
    made.add_argument(
        "--tracking-uri",
        default=os.environ.get("MLFLOW_TRACKING_URI"),
        metavar="URI",
        help="where MLflow keeps the experiment (default: $MLFLOW_TRACKING_URI)",
    )
    made.add_argument("--out", metavar="FOLDER", help="where to write (default: the study's folder, else this one)")
    return made


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    given = parser().parse_args(arguments)
    try:
        with contextlib.ExitStack() as stack:
            if given.study.startswith(MLFLOW):
                from analysis.from_mlflow import study_from_mlflow  # imports MLflow, which a folder does not need

                experiment = given.study.removeprefix(MLFLOW)
                folder = stack.enter_context(study_from_mlflow(experiment, tracking_uri=given.tracking_uri))
                out = Path(given.out or ".")
            else:
                folder = Path(given.study)
                out = Path(given.out or folder)
            print(f"report: {write_report(read(folder), out)}")
    except ResultsError as error:
        print(error, file=sys.stderr)
        return 2
    except OSError as error:
        print(f"the report cannot be written: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
