"""What all questions share: claims that hold together, an answer for every study, and commands that run."""

import re
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
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
from analysis.answer import NOT_ASKED, UNDETERMINED, Answer, Claim, Command, Family, Figure, Line, Panel
from analysis.findings import QUESTIONS, answer_all, settle
from analysis.rendering.page import page
from analysis.rendering.plots import render
from analysis.report import main
from analysis.results import Results
from study.cli import python_command
from study.command import main as run_study
from study.settings import Settings

# What a run did, and how confident its checkpoint is, are facts of it; all other answers need seeds.
FACTS = ("collapse_or_overfitting", "calibration")


@pytest.mark.parametrize("text", [SMALL, BATCHES])
def test_a_single_seed_shows_facts_of_its_runs_only(tmp_path: Path, text: str) -> None:
    def tell(settings: Settings, rng: np.random.Generator) -> Story | None:
        if settings.optimizer_steps:
            return batches_differ(0.05, 0.0)(settings, rng)
        return collapsing() if settings.learning_rate == 1e-3 else overfitting()

    results = results_of(tmp_path, tell, text.replace("seed: [0, 1, 2, 3]", "seed: [0]"))
    answers = answer_all(results).answers
    assert tuple(answers) == QUESTIONS
    for name, answer in answers.items():
        assert name in FACTS or answer.verdict in (UNDETERMINED, NOT_ASKED), name
        assert name in FACTS or answer.claim is None, name
        assert answer.next_commands or name in FACTS
    assert answers["collapse_or_overfitting"].verdict == "collapse and overfitting"


def test_a_study_that_has_trained_nothing_has_no_answer_and_a_command(tmp_path: Path) -> None:
    answers = answer_all(results_of(tmp_path, lambda settings, rng: None, GRID)).answers
    assert {answer.verdict for name, answer in answers.items() if name != "batch_size"} == {UNDETERMINED}
    assert answers["batch_size"].verdict == NOT_ASKED
    assert all(answer.next_commands for answer in answers.values())


def claiming(verdict: str, p_value: float, family: Family = "scores") -> Answer:
    """An answer with a claim."""
    claim = Claim(family=family, p_value=p_value, verdict=verdict, sentence=f"{verdict} is shown.")
    command = Command(purpose="adds seeds", command="python -m study.run")
    return Answer(
        question="Which?", verdict=UNDETERMINED, sentence="Nothing is shown.", claim=claim, next_commands=[command]
    )


def test_a_claim_that_holds_is_the_answer_and_needs_no_command() -> None:
    answer = settle(claiming("A", 0.001), 0.04)
    assert (answer.verdict, answer.sentence, answer.next_commands) == ("A", "A is shown.", ())


def test_a_claim_that_does_not_hold_together_with_others_is_told_as_one() -> None:
    answer = settle(claiming("A", 0.03), 0.09)
    assert answer.verdict == UNDETERMINED
    assert answer.sentence == (
        "Nothing is shown. Taken alone, this would be \u201cA\u201d (p = 0.030); together with the report's other "
        "claims it does not hold (p = 0.090)."
    )
    assert len(answer.next_commands) == 1


def test_a_claim_that_does_not_hold_alone_is_not_told() -> None:
    claimed = claiming("A", 0.2)
    assert settle(claimed, 0.2) == claimed
    without = replace(claimed, claim=None)
    assert settle(without, None) == without


def test_a_wider_claim_is_made_if_it_holds_under_the_same_correction() -> None:
    claimed = claiming("A", 0.001)
    assert claimed.claim is not None
    wider = Claim(family="scores", p_value=0.01, verdict="A and B", sentence="Both are shown.")
    claimed = replace(claimed, claim=replace(claimed.claim, wider=(wider,)))
    assert settle(claimed, 0.004).verdict == "A and B"
    assert settle(claimed, 0.006).verdict == "A"
    assert settle(claimed, 0.06).verdict == UNDETERMINED


def made_up_questions(monkeypatch: pytest.MonkeyPatch, answers: Mapping[str, Answer]) -> None:
    """Let the report ask questions that have these answers."""
    for name, answer in answers.items():
        module = ModuleType(f"analysis.questions.{name}")

        def answered(results: Results, rng: np.random.Generator, answer: Answer = answer) -> Answer:
            return answer

        vars(module).update(QUESTION=name, COUNTS_PRUNED_RUNS=True, answer=answered)
        monkeypatch.setitem(sys.modules, f"analysis.questions.{name}", module)
    monkeypatch.setattr(findings, "QUESTIONS", tuple(answers))


def verdicts_of(results: Results) -> dict[str, str]:
    return {name: answer.verdict for name, answer in answer_all(results).answers.items()}


