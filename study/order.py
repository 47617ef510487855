"""In which order does an epoch see the training examples, and where within it is something logged?

A pure function of the seed and the epoch, so that a run that goes on needs to know only where it stood.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

# Padding that costs less than this part of all positions is cheaper than a less random order.
PADDING_WORTH_SORTING = 0.05
BATCHES_PER_BUCKET_WINDOW = 50


def epoch_order(
    lengths: npt.NDArray[Any], *, batch_size: int, max_length: int, seed: int, epoch: int
) -> npt.NDArray[np.int64]:
    """Positions ``[n]`` of the training examples, whose ``lengths`` are in tokens, in the order of one epoch.

    A uniform permutation where padding everything to ``max_length`` costs at most 5 %. Where it costs more, each
    stretch of 50 batches of that permutation is sorted by length and its batches shuffled: which stretch an example
    falls into and the order of the batches stay random, which examples share a batch follows their lengths.
    """
    rng = np.random.default_rng([seed, epoch])
    order = rng.permutation(len(lengths))
    if 1 - float(np.mean(lengths)) / max_length <= PADDING_WORTH_SORTING:
        return order
    stretch = batch_size * BATCHES_PER_BUCKET_WINDOW
    batches: list[npt.NDArray[np.int64]] = []
    for start in range(0, len(order), stretch):
        part = order[start : start + stretch]
        part = part[np.argsort(lengths[part], kind="stable")]
        whole = len(part) // batch_size
        cut = [part[i * batch_size : (i + 1) * batch_size] for i in range(whole)]
        batches += [cut[i] for i in rng.permutation(whole)]
        if len(part) % batch_size:
            batches.append(part[whole * batch_size :])
    return np.concatenate(batches)


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
