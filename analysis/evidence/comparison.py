"""Runs that can be compared, the models of a study, and paired differences between two arms."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import combinations

import numpy as np

from analysis.answer import NOT_ASKED, Answer
from analysis.evidence.conditions import SettingsKey, Stratum, settings_key, strata
from analysis.evidence.next_commands import extend
from analysis.results import Results
from analysis.statistics.clustered_means import SeedScores
from analysis.statistics.estimate import FloatArray
from analysis.statistics.probabilities import ExampleScores
from analysis.trajectory_results import TrajectoryResult
from analysis.wording import join_words, setting_name
from study.plan.labels import label
from study.records import Split

RunStratum = Stratum[TrajectoryResult]
ScoreOf = Callable[[ExampleScores], FloatArray]

# Differences of accuracy within this margin are treated as none, where the whole interval lies within it.
EQUIVALENCE = 0.01


def correctness(scores: ExampleScores) -> FloatArray:
    """1 for each correct example, else 0, ``[examples]``; the mean is accuracy."""
    return scores.correct.astype(np.float64)


def example_losses(scores: ExampleScores) -> FloatArray:
    """The loss of each example, ``[examples]``, in nats."""
    return scores.nll


def ended_runs(results: Results) -> list[TrajectoryResult]:
    """The runs that reached their own end."""
    return [run for run in results.runs if run.ended]


def usable_runs(results: Results) -> list[TrajectoryResult]:
    """The ended runs whose selected checkpoint is better than chance: scores of others measure failure, not models."""
    return [
        run
        for run in ended_runs(results)
        if run.owner.chosen is not None and results.epoch_tests.better_than_chance(run.trajectory.id, run.owner.chosen)
    ]


def selected_test_accuracy(run: TrajectoryResult) -> float | None:
    """The test accuracy of a run's selected checkpoint; None where it has none."""
    return run.owner.chosen.test_score("accuracy") if run.owner.chosen else None


def selected_test_accuracies(runs: Sequence[TrajectoryResult]) -> list[float]:
    """The test accuracies of the runs that have one."""
    return [accuracy for run in runs if (accuracy := selected_test_accuracy(run)) is not None]


def run_strata(
    runs: Sequence[TrajectoryResult], compared: Sequence[str], ignored: Sequence[str] = ()
) -> list[RunStratum]:
    """The runs in strata that differ in nothing but ``compared``."""
    return strata(runs, lambda run: run.settings, compared=compared, ignored=ignored)


def model_specific_keys(results: Results) -> tuple[str, ...]:
    """The settings of which a grid gives each model a value of its own, such as its learning rate: not on any axis."""
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


def model_strata(results: Results, runs: Sequence[TrajectoryResult]) -> list[RunStratum]:
    """The runs in strata that differ in the model and its specific settings alone."""
    return run_strata(runs, ["model"], ignored=model_specific_keys(results))


def model_specific_caveats(results: Results) -> list[str]:
    """The caveat of a comparison over :func:`model_strata`."""
    names = join_words([setting_name(key) for key in model_specific_keys(results)])
    if not names:
        return []
    return [f"The space gives each model its own {names}: differences between models include that effect."]


def model_names(results: Results) -> list[str]:
    """The models in words, in the plan's order."""
    return list(dict.fromkeys(label("model", cell.settings.model) for cell in results.plan.cells))


def model_pairs(results: Results) -> list[tuple[str, str]]:
    """Every two models."""
    return list(combinations(model_names(results), 2))


def single_model_answer(results: Results, question: str) -> Answer | None:
    """The answer to a question about two models where the study has only one; None where it has more."""
    names = model_names(results)
    if len(names) > 1:
        return None
    command = extend(results, "adds a model to compare with", {"model": ["roberta-base", "bert-base-uncased"]})
    sentence = f"The study has one model, {names[0]}."
    return Answer(question=question, verdict=NOT_ASKED, sentence=sentence, next_commands=[command])


def most_seeds(runs: Sequence[TrajectoryResult]) -> int:
    """The largest number of seeds of a condition."""
    seeds: dict[SettingsKey, set[int]] = {}
    for run in runs:
        seeds.setdefault(settings_key(run.settings, ["seed"]), set()).add(run.settings.seed)
    return max(map(len, seeds.values()), default=0)


def paired_differences(
    results: Results,
    groups: Sequence[RunStratum],
    first: str,
    second: str,
    split: Split,
    score_of: ScoreOf,
) -> list[SeedScores]:
    """First - second for each stratum that has both, on the same seeds and examples."""
    differences = [
        run_differences(results, stratum.arms[first].members, stratum.arms[second].members, split, score_of)
        for stratum in groups
        if first in stratum.arms and second in stratum.arms
    ]
    return [scores for scores in differences if scores is not None]


def run_differences(
    results: Results,
    first: Mapping[int, TrajectoryResult],
    second: Mapping[int, TrajectoryResult],
    split: Split,
    score_of: ScoreOf,
) -> SeedScores | None:
    """First - second of two arms by seed, for each example; None where they share no seed with predictions."""
    by_seed = {}
    for seed in sorted(first.keys() & second.keys()):
        scores = [results.predictions.scores(arm[seed].owner, split) for arm in (first, second)]
        if scores[0] is not None and scores[1] is not None:
            by_seed[seed] = score_of(scores[0]) - score_of(scores[1])
    return seed_scores(by_seed)


def seed_scores(by_seed: Mapping[int, FloatArray]) -> SeedScores | None:
    """The scores of the examples by seed as one array; None for no seed."""
    return SeedScores(seeds=tuple(by_seed), scores=np.stack(list(by_seed.values()))) if by_seed else None
