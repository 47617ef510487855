"""Corrections for several claims: Holm's, and the division of the level between two families of claims."""

from __future__ import annotations

from collections.abc import Sequence


def holm(p_values: Sequence[float]) -> list[float]:
    """The p-values adjusted so that all claims below a level hold together (Holm 1979), in the same order."""
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    adjusted, largest = [1.0] * len(p_values), 0.0
    for rank, i in enumerate(order):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[i]))
        adjusted[i] = largest
    return adjusted


def divided_level(
    first: Sequence[float], second: Sequence[float], first_share: float
) -> tuple[list[float], list[float]]:
    """The p-values of two families of claims, adjusted for the level being divided between them.

    The p-values of each family are adjusted for one another already. The first family has ``first_share`` of the level
    and the second the rest, whether or not the other makes claims, since which ones are made depends on the data; a
    family all of whose claims hold gives its share to the other (Bretz et al. 2009). One without a share has no claims.
    """

    def adjust(own: Sequence[float], others: Sequence[float], share: float) -> list[float]:
        others_hold = max(others) / (1 - share) if others else 1.0
        return [min(1.0, p / share, max(p, others_hold)) for p in own]

    return adjust(first, second, first_share), adjust(second, first, 1 - first_share)
