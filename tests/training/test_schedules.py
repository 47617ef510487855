import math
from collections.abc import Callable
from typing import get_args

import pytest
import torch
import transformers
from hypothesis import given
from hypothesis import strategies as st

from study.training.schedules import Schedule, factor, peak_learning_rate, warmup_steps

SCHEDULES: tuple[Schedule, ...] = get_args(Schedule)

# Ten optimizer steps, the first two of them warm-up: 0 and 1/2, then eight steps of what the papers define.
TABLE: dict[Schedule, list[float]] = {
    "constant": [0, 1 / 2, 1, 1, 1, 1, 1, 1, 1, 1],
    "linear": [0, 1 / 2, 1, 7 / 8, 6 / 8, 5 / 8, 4 / 8, 3 / 8, 2 / 8, 1 / 8],
    "cosine": [0, 1 / 2] + [(1 + math.cos(math.pi * k / 8)) / 2 for k in range(8)],
    "polynomial": [0, 1 / 2] + [(1 - k / 8) ** 2 for k in range(8)],
}


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_a_schedule_is_its_published_definition(schedule: Schedule) -> None:
    got = [
        factor(step, schedule=schedule, total_steps=10, warmup_fraction=0.2, polynomial_power=2.0) for step in range(10)
    ]
    assert got == pytest.approx(TABLE[schedule], abs=1e-15)


def peer(schedule: Schedule, *, total: int, warmup: int, power: float) -> Callable[[int], float]:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    make: dict[Schedule, Callable[[], torch.optim.lr_scheduler.LambdaLR]] = {
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
def test_a_schedule_is_that_of_transformers(schedule: Schedule, total: int, warmup_fraction: float) -> None:
    warmup = warmup_steps(total_steps=total, warmup_fraction=warmup_fraction)
    expected = peer(schedule, total=total, warmup=warmup, power=3.0)
    for step in range(total):
        got = factor(step, schedule=schedule, total_steps=total, warmup_fraction=warmup_fraction, polynomial_power=3.0)
        assert got == pytest.approx(expected(step), abs=1e-12)


@given(
    st.sampled_from(SCHEDULES), st.integers(1, 10_000), st.floats(0, 1, exclude_max=True), st.floats(0.1, 5), st.data()
)
def test_a_factor_is_between_0_and_1_and_never_rises_after_warmup(
    schedule: Schedule, total: int, warmup_fraction: float, power: float, data: st.DataObject
) -> None:
    def at(step: int) -> float:
        return factor(
            step,
            schedule=schedule,
            total_steps=total,
            warmup_fraction=warmup_fraction,
            polynomial_power=power,
        )

    step = data.draw(st.integers(0, total - 1))
    assert 0 <= at(step) <= 1
    warmup = warmup_steps(total_steps=total, warmup_fraction=warmup_fraction)
    assert at(step + 1) >= at(step) if step < warmup else at(step + 1) <= at(step)


@pytest.mark.parametrize(
    ("total", "fraction", "steps"), [(100, 0.0, 0), (100, 0.1, 10), (375, 0.06, 22), (3, 0.1, 0), (10, 0.99, 10)]
)
def test_warmup_becomes_whole_steps(total: int, fraction: float, steps: int) -> None:
    assert warmup_steps(total_steps=total, warmup_fraction=fraction) == steps


def test_an_unknown_schedule_is_named() -> None:
    with pytest.raises(ValueError, match="unknown lr schedule 'step'"):
        factor(5, schedule="step", total_steps=10)  # type: ignore[arg-type]


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
def test_the_peak_scales_with_the_batch(scaling: str, batch_size: int, expected: float) -> None:
    got = peak_learning_rate(5e-5, scaling=scaling, batch_size=batch_size, base_batch_size=16)  # type: ignore[arg-type]
    assert got == pytest.approx(expected)
