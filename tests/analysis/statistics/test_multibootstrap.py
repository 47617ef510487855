"""Intervals of means over seeds and examples agree with their closed form and cover the truth."""

import math

import numpy as np
import pytest
import scipy.stats

from analysis.statistics.estimate import FloatArray
from analysis.statistics.multibootstrap import example_weights, mean_over_seeds_and_examples, multibootstrap


def crossed(rng: np.random.Generator, seeds: int, examples: int, mean: float = 0.0) -> FloatArray:
    """Scores with a part of the seed, one of the example, and one of their interaction."""
    return (
        mean
        + rng.normal(0, 0.02, (seeds, 1))
        + rng.normal(0, 0.3, (1, examples))
        + rng.normal(0, 0.1, (seeds, examples))
    )


def test_the_multibootstrap_agrees_with_its_closed_form() -> None:
    rng = np.random.default_rng(1)
    scores = crossed(rng, 6, 800)
    bootstrap = multibootstrap([scores], example_weights(800, rng, 4_000), rng).estimate()
    closed = mean_over_seeds_and_examples(scores)
    assert bootstrap.value == pytest.approx(closed.value)
    assert bootstrap.high - bootstrap.low == pytest.approx(closed.high - closed.low, rel=0.08)


def test_without_spread_over_seeds_the_multibootstrap_has_the_examples_standard_error() -> None:
    rng = np.random.default_rng(2)
    scores = np.tile(rng.normal(size=1_000), (3, 1))
    mean = multibootstrap([scores], example_weights(1_000, rng, 4_000), rng)
    assert mean.standard_error == pytest.approx(scores[0].std() / math.sqrt(1_000), rel=0.05)


@pytest.mark.parametrize("seeds", [2, 3, 5, 10])
def test_the_multibootstrap_covers_the_truth_as_often_as_stated(seeds: int) -> None:
    rng = np.random.default_rng(seeds)
    studies = 400
    weights = example_weights(200, rng, 300)
    covered = 0
    for _ in range(studies):
        estimate = multibootstrap([crossed(rng, seeds, 200, mean=0.1)], weights, rng).estimate()
        covered += estimate.low <= 0.1 <= estimate.high
    # Two seeds say little about their spread, and Satterthwaite's approximation is then too wide.
    least, most = scipy.stats.binom.ppf([1e-4, 1 - 1e-4], studies, 0.95)
    assert least <= covered <= (most if seeds > 2 else studies)


def test_a_single_seed_has_no_interval() -> None:
    rng = np.random.default_rng(0)
    scores = rng.normal(size=(1, 50))
    mean = multibootstrap([scores], example_weights(50, rng), rng)
    assert math.isnan(mean.estimate().low)
    assert math.isnan(mean.p_value)
    assert math.isnan(mean.detectable)
    assert math.isnan(mean_over_seeds_and_examples(scores).low)
