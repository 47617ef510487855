"""A search's report says how cells were chosen and which were cut, and compares models at equal budgets."""

import re
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml
from synthetic_study import Story, Synthetic, Tell, collapsing, cut, healthy, make, non_finite, search_of

from analysis.answer import Answer, Estimate, Table
from analysis.findings import QUESTIONS, find
from analysis.questions import tuning
from analysis.rendering.markdown import markdown
from analysis.rendering.page import page
from analysis.rendering.plots import draw
from analysis.report import main
from analysis.results import Results, ResultsError, read
from analysis.selection.equal_budgets import equal_budgets
from study.plan.plan import SettingValues
from study.records import Outcome
from study.run import main as run_study

TEXT = """
data: {source: builtin:reviews, examples: 4000}
fixed: {epochs: 4}
axes:
  model: [tiny-bert, tiny-roberta]
  learning_rate: {low: 1.0e-5, high: 1.0e-3, log: true}
  warmup_fraction: {low: 0.0, high: 0.2}
  lr_schedule: [constant, linear]
  seed: [0, 1, 2]
search: {method: random, trials: 6, per: model}
"""
OPTUNA = TEXT.replace("method: random", "method: optuna")
ASHA = TEXT.replace("per: model", "per: model, scheduler: asha")
ONE_MODEL = TEXT.replace("[tiny-bert, tiny-roberta]", "[tiny-bert]")


def choice(number: int) -> SettingValues:
    """The higher its number, the higher its rate."""
    rate = 1e-5 * 1.5**number
    return {
        "learning_rate": rate,
        "warmup_fraction": 0.01 * (7 * number % 13),
        "lr_schedule": ("constant", "linear")[number % 2],
    }


SIX = [choice(number) for number in range(6)]


def by_rate(best: float = 0.9) -> Callable[[SettingValues, np.random.Generator], Story]:
    """The higher the rate, the better."""

    def tell(settings: SettingValues, rng: np.random.Generator) -> Story:
        return healthy(best - 0.25 * (1e-4 - settings["learning_rate"]) / 1e-4 + rng.normal(0, 0.002))

    return tell


def study(
    folder: Path,
    tell: Tell,
    text: str = TEXT,
    choices: Sequence[SettingValues] | Mapping[str, Sequence[SettingValues]] = SIX,
) -> Synthetic:
    space, plan = search_of(folder, text, choices)
    return make(space, plan, tell)


def asked(results: Results) -> Answer:
    return tuning.answer(results, np.random.default_rng(0))


def table(answer: Answer, title: str) -> Table:
    return next(one for one in answer.tables if title in one.title)


def rates(results: Results) -> dict[str, list[float]]:
    """The learning rates that each model had to choose from, in units of the first."""
    found = equal_budgets(results).candidates
    return {name: [one.settings["learning_rate"] for one in trials] for name, trials in found.items()}


def has_tang(answer: Answer) -> bool:
    return any("expected" in f"{one.title}".lower() for one in answer.tables) or any(
        figure.name == "expected-best" for figure in answer.figures
    )


# How the cells were chosen


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (TEXT, "random search .* 6 trials for each model, 3 seeds each. Spent so far: tiny-bert 6 trials and tiny-rob"),
        (OPTUNA, "Optuna's TPE for the highest accuracy on validation"),
        (OPTUNA.replace("trials: 6", "examples: 500000, objective: loss"), "lowest loss .* 500,000 examples for each"),
        (ASHA, "ASHA, Li et al. 2020.*grace 1 epoch, reduction factor 3"),
    ],
)
def test_the_report_says_how_cells_were_chosen(tmp_path: Path, text: str, expected: str) -> None:
    path = study(tmp_path, by_rate(), text).write(tmp_path / "studies").path
    assert main([str(path)]) == 0
    for name in ("report.md", "report.html"):
        told = (path / name).read_text().replace("\n", " ").replace("&#x27;", "'")
        assert re.search(expected, told[: told.index("Answers")])


