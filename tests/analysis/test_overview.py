"""The opening: the study's state, test scores of whole runs by condition, and published results beside them."""

from pathlib import Path

from synthetic_spaces import ASHA, MODEL_RATES, SMALL, models_differ, results_of, search_study, some_pruned
from synthetic_study import healthy, non_finite, pruned

from analysis.overview import overview
from analysis.statistics.estimate import Estimate

REFERENCES = """
references:
  - match: {model: tiny-bert}
    test_accuracy: 0.885
    source: one run
  - match: {model: tiny-roberta}
    test_loss: 0.001
    source: another run
"""


def test_models_with_their_own_learning_rates_are_all_in_the_first_table(tmp_path: Path) -> None:
    opening = overview(results_of(tmp_path, models_differ(0.0), MODEL_RATES))
    assert [(row[0], "lr 0.0002" in str(row[1])) for row in opening.main.rows] == [
        *[("tiny-bert", False)] * 2,
        *[("tiny-roberta", True)] * 2,
    ]


def test_pruned_cells_are_counted_beside_the_complete_ones(tmp_path: Path) -> None:
    everything = overview(search_study(tmp_path, some_pruned, ASHA).results()).all_conditions
    assert everything is not None
    cells = [row[everything.columns.index("cells")] for row in everything.rows]
    assert cells.count("2 of 3, 1 pruned") == 6


def test_scores_of_pruned_cells_are_in_no_mean_of_a_condition(tmp_path: Path) -> None:
    results = search_study(tmp_path, lambda s, rng: healthy(0.7) if s.seed else pruned(0.99), ASHA).results()
    opening = overview(results)
    assert opening.all_conditions is not None
    for table in (opening.main, opening.all_conditions):
        for row in table.rows:
            accuracy = row[table.columns.index("test accuracy")]
            assert isinstance(accuracy, Estimate)
            assert accuracy.value < 0.75


def test_published_results_say_whether_they_lie_within_our_interval(tmp_path: Path) -> None:
    text = SMALL.replace("10000", "1000") + REFERENCES
    main = overview(results_of(tmp_path, lambda settings, rng: healthy(0.9), text)).main
    assert main.columns[-2:] == ["published loss", "published accuracy"]
    assert [tuple(row[-2:]) for row in main.rows] == [("", "88.5 % (within)"), ("0.001 (outside)", "")]
    assert main.note.endswith("Published: one run; another run.")


def test_a_single_seed_has_no_interval_to_compare_with(tmp_path: Path) -> None:
    text = SMALL.replace("seed: [0, 1, 2, 3]", "seed: [0]") + REFERENCES
    main = overview(results_of(tmp_path, lambda settings, rng: healthy(0.9), text)).main
    assert [tuple(row[-2:]) for row in main.rows] == [("", "88.5 % (no interval)"), ("0.001 (no interval)", "")]


def test_the_state_of_the_study_comes_before_every_number(tmp_path: Path) -> None:
    opening = overview(results_of(tmp_path, lambda s, rng: (healthy(), non_finite(), None, None)[s.seed]))
    assert opening.origin.startswith("started 2027-01-15 · 16 cells · 16 trajectories")
    partial, non_finite_cells = opening.warnings
    assert "8 of 16 planned cells are complete, 0 failed, 0 started and have not ended, 8 are missing" in partial
    assert non_finite_cells == "4 complete cells ended with a non-finite loss."
