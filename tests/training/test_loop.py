"""The loop: its steps, its records, when it ends, and that each of its states resumes to the bit."""

import itertools
import math
from typing import Any

import hypothesis
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from loop_builder import FAMILIES, LENGTH, assert_same_bits, make_data, make_loop, make_settings, weights

from study.records import Epoch, Interval
from study.stopping import StoppingPolicy
from study.training.loop import EpochEnd, FineTuning, LoopState
from study.training.schedules import LearningRate

# Stops after the second evaluation: no loss improves by as much as ``min_delta``.
IMPATIENT = StoppingPolicy(max_epochs=4, patience=1, min_delta=10.0)


def train(loop: FineTuning) -> tuple[list[Interval], list[Epoch]]:
    items = list(loop.run())
    intervals = [item for item in items if isinstance(item, Interval)]
    return intervals, [item.record for item in items if isinstance(item, EpochEnd)]


def without_clock(epoch: Epoch) -> dict[str, Any]:
    names = [name for name in Epoch.__slots__ if name not in ("train_seconds", "time")]
    return {name: getattr(epoch, name) for name in names}


def learning_rates(loop: FineTuning) -> list[float]:
    """The rate that the optimizer uses at each step, appended while the loop runs."""
    rates: list[float] = []
    loop.optimizer.register_step_pre_hook(lambda optimizer, *_: rates.append(optimizer.param_groups[0]["lr"]))
    return rates


@given(train_size=st.integers(1, 60), batch_size=st.integers(1, 30), steps=st.integers(1, 12))
@hypothesis.settings(max_examples=15, deadline=None)
def test_a_length_in_optimizer_steps_is_trained_exactly(train_size: int, batch_size: int, steps: int) -> None:
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
def test_each_step_uses_the_rate_of_the_schedule(schedule: Any) -> None:
    settings = make_settings(
        lr_schedule=schedule,
        polynomial_power=2.0 if schedule == "polynomial" else None,
        warmup_fraction=0.25,
        batch_size=8,
        lr_scaling="linear",
        learning_rate=1e-3,
    )
    loop = make_loop(make_data("tiny-bert", train=30), settings)
    rates = learning_rates(loop)
    intervals, epochs = train(loop)
    schedule_of_run = LearningRate.of(settings, total_steps=8)
    assert rates == pytest.approx([5e-4 * schedule_of_run.factor(step) for step in range(8)])
    assert [record.learning_rate for record in intervals] == [rates[i.optimizer_step - 1] for i in intervals]
    assert [record.learning_rate for record in epochs] == [rates[3], rates[7]]


def test_the_intervals_of_an_epoch_add_up_to_it() -> None:
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


def test_the_update_ratio_is_measured_on_the_last_step_of_each_interval() -> None:
    loop = make_loop(make_data("tiny-bert", train=40), make_settings(epochs=1, batch_size=20, log_every_examples=20))
    snapshots = [flat_weights(loop)]
    loop.optimizer.register_step_post_hook(lambda *_: snapshots.append(flat_weights(loop)))
    _, (epoch,) = train(loop)
    ratios = [float((after - before).norm() / before.norm()) for before, after in itertools.pairwise(snapshots)]
    assert len(ratios) == 2
    assert epoch.update_ratio == pytest.approx(np.mean(ratios), rel=1e-4)


def flat_weights(loop: FineTuning) -> torch.Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in loop.parameters])


@pytest.mark.parametrize("limit", [None, 0.05, 1e9])
def test_clipping_bounds_the_gradient_but_not_the_recorded_norm(limit: float | None) -> None:
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


def test_training_lowers_the_loss_and_learns_the_task() -> None:
    settings = make_settings(epochs=6, batch_size=16, dropout=None, max_gradient_norm=1.0)
    _, epochs = train(make_loop(make_data("tiny-bert", train=800, evaluated=200), settings))
    assert epochs[-1].train_loss < epochs[0].train_loss - 0.1
    assert epochs[-1].validation["accuracy"] > 0.75


def test_dropout_none_keeps_the_probability_of_the_model() -> None:
    data = make_data("tiny-bert", train=16)
    losses = {
        dropout: train(make_loop(data, make_settings(epochs=1, dropout=dropout)))[1][0].train_loss
        for dropout in (None, 0.0, 0.1)
    }
    assert losses[None] == losses[0.1] != losses[0.0]