def test_an_open_search_is_said_to_be_open_and_is_not_whole(tmp_path: Path) -> None:
    made = study(tmp_path, by_rate())
    results = replace(made, plan=replace(made.plan, open=True)).results()
    assert not results.census.whole
    assert "The search is open" in markdown(find(results))


def test_a_search_without_a_trial_is_one_line(tmp_path: Path) -> None:
    made = study(tmp_path, by_rate(), choices=[])
    with pytest.raises(ResultsError, match="no cells yet"):
        read(made.write_plan(tmp_path / "studies").path)


# What was cut


def some_cut(settings: SettingValues, rng: np.random.Generator) -> Story:
    """Seed 0 of the lower rates is cut; seed 1 of the highest collapses."""
    if settings["learning_rate"] < 3e-5 and settings["seed"] == 0:
        return cut(0.7)
    if settings["learning_rate"] > 7e-5 and settings["seed"] == 1:
        return collapsing()
    return by_rate()(settings, rng)


def test_cut_cells_are_named_counted_and_warned_of(tmp_path: Path) -> None:
    path = study(tmp_path, some_cut, ASHA).write(tmp_path / "studies").path
    assert main([str(path)]) == 0
    results = read(path)
    cells = [result for result in results.cells if result.stop_reason == "cut"]
    assert results.census.cut == len(cells) == 6
    assert results.census.complete == 36
    html, told = (path / "report.html").read_text(), (path / "report.md").read_text()
    for text in (html, told):
        opening = text[: text.index("Results")]
        assert "6 complete cells of 36 ended because the trial scheduler cut them" in opening
        assert "cutting hides collapses" in opening
        for result in cells:
            assert result.cell.name in opening
    assert "<dt>cut</dt><dd>6</dd>" in html


def test_a_cut_run_has_not_ended_and_is_counted_apart(tmp_path: Path) -> None:
    results = study(tmp_path, some_cut, ASHA).results()
    findings = find(results)
    collapse = findings.answers["collapse-or-overfitting"]
    assert collapse.estimate is not None
    assert collapse.estimate.value == 2 / 30
    assert sum(run.ended for run in results.runs) == 30
    for name, answer in findings.answers.items():
        told = any("6 of 36 runs were cut" in caveat for caveat in answer.caveats)
        assert told == (name != "tuning")
    assert any("search.scheduler=none" in one.command for one in collapse.next_commands)
    everything = findings.overview.everything
    assert everything is not None
    cells = [row[everything.columns.index("cells")] for row in everything.rows]
    assert cells.count("2 of 3, 1 cut") == 6


def test_scores_of_cut_cells_are_in_no_condition_s_mean(tmp_path: Path) -> None:
    results = study(tmp_path, lambda s, rng: healthy(0.7) if s["seed"] else cut(0.99), ASHA).results()
    opening = find(results).overview
    assert opening.everything is not None
    for one in (opening.main, opening.everything):
        for row in one.rows:
            accuracy = row[one.columns.index("test accuracy")]
            assert isinstance(accuracy, Estimate)
            assert accuracy.value < 0.75


def test_a_run_that_would_have_stopped_where_it_was_cut_has_ended(tmp_path: Path) -> None:
    text = ASHA.replace("fixed: {epochs: 4}", "fixed: {epochs: 4, early_stopping: {patience: 1, metric: accuracy}}")
    outcome = Outcome(status="complete", stop_reason="cut", epochs=2)
    story = Story(accuracy=[0.9, 0.8], train_loss=[0.5, 0.4], scale=[1.0] * 2, outcome=outcome)
    results = study(tmp_path, lambda settings, rng: story, text).results()
    assert results.census.cut == 0
    assert all(run.ended for run in results.runs)


