"""Every question recovers what was planted, says so when it cannot know, and names runs that can be made."""

import re
import shlex
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from synthetic_study import Story, Tell, collapsing, dead, healthy, make, non_finite, overfitting, plan_of

from analysis.answer import UNDETERMINED, Answer
from analysis.findings import QUESTIONS
from analysis.overview import overview
from analysis.questions import (
    batch_size,
    calibration,
    collapse_or_overfitting,
    early_stopping,
    lr_schedule,
    stability,
    tuning,
)
from analysis.questions import which_split as validation_or_test
from analysis.results import Results
from study.plan.plan import SettingValues
from study.run import main as run_study

Ask = Callable[[Results, np.random.Generator], Answer]

GRID = """
data: {source: builtin:reviews, examples: 10000}
fixed: {epochs: 4}
axes:
  model: [tiny-bert, tiny-roberta]
  lr_schedule: [constant, linear]
  learning_rate: [5.0e-4, 1.0e-3]
  seed: [0, 1, 2, 3, 4, 5, 6, 7]
"""
SMALL = GRID.replace("[constant, linear]", "[linear]").replace("5, 6, 7", "5").replace("3, 4, 5]", "3]")


def results_of(folder: Path, tell: Tell, text: str = SMALL) -> Results:
    space, plan = plan_of(folder, text)
    return make(space, plan, tell).results()


def ask(question: Ask, folder: Path, tell: Tell, text: str = SMALL) -> Answer:
    return question(results_of(folder, tell, text), np.random.default_rng(0))


def about(accuracy: float, rng: np.random.Generator, spread: float = 0.004) -> float:
    return accuracy + float(rng.normal(0, spread))


# 1. Collapse or overfitting


@pytest.mark.parametrize(
    ("stories", "verdict"),
    [
        ((collapsing, healthy), "collapse"),
        ((overfitting, healthy), "overfitting"),
        ((collapsing, overfitting), "both"),
        ((healthy, healthy), "neither"),
        ((non_finite, healthy), "collapse"),
    ],
)
def test_drops_are_named(tmp_path: Path, stories: tuple[Callable[[], Story], ...], verdict: str) -> None:
    answer = ask(collapse_or_overfitting.answer, tmp_path, lambda settings, rng: stories[settings["seed"] % 2]())
    assert answer.verdict == verdict


def test_failures_are_counted_with_their_interval(tmp_path: Path) -> None:
    answer = ask(collapse_or_overfitting.answer, tmp_path, lambda s, rng: collapsing() if s["seed"] == 0 else healthy())
    assert answer.estimate is not None
    assert answer.estimate.value == 0.25
    assert answer.estimate.low < 0.25 < answer.estimate.high
    assert any("names one class for every example" in method for method in answer.methods)


def test_nothing_learned_is_no_verdict(tmp_path: Path) -> None:
    answer = ask(collapse_or_overfitting.answer, tmp_path, lambda settings, rng: dead())
    assert answer.verdict == UNDETERMINED


# 2. Schedule


def schedule_matters(settings: SettingValues, rng: np.random.Generator) -> Story:
    dies = settings["lr_schedule"] == "constant" and rng.random() < 0.7
    return collapsing(about(0.88, rng)) if dies else healthy(about(0.88, rng))


def test_a_schedule_that_prevents_failures_is_found_and_its_shape_told_from_the_mean(tmp_path: Path) -> None:
    """Constant runs die at either rate: 5e-4 constant has the mean of 1e-3 linear, so it is the shape."""
    answer = ask(lr_schedule.answer, tmp_path, schedule_matters, GRID)
    assert answer.verdict == "yes"
    assert "by its shape" in answer.sentence


def test_a_lower_mean_rate_is_told_from_the_shape(tmp_path: Path) -> None:
    def rate_matters(settings: SettingValues, rng: np.random.Generator) -> Story:
        dies = settings["lr_schedule"] == "constant" and settings["learning_rate"] == 1e-3
        return collapsing(about(0.88, rng)) if dies else healthy(about(0.88, rng))

    answer = ask(lr_schedule.answer, tmp_path, rate_matters, GRID)
    assert answer.verdict == "yes"
    assert "its lower mean rate suffices" in answer.sentence


def test_a_schedule_is_not_said_to_prevent_what_never_happened(tmp_path: Path) -> None:
    answer = ask(lr_schedule.answer, tmp_path, lambda settings, rng: healthy(about(0.88, rng)), GRID)
    assert answer.verdict == UNDETERMINED
    assert "nothing to prevent" in answer.sentence


