"""One command for all that is undetermined does what each would do, and costs what its dry run says."""

import re
import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from synthetic_spaces import BATCHES, GRID, OPTUNA, SEARCH, SIX_CHOICES, SMALL, results_of, search_study
from synthetic_study import Story, SyntheticStudy, healthy, make_synthetic, plan_of

from analysis.answer import UNDETERMINED, Answer, Command
from analysis.evidence.next_commands import complete_plan, extend, longer_search, more_seeds, paired_search, run_with
from analysis.evidence.next_runs import NextRun, Work, next_runs, planned_work
from analysis.results import Results, read
from study.command import main as run_study
from study.records import Epoch
from study.settings import Settings


def answer(*commands: Command, question: str = "What?", verdict: str = UNDETERMINED) -> Answer:
    return Answer(question=question, verdict=verdict, sentence="", next_commands=commands)


def overrides(command: Command) -> dict[str, Any]:
    """The ``--set`` options of a command, as values."""
    words = shlex.split(command.command)
    options = [words[place + 1] for place, word in enumerate(words) if word == "--set"]
    return {option.partition("=")[0]: yaml.safe_load(option.partition("=")[2]) for option in options}


def grid(folder: Path, text: str = GRID) -> Results:
    return results_of(folder, lambda settings, rng: healthy(), text)


def left(output: str) -> tuple[int, int, int]:
    """Trajectories, optimizer steps and examples that a dry run has left to train."""
    found = re.search(
        r"^left +([\d,]+) trajectories, ([\d,]+) optimizer steps, ([\d,]+) examples", output, re.MULTILINE
    )
    assert found, output
    a, b, c = (int(number.replace(",", "")) for number in found.groups())
    return a, b, c


def counts(work: Work | None) -> tuple[int, int, int]:
    assert work is not None
    return work.trajectories, work.optimizer_steps, work.examples


def test_values_of_all_undetermined_answers_are_joined_and_seeds_are_the_most(tmp_path: Path) -> None:
    results = grid(tmp_path, SMALL)
    answers = [
        answer(more_seeds(results, "narrows the interval", 5), question="First?"),
        answer(more_seeds(results, "counts failures", 10), extend(results, "looks higher", {"learning_rate": [0.01]})),
        answer(extend(results, "looks lower", {"learning_rate": [0.0001, 0.01]}), *complete_plan(results)),
        answer(extend(results, "is not needed", {"batch_size": [64]}), verdict="no"),
    ]
    (run,) = next_runs(results, answers)
    assert overrides(run.command) == {"seed": list(range(10)), "learning_rate": [0.0005, 0.001, 0.01, 0.0001]}
    assert run.purposes == (
        ("First?", "narrows the interval"),
        ("What?", "counts failures"),
        ("What?", "looks higher"),
        ("What?", "looks lower"),
    )
    # 2 models, 4 rates and 10 seeds, of which 2 x 2 x 4 runs are there.
    assert counts(run.work)[0] == 80 - 16


def test_separate_studies_and_what_contradicts_stay_apart(tmp_path: Path) -> None:
    results = grid(tmp_path, SMALL)
    separate = {"name": "equal-steps", "epochs": "none", "optimizer_steps": "100"}
    answers = [
        answer(run_with(results, "has equal steps", separate), more_seeds(results, "adds seeds", 5)),
        answer(run_with(results, "ends sooner", {"epochs": "2"}), run_with(results, "ends later", {"epochs": "8"})),
    ]
    runs = next_runs(results, answers)
    assert [run.separate for run in runs] == [False, False, True]
    assert overrides(runs[0].command) == {"seed": list(range(5)), "epochs": 2}
    assert overrides(runs[1].command) == {"epochs": 8}
    assert counts(runs[2].work)[0] == 16, "a separate study starts with nothing"


def test_paired_searches_are_one_study(tmp_path: Path) -> None:
    results = search_study(tmp_path, lambda settings, rng: healthy(), OPTUNA).results()
    answers = [answer(*paired_search(results, ["model"]), *paired_search(results, ["lr_schedule"]))]
    (run,) = next_runs(results, answers)
    assert overrides(run.command)["search.per"] == ["model", "lr_schedule"]
    assert run.work is not None
    assert run.work.open


def test_a_command_that_trains_nothing_new_is_not_proposed(tmp_path: Path) -> None:
    results = grid(tmp_path, SMALL)
    assert next_runs(results, [answer(run_with(results, "does nothing", {}))]) == []
    assert next_runs(results, [answer()]) == []


def test_commands_that_are_refused_together_are_proposed_one_by_one(tmp_path: Path) -> None:
    results = grid(tmp_path, SMALL)
    power = extend(results, "changes the power", {"polynomial_power": [2.0]})  # without a polynomial schedule
    runs = next_runs(results, [answer(more_seeds(results, "adds seeds", 5), power)])
    assert [overrides(run.command) for run in runs] == [{"seed": list(range(5))}]


