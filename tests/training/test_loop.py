import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from loop_builder import FAMILIES, LENGTH, assert_same_bits, make_data, make_loop, make_settings, weights

from study.records import Epoch, Interval
from study.stopping import Policy
from study.training.loop import EpochEnd, FineTuning, State
from study.training.schedules import factor

# Never satisfied: the first evaluation is the best, and none after it improves by so much.
IMPATIENT = Policy(max_epochs=4, patience=1, min_delta=10.0)


def train(loop: FineTuning) -> tuple[list[Interval], list[Epoch]]:
    items = list(loop.run())
    intervals = [item for item in items if isinstance(item, Interval)]
    return intervals, [item.record for item in items if isinstance(item, EpochEnd)]


def without_clock(epoch: Epoch) -> dict[str, Any]:
    names = [name for name in Epoch.__slots__ if name not in ("train_seconds", "time")]
    return {name: getattr(epoch, name) for name in names}


def learning_rates(loop: FineTuning) -> list[float]:
    """Filled, while the loop runs, with the rate that each step really takes."""
    rates: list[float] = []
    loop.optimizer.register_step_pre_hook(lambda optimizer, *_: rates.append(optimizer.param_groups[0]["lr"]))
    return rates


@given(train_size=st.integers(1, 60), batch_size=st.integers(1, 30), steps=st.integers(1, 12))
@settings(max_examples=15, deadline=None)
def test_a_plan_by_steps_takes_exactly_those_steps(train_size: int, batch_size: int, steps: int) -> None:
    data = make_data("tiny-bert", train=train_size, evaluated=4)
    loop = make_loop(data, make_settings(epochs=None, optimizer_steps=steps, batch_size=batch_size))
    rates = learning_rates(loop)
    _, epochs = train(loop)
    steps_per_epoch = math.ceil(train_size / batch_size)
    whole, rest = divmod(steps, steps_per_epoch)
    assert len(rates) == loop.step == steps
    assert len(epochs) == whole + bool(rest)
    assert loop.examples_seen == whole * train_size + rest * batch_size
    assert loop.stop_reason == "epochs exhausted"


@pytest.mark.parametrize("schedule", ["constant", "linear", "cosine", "polynomial"])
def test_each_step_takes_the_schedules_rate(schedule: Any) -> None:
    power = 2.0 if schedule == "polynomial" else None
    chosen = make_settings(
        lr_schedule=schedule,
        polynomial_power=power,
        warmup_fraction=0.25,
        batch_size=8,
        lr_scaling="linear",
        learning_rate=1e-3,
    )
    loop = make_loop(make_data("tiny-bert", train=30), chosen)
    rates = learning_rates(loop)
    intervals, epochs = train(loop)
    expected = [
        5e-4 * factor(step, schedule=schedule, total_steps=8, warmup_fraction=0.25, polynomial_power=power or 1.0)
        for step in range(8)
    ]
    assert rates == pytest.approx(expected)
    assert [record.learning_rate for record in intervals] == [rates[i.optimizer_step - 1] for i in intervals]
    assert [record.learning_rate for record in epochs] == [rates[3], rates[7]]


def test_intervals_add_up_to_their_epoch() -> None:
    loop = make_loop(make_data("tiny-bert", train=100), make_settings(batch_size=8, log_every_examples=30))
    intervals, epochs = train(loop)
    assert [record.examples_seen for record in intervals] == [32, 64, 96, 100, 132, 164, 196, 200]
    assert [record.optimizer_step for record in intervals] == [4, 8, 12, 13, 17, 21, 25, 26]
    sizes = [32, 32, 32, 4]
    for epoch, first in zip(epochs, (0, 4), strict=True):
        part = intervals[first : first + 4]
        losses, norms = [record.train_loss for record in part], [record.gradient_norm for record in part]
        assert epoch.train_loss == pytest.approx(np.average(losses, weights=sizes))
        assert epoch.gradient_norm_mean == pytest.approx(np.average(norms, weights=[4, 4, 4, 1]))
        assert epoch.gradient_norm_max >= max(norms)
        assert epoch.non_finite_steps == 0


def test_the_update_ratio_is_that_of_the_steps_which_end_intervals() -> None:
    loop = make_loop(make_data("tiny-bert", train=40), make_settings(epochs=1, batch_size=20, log_every_examples=20))
    seen = [flat(loop)]
    loop.optimizer.register_step_post_hook(lambda *_: seen.append(flat(loop)))
    _, (epoch,) = train(loop)
    ratios = [float((after - before).norm() / before.norm()) for before, after in itertools.pairwise(seen)]
    assert len(ratios) == 2
    assert epoch.update_ratio == pytest.approx(np.mean(ratios), rel=1e-4)


def flat(loop: FineTuning) -> torch.Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in loop.parameters])


