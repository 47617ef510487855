"""The settings that matter are named, whatever the axes are, and the best combination is scored on other seeds."""

from pathlib import Path

import numpy as np
import pytest
from synthetic_spaces import (
    GRID,
    SEARCH,
    answer_to,
    better_by_rate,
    near,
    results_of,
    search_study,
    settled_answer,
    table_of,
)
from synthetic_study import Story, at_chance, collapsing, healthy

from analysis.answer import NOT_ASKED, UNDETERMINED
from analysis.findings import settle
from analysis.statistics.estimate import Estimate
from study.settings import Settings

QUESTION = "settings_that_matter"
AXES = """
data: {source: builtin:reviews, examples: 10000}
fixed: {epochs: 2, model: tiny-bert}
axes:
  learning_rate: [1.0e-4, 3.0e-4, 1.0e-3]
  dropout: [0.0, 0.1]
  weight_decay: [0.0, 0.01]
  seed: [0, 1, 2, 3]
"""
EFFECTS = "Each setting against its other values"


def by_rate(settings: Settings, rng: np.random.Generator) -> Story:
    gain = {1e-4: 0.0, 3e-4: 0.02, 1e-3: 0.04}[settings.learning_rate]
    return healthy(near(0.85 + gain, rng, 0.003), epochs=2)


def test_the_one_setting_that_matters_is_named(tmp_path: Path) -> None:
    answer = settled_answer(QUESTION, results_of(tmp_path, by_rate, AXES))
    assert answer.verdict == "learning rate"
    assert "Of 3 settings, learning rate (lr 0.001 scores +" in answer.sentence
    assert "against the mean of the others, by condition +" in answer.sentence
    assert " points) matters" in answer.sentence
    rows = table_of(answer, EFFECTS).rows
    assert [row[0] for row in rows] == ["learning rate"] * 3 + ["dropout"] * 2 + ["weight decay"] * 2
    effect = rows[2][3]
    assert isinstance(effect, Estimate)
    assert effect.low < 0.03 < effect.high


def test_several_settings_that_matter_are_all_named(tmp_path: Path) -> None:
    def tell(settings: Settings, rng: np.random.Generator) -> Story:
        gain = {1e-4: 0.0, 3e-4: 0.02, 1e-3: 0.04}[settings.learning_rate]
        return healthy(near(0.82 + gain + 0.03 * (settings.dropout == 0.0), rng, 0.003), epochs=2)

    answer = settled_answer(QUESTION, results_of(tmp_path, tell, AXES))
    assert set(answer.verdict.split(" and ")) == {"learning rate", "dropout"}


def test_a_weak_setting_beside_a_strong_one_is_not_claimed_on_the_strength_of_that(tmp_path: Path) -> None:
    """What is named has to hold together with the report's other claims, each setting with its own p-value."""

    def tell(settings: Settings, rng: np.random.Generator) -> Story:
        gain = 0.08 * (settings.learning_rate == 1e-3) + 0.006 * (settings.dropout == 0.0)
        return healthy(near(0.82 + gain, rng, 0.003), epochs=2)

    weak = 0
    for seed in range(4):
        results = results_of(tmp_path, tell, AXES, seed=seed)
        answer = answer_to(QUESTION, results)
        p_values = {str(row[0]): float(str(row[4])) for row in table_of(answer, EFFECTS).rows}
        assert answer.claim is not None
        assert (answer.claim.verdict, answer.claim.p_value) == ("learning rate", p_values["learning rate"])
        alone = settle(answer, answer.claim.p_value)
        assert ("dropout" in alone.verdict) == (p_values["dropout"] < 0.05)
        among_ten = settle(answer, 10 * answer.claim.p_value)
        assert ("dropout" in among_ten.verdict) == (10 * p_values["dropout"] < 0.05)
        weak += alone.verdict != among_ten.verdict
    assert weak


def test_settings_without_an_effect_do_not_matter(tmp_path: Path) -> None:
    answer = settled_answer(QUESTION, results_of(tmp_path, lambda s, rng: healthy(near(0.88, rng), epochs=2), AXES))
    assert answer.verdict == UNDETERMINED
    assert "No setting is shown to matter (learning rate p" in answer.sentence


def test_a_setting_that_makes_runs_fail_matters(tmp_path: Path) -> None:
    """Failed runs count with what they scored."""

    def tell(settings: Settings, rng: np.random.Generator) -> Story:
        return at_chance(epochs=2) if settings.learning_rate == 1e-3 else healthy(near(0.88, rng), epochs=2)

    answer = settled_answer(QUESTION, results_of(tmp_path, tell, AXES))
    assert answer.verdict == "learning rate"
    assert "Validation selects lr 0.0001" in answer.sentence or "Validation selects lr 0.0003" in answer.sentence


