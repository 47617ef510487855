import math
import re

import pytest
import torch
from loop_builder import CPU, FAMILIES, LENGTH, VOCABULARY, make_settings

from study.models.classifier import Classifier, SpecialTokens, load_classifier
from study.settings import Settings
from study.training.optimizer import make_optimizer


def make_model(name: str) -> Classifier:
    torch.manual_seed(0)
    return load_classifier(
        name, classes=2, special=SpecialTokens(pad=0, vocabulary=VOCABULARY), max_length=LENGTH, dropout=0.0
    )


@pytest.mark.parametrize("family", FAMILIES)
def test_biases_and_norms_are_not_decayed_and_all_else_is(family: str) -> None:
    model = make_model(family)
    optimizer = make_optimizer(model, make_settings(weight_decay=0.3), CPU)
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
    """AdamW as Loshchilov & Hutter (2019) write it, algorithm 2, one element-wise line after the other."""
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
    optimizer = make_optimizer(model, settings, CPU)
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


def test_without_correction_the_first_step_is_longer() -> None:
    """With it, a first step is one learning rate long; without, (1 - beta_1) / sqrt(1 - beta_2) = 3.16 of them."""
    steps = {}
    for correction in (True, False):
        settings = make_settings(adam_bias_correction=correction, weight_decay=0.0, learning_rate=0.01)
        model = make_model("tiny-bert")
        optimizer = make_optimizer(model, settings, CPU)
        weight = model.get_parameter("model.classifier.weight")
        before = weight.detach().clone()
        weight.grad = torch.ones_like(weight)
        optimizer.step()
        steps[correction] = float((before - weight.detach()).mean())
    assert steps[True] == pytest.approx(0.01, rel=1e-4)
    assert steps[False] == pytest.approx(0.01 * 0.1 / math.sqrt(0.001), rel=1e-4)


def test_without_correction_the_state_comes_back_from_its_dictionary() -> None:
    settings = make_settings(adam_bias_correction=False)
    first = make_optimizer(make_model("tiny-bert"), settings, CPU)
    second = make_optimizer(make_model("tiny-bert"), settings, CPU)
    second.load_state_dict(first.state_dict())
    states = [second.state[parameter] for group in second.param_groups for parameter in group["params"]]
    assert {float(state["step"]) for state in states} == {1e9}