def test_a_harmful_schedule_is_called_so(tmp_path: Path) -> None:
    def harm(settings: SettingValues, rng: np.random.Generator) -> Story:
        return collapsing() if settings["lr_schedule"] == "linear" and rng.random() < 0.7 else healthy()

    answer = ask(lr_schedule.answer, tmp_path, harm, GRID)
    assert answer.verdict == "no"
    assert "did harm" in answer.sentence


# 3. Batch size

BATCHES = """
data: {source: builtin:reviews, examples: 40000}
fixed: {model: tiny-bert}
axes:
  duration: [{epochs: 4}, {optimizer_steps: 2000}]
  learning_rate: [5.0e-4, 1.0e-3]
  batch_size: [16, 64]
  seed: [0, 1, 2, 3]
"""


def sized(by_batch: float, by_updates: float) -> Tell:
    """The larger batch loses ``by_batch`` always, and ``by_updates`` more at equal epochs."""

    def tell(settings: SettingValues, rng: np.random.Generator) -> Story:
        large = settings["batch_size"] == 64
        lost = large * (by_batch + by_updates * (settings["optimizer_steps"] is None))
        epochs = 1 if settings["optimizer_steps"] and not large else 4
        accuracy = about(0.9, rng, 0.002) - lost
        return Story(accuracy=[accuracy] * epochs, train_loss=[0.3] * epochs, scale=[1.0] * epochs)

    return tell


@pytest.mark.parametrize(
    ("by_batch", "by_updates", "verdict"),
    [(0.05, 0.0, "yes"), (0.0, 0.05, "the number of updates"), (0.0, 0.0, "no")],
)
def test_the_batch_is_told_from_the_updates(tmp_path: Path, by_batch: float, by_updates: float, verdict: str) -> None:
    answer = ask(batch_size.answer, tmp_path, sized(by_batch, by_updates), BATCHES)
    assert answer.verdict == verdict


def test_one_learning_rate_says_nothing_of_batch_size(tmp_path: Path) -> None:
    text = BATCHES.replace("[5.0e-4, 1.0e-3]", "[5.0e-4]")
    answer = ask(batch_size.answer, tmp_path, sized(0.05, 0.0), text)
    assert answer.verdict == UNDETERMINED
    assert "only one learning rate" in answer.sentence


# 4. Calibration


@pytest.mark.parametrize(("scale", "verdict"), [(2.0, "over-confident"), (0.5, "under-confident"), (1.0, "calibrated")])
def test_confidence_is_judged_and_the_temperature_found(tmp_path: Path, scale: float, verdict: str) -> None:
    text = SMALL.replace("10000", "60000")
    answer = ask(calibration.answer, tmp_path, lambda s, rng: healthy(about(0.9, rng, 0.002), scale=scale), text)
    assert answer.verdict == verdict
    temperatures = [row[answer.tables[0].columns.index("temperature")] for row in answer.tables[0].rows]
    for temperature in temperatures:
        assert temperature.value == pytest.approx(scale, rel=0.1)  # type: ignore[union-attr]


def test_loss_that_rises_with_accuracy_is_explained(tmp_path: Path) -> None:
    def tell(settings: SettingValues, rng: np.random.Generator) -> Story:
        better = settings["model"] == "tiny-roberta"
        return healthy(about(0.9 + 0.02 * better, rng, 0.001), scale=4.0 if better else 1.0)

    answer = ask(calibration.answer, tmp_path, tell)
    assert "Where loss rises with accuracy most (tiny-bert" in answer.sentence
    assert "given with more confidence" in answer.sentence


def test_failed_runs_have_no_calibration(tmp_path: Path) -> None:
    answer = ask(calibration.answer, tmp_path, lambda s, rng: dead() if s["seed"] == 0 else healthy(scale=2.0))
    assert answer.verdict == "over-confident"
    assert "4 runs no better than chance" in answer.caveats[0]


# 5. Validation or test


def models_differ(by: float) -> Tell:
    def tell(settings: SettingValues, rng: np.random.Generator) -> Story:
        return healthy(about(0.88 + by * (settings["model"] == "tiny-roberta"), rng, 0.003))

    return tell


def test_two_points_are_found(tmp_path: Path) -> None:
    answer = ask(validation_or_test.answer, tmp_path, models_differ(0.02), SMALL.replace("10000", "30000"))
    assert answer.verdict == "tiny-roberta"
    assert answer.estimate is not None
    assert answer.estimate.low < -0.02 < answer.estimate.high < 0
    assert "agree within chance" in answer.sentence


def test_no_difference_is_said_to_be_none_when_the_interval_says_so(tmp_path: Path) -> None:
    answer = ask(validation_or_test.answer, tmp_path, models_differ(0.0), SMALL.replace("10000", "60000"))
    assert answer.verdict == "neither"


