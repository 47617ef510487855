"""Over- and under-confidence are found, by condition where these differ; so is a loss that rises with accuracy."""

import re
from pathlib import Path

import numpy as np
import pytest
from synthetic_spaces import GRID, SMALL, answer_to, near, results_of, settled_answer, table_of
from synthetic_study import Story, at_chance, healthy

from analysis.answer import UNDETERMINED
from analysis.questions import calibration
from analysis.statistics.estimate import Estimate
from study.settings import Settings

QUESTION = "calibration"
ONE_SEED = SMALL.replace("seed: [0, 1, 2, 3]", "seed: [0]")
# Twenty conditions, as search_spaces/paper.yaml has them.
TWENTY = """
data: {source: builtin:reviews, examples: 4000}
fixed: {epochs: 2}
axes:
  model: [tiny-bert, tiny-roberta]
  lr_schedule: [constant, linear]
  batch_size: [16, 17, 18, 19, 20]
  seed: [0, 1, 2]
"""


@pytest.mark.parametrize(("scale", "verdict"), [(2.0, "over-confident"), (0.5, "under-confident"), (1.0, "calibrated")])
def test_confidence_is_judged_and_the_temperature_undoes_the_scale(tmp_path: Path, scale: float, verdict: str) -> None:
    text = SMALL.replace("10000", "60000")
    results = results_of(tmp_path, lambda settings, rng: healthy(near(0.9, rng, 0.002), scale=scale), text)
    answer = settled_answer(QUESTION, results)
    assert answer.verdict == verdict
    temperatures = [row[answer.tables[0].columns.index("temperature")] for row in answer.tables[0].rows]
    for temperature in temperatures:
        assert isinstance(temperature, Estimate)
        assert temperature.value == pytest.approx(scale, rel=0.1)


def test_models_of_which_one_is_over_and_one_under_confident_depend_on_the_condition(tmp_path: Path) -> None:
    """Their mean gap is nothing that either has; a review of this project found it called "under-confident"."""

    def tell(settings: Settings, rng: np.random.Generator) -> Story:
        return healthy(near(0.9, rng, 0.002), scale=0.4 if settings.model == "tiny-bert" else 1.8)

    answer = settled_answer(QUESTION, results_of(tmp_path, tell))
    assert answer.verdict == "depends on the condition"
    assert "Some conditions are over- and some under-confident: tiny-roberta" in answer.sentence
    assert "The models are" not in answer.sentence


@pytest.mark.parametrize("over", [1, 3])
def test_conditions_of_which_some_are_over_confident_and_the_rest_calibrated_have_one_direction(
    tmp_path: Path, over: int
) -> None:
    def tell(settings: Settings, rng: np.random.Generator) -> Story:
        index = 2 * (settings.model == "tiny-bert") + (settings.learning_rate == 1e-3)
        return healthy(near(0.9, rng, 0.002), scale=3.0 if index < over else 1.0)

    answer = settled_answer(QUESTION, results_of(tmp_path, tell, SMALL.replace("10000", "30000")))
    assert answer.verdict == "over-confident"
    verb = "is" if over == 1 else "are"
    assert f"of 4 conditions, {over} {verb} shown to be over-confident and 0 under-confident" in answer.sentence


def test_few_examples_show_neither(tmp_path: Path) -> None:
    text = SMALL.replace("10000", "600").replace("[0, 1, 2, 3]", "[0, 1]")
    answer = settled_answer(QUESTION, results_of(tmp_path, lambda s, rng: healthy(near(0.85, rng)), text))
    assert answer.verdict == UNDETERMINED
    assert answer.sentence.startswith("Neither over- nor under-confidence is shown")


