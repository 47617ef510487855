"""What a design can show, in words: comparisons, seeds, the width of a terminal, and time."""

import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
from places import ROOT
from synthetic_study import plan_of

from analysis.design import Comparison, compared, describe_power, seeds_sentence

GRID = """
data: {source: 'builtin:reviews', examples: 1000}
fixed: {epochs: 4}
axes:
  model: [tiny-bert, tiny-roberta]
  lr_schedule: [constant, {name: linear, warmup_fraction: 0.1}]
  batch_size: [16, 64, 256]
  early_stopping: [none, {patience: 1}]
  seed: [0, 1, 2, 3, 4]
"""
SEARCH = """
data: {source: 'builtin:reviews', examples: 1000}
fixed: {epochs: 2}
axes: {model: [tiny-bert, tiny-roberta], learning_rate: {low: 1e-4, high: 1e-3}, seed: [0, 1, 2, 3]}
search: {method: random, trials: 5, per: model}
"""
SPACES = sorted((ROOT / "search_spaces").glob("*.yaml"))


def described(folder: Path, text: str) -> list[str]:
    """The lines about power of a space that has not been run."""
    space, plan = plan_of(folder, text)
    lines = describe_power(space, plan).splitlines()
    assert all(len(line) <= 80 for line in lines)
    assert lines[0].startswith("power      ")
    assert all(line.startswith(" " * 11) for line in lines[1:])
    return [line[11:] for line in lines]


def test_a_grid_has_the_smallest_differences_of_every_axis(tmp_path: Path) -> None:
    """Within a condition, 4 of 5 failures against none are significant: 83 % give that in 80 % of studies."""
    assert described(tmp_path, GRID) == [
        "failures: 5 seeds can show 5 of 5 against 0 of 5: p = .008; 3 cannot",
        "80 % power, one test at 5 %       failure rates  accuracy",
        "one condition                     0 v 83 %       5.9 points",
        "model, lr_schedule: 6 conditions  0 v 26 / 83 %  5.0 / 5.9 points",
        "batch_size: 4 conditions          0 v 36 / 83 %  5.1 / 5.9 points",
        "assumed: no failures in one arm, seed sd 0.5 points, two runs",
        "disagree on 8 % of 100 test examples (5 % if only the seed differs);",
        "a / b: runs of one seed are independent / alike",
    ]


@pytest.mark.parametrize(
    ("seeds", "sentence"),
    [
        (1, "one seed shows no difference: 1 of 1 against 0 of 1: p = 1; 4 seeds can. With 5:"),
        (2, "failures: 2 seeds cannot show 2 of 2 against 0 of 2: p = .33; 4 can"),
        (3, "failures: 3 seeds cannot show 3 of 3 against 0 of 3: p = .10; 4 can"),
        (4, "failures: 4 seeds can show 4 of 4 against 0 of 4: p = .029; 3 cannot"),
        (10, "failures: 10 seeds can show 10 of 10 against 0 of 10: p < .001; 3 cannot"),
    ],
)
def test_the_first_sentence_says_whether_the_seeds_suffice(seeds: int, sentence: str) -> None:
    assert seeds_sentence(seeds) == sentence


def test_too_few_seeds_show_no_difference_of_failure_rates_over_any_number_of_conditions(tmp_path: Path) -> None:
    lines = described(tmp_path, GRID.replace("seed: [0, 1, 2, 3, 4]", "seed: [0, 1, 2]"))
    assert [line for line in lines if "condition" in line and "%" in line] == [
        "one condition                     not 0 v 100 %  8.1 points",
        "model, lr_schedule: 6 conditions  not 0 v 100 %  5.3 / 8.1 points",
        "batch_size: 4 conditions          not 0 v 100 %  5.5 / 8.1 points",
    ]


