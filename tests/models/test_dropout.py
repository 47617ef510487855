"""Dropout from 16-bit random numbers: its rate, its scale, its state, and where modules use it."""

import pytest
import torch
from loop_builder import FAMILIES
from torch import nn
from torch.nn import functional

from study.models.dropout import LEVELS, Dropout, drop, replace_dropout


@pytest.mark.parametrize("probability", [0.01, 0.1, 0.5, 0.999])
@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16])
def test_the_share_of_zeros_is_the_probability_and_the_mean_is_kept(probability: float, kind: torch.dtype) -> None:
    torch.manual_seed(0)
    n = 2_000_000
    x = torch.ones(n, dtype=kind, requires_grad=True)
    dropped = drop(x, probability)
    share = float((dropped == 0).double().mean())
    spread = (probability * (1 - probability) / n) ** 0.5
    assert share == pytest.approx(probability, abs=5 * spread + 1 / LEVELS)
    kept = dropped.detach()[dropped != 0].double()
    assert bool((kept == kept[0]).all())
    assert float(kept[0]) == pytest.approx(1 / (1 - probability), rel=0.01)
    torch.autograd.backward(dropped, torch.ones_like(dropped))
    assert x.grad is not None
    assert torch.equal(x.grad, dropped.detach())


def test_zeros_are_independent_of_one_another() -> None:
    """Of their position in a 64-bit word and of their neighbours."""
    torch.manual_seed(0)
    zero = drop(torch.ones(400_000, 4), 0.25) == 0
    assert torch.allclose(zero.double().mean(dim=0), torch.full((4,), 0.25, dtype=torch.float64), atol=0.004)
    together = torch.corrcoef(zero.T.double())
    assert torch.allclose(together, torch.eye(4, dtype=torch.float64), atol=0.01)


@pytest.mark.parametrize("shape", [(), (1,), (5,), (3, 7), (2, 3, 5)])
def test_the_shape_is_kept(shape: tuple[int, ...]) -> None:
    assert drop(torch.ones(shape), 0.5).shape == shape


@pytest.mark.parametrize("probability", [0.0, 1e-9, 1.0])
def test_probabilities_that_round_to_none_or_all_use_torchs_dropout(probability: float) -> None:
    x = torch.randn(50)
    assert torch.equal(drop(x, probability), functional.dropout(x, probability))


def test_the_state_of_the_generator_determines_the_zeros() -> None:
    x = torch.ones(1_000)
    torch.manual_seed(3)
    state = torch.get_rng_state()
    first, second = drop(x, 0.3), drop(x, 0.3)
    torch.set_rng_state(state)
    assert torch.equal(first, drop(x, 0.3))
    assert not torch.equal(first, second)


def test_modules_are_replaced_at_every_depth_and_act_in_training_only() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.5), nn.Sequential(nn.Dropout(0.2), nn.AlphaDropout(0.1)))
    names = list(model.state_dict())
    replace_dropout(model)
    kinds = [type(module).__name__ for module in model.modules() if isinstance(module, (nn.Dropout, nn.AlphaDropout))]
    assert kinds == ["Dropout", "Dropout", "AlphaDropout"]
    assert [module.p for module in model.modules() if isinstance(module, Dropout)] == [0.5, 0.2]
    assert list(model.state_dict()) == names
    x = torch.randn(8, 4)
    assert torch.equal(model.eval()(x), model(x))
    assert not torch.equal(model.train()[1](x), x)


def test_no_model_of_either_family_uses_torchs_dropout() -> None:
    from loop_builder import make_data, make_loop, make_settings

    for family in FAMILIES:
        loop = make_loop(make_data(family, train=4), make_settings(model=family, dropout=0.1))
        kinds = {type(module) for module in loop.model.modules() if isinstance(module, nn.Dropout)}
        assert kinds == {Dropout}
