"""Predictions of a study's checkpoints, read when they are needed and then kept, and the scores of their examples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from analysis.statistics.probabilities import ExampleScores, score_examples
from study.plan.cell_results import CellResult
from study.records import Split
from study.scoring import Predictions
from study.storage import StudyFolder, read_predictions

# Parquet files are many and small: reading them waits more than it computes.
READERS = 4

PredictionsKey = tuple[str, int, Split]


class PredictionStore:
    """The predictions in a study's ``folder``; ``loaded`` holds those that need not be read.

    They are in the order of the example ids, so that the same place is the same example in all of a study's
    predictions. None stands for a checkpoint that was never the best so far and has no predictions.
    """

    def __init__(self, folder: StudyFolder, loaded: Mapping[PredictionsKey, Predictions | None] | None = None) -> None:
        self._folder = folder
        self._loaded = dict(loaded or {})
        self._scores: dict[PredictionsKey, ExampleScores | None] = {}

    def of_epoch(self, trajectory: str, epoch: int, split: Split) -> Predictions | None:
        """The predictions of a trajectory's checkpoint after ``epoch``."""
        key = (trajectory, epoch, split)
        if key not in self._loaded:
            self._loaded[key] = _sorted(self._folder.trajectory(trajectory).predictions(epoch, split))
        return self._loaded[key]

    def of_cell(self, result: CellResult, split: Split) -> Predictions | None:
        """The predictions of a cell's selected checkpoint."""
        return self.of_epoch(result.cell.trajectory, result.chosen.epoch, split) if result.chosen else None

    def scores(self, result: CellResult, split: Split) -> ExampleScores | None:
        """Each example's scores by a cell's selected checkpoint; None without one, or where a logit is not finite."""
        if result.chosen is None:
            return None
        key = (result.cell.trajectory, result.chosen.epoch, split)
        if key not in self._scores:
            predictions = self.of_epoch(*key)
            usable = predictions is not None and predictions.finite
            self._scores[key] = score_examples(predictions) if predictions is not None and usable else None
        return self._scores[key]

    def preload(self, results: Sequence[CellResult], splits: Sequence[Split] = ("validation", "test")) -> None:
        """Read the predictions of these cells' selected checkpoints, several at a time."""
        paths: dict[PredictionsKey, Path] = {}
        for result in results:
            if result.chosen is not None:
                folder = self._folder.trajectory(result.cell.trajectory)
                for split in splits:
                    key = (result.cell.trajectory, result.chosen.epoch, split)
                    if key not in self._loaded:
                        paths[key] = folder.predictions_path(result.chosen.epoch, split)
        with ThreadPoolExecutor(READERS) as readers:
            for key, predictions in zip(paths, readers.map(read_predictions, paths.values()), strict=True):
                self._loaded[key] = _sorted(predictions)


def _sorted(predictions: Predictions | None) -> Predictions | None:
    """The predictions in the order of their example ids."""
    if predictions is None or bool((np.diff(predictions.example_id) > 0).all()):
        return predictions
    order = np.argsort(predictions.example_id, kind="stable")
    return Predictions(
        example_id=predictions.example_id[order], label=predictions.label[order], logits=predictions.logits[order]
    )
