"""The built-in reviews: the same everywhere, balanced, not solved by counting words, and solved by reading."""

import hashlib
import json
import re

import numpy as np
import pytest
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression

from study.data.builtin_reviews import LABEL_NOISE, NEGATIVE, NEGATORS, POSITIVE, VERSION, generate

SENTENCE = re.compile(r"[^.]+\.")
OPINION = re.compile(
    rf"\b(?:was|it)\s+(?P<negator>{'|'.join(NEGATORS)})?\s*(?:\w+\s+)?(?P<word>{'|'.join(POSITIVE + NEGATIVE)})\b"
)
AGREEMENT = re.compile(r"\b(?P<verb>loved|hated) it and I did (?P<agrees>too|not)\b")


def read(text: str) -> int:
    """The label a reader gives: by agreement with others, otherwise by the last clause with an opinion."""
    for sentence in SENTENCE.findall(text):
        if agreement := AGREEMENT.search(sentence):
            return int((agreement["verb"] == "loved") == (agreement["agrees"] == "too"))
        if opinion := OPINION.search(sentence.split(", but ")[-1]):
            return int((opinion["word"] in POSITIVE) == (opinion["negator"] is None))
    raise AssertionError(f"no opinion in {text!r}")


@pytest.fixture(scope="module")
def reviews() -> tuple[list[str], list[int]]:
    return generate(6_000, seed=0)


def test_is_the_same_on_every_machine(reviews: tuple[list[str], list[int]]) -> None:
    """A change of the reviews is a change of ``VERSION``: caches and finished studies rely on it."""
    digest = hashlib.sha256(json.dumps(reviews).encode()).hexdigest()
    assert (VERSION, digest) == (1, "4e8032bb1ef29a4ea27b8055e9c25a44a7730486b6b64e0fb8e72939a7d416d5")


def test_another_seed_gives_other_reviews(reviews: tuple[list[str], list[int]]) -> None:
    other, _ = generate(6_000, seed=1)
    assert len(set(other) & set(reviews[0])) < 0.05 * len(other)


@pytest.mark.parametrize("examples", [0, 1, 2, 7])
def test_generates_as_many_examples_as_requested(examples: int) -> None:
    texts, labels = generate(examples)
    assert len(texts) == len(labels) == examples
    assert set(labels) <= {0, 1}


def test_refuses_a_negative_number() -> None:
    with pytest.raises(ValueError, match="-1 examples"):
        generate(-1)


def test_classes_are_balanced(reviews: tuple[list[str], list[int]]) -> None:
    assert np.mean(reviews[1]) == pytest.approx(0.5, abs=0.01)


def test_texts_are_short_and_rarely_equal(reviews: tuple[list[str], list[int]]) -> None:
    texts, _ = reviews
    lengths = [len(text.split()) for text in texts]
    assert min(lengths) >= 8
    assert max(lengths) <= 30
    assert len(set(texts)) > 0.97 * len(texts)
    assert 100 < len({word for text in texts for word in re.findall(r"\w+", text.lower())}) < 300


def test_counting_words_is_little_better_than_chance(reviews: tuple[list[str], list[int]]) -> None:
    texts, labels = reviews
    counts = CountVectorizer().fit_transform(texts)
    fitted = LogisticRegression(max_iter=1_000).fit(counts[:4_800], labels[:4_800])
    assert fitted.score(counts[4_800:], labels[4_800:]) < 0.65


def test_reading_gives_the_right_label_except_for_the_noise(reviews: tuple[list[str], list[int]]) -> None:
    texts, labels = reviews
    wrong = np.mean([read(text) != label for text, label in zip(texts, labels, strict=True)])
    assert wrong == pytest.approx(LABEL_NOISE, abs=0.006)
