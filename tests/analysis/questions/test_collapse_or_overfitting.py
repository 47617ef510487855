"""What happened to runs is named: collapse, overfitting, decline or never having learned, and none of it by chance."""

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from synthetic_spaces import GRID, SMALL, answer_to, near, results_of, table_of
from synthetic_study import (
    Story,
    at_chance,
    collapsing,
    collapsing_at_the_end,
    declining,
    healthy,
    memorised,
    non_finite,
    over_confident_late,
    overfitting,
    recovering,
    story,
)

from analysis.answer import UNDETERMINED, Answer, Panel
from analysis.evidence import learning_curves
from analysis.questions import collapse_or_overfitting
from study.settings import Settings

QUESTION = "collapse_or_overfitting"


def answer_of(folder: Path, *stories: Story, text: str = SMALL) -> Answer:
    """The answer where the seeds of every condition have these stories in turn."""
    return answer_to(QUESTION, results_of(folder, lambda settings, rng: stories[settings.seed % len(stories)], text))


@pytest.mark.parametrize(
    ("tell", "verdict"),
    [
        (collapsing, "collapse"),
        (collapsing_at_the_end, "collapse"),
        (lambda: recovering(at=None), "collapse"),
        (non_finite, "collapse"),
        (overfitting, "overfitting"),
        (memorised, "overfitting"),
        (declining, "decline"),
        (recovering, "decline"),
        (at_chance, "never learned"),
        (over_confident_late, "no"),
        (healthy, "no"),
    ],
)
def test_what_happened_to_half_of_the_runs_is_named(tmp_path: Path, tell: Callable[[], Story], verdict: str) -> None:
    assert answer_of(tmp_path, tell(), healthy()).verdict == verdict


@pytest.mark.parametrize(
    ("stories", "verdict"),
    [
        ((collapsing, overfitting), "collapse and overfitting"),
        ((collapsing, declining, at_chance, healthy), "collapse, decline and never learned"),
        ((over_confident_late, collapsing), "collapse"),
    ],
)
def test_several_things_that_happened_are_all_named(
    tmp_path: Path, stories: Sequence[Callable[[], Story]], verdict: str
) -> None:
    assert answer_of(tmp_path, *(tell() for tell in stories)).verdict == verdict


def test_loss_that_rises_with_accuracy_kept_is_no_overfitting(tmp_path: Path) -> None:
    """One condition collapses, and in all others loss creeps up while accuracy rises to the end: not both."""

    def tell(settings: Settings, rng: np.random.Generator) -> Story:
        if settings.model == "tiny-roberta" and settings.learning_rate == 1e-3:
            return collapsing()
        return story([0.88, 0.89, 0.9, 0.905], [0.3, 0.15, 0.06, 0.02], scale=[1.0, 2.0, 3.5, 5.0])

    answer = answer_to(QUESTION, results_of(tmp_path, tell))
    assert answer.verdict == "collapse"
    assert "In 12 of 16 ended runs, validation loss rose late with accuracy kept: over-confidence" in answer.sentence
    without = answer_of(tmp_path, over_confident_late())
    assert without.verdict == "no"
    assert "overfitted" not in without.sentence


def test_a_model_that_memorised_is_not_said_to_have_fallen(tmp_path: Path) -> None:
    sentence = answer_of(tmp_path, memorised(), healthy()).sentence
    assert "memorised the training texts" in sentence
    assert "accuracy fell" not in sentence


def test_a_collapse_is_a_fact_of_one_run_whose_training_loss_rules_overfitting_out(tmp_path: Path) -> None:
    text = SMALL.replace("seed: [0, 1, 2, 3]", "seed: [0]")

    def tell(settings: Settings, rng: np.random.Generator) -> Story:
        return collapsing() if settings.learning_rate == 1e-3 and settings.model == "tiny-bert" else healthy()

    answer = answer_to(QUESTION, results_of(tmp_path, tell, text))
    assert answer.verdict == "collapse"
    assert answer.sentence.startswith("1 of 4 ended runs (tiny-bert · lr 0.001: 1 of 1, so 3 % to 100 % of its seeds)")
    assert "it at epoch 3: one class for every text, training loss 0.69 nats" in answer.sentence
    assert "which is that of chance and rules overfitting out" in answer.sentence
    assert any("seed=" in proposal.command for proposal in answer.next_commands)


def test_the_collapse_that_is_told_is_the_earliest(tmp_path: Path) -> None:
    """Seed 0 ends without a number and seed 1 collapses last; seed 2 did so first."""
    early = story([0.85, None, None, None], [0.5, 0.694, 0.694, 0.694])
    answer = answer_of(tmp_path, non_finite(), collapsing_at_the_end(), early, healthy())
    assert "(the first at epoch 2: one class for every text" in answer.sentence


def test_a_collapse_to_answers_at_random_is_not_told_as_one_class(tmp_path: Path) -> None:
    told = story([0.85, 0.9, 0.5, 0.5], [0.5, 0.35, 0.694, 0.694], spurious=0.6)
    sentence = answer_of(tmp_path, told, healthy()).sentence
    assert "at epoch 3: accuracy no better than chance, training loss 0.69" in sentence
    assert "one class" not in sentence


