"""The learning rate of each step, compared with published definitions, the library and literal numbers."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import transformers
from hypothesis import given
from hypothesis import strategies as st
from loop_builder import make_settings

from study.training.schedules import LearningRate

SCHEDULES = ("constant", "linear", "cosine", "polynomial")

# Ten optimizer steps, the first two of them warm-up: 0 and 1/2, then eight steps of what the papers define.
FACTORS: dict[str, list[float]] = {
    "constant": [0, 1 / 2, 1, 1, 1, 1, 1, 1, 1, 1],
    "linear": [0, 1 / 2, 1, 7 / 8, 6 / 8, 5 / 8, 4 / 8, 3 / 8, 2 / 8, 1 / 8],
    "cosine": [0, 1 / 2] + [(1 + math.cos(math.pi * k / 8)) / 2 for k in range(8)],
    "polynomial": [0, 1 / 2] + [(1 - k / 8) ** 2 for k in range(8)],
}


def make_learning_rate(schedule: str, total_steps: int, *, power: float = 2.0, **values: Any) -> LearningRate:
    """The learning rate of a run; ``power`` is that of a polynomial schedule."""
    settings = make_settings(
        lr_schedule=schedule, polynomial_power=power if schedule == "polynomial" else None, **values
    )
    assert not settings.contradiction
    return LearningRate.of(settings, total_steps)


def test_the_schedules_tested_here_are_all_that_settings_allow() -> None:
    schema = type(make_settings()).model_json_schema()
    assert tuple(schema["properties"]["lr_schedule"]["enum"]) == SCHEDULES


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_a_schedule_is_its_published_definition(schedule: str) -> None:
    learning_rate = make_learning_rate(schedule, 10, warmup_fraction=0.2, learning_rate=3e-4)
    assert [learning_rate.factor(step) for step in range(10)] == pytest.approx(FACTORS[schedule], abs=1e-15)
    assert [learning_rate.at(step) for step in range(10)] == pytest.approx(
        [3e-4 * factor for factor in FACTORS[schedule]], abs=1e-18
    )


def library_schedule(schedule: str, *, total: int, warmup: int, power: float) -> Callable[[int], float]:
    """The factor of each step by transformers' schedule of that name."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    make: dict[str, Callable[[], torch.optim.lr_scheduler.LambdaLR]] = {
        "constant": lambda: transformers.get_constant_schedule_with_warmup(optimizer, warmup),
        "linear": lambda: transformers.get_linear_schedule_with_warmup(optimizer, warmup, total),  # type: ignore[no-untyped-call]
        "cosine": lambda: transformers.get_cosine_schedule_with_warmup(optimizer, warmup, total),
        "polynomial": lambda: transformers.get_polynomial_decay_schedule_with_warmup(  # type: ignore[no-untyped-call]
            optimizer, warmup, total, lr_end=0.0, power=power
        ),
    }
    return make[schedule]().lr_lambdas[0]


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize(("total", "warmup_fraction"), [(1, 0.0), (7, 0.0), (40, 0.1), (375, 0.06), (50, 0.5)])
def test_a_schedule_is_that_of_transformers(schedule: str, total: int, warmup_fraction: float) -> None:
    learning_rate = make_learning_rate(schedule, total, power=3.0, warmup_fraction=warmup_fraction)
    expected = library_schedule(schedule, total=total, warmup=learning_rate.warmup_steps, power=3.0)
    for step in range(total):
        assert learning_rate.factor(step) == pytest.approx(expected(step), abs=1e-12)


@given(
    st.sampled_from(SCHEDULES), st.integers(1, 10_000), st.floats(0, 1, exclude_max=True), st.floats(0.1, 5), st.data()
)
def test_a_factor_is_between_0_and_1_and_never_rises_after_warm_up(
    schedule: str, total: int, warmup_fraction: float, power: float, data: st.DataObject
) -> None:
    learning_rate = make_learning_rate(schedule, total, power=power, warmup_fraction=warmup_fraction)
    step = data.draw(st.integers(0, total - 1))
    now, after = learning_rate.factor(step), learning_rate.factor(step + 1)
    assert 0 <= now <= 1
    assert after >= now if step < learning_rate.warmup_steps else after <= now


@pytest.mark.parametrize(
    ("total", "fraction", "steps"), [(100, 0.0, 0), (100, 0.1, 10), (375, 0.06, 22), (3, 0.1, 0), (10, 0.99, 10)]
)
def test_the_warm_up_fraction_becomes_whole_steps(total: int, fraction: float, steps: int) -> None:
    assert make_learning_rate("constant", total, warmup_fraction=fraction).warmup_steps == steps


def test_an_unknown_schedule_is_named() -> None:
    learning_rate = LearningRate(peak=1e-3, schedule="step", total_steps=10, warmup_steps=0, polynomial_power=1.0)
    with pytest.raises(ValueError, match="unknown lr schedule 'step'"):
        learning_rate.factor(5)


