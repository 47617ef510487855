"""The wording that error messages share."""

import pytest

from study.errors import SpaceError, StudyError, did_you_mean, enumerate_names, quote


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("word", "'word'"),
        ("x" * 61, f"'{'x' * 60}…'"),
        (5, "5"),
        (2.5, "2.5"),
        (True, "true"),
        (False, "false"),
        (None, "nothing"),
        ([1], "a list"),
        ((1,), "a list"),
        ({"a": 1}, "a mapping"),
    ],
)
def test_a_value_is_quoted_as_a_space_file_writes_it(value: object, text: str) -> None:
    assert quote(value) == text


@pytest.mark.parametrize(
    ("word", "hint"),
    [
        ("learning_rat", "; did you mean learning_rate?"),
        ("lerning_rate", "; did you mean learning_rate?"),
        ("batch", "; did you mean batch_size?"),
        ("nothing of the kind", ""),
        ("", ""),
        (5, ""),
        ("x" * 10_000, ""),
    ],
)
def test_the_nearest_known_name_is_suggested(word: object, hint: str) -> None:
    assert did_you_mean(word, ["learning_rate", "batch_size", "y" * 100]) == hint


def test_at_most_twelve_names_are_listed() -> None:
    assert enumerate_names(range(3)) == "0, 1, 2"
    assert enumerate_names(range(12)) == ", ".join(map(str, range(12)))
    assert enumerate_names(range(13)) == ", ".join(map(str, range(12))) + ", …"
    assert enumerate_names(["x" * 61]) == "x" * 60 + "…"


@pytest.mark.parametrize("kind", [SpaceError, StudyError])
def test_a_message_has_no_control_characters(kind: type[ValueError]) -> None:
    assert str(kind("a\nb\x1b[31m\ud800 é")) == r"a\nb\x1b[31m\ud800 é"


def test_a_space_error_has_a_line_for_each_message() -> None:
    assert str(SpaceError("first", "second\nline")) == "first\nsecond\\nline"
