"""The opening: what happened, every setting with the best first, and published results beside them."""

from pathlib import Path

import numpy as np
from synthetic_spaces import (
    ASHA,
    GRID,
    MODEL_RATES,
    SEARCH,
    SMALL,
    models_differ,
    near,
    results_of,
    search_study,
    some_pruned,
    trial_choice,
)
from synthetic_study import Story, at_chance, collapsing, healthy, non_finite, pruned

from analysis.answer import Table, Value
from analysis.overview import MOST_SHOWN, overview
from analysis.statistics.estimate import Estimate
from study.settings import Settings

REFERENCES = """
references:
  - match: {model: tiny-bert}
    test_accuracy: 0.885
    source: one run
  - match: {model: tiny-roberta}
    test_loss: 0.001
    source: another run
"""
ONE_RATE = SMALL.replace("[5.0e-4, 1.0e-3]", "[5.0e-4]")


def column(table: Table, name: str) -> list[Value]:
    return [row[table.columns.index(name)] for row in table.rows]


def test_a_report_opens_with_five_statements(tmp_path: Path) -> None:
    opening = overview(results_of(tmp_path, models_differ(0.02)))
    assert [statement.heading for statement in opening.what_happened] == [
        "Failed runs",
        "Best setting by validation",
        "Distance to other settings",
        "Stopping early",
        "Cost",
    ]


def test_a_study_without_an_evaluation_says_so_once(tmp_path: Path) -> None:
    opening = overview(results_of(tmp_path, lambda settings, rng: None))
    assert [statement.text for statement in opening.what_happened] == ["No run has an evaluation yet."]


def test_settings_are_ranked_by_validation_with_accuracy_before_loss(tmp_path: Path) -> None:
    def story(settings: Settings, rng: np.random.Generator) -> Story:
        return healthy(0.8 + 0.1 * (settings.learning_rate == 1e-3) + 0.02 * (settings.model == "tiny-roberta"))

    opening = overview(results_of(tmp_path, story))
    assert opening.main.columns == [
        *("model", "setting", "validation accuracy", "test accuracy", "test loss", "seeds"),
        *("failed", "at chance"),
    ]
    assert [row[:2] for row in opening.main.rows] == [
        ("tiny-roberta", "lr 0.001"),
        ("tiny-bert", "lr 0.001"),
        ("tiny-roberta", "lr 0.0005"),
        ("tiny-bert", "lr 0.0005"),
    ]
    assert opening.all_conditions is None


def test_of_many_settings_the_best_are_shown_and_all_are_in_another_table(tmp_path: Path) -> None:
    rates = [1e-4 * (1 + i) for i in range(15)]
    text = SMALL.replace("[5.0e-4, 1.0e-3]", str(rates)).replace("10000", "1000").replace("[0, 1, 2, 3]", "[0]")
    reference = (
        "\nreferences:\n  - match: {model: tiny-bert, learning_rate: 1.0e-4}\n    test_loss: 0.3\n    source: x\n"
    )

    def story(settings: Settings, rng: np.random.Generator) -> Story:
        return healthy(0.6 + 200 * settings.learning_rate)

    opening = overview(results_of(tmp_path, story, text + reference))
    assert len(opening.main.rows) == MOST_SHOWN + 1, "the worst setting is shown because a published result has it"
    assert opening.main.title == "The best of 30 settings"
    assert opening.all_conditions is not None
    assert len(opening.all_conditions.rows) == 30
    assert column(opening.main, "setting")[0] == "lr 0.0015"


def test_the_best_trials_of_a_worse_search_are_shown_too(tmp_path: Path) -> None:
    def story(settings: Settings, rng: np.random.Generator) -> Story:
        return healthy(near(0.9 if settings.model == "tiny-bert" else 0.7, rng))

    text = SEARCH.replace("trials: 6", "trials: 25").replace("4000", "1000").replace("[0, 1, 2]", "[0]")
    study = search_study(tmp_path, story, text, [trial_choice(number) for number in range(11)] * 2)
    assert overview(study.results()).all_conditions is not None
    models = column(overview(study.results()).main, "model")
    assert models.count("tiny-roberta") >= 3


def test_a_run_that_collapsed_is_counted_although_its_checkpoint_is_good(tmp_path: Path) -> None:
    def story(settings: Settings, rng: np.random.Generator) -> Story:
        if settings.model == "tiny-roberta":
            return collapsing(near(0.9, rng)) if settings.seed else healthy(near(0.9, rng))
        return at_chance() if settings.seed == 1 else healthy(near(0.9, rng))

    main = overview(results_of(tmp_path, story, ONE_RATE)).main
    counts = {row[main.columns.index("model")]: row[-2:] for row in main.rows}
    assert counts == {"tiny-roberta": ("3 of 4", "0 of 4"), "tiny-bert": ("1 of 4", "1 of 4")}


