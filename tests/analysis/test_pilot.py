"""A pilot study gives failure rates, the spread over seeds and the disagreement of runs, and says what it cannot."""

from pathlib import Path

import numpy as np
import pytest
from synthetic_study import Story, StoryOf, at_chance, collapsing, healthy, make_synthetic, plan_of

from analysis.design import describe_power
from analysis.pilot import read_pilot
from analysis.power import Assumptions
from study.errors import StudyError
from study.settings import Settings

TEXT = """
data: {source: 'builtin:reviews', examples: 6000}
fixed: {epochs: 4, learning_rate: 5e-4}
axes: {model: [tiny-bert, tiny-roberta], lr_schedule: [constant, linear], seed: [0, 1, 2, 3]}
"""
ONE_SEED = TEXT.replace("seed: [0, 1, 2, 3]", "seed: [0]")


def noisy(settings: Settings, rng: np.random.Generator) -> Story:
    return healthy(0.9 + 0.02 * rng.normal())


def half_of_one_condition_fails(settings: Settings, rng: np.random.Generator) -> Story:
    fails = (settings.model, settings.lr_schedule) == ("tiny-roberta", "constant") and settings.seed < 2
    return collapsing() if fails else healthy()


def pilot(folder: Path, story: StoryOf, text: str = TEXT, name: str = "earlier") -> Path:
    """The folder of a study that has run."""
    space, plan = plan_of(folder, f"name: {name}\n{text}")
    return make_synthetic(space, plan, story).write(folder / "studies").path


def test_failure_rates_are_those_of_conditions(tmp_path: Path) -> None:
    assumed, words = read_pilot(pilot(tmp_path, half_of_one_condition_fails))
    assert (assumed.failure_rate, assumed.mean_failure_rate) == (0.0, 0.125)
    assert words.startswith("pilot earlier: 2 of 16 runs failed (0 to 50 % by condition), seed sd ")


def test_the_spread_over_seeds_is_within_conditions_with_its_upper_limit(tmp_path: Path) -> None:
    """Runs of four conditions, twelve degrees of freedom; models that differ by ten points add nothing."""

    def story(settings: Settings, rng: np.random.Generator) -> Story:
        return healthy((0.75 if settings.model == "tiny-bert" else 0.9) + 0.02 * rng.normal())

    space, plan = plan_of(tmp_path, TEXT)
    study = make_synthetic(space, plan, story)
    accuracies = [cell.chosen.test_score("accuracy") for cell in study.results().cells if cell.chosen]
    sds = [np.std(np.array(accuracies[i : i + 4], dtype=float), ddof=1) for i in range(0, 16, 4)]
    pooled = float(np.sqrt(np.mean(np.square(sds))))
    assumed, words = read_pilot(study.write(tmp_path / "studies").path)
    limit = pooled * (12 / 7.807) ** 0.5  # the 20 % quantile of chi-squared with twelve degrees, from tables
    assert f"seed sd {100 * pooled:.1f} points (upper limit {100 * limit:.1f})" in words
    assert assumed.seed_sd == pytest.approx((limit**2 - assumed.within / 1_200) ** 0.5, abs=1e-5)


def test_disagreement_is_counted_on_the_test_examples(tmp_path: Path) -> None:
    results_folder = pilot(tmp_path, noisy)
    assumed, _ = read_pilot(results_folder)
    space, plan = plan_of(tmp_path, f"name: earlier\n{TEXT}")
    results = make_synthetic(space, plan, noisy).results()
    correct = [results.predictions.scores(cell, "test") for cell in results.cells]
    runs = [scores.correct for scores in correct if scores is not None]
    same = [np.mean(runs[i] != runs[j]) for i in range(16) for j in range(i) if i // 4 == j // 4]
    models = [np.mean(runs[i] != runs[j]) for i in range(8, 16) for j in range(8) if (i - 8) // 4 == j // 4]
    assert assumed.between == pytest.approx(np.mean(models))
    assert assumed.within == pytest.approx(min(np.mean(same), np.mean(models)))


def test_one_model_is_compared_between_conditions(tmp_path: Path) -> None:
    assumed, words = read_pilot(pilot(tmp_path, noisy, TEXT.replace("tiny-bert, tiny-roberta", "tiny-bert")))
    assert 0.02 < assumed.within <= assumed.between < 0.2
    assert "assumed" not in words


def test_a_pilot_with_one_seed_says_that_the_spread_is_assumed(tmp_path: Path) -> None:
    assumed, words = read_pilot(pilot(tmp_path, noisy, ONE_SEED))
    assert assumed.seed_sd == Assumptions().seed_sd
    assert assumed.within == 0
    assert assumed.between > 0
    assert "seed sd 0.5 points (assumed: no condition has two seeds that learned)" in words


def test_a_pilot_in_which_nothing_learned_or_without_predictions_is_used_for_its_failures(tmp_path: Path) -> None:
    folder = pilot(tmp_path, noisy)
    for path in folder.rglob("*.parquet"):
        path.unlink()
    assumed, words = read_pilot(folder)
    assert (assumed.between, assumed.within) == (Assumptions().between, Assumptions().within)
    assert words.endswith(", and assumed")
    assumed, words = read_pilot(pilot(tmp_path, lambda settings, rng: at_chance(), name="flat"))
    assert assumed.failure_rate == 0
    assert "no run is known to have failed or learned" in words


def test_a_pilot_that_has_not_ended_is_used_as_far_as_it_is(tmp_path: Path) -> None:
    folder = pilot(tmp_path, lambda settings, rng: noisy(settings, rng) if settings.seed < 2 else None)
    assert read_pilot(folder)[1].startswith("pilot earlier: 0 of 8 runs failed, 8 have not ended, seed sd ")


def test_what_is_no_study_or_has_no_ended_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StudyError, match=r"^--pilot: .*nowhere is not a study's folder: it has no study\.json"):
        read_pilot(tmp_path / "nowhere")
    space, plan = plan_of(tmp_path, TEXT)
    empty = make_synthetic(space, plan, lambda settings, rng: None).write(tmp_path / "studies").path
    with pytest.raises(StudyError, match=r"^--pilot: no run of the study in .*made-up has ended.*leave --pilot out$"):
        read_pilot(empty)
    (empty / "plan.json").write_text("{")
    with pytest.raises(StudyError, match=r"^--pilot: "):
        read_pilot(empty)


def test_the_power_of_a_design_rests_on_the_pilot(tmp_path: Path) -> None:
    """Larger differences are needed where seeds differ more, and where the other arm fails, too."""
    space, plan = plan_of(tmp_path, TEXT.replace("[0, 1, 2, 3]", "[0, 1, 2, 3, 4]"))
    failing = describe_power(space, plan, pilot(tmp_path, half_of_one_condition_fails, name="failing"))
    assert all(len(line) <= 80 for line in failing.splitlines())
    assert "one condition" in failing
    assert " 0 v 83 % " in failing  # in the typical condition, nothing fails
    assert " 12 v " in failing
    assumed, of_pilot = (describe_power(space, plan, path) for path in (None, pilot(tmp_path, noisy, name="noisy")))
    points = [float(text.split("one condition")[1].split()[4]) for text in (assumed, of_pilot)]
    assert points[1] > 1.5 * points[0]
    assert "pilot noisy: 0 of 16 runs failed, seed sd " in of_pilot
