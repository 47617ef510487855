"""When cells stop and which epoch validation selects, as rules on a history."""

import math
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from study.scoring import Scores
from study.stopping import Decision, StoppingPolicy, best_epoch, decide

NAN = math.nan
# Falls, rises for one epoch, falls once more and rises for good; the best accuracy comes late.
LOSSES = [0.60, 0.50, 0.55, 0.48, 0.49, 0.52, 0.60]
ACCURACIES = [0.70, 0.76, 0.75, 0.78, 0.79, 0.79, 0.77]


def history(losses: Sequence[float], accuracies: Sequence[float] | None = None) -> list[Scores]:
    pairs = zip(losses, accuracies or [0.5] * len(losses), strict=True)
    return [{"loss": loss, "accuracy": accuracy} for loss, accuracy in pairs]


@pytest.mark.parametrize(
    ("policy", "stop", "best", "stopped", "early"),
    [
        (StoppingPolicy(max_epochs=7), 7, 5, True, False),
        (StoppingPolicy(max_epochs=3), 3, 2, True, False),
        (StoppingPolicy(max_epochs=9), 7, 5, False, False),
        (StoppingPolicy(), 7, 5, False, False),
        (StoppingPolicy(max_epochs=7, patience=1), 3, 2, True, True),
        (StoppingPolicy(max_epochs=7, patience=2), 6, 5, True, True),
        (StoppingPolicy(max_epochs=7, patience=3), 7, 5, True, False),
        (StoppingPolicy(max_epochs=9, patience=3), 7, 5, True, True),
        (StoppingPolicy(max_epochs=9, patience=4), 7, 5, False, False),
        (StoppingPolicy(max_epochs=7, patience=2, checkpoint_metric="loss"), 6, 4, True, True),
        (StoppingPolicy(max_epochs=7, patience=1, metric="accuracy"), 3, 2, True, True),
        (StoppingPolicy(max_epochs=7, patience=2, metric="accuracy"), 7, 5, True, False),
        # 0.48 is better than 0.50, but not by more than 0.03, so nothing after epoch 2 counts.
        (StoppingPolicy(max_epochs=7, patience=2, min_delta=0.03), 4, 4, True, True),
        (StoppingPolicy(max_epochs=3, patience=1), 3, 2, True, False),
    ],
)
def test_policies_on_one_history(policy: StoppingPolicy, stop: int, best: int, stopped: bool, early: bool) -> None:
    expected = Decision(stop_epoch=stop, best_epoch=best, stopped=stopped, early=early)
    assert decide(history(LOSSES, ACCURACIES), policy) == expected


def test_an_equal_score_is_not_an_improvement_and_the_earlier_epoch_is_selected() -> None:
    same = history([0.5, 0.5, 0.5], [0.6, 0.6, 0.6])
    assert decide(same, StoppingPolicy(max_epochs=3, patience=2, checkpoint_metric="loss")).stop_epoch == 3
    assert decide(same, StoppingPolicy(max_epochs=5, patience=1)).stop_epoch == 2
    assert best_epoch(same, "loss") == best_epoch(same, "accuracy") == 1


def test_an_improvement_of_exactly_min_delta_does_not_count() -> None:
    assert decide(history([0.50, 0.25]), StoppingPolicy(max_epochs=9, patience=1, min_delta=0.25)).stopped
    assert not decide(history([0.50, 0.24]), StoppingPolicy(max_epochs=9, patience=1, min_delta=0.25)).stopped


@pytest.mark.parametrize(
    ("losses", "stop", "best"),
    [
        ([NAN, NAN, 0.5], 2, 0),
        ([NAN, 0.7, 0.8, 0.9], 4, 2),
        ([0.7, NAN, 0.6, NAN, NAN], 5, 3),
        ([math.inf, math.inf], 2, 0),
        ([], 0, 0),
    ],
)
def test_a_score_that_is_not_finite_is_worse_than_every_other(losses: list[float], stop: int, best: int) -> None:
    decision = decide(
        history(losses), StoppingPolicy(max_epochs=9, patience=2, min_delta=0.01, checkpoint_metric="loss")
    )
    assert (decision.stop_epoch, decision.best_epoch) == (stop, best)


values = st.one_of(st.floats(0, 2), st.sampled_from([0.5, 0.6, NAN, math.inf]))
accuracies = st.one_of(st.floats(0, 1), st.just(NAN))
histories = st.lists(st.fixed_dictionaries({"loss": values, "accuracy": accuracies}), max_size=12)
metrics = st.sampled_from(["loss", "accuracy"])
policies = st.builds(
    StoppingPolicy,
    max_epochs=st.one_of(st.none(), st.integers(1, 14)),
    patience=st.one_of(st.none(), st.integers(1, 5)),
    min_delta=st.one_of(st.just(0.0), st.floats(0, 0.5)),
    metric=metrics,
    checkpoint_metric=metrics,
)


@given(histories, policies)
def test_a_derived_cell_is_equal_to_the_same_cell_trained_alone(long: list[Scores], policy: StoppingPolicy) -> None:
    """Trained alone, it is decided on after every epoch, and ends at the first where it stops."""
    alone = next((n for n in range(1, len(long) + 1) if decide(long[:n], policy).stopped), None)
    derived = decide(long, policy)
    if alone is None:
        assert not derived.stopped
        assert derived.stop_epoch == len(long)
    else:
        assert derived == decide(long[:alone], policy)
        assert derived.stop_epoch == alone


@given(histories, policies)
def test_the_selected_epoch_was_the_best_so_far_when_it_was_trained(long: list[Scores], policy: StoppingPolicy) -> None:
    """Training keeps predictions of those epochs only."""
    chosen = decide(long, policy).best_epoch
    assert chosen == 0 or best_epoch(long[:chosen], policy.checkpoint_metric) == chosen


@given(histories, policies)
def test_a_decision_is_consistent(long: list[Scores], policy: StoppingPolicy) -> None:
    decision = decide(long, policy)
    assert 0 <= decision.best_epoch <= decision.stop_epoch <= len(long)
    assert decision.stop_epoch <= (policy.max_epochs or len(long))
    assert decision.stopped or not decision.early
    if policy.patience is None:
        assert not decision.early


@given(histories, policies)
def test_more_patience_never_stops_earlier(long: list[Scores], policy: StoppingPolicy) -> None:
    if policy.patience is not None:
        more = StoppingPolicy(
            max_epochs=policy.max_epochs,
            patience=policy.patience + 1,
            min_delta=policy.min_delta,
            metric=policy.metric,
        )
        assert decide(long, more).stop_epoch >= decide(long, policy).stop_epoch
