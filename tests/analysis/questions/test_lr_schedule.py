"""A schedule prevents failures, does harm or makes no difference, by its shape or by its lower mean rate."""

import shlex
from pathlib import Path

import numpy as np
import yaml
from synthetic_spaces import GRID, SEARCH, SIX_CHOICES, SMALL, answer_to, near, results_of, search_study, table_of
from synthetic_study import Story, collapsing, healthy

from analysis.answer import UNDETERMINED
from study.settings import Settings

QUESTION = "lr_schedule"


def constant_fails(settings: Settings, rng: np.random.Generator) -> Story:
    fails = settings.lr_schedule == "constant" and rng.random() < 0.7
    return collapsing(near(0.88, rng)) if fails else healthy(near(0.88, rng))


def test_a_schedule_that_prevents_failures_by_its_shape(tmp_path: Path) -> None:
    """Constant runs fail at either rate: 5e-4 constant has the mean of 1e-3 linear, so it is the shape."""
    answer = answer_to(QUESTION, results_of(tmp_path, constant_fails, GRID))
    assert answer.verdict == "yes"
    assert "by its shape" in answer.sentence
    assert [row[1] for row in table_of(answer, "The shape, or the lower mean rate?").rows] == [16, 16, 16]


def test_a_schedule_that_prevents_failures_by_its_lower_mean_rate(tmp_path: Path) -> None:
    def story(settings: Settings, rng: np.random.Generator) -> Story:
        fails = settings.lr_schedule == "constant" and settings.learning_rate == 1e-3
        return collapsing(near(0.88, rng)) if fails else healthy(near(0.88, rng))

    answer = answer_to(QUESTION, results_of(tmp_path, story, GRID))
    assert answer.verdict == "yes"
    assert "its lower mean rate suffices" in answer.sentence


def test_without_failures_there_is_nothing_to_prevent(tmp_path: Path) -> None:
    answer = answer_to(QUESTION, results_of(tmp_path, lambda settings, rng: healthy(near(0.88, rng)), GRID))
    assert answer.verdict == UNDETERMINED
    assert "nothing to prevent" in answer.sentence


def test_a_harmful_schedule_is_named_as_such(tmp_path: Path) -> None:
    def story(settings: Settings, rng: np.random.Generator) -> Story:
        return collapsing() if settings.lr_schedule == "linear" and rng.random() < 0.7 else healthy()

    answer = answer_to(QUESTION, results_of(tmp_path, story, GRID))
    assert answer.verdict == "no"
    assert "did harm" in answer.sentence


def test_runs_at_chance_of_unknown_cause_are_not_counted(tmp_path: Path) -> None:
    text = SMALL.replace("10000", "900").replace("[linear]", "[constant, linear]")
    answer = answer_to(QUESTION, results_of(tmp_path, lambda settings, rng: healthy(0.53), text))
    assert "known to have failed or not" in answer.sentence


def test_a_proposed_range_contains_the_old_range_and_the_proposed_rates(tmp_path: Path) -> None:
    choices = [{**choice, "lr_schedule": name} for choice in SIX_CHOICES for name in ("constant", "linear")]
    results = search_study(tmp_path, lambda settings, rng: healthy(), SEARCH, choices).results()
    words = [word for proposal in answer_to(QUESTION, results).next_commands for word in shlex.split(proposal.command)]
    override = next(word for word in words if word.startswith("learning_rate="))
    proposed = yaml.safe_load(override.partition("=")[2].replace("e-", ".0e-"))
    assert proposed["log"] is True
    assert float(proposed["low"]) <= 1e-5
    assert float(proposed["high"]) >= 1e-3
