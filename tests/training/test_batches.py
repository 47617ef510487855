"""The order of an epoch's examples, and the batches after which an interval ends."""

import itertools
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from study.training.batches import BATCHES_PER_BUCKET_WINDOW, epoch_order, interval_ends

IntArray = npt.NDArray[np.int64]
LengthsOf = Callable[[int], IntArray]


def equal_lengths(n: int) -> IntArray:
    return np.full(n, 128)


def review_lengths(n: int) -> IntArray:
    """Lengths like those of reviews truncated to 512: the longest is common, the mean about half of it."""
    return np.minimum(np.random.default_rng(0).lognormal(5.4, 0.7, n), 512).astype(np.int64)


@pytest.mark.parametrize("lengths_of", [equal_lengths, review_lengths])
@given(n=st.integers(1, 700), batch_size=st.integers(1, 40), seed=st.integers(0, 5), epoch=st.integers(0, 3))
@settings(max_examples=50, deadline=None)
def test_an_epoch_sees_every_example_once(
    lengths_of: LengthsOf, n: int, batch_size: int, seed: int, epoch: int
) -> None:
    lengths = lengths_of(n)
    order = epoch_order(lengths, batch_size=batch_size, seed=seed, epoch=epoch)
    assert np.array_equal(np.sort(order), np.arange(n))
    assert np.array_equal(order, epoch_order(lengths, batch_size=batch_size, seed=seed, epoch=epoch))


@pytest.mark.parametrize("lengths_of", [equal_lengths, review_lengths])
def test_every_seed_and_epoch_has_its_own_order(lengths_of: LengthsOf) -> None:
    lengths = lengths_of(200)
    orders = [epoch_order(lengths, batch_size=16, seed=s, epoch=e) for s, e in itertools.product(range(3), repeat=2)]
    assert all(not np.array_equal(first, second) for first, second in itertools.combinations(orders, 2))


def test_with_little_padding_the_order_is_a_plain_permutation() -> None:
    lengths = np.full(1_000, 128)
    lengths[:70] = 50  # costs 4.3 %
    plain = epoch_order(np.full(1_000, 128), batch_size=16, seed=3, epoch=1)
    assert np.array_equal(epoch_order(lengths, batch_size=16, seed=3, epoch=1), plain)


def padded_share(lengths: IntArray, order: IntArray, batch_size: int) -> float:
    batches = np.split(order, range(batch_size, len(order), batch_size))
    return 1 - float(lengths.sum() / sum(len(batch) * lengths[batch].max() for batch in batches))


@pytest.mark.parametrize("batch_size", [16, 64])
def test_length_buckets_leave_little_padding(batch_size: int) -> None:
    lengths = review_lengths(10_000)
    order = epoch_order(lengths, batch_size=batch_size, seed=0, epoch=0)
    assert padded_share(lengths, np.random.default_rng(0).permutation(10_000), batch_size) > 0.3
    assert padded_share(lengths, order, batch_size) < 0.03


def test_stretches_and_the_order_of_batches_stay_random() -> None:
    n, batch_size = 10_000, 16
    lengths = review_lengths(n)
    order = epoch_order(lengths, batch_size=batch_size, seed=0, epoch=0)
    stretch = batch_size * BATCHES_PER_BUCKET_WINDOW
    for start in range(0, n, stretch):
        part = lengths[order[start : start + stretch]]
        assert part.mean() == pytest.approx(lengths.mean(), rel=0.1)
    means = lengths[order].reshape(-1, batch_size).mean(axis=1)
    assert abs(np.corrcoef(means[:-1], means[1:])[0, 1]) < 0.2


def test_the_smaller_last_batch_holds_no_particular_lengths() -> None:
    """With a large batch, an epoch is a single stretch, whose end holds the longest texts once it is sorted."""
    lengths = np.arange(1, 1_001)
    means = [lengths[epoch_order(lengths, batch_size=300, seed=0, epoch=e)[900:]].mean() for e in range(40)]
    assert min(means) < 200
    assert max(means) > 800
    assert np.mean(means) == pytest.approx(500, abs=150)


@pytest.mark.parametrize(
    ("sizes", "every", "ends"),
    [
        ([16] * 10, 160, {9}),
        ([16] * 10, 64, {3, 7, 9}),
        ([16] * 10, 50, {3, 6, 9}),
        ([16] * 10, 1, set(range(10))),
        ([16] * 10, 10_000, {9}),
        ([16, 16, 8], 16, {0, 1, 2}),
        ([40], 16, {0}),
        ([100, 100, 100], 250, {2}),
    ],
)
def test_an_interval_ends_with_the_first_batch_at_or_past_each_multiple(
    sizes: list[int], every: int, ends: set[int]
) -> None:
    assert interval_ends(sizes, every) == ends


@given(st.lists(st.integers(1, 50), min_size=1, max_size=60), st.integers(1, 300))
def test_the_last_batch_always_ends_an_interval(sizes: list[int], every: int) -> None:
    ends = interval_ends(sizes, every)
    assert len(sizes) - 1 in ends
    crossed = {seen // every for seen in itertools.accumulate(sizes)} - {0}
    assert len(ends - {len(sizes) - 1}) <= len(crossed) <= len(ends)
