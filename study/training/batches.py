"""The order in which an epoch sees the training examples, and the batches after which something is logged.

A pure function of the seed and the epoch, so that a run that resumes needs to know only where it stood.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

# Padding that is less than this share of all positions is cheaper than a less random order.
PADDING_WORTH_SORTING = 0.05
BATCHES_PER_BUCKET_WINDOW = 50


def epoch_order(lengths: npt.NDArray[Any], *, batch_size: int, seed: int, epoch: int) -> npt.NDArray[np.int64]:
    """Positions ``[n]`` of the training examples, whose ``lengths`` are in tokens, in the order of one epoch.

    A uniform permutation where padding everything to the longest costs at most 5 %. Where it costs more, each stretch
    of 50 batches of that permutation is sorted by length and its batches shuffled: an example's stretch and the order
    of the batches stay random, but examples of like length share a batch. The epoch's last, smaller batch is taken out
    of the last stretch at a random place, so that it holds no particular lengths.
    """
    rng = np.random.default_rng([seed, epoch])
    order = rng.permutation(len(lengths))
    if 1 - float(np.mean(lengths)) / int(np.max(lengths)) <= PADDING_WORTH_SORTING:
        return order
    stretch = batch_size * BATCHES_PER_BUCKET_WINDOW
    parts: list[npt.NDArray[np.int64]] = []
    for start in range(0, len(order), stretch):
        part = order[start : start + stretch]
        part = part[np.argsort(lengths[part], kind="stable")]
        whole, rest = divmod(len(part), batch_size)
        cut = batch_size * int(rng.integers(whole + 1)) if rest else 0
        batches = np.delete(part, slice(cut, cut + rest)).reshape(whole, batch_size)
        parts += [*batches[rng.permutation(whole)], part[cut : cut + rest]]
    return np.concatenate(parts)


def interval_ends(batch_sizes: Sequence[int], every_examples: int) -> set[int]:
    """Indices of the batches of an epoch after which something is logged.

    The first batch at or past each multiple of ``every_examples`` within the epoch, and the last one.
    """
    ends, seen = {len(batch_sizes) - 1}, 0
    for index, size in enumerate(batch_sizes):
        if (seen + size) // every_examples > seen // every_examples:
            ends.add(index)
        seen += size
    return ends
