"""What is there to compare: which runs, which of them count, and by how much do two of them differ?"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import combinations

import numpy as np
import numpy.typing as npt

from analysis.answer import UNDETERMINED, Answer
from analysis.commands import grow
from analysis.conditions import Stratum, key_of, strata
from analysis.diagnosis import learned_threshold
from analysis.probabilities import Scored
from analysis.results import Results, Run
from study.plan import label
from study.records import Split

Floats = npt.NDArray[np.float64]
ScoreOf = Callable[[Scored], Floats]

# Differences within this much of accuracy are taken for none, when an interval lies wholly within.
EQUIVALENCE = 0.01


def right(scored: Scored) -> Floats:
    """1 for each example that is right, else 0: its mean is accuracy."""
    return scored.right.astype(np.float64)


def loss(scored: Scored) -> Floats:
    """The loss of each example, in nats."""
    return scored.nll


def ended_runs(results: Results) -> list[Run]:
    """The runs that came to their planned end."""
    return [run for run in results.runs if run.ended]


def usable_runs(results: Results) -> list[Run]:
    """The ended runs whose chosen checkpoint is better than chance: scores of others measure failure, not models."""
    threshold = learned_threshold(results)
    chosen = [(run, run.owner.chosen) for run in ended_runs(results)]
    return [run for run, epoch in chosen if epoch is not None and epoch.validation_accuracy >= threshold]


def run_strata(runs: Sequence[Run], compared: Sequence[str], ignored: Sequence[str] = ()) -> list[Stratum[Run]]:
    """The runs in strata that differ in nothing but ``compared``."""
    return strata(runs, lambda run: run.settings, compared=compared, ignored=ignored)


def model_names(results: Results) -> list[str]:
    """The models in words, in the plan's order."""
    return list(dict.fromkeys(label("model", cell.settings["model"]) for cell in results.plan.cells))


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


def most_seeds(runs: Sequence[Run]) -> int:
    """The largest number of seeds that any condition has."""
    seeds: dict[str, set[int]] = {}
    for run in runs:
        seeds.setdefault(key_of(run.settings, ["seed"]), set()).add(run.seed)
    return max(map(len, seeds.values()), default=0)


def paired_differences(
    results: Results, groups: Sequence[Stratum[Run]], first: str, second: str, split: Split, score_of: ScoreOf
) -> list[Floats]:
    """First - second for each stratum that has both, ``[seeds, examples]``, seeds and examples being the same."""
    differences = []
    for stratum in groups:
        if first not in stratum.arms or second not in stratum.arms:
            continue
        rows = []
        for seed in stratum.shared_seeds(first, second):
            one, other = (results.scored(stratum.arms[arm].members[seed].owner, split) for arm in (first, second))
            if one is not None and other is not None:
                rows.append(score_of(one) - score_of(other))
        if rows:
            differences.append(np.stack(rows))
    return differences


def read_test_scores(results: Results, runs: Sequence[Run]) -> None:
    """Read the predictions of these runs' chosen checkpoints at once."""
    results.read_ahead([run.owner for run in runs])
