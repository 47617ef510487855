"""Proposed commands extend what the study has, change nothing that is trained already, and run as copied."""

import itertools
import os
import shlex
import sys
from pathlib import Path

import pytest
import yaml
from synthetic_spaces import ASHA, GRID, OPTUNA, SEARCH, SMALL, results_of, search_study
from synthetic_study import healthy, make_synthetic, plan_of

from analysis.answer import Command
from analysis.evidence.next_commands import complete_plan, extend, longer_search, more_seeds, paired_search
from analysis.results import Results, read
from study.cli import python_command
from study.command import main as run_study


def overrides(command: Command) -> dict[str, object]:
    """The ``--set`` options of a command, as values."""
    words = shlex.split(command.command)
    options = [word for flag, word in itertools.pairwise(words) if flag == "--set"]
    return {option.partition("=")[0]: yaml.safe_load(option.partition("=")[2]) for option in options}


@pytest.fixture
def grid(tmp_path: Path) -> Results:
    return results_of(tmp_path, lambda settings, rng: healthy(), GRID)


def test_values_are_added_to_those_of_the_study(grid: Results) -> None:
    assert overrides(extend(grid, "", {"learning_rate": [0.01]})) == {"learning_rate": [0.0005, 0.001, 0.01]}
    assert overrides(extend(grid, "", {"early_stopping": [None]})) == {"early_stopping": ["none"]}


def test_seeds_are_added_up_to_a_number_or_doubled(grid: Results) -> None:
    assert overrides(more_seeds(grid, "", 10)) == {"seed": list(range(10))}
    assert overrides(more_seeds(grid, "", 5)) == {"seed": list(range(16))}


def test_a_whole_study_needs_no_command_to_complete_it(grid: Results, tmp_path: Path) -> None:
    assert complete_plan(grid) == []
    partial = results_of(tmp_path, lambda settings, rng: healthy() if settings.seed else None, GRID)
    assert [proposal.command for proposal in complete_plan(partial)] == [
        f"{python_command()} -m study.run --space studies/made-up/space.yaml"
    ]


def test_a_command_finds_space_and_storage_from_the_folder_in_which_the_report_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    space, plan = plan_of(tmp_path, SMALL)
    study = make_synthetic(space, plan, lambda settings, rng: healthy() if settings.seed else None)
    path = study.write(tmp_path / "a folder" / "studies").path
    for cwd, options in [
        (tmp_path / "a folder", "--space studies/made-up/space.yaml"),
        (tmp_path, "--space 'a folder/studies/made-up/space.yaml' --storage 'a folder/studies'"),
        (path, f"--space space.yaml --storage '{path.parent}'"),
    ]:
        monkeypatch.chdir(cwd)
        for folder in (path, Path(os.path.relpath(path))):
            (proposal,) = complete_plan(read(folder))
            assert proposal.command == f"{sys.executable} -m study.run {options}"
            assert run_study([*shlex.split(proposal.command)[3:], "--dry-run"]) == 0


@pytest.mark.parametrize(
    ("budget", "doubled"),
    [("trials: 6", {"search.trials": 12}), ("examples: 90000", {"search.examples": 180000})],
)
def test_a_longer_search_has_twice_the_budget(tmp_path: Path, budget: str, doubled: dict[str, int]) -> None:
    study = search_study(tmp_path, lambda settings, rng: healthy(), SEARCH.replace("trials: 6", budget))
    assert overrides(longer_search(study.results(), "")) == doubled


def test_configurations_are_paired_by_a_random_search_of_each_value(tmp_path: Path, grid: Results) -> None:
    adaptive = search_study(tmp_path, lambda settings, rng: healthy(), OPTUNA).results()
    (command,) = paired_search(adaptive, ["lr_schedule"])
    assert overrides(command) == {
        "name": "made-up-paired",
        "search.method": "random",
        "search.per": ["model", "lr_schedule"],
    }
    assert paired_search(grid, ["model"]) == []
    assert paired_search(search_study(tmp_path, lambda settings, rng: healthy(), ASHA).results(), ["model"]) == []
    assert paired_search(adaptive, ["learning_rate"]) == []
