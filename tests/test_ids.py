"""Ids by content."""

import pytest

from study.ids import stable_id


def test_an_id_is_the_same_on_every_machine_and_for_every_order_of_keys() -> None:
    assert stable_id({"b": [1, 2.5, None], "a": "é"}) == stable_id({"a": "é", "b": [1, 2.5, None]}) == "84afbf1d4853"


@pytest.mark.parametrize("other", [{"a": 1.0}, {"a": [1]}, {"a": "1"}, {"a": True}, {"b": 1}, {}])
def test_other_content_has_another_id(other: object) -> None:
    assert stable_id(other) != stable_id({"a": 1})


def test_content_that_is_not_json_has_no_id() -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        stable_id({"a": float("nan")})
