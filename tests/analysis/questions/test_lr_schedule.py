"""A schedule under which runs fail less often is named, and why; what unlike conditions do is not the schedule's."""

import shlex
from pathlib import Path

import numpy as np
import pytest
import yaml
from synthetic_spaces import (
    GRID,
    SEARCH,
    SIX_CHOICES,
    SMALL,
    answer_to,
    near,
    results_of,
    search_study,
    settled_answer,
    table_of,
)
from synthetic_study import Story, collapsing, declining, healthy, recovering

from analysis.answer import NOT_ASKED, UNDETERMINED
from analysis.statistics.estimate import Estimate
from study.settings import Settings

QUESTION = "lr_schedule"
# Ten conditions of five batch sizes and two models, as in search_spaces/paper.yaml.
TEN = """
data: {source: builtin:reviews, examples: 2000}
fixed: {epochs: 4, learning_rate: 1.0e-3}
axes:
  model: [tiny-bert, tiny-roberta]
  lr_schedule: [constant, linear]
  batch_size: [16, 32, 64, 128, 256]
  seed: [0, 1, 2, 3, 4]
"""
SIMPSON = """
data: {source: builtin:reviews, examples: 2000}
fixed: {epochs: 4, model: tiny-bert}
axes:
  lr_schedule: [constant, linear]
  learning_rate: [5.0e-5, 1.0e-3]
  seed: [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11]
"""
WARMUP = """
data: {source: builtin:reviews, examples: 2000}
fixed: {epochs: 4, model: tiny-bert}
axes:
  lr_schedule: [constant, {name: linear, warmup_fraction: 0.1}]
  learning_rate: [5.0e-4, 1.0e-3]
  seed: [0, 1, 2, 3, 4, 5]
"""


def constant_fails(settings: Settings, rng: np.random.Generator) -> Story:
    fails = settings.lr_schedule == "constant" and rng.random() < 0.7
    return collapsing(near(0.88, rng)) if fails else healthy(near(0.88, rng))


def test_fewer_failures_by_the_shape_of_a_schedule(tmp_path: Path) -> None:
    """Constant runs fail at either rate: 5e-4 constant has the mean of 1e-3 linear, so it is the shape."""
    answer = settled_answer(QUESTION, results_of(tmp_path, constant_fails, GRID))
    assert answer.verdict == "fewer under linear"
    assert "by its shape" in answer.sentence
    table = table_of(answer, "The shape, or the lower mean rate?")
    assert [row[2] for row in table.rows] == [8] * 6


def test_fewer_failures_by_the_lower_mean_rate(tmp_path: Path) -> None:
    def tell(settings: Settings, rng: np.random.Generator) -> Story:
        fails = settings.lr_schedule == "constant" and settings.learning_rate == 1e-3
        return collapsing(near(0.88, rng)) if fails else healthy(near(0.88, rng))

    answer = settled_answer(QUESTION, results_of(tmp_path, tell, GRID))
    assert answer.verdict == "fewer under linear"
    assert "its lower mean rate suffices" in answer.sentence


def test_without_constant_runs_at_the_mean_rate_the_reason_is_not_known(tmp_path: Path) -> None:
    answer = settled_answer(
        QUESTION, results_of(tmp_path, constant_fails, GRID.replace("[5.0e-4, 1.0e-3]", "[1.0e-3]"))
    )
    assert answer.verdict == "fewer under linear"
    assert "not known: no constant run has that mean" in answer.sentence
    assert any("confounded" in caveat for caveat in answer.caveats)


def test_a_harmful_schedule_is_named_by_the_other(tmp_path: Path) -> None:
    def tell(settings: Settings, rng: np.random.Generator) -> Story:
        return collapsing() if settings.lr_schedule == "linear" and rng.random() < 0.7 else healthy()

    answer = settled_answer(QUESTION, results_of(tmp_path, tell, GRID))
    assert answer.verdict == "fewer under constant"
    assert "shape" not in answer.sentence


def test_schedules_that_fail_in_opposite_conditions_depend_on_the_condition(tmp_path: Path) -> None:
    def tell(settings: Settings, rng: np.random.Generator) -> Story:
        fails = (settings.lr_schedule == "linear") == (settings.model == "tiny-bert")
        return collapsing() if fails else healthy()

    answer = settled_answer(QUESTION, results_of(tmp_path, tell, GRID))
    assert answer.verdict == "depends on the condition"
    assert "opposite directions" in answer.sentence