@pytest.mark.parametrize("family", FAMILIES)
def test_the_seed_determines_everything(family: str) -> None:
    data = make_data(family, train=50)

    def trained(seed: int) -> tuple[dict[str, torch.Tensor], list[dict[str, Any]]]:
        loop = make_loop(data, make_settings(model=family, dropout=0.1, seed=seed))
        train(loop)
        return weights(loop), [without_clock(epoch) for epoch in loop.epochs]

    first, repeated, other_seed = trained(0), trained(0), trained(1)
    assert_same_bits(first[0], repeated[0])
    assert first[1] == repeated[1] != other_seed[1]


def test_training_ends_once_every_policy_has_stopped() -> None:
    data, settings = make_data("tiny-bert", train=30), make_settings(epochs=4, dropout=0.1)
    early = make_loop(data, settings, policies=[IMPATIENT])
    assert len(train(early)[1]) == 2
    assert early.stop_reason == "stopped early"
    patient = StoppingPolicy(max_epochs=4, patience=2, min_delta=10.0)
    both = make_loop(data, settings, policies=[IMPATIENT, patient])
    assert len(train(both)[1]) == 3
    assert both.stop_reason == "stopped early"
    never = make_loop(data, settings, policies=[IMPATIENT, StoppingPolicy(max_epochs=4)])
    assert len(train(never)[1]) == 4
    assert never.stop_reason == "epochs exhausted"


@pytest.mark.parametrize("family", FAMILIES)
def test_a_cell_on_a_shared_trajectory_has_the_records_of_the_same_cell_trained_alone(family: str) -> None:
    data, settings = make_data(family, train=30), make_settings(model=family, epochs=4, dropout=0.1)
    alone = [item for item in make_loop(data, settings, policies=[IMPATIENT]).run() if isinstance(item, EpochEnd)]
    shared = make_loop(data, settings, policies=[IMPATIENT, StoppingPolicy(max_epochs=4)]).run()
    derived = [item for item in shared if isinstance(item, EpochEnd)][: len(alone)]
    for own, shared_end in zip(alone, derived, strict=True):
        assert without_clock(own.record) == without_clock(shared_end.record)
        assert own.predictions.keys() == shared_end.predictions.keys()
        for split, predictions in own.predictions.items():
            assert np.array_equal(predictions.logits, shared_end.predictions[split].logits)


def test_predictions_are_kept_on_validation_of_every_epoch_and_on_test_of_the_best_so_far() -> None:
    data = make_data("tiny-bert", train=100, evaluated=30)
    loop = make_loop(data, make_settings(epochs=8, learning_rate=3e-3, batch_size=16))
    ends = [item for item in loop.run() if isinstance(item, EpochEnd)]
    losses = [end.record.validation["loss"] for end in ends]
    accuracies = [end.record.validation["accuracy"] for end in ends]
    best = [
        epoch == 0 or losses[epoch] < min(losses[:epoch]) or accuracies[epoch] > max(accuracies[:epoch])
        for epoch in range(8)
    ]
    assert [list(end.predictions) for end in ends] == [
        ["validation", "test"] if is_best else ["validation"] for is_best in best
    ]
    assert [end.record.test is not None for end in ends] == best
    assert not all(best)
    assert np.array_equal(ends[0].predictions["test"].example_id, data.test.ids)
    assert np.array_equal(ends[0].predictions["test"].label, data.test.labels)
    for end in ends:
        predictions = end.predictions["validation"]
        assert np.array_equal(predictions.example_id, data.validation.ids)
        correct = predictions.logits.argmax(axis=1) == data.validation.labels
        assert float(correct.mean()) == pytest.approx(end.record.validation["accuracy"])


def poison(loop: FineTuning, *, after_step: int) -> None:
    """Make a weight NaN after the optimizer step ``after_step``, as a far too large step would."""

    def overflow(*_: Any) -> None:
        if loop.step == after_step - 1:
            with torch.no_grad():
                loop.parameters[-1].fill_(math.nan)

    loop.optimizer.register_step_post_hook(overflow)