def test_a_cell_that_stops_before_its_trajectory_collapses_has_not_collapsed(tmp_path: Path) -> None:
    text = ONE_RATE.replace("axes:\n", "axes:\n  early_stopping: [none, {patience: 1}]\n")
    text = text.replace("[linear]", "[constant]")

    def story(settings: Settings, rng: np.random.Generator) -> Story:
        # Validation loss is worse after the second epoch, at which patience stops, and the run collapses in the fourth.
        scales = [1.0, 6.0, 6.0, 1.0]
        return Story(accuracy=[0.9, 0.9, 0.9, None], train_loss=[0.4, 0.3, 0.2, 0.694], scale=scales)

    main = overview(results_of(tmp_path, story, text)).main
    by_setting = dict(zip(column(main, "setting"), column(main, "failed"), strict=True))
    assert by_setting == {"no early stopping": "4 of 4", "patience 1 on loss": "0 of 4"}


def test_a_run_without_a_score_counts_as_the_worst_in_the_order(tmp_path: Path) -> None:
    def story(settings: Settings, rng: np.random.Generator) -> Story:
        lost = Story(accuracy=[float("nan")], train_loss=[float("nan")], scale=[1.0], outcome=non_finite().outcome)
        if settings.model == "tiny-bert":
            return lost if settings.seed else healthy(0.99)
        return healthy(0.8)

    main = overview(results_of(tmp_path, story, ONE_RATE)).main
    assert column(main, "model") == ["tiny-roberta", "tiny-bert"]
    assert column(main, "failed") == ["0 of 4", "3 of 4"]


def test_an_interval_that_says_nothing_is_left_out(tmp_path: Path) -> None:
    def story(settings: Settings, rng: np.random.Generator) -> Story:
        return healthy(0.95 if settings.seed else 0.6)

    main = overview(results_of(tmp_path, story, ONE_RATE.replace("[0, 1, 2, 3]", "[0, 1]"))).main
    for name in ("test accuracy", "test loss"):
        for estimate in column(main, name):
            assert isinstance(estimate, Estimate)
            assert not estimate.has_interval
            assert estimate.seeds == 2


def test_models_with_their_own_learning_rates_are_all_in_the_first_table(tmp_path: Path) -> None:
    opening = overview(results_of(tmp_path, models_differ(0.02), MODEL_RATES))
    rows = {(row[0], "lr 0.0002" in str(row[1])) for row in opening.main.rows}
    assert rows == {("tiny-bert", False), ("tiny-roberta", True)}


def test_pruned_cells_are_counted_beside_the_complete_ones(tmp_path: Path) -> None:
    main = overview(search_study(tmp_path, some_pruned, ASHA).results()).main
    assert column(main, "seeds").count("2 of 3, 1 pruned") == 6


def test_scores_of_pruned_cells_are_in_no_mean_of_a_condition(tmp_path: Path) -> None:
    results = search_study(tmp_path, lambda s, rng: healthy(0.7) if s.seed else pruned(0.99), ASHA).results()
    for accuracy in column(overview(results).main, "test accuracy"):
        assert isinstance(accuracy, Estimate)
        assert accuracy.value < 0.75


def test_published_results_say_whether_they_lie_within_our_interval(tmp_path: Path) -> None:
    text = ONE_RATE.replace("10000", "1000") + REFERENCES

    def story(settings: Settings, rng: np.random.Generator) -> Story:
        return healthy(0.9 if settings.model == "tiny-bert" else 0.8)

    main = overview(results_of(tmp_path, story, text)).main
    assert main.columns[-2:] == ["published accuracy", "published loss"]
    assert [tuple(row[-2:]) for row in main.rows] == [("88.5 % (within)", ""), ("", "0.001 (outside)")]
    assert main.note.endswith("Published: one run; another run.")


def test_a_single_seed_has_no_interval_to_compare_with(tmp_path: Path) -> None:
    text = ONE_RATE.replace("seed: [0, 1, 2, 3]", "seed: [0]") + REFERENCES
    main = overview(results_of(tmp_path, models_differ(-0.05), text)).main
    assert [tuple(row[-2:]) for row in main.rows] == [("88.5 % (no interval)", ""), ("", "0.001 (no interval)")]


def test_the_state_of_the_study_comes_before_every_number(tmp_path: Path) -> None:
    opening = overview(results_of(tmp_path, lambda s, rng: (healthy(), non_finite(), None, None)[s.seed]))
    assert opening.origin.startswith("started 2027-01-15 · 16 cells · 16 trajectories")
    partial, non_finite_cells = opening.warnings
    assert "8 of 16 planned cells are complete, 0 failed, 0 started and have not ended, 8 are missing" in partial
    assert non_finite_cells == "4 complete cells ended with a non-finite loss."


def test_names_leave_out_that_there_is_no_warm_up_where_the_schedule_says_so(tmp_path: Path) -> None:
    schedules = "[constant, {name: linear, warmup_fraction: 0.1}]"
    text = GRID.replace("[constant, linear]", schedules).replace("0, 1, 2, 3, 4, 5, 6, 7", "0").replace("10000", "1000")
    settings = column(overview(results_of(tmp_path, models_differ(0.0), text)).main, "setting")
    assert {"constant · lr 0.001", "linear · 10% warm-up · lr 0.001"} <= set(settings)
