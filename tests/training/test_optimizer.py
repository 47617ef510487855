"""AdamW: its steps are those of the paper, its groups keep their own rates, its state goes by parameter name."""

import math
import re
from pathlib import Path

import pytest
import torch
from loop_builder import (
    CPU,
    FAMILIES,
    LENGTH,
    VOCABULARY,
    assert_same_bits,
    make_data,
    make_loop,
    make_settings,
    weights,
)

from study.models.classifier import Classifier, load_classifier
from study.models.tokenizer import SpecialTokens
from study.settings import Settings
from study.training.checkpoint import load_newest, save
from study.training.loop import FineTuning
from study.training.optimizer import load_optimizer_state, make_optimizer, optimizer_state, parameter_groups


def make_model(name: str) -> Classifier:
    torch.manual_seed(0)
    return load_classifier(
        name, classes=2, special=SpecialTokens(pad=0, vocabulary=VOCABULARY), max_length=LENGTH, dropout=0.0
    )


def optimizer_of(model: Classifier, settings: Settings) -> torch.optim.AdamW:
    return make_optimizer(model, settings, peak_learning_rate=settings.learning_rate, device=CPU)


@pytest.mark.parametrize("family", FAMILIES)
def test_weight_decay_is_on_all_weights_but_biases_and_norms(family: str) -> None:
    model = make_model(family)
    optimizer = optimizer_of(model, make_settings(weight_decay=0.3))
    decay = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    got = {name: decay[id(parameter)] for name, parameter in model.named_parameters()}
    expected = {name: 0.0 if re.search(r"bias$|LayerNorm", name) else 0.3 for name in got}
    assert got == expected
    assert sum(len(group["params"]) for group in optimizer.param_groups) == len(got)
    examples = {name.split(".", 1)[1]: value for name, value in got.items()}
    assert examples[f"{family.removeprefix('tiny-')}.embeddings.word_embeddings.weight"] == 0.3
    assert examples[f"{family.removeprefix('tiny-')}.embeddings.LayerNorm.weight"] == 0.0


def reference(
    parameter: torch.Tensor, gradients: list[torch.Tensor], settings: Settings, *, decay: float
) -> torch.Tensor:
    """AdamW by algorithm 2 of Loshchilov & Hutter (2019), line by line, in float64."""
    beta_1, beta_2 = settings.adam_betas
    theta = parameter.double()
    m, v = torch.zeros_like(theta), torch.zeros_like(theta)
    for t, gradient in enumerate(gradients, start=1):
        g = gradient.double()
        m = beta_1 * m + (1 - beta_1) * g
        v = beta_2 * v + (1 - beta_2) * g * g
        m_hat = m / (1 - beta_1**t) if settings.adam_bias_correction else m
        v_hat = v / (1 - beta_2**t) if settings.adam_bias_correction else v
        theta = theta - settings.learning_rate * (m_hat / (v_hat.sqrt() + settings.adam_eps) + decay * theta)
    return theta


@pytest.mark.parametrize("bias_correction", [True, False])
@pytest.mark.parametrize("eps", [1e-8, 1e-6])
def test_steps_are_those_of_the_paper(bias_correction: bool, eps: float) -> None:
    settings = make_settings(adam_bias_correction=bias_correction, adam_eps=eps, weight_decay=0.1, learning_rate=0.01)
    model = make_model("tiny-bert")
    optimizer = optimizer_of(model, settings)
    parameters = {name: parameter for name, parameter in model.named_parameters() if "layer.0.output" in name}
    start = {name: parameter.detach().clone() for name, parameter in parameters.items()}
    generator = torch.Generator().manual_seed(1)
    gradients: dict[str, list[torch.Tensor]] = {name: [] for name in parameters}
    for _ in range(20):
        for name, parameter in parameters.items():
            parameter.grad = torch.randn(parameter.shape, generator=generator)
            gradients[name].append(parameter.grad.clone())
        optimizer.step()
    for name, parameter in parameters.items():
        decay = 0.0 if re.search(r"bias$|LayerNorm", name) else 0.1
        expected = reference(start[name], gradients[name], settings, decay=decay)
        assert torch.allclose(parameter.double(), expected, rtol=1e-5, atol=1e-6)


def test_without_bias_correction_the_first_step_is_longer() -> None:
    """With it, a first step is one learning rate long; without, (1 - beta_1) / sqrt(1 - beta_2) = 3.16 of them."""
    steps = {}
    for correction in (True, False):
        settings = make_settings(adam_bias_correction=correction, weight_decay=0.0, learning_rate=0.01)
        model = make_model("tiny-bert")
        optimizer = optimizer_of(model, settings)
        weight = model.get_parameter("model.classifier.weight")
        before = weight.detach().clone()
        weight.grad = torch.ones_like(weight)
        optimizer.step()
        steps[correction] = float((before - weight.detach()).mean())
    assert steps[True] == pytest.approx(0.01, rel=1e-4)
    assert steps[False] == pytest.approx(0.01 * 0.1 / math.sqrt(0.001), rel=1e-4)


