"""The stable model fails less often, or spreads less without failing more."""

from pathlib import Path

import numpy as np
from synthetic_spaces import GRID, MODEL_RATES, answer_to, near, results_of
from synthetic_study import Story, collapsing, healthy

from analysis.answer import UNDETERMINED
from study.settings import Settings

QUESTION = "stability"


def test_the_model_that_fails_less_is_the_stable_one(tmp_path: Path) -> None:
    def story(settings: Settings, rng: np.random.Generator) -> Story:
        return collapsing() if settings.model == "tiny-roberta" and rng.random() < 0.6 else healthy()

    assert answer_to(QUESTION, results_of(tmp_path, story, GRID)).verdict == "tiny-bert"


def test_the_model_that_spreads_less_is_the_stable_one(tmp_path: Path) -> None:
    def story(settings: Settings, rng: np.random.Generator) -> Story:
        return healthy(near(0.88, rng, 0.03 if settings.model == "tiny-bert" else 0.001))

    answer = answer_to(QUESTION, results_of(tmp_path, story, GRID.replace("10000", "40000")))
    assert answer.verdict == "tiny-roberta"


def test_a_model_that_spreads_less_but_fails_more_is_not_the_stable_one(tmp_path: Path) -> None:
    def story(settings: Settings, rng: np.random.Generator) -> Story:
        if settings.model == "tiny-bert":
            return healthy(near(0.88, rng, 0.03))
        return collapsing(0.88) if settings.seed == 0 else healthy(near(0.88, rng, 0.001))

    answer = answer_to(QUESTION, results_of(tmp_path, story, GRID.replace("10000", "40000")))
    assert answer.verdict == UNDETERMINED
    assert "different models" in answer.sentence


def test_models_with_their_own_learning_rates_are_compared(tmp_path: Path) -> None:
    def story(settings: Settings, rng: np.random.Generator) -> Story:
        return collapsing() if settings.model == "tiny-roberta" and rng.random() < 0.7 else healthy()

    answer = answer_to(QUESTION, results_of(tmp_path, story, MODEL_RATES))
    assert answer.verdict == "tiny-bert"
    assert any("its own learning rate" in caveat for caveat in answer.caveats)
