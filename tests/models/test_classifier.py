"""Classifiers by name and from folders, compared with the library's own models."""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from loop_builder import FAMILIES, LENGTH, VOCABULARY, assert_same_bits
from model_folders import CONFIGS, INPUTS, TEXTS, WITH_TYPES, WORDS, write_model, write_tokenizer
from torch.nn import functional

from study.data.dataset import encode
from study.models.classifier import Classifier, load_classifier
from study.models.tokenizer import SpecialTokens, load_tokenizer

PAD = {"tiny-bert": 0, "tiny-roberta": 1}


def built_in(model: str, *, seed: int = 0, dropout: float | None = 0.0) -> Classifier:
    torch.manual_seed(seed)
    special = SpecialTokens(pad=PAD[model], vocabulary=VOCABULARY)
    return load_classifier(model, classes=2, special=special, max_length=LENGTH, dropout=dropout)


def untouched(classifier: Classifier) -> Any:
    """The library's own model with the same weights, float32 or float64."""
    automatic: Any = transformers.AutoModelForSequenceClassification
    model = automatic.from_config(classifier.model.config).to(classifier.model.dtype)
    model.load_state_dict(classifier.model.state_dict())
    return model.train(classifier.training)


def batch(pad: int, lengths: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(5, VOCABULARY, (len(lengths), max(lengths)), generator=generator)
    count = torch.tensor(lengths)
    return torch.where(torch.arange(max(lengths)) < count[:, None], ids, pad), count


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("lengths", [(16,) * 6, (16, 3, 9, 1, 12, 5), (4, 2), (1,)], ids=str)
@pytest.mark.parametrize(("precision", "tolerance"), [(torch.float32, 5e-6), (torch.float64, 1e-13)], ids=str)
def test_logits_and_gradients_are_those_of_the_librarys_own_model(
    family: str, lengths: Sequence[int], precision: torch.dtype, tolerance: float
) -> None:
    ours = built_in(family)
    with torch.no_grad():
        # Away from their first values, so that no bias is 0 and no norm is 1.
        for parameter in ours.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
    ours.to(precision)
    theirs = untouched(ours)
    ids, count = batch(PAD[family], lengths)
    labels = torch.arange(len(lengths)) % 2
    mask = (torch.arange(ids.shape[1]) < count[:, None]).long()
    padded = min(lengths) < max(lengths)
    logits = ours(ids, count if padded else None)
    expected = theirs(input_ids=ids, attention_mask=mask).logits
    assert torch.allclose(logits, expected, rtol=tolerance, atol=tolerance)
    torch.autograd.backward(functional.cross_entropy(logits, labels))
    torch.autograd.backward(functional.cross_entropy(expected, labels))
    scale = max(float(parameter.grad.norm()) for parameter in theirs.parameters())
    for name, parameter in theirs.named_parameters():
        gradient = ours.model.get_parameter(name).grad
        assert gradient is not None, name
        assert float((gradient - parameter.grad).norm()) < tolerance * scale, name


@pytest.mark.parametrize("family", FAMILIES)
def test_the_last_layer_is_computed_for_the_first_position_alone(family: str) -> None:
    classifier = built_in(family)
    shapes: list[tuple[int, ...]] = []
    body: Any = classifier.model.base_model
    for layer in body.encoder.layer:
        layer.intermediate.register_forward_hook(lambda *seen: shapes.append(tuple(seen[2].shape[:2])))
    classifier(batch(PAD[family], (16, 7))[0], None)
    assert shapes == [(2, 16), (2, 1)]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("length", [1, 2, 7, 15])
def test_padding_never_changes_a_logit(family: str, length: int) -> None:
    """Neither its length nor the other texts of the batch change it."""
    classifier = built_in(family).eval()
    ids, count = batch(PAD[family], (length,))
    alone = classifier(ids, None)
    for width in (length, length + 1, LENGTH):
        wider = torch.full((1, width), PAD[family])
        wider[0, :length] = ids[0]
        assert torch.allclose(classifier(wider, count), alone, rtol=1e-5, atol=1e-6)
    company, lengths = batch(PAD[family], (LENGTH, length, 3))
    company[1, :length] = ids[0]
    assert torch.allclose(classifier(company, lengths)[1], alone[0], rtol=1e-5, atol=1e-6)


def test_ids_beyond_the_end_of_a_text_are_not_read() -> None:
    """BERT alone: RoBERTa counts its positions by the padding id."""
    classifier = built_in("tiny-bert").eval()
    ids, count = batch(0, (LENGTH, 5))
    other = torch.where(torch.arange(LENGTH) < count[:, None], ids, 77)
    assert not torch.equal(ids, other)
    assert torch.allclose(classifier(ids, count), classifier(other, count), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("family", FAMILIES)
def test_dropout_acts_in_the_last_layer_too(family: str) -> None:
    """In training, two equal texts differ by the last layer's dropout alone."""
    classifier = built_in(family)
    body: Any = classifier.model.base_model
    ids, _ = batch(PAD[family], (9,))
    assert torch.equal(*classifier(ids.repeat(2, 1), None))
    body.encoder.layer[-1].attention.self.dropout.p = 0.5
    assert not torch.equal(*classifier(ids.repeat(2, 1), None))
    assert torch.equal(*classifier.eval()(ids.repeat(2, 1), None))


@pytest.mark.parametrize("family", FAMILIES)
def test_dropout_is_set_everywhere_or_kept_as_the_model_has_it(family: str) -> None:
    def rates(dropout: float | None) -> set[float]:
        model = built_in(family, dropout=dropout).model
        config = model.config
        modules = {module.p for module in model.modules() if isinstance(module, torch.nn.Dropout)}
        return modules | {config.hidden_dropout_prob, config.attention_probs_dropout_prob}

    assert rates(0.25) == {0.25}
    assert rates(0.0) == {0.0}
    assert rates(None) == {0.1}


@pytest.mark.parametrize("family", FAMILIES)
def test_weights_depend_on_the_seed(family: str) -> None:
    first, again, other = (built_in(family, seed=seed).state_dict() for seed in (0, 0, 1))
    assert_same_bits(first, again)
    random_weights = [name for name, tensor in first.items() if tensor.is_floating_point() and tensor.std() > 0]
    assert len(random_weights) > 10
    assert [name for name in random_weights if torch.equal(first[name], other[name])] == []


def load(folder: Path, *, classes: int = 2, max_length: int = 16, dropout: float | None = None) -> Classifier:
    tokenizer = load_tokenizer(str(folder), max_length=max_length, texts=TEXTS)
    torch.manual_seed(0)
    return load_classifier(
        str(folder), classes=classes, special=tokenizer.special, max_length=max_length, dropout=dropout
    )


@pytest.mark.parametrize("kind", CONFIGS)
def test_a_model_folder_gives_the_logits_that_the_library_gives_with_the_folders_tokenizer(
    tmp_path: Path, kind: str
) -> None:
    """The library is given all that its own tokenizer returns, padded by it, whatever inputs the family has."""
    model = write_model(tmp_path, kind)
    own = transformers.AutoTokenizer.from_pretrained(tmp_path)
    expected = model(**own(list(TEXTS), padding=True, return_tensors="pt")).logits
    assert set(own(TEXTS[0])) == set(INPUTS[kind])

    tokenizer = load_tokenizer(str(tmp_path), max_length=16, texts=TEXTS)
    input_ids, lengths = encode(TEXTS, tokenizer, max_length=16)
    classifier = load(tmp_path).eval()
    logits = classifier(torch.from_numpy(input_ids), torch.from_numpy(lengths))
    assert torch.allclose(logits, expected, rtol=1e-5, atol=1e-6)
    assert {parameter.dtype for parameter in classifier.parameters()} == {torch.float32}


@pytest.mark.parametrize("kind", CONFIGS)
def test_a_model_gets_no_input_that_its_tokenizer_does_not_list(tmp_path: Path, kind: str) -> None:
    write_model(tmp_path, kind)
    classifier = load(tmp_path)
    given: set[str] = set()
    classifier.model.register_forward_pre_hook(
        lambda _, positional, named: given.update(
            [name for name, value in named.items() if value is not None], ["positional"] * len(positional)
        ),
        with_kwargs=True,
    )
    classifier(torch.tensor([[2, 4, 3], [2, 3, 0]]), torch.tensor([3, 2]))
    assert {"input_ids", "attention_mask"} <= given <= set(INPUTS[kind])


@pytest.mark.parametrize("kind", CONFIGS)
def test_another_number_of_classes_gives_a_new_head_on_the_same_body(tmp_path: Path, kind: str) -> None:
    model = write_model(tmp_path, kind, classes=2)
    classifier = load(tmp_path, classes=3)
    assert classifier(torch.tensor([[2, 4, 3]]), None).shape == (1, 3)
    for name, parameter in model.base_model.named_parameters():
        assert torch.equal(parameter, classifier.model.base_model.get_parameter(name)), name
    assert_same_bits(classifier.state_dict(), load(tmp_path, classes=3).state_dict())


@pytest.mark.parametrize("kind", CONFIGS)
def test_dropout_of_a_folder_is_set_or_kept(tmp_path: Path, kind: str) -> None:
    write_model(tmp_path, kind)

    def rates(dropout: float | None) -> set[float]:
        return {m.p for m in load(tmp_path, dropout=dropout).modules() if isinstance(m, torch.nn.Dropout)}

    assert rates(0.3) == {0.3}
    assert rates(None) <= {0.1, 0.2}


def test_a_pretrained_body_without_a_head_gets_one(tmp_path: Path) -> None:
    """As on the hub: a masked language model, whose file lacks a classifier and a pooler."""
    masked: Any = transformers.BertForMaskedLM
    body = masked(CONFIGS["bert"]())
    body.save_pretrained(tmp_path)
    write_tokenizer(tmp_path, inputs=WITH_TYPES)
    embeddings = load(tmp_path).model.get_parameter("bert.embeddings.word_embeddings.weight")
    assert torch.equal(embeddings, body.get_parameter("bert.embeddings.word_embeddings.weight"))


@pytest.mark.parametrize("change", [{"hidden_size": 64}, {"num_hidden_layers": 3}], ids=str)
def test_a_body_whose_weights_are_missing_is_refused(tmp_path: Path, change: dict[str, int]) -> None:
    write_model(tmp_path, "bert")
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, **change}))
    with pytest.raises(ValueError, match=r"its files lack \d+ weights that its config requires, such as bert\."):
        load(tmp_path)


