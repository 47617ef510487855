"""What a model's name or folder becomes, held against the library's own untouched model."""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from loop_builder import FAMILIES, LENGTH, VOCABULARY, assert_same_bits
from model_folders import CONFIGS, INPUTS, TEXTS, WITH_TYPES, WORDS, write_model, write_tokenizer
from places import ROOT
from torch.nn import functional

from study.data.dataset import encode
from study.models.classifier import Classifier, SpecialTokens, load_classifier, load_tokenizer, parameter_groups

PAD = {"tiny-bert": 0, "tiny-roberta": 1}
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


def by_name(classifier: Classifier, *, weight_decay: float) -> dict[str, float]:
    """Each parameter's decay, and each once."""
    groups = parameter_groups(classifier, weight_decay=weight_decay)
    decay = [(id(parameter), group["weight_decay"]) for group in groups for parameter in group["params"]]
    assert len(decay) == len(dict(decay)) == len(list(classifier.parameters()))
    return {name: dict(decay)[id(parameter)] for name, parameter in classifier.model.named_parameters()}


@pytest.mark.parametrize("family", FAMILIES)
def test_biases_and_layer_norms_are_not_decayed_and_all_else_is(family: str) -> None:
    got = by_name(built_in(family), weight_decay=0.25)
    body = f"{family.removeprefix('tiny-')}."
    decayed, undecayed = ({body + name for name in names} for names in (DECAYED, UNDECAYED))
    for names in (decayed, undecayed):
        names |= {name.replace("layer.0", "layer.1") for name in names}
    decayed |= HEADS[family][0]
    undecayed |= HEADS[family][1]
    assert {name for name, decay in got.items() if decay == 0.25} == decayed
    assert {name for name, decay in got.items() if decay == 0.0} == undecayed
    assert decayed | undecayed == got.keys()


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("lengths", [(16,) * 6, (16, 3, 9, 1, 12, 5), (4, 2), (1,)], ids=str)
@pytest.mark.parametrize(("precision", "tolerance"), [(torch.float32, 5e-6), (torch.float64, 1e-13)], ids=str)
def test_logits_and_gradients_are_those_of_the_librarys_own_model(
    family: str, lengths: Sequence[int], precision: torch.dtype, tolerance: float
) -> None:
    ours = built_in(family)
    with torch.no_grad():
        # Away from where they begin, so that no bias is 0 and no norm is 1.
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
    """Neither how much of it there is nor, beyond the length, which ids stand there."""
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


