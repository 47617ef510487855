"""Where there is nothing to be found, how often is something found? Over 200 studies, about as often as stated."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import binom
from synthetic_study import Story, collapsing, healthy, make, plan_of

from analysis.answer import UNDETERMINED
from analysis.questions import batch_size, calibration, early_stopping, lr_schedule, stability, tuning
from analysis.questions import which_split as validation_or_test
from study.plan.plan import SettingValues

STUDIES = 200
LEVEL = 0.05
# More findings than this are seen in one of ten thousand sets of studies whose rate is as stated.
MOST = int(binom.ppf(1 - 1e-4, STUDIES, LEVEL))

TEXT = """
data: {source: builtin:reviews, examples: 6000}
fixed: {epochs: 4}
axes:
  model: [tiny-bert, tiny-roberta]
  lr_schedule: [constant, linear]
  learning_rate: [5.0e-4, 1.0e-3]
  batch_size: [16, 17]
  seed: [0, 1, 2]
"""
NOTHING_FOUND = {
    "validation-or-test": {UNDETERMINED, "neither"},
    "calibration": {UNDETERMINED, "calibrated"},
    "stability": {UNDETERMINED},
    "tuning": {UNDETERMINED, "neither"},
    "batch-size": {UNDETERMINED, "no"},
    "lr-schedule": {UNDETERMINED},
}
ASK = {
    "validation-or-test": validation_or_test.answer,
    "calibration": calibration.answer,
    "stability": stability.answer,
    "tuning": tuning.answer,
    "batch-size": batch_size.answer,
    "lr-schedule": lr_schedule.answer,
}


def no_effect(settings: SettingValues, rng: np.random.Generator) -> Story:
    """Seeds differ and one run in ten fails, whatever the settings are."""
    accuracy = 0.88 + rng.normal(0, 0.008)
    return collapsing(accuracy) if rng.random() < 0.1 else healthy(accuracy)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_studies_without_an_effect_seldom_find_one(tmp_path: Path) -> None:
    space, plan = plan_of(tmp_path, TEXT)
    found: Counter[str] = Counter()
    apart = 0
    for number in range(STUDIES):
        results = make(space, plan, no_effect, seed=number).results()
        for name, ask in ASK.items():
            answer = ask(results, np.random.default_rng(number))
            harm = name == "lr-schedule" and answer.verdict == "no" and "harm" in answer.sentence
            found[name] += harm or (answer.verdict not in NOTHING_FOUND[name] and answer.verdict != "no")
            apart += name == "validation-or-test" and "disagree by more than chance" in answer.sentence
    assert {name: count for name, count in found.items() if count > MOST} == {}
    assert apart <= MOST


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_rule_that_costs_what_is_not_accepted_is_seldom_recommended(tmp_path: Path) -> None:
    """Stopping at the first dip costs exactly what is accepted: at the border, one rule in twenty may pass."""
    text = TEXT.replace("batch_size: [16, 17]", "batch_size: [16]").replace("[5.0e-4, 1.0e-3]", "[5.0e-4]")
    space, plan = plan_of(tmp_path, text)

    def dip(settings: SettingValues, rng: np.random.Generator) -> Story:
        accuracy = 0.88 + rng.normal(0, 0.004)
        lost = early_stopping.ACCEPTED_LOSS + rng.normal(0, 0.004)
        return Story(
            accuracy=[accuracy - lost, accuracy - 0.06, accuracy - 0.06, accuracy],
            train_loss=[0.4, 0.42, 0.4, 0.3],
            scale=[1.0] * 4,
        )

    named = 0
    for number in range(STUDIES):
        answer = early_stopping.answer(make(space, plan, dip, seed=number).results(), np.random.default_rng(number))
        named += answer.verdict.startswith(("patience 1", "patience 2"))
    assert named <= MOST
