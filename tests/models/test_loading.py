"""Errors of the libraries, while they load a model, as one line with a remedy."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from model_folders import TEXTS, write_model
from places import ROOT

from study.models.classifier import Classifier, load_classifier
from study.models.loading import loading_errors
from study.models.tokenizer import SpecialTokens, load_tokenizer


def load(folder: Path) -> Classifier:
    tokenizer = load_tokenizer(str(folder), max_length=16, texts=TEXTS)
    return load_classifier(str(folder), classes=2, special=tokenizer.special, max_length=16, dropout=None)


def test_a_damaged_file_is_an_error_of_one_line(tmp_path: Path) -> None:
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


def test_a_hub_id_without_a_hub_is_an_error_of_one_line_with_a_remedy() -> None:
    code = """
from study.models.classifier import load_classifier
from study.models.tokenizer import SpecialTokens, load_tokenizer
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


class PanicException(BaseException):
    """As Rust's panics are: not an Exception."""


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (OSError("no such file\nfor a reason"), "no such file"),
        (RuntimeError("Error(s) in loading:\n    a size differs\nand more"), "Error(s) in loading: a size differs"),
        (KeyError("model_type"), "KeyError: 'model_type'"),
        (TypeError(), "TypeError: TypeError"),
        (PanicException("no entry found"), "no entry found"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_any_error_is_reported_as_one_line_with_its_reason(error: BaseException, reason: str) -> None:
    with pytest.raises(ValueError) as caught, loading_errors("org/model"):
        raise error
    hint = "a folder written by save_pretrained can be given instead"
    assert str(caught.value) == f"the model org/model could not be loaded ({reason}); {hint}"


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit])
def test_an_interrupt_is_not_an_error_of_the_model(kind: type[BaseException]) -> None:
    with pytest.raises(kind), loading_errors("org/model"):
        raise kind
