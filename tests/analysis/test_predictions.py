"""Predictions are read when needed or ahead, with the same result, and in the order of their examples."""

from dataclasses import replace
from pathlib import Path

import numpy as np
from synthetic_spaces import SMALL
from synthetic_study import Story, healthy, make_synthetic, non_finite, plan_of

from analysis.predictions import PredictionStore
from analysis.results import read
from study.scoring import Predictions
from study.settings import Settings
from study.storage import StudyFolder


def story(settings: Settings, rng: np.random.Generator) -> Story | None:
    return (healthy(), non_finite(), None, healthy())[settings.seed]


def test_predictions_read_ahead_are_those_read_one_by_one(tmp_path: Path) -> None:
    space, plan = plan_of(tmp_path, SMALL)
    path = make_synthetic(space, plan, story).write(tmp_path / "studies").path
    ahead, single = read(path), read(path)
    ahead.predictions.preload(ahead.cells)
    for result in ahead.cells:
        if result.state == "complete":
            for split in ("validation", "test"):
                first, second = (store.scores(result, split) for store in (ahead.predictions, single.predictions))
                assert first is not None
                assert second is not None
                assert (first.nll == second.nll).all()


def test_cells_without_a_checkpoint_have_no_predictions(tmp_path: Path) -> None:
    space, plan = plan_of(tmp_path, SMALL)
    results = make_synthetic(space, plan, lambda settings, rng: None).results()
    assert {results.predictions.of_cell(result, "test") for result in results.cells} == {None}
    assert {results.predictions.scores(result, "test") for result in results.cells} == {None}


def test_predictions_with_a_logit_that_is_not_finite_have_no_scores(tmp_path: Path) -> None:
    space, plan = plan_of(tmp_path, SMALL)
    study = make_synthetic(space, plan, lambda settings, rng: healthy())
    broken = {
        key: replace(predictions, logits=np.full_like(predictions.logits, np.inf))
        for key, predictions in study.predictions.items()
    }
    results = replace(study, predictions=broken).results()
    assert {results.predictions.scores(result, "test") for result in results.cells} == {None}


def test_predictions_are_in_the_order_of_the_example_ids(tmp_path: Path) -> None:
    folder = StudyFolder(tmp_path)
    written = Predictions(
        example_id=np.array([7, 3, 5]),
        label=np.array([1, 0, 1]),
        logits=np.array([[0.0, 7.0], [3.0, 0.0], [0.0, 5.0]], dtype=np.float32),
    )
    trajectory = folder.trajectory("abc")
    trajectory.path.mkdir(parents=True)
    trajectory.write_predictions(1, "test", written)
    predictions = PredictionStore(folder).of_epoch("abc", 1, "test")
    assert predictions is not None
    assert predictions.example_id.tolist() == [3, 5, 7]
    assert predictions.label.tolist() == [0, 1, 1]
    assert predictions.logits.max(axis=1).tolist() == [3.0, 5.0, 7.0]
