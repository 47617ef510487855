"""What all questions share: no claim from a single seed, an answer for every study, and commands that run."""

import re
import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from synthetic_spaces import (
    ASHA,
    BATCHES,
    GRID,
    MODEL_RATES,
    OPTUNA,
    SEARCH,
    SINGLE_MODEL,
    SIX_CHOICES,
    SMALL,
    answer_to,
    batches_differ,
    near,
    results_of,
    search_study,
    some_pruned,
)
from synthetic_study import (
    Story,
    StoryOf,
    SyntheticStudy,
    at_chance,
    collapsing,
    healthy,
    make_synthetic,
    non_finite,
    overfitting,
    plan_of,
)

from analysis import findings
from analysis.answer import UNDETERMINED, Answer, Figure, Line, Panel
from analysis.findings import QUESTIONS, answer_all
from analysis.rendering.page import page
from analysis.rendering.plots import render
from analysis.report import main
from analysis.results import Results
from study.cli import python_command
from study.run import main as run_study
from study.settings import Settings


@pytest.mark.parametrize("name", QUESTIONS)
@pytest.mark.parametrize("text", [SMALL, BATCHES])
def test_a_single_seed_is_undetermined(tmp_path: Path, name: str, text: str) -> None:
    def story(settings: Settings, rng: np.random.Generator) -> Story | None:
        if settings.optimizer_steps:
            return batches_differ(0.05, 0.0)(settings, rng)
        return collapsing() if settings.learning_rate == 1e-3 else overfitting()

    answer = answer_to(name, results_of(tmp_path, story, text.replace("seed: [0, 1, 2, 3]", "seed: [0]")))
    assert answer.verdict == UNDETERMINED
    assert answer.next_commands


@pytest.mark.parametrize("name", QUESTIONS)
def test_a_study_that_has_trained_nothing_is_undetermined(tmp_path: Path, name: str) -> None:
    answer = answer_to(name, results_of(tmp_path, lambda settings, rng: None, GRID))
    assert answer.verdict == UNDETERMINED
    assert answer.next_commands


@pytest.mark.parametrize("name", QUESTIONS)
def test_a_partial_study_with_failed_and_non_finite_runs_is_answered(tmp_path: Path, name: str) -> None:
    def story(settings: Settings, rng: np.random.Generator) -> Story | None:
        stories = (non_finite(), None, healthy(near(0.88, rng)), collapsing())
        return stories[settings.seed % 4]

    assert answer_to(name, results_of(tmp_path, story, GRID)).sentence


def test_every_question_but_tuning_has_a_caveat_for_pruned_runs(tmp_path: Path) -> None:
    answers = answer_all(search_study(tmp_path, some_pruned, ASHA).results()).answers
    for name, answer in answers.items():
        warned = any("pruned 6 of 36 runs" in caveat for caveat in answer.caveats)
        assert warned == (name != "tuning")


def assert_commands_run(study: SyntheticStudy, folder: Path, capsys: pytest.CaptureFixture[str]) -> list[str]:
    """Run every command that the questions propose, as a dry run in ``folder``; returns what each printed."""
    study.write(folder / "studies")
    results = study.results()
    commands = {proposal.command for name in QUESTIONS for proposal in answer_to(name, results).next_commands}
    assert commands
    outputs = []
    for command in commands:
        words = shlex.split(command)
        assert words[:3] == [python_command(), "-m", "study.run"]
        assert run_study([*words[3:], "--dry-run"]) == 0, command
        outputs.append(capsys.readouterr().out)
        assert "study made-up" in outputs[-1]
    return outputs


