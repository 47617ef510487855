"""Data files and model folders are found, counted and identified by their content."""

from pathlib import Path

import pytest
from space_files import SMALL, axis_values, write_reviews, write_space, write_unloadable_model

from study.data.builtin_reviews import VERSION
from study.errors import SpaceError
from study.space.reader import read


@pytest.fixture
def small(tmp_path: Path) -> Path:
    return write_space(tmp_path, SMALL)


@pytest.mark.parametrize("suffix", ["parquet", "csv", "jsonl"])
def test_data_files_are_counted_and_identified_by_their_content(
    tmp_path: Path, small: Path, suffix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_reviews(tmp_path / f"reviews.{suffix}")
    monkeypatch.chdir(tmp_path)
    space = read(small, data=path.name)
    assert (space.examples, space.data.source) == (100, str(path))
    assert space.data_content.startswith("sha256:")
    assert read(small, data=path.name, set=["data.examples=90"]).examples == 90
    with pytest.raises(SpaceError, match=r"--set data\.examples: 101 exceeds the 100 examples of .*reviews\."):
        read(small, data=path.name, set=["data.examples=101"])
    write_reviews(path, rows=99)
    assert read(small, data=str(path)).data_content != space.data_content


def test_the_built_in_reviews_are_identified_by_their_version(small: Path) -> None:
    assert read(small).data_content == f"builtin:reviews version {VERSION}"


def test_data_that_is_not_utf_8_is_an_error_with_its_row(tmp_path: Path, small: Path) -> None:
    path = tmp_path / "latin.csv"
    path.write_bytes(b"text,label\n" + b"cafe,0\ncaf\xe9,1\n" * 200)
    with pytest.raises(SpaceError, match=r"--data: .*latin.csv, row 2: the text is not UTF-8.* \(199 more"):
        read(small, data=str(path))


def test_a_model_folder_is_found_and_identified_by_its_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A path in the file is relative to the file, one on the command line to the current folder."""
    beside_file = write_unloadable_model(tmp_path / "mine")
    (tmp_path / "work").mkdir()
    in_work = write_unloadable_model(tmp_path / "work" / "mine", b"others")
    space = read(write_space(tmp_path, SMALL.replace("tiny-roberta", "mine")))
    assert axis_values(space, "model") == ["tiny-bert", str(beside_file)]
    assert space.identities["tiny-bert"] == "tiny-bert"
    monkeypatch.chdir(tmp_path / "work")
    other = read(write_space(tmp_path, SMALL), set=["model=./mine"])
    assert other.fixed["model"] == str(in_work)
    assert other.identities[str(in_work)].startswith("sha256:")
    assert other.identities[str(in_work)] != space.identities[str(beside_file)]
    (in_work / "model.safetensors").rename(in_work / "pytorch_model.bin")
    with pytest.raises(SpaceError, match=r"has no \.safetensors weights"):
        read(write_space(tmp_path, SMALL), set=["model=./mine"])