@pytest.mark.parametrize("limit", [None, 0.05, 1e9])
def test_clipping_bounds_the_gradient_and_what_is_reported_is_not_clipped(limit: float | None) -> None:
    loop = make_loop(make_data("tiny-bert", train=16), make_settings(epochs=1, max_gradient_norm=limit))
    norms: list[float] = []
    loop.optimizer.register_step_pre_hook(
        lambda *_: norms.append(
            float(torch.cat([p.grad.flatten() for p in loop.parameters if p.grad is not None]).norm())
        )
    )
    (interval,), _ = train(loop)
    assert interval.gradient_norm > 0.1
    assert norms[0] == pytest.approx(min(interval.gradient_norm, limit or math.inf), rel=1e-4)


def test_it_learns() -> None:
    chosen = make_settings(epochs=6, batch_size=16, dropout=None, max_gradient_norm=1.0)
    _, epochs = train(make_loop(make_data("tiny-bert", train=800, evaluated=200), chosen))
    assert epochs[-1].train_loss < epochs[0].train_loss - 0.1
    assert epochs[-1].validation_accuracy > 0.75


def test_dropout_is_on_in_training_alone_and_none_keeps_the_models_own() -> None:
    data = make_data("tiny-bert", train=16)
    losses = {
        dropout: train(make_loop(data, make_settings(epochs=1, dropout=dropout)))[1][0].train_loss
        for dropout in (None, 0.0, 0.1)
    }
    assert losses[None] == losses[0.1] != losses[0.0]


@pytest.mark.parametrize("family", FAMILIES)
def test_a_seed_decides_everything(family: str) -> None:
    data = make_data(family, train=50)

    def trained(seed: int) -> tuple[dict[str, torch.Tensor], list[dict[str, Any]]]:
        loop = make_loop(data, make_settings(model=family, dropout=0.1, seed=seed))
        train(loop)
        return weights(loop), [without_clock(epoch) for epoch in loop.epochs]

    one, again, other = trained(0), trained(0), trained(1)
    assert_same_bits(one[0], again[0])
    assert one[1] == again[1] != other[1]


def test_the_last_policy_decides_when_training_ends() -> None:
    data, chosen = make_data("tiny-bert", train=30), make_settings(epochs=4, dropout=0.1)
    early = make_loop(data, chosen, policies=[IMPATIENT])
    assert len(train(early)[1]) == 2
    assert early.stop_reason == "stopped early"
    patient = Policy(max_epochs=4, patience=2, min_delta=10.0)
    both = make_loop(data, chosen, policies=[IMPATIENT, patient])
    assert len(train(both)[1]) == 3
    assert both.stop_reason == "stopped early"
    never = make_loop(data, chosen, policies=[IMPATIENT, Policy(max_epochs=4)])
    assert len(train(never)[1]) == 4
    assert never.stop_reason == "epochs exhausted"


@pytest.mark.parametrize("family", FAMILIES)
def test_a_cell_that_shares_a_trajectory_has_the_records_of_one_trained_alone(family: str) -> None:
    data, chosen = make_data(family, train=30), make_settings(model=family, epochs=4, dropout=0.1)
    alone = [item for item in make_loop(data, chosen, policies=[IMPATIENT]).run() if isinstance(item, EpochEnd)]
    shared = make_loop(data, chosen, policies=[IMPATIENT, Policy(max_epochs=4)]).run()
    derived = [item for item in shared if isinstance(item, EpochEnd)][: len(alone)]
    for one, other in zip(alone, derived, strict=True):
        assert without_clock(one.record) == without_clock(other.record)
        assert one.predictions.keys() == other.predictions.keys()
        for split, predictions in one.predictions.items():
            assert np.array_equal(predictions.logits, other.predictions[split].logits)


def test_predictions_come_with_the_best_epochs_only() -> None:
    data = make_data("tiny-bert", train=100, evaluated=30)
    loop = make_loop(data, make_settings(epochs=8, learning_rate=3e-3, batch_size=16))
    ends = [item for item in loop.run() if isinstance(item, EpochEnd)]
    losses = [end.record.validation_loss for end in ends]
    accuracies = [end.record.validation_accuracy for end in ends]
    best = [
        epoch == 0 or losses[epoch] < min(losses[:epoch]) or accuracies[epoch] > max(accuracies[:epoch])
        for epoch in range(8)
    ]
    assert [set(end.predictions) == {"validation", "test"} for end in ends] == best
    assert [end.record.test_loss is not None for end in ends] == best
    assert not all(best)
    assert np.array_equal(ends[0].predictions["test"].example_id, data.test.ids)
    assert np.array_equal(ends[0].predictions["test"].label, data.test.labels)


