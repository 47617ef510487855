"""What an earlier study says of failures, seeds and examples, as assumptions for the power of the next one."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from statistics import fmean, median

import numpy as np
import numpy.typing as npt
from scipy.stats import chi2

from analysis.power import Assumptions
from analysis.results import Results, ResultsError, read
from analysis.statistics.estimate import FloatArray
from analysis.trajectory_results import TrajectoryResult
from analysis.wording import agree, count
from study.errors import StudyError

# The level of the upper limit of the seeds' variance.
UPPER = 0.8
# Of more runs than this, so many are sampled for how much runs disagree.
MOST_RUNS = 300
# All settings of a run but its seed and, for some comparisons, its model.
Condition = tuple[object, ...]


def read_pilot(path: Path) -> tuple[Assumptions, str]:
    """What the study in the folder ``path`` leads to assume, and in words what that rests on.

    Whatever the study does not show keeps its default, and the text says so. Raises StudyError if the folder holds no
    study, or if none of its runs has ended.
    """
    try:
        results = read(path)
    except ResultsError as error:
        raise StudyError(f"--pilot: {error}") from error
    ended = [run for run in results.runs if run.ended]
    if not ended:
        raise StudyError(
            f"--pilot: no run of the study in {path} has ended, so it says nothing of failures and seeds; finish some "
            "of them, or leave --pilot out"
        )
    learned = [run for run in ended if results.diagnoses[run.trajectory.id].learned]
    assumed, failures = _with_failures(results, ended, Assumptions())
    assumed, accuracies = _with_accuracies(results, learned, assumed)
    not_ended = len(results.runs) - len(ended)
    rest = f", {not_ended:,} {agree(not_ended, 'has', 'have')} not ended" if not_ended else ""
    return assumed, f"pilot {results.name}: {failures}{rest}, {accuracies}"


def _with_failures(results: Results, ended: list[TrajectoryResult], assumed: Assumptions) -> tuple[Assumptions, str]:
    """The failure rates by condition, of the runs that are known to have failed or learned."""
    failed: dict[Condition, list[bool]] = defaultdict(list)
    for run in ended:
        diagnosis = results.diagnoses[run.trajectory.id]
        if diagnosis.failed or diagnosis.learned:
            failed[_condition(results, run)].append(diagnosis.failed)
    if not failed:
        return assumed, "no run is known to have failed or learned"
    rates = [fmean(of_condition) for of_condition in failed.values()]
    assumed = replace(assumed, failure_rate=median(rates), mean_failure_rate=fmean(rates))
    events, runs = sum(map(sum, failed.values())), sum(map(len, failed.values()))
    spread = f" ({100 * min(rates):.0f} to {100 * max(rates):.0f} % by condition)" if events else ""
    return assumed, f"{events:,} of {count(runs, 'run')} failed{spread}"


def _with_accuracies(
    results: Results, learned: list[TrajectoryResult], assumed: Assumptions
) -> tuple[Assumptions, str]:
    """The spread of test accuracy over seeds, and the share of test examples on which two runs disagree."""
    disagreement = _disagreement(results, learned)
    examples = 0
    if disagreement is not None:
        examples, within, between = disagreement
        assumed = replace(assumed, within=min(within, between), between=between)
    found = _seed_variance(results, learned)
    if found is None:
        seeds = f"seed sd {100 * assumed.seed_sd:g} points (assumed: no condition has two seeds that learned)"
    else:
        variance, limit = found
        # Without the part of the pilot's test examples, to which that of the next study's is added.
        of_examples = assumed.within / (2 * examples) if examples else 0.0
        assumed = replace(assumed, seed_sd=max(0.0, limit - of_examples) ** 0.5)
        seeds = f"seed sd {100 * variance**0.5:.1f} points (upper limit {100 * limit**0.5:.1f})"
    return assumed, seeds if disagreement is not None else f"{seeds}, and assumed"


def _seed_variance(results: Results, runs: list[TrajectoryResult]) -> tuple[float, float] | None:
    """The variance of test accuracy over seeds within conditions, pooled, and its upper limit.

    None where no condition has two seeds. The limit is the one-sided one at 80 %, which Browne (1995, "On the use of a
    pilot sample for sample size determination") takes in place of the variance of so few runs.
    """
    accuracies: dict[Condition, list[float]] = defaultdict(list)
    for run in runs:
        accuracy = run.owner.chosen.test_score("accuracy") if run.owner.chosen else None
        if accuracy is not None:
            accuracies[_condition(results, run)].append(accuracy)
    several = [np.asarray(values) for values in accuracies.values() if len(values) > 1]
    if not several:
        return None
    freedom = sum(len(values) - 1 for values in several)
    squares = float(sum(((values - values.mean()) ** 2).sum() for values in several))
    return squares / freedom, squares / float(chi2.ppf(1 - UPPER, freedom))


def _disagreement(results: Results, runs: list[TrajectoryResult]) -> tuple[int, float, float] | None:
    """The number of test examples, and the share on which two runs disagree: of one condition, and of two models.

    Where there is one model, of two conditions; where no condition has two seeds, the first is 0, as if models
    disagreed and runs did not. None without predictions.
    """
    if len(runs) > MOST_RUNS:
        runs = [runs[place] for place in sorted(np.random.default_rng(0).permutation(len(runs))[:MOST_RUNS])]
    results.predictions.preload([run.owner for run in runs], ["test"])
    scored = [(run, scores) for run in runs if (scores := results.predictions.scores(run.owner, "test")) is not None]
    if len(scored) < 2:
        return None
    signs: FloatArray = np.stack([np.where(scores.correct, 1.0, -1.0) for _, scores in scored])
    examples = signs.shape[1]
    apart = (1 - signs @ signs.T / examples) / 2
    conditions = _equal([_condition(results, run) for run, _ in scored])
    models = _equal([run.settings.model for run, _ in scored])
    others = _equal([_condition(results, run, "model") for run, _ in scored])
    pairs = np.triu(np.ones_like(conditions), k=1)
    within, between = pairs & conditions, pairs & others & ~models
    if not between.any():
        between = pairs & ~conditions
    if not between.any():
        return None
    return examples, float(apart[within].mean()) if within.any() else 0.0, float(apart[between].mean())


def _condition(results: Results, run: TrajectoryResult, *without: str) -> Condition:
    return tuple(getattr(run.settings, key) for key in results.condition_keys if key not in without)


def _equal(values: list[object] | list[Condition] | list[str]) -> npt.NDArray[np.bool_]:
    """Which of the values are equal, ``[values, values]``."""
    numbers = {value: number for number, value in enumerate(dict.fromkeys(values))}
    places = np.array([numbers[value] for value in values])
    return np.asarray(places[:, None] == places, dtype=np.bool_)