@pytest.mark.parametrize("corrected", [True, False])
def test_moments_exist_before_the_first_step(corrected: bool) -> None:
    """The memory that they need is taken while a micro-batch that is too large can still be halved."""
    model = make_model("tiny-bert")
    optimizer = optimizer_of(model, make_settings(adam_bias_correction=corrected))
    for parameter in model.parameters():
        state = optimizer.state[parameter]
        assert float(state["step"]) == (0.0 if corrected else 1e9)
        for name in ("exp_avg", "exp_avg_sq"):
            assert state[name].shape == parameter.shape
            assert not state[name].any()


def test_without_bias_correction_the_state_is_saved_and_loaded() -> None:
    settings = make_settings(adam_bias_correction=False)
    model, other_model = make_model("tiny-bert"), make_model("tiny-bert")
    optimizer, other = optimizer_of(model, settings), optimizer_of(other_model, settings)
    load_optimizer_state(other, other_model, optimizer_state(optimizer, model))
    states = [other.state[parameter] for group in other.param_groups for parameter in group["params"]]
    assert {float(state["step"]) for state in states} == {1e9}


def regroup(loop: FineTuning, *, peak_ratio: float = 1.0) -> None:
    """Give a loop that has not started an optimizer of one group a layer, the last layer's first, each split in two.

    Each weight keeps its decay and its state. The embeddings have ``peak_ratio`` times the peak of the other layers.
    """
    decay = {parameter: group["weight_decay"] for group in loop.optimizer.param_groups for parameter in group["params"]}
    layers: dict[tuple[str, float], list[torch.nn.Parameter]] = {}
    for name, parameter in reversed(list(loop.model.named_parameters())):
        layer = re.search(r"embeddings|layer\.\d+|pooler|classifier", name)
        assert layer is not None, name
        layers.setdefault((layer[0], decay[parameter]), []).append(parameter)
    peak = loop.learning_rate.peak
    groups = []
    for (layer_name, weight_decay), parameters in layers.items():
        own_peak = peak * peak_ratio if layer_name == "embeddings" else peak
        shared = {"weight_decay": weight_decay, "lr": own_peak, "initial_lr": own_peak}
        groups += [{"params": part, **shared} for part in (parameters[::2], parameters[1::2]) if part]
    earlier = loop.optimizer.state
    loop.optimizer = torch.optim.AdamW(groups, betas=loop.settings.adam_betas, eps=loop.settings.adam_eps, fused=True)
    loop.optimizer.state.update(earlier)


def parameter_order(loop: FineTuning) -> list[str]:
    """The names of the parameters in the order of the optimizer's groups."""
    names = {parameter: name for name, parameter in loop.model.named_parameters()}
    return [names[parameter] for group in loop.optimizer.param_groups for parameter in group["params"]]


def test_a_group_with_its_own_peak_keeps_its_ratio_to_the_others_at_every_step() -> None:
    """What layer-wise learning-rate decay needs: warm-up and decay scale each group's own peak."""
    settings = make_settings(batch_size=8, lr_schedule="cosine", warmup_fraction=0.2, learning_rate=1e-3)
    loop = make_loop(make_data("tiny-bert", train=40), settings)
    regroup(loop, peak_ratio=0.5)
    peaks = [group["initial_lr"] for group in loop.optimizer.param_groups]
    assert set(peaks) == {1e-3, 5e-4}
    rates: list[list[float]] = []
    loop.optimizer.register_step_pre_hook(
        lambda optimizer, *_: rates.append([group["lr"] for group in optimizer.param_groups])
    )
    for _ in loop.run():
        pass
    expected = [loop.learning_rate.factor(step) for step in range(10)]
    assert len(set(expected)) > 6
    assert rates == [[peak * factor for peak in peaks] for factor in expected]


def test_a_group_with_half_the_peak_moves_its_weights_half_as_far() -> None:
    """Adam's first step is one learning rate long in every weight, whatever its gradient."""
    moved: dict[float, float] = {}
    for ratio in (1.0, 0.5):
        loop = make_loop(make_data("tiny-bert", train=8), make_settings(epochs=1, batch_size=8, weight_decay=0.0))
        regroup(loop, peak_ratio=ratio)
        embeddings = loop.model.get_parameter("model.bert.embeddings.word_embeddings.weight")
        before = embeddings.detach().clone()
        for _ in loop.run():
            pass
        moved[ratio] = float((embeddings.detach() - before).abs().max())
    assert moved[1.0] == pytest.approx(1e-3, rel=1e-2)
    assert moved[0.5] == pytest.approx(0.5 * moved[1.0], rel=1e-3)


