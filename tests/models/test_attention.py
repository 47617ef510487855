"""Attention that is fast on a CPU computes what the library's own does."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from loop_builder import CLASSES, CPU, FAMILIES, LENGTH, VOCABULARY, make_data, make_loop, make_settings
from torch.nn import functional

from study.models.attention import NAME, _fits_flash, attend, attend_from_first, sequence_bounds
from study.models.classifier import Classifier, load_classifier
from study.models.tokenizer import SpecialTokens
from study.records import Precision
from study.training.devices import autocast, avoid_cudnn_attention

# Rounds to none of 65,536 levels: plain products without dropout.
NO_DROPOUT = 1e-9


def inputs(kind: torch.dtype) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(3, 2, 7, 8, generator=generator).to(kind).requires_grad_() for _ in range(3)]


def masks() -> list[torch.Tensor | None]:
    boolean = (torch.arange(7) < torch.tensor([7, 4, 1])[:, None])[:, None, None, :]
    return [None, boolean, torch.zeros(3, 1, 1, 7).masked_fill(~boolean, float("-inf"))]


@pytest.mark.parametrize("mask", masks())
@pytest.mark.parametrize("scaling", [None, 0.3])
@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16])
def test_plain_products_compute_torchs_attention(mask: torch.Tensor | None, scaling: float | None, kind: Any) -> None:
    given, exact = inputs(kind), [value.detach().double().requires_grad_() for value in inputs(kind)]
    wanted_mask = mask if mask is None or mask.dtype == torch.bool else mask.double()
    query, key, value = exact
    expected = functional.scaled_dot_product_attention(query, key, value, attn_mask=wanted_mask, scale=scaling)
    got = attend(given[0], given[1], given[2], mask, dropout=NO_DROPOUT, scaling=scaling)
    weights = torch.randn(expected.shape, generator=torch.Generator().manual_seed(2))
    torch.autograd.backward((expected * weights).sum())
    torch.autograd.backward((got * weights.to(kind)).sum())
    tolerance = 1e-5 if kind == torch.float32 else 0.05
    assert got.dtype == kind
    assert torch.allclose(got.double(), expected, atol=tolerance)
    for value, exact_value in zip(given, exact, strict=True):
        assert value.grad is not None
        assert exact_value.grad is not None
        assert torch.allclose(value.grad.double(), exact_value.grad, atol=tolerance)


def test_a_padded_row_is_a_sequence_of_its_text_and_one_of_its_padding() -> None:
    boolean = masks()[1]
    assert boolean is not None
    assert sequence_bounds(boolean).tolist() == [0, 7, 7, 11, 14, 15, 21]


@pytest.fixture
def cuda() -> torch.device:
    """A GPU in the state that a trajectory has it in."""
    avoid_cudnn_attention()
    return torch.device("cuda")


@pytest.mark.gpu
@pytest.mark.parametrize("length", [16, 100, 128])
def test_flash_attention_of_padded_texts_computes_torchs_attention(cuda: torch.device, length: int) -> None:
    """Of the texts: what padding attends to is read nowhere."""
    generator = torch.Generator(cuda).manual_seed(1)
    shape = (5, 4, length, 64)
    given = [torch.randn(shape, device=cuda, generator=generator).bfloat16().requires_grad_() for _ in range(3)]
    inside = torch.arange(length, device=cuda) < torch.tensor([length, length - 1, 9, 2, length], device=cuda)[:, None]
    mask = inside[:, None, None, :]
    weights = torch.randn(shape, device=cuda, generator=generator) * inside[:, None, :, None]
    assert _fits_flash(given[0], mask)
    got = attend(given[0], given[1], given[2], mask, dropout=0.0)
    gradients = torch.autograd.grad((got * weights).sum(), given)
    exact = [value.detach().double().requires_grad_() for value in given]
    expected = functional.scaled_dot_product_attention(exact[0], exact[1], exact[2], attn_mask=mask)
    expected_gradients = torch.autograd.grad((expected * weights).sum(), exact)
    assert float(((got - expected).detach() * inside[:, None, :, None]).abs().max()) < 0.02
    for gradient, wanted in zip(gradients, expected_gradients, strict=True):
        assert float((gradient - wanted).abs().max()) < 0.02 * float(wanted.abs().max())


@pytest.mark.gpu
def test_flash_attention_drops_the_share_that_was_asked_for_and_repeats_to_the_bit(cuda: torch.device) -> None:
    """With equal scores and values of 1, each output is the share that was kept, divided by the chance of it."""
    given = [torch.zeros(64, 12, 128, 64, device=cuda, dtype=torch.bfloat16).requires_grad_() for _ in range(2)]
    ones = torch.ones_like(given[0]).requires_grad_()
    mask = torch.ones(64, 1, 1, 128, device=cuda, dtype=torch.bool)
    ends = []
    for _ in range(2):
        torch.manual_seed(0)
        out = attend(given[0], given[1], ones, mask, dropout=0.1)
        ends.append([out, *torch.autograd.grad(out.float().square().sum(), [*given, ones])])
    assert 1 - 0.9 * float(ends[0][0].detach().double().mean()) == pytest.approx(0.1, abs=0.003)
    assert all(torch.equal(one, other) for one, other in zip(*ends, strict=True))


@pytest.mark.parametrize("mask", masks())
def test_attention_from_the_first_position_needs_neither_keys_nor_values(
    mask: torch.Tensor | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Dropout of the probabilities applies to the value's bias, too."""
    generator = torch.Generator().manual_seed(1)
    states = torch.randn(3, 7, 16, generator=generator)
    torch.manual_seed(0)
    query, key, value = (torch.nn.Linear(16, 16) for _ in range(3))
    kept = torch.tensor([0.0, 2.0])[torch.randint(2, (3, 2, 7), generator=generator)]
    monkeypatch.setattr("study.models.attention.drop", lambda shares, probability: shares * kept)
    got = attend_from_first(states, query, key, value, mask, heads=2, dropout=0.5)
    queries, keys, values = (linear(states).unflatten(-1, (2, 8)).transpose(1, 2) for linear in (query, key, value))
    scores = queries[:, :, :1] @ keys.transpose(-1, -2) / 8**0.5
    if mask is not None:
        scores = scores.masked_fill(~mask, float("-inf")) if mask.dtype == torch.bool else scores + mask
    expected = (torch.softmax(scores, dim=-1) * kept[:, :, None]) @ values
    assert torch.allclose(got, expected.transpose(1, 2).flatten(2), atol=1e-6)


