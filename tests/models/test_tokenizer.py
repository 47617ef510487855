"""Built-in tokenizers of both families, and tokenizers from folders."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import transformers
from loop_builder import FAMILIES
from model_folders import TEXTS, write_model
from places import ROOT

from study.data.dataset import encode
from study.models.tokenizer import load_tokenizer

PAD = {"tiny-bert": 0, "tiny-roberta": 1}


@pytest.mark.parametrize("family", FAMILIES)
def test_a_built_in_tokenizer_has_the_tokens_of_its_family(family: str) -> None:
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
def test_texts_are_truncated_to_the_maximal_length_and_keep_their_end_tokens(family: str) -> None:
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
from study.models.tokenizer import load_tokenizer
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


def test_a_missing_tokenizer_is_refused(tmp_path: Path) -> None:
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


def test_a_saved_tokenizer_is_the_librarys_with_the_same_ids(tmp_path: Path) -> None:
    for family in FAMILIES:
        tokenizer = load_tokenizer(family, max_length=8, texts=TEXTS)
        tokenizer.save(tmp_path / family)
        loaded = transformers.AutoTokenizer.from_pretrained(tmp_path / family)
        assert loaded(list(TEXTS), truncation=True)["input_ids"] == tokenizer.encode(TEXTS)
        assert (loaded.pad_token_id, loaded.model_max_length) == (PAD[family], 8)
        assert tuple(loaded.model_input_names) == tokenizer.special.inputs
