"""The sizes of encoders and the operations of their forward pass, compared with the library's models."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch.utils.flop_counter import FlopCounterMode

from study.models.classifier import Classifier, load_classifier
from study.models.shapes import COUNTED_FAMILIES, EncoderShape, find_shape, shape_of_config
from study.models.tokenizer import SpecialTokens
from study.settings import BUILT_IN_MODELS

EXAMPLES, TOKENS = 16, 32
SIZES: dict[str, Any] = {
    "vocab_size": 300,
    "num_hidden_layers": 3,
    "hidden_size": 128,
    "num_attention_heads": 4,
    "intermediate_size": 256,
    "max_position_embeddings": 64,
    "pad_token_id": 1,
}
OWN_SIZES: dict[str, dict[str, Any]] = {
    "distilbert": {"n_layers": 3, "dim": 128, "n_heads": 4, "hidden_dim": 256},
    "electra": {"embedding_size": 64},
    "deberta-v2": {
        "relative_attention": True,
        "position_buckets": 16,
        "share_att_key": True,
        "pos_att_type": ["p2c", "c2p"],
        "position_biased_input": False,
        "type_vocab_size": 0,
    },
}


def small_config(family: str) -> Any:
    """A small config of the library's, with what the family's well-known models set."""
    return type(transformers.AutoConfig.for_model(family))(**SIZES, **OWN_SIZES.get(family, {}))


@pytest.mark.parametrize("family", COUNTED_FAMILIES)
def test_operations_and_parameters_are_those_of_the_model(family: str) -> None:
    """By torch's counter over a forward pass; DeBERTa projects its distances once for a whole batch, 1.4 % here."""
    config = small_config(family)
    automatic: Any = transformers.AutoModelForSequenceClassification
    model = Classifier(automatic.from_config(config), ("input_ids", "attention_mask")).eval().requires_grad_(False)
    if family != "deberta-v2":  # whose attention has one implementation
        model.model.set_attn_implementation("eager")
    with FlopCounterMode(display=False) as counter:
        model(torch.randint(5, SIZES["vocab_size"], (EXAMPLES, TOKENS)), None)
    shape = shape_of_config(json.loads(config.to_json_string()))
    assert shape.captured is model.first_position
    counted = counter.get_total_flops() / EXAMPLES
    assert counted == pytest.approx(shape.forward_operations(TOKENS), rel=0.02 if family == "deberta-v2" else 1e-9)
    assert sum(parameter.numel() for parameter in model.parameters()) == pytest.approx(shape.parameters, rel=1e-3)


def test_a_backward_pass_has_twice_the_operations_of_a_forward_pass() -> None:
    automatic: Any = transformers.AutoModelForSequenceClassification
    model = automatic.from_config(small_config("distilbert"), attn_implementation="eager")
    with FlopCounterMode(display=False) as counter:
        model(torch.randint(5, 300, (EXAMPLES, TOKENS))).logits.sum().backward()
    shape = shape_of_config(small_config("distilbert").to_dict())
    assert counter.get_total_flops() == pytest.approx(3 * EXAMPLES * shape.forward_operations(TOKENS), rel=0.01)


@pytest.mark.parametrize("model", BUILT_IN_MODELS)
def test_the_built_in_models_have_the_shape_that_they_are_built_with(model: str) -> None:
    special = SpecialTokens(pad=0, vocabulary=find_shape(model).vocabulary)
    built = load_classifier(model, classes=2, special=special, max_length=128, dropout=None)
    assert sum(parameter.numel() for parameter in built.parameters()) == pytest.approx(
        find_shape(model).parameters, rel=0.01
    )


@pytest.mark.parametrize(
    ("model", "millions"),
    [
        ("bert-base-uncased", 109.5),
        ("google-bert/bert-base-uncased", 109.5),
        ("FacebookAI/roberta-base", 124.6),
        ("roberta-large", 355.4),
        ("distilbert/distilbert-base-uncased", 67.0),
        ("google/electra-small-discriminator", 13.5),
        ("microsoft/deberta-v3-base", 184.4),
        ("sentence-transformers/all-MiniLM-L6-v2", 22.7),
    ],
)
def test_well_known_models_have_the_parameters_that_they_are_published_with(model: str, millions: float) -> None:
    """Classifiers: with a pooler or a head of the encoder's width."""
    assert find_shape(model).parameters / 1e6 == pytest.approx(millions, rel=0.01)


def test_the_shape_of_a_folder_is_that_of_its_config(tmp_path: Path) -> None:
    config = small_config("bert")
    config.save_pretrained(tmp_path)
    assert find_shape(str(tmp_path)) == EncoderShape(
        family="bert",
        layers=3,
        width=128,
        heads=4,
        intermediate=256,
        vocabulary=300,
        embedding_width=128,
        positions=64,
    )


def test_a_hub_id_has_the_shape_of_its_config_in_the_cache_or_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(ValueError, match="its config is not on this machine, and a dry run downloads nothing"):
        find_shape("somebody/new-bert")
    folder = tmp_path / "models--somebody--new-bert"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text("abc")
    small_config("bert").save_pretrained(folder / "snapshots" / "abc")
    assert find_shape("somebody/new-bert").width == 128


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"model_type": "modernbert"}, "operations of the family 'modernbert' are not counted"),
        ({}, "operations of the family nothing are not counted"),
        ({"model_type": "bert", "num_hidden_layers": 2}, "its config has no valid hidden_size"),
        ({"model_type": "distilbert", "num_hidden_layers": 2}, "its config has no valid n_layers"),
        ({"model_type": "bert", "num_hidden_layers": "2"}, "its config has no valid num_hidden_layers"),
        ({"model_type": "bert", "num_hidden_layers": True}, "its config has no valid num_hidden_layers"),
    ],
)
def test_a_config_without_a_usable_size_is_refused_with_the_reason(config: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        shape_of_config(config)