def test_claims_about_scores_are_corrected_for_one_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    results = results_of(tmp_path, lambda settings, rng: healthy())
    made_up_questions(monkeypatch, {"a": claiming("A", 0.01), "b": claiming("B", 0.02), "c": claiming("C", 0.2)})
    # Three claims: 0.03, then 0.04, then 0.2.
    assert verdicts_of(results) == {"a": "A", "b": "B", "c": UNDETERMINED}
    made_up_questions(monkeypatch, {"a": claiming("A", 0.02), "b": claiming("B", 0.02), "c": claiming("C", 0.2)})
    assert set(verdicts_of(results).values()) == {UNDETERMINED}


def test_failures_and_scores_share_the_level(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Four of four against none of four, p = 0.029, holds beside claims about scores, whatever these are."""
    results = results_of(tmp_path, lambda settings, rng: healthy())
    failures = claiming("fewer", 1 / 35, "failures")
    made_up_questions(monkeypatch, {"a": failures, "b": claiming("B", 0.9)})
    assert verdicts_of(results) == {"a": "fewer", "b": UNDETERMINED}
    made_up_questions(monkeypatch, {"a": failures, "b": claiming("B", 0.04)})
    # The failures hold, so that the other claim has the whole level.
    assert verdicts_of(results) == {"a": "fewer", "b": "B"}
    made_up_questions(monkeypatch, {"a": claiming("fewer", 0.04, "failures"), "b": claiming("B", 0.03)})
    assert verdicts_of(results) == {"a": UNDETERMINED, "b": UNDETERMINED}


def test_two_claims_about_failures_need_failures_that_are_not_spread_by_chance(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    both = {"a": claiming("A", 0.01, "failures"), "b": claiming("B", 0.01, "failures")}
    text = GRID.replace("10000", "2000")

    def by_chance(settings: Settings, rng: np.random.Generator) -> Story:
        return collapsing() if rng.random() < 0.3 else healthy()

    def by_model(settings: Settings, rng: np.random.Generator) -> Story:
        return collapsing() if settings.model == "tiny-bert" else healthy()

    for story_of, held in ((by_chance, False), (by_model, True)):
        results = results_of(tmp_path, story_of, text)
        made_up_questions(monkeypatch, both)
        assert (set(verdicts_of(results).values()) == {"A", "B"}) == held
        monkeypatch.undo()


def test_effects_that_are_clear_hold_together_in_one_report(tmp_path: Path) -> None:
    """The constant schedule collapses, tiny-roberta is three points better and over-confident."""

    def tell(settings: Settings, rng: np.random.Generator) -> Story:
        accuracy = near(0.87 + 0.03 * (settings.model == "tiny-roberta"), rng, 0.002)
        return collapsing(accuracy) if settings.lr_schedule == "constant" else healthy(accuracy, scale=3.0)

    answers = answer_all(results_of(tmp_path, tell, GRID)).answers
    verdicts = {name: answer.verdict for name, answer in answers.items()}
    assert verdicts["collapse_or_overfitting"] == "collapse"
    assert verdicts["lr_schedule"] == "fewer under linear"
    assert verdicts["which_split"] == "tiny-roberta"
    assert verdicts["tuning"] == "tiny-roberta"
    assert verdicts["stability"] == UNDETERMINED
    assert verdicts["batch_size"] == NOT_ASKED
    assert "model" in verdicts["settings_that_matter"]


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


@pytest.mark.parametrize(
    ("seeds", "tell"),
    [(1, healthy), (1, at_chance), (1, lambda: healthy(0.53)), (100, healthy), (100, at_chance)],
)
@pytest.mark.parametrize(
    "text", [SMALL, BATCHES, GRID, MODEL_RATES, GRID.replace("[tiny-bert, tiny-roberta]", "[tiny-bert]")]
)
def test_every_command_for_a_grid_runs_and_plans_more_than_the_study_has(
    tmp_path: Path,
    text: str,
    seeds: int,
    tell: Callable[[], Story],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    space, plan = plan_of(tmp_path, re.sub(r"examples: \d+", "examples: 1000", text))
    study = make_synthetic(space, plan, lambda settings, rng: tell() if settings.seed < seeds else None)
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
    space, plan = plan_of(tmp_path, SMALL.replace("[linear]", "[constant, linear]"))
    folder = make_synthetic(space, plan, lambda settings, rng: healthy()).write(tmp_path / "studies").path
    assert main([str(folder)]) == 0
    assert len(calls) == 1
    html, markdown = ((folder / name).read_text() for name in ("report.html", "report.md"))
    # All but that of batch size, which this study does not ask.
    assert html.count('class="answer"') == len(QUESTIONS) + 1 - 1
    assert '<section id="made_up"><h2>Is this question made up?</h2>' in html
    assert html.index('id="lr_schedule"') < html.index('id="made_up"') < html.index('id="calibration"')
    assert "3. Is this question made up? **yes.** It has one file and one line." in markdown
    assert "## Is this question made up?" in markdown
    assert "![A made-up caption.](figures/made-up.svg)" in markdown
    assert "a made-up panel" in (folder / "figures" / "made-up.svg").read_text()