def test_one_checkpoint_is_judged_over_its_examples(tmp_path: Path) -> None:
    """What a checkpoint says of these texts is a fact of it, whatever other seeds do."""
    text = ONE_SEED.replace("[tiny-bert, tiny-roberta]", "[tiny-bert]").replace("[5.0e-4, 1.0e-3]", "[5.0e-4]")
    answer = settled_answer(QUESTION, results_of(tmp_path, lambda s, rng: healthy(0.9, scale=4.0), text))
    assert answer.verdict == "over-confident"
    assert answer.sentence.startswith("This checkpoint is over-confident")
    assert "over the test examples alone" in answer.sentence
    assert "temperature 3." in answer.sentence or "temperature 4." in answer.sentence
    calibrated = settled_answer(QUESTION, results_of(tmp_path, lambda s, rng: healthy(0.9), text))
    # Of new seeds nothing can be excluded.
    assert calibrated.verdict == UNDETERMINED


@pytest.mark.parametrize("text", [SMALL, ONE_SEED.replace("10000", "50000")])
def test_a_loss_that_rises_with_accuracy_is_explained(tmp_path: Path, text: str) -> None:
    """With one seed over the examples alone: an earlier report denied such a rise without having tested it."""

    def tell(settings: Settings, rng: np.random.Generator) -> Story:
        better = settings.model == "tiny-roberta"
        return healthy(near(0.87 + 0.05 * better, rng, 0.001), scale=5.0 if better else 1.0)

    sentence = settled_answer(QUESTION, results_of(tmp_path, tell, text)).sentence
    assert "From tiny-bert · lr" in sentence
    assert "to tiny-roberta · lr" in sentence
    assert re.search(r"test accuracy and test loss both rise \(p [<=] 0\.0\d+, corrected for all pairs\)", sentence)
    assert "so wrong answers are given with more confidence" in sentence


def test_a_loss_that_rises_without_accuracy_is_no_such_pair(tmp_path: Path) -> None:
    def tell(settings: Settings, rng: np.random.Generator) -> Story:
        better = settings.model == "tiny-roberta"
        return healthy(near(0.9 - 0.03 * better, rng, 0.001), scale=4.0 if better else 1.0)

    sentence = settled_answer(QUESTION, results_of(tmp_path, tell)).sentence
    assert "In no pair of conditions are test accuracy and test loss shown to rise together" in sentence


def test_among_twenty_equally_accurate_conditions_no_rise_of_accuracy_is_found(tmp_path: Path) -> None:
    """Their losses differ by far, so that one of 380 pairs has a rise of accuracy by chance in nearly every study."""
    found = 0
    for seed in range(4):

        def tell(settings: Settings, rng: np.random.Generator) -> Story:
            return healthy(near(0.88, rng, 0.005), scale=1 + (settings.batch_size - 16) / 2, epochs=2)

        found += "both rise" in answer_to(QUESTION, results_of(tmp_path, tell, TWENTY, seed=seed)).sentence
    assert found == 0


def test_runs_at_chance_have_no_calibration(tmp_path: Path) -> None:
    results = results_of(tmp_path, lambda settings, rng: at_chance() if settings.seed == 0 else healthy(scale=2.0))
    answer = settled_answer(QUESTION, results)
    assert answer.verdict == "over-confident"
    assert "4 runs not better than chance on validation are left out" in answer.caveats[0]
    nothing = settled_answer(QUESTION, results_of(tmp_path, lambda settings, rng: at_chance()))
    assert nothing.verdict == UNDETERMINED
    assert "No ended run has a checkpoint that is better than chance" in nothing.sentence


def test_conditions_and_panels_that_are_left_out_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calibration, "MOST_ROWS", 5)
    monkeypatch.setattr(calibration, "MOST_PANELS", 3)
    results = results_of(tmp_path, lambda settings, rng: healthy(near(0.9, rng), scale=1 + settings.seed / 10), GRID)
    answer = answer_to(QUESTION, results)
    table = table_of(answer, "Calibration")
    assert len(table.shown_rows) == 5
    assert table.full_note.endswith("3 more conditions are not shown.")
    assert len(answer.figures[0].shown_panels) == 3
    assert answer.figures[0].full_caption.endswith("1 more panel is not shown.")
