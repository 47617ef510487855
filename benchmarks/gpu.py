"""What the study does on a GPU: whether it is right there, how fast it is, and what a study would take.

Needs no Ray, no network and no weights: models have random ones. Each group of sections is a process with a limit on
its time; a section that fails is written down with its traceback, and where it took the process with it, a new one goes
on with the next. Results are appended to ``results.jsonl`` as they come; a table of all stands at the end.
"""

from __future__ import annotations

import argparse
import importlib
import os
import subprocess
import sys
import time
from pathlib import Path

from benchmarks.sections import OUT_OF_TIME, Place, Results, line, run_section

# The sections of each group with the most seconds that each may take: what is worth most comes first.
GROUPS = {
    "right": {
        "no_wait": 45,
        "out_of_memory": 60,
        "moved": 30,
        "dropout": 15,
        "compiled": 120,
        "resumed": 60,
        "captured": 60,
    },
    "fast": {"batch_16": 80, "batch_256": 80},
    "study": {"trajectory": 100},
    "savings": {"savings": 80},
}
# Seconds that a process of a group needs before its first section.
START_SECONDS = 12
SLOWER_IN_REHEARSAL = 4


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = made.add_argument
    add("--root", type=Path, default=Path.cwd(), help="the project's folder (default: the current one)")
    add("--out", type=Path, default=Path(os.environ.get("OUT", "gpu-results")), help="folder for the results")
    add("--imdb", type=Path, help="imdb.parquet, for real lengths (default: random lengths like IMDB's)")
    add("--budget", type=float, default=400, help="seconds for all groups (default: %(default)s)")
    add("--groups", nargs="+", choices=list(GROUPS), default=list(GROUPS))
    add("--rehearse", action="store_true", help="the same way on a CPU, with tiny models")
    add("--sections", nargs="+", help=argparse.SUPPRESS)
    add("--until", type=float, help=argparse.SUPPRESS)
    return made


def run_inside(given: argparse.Namespace) -> int:
    """Run the sections of one group in this process; what they share is made by the first."""
    (group,) = given.groups
    results = Results(given.out / "results.jsonl", group)
    module = importlib.import_module(f"benchmarks.gpu_{group}")
    place = Place.find(rehearse=given.rehearse, imdb=given.imdb)
    for name in given.sections:
        limit = GROUPS[group][name] * (SLOWER_IN_REHEARSAL if given.rehearse else 1)
        if not run_section(results, name, module.SECTIONS[name], place, seconds=min(limit, given.until - time.time())):
            return 3  # the device may be in no state to go on
    return 0


def run_group(given: argparse.Namespace, group: str, end: float) -> None:
    """Run a group's sections in as many processes as it takes."""
    results = Results(given.out / "results.jsonl", group)
    sections = list(GROUPS[group])
    while sections:
        left = end - time.monotonic()
        if left < START_SECONDS + 5:
            results.add("left out", ", ".join(sections), note="no time")
            return
        limit = START_SECONDS + sum(GROUPS[group][name] for name in sections)
        seconds = min(limit * (SLOWER_IN_REHEARSAL if given.rehearse else 1), left - 3)
        command = [sys.executable, "-m", "benchmarks.gpu", "--out", str(given.out.resolve()), "--groups", group]
        command += ["--sections", *sections, "--until", str(time.time() + seconds)]
        command += ["--rehearse"] if given.rehearse else []
        command += ["--imdb", str(given.imdb.resolve())] if given.imdb else []
        print(f"\n== {group}: {', '.join(sections)}; {seconds:.0f} s at most of {left:.0f} s", flush=True)
        try:
            code = subprocess.run(command, cwd=given.root, timeout=seconds + 3, check=False).returncode
        except subprocess.TimeoutExpired:
            code = -1
        ended = {row["name"] for row in results.rows() if row["group"] == group and row["unit"] == "s of section"}
        remaining = [name for name in sections if name not in ended]
        if remaining == sections and code != -1:
            results.add(sections[0], f"its process ended with {code}", ok=False)
            remaining = sections[1:]
        elif remaining and code == -1:
            results.add(remaining[0], OUT_OF_TIME)
            remaining = remaining[1:]
        sections = remaining


def main() -> int:
    started = time.monotonic()
    given = parser().parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    if given.sections:
        return run_inside(given)
    (given.out / "results.jsonl").unlink(missing_ok=True)
    for group in given.groups:
        run_group(given, group, started + given.budget)
    rows = Results(given.out / "results.jsonl", "").rows()
    print(f"\n== all of it, {time.monotonic() - started:.0f} s")
    for row in rows:
        if row["unit"] != "s of section":
            print(line({**row, "note": row["note"][:100]}))
    failed = [row for row in rows if row["ok"] is False]
    for row in failed:
        print(f"\n{line(row)}")
    counts = f"{sum(row['ok'] is True for row in rows)} right, {len(failed)} wrong"
    print(f"\n{counts}, {sum(row['value'] == OUT_OF_TIME for row in rows)} sections out of time", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
