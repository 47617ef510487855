"""Every stopping rule is replayed as the study would apply it, with what it saves and what it costs."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from synthetic_spaces import SMALL, results_of
from synthetic_study import Story, collapsing, make_synthetic, plan_of, story

from analysis.evidence.stopping_rules import RULES, Replay, replay, rule_name, whole_runs
from analysis.results import Results
from study.scoring import METRICS
from study.settings import EarlyStopping
from study.stopping import StoppingPolicy, decide

TEXT = SMALL.replace("epochs: 4", "epochs: 6").replace("[0, 1, 2, 3]", "[0]")
# Best at 2, worse at 3 and 4, and best of all at 5.
LATE = story([0.8, 0.86, 0.84, 0.83, 0.9, 0.89], [0.5, 0.4, 0.35, 0.3, 0.25, 0.2])


def replays_of(folder: Path, told: Story) -> dict[EarlyStopping, Replay]:
    results = results_of(folder, lambda settings, rng: told, TEXT)
    run = whole_runs(results)[0]
    return {rule: replay(results, run, rule) for rule in RULES}


def test_there_are_rules_for_every_metric() -> None:
    assert {rule.metric for rule in RULES} == set(METRICS)
    assert rule_name(EarlyStopping(metric="loss", patience=2)) == "patience 2 on loss"


def test_a_rule_saves_the_epochs_after_its_stop_and_costs_what_was_best_there(tmp_path: Path) -> None:
    replays = replays_of(tmp_path, LATE)
    first, third = (replays[EarlyStopping(metric="accuracy", patience=patience)] for patience in (1, 3))
    assert first.saved == pytest.approx(3 / 6)
    assert first.validation_lost == pytest.approx(0.04, abs=0.015)
    assert first.test_lost is not None
    assert first.test_lost.mean() == pytest.approx(0.04, abs=0.02)
    assert set(np.unique(first.test_lost)) <= {-1.0, 0.0, 1.0}
    assert (third.saved, third.validation_lost) == (0.0, 0.0)
    assert third.test_lost is not None
    assert not third.test_lost.any()


@pytest.mark.parametrize("rule", RULES, ids=rule_name)
def test_a_replay_stops_where_the_study_would(tmp_path: Path, rule: EarlyStopping) -> None:
    results = results_of(tmp_path, lambda settings, rng: LATE, TEXT)
    run = results.runs[0]
    replayed = replay(results, run, rule)
    policy = StoppingPolicy(max_epochs=6, patience=rule.patience, metric=rule.metric, checkpoint_metric="accuracy")
    decision = decide([epoch.validation for epoch in run.epochs], policy)
    assert replayed.saved == pytest.approx(1 - decision.stop_epoch / 6)
    best = [decide([e.validation for e in run.epochs], p).best_epoch for p in (replace(policy, patience=None), policy)]
    accuracies = [run.epochs[epoch - 1].validation["accuracy"] for epoch in best]
    assert replayed.validation_lost == pytest.approx(accuracies[0] - accuracies[1])


def test_a_collapse_after_the_best_epoch_costs_nothing_to_stop(tmp_path: Path) -> None:
    told = collapsing()
    told = replace(
        told, accuracy=[*told.accuracy, None, None], train_loss=[*told.train_loss, 0.69, 0.69], scale=[1] * 6
    )
    replayed = replays_of(tmp_path, told)[EarlyStopping(metric="loss", patience=1)]
    assert replayed.saved == pytest.approx(3 / 6)
    assert replayed.validation_lost == 0


def test_without_predictions_the_cost_on_test_is_not_known(tmp_path: Path) -> None:
    space, plan = plan_of(tmp_path, TEXT)
    study = make_synthetic(space, plan, lambda settings, rng: LATE)
    results: Results = replace(study, predictions={}).results()
    run = whole_runs(results)[0]
    assert all(replay(results, run, rule).test_lost is None for rule in RULES)


def test_a_run_without_a_finite_score_has_no_checkpoint_to_select(tmp_path: Path) -> None:
    nothing = story([float("nan")] * 2, [0.5, 0.5])
    results = results_of(tmp_path, lambda settings, rng: nothing, TEXT)
    assert whole_runs(results) == []