def pair(family: str) -> tuple[Classifier, Classifier]:
    """The study's model and the library's, with the same weights and without dropout."""
    special = SpecialTokens(pad=0 if family == "tiny-bert" else 1, vocabulary=VOCABULARY)
    torch.manual_seed(0)
    ours = load_classifier(family, classes=CLASSES, special=special, max_length=LENGTH, dropout=0.0)
    automatic: Any = transformers.AutoModelForSequenceClassification
    theirs = automatic.from_config(copy.deepcopy(ours.model.config), attn_implementation="sdpa")
    theirs.load_state_dict(ours.model.state_dict())
    return ours, Classifier(theirs, special.inputs, savings=False)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(("precision", "tolerance"), [("float32", 1e-5), ("bfloat16", 0.02)])
@pytest.mark.parametrize("padded", [True, False])
def test_the_faster_model_has_the_same_logits_and_gradients(
    family: str, precision: Precision, tolerance: float, padded: bool
) -> None:
    train = make_data(family, train=12).train
    ids = torch.from_numpy(train.input_ids)
    lengths = torch.from_numpy(train.lengths) if padded else None
    logits, gradients = [], []
    for model in pair(family):
        with autocast(CPU, precision):
            out = model(ids, lengths).float()
        torch.autograd.backward(functional.cross_entropy(out, torch.from_numpy(train.labels)))
        logits.append(out.detach())
        parameters = dict(model.model.named_parameters())
        gradients.append({name: value.grad for name, value in parameters.items() if value.grad is not None})
    assert torch.allclose(logits[0], logits[1], atol=tolerance)
    assert gradients[0].keys() == gradients[1].keys()
    scale = max(float(gradient.norm()) for gradient in gradients[1].values())
    for name, expected in gradients[1].items():
        assert float((gradients[0][name] - expected).norm()) < tolerance * scale, name


@pytest.mark.parametrize("family", FAMILIES)
def test_parameters_keep_the_librarys_names_and_a_saved_model_uses_the_librarys_attention(
    family: str, tmp_path: Path
) -> None:
    ours, theirs = pair(family)
    assert ours.model.config._attn_implementation == NAME
    assert ours.model.state_dict().keys() == theirs.model.state_dict().keys()
    ours.model.save_pretrained(tmp_path)
    assert NAME not in (tmp_path / "config.json").read_text().split('"')
    automatic: Any = transformers.AutoModelForSequenceClassification
    loaded = automatic.from_pretrained(tmp_path)
    assert loaded.config._attn_implementation == "sdpa"


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of torch's compiler, about itself
@pytest.mark.parametrize("family", FAMILIES)
def test_a_compiled_model_learns_the_same_weights_under_the_same_names(family: str) -> None:
    data = make_data(family, train=24)
    loops = [make_loop(data, make_settings(model=family, batch_size=8, compile=compiled)) for compiled in (False, True)]
    for loop in loops:
        for _ in loop.run():
            pass
    plain, compiled = (loop.model.state_dict() for loop in loops)
    assert plain.keys() == compiled.keys()
    for name, weight in plain.items():
        assert torch.allclose(weight, compiled[name], atol=1e-4), name
