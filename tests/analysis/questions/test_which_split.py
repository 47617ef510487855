"""A difference between models is found on test, excluded, or too small for this study, which then says so."""

from pathlib import Path

from synthetic_spaces import MODEL_RATES, SMALL, answer_to, models_differ, results_of, table_of

from analysis.answer import UNDETERMINED
from analysis.statistics.intervals import mcnemar_exact

QUESTION = "which_split"


def test_a_difference_of_two_points_is_found(tmp_path: Path) -> None:
    answer = answer_to(QUESTION, results_of(tmp_path, models_differ(0.02), SMALL.replace("10000", "30000")))
    assert answer.verdict == "tiny-roberta"
    assert answer.estimate is not None
    assert answer.estimate.low < -0.02 < answer.estimate.high < 0
    assert "agree within chance" in answer.sentence


def test_an_interval_around_zero_shows_that_neither_is_better(tmp_path: Path) -> None:
    answer = answer_to(QUESTION, results_of(tmp_path, models_differ(0.0), SMALL.replace("10000", "60000")))
    assert answer.verdict == "neither"


def test_a_small_test_split_is_undetermined_and_its_smallest_difference_is_reported(tmp_path: Path) -> None:
    answer = answer_to(QUESTION, results_of(tmp_path, models_differ(0.002), SMALL.replace("10000", "2000")))
    assert answer.verdict == UNDETERMINED
    assert "would only find a difference of" in answer.sentence


def test_each_seed_has_its_own_mcnemar_test(tmp_path: Path) -> None:
    results = results_of(tmp_path, models_differ(0.02))
    rows = table_of(answer_to(QUESTION, results), "McNemar").rows
    assert len(rows) == 8
    first, second = (
        next(run for run in results.runs if run.settings.model == model and run.settings.learning_rate == 5e-4)
        for model in ("tiny-bert", "tiny-roberta")
    )
    correct = [scores.correct for run in (first, second) if (scores := results.predictions.scores(run.owner, "test"))]
    assert tuple(rows[0][3:]) == mcnemar_exact(*correct)


def test_models_with_their_own_learning_rates_are_compared(tmp_path: Path) -> None:
    answer = answer_to(QUESTION, results_of(tmp_path, models_differ(0.02), MODEL_RATES))
    assert answer.verdict == "tiny-roberta"
    assert any("its own learning rate" in caveat for caveat in answer.caveats)
    assert [row[2] for row in table_of(answer, "by condition").rows] == [5] * 4
