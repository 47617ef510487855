"""Random inputs are read, or refused in lines that say where the error is; both within seconds."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from bad_input import GOOD_CSV, GOOD_JSONL, LONGEST_SECONDS, SMALL, WHOLE, check_lines
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from places import ROOT

from study.data import files
from study.errors import SpaceError
from study.settings import Data, Reference, Run
from study.space.reader import TOP_KEYS, read
from study.space.setting_values import SETTING_KEYS

SPACES = sorted((ROOT / "search_spaces").glob("*.yaml"))


def fuzz(examples: int) -> Callable[[Any], Any]:
    """The same ``examples`` examples each time, so that a new failure is due to a change of the code."""
    return settings(
        max_examples=examples,
        deadline=None,
        derandomize=True,
        database=None,
        phases=[Phase.explicit, Phase.generate, Phase.shrink],
        suppress_health_check=list(HealthCheck),
    )


def mutations(original: bytes) -> st.SearchStrategy[bytes]:
    """``original`` with up to four parts deleted, doubled, exchanged or inserted."""
    position = st.integers(0, len(original))
    inserted = st.one_of(
        st.binary(min_size=1, max_size=4), st.sampled_from([b"[", b"{", b"- ", b"\n", b": ", b"&a ", b'"'])
    )
    change = st.tuples(
        st.sampled_from(["delete", "double", "exchange", "insert"]), position, st.integers(1, 40), inserted
    )

    def apply(changes: list[tuple[str, int, int, bytes]]) -> bytes:
        content = original
        for kind, start, length, new in changes:
            before, part, after = content[:start], content[start : start + length], content[start + length :]
            content = {
                "delete": before + after,
                "double": before + part + part + after,
                "exchange": after + part + before,
                "insert": before + new + part + after,
            }[kind]
        return content

    return st.lists(change, min_size=1, max_size=4).map(apply)


def read_or_refused(path: Path, **options: Any) -> None:
    started = time.monotonic()
    try:
        read(path, **options)
    except SpaceError as error:
        check_lines(str(error), path)
    finally:
        assert time.monotonic() - started < LONGEST_SECONDS


SPACE_BYTES = st.one_of(
    st.sampled_from(SPACES).flatmap(lambda path: mutations(path.read_bytes())), st.binary(max_size=200)
)
WORDS = st.one_of(
    st.text(max_size=12),
    st.sampled_from(
        [
            *("model", "epochs", "batch_size", "data.source", "data.fractions.train", "run.gpu", "name", "seed", "="),
            *(
                "[",
                "]",
                "{",
                "}",
                "[1, 2]",
                "{a: 1}",
                "&a",
                "*a",
                "!!python/object:os.system",
                "~",
                "~x",
                "../..",
                "\0",
            ),
            *("1e999", "0x", "none", "lr_schedule", "early_stopping", "patience", ",", ": ", "\n---\n", "\udcff", "-1"),
        ]
    ),
)
KEYS = st.sampled_from(
    [*TOP_KEYS, *SETTING_KEYS, *Data.model_fields, *Run.model_fields, *Reference.model_fields, "match", "set", "drop"]
)
ODD = st.one_of(
    *(st.none(), st.booleans(), st.integers(), st.integers(0, 3), st.floats(), st.text(max_size=5)),
    st.sampled_from(
        ["tiny-bert", "builtin:reviews", "none", "linear", "./x", "/", "~", "", "a" * 300, "\x1b[0m", 10**20]
    ),
)
INNER = st.recursive(ODD, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3))
SECTION = st.dictionaries(KEYS, INNER, max_size=5) | INNER
DOCUMENTS = st.fixed_dictionaries(
    {"data": st.just({"source": "builtin:reviews"}) | SECTION, "fixed": SECTION},
    optional={"name": INNER, "axes": SECTION, "when": INNER, "run": SECTION, "references": INNER},
)
OPTIONS = st.lists(st.lists(WORDS, max_size=4).map("".join) | st.tuples(WORDS, WORDS).map("=".join), max_size=3)


def space_of_bytes(folder: Path, content: bytes) -> None:
    (folder / "small.yaml").write_bytes(content)
    read_or_refused(folder / "small.yaml")


def space_of_values(folder: Path, document: dict[str, Any]) -> None:
    space_of_bytes(folder, yaml.safe_dump(document, allow_unicode=True).encode("utf-8", "surrogatepass"))


def space_of_options(folder: Path, set_: list[str], only: list[str], data: str | None) -> None:
    path = folder / "small.yaml"
    path.write_text(SMALL + "axes: {seed: [0, 1], lr_schedule: [constant, linear]}\n")
    read_or_refused(path, set=set_, only=only, data=data)


def file_of_bytes(folder: Path, suffix: str, content: bytes) -> None:
    path = folder / f"data.{suffix}"
    path.write_bytes(content)
    with contextlib.suppress(ValueError, OSError):
        _, columns = files.describe(path)
        texts, labels = files.read(path, text_column="text", label_column="label")
        assert {"text", "label"} <= set(columns)
        checked, classes = files.check(texts, labels, label_values=(0, 1))
        assert len(checked) == len(classes) > 1


FILES = pytest.mark.parametrize(("suffix", "good"), [("csv", GOOD_CSV), ("jsonl", GOOD_JSONL), ("parquet", WHOLE)])


@fuzz(400)
@given(content=SPACE_BYTES)
def test_mutated_spaces_are_read_or_refused(tmp_path: Path, content: bytes) -> None:
    space_of_bytes(tmp_path, content)


@fuzz(200)
@given(document=DOCUMENTS)
def test_random_values_under_known_keys_are_read_or_refused(tmp_path: Path, document: dict[str, Any]) -> None:
    space_of_values(tmp_path, document)


@fuzz(300)
@given(set_=OPTIONS, only=OPTIONS, data=st.none() | WORDS)
def test_random_options_are_read_or_refused(tmp_path: Path, set_: list[str], only: list[str], data: str | None) -> None:
    space_of_options(tmp_path, set_, only, data)


@FILES
@fuzz(300)
@given(data=st.data())
def test_mutated_data_files_are_read_or_refused(tmp_path: Path, suffix: str, good: bytes, data: st.DataObject) -> None:
    file_of_bytes(tmp_path, suffix, data.draw(mutations(good)))


@pytest.mark.slow
@fuzz(10_000)
@given(content=SPACE_BYTES)
def test_many_mutated_spaces_are_read_or_refused(tmp_path: Path, content: bytes) -> None:
    space_of_bytes(tmp_path, content)


@pytest.mark.slow
@fuzz(5_000)
@given(document=DOCUMENTS)
def test_many_random_values_under_known_keys_are_read_or_refused(tmp_path: Path, document: dict[str, Any]) -> None:
    space_of_values(tmp_path, document)


@pytest.mark.slow
@fuzz(5_000)
@given(set_=OPTIONS, only=OPTIONS, data=st.none() | WORDS)
def test_many_random_options_are_read_or_refused(
    tmp_path: Path, set_: list[str], only: list[str], data: str | None
) -> None:
    space_of_options(tmp_path, set_, only, data)


@pytest.mark.slow
@FILES
@fuzz(10_000)
@given(data=st.data())
def test_many_mutated_data_files_are_read_or_refused(
    tmp_path: Path, suffix: str, good: bytes, data: st.DataObject
) -> None:
    file_of_bytes(tmp_path, suffix, data.draw(mutations(good)))
