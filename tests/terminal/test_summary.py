"""What a terminal shows of a study before it is trained, and of its results."""

import io
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from study_builder import StudyBuilder, ended, make_study

from study.execution.growth import find_plan
from study.plan.cell_results import cell_results
from study.records import Outcome
from study.space.reader import read
from study.storage import StudyFolder
from study.terminal.summary import describe_plan, print_results, value_in_words

GRID = """
name: grid
data: {source: 'builtin:reviews', examples: 1000}
fixed: {model: tiny-bert, epochs: 4}
axes: {learning_rate: [1e-4, 5e-4], early_stopping: [none, {patience: 1}], seed: [0, 1]}
"""
SEARCH = """
name: search
data: {source: 'builtin:reviews', examples: 1000}
fixed: {epochs: 2, batch_size: 16}
axes: {model: [tiny-bert, tiny-roberta], learning_rate: {low: 1e-4, high: 1e-3, log: true}, seed: [0, 1]}
search: {method: optuna, trials: 5, per: model, scheduler: asha}
"""


def described(tmp_path: Path, text: str) -> list[str]:
    """What ``--dry-run`` prints of a space that has not been run."""
    path = tmp_path / "space.yaml"
    path.write_text(text)
    space = read(path)
    folder = StudyFolder(tmp_path / "studies" / space.name)
    plan = find_plan(folder, space)
    return describe_plan(space, plan, cell_results(folder, plan), "studies/x").splitlines()


def test_a_dry_run_of_a_grid_has_its_axes_and_what_sharing_saves(tmp_path: Path) -> None:
    """Each rate and seed is trained once for both kinds of early stopping: half of the examples are saved."""
    assert described(tmp_path, GRID) == [
        "study grid",
        "",
        "  learning_rate   0.0001, 0.0005",
        "  early_stopping  none, patience 1 on loss",
        "  seed            0, 1",
        "",
        "8 cells, trained by 4 trajectories",
        "to train   4 trajectories, 800 optimizer steps, 12,800 examples; 50% less than cell by cell",
        "done       0 trajectories, 0 cells, in studies/x",
        "left       4 trajectories, 800 optimizer steps, 12,800 examples",
    ]


def test_a_dry_run_of_a_search_has_its_budget(tmp_path: Path) -> None:
    assert described(tmp_path, SEARCH) == [
        "study search",
        "",
        "  model          tiny-bert, tiny-roberta",
        "  learning_rate  0.0001 to 0.001 (log)",
        "  seed           0, 1",
        "",
        "search     Optuna's TPE, seed 0: 5 trials for each model, each trial with 2 seeds",
        "at most    20 cells, 32,000 examples",
        "scheduler  asha: stops poor trials early; their final results are unknown",
        "spent      tiny-bert: 0 of 5 trials",
        "spent      tiny-roberta: 0 of 5 trials",
        "chosen     0 trials: 0 cells, 0 trajectories, 0 optimizer steps, 0 examples",
        "done       0 trajectories, 0 cells, in studies/x",
        "left       0 trajectories, 0 optimizer steps, 0 examples, and what the search chooses",
    ]


def printed(study: StudyBuilder) -> list[str]:
    """The result table of a study, and the lines below it."""
    text = io.StringIO()
    console = Console(file=text, width=200, color_system=None)
    print_results(cell_results(study.folder, study.plan), study.plan, console)
    return [line.rstrip() for line in text.getvalue().splitlines()]


def test_results_are_a_row_for_each_cell_with_how_it_ended(tmp_path: Path) -> None:
    study = make_study(tmp_path / "study", {"seed": list(range(5)), "early_stopping": [None, {"patience": 1}]})
    complete, failed, running, pruned, _ = study.plan.trajectories
    study.train(complete, validation_loss=[0.6, 0.5, 0.7, 0.4], outcome=ended())
    study.train(failed, validation_loss=[0.6], outcome=Outcome(status="failed", error="out of memory", log="a/log"))
    study.train(running, validation_loss=[0.6])
    study.train(pruned, validation_loss=[0.6], outcome=ended("cut"))
    head, *rows = printed(study)
    assert " ".join(head.split()) == "seed early stopping best epoch val. acc. test acc. test loss majority ended"
    results = {result.cell.id: result for result in cell_results(study.folder, study.plan)}
    chosen = results[complete.cells[0]].chosen
    assert chosen is not None
    scores = [chosen.validation["accuracy"], *(chosen.test_score(metric) for metric in ("accuracy", "loss"))]
    assert rows[0].split() == [
        *("0", "none", str(chosen.epoch), "of", "4", *(f"{score:.3f}" for score in scores), "60%"),
        *("epochs", "exhausted"),
    ]
    endings = ["epochs exhausted", "stopped early"]
    endings += [ending for ending in ("failed: out of memory", "interrupted", "pruned", "planned") for _ in range(2)]
    for row, ending in zip(rows, endings, strict=False):
        assert row.endswith(f"  {ending}") or row.endswith(f"% {ending}"), row
    assert rows[10:] == [
        *(f"{cell.name}: failed: out of memory; its log: a/log" for cell in study.plan.cells[2:4]),
        "4 of 10 cells are not done",
    ]


def test_many_results_are_a_row_for_each_condition_with_the_range_over_seeds(tmp_path: Path) -> None:
    study = make_study(tmp_path / "study", {"batch_size": [16, 64], "seed": list(range(21))})
    for number, trajectory in enumerate(study.plan.trajectories[:-1]):
        study.train(trajectory, validation_loss=[0.6], outcome=ended("non-finite"), seed=number)
    head, first, second, note = printed(study)
    assert " ".join(head.split()).startswith("batch seeds val. acc. test acc. (lowest–highest)")
    results = cell_results(study.folder, study.plan)
    accuracy = [result.chosen.test["accuracy"] for result in results[:21] if result.chosen and result.chosen.test]
    assert len(accuracy) == 21
    mean = f"{sum(accuracy) / 21:.3f} ({min(accuracy):.3f}–{max(accuracy):.3f})"
    assert first.split()[:4] == ["16", "21", "of", "21"]
    assert mean in first
    assert second.split()[:4] == ["64", "20", "of", "21"]
    assert note == "1 of 42 cells is not done"


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("learning_rate", 5e-5, "5e-05"),
        ("batch_size", 16, "16"),
        ("early_stopping", None, "none"),
        ("dropout", None, "none"),
        ("lr_schedule", "linear", "linear"),
        ("model", "org/bert-base", "bert-base"),
    ],
)
def test_a_value_is_in_words_without_its_name(key: str, value: Any, words: str) -> None:
    assert value_in_words(key, value) == words
