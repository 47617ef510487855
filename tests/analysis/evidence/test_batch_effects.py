"""Batch sizes are compared at the rates that validation selects for each, with the same ends in every condition."""

from pathlib import Path

import numpy as np
import pytest
from synthetic_spaces import near, results_of
from synthetic_study import Story, StoryOf, healthy

from analysis.evidence.batch_effects import batch_size_effect, batch_strata, selected_at
from analysis.evidence.comparison import ended_runs
from analysis.results import Results
from study.settings import Settings

TEXT = """
data: {source: builtin:reviews, examples: 6000}
fixed: {epochs: 2, lr_scaling_base_batch_size: 16}
axes:
  model: [tiny-bert, tiny-roberta]
  batch_size: [16, 64, 256]
  lr_scaling: [none, linear]
  seed: [0, 1, 2]
when:
  - match: {batch_size: 16, lr_scaling: linear}
    drop: true
"""


def study(folder: Path, story_of: StoryOf, text: str = TEXT) -> Results:
    return results_of(folder, story_of, text)


def flat(settings: Settings, rng: np.random.Generator) -> Story | None:
    return healthy(near(0.88, rng), epochs=2)


def test_the_smallest_batch_belongs_to_the_stratum_of_every_scaling(tmp_path: Path) -> None:
    results = study(tmp_path, flat)
    strata = batch_strata(results, ended_runs(results))
    assert [stratum.settings.model for stratum in strata] == ["tiny-bert", "tiny-roberta"]
    assert [{size: len(of) for size, of in stratum.candidates.items()} for stratum in strata] == [
        {16: 1, 64: 2, 256: 2}
    ] * 2
    assert {stratum.length for stratum in strata} == {"epochs"}
    assert [stratum.most_rates for stratum in strata] == [2, 2]
    assert batch_size_effect(results, strata, "optimizer steps") is None


def test_the_ends_are_the_same_in_every_condition_that_is_averaged(tmp_path: Path) -> None:
    """Of tiny-roberta, no run of the largest batch has ended: most conditions decide, and the other is counted."""
    text = TEXT.replace("[tiny-bert, tiny-roberta]", "[tiny-bert, tiny-roberta, bert-base-uncased]")
    results = study(
        tmp_path, lambda s, rng: None if s.model == "tiny-roberta" and s.batch_size == 256 else flat(s, rng), text
    )
    found = batch_size_effect(results, batch_strata(results, ended_runs(results)), "epochs")
    assert found is not None
    # All three have 16 and 64; two have 16 and 256. The ends that most conditions have come first.
    assert (found.smallest, found.largest) == (16, 64)
    assert (len(found.effect.strata), found.effect.dropped) == (3, 0)
    two = study(tmp_path, lambda s, rng: None if s.batch_size == 256 and s.model == "tiny-roberta" else flat(s, rng))
    found = batch_size_effect(two, batch_strata(two, ended_runs(two)), "epochs")
    assert found is not None
    assert (found.smallest, found.largest) == (16, 64)


def test_the_rate_is_selected_on_the_other_seeds(tmp_path: Path) -> None:
    """Scaling is better with seeds 0 to 2 and worse with seed 3, which alone is scored at the rate that is worse."""

    def tell(settings: Settings, rng: np.random.Generator) -> Story:
        better = (settings.lr_scaling == "linear") == (settings.seed < 3)
        return healthy(0.92 if better else 0.8, epochs=2)

    results = study(tmp_path, tell, TEXT.replace("[0, 1, 2]", "[0, 1, 2, 3]"))
    stratum = batch_strata(results, ended_runs(results))[0]
    selected = selected_at(results, stratum.candidates[256])
    assert {seed: cell.cell.settings.lr_scaling for seed, cell in selected.items()} == dict.fromkeys(range(4), "linear")
    assert {seed: cell.cell.settings.seed for seed, cell in selected.items()} == dict(enumerate(range(4)))


def test_the_effect_is_that_of_the_selected_rates(tmp_path: Path) -> None:
    def tell(settings: Settings, rng: np.random.Generator) -> Story:
        unscaled = settings.batch_size == 256 and settings.lr_scaling == "none"
        return healthy(near(0.8 if unscaled else 0.9, rng, 0.001), epochs=2)

    results = study(tmp_path, tell)
    found = batch_size_effect(results, batch_strata(results, ended_runs(results)), "epochs")
    assert found is not None
    assert (found.smallest, found.largest) == (16, 256)
    assert found.effect.mean.value == pytest.approx(0.0, abs=0.01)
    assert found.effect.names == ("tiny-bert", "tiny-roberta")
