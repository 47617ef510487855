"""An effect of batch size is attributed to the batch itself or to the number of updates."""

from pathlib import Path

import pytest
from synthetic_spaces import BATCHES, answer_to, batches_differ, results_of

from analysis.answer import UNDETERMINED

QUESTION = "batch_size"


@pytest.mark.parametrize(
    ("by_batch", "by_updates", "verdict"),
    [(0.05, 0.0, "yes"), (0.0, 0.05, "the number of updates"), (0.0, 0.0, "no")],
)
def test_the_batch_and_the_updates_are_separated(
    tmp_path: Path, by_batch: float, by_updates: float, verdict: str
) -> None:
    answer = answer_to(QUESTION, results_of(tmp_path, batches_differ(by_batch, by_updates), BATCHES))
    assert answer.verdict == verdict


def test_a_single_learning_rate_shows_nothing_about_batch_size(tmp_path: Path) -> None:
    text = BATCHES.replace("[5.0e-4, 1.0e-3]", "[5.0e-4]")
    answer = answer_to(QUESTION, results_of(tmp_path, batches_differ(0.05, 0.0), text))
    assert answer.verdict == UNDETERMINED
    assert "only one learning rate" in answer.sentence