@pytest.mark.parametrize("seeds", ["seed: [0]", "weight_decay: [0.01]"])
def test_a_design_with_one_seed_is_shown_what_five_would_find(tmp_path: Path, seeds: str) -> None:
    lines = described(tmp_path, GRID.replace("seed: [0, 1, 2, 3, 4]", seeds))
    assert lines[:2] == ["one seed shows no difference: 1 of 1 against 0 of 1: p = 1; 4 seeds", "can. With 5:"]
    assert lines[2:7] == described(tmp_path, GRID)[1:6]


def test_a_design_without_a_second_condition_or_a_second_arm_says_less(tmp_path: Path) -> None:
    alone = "data: {source: 'builtin:reviews', examples: 1000}\nfixed: {epochs: 4, model: tiny-bert}\naxes: {%s}\n"
    for axes in ("seed: [0, 1]", "early_stopping: [none, {patience: 1}], seed: [0, 1]", "batch_size: [16]"):
        lines = described(tmp_path, alone % axes)
        assert lines == ["nothing is compared: no two runs differ in anything but the seed"]
    lines = described(tmp_path, alone % "batch_size: [16, 64], seed: [0, 1, 2, 3]")
    assert len(lines) == 5
    assert lines[2].startswith("one condition")
    assert not any(" / " in line for line in lines)


def test_a_search_compares_the_best_trials(tmp_path: Path) -> None:
    lines = described(tmp_path, SEARCH)
    assert lines[0] == "failures: 4 seeds can show 4 of 4 against 0 of 4: p = .029; 3 cannot"
    assert lines[2].split("  ")[0] == "best trials by model"
    assert "0 v 95 %" in lines[2]
    assert described(tmp_path, SEARCH.replace(", per: model", ""))[2].startswith("two trials ")


def test_conditions_are_counted_where_a_rule_leaves_both_arms(tmp_path: Path) -> None:
    """Without tiny-roberta at batch 256, the models are compared in 4 of 6 conditions."""
    rule = "when:\n  - match: {model: tiny-roberta, batch_size: 256}\n    drop: true\n"
    assert compared(*plan_of(tmp_path, GRID + rule)) == [
        Comparison(axes=("lr_schedule",), conditions=5),
        Comparison(axes=("model", "batch_size"), conditions=4),
    ]
    rate = "when:\n  - match: {model: tiny-roberta}\n    set: {learning_rate: 2e-5}\n"
    assert compared(*plan_of(tmp_path, GRID + rate)) == compared(*plan_of(tmp_path, GRID))


def test_the_condition_with_the_fewest_seeds_counts(tmp_path: Path) -> None:
    rule = "when:\n  - match: {model: tiny-roberta, batch_size: 256, seed: [3, 4]}\n    drop: true\n"
    assert "3 seeds cannot show" in described(tmp_path, GRID + rule)[0]


@pytest.mark.parametrize("path", SPACES, ids=lambda path: path.stem)
def test_every_space_is_described_in_a_few_lines(tmp_path: Path, path: Path) -> None:
    lines = described(tmp_path, path.read_text())
    assert 4 <= len(lines) <= 8
    assert not any(re.search(r"nan|inf\b|None", line) for line in lines)


def test_ten_thousand_cells_take_a_moment_and_no_heavy_import(tmp_path: Path) -> None:
    text = GRID.replace("seed: [0, 1, 2, 3, 4]", f"seed: {list(range(25))}").replace(
        "axes:", "axes:\n  weight_decay: [0, 0.1]\n  learning_rate: [1e-5, 2e-5, 3e-5, 4e-5, 5e-5, 1e-4, 2e-4, 4e-4]"
    )
    space, plan = plan_of(tmp_path, text)
    assert len(plan.cells) == 9_600
    describe_power(space, plan)
    start = time.process_time()
    describe_power(space, plan)
    assert time.process_time() - start < 0.3
    code = "import sys, analysis.design; sys.exit(any(name in sys.modules for name in ('scipy.stats', 'pandas')))"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0