def test_a_small_test_set_leaves_it_open_and_says_what_it_could_show(tmp_path: Path) -> None:
    answer = ask(validation_or_test.answer, tmp_path, models_differ(0.002), SMALL.replace("10000", "2000"))
    assert answer.verdict == UNDETERMINED
    assert "would only find a difference of" in answer.sentence


# 6. Stability


def test_the_model_that_fails_less_is_the_stable_one(tmp_path: Path) -> None:
    def tell(settings: SettingValues, rng: np.random.Generator) -> Story:
        return collapsing() if settings["model"] == "tiny-roberta" and rng.random() < 0.6 else healthy()

    assert ask(stability.answer, tmp_path, tell, GRID).verdict == "tiny-bert"


def test_the_model_that_spreads_less_is_the_stable_one(tmp_path: Path) -> None:
    def tell(settings: SettingValues, rng: np.random.Generator) -> Story:
        return healthy(about(0.88, rng, 0.03 if settings["model"] == "tiny-bert" else 0.001))

    answer = ask(stability.answer, tmp_path, tell, GRID.replace("10000", "40000"))
    assert answer.verdict == "tiny-roberta"


def test_a_calm_model_that_fails_more_is_not_called_stable(tmp_path: Path) -> None:
    def tell(settings: SettingValues, rng: np.random.Generator) -> Story:
        if settings["model"] == "tiny-bert":
            return healthy(about(0.88, rng, 0.03))
        return collapsing(0.88) if settings["seed"] == 0 else healthy(about(0.88, rng, 0.001))

    answer = ask(stability.answer, tmp_path, tell, GRID.replace("10000", "40000"))
    assert answer.verdict == UNDETERMINED
    assert "different models" in answer.sentence


# 7. Tuning


def test_a_model_that_wins_only_when_tuned_wins(tmp_path: Path) -> None:
    """tiny-roberta is worse at one rate, and better at the other, which validation chooses."""

    def tell(settings: SettingValues, rng: np.random.Generator) -> Story:
        if settings["model"] == "tiny-bert":
            return healthy(about(0.88, rng))
        return healthy(about(0.93 if settings["learning_rate"] == 1e-3 else 0.7, rng))

    answer = ask(tuning.answer, tmp_path, tell, GRID)
    assert answer.verdict == "tiny-roberta"
    importance = next(table for table in answer.tables if "Which settings matter" in table.title)
    assert {importance.rows[0][0], importance.rows[1][0], importance.rows[2][0]} == {
        "model × learning_rate",
        "learning_rate",
        "model",
    }


def test_a_sample_is_judged_by_ped_anova(tmp_path: Path) -> None:
    text = GRID + "when:\n  - match: {lr_schedule: linear, learning_rate: 1.0e-3}\n    drop: true\n"

    def tell(settings: SettingValues, rng: np.random.Generator) -> Story:
        return healthy(about(0.9 if settings["learning_rate"] == 1e-3 else 0.8, rng))

    answer = ask(tuning.answer, tmp_path, tell, text)
    importance = next(table for table in answer.tables if "PED-ANOVA" in table.title)
    assert importance.rows[0][0] == "learning_rate"


# 8. Early stopping


def test_the_rule_that_costs_nothing_is_named(tmp_path: Path) -> None:
    """Loss dips once at epoch 2 and is best at epoch 3: patience 1 stops too early, patience 2 loses nothing."""
    story = Story(
        accuracy=[0.8, 0.78, 0.9, 0.89, 0.88, 0.87, 0.87, 0.87],
        train_loss=[0.5, 0.45, 0.3, 0.25, 0.2, 0.15, 0.1, 0.1],
        scale=[1.0] * 8,
    )
    answer = ask(early_stopping.answer, tmp_path, lambda s, rng: story, SMALL.replace("epochs: 4", "epochs: 8"))
    assert answer.verdict == "patience 2 on loss"
    assert answer.estimate is not None
    assert answer.estimate.value == 0


def test_runs_that_go_on_improving_are_not_to_be_stopped(tmp_path: Path) -> None:
    """Every rule of patience up to 3 stops within the long plateau before the rise."""
    story = Story(
        accuracy=[0.7, 0.68, 0.68, 0.68, 0.68, 0.8, 0.85, 0.9], train_loss=[0.6] * 5 + [0.4, 0.3, 0.2], scale=[1.0] * 8
    )
    answer = ask(early_stopping.answer, tmp_path, lambda s, rng: story, SMALL.replace("epochs: 4", "epochs: 8"))
    assert answer.verdict == "not early"


# Models with settings of their own