@pytest.mark.parametrize("bias_correction", [True, False])
@pytest.mark.parametrize("family", FAMILIES)
def test_optimizer_state_is_loaded_by_parameter_name_into_other_groups(
    tmp_path: Path, family: str, bias_correction: bool
) -> None:
    """Through a checkpoint, in both directions; the resumed run equals the uninterrupted one to the bit."""
    data = make_data(family, train=40)
    settings = make_settings(
        model=family,
        dropout=0.1,
        batch_size=8,
        log_every_examples=16,
        lr_schedule="linear",
        warmup_fraction=0.1,
        weight_decay=0.1,
        adam_bias_correction=bias_correction,
    )
    whole = make_loop(data, settings)
    for _ in whole.run():
        pass
    for regrouped in ("resumed", "interrupted"):
        interrupted, resumed = make_loop(data, settings), make_loop(data, settings)
        regroup(resumed if regrouped == "resumed" else interrupted)
        assert parameter_order(resumed) != parameter_order(interrupted)
        assert sorted(parameter_order(resumed)) == sorted(parameter_order(interrupted))
        run = interrupted.run()
        for _ in range(5):
            next(run)
        assert 0 < interrupted.step < whole.step
        save(tmp_path / regrouped, interrupted.state())
        saved = load_newest(tmp_path / regrouped)
        assert saved is not None
        torch.rand(7)
        resumed.load(saved)
        for name, parameter in interrupted.model.named_parameters():
            moments = resumed.optimizer.state[resumed.model.get_parameter(name)]
            assert_same_bits(moments, interrupted.optimizer.state[parameter])
        for _ in resumed.run():
            pass
        assert resumed.step == whole.step
        assert_same_bits(weights(resumed), weights(whole))
        assert_same_bits(
            optimizer_state(resumed.optimizer, resumed.model), optimizer_state(whole.optimizer, whole.model)
        )


# Parameters of the embeddings and of one layer that are not decayed, as published: biases and LayerNorms.
UNDECAYED = {
    "embeddings.LayerNorm.weight",
    "embeddings.LayerNorm.bias",
    "encoder.layer.0.attention.self.query.bias",
    "encoder.layer.0.attention.self.key.bias",
    "encoder.layer.0.attention.self.value.bias",
    "encoder.layer.0.attention.output.dense.bias",
    "encoder.layer.0.attention.output.LayerNorm.weight",
    "encoder.layer.0.attention.output.LayerNorm.bias",
    "encoder.layer.0.intermediate.dense.bias",
    "encoder.layer.0.output.dense.bias",
    "encoder.layer.0.output.LayerNorm.weight",
    "encoder.layer.0.output.LayerNorm.bias",
}
DECAYED = {
    "embeddings.word_embeddings.weight",
    "embeddings.position_embeddings.weight",
    "embeddings.token_type_embeddings.weight",
    "encoder.layer.0.attention.self.query.weight",
    "encoder.layer.0.attention.self.key.weight",
    "encoder.layer.0.attention.self.value.weight",
    "encoder.layer.0.attention.output.dense.weight",
    "encoder.layer.0.intermediate.dense.weight",
    "encoder.layer.0.output.dense.weight",
}
HEADS = {
    "tiny-bert": ({"bert.pooler.dense.weight", "classifier.weight"}, {"bert.pooler.dense.bias", "classifier.bias"}),
    "tiny-roberta": (
        {"classifier.dense.weight", "classifier.out_proj.weight"},
        {"classifier.dense.bias", "classifier.out_proj.bias"},
    ),
}


@pytest.mark.parametrize("family", FAMILIES)
def test_biases_and_layer_norms_are_not_decayed_and_all_other_weights_are(family: str) -> None:
    """By the names of all weights: each is in one group, and none is left out."""
    model = make_model(family)
    groups = parameter_groups(model, make_settings(weight_decay=0.25), peak_learning_rate=1e-3)
    assert all(group["lr"] == group["initial_lr"] == 1e-3 for group in groups)
    decay = [(id(parameter), group["weight_decay"]) for group in groups for parameter in group["params"]]
    assert len(decay) == len(dict(decay)) == len(list(model.parameters()))
    got = {name: dict(decay)[id(parameter)] for name, parameter in model.model.named_parameters()}

    body = f"{family.removeprefix('tiny-')}."
    decayed, undecayed = ({body + name for name in names} for names in (DECAYED, UNDECAYED))
    for names in (decayed, undecayed):
        names |= {name.replace("layer.0", "layer.1") for name in names}
    decayed |= HEADS[family][0]
    undecayed |= HEADS[family][1]
    assert {name for name, decay in got.items() if decay == 0.25} == decayed
    assert {name for name, decay in got.items() if decay == 0.0} == undecayed
    assert decayed | undecayed == got.keys()
