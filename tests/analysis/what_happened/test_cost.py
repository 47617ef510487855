"""What training has cost: the sum over runs of what was really trained."""

from dataclasses import replace
from pathlib import Path

import numpy as np
from synthetic_spaces import SMALL, results_of
from synthetic_study import ENDED, Story, healthy

from analysis.what_happened.cost import training_cost
from study.settings import Settings

ONE_MODEL = SMALL.replace("[tiny-bert, tiny-roberta]", "[tiny-bert]")


def test_hours_examples_and_steps_are_added_up_over_runs(tmp_path: Path) -> None:
    def story(settings: Settings, rng: np.random.Generator) -> Story | None:
        return healthy() if settings.seed < 2 else None

    # Two rates and two seeds, four epochs of 8,000 examples each; a synthetic epoch takes one second.
    assert training_cost(results_of(tmp_path, story, ONE_MODEL)) == (
        "Training took 16 seconds on CPU in 4 runs: 128,000 examples and 8,000 optimizer steps, evaluation and "
        "start-up apart."
    )


def test_gpu_hours_count_the_part_of_a_gpu_that_a_run_had(tmp_path: Path) -> None:
    outcome = replace(ENDED, device="NVIDIA H100", gpus=0.5)
    told = training_cost(results_of(tmp_path, lambda s, rng: replace(healthy(), outcome=outcome), ONE_MODEL))
    # 32 epochs of one second, with half a GPU each.
    assert "32 seconds on NVIDIA H100, which is 0.00444 GPU hours in 8 runs" in told


def test_cells_that_other_cells_runs_include_cost_nothing(tmp_path: Path) -> None:
    text = ONE_MODEL.replace("axes:\n", "axes:\n  early_stopping: [none, {patience: 1}]\n")
    told = training_cost(results_of(tmp_path, lambda settings, rng: healthy(), text.replace("[linear]", "[constant]")))
    assert told.endswith(" 8 more cells cost nothing: other cells' runs include them.")
