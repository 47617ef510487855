"""What a step takes on a GPU, compared with the steps that were measured."""

import pytest

from study.plan.gpu_speeds import (
    GPUS,
    MEASURED_SHAPE,
    MEASURED_TOKENS,
    TRAINING_PASSES,
    Gpu,
    gpu_named,
    step_rates,
    update_seconds,
)


def step_seconds(gpu: Gpu, batch_size: int) -> float:
    """Seconds of a step of the model that was measured."""
    rates = step_rates(gpu)
    operations = TRAINING_PASSES * MEASURED_SHAPE.forward_operations(MEASURED_TOKENS) * batch_size
    busy = MEASURED_SHAPE.layers * rates.layer_seconds + operations / rates.operations_per_second
    return busy + update_seconds(gpu, MEASURED_SHAPE)


@pytest.mark.parametrize("gpu", [gpu for gpu in GPUS if gpu.measured], ids=lambda gpu: gpu.name)
def test_measured_steps_are_reproduced(gpu: Gpu) -> None:
    assert len(gpu.measured) >= 2
    for batch_size, seconds in gpu.measured.items():
        assert step_seconds(gpu, batch_size) == pytest.approx(seconds, rel=0.02)


def test_three_steps_are_fitted_by_two_rates_within_a_hundredth() -> None:
    gpu = gpu_named("H100")
    assert len(gpu.measured) == 3
    assert [step_seconds(gpu, size) / seconds for size, seconds in gpu.measured.items()] == pytest.approx(
        [1.0] * 3, abs=0.006
    )


def test_the_rates_are_possible() -> None:
    """Between a tenth and six tenths of the peak, and a layer's kernels between 50 and 500 us, for every GPU."""
    for gpu in GPUS:
        rates = step_rates(gpu)
        assert 0.1 < rates.operations_per_second / gpu.peak < 0.6, gpu
        assert 5e-5 < rates.layer_seconds < 5e-4, gpu


def test_a_gpu_that_was_not_measured_reaches_the_same_share_of_its_peak() -> None:
    first = GPUS[0]
    for gpu in GPUS:
        if not gpu.measured:
            assert gpu.date == ""
            share = step_rates(gpu).operations_per_second / gpu.peak
            assert share == pytest.approx(step_rates(first).operations_per_second / first.peak)
            assert step_seconds(gpu, 16) > step_seconds(first, 16)


@pytest.mark.parametrize(
    ("name", "found"), [("h100", "H100"), ("H200", "H200"), ("a100", "A100"), ("A100-40G", "A100"), ("l4", "L4")]
)
def test_a_gpu_is_found_by_its_name_in_any_case(name: str, found: str) -> None:
    assert gpu_named(name).name == found


@pytest.mark.parametrize("name", ["v100", "L40S", "", "100", "T4"])
def test_an_unknown_gpu_is_refused_with_the_known_ones(name: str) -> None:
    with pytest.raises(ValueError, match=f"unknown GPU '{name}'; known are A100, H100, H200, L4"):
        gpu_named(name)