def test_time_is_what_runs_of_the_same_model_and_batch_size_took(tmp_path: Path) -> None:
    study = slow_large_batches(tmp_path)
    results = study.results()
    # A batch of 16 takes 1 second an epoch of 32,000 examples, one of 64 takes 10.
    work = planned_work(results, extend(results, "", {"seed": [4]}))
    assert work is not None
    assert work.seconds is not None
    by_size = {16: 0, 64: 0}
    for trajectory in results.plan.trajectories:
        if trajectory.settings.seed == 0:
            by_size[trajectory.settings.batch_size] += trajectory.examples
    assert work.seconds == pytest.approx(by_size[16] / 32_000 + 10 * by_size[64] / 32_000)
    assert work.devices == ("CPU",)


def slow_large_batches(folder: Path) -> SyntheticStudy:
    space, plan = plan_of(folder, BATCHES.replace("{epochs: 4}, {optimizer_steps: 2000}", "{epochs: 4}"))
    study = make_synthetic(space, plan, lambda settings, rng: healthy())
    slow = {t.id for t in plan.trajectories if t.settings.batch_size == 64}
    records = {
        id_: [replace(r, train_seconds=10.0) if id_ in slow and isinstance(r, Epoch) else r for r in history]
        for id_, history in study.records.items()
    }
    return replace(study, records=records)


@pytest.mark.parametrize("seeds", [2, 100])
@pytest.mark.parametrize(
    "text", [SMALL, BATCHES, GRID.replace("axes:\n", "axes:\n  early_stopping: [none, {patience: 1}]\n")]
)
def test_a_command_costs_what_its_dry_run_says(
    tmp_path: Path, text: str, seeds: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def story(settings: Settings, rng: np.random.Generator) -> Story | None:
        return healthy() if settings.seed < seeds else None

    space, plan = plan_of(tmp_path, text)
    folder = make_synthetic(space, plan, story).write(tmp_path / "studies")
    monkeypatch.chdir(tmp_path)
    results = read(folder.path)
    separate = {"name": "made-up-equal-steps", "epochs": "none", "optimizer_steps": "300"}
    answers = [
        answer(*complete_plan(results), more_seeds(results, "adds seeds", 10)),
        answer(extend(results, "adds rates", {"learning_rate": [0.002]}), run_with(results, "is separate", separate)),
    ]
    runs = next_runs(results, answers)
    assert len(runs) == 2
    for run in runs:
        assert_dry_run_agrees(run, capsys)


@pytest.mark.parametrize("text", [SEARCH, OPTUNA.replace("trials: 6", "examples: 90000")])
def test_a_command_of_a_search_costs_what_its_dry_run_says(
    tmp_path: Path, text: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = search_study(tmp_path, lambda settings, rng: healthy(), text, SIX_CHOICES[:2]).write(tmp_path / "studies")
    monkeypatch.chdir(tmp_path)
    results = read(folder.path)
    (run,) = next_runs(results, [answer(more_seeds(results, "adds seeds", 5), longer_search(results, "adds trials"))])
    assert run.work is not None
    assert run.work.open
    assert_dry_run_agrees(run, capsys)


def test_runs_that_a_narrower_plan_left_out_are_not_trained_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    space, plan = plan_of(tmp_path, SMALL)
    folder = make_synthetic(space, plan, lambda settings, rng: healthy()).write(tmp_path / "studies")
    narrower, fewer = plan_of(tmp_path, SMALL.replace("[0, 1, 2, 3]", "[0]"))
    folder.write_space(narrower.text)
    folder.write_plan(fewer.to_json())
    monkeypatch.chdir(tmp_path)
    results = read(folder.path)
    (run,) = next_runs(results, [answer(more_seeds(results, "adds seeds", 5))])
    assert counts(run.work)[0] == 4, "of 5 seeds, 4 are there for each of 4 settings"
    assert_dry_run_agrees(run, capsys)


def assert_dry_run_agrees(run: NextRun, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    assert run_study([*shlex.split(run.command.command)[3:], "--dry-run"]) == 0
    assert left(capsys.readouterr().out) == counts(run.work)


def test_without_the_data_of_the_manifest_the_cost_is_not_known(tmp_path: Path) -> None:
    results = grid(tmp_path, SMALL)
    bare = replace(results, manifest=replace(results.manifest, data={}))
    (run,) = next_runs(bare, [answer(more_seeds(bare, "adds seeds", 5))])
    assert run.work is None


def test_nothing_is_measured_before_anything_is_trained(tmp_path: Path) -> None:
    results = results_of(tmp_path, lambda settings, rng: None, SMALL)
    (run,) = next_runs(results, [answer(*complete_plan(results))])
    assert run.work is not None
    assert run.work.seconds is None
    assert counts(run.work)[0] == 16
