"""The runs that can be compared, and the paired differences between two of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import combinations

import numpy as np

from analysis.answer import UNDETERMINED, Answer
from analysis.evidence.conditions import SettingsKey, Stratum, key_of, strata
from analysis.evidence.diagnosis import learned_threshold
from analysis.evidence.next_commands import grow
from analysis.results import Results
from analysis.statistics.estimate import FloatArray
from analysis.statistics.probabilities import ExampleScores
from analysis.trajectory_results import TrajectoryResult
from analysis.wording import listed
from study.plan.labels import label
from study.records import Split

ScoreOf = Callable[[ExampleScores], FloatArray]

# Differences of accuracy within this are treated as none, where the whole interval lies within it.
EQUIVALENCE = 0.01


def correct(scores: ExampleScores) -> FloatArray:
    """1 for each correct example, else 0; the mean is accuracy."""
    return scores.correct.astype(np.float64)


def loss(scores: ExampleScores) -> FloatArray:
    """The loss of each example, in nats."""
    return scores.nll


def ended_runs(results: Results) -> list[TrajectoryResult]:
    """The runs that came to their planned end."""
    return [run for run in results.runs if run.ended]


def usable_runs(results: Results) -> list[TrajectoryResult]:
    """The ended runs whose selected checkpoint is better than chance: scores of others measure failure, not models."""
    threshold = learned_threshold(results.chance)
    chosen = [(run, run.owner.chosen) for run in ended_runs(results)]
    return [run for run, epoch in chosen if epoch is not None and epoch.validation["accuracy"] >= threshold]


def run_strata(
    runs: Sequence[TrajectoryResult], compared: Sequence[str], ignored: Sequence[str] = ()
) -> list[Stratum[TrajectoryResult]]:
    """The runs in strata that differ in nothing but ``compared``."""
    return strata(runs, lambda run: run.settings, compared=compared, ignored=ignored)


def own_keys(results: Results) -> tuple[str, ...]:
    """The settings of which a grid gives each model its own value, such as its learning rate: they are on no axis."""
    if results.searching:
        return ()
    cells = [cell.settings for cell in results.plan.cells]
    models = len({settings.model for settings in cells})
    return tuple(
        key
        for key in results.varying
        if key not in (*results.plan.axes, "model")
        and len({(settings.model, getattr(settings, key)) for settings in cells}) == models
    )


def model_strata(results: Results, runs: Sequence[TrajectoryResult]) -> list[Stratum[TrajectoryResult]]:
    """The runs in strata that differ in the model and in its own settings alone."""
    return run_strata(runs, ["model"], ignored=own_keys(results))


def own_settings(results: Results) -> list[str]:
    """The caveat that belongs to :func:`model_strata`."""
    keys = listed([key.replace("_", " ") for key in own_keys(results)])
    if not keys:
        return []
    return [f"Each model has its own {keys}, as the space sets it: a difference is that of both together."]


def model_names(results: Results) -> list[str]:
    """The models in words, in the plan's order."""
    return list(dict.fromkeys(label("model", cell.settings.model) for cell in results.plan.cells))


def model_pairs(results: Results) -> list[tuple[str, str]]:
    """Every two models."""
    return list(combinations(model_names(results), 2))


def one_model(results: Results, question: str) -> Answer | None:
    """The answer to a question about two models where the study has one; None where it has more."""
    names = model_names(results)
    if len(names) > 1:
        return None
    wanted = grow(results, "adds a model to compare with", {"model": ["roberta-base", "bert-base-uncased"]})
    sentence = f"The study has one model, {names[0]}."
    return Answer(question=question, verdict=UNDETERMINED, sentence=sentence, next_commands=[wanted])


def most_seeds(runs: Sequence[TrajectoryResult]) -> int:
    """The largest number of seeds that any condition has."""
    seeds: dict[SettingsKey, set[int]] = {}
    for run in runs:
        seeds.setdefault(key_of(run.settings, ["seed"]), set()).add(run.settings.seed)
    return max(map(len, seeds.values()), default=0)


def paired_differences(
    results: Results,
    groups: Sequence[Stratum[TrajectoryResult]],
    first: str,
    second: str,
    split: Split,
    score_of: ScoreOf,
) -> list[FloatArray]:
    """First - second for each stratum that has both, ``[seeds, examples]``, seeds and examples being the same."""
    differences = []
    for stratum in groups:
        if first not in stratum.arms or second not in stratum.arms:
            continue
        rows = []
        for seed in stratum.shared_seeds(first, second):
            scores = [results.scored(stratum.arms[arm].members[seed].owner, split) for arm in (first, second)]
            if scores[0] is not None and scores[1] is not None:
                rows.append(score_of(scores[0]) - score_of(scores[1]))
        if rows:
            differences.append(np.stack(rows))
    return differences


def read_test_scores(results: Results, runs: Sequence[TrajectoryResult]) -> None:
    """Read the predictions of these runs' chosen checkpoints at once."""
    results.read_ahead([run.owner for run in runs])
