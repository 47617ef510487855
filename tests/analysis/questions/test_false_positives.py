"""Questions about 200 studies without any effect: they find one about as often as their level says."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import binom
from synthetic_study import Story, collapsing, healthy, make_synthetic, plan_of

from analysis.answer import UNDETERMINED
from analysis.findings import load_question
from analysis.questions import early_stopping
from study.settings import Settings

STUDIES = 200
LEVEL = 0.05
# More false findings than this occur in one of ten thousand sets of studies if the rate is as stated.
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
# The verdicts that claim no effect.
NO_EFFECT = {
    "which_split": {UNDETERMINED, "neither"},
    "calibration": {UNDETERMINED, "calibrated"},
    "stability": {UNDETERMINED},
    "tuning": {UNDETERMINED, "neither"},
    "batch_size": {UNDETERMINED, "no"},
    "lr_schedule": {UNDETERMINED},
}


def no_effect(settings: Settings, rng: np.random.Generator) -> Story:
    """Seeds differ and one run in ten fails, whatever the settings are."""
    accuracy = 0.88 + rng.normal(0, 0.008)
    return collapsing(accuracy) if rng.random() < 0.1 else healthy(accuracy)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_studies_without_an_effect_seldom_show_one(tmp_path: Path) -> None:
    space, plan = plan_of(tmp_path, TEXT)
    false_findings: Counter[str] = Counter()
    disagreements = 0
    for number in range(STUDIES):
        results = make_synthetic(space, plan, no_effect, seed=number).results()
        for name, verdicts in NO_EFFECT.items():
            answer = load_question(name).answer(results, np.random.default_rng(number))
            harm = name == "lr_schedule" and answer.verdict == "no" and "harm" in answer.sentence
            false_findings[name] += harm or (answer.verdict not in verdicts and answer.verdict != "no")
            disagreements += name == "which_split" and "disagree by more than chance" in answer.sentence
    assert {name: count for name, count in false_findings.items() if count > MOST} == {}
    assert disagreements <= MOST


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_rule_that_costs_too_much_is_seldom_recommended(tmp_path: Path) -> None:
    """Stopping at the first dip costs exactly what is accepted: at that border, one rule in twenty may pass."""
    text = TEXT.replace("batch_size: [16, 17]", "batch_size: [16]").replace("[5.0e-4, 1.0e-3]", "[5.0e-4]")
    space, plan = plan_of(tmp_path, text)

    def dip(settings: Settings, rng: np.random.Generator) -> Story:
        accuracy = 0.88 + rng.normal(0, 0.004)
        lost = early_stopping.ACCEPTED_LOSS + rng.normal(0, 0.004)
        return Story(
            accuracy=[accuracy - lost, accuracy - 0.06, accuracy - 0.06, accuracy],
            train_loss=[0.4, 0.42, 0.4, 0.3],
            scale=[1.0] * 4,
        )

    recommended = 0
    for number in range(STUDIES):
        results = make_synthetic(space, plan, dip, seed=number).results()
        answer = early_stopping.answer(results, np.random.default_rng(number))
        recommended += answer.verdict.startswith(("patience 1", "patience 2"))
    assert recommended <= MOST
