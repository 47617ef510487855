"""Corrections for several claims agree with statsmodels and with their definition, and keep their level."""

import numpy as np
import pytest
from statsmodels.stats.multitest import multipletests

from analysis.statistics.multiplicity import divided_level, holm


@pytest.mark.parametrize("size", [1, 2, 7, 50])
def test_holms_correction_is_that_of_statsmodels(size: int) -> None:
    p_values = np.random.default_rng(size).random(size) ** 3
    assert holm(p_values.tolist()) == pytest.approx(multipletests(p_values, method="holm")[1].tolist())


def test_holms_correction_of_a_published_example() -> None:
    """Holm (1979), as in R's documentation of p.adjust: the adjusted values never fall, and are at most 1."""
    assert holm([0.01, 0.02, 0.03, 0.04]) == pytest.approx([0.04, 0.06, 0.06, 0.06])
    assert holm([0.6, 0.5]) == [1.0, 1.0]
    assert holm([]) == []


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        # Which family makes a claim depends on the data, so that a family has its share alone, too.
        ([0.02], [], ([0.02 / 0.6], [])),
        ([], [0.02], ([], [0.02 / 0.4])),
        # 0.02 is within 60 % of 5 %, so that the other claim is tested at 5 %: both hold.
        ([0.02], [0.04], ([0.02 / 0.6], [0.04])),
        # Neither is within its own share.
        ([0.035], [0.04], ([0.035 / 0.6], [0.035 / 0.6])),
        # A family that does not hold as a whole gives nothing away.
        ([0.01, 0.9], [0.04], ([0.01 / 0.6, 0.9], [0.04 / 0.4])),
        # 0.001 is within 40 %: the first family is tested at 5 %.
        ([0.045], [0.001], ([0.045], [0.001 / 0.4])),
    ],
)
def test_a_level_is_divided_between_two_families(
    first: list[float], second: list[float], expected: tuple[list[float], list[float]]
) -> None:
    adjusted = divided_level(first, second, 0.6)
    assert adjusted[0] == pytest.approx([min(1.0, p) for p in expected[0]])
    assert adjusted[1] == pytest.approx([min(1.0, p) for p in expected[1]])


def test_a_family_that_could_make_no_claim_leaves_the_level_to_the_other() -> None:
    assert divided_level([], [0.04], 0.0) == ([], [0.04])


def test_families_without_an_effect_are_seldom_claimed() -> None:
    """One true effect among three claims of scores, and none in two of failures: a false claim in at most 5 %."""
    rng = np.random.default_rng(0)
    false = 0
    for _ in range(4_000):
        failures, scores = rng.random(2).tolist(), [1e-6, *rng.random(2).tolist()]
        of_failures, of_scores = divided_level(holm(failures), holm(scores), 0.6)
        false += min(*of_failures, *of_scores[1:]) < 0.05
    assert false / 4_000 < 0.06