def test_a_difference_between_conditions_is_not_one_between_schedules(tmp_path: Path) -> None:
    """Simpson: at the high rate 12 of 12 and 2 of 2 fail, at the low one 0 of 2 and 0 of 12."""

    def tell(settings: Settings, rng: np.random.Generator) -> Story | None:
        high = settings.learning_rate == 1e-3
        if (settings.lr_schedule == "constant") != high and settings.seed > 1:
            return None
        return collapsing(0.85) if high else healthy(0.85)

    results = results_of(tmp_path, tell, SIMPSON)
    assert sum(diagnosis.failed for diagnosis in results.diagnoses.values()) == 14
    answer = settled_answer(QUESTION, results)
    assert (answer.verdict, answer.claim) == (UNDETERMINED, None)
    assert "no condition has both runs that failed and runs that did not" in answer.sentence.lower()
    # Each condition is shown for itself.
    assert [row[1:3] for row in table_of(answer, "condition by condition").rows] == [
        ("0 of 12", "0 of 2"),
        ("2 of 2", "12 of 12"),
    ]


def one_condition_fails(settings: Settings, rng: np.random.Generator) -> Story:
    """What the discussion that this study began with tells: one model, constant rate, small batch."""
    fails = (settings.model, settings.lr_schedule, settings.batch_size) == ("tiny-roberta", "constant", 16)
    return collapsing(0.88) if fails else healthy(0.88)


@pytest.mark.parametrize(
    ("seeds", "verdict", "p"),
    [(3, UNDETERMINED, 0.1), (4, "fewer under linear", 0.029), (5, "fewer under linear", 0.008)],
)
def test_all_failures_of_one_condition_are_seen_among_ten_that_have_none(
    tmp_path: Path, seeds: int, verdict: str, p: float
) -> None:
    text = TEN.replace("[0, 1, 2, 3, 4]", str(list(range(seeds))))
    answer = settled_answer(QUESTION, results_of(tmp_path, one_condition_fails, text))
    assert answer.verdict == verdict
    assert (answer.claim.p_value if answer.claim else 0.1) == pytest.approx(p, abs=5e-4)
    assert f"0 of {seeds} linear runs and {seeds} of {seeds} constant runs failed" in answer.sentence
    if seeds == 3:
        assert "With 3 seeds per condition, failures of these numbers cannot show a difference" in answer.sentence


def test_a_seed_that_fails_in_all_conditions_counts_once(tmp_path: Path) -> None:
    """Seed 0 of the constant schedule fails everywhere: ten failures of fifty, and one draw of a seed."""

    def tell(settings: Settings, rng: np.random.Generator) -> Story:
        return collapsing(0.88) if settings.seed == 0 and settings.lr_schedule == "constant" else healthy(0.88)

    answer = settled_answer(QUESTION, results_of(tmp_path, tell, TEN))
    assert answer.verdict == UNDETERMINED
    assert answer.claim is None or answer.claim.p_value == 1.0


@pytest.mark.parametrize("unstable", [declining(0.88), recovering(0.88)])
def test_runs_that_lose_what_they_had_learned_are_a_second_outcome(tmp_path: Path, unstable: Story) -> None:
    """A fall of 28 points in all constant runs fails none of them."""

    def tell(settings: Settings, rng: np.random.Generator) -> Story:
        return unstable if settings.lr_schedule == "constant" else healthy(0.88)

    answer = settled_answer(QUESTION, results_of(tmp_path, tell, GRID))
    assert answer.verdict == "fewer under linear"
    assert answer.sentence.startswith("Runs become unstable less often under the linear schedule")
    assert answer.estimated == "rate of unstable runs, linear minus constant"


def test_without_failures_no_difference_could_be_seen(tmp_path: Path) -> None:
    answer = settled_answer(QUESTION, results_of(tmp_path, lambda settings, rng: healthy(near(0.88, rng)), GRID))
    assert answer.verdict == UNDETERMINED
    assert (
        "No run failed in any of the 4 conditions, so no difference between schedules could be seen" in answer.sentence
    )
    assert any("learning_rate=" in proposal.command for proposal in answer.next_commands)


def test_failures_that_chance_spreads_are_no_difference(tmp_path: Path) -> None:
    answer = settled_answer(
        QUESTION, results_of(tmp_path, lambda s, rng: collapsing() if rng.random() < 0.3 else healthy(), GRID)
    )
    assert answer.verdict == UNDETERMINED
    assert "can be due to chance" in answer.sentence