def poison(loop: FineTuning, *, after_step: int) -> None:
    """What a step too long does to the weights, at a time of the test's choosing."""

    def overflow(*_: Any) -> None:
        if loop.step == after_step - 1:
            with torch.no_grad():
                loop.parameters[-1].fill_(math.nan)

    loop.optimizer.register_step_post_hook(overflow)


def test_a_loss_that_is_not_a_number_ends_training_and_is_recorded() -> None:
    loop = make_loop(make_data("tiny-bert", train=48), make_settings(epochs=4, batch_size=8, log_every_examples=16))
    poison(loop, after_step=9)
    intervals, epochs = train(loop)
    assert loop.stop_reason == "non-finite"
    assert [math.isnan(record.train_loss) for record in intervals] == [False, False, False, False, True]
    assert [record.optimizer_step for record in intervals] == [2, 4, 6, 8, 10]
    assert [math.isnan(record.train_loss) for record in epochs] == [False, True]
    assert [record.non_finite_steps for record in epochs] == [0, 1]
    assert math.isnan(epochs[1].validation_loss)
    assert epochs[1].test_loss is None
    assert (epochs[1].examples_seen, epochs[1].optimizer_step) == (80, 10)


def test_a_step_that_is_far_too_long_ends_training() -> None:
    loop = make_loop(make_data("tiny-bert", train=48), make_settings(batch_size=8, learning_rate=1e30))
    _, epochs = train(loop)
    assert loop.stop_reason == "non-finite"
    assert len(epochs) == 1


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_weights_and_optimizer_stay_in_float32(precision: Any) -> None:
    loop = make_loop(make_data("tiny-bert", train=16), make_settings(epochs=1), precision=precision)
    train(loop)
    state = loop.state().tensors
    kinds = {tensor.dtype for name, tensor in state.items() if not name.startswith("random.")}
    assert kinds == {torch.float32}


def clone(state: State) -> State:
    return State(tensors={name: tensor.clone() for name, tensor in state.tensors.items()}, values=state.values)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_loop_goes_on_from_each_of_its_states(family: str, precision: Any) -> None:
    data = make_data(family, train=40)
    chosen = make_settings(
        model=family, dropout=0.1, batch_size=8, micro_batch_size=3, log_every_examples=16, warmup_fraction=0.1
    )
    whole = make_loop(data, chosen, precision=precision)
    states = [clone(whole.state())]
    states += [clone(whole.state()) for _ in whole.run()]
    assert len(states) == 9
    for state in states:
        loop = make_loop(data, chosen, precision=precision)
        torch.rand(7)
        loop.load(state)
        train(loop)
        assert_same_bits(weights(loop), weights(whole))
        assert [without_clock(epoch) for epoch in loop.epochs] == [without_clock(epoch) for epoch in whole.epochs]
        assert (loop.step, loop.examples_seen, loop.stop_reason) == (10, 80, "epochs exhausted")


def test_a_run_that_ended_in_nan_goes_on_to_the_same_end() -> None:
    chosen = make_settings(epochs=4, batch_size=8, log_every_examples=16)
    data = make_data("tiny-bert", train=48)
    whole = make_loop(data, chosen)
    poison(whole, after_step=9)
    states = [clone(whole.state()) for _ in whole.run()]
    for state in states[-2:]:
        loop = make_loop(data, chosen)
        loop.load(state)
        train(loop)
        assert loop.stop_reason == "non-finite"
        assert repr([without_clock(e) for e in loop.epochs]) == repr([without_clock(e) for e in whole.epochs])


def test_what_memory_forced_is_part_of_the_state() -> None:
    data, chosen = make_data("tiny-bert", train=40), make_settings(batch_size=8, dropout=0.1)
    whole = make_loop(data, chosen)

    def limit(model: torch.nn.Module, arguments: tuple[Any, ...]) -> None:
        if model.training and whole.step >= 3 and len(arguments[0]) > 4:
            raise torch.OutOfMemoryError("the test's device is full")

    whole.model.register_forward_pre_hook(limit)
    states = [clone(whole.state()) for _ in whole.run()]
    assert (whole.micro_batch_size, whole.halved_at) == (4, [3])
    loop = make_loop(data, chosen)
    loop.load(states[0])
    train(loop)
    assert (loop.micro_batch_size, loop.halved_at) == (4, [3])
    assert_same_bits(weights(loop), weights(whole))


def test_no_padding_needs_no_mask() -> None:
    """Texts of one length are trained without a mask; with one that hides nothing, they learn the same."""
    data = make_data("tiny-bert", train=20, shortest=LENGTH)
    without = make_loop(data, make_settings())
    masks: list[bool] = []
    without.model.register_forward_pre_hook(lambda _, arguments: masks.append(arguments[1] is not None))
    train(without)
    assert not any(masks)
