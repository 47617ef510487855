"""Spaces and searches of synthetic studies that several tests share, and the answers to them."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from synthetic_study import (
    Story,
    StoryOf,
    SyntheticStudy,
    collapsing,
    healthy,
    make_synthetic,
    plan_of,
    pruned,
    search_of,
)

from analysis.answer import Answer, Table
from analysis.findings import load_question, settle
from analysis.results import Results
from study.records import Outcome
from study.settings import Settings

GRID = """
data: {source: builtin:reviews, examples: 10000}
fixed: {epochs: 4}
axes:
  model: [tiny-bert, tiny-roberta]
  lr_schedule: [constant, linear]
  learning_rate: [5.0e-4, 1.0e-3]
  seed: [0, 1, 2, 3, 4, 5, 6, 7]
"""
SMALL = GRID.replace("[constant, linear]", "[linear]").replace("3, 4, 5, 6, 7]", "3]")
BATCHES = """
data: {source: builtin:reviews, examples: 40000}
fixed: {model: tiny-bert}
axes:
  duration: [{epochs: 4}, {optimizer_steps: 2000}]
  learning_rate: [5.0e-4, 1.0e-3]
  batch_size: [16, 64]
  seed: [0, 1, 2, 3]
"""
# Each model has a learning rate of its own.
MODEL_RATES = """
data: {source: builtin:reviews, examples: 30000}
fixed: {epochs: 4, learning_rate: 5.0e-4}
axes:
  model: [tiny-bert, tiny-roberta]
  lr_schedule: [constant, linear]
  batch_size: [16, 32]
  seed: [0, 1, 2, 3, 4]
when:
  - match: {model: tiny-roberta}
    set: {learning_rate: 2.0e-4}
"""
SEARCH = """
data: {source: builtin:reviews, examples: 4000}
fixed: {epochs: 4}
axes:
  model: [tiny-bert, tiny-roberta]
  learning_rate: {low: 1.0e-5, high: 1.0e-3, log: true}
  warmup_fraction: {low: 0.0, high: 0.2}
  lr_schedule: [constant, linear]
  seed: [0, 1, 2]
search: {method: random, trials: 6, per: model}
"""
OPTUNA = SEARCH.replace("method: random", "method: optuna")
ASHA = SEARCH.replace("per: model", "per: model, scheduler: asha")
SINGLE_MODEL = SEARCH.replace("[tiny-bert, tiny-roberta]", "[tiny-bert]")

Choice = Mapping[str, Any]


def results_of(folder: Path, story_of: StoryOf, text: str = SMALL, *, seed: int = 0, positive: float = 0.5) -> Results:
    """The results of a synthetic grid; ``positive`` is the share of label 1."""
    space, plan = plan_of(folder, text)
    return make_synthetic(space, plan, story_of, seed=seed, positive=positive).results()


def answer_to(question: str, results: Results) -> Answer:
    """The answer of the question's module."""
    return load_question(question).answer(results, np.random.default_rng(0))


def settled_answer(question: str, results: Results) -> Answer:
    """The answer of the question's module with what its claim makes of it, if it were the report's only claim."""
    answer = answer_to(question, results)
    return settle(answer, answer.claim.p_value if answer.claim else None)


def near(accuracy: float, rng: np.random.Generator, spread: float = 0.004) -> float:
    """An accuracy drawn from around ``accuracy``."""
    return accuracy + float(rng.normal(0, spread))


def models_differ(by: float) -> StoryOf:
    """tiny-roberta is more accurate than tiny-bert by so much."""

    def story(settings: Settings, rng: np.random.Generator) -> Story:
        return healthy(near(0.88 + by * (settings.model == "tiny-roberta"), rng, 0.003))

    return story


def batches_differ(by_batch: float, by_updates: float) -> StoryOf:
    """The larger batch always loses ``by_batch``, and ``by_updates`` more at equal epochs."""

    def story(settings: Settings, rng: np.random.Generator) -> Story:
        large = settings.batch_size == 64
        lost = large * (by_batch + by_updates * (settings.optimizer_steps is None))
        epochs = 1 if settings.optimizer_steps and not large else 4
        accuracy = near(0.9, rng, 0.002) - lost
        return Story(accuracy=[accuracy] * epochs, train_loss=[0.3] * epochs, scale=[1.0] * epochs)

    return story


def trial_choice(number: int) -> Choice:
    """What trial ``number`` of a search chose: the higher its number, the higher its rate."""
    return {
        "learning_rate": 1e-5 * 1.5**number,
        "warmup_fraction": 0.01 * (7 * number % 13),
        "lr_schedule": ("constant", "linear")[number % 2],
    }


SIX_CHOICES = [trial_choice(number) for number in range(6)]


def search_study(
    folder: Path,
    story_of: StoryOf,
    text: str = SEARCH,
    choices: Sequence[Choice] | Mapping[str, Sequence[Choice]] = SIX_CHOICES,
    *,
    seed: int = 0,
) -> SyntheticStudy:
    """A synthetic search that has made these choices."""
    space, plan = search_of(folder, text, choices)
    return make_synthetic(space, plan, story_of, seed=seed)


def better_by_rate(best: float = 0.9) -> StoryOf:
    """The higher the learning rate, the better."""

    def story(settings: Settings, rng: np.random.Generator) -> Story:
        return healthy(best - 0.25 * (1e-4 - settings.learning_rate) / 1e-4 + rng.normal(0, 0.002))

    return story


def some_pruned(settings: Settings, rng: np.random.Generator) -> Story | None:
    """Seed 0 of the lower rates is pruned, and seed 1 of the highest collapses."""
    if settings.learning_rate < 3e-5 and settings.seed == 0:
        return pruned(0.7)
    if settings.learning_rate > 7e-5 and settings.seed == 1:
        return collapsing()
    return better_by_rate()(settings, rng)


NO_SCORE = Story(
    accuracy=[float("nan")],
    train_loss=[float("nan")],
    scale=[1.0],
    outcome=Outcome(status="complete", stop_reason="non-finite", epochs=1),
)
AT_CHANCE = Story(accuracy=[None] * 4, train_loss=[0.7] * 4, scale=[1.0] * 4)


def best_seed_of_a_bad_trial(bad: Story) -> StoryOf:
    """The trial of the highest rate is the best for seed 0 and ``bad`` for the others."""

    def story(settings: Settings, rng: np.random.Generator) -> Story:
        if settings.learning_rate == SIX_CHOICES[5]["learning_rate"]:
            return bad if settings.seed else healthy(0.99)
        return healthy(0.8 + rng.normal(0, 0.002))

    return story


def table_of(answer: Answer, title: str) -> Table:
    """The first table with these words in its title."""
    return next(table for table in answer.tables if title in table.title)