def test_a_nan_loss_ends_training_and_is_recorded() -> None:
    loop = make_loop(make_data("tiny-bert", train=48), make_settings(epochs=4, batch_size=8, log_every_examples=16))
    poison(loop, after_step=9)
    intervals, epochs = train(loop)
    assert loop.stop_reason == "non-finite"
    assert [math.isnan(record.train_loss) for record in intervals] == [False, False, False, False, True]
    assert [record.optimizer_step for record in intervals] == [2, 4, 6, 8, 10]
    assert [math.isnan(record.train_loss) for record in epochs] == [False, True]
    assert [record.non_finite_steps for record in epochs] == [0, 1]
    assert math.isnan(epochs[1].validation["loss"])
    assert epochs[1].test is None
    assert (epochs[1].examples_seen, epochs[1].optimizer_step) == (80, 10)


def test_an_epoch_without_a_finite_score_keeps_no_predictions() -> None:
    loop = make_loop(make_data("tiny-bert", train=48), make_settings(epochs=4, batch_size=8))
    poison(loop, after_step=9)
    ends = [item for item in loop.run() if isinstance(item, EpochEnd)]
    assert [set(end.predictions) for end in ends] == [{"validation", "test"}, set()]


def test_a_far_too_large_learning_rate_ends_training() -> None:
    loop = make_loop(make_data("tiny-bert", train=48), make_settings(batch_size=8, learning_rate=1e30))
    _, epochs = train(loop)
    assert loop.stop_reason == "non-finite"
    assert len(epochs) == 1


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_weights_and_optimizer_state_stay_in_float32(precision: Any) -> None:
    loop = make_loop(make_data("tiny-bert", train=16), make_settings(epochs=1), precision=precision)
    train(loop)
    state = loop.state().tensors
    kinds = {tensor.dtype for name, tensor in state.items() if not name.startswith("random.")}
    assert kinds == {torch.float32}


def clone(state: LoopState) -> LoopState:
    return LoopState(tensors={name: tensor.clone() for name, tensor in state.tensors.items()}, values=state.values)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_loop_resumes_from_each_of_its_states_to_the_bit(family: str, precision: Any) -> None:
    data = make_data(family, train=40)
    settings = make_settings(
        model=family, dropout=0.1, batch_size=8, micro_batch_size=3, log_every_examples=16, warmup_fraction=0.1
    )
    whole = make_loop(data, settings, precision=precision)
    states = [clone(whole.state())]
    states += [clone(whole.state()) for _ in whole.run()]
    assert len(states) == 9
    for state in states:
        loop = make_loop(data, settings, precision=precision)
        torch.rand(7)
        loop.load(state)
        train(loop)
        assert_same_bits(weights(loop), weights(whole))
        assert [without_clock(epoch) for epoch in loop.epochs] == [without_clock(epoch) for epoch in whole.epochs]
        assert (loop.step, loop.examples_seen, loop.stop_reason) == (10, 80, "epochs exhausted")


def test_a_run_that_ends_in_nan_resumes_to_the_same_end() -> None:
    settings = make_settings(epochs=4, batch_size=8, log_every_examples=16)
    data = make_data("tiny-bert", train=48)
    whole = make_loop(data, settings)
    poison(whole, after_step=9)
    states = [clone(whole.state()) for _ in whole.run()]
    for state in states[-2:]:
        loop = make_loop(data, settings)
        loop.load(state)
        train(loop)
        assert loop.stop_reason == "non-finite"
        assert repr(list(map(without_clock, loop.epochs))) == repr(list(map(without_clock, whole.epochs)))


def test_a_halved_micro_batch_is_part_of_the_state() -> None:
    data, settings = make_data("tiny-bert", train=40), make_settings(batch_size=8, dropout=0.1)
    whole = make_loop(data, settings)

    def limit(model: torch.nn.Module, arguments: tuple[Any, ...]) -> None:
        if model.training and whole.step >= 3 and len(arguments[0]) > 4:
            raise torch.OutOfMemoryError("the test's device is full")

    whole.model.register_forward_pre_hook(limit)
    states = [clone(whole.state()) for _ in whole.run()]
    assert (whole.micro_batch_size, whole.halved_at) == (4, [3])
    loop = make_loop(data, settings)
    loop.load(states[0])
    train(loop)
    assert (loop.micro_batch_size, loop.halved_at) == (4, [3])
    assert_same_bits(weights(loop), weights(whole))


def test_texts_of_one_length_are_trained_without_a_mask() -> None:
    data = make_data("tiny-bert", train=20, shortest=LENGTH)
    loop = make_loop(data, make_settings())
    masks: list[bool] = []
    loop.model.register_forward_pre_hook(lambda _, arguments: masks.append(arguments[1] is not None))
    train(loop)
    assert masks
    assert not any(masks)