def test_a_schedule_with_a_warmup_of_its_own_is_named_with_it(tmp_path: Path) -> None:
    """Constant without and linear with warm-up: what differs may be the warm-up."""
    answer = settled_answer(QUESTION, results_of(tmp_path, constant_fails, WARMUP))
    assert answer.verdict == "fewer under linear · 10% warm-up"
    assert "whether by its warm-up, its shape or its lower mean rate is not known" in answer.sentence
    assert any("schedule and warm-up together" in caveat for caveat in answer.caveats)


@pytest.mark.parametrize("schedules", ["[linear]", "[constant]", "[linear, cosine]"])
def test_a_study_without_a_constant_and_another_schedule_does_not_ask(tmp_path: Path, schedules: str) -> None:
    results = results_of(tmp_path, lambda settings, rng: healthy(), SMALL.replace("[linear]", schedules))
    answer = settled_answer(QUESTION, results)
    assert (answer.verdict, answer.claim) == (NOT_ASKED, None)
    assert any("lr_schedule=" in proposal.command for proposal in answer.next_commands)


def test_runs_of_which_it_is_open_whether_they_failed_are_left_out_and_counted(tmp_path: Path) -> None:
    text = SMALL.replace("10000", "900").replace("[linear]", "[constant, linear]")
    answer = answer_to(QUESTION, results_of(tmp_path, lambda settings, rng: healthy(0.53), text))
    assert answer.verdict == UNDETERMINED
    assert "that are known to have failed or to have learned; for 32 runs at chance this is unknown" in answer.sentence


def test_the_common_difference_has_an_interval_that_all_against_none_cannot_make_a_point(tmp_path: Path) -> None:
    def tell(settings: Settings, rng: np.random.Generator) -> Story:
        return collapsing() if settings.lr_schedule == "constant" else healthy()

    answer = settled_answer(QUESTION, results_of(tmp_path, tell, GRID))
    assert isinstance(answer.estimate, Estimate)
    assert answer.estimate.value == -1.0
    assert answer.estimate.low == pytest.approx(-1.0)
    assert -0.9 < answer.estimate.high < -0.5


def test_accuracy_is_compared_among_runs_that_learned_and_stays_exploratory(tmp_path: Path) -> None:
    def tell(settings: Settings, rng: np.random.Generator) -> Story:
        return healthy(near(0.86 + 0.04 * (settings.lr_schedule == "linear"), rng))

    answer = settled_answer(QUESTION, results_of(tmp_path, tell, GRID))
    assert answer.verdict == UNDETERMINED
    assert "Among runs that learned, linear scores +3.9 points" in answer.sentence
    assert "Exploratory" in table_of(answer, "Test accuracy among runs that learned").note


def test_a_proposed_range_contains_the_old_range_and_the_proposed_rates(tmp_path: Path) -> None:
    choices = [{**choice, "lr_schedule": name} for choice in SIX_CHOICES for name in ("constant", "linear")]
    results = search_study(tmp_path, lambda settings, rng: healthy(), SEARCH, choices).results()
    words = [word for proposal in answer_to(QUESTION, results).next_commands for word in shlex.split(proposal.command)]
    override = next(word for word in words if word.startswith("learning_rate="))
    proposed = yaml.safe_load(override.partition("=")[2].replace("e-", ".0e-"))
    assert proposed["log"] is True
    assert float(proposed["low"]) <= 1e-5
    assert float(proposed["high"]) >= 1e-3


@pytest.mark.parametrize(
    ("from_rate", "proposed"),
    [(2.0, ["0.002", "0.004"]), (1e-3, ["0.00071"]), (0.0, ["0.000125", "0.00025"])],
)
def test_where_all_runs_of_a_rate_fail_the_next_rates_are_those_at_which_only_some_may(
    tmp_path: Path, from_rate: float, proposed: list[str]
) -> None:
    def tell(settings: Settings, rng: np.random.Generator) -> Story:
        return collapsing(near(0.88, rng)) if settings.learning_rate >= from_rate else healthy(near(0.88, rng))

    answer = settled_answer(QUESTION, results_of(tmp_path, tell, SIMPSON.replace("5.0e-5", "5.0e-4")))
    (command,) = (c.command for c in answer.next_commands if "looks for rates" in c.purpose)
    assert all(rate in command for rate in proposed)