@pytest.mark.parametrize("story", [healthy, at_chance, lambda: healthy(0.53)])
@pytest.mark.parametrize("seeds", [1, 100])
@pytest.mark.parametrize(
    "text", [SMALL, BATCHES, GRID, MODEL_RATES, GRID.replace("[tiny-bert, tiny-roberta]", "[tiny-bert]")]
)
def test_every_command_for_a_grid_runs_and_plans_more_than_the_study_has(
    tmp_path: Path,
    text: str,
    seeds: int,
    story: Callable[[], Story],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    space, plan = plan_of(tmp_path, text)
    study = make_synthetic(space, plan, lambda settings, rng: story() if settings.seed < seeds else None)
    monkeypatch.chdir(tmp_path)
    for output in assert_commands_run(study, tmp_path, capsys):
        assert not re.search(r"^left +0 trajectories", output, re.MULTILINE), output


@pytest.mark.parametrize("text", [SEARCH, OPTUNA, ASHA, SINGLE_MODEL, OPTUNA.replace("trials: 6", "examples: 90000")])
@pytest.mark.parametrize("story_of", [lambda settings, rng: healthy() if settings.seed == 0 else None, some_pruned])
def test_every_command_for_a_search_runs(
    tmp_path: Path, text: str, story_of: StoryOf, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert_commands_run(search_study(tmp_path, story_of, text, SIX_CHOICES[:2]), tmp_path, capsys)


def test_a_report_of_many_trials_stays_small(tmp_path: Path) -> None:
    text = SEARCH.replace("trials: 6", "trials: 130").replace("seed: [0, 1, 2]", "seed: [0]").replace("1.0e-3", "1.0")
    choices = [
        {"learning_rate": 1e-5 * 1.05**number, "warmup_fraction": 0.001 * number, "lr_schedule": "constant"}
        for number in range(130)
    ]
    study = search_study(tmp_path, lambda settings, rng: healthy(0.8 + rng.normal(0, 0.02)), text, choices)
    report = answer_all(study.results())
    figures = [figure for answer in report.answers.values() for figure in answer.figures]
    assert max(len(figure.shown_panels) for figure in figures) <= 24
    tables = [table for answer in report.answers.values() for table in answer.tables]
    assert max(len(table.shown_rows) for table in tables) <= 200
    assert len(page(report, {figure.name: render(figure) for figure in figures}).encode()) < 3_000_000


def made_up_question(calls: list[Results]) -> ModuleType:
    """A question that is no file: a module with what :class:`analysis.findings.Question` asks for."""
    module = ModuleType("analysis.questions.made_up")

    def answer(results: Results, rng: np.random.Generator) -> Answer:
        calls.append(results)
        lines: Sequence[Line] = [Line(x=[0, 1], y=[0, float(rng.random())], group="a made-up line")]
        panel = Panel(title="a made-up panel", x_label="x", y_label="y", lines=lines)
        return Answer(
            question="Is this question made up?",
            verdict="yes",
            sentence="It has one file and one line.",
            figures=[Figure(name="made-up", caption="A made-up caption.", panels=[panel])],
        )

    vars(module).update(QUESTION="Is this question made up?", COUNTS_PRUNED_RUNS=True, answer=answer)
    return module


def test_a_new_question_needs_a_module_and_its_name_in_questions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[Results] = []
    monkeypatch.setitem(sys.modules, "analysis.questions.made_up", made_up_question(calls))
    monkeypatch.setattr(findings, "QUESTIONS", (*QUESTIONS[:2], "made_up", *QUESTIONS[2:]))
    space, plan = plan_of(tmp_path, SMALL)
    folder = make_synthetic(space, plan, lambda settings, rng: healthy()).write(tmp_path / "studies").path
    assert main([str(folder)]) == 0
    assert len(calls) == 1
    html, markdown = ((folder / name).read_text() for name in ("report.html", "report.md"))
    assert html.count('class="answer"') == len(QUESTIONS) + 1
    assert '<section id="made_up"><h2>Is this question made up?</h2>' in html
    assert html.index('id="lr_schedule"') < html.index('id="made_up"') < html.index('id="batch_size"')
    assert "3. Is this question made up? **yes.** It has one file and one line." in markdown
    assert "## Is this question made up?" in markdown
    assert "![A made-up caption.](figures/made-up.svg)" in markdown
    assert "a made-up panel" in (folder / "figures" / "made-up.svg").read_text()
