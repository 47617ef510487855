"""Synthetic reviews whose label depends on context, so that word counts do not solve them.

Short invented reviews of films and gadgets, for machines without a data set. A word of praise is about as often negated
("never dull"), outweighed ("dreadful, but ... won") or somebody else's ("my brother loved it; I did not") in one class
as in the other, up to a slight lean that training from random weights can start from. Counting words therefore stays
near chance, while the rules of the grammar solve all but the label noise. Negators also occur where nothing is negated.
"""

from __future__ import annotations

from typing import Final

import numpy as np

VERSION: Final = 1
"""To be raised when the same arguments give other reviews; part of the key of anything cached."""

LABEL_NOISE: Final = 0.02
NEGATED_SHARE: Final = 0.35
"""Share of opinions that are negated: below a half, because at a half small models find no gradient to start from."""
PLAIN_SHARE: Final = 0.55
CONTRAST_SHARE: Final = 0.25
"""The remaining share is opinions of others, reported."""

POSITIVE: Final = ("good", "great", "lovely", "clever", "charming", "superb")
NEGATIVE: Final = ("bad", "dull", "awful", "clumsy", "boring", "dreadful")
NEGATORS: Final = ("not", "never")

_ASPECTS: Final = {
    "film": (
        "acting",
        "plot",
        "music",
        "ending",
        "camera work",
        "dialogue",
        "cast",
        "pace",
        "script",
        "lighting",
        "story",
        "first hour",
    ),
    "device": (
        "sound",
        "display",
        "battery",
        "manual",
        "design",
        "packaging",
        "remote",
        "tuner",
        "cable",
        "keyboard",
        "charger",
        "start menu",
    ),
}
_THINGS: Final = {
    "film": ("film", "movie", "sequel", "drama", "thriller", "documentary"),
    "device": ("radio", "speaker", "headset", "player", "recorder", "tablet"),
}
_DEGREES: Final = ("really", "very", "especially")
_DEGREE_SHARE: Final = 0.2
_OTHERS: Final = ("brother", "sister", "neighbour", "friend", "uncle", "teacher", "boss", "cousin", "flatmate", "aunt")
_WHEN: Final = (
    "on Monday",
    "last week",
    "in June",
    "yesterday",
    "on a rainy day",
    "over the weekend",
    "in the evening",
    "after work",
    "during the holidays",
    "a month ago",
)
_OPENINGS: Final = (
    "I had not heard of this {thing} before.",
    "We got this {thing} {when}.",
    "This {thing} came to us {when}.",
    "I had never read about it.",
    "A {other} of mine told us of this {thing} {when}.",
    "We could not wait for this {thing}.",
    "My {other} and I tried it {when}.",
    "Everybody at the office has seen this {thing}.",
)
_CLOSINGS: Final = (
    "All of that was {when}.",
    "We have not told my {other} yet.",
    "I wrote these lines {when}.",
    "It was {when}, not earlier.",
    "My {other} has never seen a {thing}.",
    "The {aspect} is the part people ask about.",
    "I could talk about the {aspect} {when}.",
    "Ask my {other} for the price of the {thing}.",
)


def generate(examples: int, seed: int = 0) -> tuple[list[str], list[int]]:
    """Reviews and their labels (1 positive, 0 negative), each list of length ``examples``, the same on every machine.

    The classes differ by at most one review before ``LABEL_NOISE`` of the labels is flipped; texts are 8 to 30 words.

    Raises ValueError if ``examples`` is negative.
    """
    if examples < 0:
        raise ValueError(f"cannot generate {examples} examples")
    rng = np.random.default_rng(seed)
    meant = rng.permutation(np.arange(examples) % 2)
    flipped = rng.random(examples) < LABEL_NOISE
    texts = [_review(bool(label), rng) for label in meant]
    return texts, [int(label) for label in meant ^ flipped]


def _pick(options: tuple[str, ...], rng: np.random.Generator) -> str:
    return options[int(rng.integers(len(options)))]


def _review(positive: bool, rng: np.random.Generator) -> str:
    kind = _pick(tuple(_THINGS), rng)
    form = rng.random()
    if form < PLAIN_SHARE:
        verdict = f"The {_pick(_ASPECTS[kind], rng)} was {_opinion(positive, rng)}."
    elif form < PLAIN_SHARE + CONTRAST_SHARE:
        verdict = _contrast(positive, kind, rng)
    else:
        verdict = _reported(positive, rng)
    if rng.random() < 0.35:
        return f"{_neutral(_OPENINGS, kind, rng)} {verdict}"
    return f"{verdict} {_neutral(_CLOSINGS, kind, rng)}"


def _opinion(positive: bool, rng: np.random.Generator) -> str:
    """An adjective whose meaning is ``positive``, negated or not."""
    negated = rng.random() < NEGATED_SHARE
    negator = f"{_pick(NEGATORS, rng)} " if negated else ""
    degree = f"{_pick(_DEGREES, rng)} " if rng.random() < _DEGREE_SHARE else ""
    return f"{negator}{degree}{_pick(POSITIVE if positive != negated else NEGATIVE, rng)}"


def _contrast(positive: bool, kind: str, rng: np.random.Generator) -> str:
    """Two aspects, one praised and one not; the clause after 'but' decides."""
    first, second = rng.choice(len(_ASPECTS[kind]), size=2, replace=False)
    outweighed = f"The {_ASPECTS[kind][first]} was {_opinion(not positive, rng)}"
    return f"{outweighed}, but the {_ASPECTS[kind][second]} was {_opinion(positive, rng)}."


def _reported(positive: bool, rng: np.random.Generator) -> str:
    """Somebody else's opinion, and the writer's, who agrees or does not."""
    other = _pick(_OTHERS, rng)
    agrees = rng.random() < 1 - NEGATED_SHARE
    verb = "loved" if positive == agrees else "hated"
    if rng.random() < 0.5:
        return f"My {other} {verb} it and I did {'too' if agrees else 'not'}."
    return f"My {other} called it {_opinion(rng.random() < 0.5, rng)}, but I found it {_opinion(positive, rng)}."


def _neutral(sentences: tuple[str, ...], kind: str, rng: np.random.Generator) -> str:
    """A sentence without an opinion."""
    return _pick(sentences, rng).format(
        thing=_pick(_THINGS[kind], rng),
        aspect=_pick(_ASPECTS[kind], rng),
        other=_pick(_OTHERS, rng),
        when=_pick(_WHEN, rng),
    )
