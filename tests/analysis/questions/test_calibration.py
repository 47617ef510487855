"""Over- and under-confidence are found, and a test loss that rises with accuracy is explained."""

from pathlib import Path

import numpy as np
import pytest
from synthetic_spaces import GRID, SMALL, answer_to, near, results_of, table_of
from synthetic_study import Story, at_chance, healthy

from analysis.evidence import condition_calibration
from analysis.questions import calibration
from analysis.statistics.estimate import Estimate
from study.settings import Settings

QUESTION = "calibration"


@pytest.mark.parametrize(("scale", "verdict"), [(2.0, "over-confident"), (0.5, "under-confident"), (1.0, "calibrated")])
def test_confidence_is_judged_and_the_temperature_undoes_the_scale(tmp_path: Path, scale: float, verdict: str) -> None:
    text = SMALL.replace("10000", "60000")
    results = results_of(tmp_path, lambda settings, rng: healthy(near(0.9, rng, 0.002), scale=scale), text)
    answer = answer_to(QUESTION, results)
    assert answer.verdict == verdict
    temperatures = [row[answer.tables[0].columns.index("temperature")] for row in answer.tables[0].rows]
    for temperature in temperatures:
        assert isinstance(temperature, Estimate)
        assert temperature.value == pytest.approx(scale, rel=0.1)


def test_a_loss_that_rises_with_accuracy_is_explained(tmp_path: Path) -> None:
    def story(settings: Settings, rng: np.random.Generator) -> Story:
        better = settings.model == "tiny-roberta"
        return healthy(near(0.9 + 0.02 * better, rng, 0.001), scale=4.0 if better else 1.0)

    answer = answer_to(QUESTION, results_of(tmp_path, story))
    assert "Where loss rises most with accuracy (tiny-bert" in answer.sentence
    assert "given with more confidence" in answer.sentence


def test_runs_at_chance_have_no_calibration(tmp_path: Path) -> None:
    results = results_of(tmp_path, lambda settings, rng: at_chance() if settings.seed == 0 else healthy(scale=2.0))
    answer = answer_to(QUESTION, results)
    assert answer.verdict == "over-confident"
    assert "4 runs no better than chance" in answer.caveats[0]


def test_conditions_panels_and_pairs_that_are_left_out_are_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(calibration, "MOST_ROWS", 5)
    monkeypatch.setattr(calibration, "MOST_PANELS", 3)
    monkeypatch.setattr(condition_calibration, "MOST_PAIRS", 0)
    results = results_of(tmp_path, lambda settings, rng: healthy(near(0.9, rng), scale=1 + settings.seed / 10), GRID)
    answer = answer_to(QUESTION, results)
    table = table_of(answer, "Calibration")
    assert len(table.shown_rows) == 5
    assert table.full_note.endswith("3 more conditions are not shown.")
    assert len(answer.figures[0].shown_panels) == 3
    # Each panel pools 16 runs, two rates of 8 seeds each.
    assert "each panel has its first 8 runs only. 1 more panel is not shown." in answer.figures[0].full_caption
    assert "pairs of conditions with the largest rises of loss, none shows" in answer.sentence
