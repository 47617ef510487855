"""A stopping rule is recommended if it is shown to cost nothing that counts, and epochs that it saves are counted."""

from pathlib import Path

from synthetic_spaces import ASHA, SMALL, answer_to, results_of, search_study
from synthetic_study import Story, collapsing, healthy, pruned

from analysis.answer import UNDETERMINED
from study.records import Outcome

QUESTION = "early_stopping"
EIGHT_EPOCHS = SMALL.replace("epochs: 4", "epochs: 8")


def test_the_rule_that_costs_nothing_is_recommended(tmp_path: Path) -> None:
    """Loss dips once at epoch 2 and is best at epoch 3: patience 1 stops too early, patience 2 loses nothing."""
    story = Story(
        accuracy=[0.8, 0.78, 0.9, 0.89, 0.88, 0.87, 0.87, 0.87],
        train_loss=[0.5, 0.45, 0.3, 0.25, 0.2, 0.15, 0.1, 0.1],
        scale=[1.0] * 8,
    )
    answer = answer_to(QUESTION, results_of(tmp_path, lambda settings, rng: story, EIGHT_EPOCHS))
    assert answer.verdict == "patience 2 on loss"
    assert answer.estimate is not None
    assert answer.estimate.value == 0


def test_runs_that_continue_to_improve_are_not_to_be_stopped(tmp_path: Path) -> None:
    """Every rule of patience up to 3 stops within the long plateau before the rise."""
    story = Story(
        accuracy=[0.7, 0.68, 0.68, 0.68, 0.68, 0.8, 0.85, 0.9], train_loss=[0.6] * 5 + [0.4, 0.3, 0.2], scale=[1.0] * 8
    )
    answer = answer_to(QUESTION, results_of(tmp_path, lambda settings, rng: story, EIGHT_EPOCHS))
    assert answer.verdict == "not early"


def test_runs_that_ended_at_chance_are_left_out_and_counted(tmp_path: Path) -> None:
    results = results_of(tmp_path, lambda settings, rng: collapsing() if settings.seed == 0 else healthy())
    answer = answer_to(QUESTION, results)
    assert [row[1] for row in answer.tables[0].rows] == [12] * 6
    assert any(caveat.startswith("4 runs that ended no better than chance are left out") for caveat in answer.caveats)


def test_without_whole_trajectories_the_commands_train_some(tmp_path: Path) -> None:
    stopped = SMALL.replace("fixed: {epochs: 4}", "fixed: {epochs: 4, early_stopping: {patience: 1}}")
    outcome = Outcome(status="complete", stop_reason="stopped early", epochs=2)
    fall = Story(accuracy=[0.9, 0.8], train_loss=[0.5, 0.4], scale=[1.0] * 2, outcome=outcome)
    answer = answer_to(QUESTION, results_of(tmp_path, lambda settings, rng: fall, stopped))
    assert answer.verdict == UNDETERMINED
    assert any("early_stopping=" in proposal.command for proposal in answer.next_commands)
    all_pruned = search_study(tmp_path, lambda settings, rng: pruned(), ASHA).results()
    answer = answer_to(QUESTION, all_pruned)
    assert answer.verdict == UNDETERMINED
    assert "search.scheduler=none" in answer.next_commands[0].command