def test_a_cut_trial_is_a_trial_with_what_it_scored(tmp_path: Path) -> None:
    """The best trial was cut after its first epoch, at which it was the best."""

    def tell(settings: SettingValues, rng: np.random.Generator) -> Story:
        return cut(0.95, epochs=2) if settings["learning_rate"] == SIX[2]["learning_rate"] else healthy(0.7)

    answer = asked(study(tmp_path, tell, ASHA).results())
    assert rates(study(tmp_path, tell, ASHA).results())["tiny-bert"] == [one["learning_rate"] for one in SIX]
    assert all("2.25e-05" in str(row[1]) for row in table(answer, "What validation chose").rows)
    assert any("2 trials of 12 have a cell that the scheduler cut" in one for one in answer.caveats)
    assert not any("halving would have saved" in one.title for one in answer.tables)


# Equal budgets


def test_every_model_chooses_from_as_many_trials(tmp_path: Path) -> None:
    """tiny-bert's best trials are its last two, which tiny-roberta has not made."""
    text = TEXT.replace("trials: 6", "trials: 8")
    choices = {"tiny-bert": [choice(n) for n in range(8)], "tiny-roberta": SIX}
    results = study(tmp_path, by_rate(), text, choices).results()
    assert {name: len(found) for name, found in rates(results).items()} == {"tiny-bert": 6, "tiny-roberta": 6}
    answer = asked(results)
    assert "With 6 trials each" in answer.sentence
    assert any("complete trials are tiny-bert 8 and tiny-roberta 6. The first 6" in one for one in answer.caveats)


def test_trials_without_a_complete_cell_are_left_out_and_said_to_be(tmp_path: Path) -> None:
    def tell(settings: SettingValues, rng: np.random.Generator) -> Story | None:
        if settings["model"] == "tiny-bert" and settings["learning_rate"] == SIX[0]["learning_rate"]:
            outcome = Outcome(status="failed", error="no memory")
            return replace(healthy(epochs=1), outcome=outcome) if settings["seed"] else None
        return by_rate()(settings, rng)

    results = study(tmp_path, tell).results()
    assert rates(results)["tiny-bert"] == [one["learning_rate"] for one in SIX[1:]]
    assert rates(results)["tiny-roberta"] == [one["learning_rate"] for one in SIX[:5]]
    assert any("1 trial of 12 is not complete and left out, 1 of them" in one for one in asked(results).caveats)


def test_a_budget_of_examples_holds_all_trials_within_it(tmp_path: Path) -> None:
    text = OPTUNA.replace("trials: 6", "examples: 200000")
    choices = {"tiny-bert": [choice(n) for n in range(8)], "tiny-roberta": SIX}
    results = study(tmp_path, by_rate(), text, choices).results()
    assert {name: len(found) for name, found in rates(results).items()} == {"tiny-bert": 8, "tiny-roberta": 6}
    assert "200,000 examples each (8 and 6 trials)" in asked(results).sentence.replace("With", "with")
    made = study(tmp_path, by_rate(), text, choices)
    going = replace(made, plan=replace(made.plan, open=True)).results()
    # As long as both go on, what both have spent: six trials of 3 seeds, 4 epochs and 3,200 examples.
    assert {name: len(found) for name, found in rates(going).items()} == {"tiny-bert": 6, "tiny-roberta": 6}


def test_a_search_that_chose_the_model_too_is_unequal_by_design(tmp_path: Path) -> None:
    text = TEXT.replace(", per: model", "")
    models = ["tiny-bert", "tiny-bert", "tiny-roberta", "tiny-bert", "tiny-roberta", "tiny-bert"]
    choices = [{**one, "model": model} for one, model in zip(SIX, models, strict=True)]
    space, plan = search_of(tmp_path, text, choices)
    results = make(space, plan, by_rate()).results()
    assert {name: len(found) for name, found in rates(results).items()} == {"tiny-bert": 2, "tiny-roberta": 2}
    assert any("not equal by design" in one for one in asked(results).caveats)