@pytest.mark.parametrize(
    ("scaling", "batch_size", "expected"),
    [
        ("none", 16, 5e-5),
        ("none", 4096, 5e-5),
        ("linear", 16, 5e-5),
        ("linear", 256, 8e-4),
        ("linear", 8, 2.5e-5),
        ("sqrt", 256, 2e-4),
        ("sqrt", 16, 5e-5),
    ],
)
def test_the_peak_scales_with_the_batch_size(scaling: str, batch_size: int, expected: float) -> None:
    learning_rate = make_learning_rate(
        "constant", 10, learning_rate=5e-5, lr_scaling=scaling, batch_size=batch_size, lr_scaling_base_batch_size=16
    )
    assert learning_rate.peak == pytest.approx(expected)


# Of 8 optimizer steps the rates of steps 0, 1, 2, 4 and 7, at a learning rate of 1e-3 and a batch of 64, whose base is
# 16: the peak is 1e-3, 2e-3 (square root) or 4e-3 (in proportion). A warm-up of 0.25 is two steps.
RATES: list[tuple[str, str, float, float, tuple[float, float, float, float, float]]] = [
    ("constant", "none", 0.0, 1e-3, (1e-3, 1e-3, 1e-3, 1e-3, 1e-3)),
    ("constant", "sqrt", 0.25, 2e-3, (0.0, 1e-3, 2e-3, 2e-3, 2e-3)),
    ("constant", "linear", 0.25, 4e-3, (0.0, 2e-3, 4e-3, 4e-3, 4e-3)),
    ("linear", "none", 0.0, 1e-3, (1e-3, 0.875e-3, 0.75e-3, 0.5e-3, 0.125e-3)),
    ("linear", "sqrt", 0.25, 2e-3, (0.0, 1e-3, 2e-3, 1.33333333e-3, 0.33333333e-3)),
    ("linear", "linear", 0.0, 4e-3, (4e-3, 3.5e-3, 3e-3, 2e-3, 0.5e-3)),
    ("cosine", "none", 0.0, 1e-3, (1e-3, 0.96193977e-3, 0.85355339e-3, 0.5e-3, 0.03806023e-3)),
    ("cosine", "sqrt", 0.0, 2e-3, (2e-3, 1.92387953e-3, 1.70710678e-3, 1e-3, 0.07612047e-3)),
    ("cosine", "linear", 0.25, 4e-3, (0.0, 2e-3, 4e-3, 3e-3, 0.26794919e-3)),
    ("polynomial", "none", 0.25, 1e-3, (0.0, 0.5e-3, 1e-3, 0.44444444e-3, 0.02777778e-3)),
    ("polynomial", "sqrt", 0.0, 2e-3, (2e-3, 1.53125e-3, 1.125e-3, 0.5e-3, 0.03125e-3)),
    ("polynomial", "linear", 0.0, 4e-3, (4e-3, 3.0625e-3, 2.25e-3, 1e-3, 0.0625e-3)),
]


@pytest.mark.parametrize(("schedule", "scaling", "warmup", "peak", "rates"), RATES)
def test_settings_become_these_rates(
    schedule: str, scaling: str, warmup: float, peak: float, rates: tuple[float, ...]
) -> None:
    learning_rate = make_learning_rate(
        schedule, 8, learning_rate=1e-3, batch_size=64, lr_scaling=scaling, warmup_fraction=warmup
    )
    assert learning_rate.peak == pytest.approx(peak)
    assert learning_rate.warmup_steps == 8 * warmup
    assert [learning_rate.at(step) for step in (0, 1, 2, 4, 7)] == pytest.approx(rates, rel=1e-7, abs=1e-15)


@pytest.mark.parametrize("power", [1.0, None])
def test_a_polynomial_of_power_1_is_the_default_and_the_linear_schedule(power: float | None) -> None:
    linear = LearningRate.of(make_settings(lr_schedule="linear"), 20)
    polynomial = LearningRate.of(make_settings(lr_schedule="polynomial", polynomial_power=power), 20)
    assert [polynomial.at(step) for step in range(20)] == [linear.at(step) for step in range(20)]


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("warmup_fraction", [0.0, 0.06, 0.3])
@pytest.mark.parametrize("length", [1, 7, 100, 101, 375, 10_000])
def test_total_and_mean_are_those_of_all_steps(schedule: str, warmup_fraction: float, length: int) -> None:
    """To the last digits up to 100 steps, within 1 % of the whole sum beyond, where 100 steps stand for all."""
    learning_rate = make_learning_rate(schedule, length, warmup_fraction=warmup_fraction, learning_rate=2e-4)
    rates = [learning_rate.at(step) for step in range(length)]
    exact = math.fsum(rates)
    for steps in {1, length // 3, length // 2, length} - {0}:
        tolerance = 1e-12 if steps <= 100 else 0.01
        assert learning_rate.total(steps) == pytest.approx(math.fsum(rates[:steps]), abs=tolerance * exact)
    assert learning_rate.mean == pytest.approx(exact / length, rel=1e-12 if length <= 100 else 0.01)
    assert learning_rate.total(0) == 0
