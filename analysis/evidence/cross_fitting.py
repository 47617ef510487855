"""Selection on some seeds and estimation on another, so that no run's luck with its seed is taken for skill.

A run that is lucky is lucky on validation and on test alike. Each seed in turn is left out: what the other seeds select
on validation is scored on the seed that was left out (Stone 1974; Chernozhukov et al. 2018 for the name).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

T = TypeVar("T")

METHOD = (
    "What selects never estimates: for each seed in turn, the other seeds select on validation, and the seed that was "
    "left out is scored (cross-fitting). With the same seeds for both, the luck of the selected runs is counted as "
    "skill, the more so the more there was to select from. The configuration shown is what all seeds select."
)


def held_out(candidates: Sequence[Mapping[int, T]], gain: Callable[[Sequence[T]], float]) -> dict[int, T]:
    """For each seed that all ``candidates`` have, the member of the candidate that the other seeds select.

    ``gain`` scores a candidate's members of the other seeds, more being better; of equals, the earlier is selected.
    Candidates with half as many seeds as the fullest or fewer are left out. Empty where the others share fewer than two
    seeds and there is something to select.
    """
    if not candidates:
        return {}
    most = max(map(len, candidates))
    candidates = [members for members in candidates if 2 * len(members) > most]
    shared = set(candidates[0]).intersection(*candidates[1:])
    if len(candidates) == 1:
        return {seed: candidates[0][seed] for seed in sorted(shared)}
    if len(shared) < 2:
        return {}
    selected = {}
    for seed in sorted(shared):
        others = sorted(shared - {seed})
        best = max(candidates, key=lambda members: gain([members[other] for other in others]))
        selected[seed] = best[seed]
    return selected