def test_the_same_trials_are_told_from_each_models_own(tmp_path: Path) -> None:
    same = asked(study(tmp_path, by_rate()).results())
    assert any("the same for all models" in method for method in same.methods)
    choices = {"tiny-bert": SIX, "tiny-roberta": [choice(n) for n in range(1, 7)]}
    own = asked(study(tmp_path, by_rate(), OPTUNA, choices).results())
    assert any("each model's own" in method for method in own.methods)


def test_the_model_that_wins_at_its_own_best_wins(tmp_path: Path) -> None:
    def tell(settings: SettingValues, rng: np.random.Generator) -> Story:
        return by_rate(0.9 if settings["model"] == "tiny-bert" else 0.8)(settings, rng)

    assert asked(study(tmp_path, tell, OPTUNA.replace("examples: 4000", "examples: 20000")).results()).verdict == (
        "tiny-bert"
    )


@pytest.mark.parametrize("bad", [non_finite, collapsing])
def test_bad_trials_are_bad_and_not_dropped(tmp_path: Path, bad: object) -> None:
    """The trial of the highest rate is the best of seed 0, and has no number, or chance, for the others."""

    def tell(settings: SettingValues, rng: np.random.Generator) -> Story:
        if settings["learning_rate"] == SIX[5]["learning_rate"]:
            nothing = Story(
                accuracy=[float("nan")],
                train_loss=[float("nan")],
                scale=[1.0],
                outcome=Outcome(status="complete", stop_reason="non-finite", epochs=1),
            )
            dies = nothing if bad is non_finite else Story(accuracy=[None] * 4, train_loss=[0.7] * 4, scale=[1.0] * 4)
            return dies if settings["seed"] else healthy(0.99)
        return healthy(0.8 + rng.normal(0, 0.002))

    results = study(tmp_path, tell).results()
    trials = equal_budgets(results).trials["tiny-bert"]
    assert len(trials) == 6
    assert trials[5].validation == pytest.approx((0.99 + 2 * 0.5) / 3, abs=0.02)
    assert min(trials, key=lambda one: one.worth) is trials[5]
    answer = asked(results)
    assert not any("7.59375e-05" in str(row[1]) for row in table(answer, "What validation chose").rows)
    assert any("without a finite score" in one for one in answer.caveats) == (bad is non_finite)


def test_the_lowest_loss_chooses_where_the_search_looked_for_it(tmp_path: Path) -> None:
    """The most accurate trial is so over-confident that its loss is the highest."""

    def tell(settings: SettingValues, rng: np.random.Generator) -> Story:
        sure = settings["learning_rate"] == SIX[5]["learning_rate"]
        return healthy(0.9, scale=6.0) if sure else healthy(0.8)

    by_accuracy, by_loss = (
        table(asked(study(tmp_path, tell, text).results()), "What validation chose")
        for text in (TEXT, TEXT.replace("per: model", "per: model, objective: loss"))
    )
    assert all("7.59375e-05" in str(row[1]) for row in by_accuracy.rows)
    assert not any("7.59375e-05" in str(row[1]) for row in by_loss.rows)


# Curves over trials


def test_random_trials_have_expected_curves_of_trials_and_not_of_runs(tmp_path: Path) -> None:
    answer = asked(study(tmp_path, by_rate()).results())
    assert has_tang(answer)
    assert [row[1] for row in table(answer, "Expected test accuracy").rows] == [6, 6]
    assert any("each the mean over its seeds" in method for method in answer.methods)


@pytest.mark.parametrize("text", [OPTUNA, ASHA])
def test_trials_that_depend_on_one_another_have_none(tmp_path: Path, text: str) -> None:
    answer = asked(study(tmp_path, by_rate(), text).results())
    assert not has_tang(answer)
    so_far = table(answer, "so far")
    assert [row[1] for row in so_far.rows] == [6, 6]
    figure = next(one for one in answer.figures if one.name == "best-so-far")
    assert all(line.low is None for panel in figure.panels for line in panel.lines)  # type: ignore[union-attr]
    assert any("in the order of the trials, without a band" in method for method in answer.methods)


