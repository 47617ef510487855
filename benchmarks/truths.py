"""The answers of the report to studies whose truth is planted: how often they are right, and how often wrong.

Each study has a real plan, made-up histories and predictions, and its nine questions are answered as in a report. A
verdict is right, undetermined, wrong (the opposite of the truth, or a claim where there is nothing), or other (neither
of the two). In a study without an effect every claim of one is false. Rates have 95 % Clopper-Pearson intervals.

The truths are the files in benchmarks/planted/scenarios. --truths FILE takes others of the same form, such as
benchmarks/planted/example.yaml, which explains it:

  about: TEXT               the truth in words
  space: PATH or mapping    a space file, relative to FILE, or the space itself
  set: {KEY: VALUE}         changes of the space, as --set makes them
  no_effect: true           every claim of an effect is false, for each of the nine questions
  noise: {difficulty, seeds, class_share}
  truth:                    rules; a later one overrules those before it, setting by setting
    - match: {KEY: VALUE}   the runs that it is for (all, without it), each with a chance if chance: is given
      accuracy: 0.9         and seed_sd, shared, cluster, epoch_sd, climb or curve, scale, fit, validation,
      collapse: {chance, onset, until, accuracy, shared}
      overfit: {chance, after, scale, loses}
      missing: 0.1          chances, and so are failed and non_finite
  expect:
    QUESTION: [VERDICT]     the verdicts that are right, or {right, never, never_says, estimate}
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import cache
from pathlib import Path

if not __package__:  # run as a file
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from analysis.findings import answer_all
from benchmarks.planted.generator import plant
from benchmarks.planted.judge import Judgement, TruthTally, judge_answers
from benchmarks.planted.tables import all_tables
from benchmarks.planted.truth import Truth
from benchmarks.planted.truth_file import read_truth
from study.errors import SpaceError

SCENARIOS = Path(__file__).resolve().parent / "planted" / "scenarios"
# Studies that a process judges at a time.
CHUNK = 10


def parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.truths", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--studies", type=int, default=40, metavar="N", help="of each truth (default: %(default)s; goals are for 400)")
    add("--only", nargs="+", metavar="NAME", help="truths of these names, or whose names start like this")
    add("--truths", type=Path, nargs="+", metavar="FILE", help="files of truths, in place of the project's own")
    add("--first", type=int, default=0, metavar="N", help="number of the first study (default: %(default)s)")
    add("--processes", type=int, default=1, metavar="N", help="(default: %(default)s)")
    add("--sentences", action="store_true", help="print a sentence of each verdict, not of the wrong ones alone")
    add("--list", action="store_true", help="list the truths")
    return parser


@cache
def _truth(path: Path) -> Truth:
    return read_truth(path)


def judge_studies(path: Path, numbers: Sequence[int]) -> list[tuple[dict[str, Judgement], int, float]]:
    """The judgement of these studies with the truth in a file, each with its number and the seconds of CPU it took."""
    truth = _truth(path)
    judged = []
    for number in numbers:
        started = time.process_time()
        try:
            answers = answer_all(plant(truth, number).results).answers
        except Exception as error:
            error.add_note(f"in study {number} of the truth {path}")
            raise
        judged.append((judge_answers(answers, truth), number, time.process_time() - started))
    return judged


def tally_truths(paths: Sequence[Path], numbers: Sequence[int], *, processes: int) -> Iterator[TruthTally]:
    """The counts of each truth, one after the other."""
    chunks = [numbers[start : start + CHUNK] for start in range(0, len(numbers), CHUNK)]
    with ProcessPoolExecutor(processes) as pool:
        for path in paths:
            tally = TruthTally(truth=_truth(path))
            in_chunks = (
                pool.map(judge_studies, [path] * len(chunks), chunks)
                if processes > 1
                else (judge_studies(path, chunk) for chunk in chunks)
            )
            for judged in in_chunks:
                for judgements, number, seconds in judged:
                    tally.add(judgements, number, seconds)
            yield tally


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    given = parser().parse_args(arguments)
    paths = given.truths or sorted(SCENARIOS.glob("*.yaml"))
    if given.only:
        paths = [path for path in paths if path.stem.startswith(tuple(given.only))]
    if not paths:
        print(f"no truth has a name that starts with {' or '.join(given.only)}", file=sys.stderr)
        return 2
    try:
        truths = [_truth(path) for path in paths]
    except SpaceError as error:
        print(error, file=sys.stderr)
        return 2
    if given.list:
        print("\n".join(f"{truth.name}: {truth.about}" for truth in truths))
        return 0
    tallies = []
    numbers = range(given.first, given.first + given.studies)
    for tally in tally_truths(paths, numbers, processes=given.processes):
        print(tally.summary, file=sys.stderr, flush=True)
        tallies.append(tally)
    print(all_tables(tallies, sentences=given.sentences))
    return 0


if __name__ == "__main__":
    sys.exit(main())