def test_a_collapse_without_a_flat_training_loss_does_not_claim_to_rule_overfitting_out(tmp_path: Path) -> None:
    sentence = answer_of(tmp_path, collapsing_at_the_end(), healthy()).sentence
    assert "at epoch 4: one class for every text)" in sentence
    assert "rules overfitting out" not in sentence


@pytest.mark.parametrize(("overfitted", "verdict"), [(0, "no"), (1, "no"), (3, "overfitting")])
def test_a_single_drop_among_many_runs_may_be_chance(tmp_path: Path, overfitted: int, verdict: str) -> None:
    """64 runs: the rule finds a drop where there is none in two of ten thousand runs."""

    def tell(settings: Settings, rng: np.random.Generator) -> Story:
        first = settings.model == "tiny-bert" and settings.learning_rate == 1e-3 and settings.lr_schedule == "linear"
        return overfitting() if first and settings.seed < overfitted else healthy()

    assert answer_to(QUESTION, results_of(tmp_path, tell, GRID)).verdict == verdict


def test_runs_without_any_drop_are_never_said_to_overfit(tmp_path: Path) -> None:
    """60 validation examples, an epoch's noise of its own and a calibrated plateau: 256 runs, and no finding."""
    told = story([0.86, 0.88, 0.88, 0.88], [0.35, 0.3, 0.27, 0.24], flicker=0.5)
    text = GRID.replace("10000", "600")
    for seed in range(4):
        results = results_of(tmp_path, lambda settings, rng: told, text, seed=seed)
        assert answer_to(QUESTION, results).verdict == "no"


def test_conditions_that_failed_are_named_with_their_rates(tmp_path: Path) -> None:
    results = results_of(tmp_path, lambda settings, rng: collapsing() if settings.seed == 0 else healthy())
    answer = answer_to(QUESTION, results)
    rates = re.findall(r"(tiny-\w+ · lr [\d.]+): 1 of 4, so 1 % to 81 % of its seeds", answer.sentence)
    assert len(rates) == 4
    # No rate over unlike conditions is estimated.
    assert answer.estimate is None
    assert any("predicts one class for every example" in method for method in answer.methods)


def test_runs_of_which_none_learned_could_not_drop(tmp_path: Path) -> None:
    answer = answer_of(tmp_path, at_chance())
    assert answer.verdict == UNDETERMINED
    assert "None of 16 ended runs is shown to have learned (16 flat, cause open)" in answer.sentence


def test_a_validation_split_that_is_too_small_is_neither_a_failure_nor_learning(tmp_path: Path) -> None:
    """60 examples and runs of true accuracy .62: a review of this project found 33 of 40 of such runs "failed"."""
    text = SMALL.replace("10000", "600").replace("[linear]", "[constant, linear]")
    results = results_of(tmp_path, lambda settings, rng: healthy(0.62), text)
    answer = answer_to(QUESTION, results)
    assert answer.verdict in (UNDETERMINED, "no")
    assert not any(diagnosis.failed for diagnosis in results.diagnoses.values())
    assert any("with 60 validation examples" in caveat for caveat in answer.caveats)


def test_rows_bars_and_curves_that_are_not_shown_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(learning_curves, "MOST_GROUPS", 3)
    monkeypatch.setattr(collapse_or_overfitting, "MOST_BARS", 6)
    monkeypatch.setattr(collapse_or_overfitting, "MOST_CONDITIONS", 7)

    results = results_of(tmp_path, lambda settings, rng: collapsing() if settings.seed == 0 else healthy(), GRID)
    answer = answer_to(QUESTION, results)
    by_condition, by_run = (table_of(answer, title) for title in ("Failures by condition", "Each run"))
    assert (len(by_condition.shown_rows), len(by_run.shown_rows)) == (7, 60)
    assert by_condition.full_note.endswith("Conditions that failed most come first. 1 more row is not shown.")
    assert by_run.full_note.endswith("4 more rows are not shown.")
    # The worst runs come first where not all are shown.
    assert {row[1] for row in by_run.rows[:8]} == {"collapsed"}
    curves, rates = answer.figures
    assert len(curves.shown_panels) == 6
    assert curves.full_caption.endswith("1 more group is not shown.")
    assert rates.full_caption.endswith("2 more conditions are not shown.")
    assert "; 4 more conditions)" in answer.sentence


def test_a_collapse_is_marked_on_both_curves(tmp_path: Path) -> None:
    """On accuracy at its first epoch at chance, on training loss at the last value before the collapse."""
    results = results_of(tmp_path, lambda settings, rng: collapsing(near(0.9, rng)))
    curves = answer_to(QUESTION, results).figures[0]
    accuracy, loss = (panel for panel in curves.panels if panel.title.startswith("tiny-bert"))
    assert isinstance(accuracy, Panel)
    assert isinstance(loss, Panel)
    assert [line.marks for line in accuracy.lines] == [[(line.x[2], line.y[2])] for line in accuracy.lines]
    assert [[y for _, y in line.marks] for line in loss.lines] == [[0.35]] * 8


def test_one_run_of_a_condition_has_no_rate_worth_a_bar(tmp_path: Path) -> None:
    text = SMALL.replace("seed: [0, 1, 2, 3]", "seed: [0]")
    answer = answer_of(tmp_path, replace(collapsing()), text=text)
    assert [figure.name for figure in answer.figures if figure.name == "failure-rates"] == []
    assert {row[4] for row in table_of(answer, "Failures by condition").rows} == {None}