def test_the_best_so_far_is_that_of_the_first_trials(tmp_path: Path) -> None:
    choices = [choice(number) for number in (2, 0, 5, 1, 3)]
    results = study(tmp_path, by_rate(), OPTUNA.replace("examples: 4000", "examples: 40000"), choices).results()
    found = table(asked(results), "so far").rows[0]
    trials = equal_budgets(results).trials["tiny-bert"]
    assert list(found[2:]) == [trials[0].test, trials[0].test, trials[2].test]


def test_a_search_of_one_model_has_its_curves_too(tmp_path: Path) -> None:
    answer = asked(study(tmp_path, by_rate(), ONE_MODEL).results())
    assert "one model" in answer.sentence
    assert table(answer, "What validation chose").rows[0][0] == "tiny-bert"
    assert has_tang(answer)


# What else a search's values must not upset


def test_the_setting_that_matters_is_found_among_ranges(tmp_path: Path) -> None:
    choices = [choice(number) for number in range(12)]
    results = study(tmp_path, by_rate(), TEXT.replace("high: 1.0e-3", "high: 1.0e-2"), choices).results()
    found = table(asked(results), "PED-ANOVA")
    assert found.rows[0][0] == "learning_rate"
    assert "warmup_fraction" in {row[0] for row in found.rows}


def test_a_report_of_many_trials_stays_small(tmp_path: Path) -> None:
    text = TEXT.replace("trials: 6", "trials: 130").replace("seed: [0, 1, 2]", "seed: [0]").replace("1.0e-3", "1.0")
    choices = [{**choice(0), "learning_rate": 1e-5 * 1.05**n, "warmup_fraction": 0.001 * n} for n in range(130)]
    findings = find(study(tmp_path, lambda s, rng: healthy(0.8 + rng.normal(0, 0.02)), text, choices).results())
    figures = [figure for answer in findings.answers.values() for figure in answer.figures]
    assert max(len(figure.panels) for figure in figures) <= 24
    tables = [one for answer in findings.answers.values() for one in answer.tables]
    assert max(len(one.rows) for one in tables) <= 200
    drawn = {figure.name: draw(figure) for figure in figures}
    assert len(page(findings, drawn).encode()) < 3_000_000


@pytest.mark.parametrize("text", [TEXT, OPTUNA, ASHA, ONE_MODEL, OPTUNA.replace("trials: 6", "examples: 90000")])
@pytest.mark.parametrize("tell", [lambda s, rng: healthy() if s["seed"] == 0 else None, some_cut])
def test_every_command_can_be_run(
    tmp_path: Path, text: str, tell: Tell, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    made = study(tmp_path, tell, text, SIX[:2])
    made.write(tmp_path / "studies")
    monkeypatch.chdir(tmp_path)
    asking = (question(made.results(), np.random.default_rng(0)) for question in QUESTIONS.values())
    commands = {command.command for answer in asking for command in answer.next_commands}
    assert commands
    for command in commands:
        words = shlex.split(command)
        assert words[:3] == ["python", "-m", "study.run"]
        assert run_study([*words[3:], "--dry-run"]) == 0, command
        assert "study made-up" in capsys.readouterr().out


def test_a_wider_range_holds_what_was_there_and_what_is_asked_for(tmp_path: Path) -> None:
    answer = QUESTIONS["lr-schedule"](
        study(
            tmp_path,
            lambda s, rng: healthy(),
            TEXT,
            [{**one, "lr_schedule": name} for one in SIX for name in ("constant", "linear")],
        ).results(),
        np.random.default_rng(0),
    )
    grown = next(one.command for one in answer.next_commands if "learning_rate=" in one.command)
    value = next(word for word in shlex.split(grown) if word.startswith("learning_rate="))
    found = yaml.safe_load(value.partition("=")[2].replace("e-", ".0e-"))
    assert found["log"] is True
    assert float(found["high"]) >= 1e-3
