"""Words, numbers and aliases of YAML 1.2, and files that are not YAML text."""

from pathlib import Path

import pytest
from space_files import write_space

from study.errors import SpaceError
from study.space.reader import read


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"data: {source: '\xff'}\n", ":1:17: is not UTF-8"),
        (b"# " + b"x" * 1_000_000, ":1:1: has 1,000,002 bytes"),
        (b"name: a\x00b\n", ":1:8: not valid YAML: unprintable character"),
        (b'name: "\\ud800"\n', ":1:7: name: contains an unprintable character"),
        (b'name: "\\Uffffffff"\n', "not valid YAML"),
        (b"name: " + b"9" * 5_000, "is too large"),
        (b"# only a comment\n", "is empty"),
    ],
)
def test_bytes_that_are_not_text_are_an_error(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "broken.yaml"
    path.write_bytes(content)
    with pytest.raises(SpaceError, match=message):
        read(path)


def test_a_missing_file_and_a_folder_are_errors(tmp_path: Path) -> None:
    with pytest.raises(SpaceError, match=r"nowhere\.yaml:1:1: no such file"):
        read(tmp_path / "nowhere.yaml")
    with pytest.raises(SpaceError, match="is a folder"):
        read(tmp_path)


def test_numbers_and_words_are_those_of_yaml_1_2(tmp_path: Path) -> None:
    fixed = (
        "fixed: {model: tiny-bert, epochs: 0x2, learning_rate: 5e-5, max_gradient_norm: off, dropout: none, seed: 010}"
    )
    space = read(write_space(tmp_path, f"data: {{source: 'builtin:reviews'}}\n{fixed}\n"))
    assert space.fixed["learning_rate"] == 5e-5
    assert (space.fixed["epochs"], space.fixed["seed"]) == (2, 10)
    assert (space.fixed["max_gradient_norm"], space.fixed["dropout"]) == (None, None)


def test_an_alias_repeats_a_value(tmp_path: Path) -> None:
    text = "data: {source: 'builtin:reviews'}\nfixed: {model: tiny-bert, epochs: &n 3, batch_size: *n}\n"
    assert read(write_space(tmp_path, text)).fixed["batch_size"] == 3