def test_what_stands_beyond_a_texts_end_is_not_read() -> None:
    """BERT alone: RoBERTa counts its positions by the padding id."""
    classifier = built_in("tiny-bert").eval()
    ids, count = batch(0, (LENGTH, 5))
    other = torch.where(torch.arange(LENGTH) < count[:, None], ids, 77)
    assert not torch.equal(ids, other)
    assert torch.allclose(classifier(ids, count), classifier(other, count), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("family", FAMILIES)
def test_dropout_acts_in_the_last_layer_too(family: str) -> None:
    """In training, where all that differs between two texts is the last layer's dropout."""
    classifier = built_in(family)
    body: Any = classifier.model.base_model
    ids, _ = batch(PAD[family], (9,))
    assert torch.equal(*classifier(ids.repeat(2, 1), None))
    body.encoder.layer[-1].attention.self.dropout.p = 0.5
    assert not torch.equal(*classifier(ids.repeat(2, 1), None))
    assert torch.equal(*classifier.eval()(ids.repeat(2, 1), None))


@pytest.mark.parametrize("family", FAMILIES)
def test_dropout_is_set_everywhere_or_left_as_the_model_has_it(family: str) -> None:
    def rates(dropout: float | None) -> set[float]:
        model = built_in(family, dropout=dropout).model
        config = model.config
        modules = {module.p for module in model.modules() if isinstance(module, torch.nn.Dropout)}
        return modules | {config.hidden_dropout_prob, config.attention_probs_dropout_prob}

    assert rates(0.25) == {0.25}
    assert rates(0.0) == {0.0}
    assert rates(None) == {0.1}


@pytest.mark.parametrize("family", FAMILIES)
def test_weights_come_from_the_seed(family: str) -> None:
    one, again, other = (built_in(family, seed=seed).state_dict() for seed in (0, 0, 1))
    assert_same_bits(one, again)
    drawn = [name for name, tensor in one.items() if tensor.is_floating_point() and tensor.std() > 0]
    assert len(drawn) > 10
    assert [name for name in drawn if torch.equal(one[name], other[name])] == []


@pytest.mark.parametrize("family", FAMILIES)
def test_a_built_in_tokenizer_writes_as_its_family_does(family: str) -> None:
    texts = [f"The film no. {i} was, I'd say, GOOD; très bon!" for i in range(50)]
    tokenizer = load_tokenizer(family, max_length=64, texts=texts)
    ids = tokenizer.encode(["The film was good", "", "\N{SNOWMAN} unseen"])
    tokens = [[tokenizer.backend.id_to_token(id_) for id_ in row] for row in ids]
    if family == "tiny-bert":
        assert tokens[:2] == [["[CLS]", "the", "film", "was", "good", "[SEP]"], ["[CLS]", "[SEP]"]]
        assert "[UNK]" in tokens[2]
        assert [tokenizer.backend.token_to_id(token) for token in ("[PAD]", "[UNK]", "[CLS]", "[SEP]")] == [0, 1, 2, 3]
    else:
        assert (tokens[0][0], tokens[0][-1], tokens[1]) == ("<s>", "</s>", ["<s>", "</s>"])
        assert "Ġfilm" in tokens[0]
        assert "<unk>" not in tokens[2]
        assert tokenizer.backend.decode(ids[2]) == "\N{SNOWMAN} unseen"
        assert [tokenizer.backend.token_to_id(token) for token in ("<s>", "<pad>", "</s>", "<unk>")] == [0, 1, 2, 3]
    assert tokenizer.special.pad == PAD[family]
    assert tokenizer.special.vocabulary == tokenizer.backend.get_vocab_size() > max(map(max, ids))


@pytest.mark.parametrize("family", FAMILIES)
def test_texts_are_cut_to_the_maximal_length_and_keep_their_ends(family: str) -> None:
    tokenizer = load_tokenizer(family, max_length=8, texts=TEXTS)
    short, long = tokenizer.encode(["the film", "the film was not very good " * 20])
    assert len(long) == 8
    assert (long[0], long[-1]) == (short[0], short[-1])
    input_ids, lengths = encode(["the film", "good " * 20], tokenizer, max_length=8)
    assert lengths[1] == 8
    assert list(input_ids[0, lengths[0] :]) == [PAD[family]] * (8 - lengths[0])


@pytest.mark.parametrize("family", FAMILIES)
def test_a_built_in_vocabulary_is_the_same_in_every_process(family: str) -> None:
    code = """
import sys
from study.models.classifier import load_tokenizer
from study.data.builtin_reviews import generate
tokenizer = load_tokenizer(sys.argv[1], max_length=64, texts=generate(200)[0])
print(tokenizer.backend.to_str())
"""
    printed = set()
    for seed in ("1", "2"):
        done = subprocess.run(
            [sys.executable, "-c", code, family],
            env={**os.environ, "PYTHONHASHSEED": seed, "TOKENIZERS_PARALLELISM": "true"},
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
        )
        printed.add(done.stdout)
    assert len(printed.pop()) > 1_000
    assert printed == set()


def load(folder: Path, *, classes: int = 2, max_length: int = 16, dropout: float | None = None) -> Classifier:
    tokenizer = load_tokenizer(str(folder), max_length=max_length, texts=TEXTS)
    torch.manual_seed(0)
    return load_classifier(
        str(folder), classes=classes, special=tokenizer.special, max_length=max_length, dropout=dropout
    )


@pytest.mark.parametrize("kind", CONFIGS)
def test_a_folder_gives_the_logits_that_the_library_gives_on_what_its_tokenizer_says(tmp_path: Path, kind: str) -> None:
    """Whatever inputs the family has: the library is given all that its own tokenizer returns, padded by it."""
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
def test_a_model_gets_no_input_that_its_tokenizer_does_not_name(tmp_path: Path, kind: str) -> None:
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
def test_another_number_of_classes_gets_a_new_head_on_the_old_body(tmp_path: Path, kind: str) -> None:
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


def test_a_pretrained_body_without_a_head_is_given_one(tmp_path: Path) -> None:
    """What the hub has: a model of masked words, whose file lacks a classifier and a pooler."""
    masked: Any = transformers.BertForMaskedLM
    body = masked(CONFIGS["bert"]())
    body.save_pretrained(tmp_path)
    write_tokenizer(tmp_path, inputs=WITH_TYPES)
    embeddings = load(tmp_path).model.get_parameter("bert.embeddings.word_embeddings.weight")
    assert torch.equal(embeddings, body.get_parameter("bert.embeddings.word_embeddings.weight"))


@pytest.mark.parametrize("change", [{"hidden_size": 64}, {"num_hidden_layers": 3}], ids=str)
def test_a_body_that_the_files_do_not_hold_is_not_made_up(tmp_path: Path, change: dict[str, int]) -> None:
    write_model(tmp_path, "bert")
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, **change}))
    with pytest.raises(ValueError, match=r"its files lack \d+ weights that its config asks for, such as bert\."):
        load(tmp_path)