def test_an_effect_that_differs_between_conditions_is_said_to(tmp_path: Path) -> None:
    def tell(settings: Settings, rng: np.random.Generator) -> Story:
        gain = (0.06 if settings.dropout == 0.0 else 0.0) * (settings.learning_rate == 1e-3)
        return healthy(near(0.85 + gain, rng, 0.003), epochs=2)

    answer = settled_answer(QUESTION, results_of(tmp_path, tell, AXES))
    assert "learning rate" in answer.verdict
    assert "differs between conditions" in answer.sentence


def test_settings_that_always_vary_together_are_one(tmp_path: Path) -> None:
    text = GRID.replace("[constant, linear]", "[constant, {name: linear, warmup_fraction: 0.1}]")

    def tell(settings: Settings, rng: np.random.Generator) -> Story:
        return healthy(near(0.86 + 0.04 * (settings.lr_schedule == "linear"), rng, 0.003))

    answer = settled_answer(QUESTION, results_of(tmp_path, tell, text))
    assert answer.verdict == "schedule with warm-up"


def test_the_best_combination_is_scored_on_seeds_that_did_not_select_it(tmp_path: Path) -> None:
    """Twelve equal combinations: the mean of the one that ranks first is too high, and the estimate is not."""
    excess = []
    for seed in range(3):
        results = results_of(tmp_path, lambda s, rng: healthy(0.85 + rng.normal(0, 0.02), epochs=2), AXES, seed=seed)
        answer = settled_answer(QUESTION, results)
        assert answer.estimate is not None
        first = table_of(answer, "All combinations").rows[0][4]
        assert isinstance(first, Estimate)
        excess.append(first.value - answer.estimate.value)
    assert float(np.mean(excess)) > 0.004


def test_combinations_are_ranked_by_validation(tmp_path: Path) -> None:
    rows = table_of(settled_answer(QUESTION, results_of(tmp_path, by_rate, AXES)), "All combinations").rows
    assert len(rows) == 12
    assert [row[0] for row in rows] == list(range(1, 13))
    assert all("lr 0.001" in str(row[1]) for row in rows[:4])
    accuracies = [row[3] for row in rows]
    assert accuracies == sorted(accuracies, key=lambda value: -float(str(value)))
    assert rows[0][5] is None


def test_a_combination_that_collapsed_ranks_by_the_checkpoint_that_is_kept(tmp_path: Path) -> None:
    results = results_of(
        tmp_path, lambda s, rng: collapsing(0.95) if s.learning_rate == 1e-3 else healthy(near(0.85, rng)), GRID
    )
    rows = table_of(settled_answer(QUESTION, results), "All combinations").rows
    assert all("lr 0.001" in str(row[1]) for row in rows[:4])


def test_one_seed_does_not_tell_a_setting_from_the_seed(tmp_path: Path) -> None:
    answer = settled_answer(QUESTION, results_of(tmp_path, by_rate, AXES.replace("[0, 1, 2, 3]", "[0]")))
    assert answer.verdict == UNDETERMINED
    assert "With one seed per condition" in answer.sentence


def test_runs_that_differ_in_their_seed_alone_are_not_asked_about(tmp_path: Path) -> None:
    text = (
        "data: {source: builtin:reviews, examples: 1000}\nfixed: {epochs: 4, model: tiny-bert}\naxes: {seed: [0, 1]}\n"
    )
    assert settled_answer(QUESTION, results_of(tmp_path, lambda s, rng: healthy(), text)).verdict == NOT_ASKED


def test_a_search_is_ranked_and_not_tested(tmp_path: Path) -> None:
    answer = settled_answer(QUESTION, search_study(tmp_path, better_by_rate(), SEARCH).results())
    assert (answer.verdict, answer.claim) == (UNDETERMINED, None)
    assert "Validation selects" in answer.sentence
    assert any("PED-ANOVA" in table.title for table in answer.tables)


@pytest.mark.parametrize("seed", range(3))
def test_shared_luck_with_seeds_is_not_an_effect(tmp_path: Path, seed: int) -> None:
    """A seed number moves all runs with it, by three points: no setting changes with the seed."""
    luck = np.random.default_rng(seed).normal(0, 0.03, 4)
    results = results_of(tmp_path, lambda s, rng: healthy(near(0.85 + luck[s.seed], rng, 0.002), epochs=2), AXES)
    assert settled_answer(QUESTION, results).verdict == UNDETERMINED
