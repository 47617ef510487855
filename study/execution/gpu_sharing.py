"""How many trajectories share one GPU?

Where a space says ``gpu: auto``, one trajectory of each kind has a GPU to itself first, and what it was seen to use
decides how many of its kind run side by side after it. A kind is a model and the number of examples that may lie on
the device at once, for these two decide about memory and about how much of the device one trajectory keeps busy.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from study.plan.plan import Trajectory
from study.records import Outcome
from study.training.devices import LARGEST_MICRO_BATCH

# What is left free for what the allocator of each process holds back and for what other processes need at times.
USABLE_MEMORY = 0.9
# Of a device that is busy longer than this there is nothing left to share.
BUSY = 0.95
MOST_SIDE_BY_SIDE = 8

Kind = tuple[str, int]


def kind(trajectory: Trajectory) -> Kind:
    """What decides how much of a device a trajectory uses."""
    settings = trajectory.settings
    wanted = settings["micro_batch_size"]
    most = LARGEST_MICRO_BATCH if wanted == "auto" else int(wanted)
    return str(settings["model"]), min(int(settings["batch_size"]), most)


def side_by_side(outcome: Outcome) -> int | None:
    """How many trajectories like the one that ended so fit on one GPU; None where its use was not measured."""
    peak, whole, utilisation = outcome.peak_memory_bytes, outcome.device_memory_bytes, outcome.utilisation
    if not peak or not whole or utilisation is None:
        return None
    if utilisation > BUSY:
        return 1
    by_memory = math.floor(USABLE_MEMORY * whole / peak)
    by_time = math.ceil(1 / max(utilisation, 1 / MOST_SIDE_BY_SIDE))
    return max(1, min(by_memory, by_time, MOST_SIDE_BY_SIDE))


def first_of_each_kind(trajectories: Sequence[Trajectory], known: Mapping[Kind, int]) -> list[Trajectory]:
    """The trajectories that have to be measured: the first of each kind that is not ``known`` and has several."""
    kinds: dict[Kind, list[Trajectory]] = {}
    for trajectory in trajectories:
        kinds.setdefault(kind(trajectory), []).append(trajectory)
    return [members[0] for key, members in kinds.items() if key not in known and len(members) > 1]