def test_pickled_weights_are_refused(tmp_path: Path) -> None:
    """And they are not unpickled, which would make a folder here."""
    write_model(tmp_path, "bert")
    (tmp_path / "model.safetensors").unlink()
    run = tmp_path / "was-run"

    class Malicious:
        def __reduce__(self) -> tuple[Any, tuple[str]]:
            return (os.mkdir, (str(run),))

    torch.save({"bert.pooler.dense.bias": Malicious()}, tmp_path / "pytorch_model.bin")
    with pytest.raises(ValueError, match=r"could not be loaded \(.*no file named model.safetensors"):
        load(tmp_path)
    assert not run.exists()


@pytest.mark.parametrize("known", [False, True])
def test_code_that_comes_with_a_model_is_not_run(tmp_path: Path, known: bool) -> None:
    """For a type that the library knows its own class is used; another type is refused."""
    write_model(tmp_path, "bert")
    config = json.loads((tmp_path / "config.json").read_text())
    config["auto_map"] = {"AutoConfig": "mine.Mine", "AutoModelForSequenceClassification": "mine.Mine"}
    config["model_type"] = "bert" if known else "mine"
    (tmp_path / "config.json").write_text(json.dumps(config))
    run = tmp_path / "was-run"
    (tmp_path / "mine.py").write_text(f"open({str(run)!r}, 'w')\nclass Mine: pass\n")
    if known:
        assert type(load(tmp_path).model).__module__.startswith("transformers.")
    else:
        special = SpecialTokens(pad=0, vocabulary=len(WORDS))
        with pytest.raises(ValueError, match=r"could not be loaded .*custom code"):
            load_classifier(str(tmp_path), classes=2, special=special, max_length=16, dropout=None)
    assert not run.exists()


@pytest.mark.parametrize(("kind", "most"), [("bert", 32), ("distilbert", 32), ("electra", 32), ("roberta", 31)])
def test_a_model_accepts_as_many_tokens_as_it_has_positions(tmp_path: Path, kind: str, most: int) -> None:
    """RoBERTa's start after its padding id, which is 0 here."""
    write_model(tmp_path, kind)
    classifier = load(tmp_path, max_length=most)
    assert torch.isfinite(classifier(torch.full((1, most), 4), None)).all()
    with pytest.raises(ValueError, match=f"accepts at most {most} tokens, and data.max_length is {most + 1}"):
        load(tmp_path, max_length=most + 1)
