"""What is there to compare: which runs, which of them count, and by how much do two of them differ?"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import combinations

import numpy as np
import numpy.typing as npt

from analysis.answer import UNDETERMINED, Answer
from analysis.evidence.conditions import Stratum, key_of, strata
from analysis.evidence.diagnosis import learned_threshold
from analysis.evidence.next_commands import grow
from analysis.evidence.trials import searching
from analysis.results import Results, Run
from analysis.statistics.probabilities import Scored
from analysis.wording import listed
from study.plan.plan import label
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


def own_keys(results: Results) -> tuple[str, ...]:
    """The settings of which a grid gives each model its own value, such as its learning rate: they are on no axis."""
    if searching(results):
        return ()
    models = len({repr(cell.settings["model"]) for cell in results.plan.cells})
    found = []
    for key in results.varying:
        pairs = {(repr(cell.settings["model"]), repr(cell.settings.get(key))) for cell in results.plan.cells}
        if key not in (*results.plan.axes, "model") and len(pairs) == models:
            found.append(key)
    return tuple(found)


def model_strata(results: Results, runs: Sequence[Run]) -> list[Stratum[Run]]:
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
