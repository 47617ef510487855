"""Learning curves name their runs, and show a run of a single epoch as a point."""

from pathlib import Path

import numpy as np
from synthetic_spaces import GRID, SMALL, results_of
from synthetic_study import Story, collapsing, healthy

from analysis.answer import Figure, Panel
from analysis.evidence.learning_curves import learning_curves
from study.settings import Settings

ONE_SEED = SMALL.replace("[0, 1, 2, 3]", "[0]").replace("10000", "1000")


def curves(folder: Path, text: str, *, epochs: int = 4, story: Story | None = None) -> Figure:
    def story_of(settings: Settings, rng: np.random.Generator) -> Story:
        return story if story is not None and settings.learning_rate == 1e-3 else healthy(epochs=epochs)

    results = results_of(folder, story_of, text)
    (figure,) = learning_curves(results, list(results.diagnoses.values()))
    return figure


def panels(figure: Figure) -> list[Panel]:
    return [panel for panel in figure.panels if isinstance(panel, Panel)]


def test_a_few_runs_are_named_in_the_panel_by_what_distinguishes_them_there(tmp_path: Path) -> None:
    figure = curves(tmp_path, ONE_SEED)
    assert [panel.title for panel in panels(figure)] == ["tiny-bert", "tiny-roberta"] * 2
    for panel in panels(figure):
        assert panel.label_lines
        assert [line.name for line in panel.lines] == ["lr 0.0005", "lr 0.001"]


def test_many_runs_have_names_to_point_at_and_no_labels(tmp_path: Path) -> None:
    for panel in panels(curves(tmp_path, GRID.replace("10000", "1000"))):
        assert not panel.label_lines
        assert len({line.name for line in panel.lines}) == len(panel.lines) == 16
        assert "lr 0.001 · seed 3" in {line.name for line in panel.lines}


def test_a_single_run_needs_no_label(tmp_path: Path) -> None:
    for panel in panels(curves(tmp_path, ONE_SEED.replace("[5.0e-4, 1.0e-3]", "[5.0e-4]"))):
        assert not panel.label_lines


def test_a_run_of_one_epoch_is_a_point_on_an_axis_from_zero(tmp_path: Path) -> None:
    text = ONE_SEED.replace("epochs: 4", "epochs: 1")
    for panel in panels(curves(tmp_path, text, epochs=1)):
        for line in panel.lines:
            assert line.dots or len(line.x) > 1
        assert panel.x_range is not None
        assert panel.x_range[0] == 0
        assert panel.x_range[1] >= 800


def test_a_cross_is_explained_where_there_is_one(tmp_path: Path) -> None:
    assert curves(tmp_path, ONE_SEED).mark == ""
    assert "cross" not in curves(tmp_path, ONE_SEED).caption
    figure = curves(tmp_path, ONE_SEED, story=collapsing())
    assert figure.mark == "onset of a collapse"
    assert "A cross marks the onset" in figure.caption
    assert sum(len(line.marks) for panel in panels(figure) for line in panel.lines) == 4