def test_a_tokenizer_that_is_not_there_is_not_made_up(tmp_path: Path) -> None:
    write_model(tmp_path, "bert")
    for path in tmp_path.glob("*token*"):
        path.unlink()
    with pytest.raises(ValueError, match="its tokenizer knows no word of the texts; are the tokenizer's files there"):
        load_tokenizer(str(tmp_path), max_length=16, texts=TEXTS)


def test_a_tokenizer_without_a_padding_token_is_refused(tmp_path: Path) -> None:
    write_model(tmp_path, "bert")
    settings = json.loads((tmp_path / "tokenizer_config.json").read_text())
    del settings["pad_token"]
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    with pytest.raises(ValueError, match="its tokenizer has no padding token"):
        load_tokenizer(str(tmp_path), max_length=16, texts=TEXTS)


def test_pickled_weights_are_refused(tmp_path: Path) -> None:
    """Nothing of them is run either: unpickling this would write a file."""
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
def test_a_models_own_code_is_not_run(tmp_path: Path, known: bool) -> None:
    """Of a type that the library knows, its own class is taken; of another, none."""
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


def test_damaged_files_are_told_in_one_line(tmp_path: Path) -> None:
    write_model(tmp_path, "bert")
    whole = (tmp_path / "model.safetensors").read_bytes()
    for content in (whole[:1_000], whole[:-1_000], b""):
        (tmp_path / "model.safetensors").write_bytes(content)
        with pytest.raises(ValueError, match="could not be loaded") as caught:
            load(tmp_path)
        assert len(str(caught.value).splitlines()) == 1
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ValueError, match=r"could not be loaded \(.*not a valid JSON file"):
        load_classifier(
            str(tmp_path), classes=2, special=SpecialTokens(pad=0, vocabulary=12), max_length=16, dropout=None
        )


@pytest.mark.parametrize(("kind", "most"), [("bert", 32), ("distilbert", 32), ("electra", 32), ("roberta", 31)])
def test_a_model_reads_as_many_tokens_as_it_has_positions(tmp_path: Path, kind: str, most: int) -> None:
    """RoBERTa's begin after its padding id, which is 0 here."""
    write_model(tmp_path, kind)
    classifier = load(tmp_path, max_length=most)
    assert torch.isfinite(classifier(torch.full((1, most), 4), None)).all()
    with pytest.raises(ValueError, match=f"takes at most {most} tokens, data.max_length is {most + 1}"):
        load(tmp_path, max_length=most + 1)


def test_a_hub_id_without_a_hub_is_one_message_that_says_what_to_do() -> None:
    code = """
from study.models.classifier import SpecialTokens, load_classifier, load_tokenizer
for attempt in (
    lambda: load_tokenizer("org/model", max_length=16, texts=[]),
    lambda: load_classifier(
        "org/model", classes=2, special=SpecialTokens(pad=0, vocabulary=9), max_length=16, dropout=None
    ),
):
    try:
        attempt()
    except ValueError as error:
        print(error)
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    lines = done.stdout.splitlines()
    assert len(lines) == 2
    for line in lines:
        assert line.startswith("the model org/model could not be loaded (")
        assert line.endswith("; a folder written by save_pretrained can be given instead")
    assert "Traceback" not in done.stderr