OWN_RATES = """
data: {source: builtin:reviews, examples: 30000}
fixed: {epochs: 4, learning_rate: 5.0e-4}
axes:
  model: [tiny-bert, tiny-roberta]
  lr_schedule: [constant, linear]
  batch_size: [16, 32]
  seed: [0, 1, 2, 3, 4]
when:
  - match: {model: tiny-roberta}
    set: {learning_rate: 2.0e-4}
"""


@pytest.mark.parametrize("name", ["validation-or-test", "stability", "tuning"])
def test_models_are_compared_at_the_rates_that_the_space_gives_them(tmp_path: Path, name: str) -> None:
    def tell(settings: SettingValues, rng: np.random.Generator) -> Story | None:
        if name == "stability":
            return collapsing() if settings["model"] == "tiny-roberta" and rng.random() < 0.7 else healthy()
        return models_differ(0.02)(settings, rng)

    answer = ask(QUESTIONS[name], tmp_path, tell, OWN_RATES)
    assert answer.verdict == ("tiny-bert" if name == "stability" else "tiny-roberta")
    assert any("its own learning rate" in caveat for caveat in answer.caveats)


def test_the_first_table_has_models_with_rates_of_their_own(tmp_path: Path) -> None:
    found = overview(results_of(tmp_path, models_differ(0.0), OWN_RATES))
    assert [(row[0], "lr 0.0002" in str(row[1])) for row in found.main.rows] == [
        *[("tiny-bert", False)] * 2,
        *[("tiny-roberta", True)] * 2,
    ]


# Studies with too few examples to tell anything from chance


def test_what_few_validation_examples_cannot_show_is_said(tmp_path: Path) -> None:
    few = SMALL.replace("10000", "900").replace("[linear]", "[constant, linear]")
    results = results_of(tmp_path, lambda settings, rng: healthy(0.53), few)
    rng = np.random.default_rng(0)
    caveats = collapse_or_overfitting.answer(results, rng).caveats
    assert any("90 validation examples" in caveat for caveat in caveats)
    assert "known to have failed or not" in lr_schedule.answer(results, rng).sentence


# All of them


@pytest.mark.parametrize("name", QUESTIONS)
@pytest.mark.parametrize("text", [SMALL, BATCHES])
def test_one_seed_is_undetermined(tmp_path: Path, name: str, text: str) -> None:
    text = text.replace("seed: [0, 1, 2, 3]", "seed: [0]")

    def tell(settings: SettingValues, rng: np.random.Generator) -> Story | None:
        if settings["optimizer_steps"]:
            return sized(0.05, 0.0)(settings, rng)
        return collapsing() if settings["learning_rate"] == 1e-3 else overfitting()

    answer = ask(QUESTIONS[name], tmp_path, tell, text)
    assert answer.verdict == UNDETERMINED
    assert answer.next_commands


@pytest.mark.parametrize("name", QUESTIONS)
def test_nothing_trained_is_undetermined(tmp_path: Path, name: str) -> None:
    answer = ask(QUESTIONS[name], tmp_path, lambda settings, rng: None, GRID)
    assert answer.verdict == UNDETERMINED
    assert answer.next_commands


@pytest.mark.parametrize("name", QUESTIONS)
def test_half_a_study_with_failures_and_non_finite_runs_is_answered(tmp_path: Path, name: str) -> None:
    def tell(settings: SettingValues, rng: np.random.Generator) -> Story | None:
        stories = (non_finite(), None, healthy(about(0.88, rng)), collapsing())
        return stories[settings["seed"] % 4]

    answer = ask(QUESTIONS[name], tmp_path, tell, GRID)
    assert answer.sentence


@pytest.mark.parametrize("story", [healthy, dead, lambda: healthy(0.53)])
@pytest.mark.parametrize("seeds", [1, 100])
@pytest.mark.parametrize(
    "text", [SMALL, BATCHES, GRID, OWN_RATES, GRID.replace("[tiny-bert, tiny-roberta]", "[tiny-bert]")]
)
def test_every_command_can_be_run(
    tmp_path: Path,
    text: str,
    seeds: int,
    story: Callable[[], Story],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Each proposed command plans more than the study has, in the folder where its study lies."""
    space, plan = plan_of(tmp_path, text)
    study = make(space, plan, lambda settings, rng: story() if settings["seed"] < seeds else None)
    study.write(tmp_path / "studies")
    monkeypatch.chdir(tmp_path)
    commands = {
        command.command
        for question in QUESTIONS.values()
        for command in question(study.results(), np.random.default_rng(0)).next_commands
    }
    assert commands
    for command in commands:
        words = shlex.split(command)
        assert words[:3] == ["python", "-m", "study.run"]
        assert run_study([*words[3:], "--dry-run"]) == 0, command
        printed = capsys.readouterr().out
        assert "study made-up" in printed
        assert not re.search(r"^left +0 trajectories", printed, re.MULTILINE), command
