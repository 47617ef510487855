"""Scores and calibration of predictions agree with scikit-learn, and with what was planted."""

import math

import numpy as np
import pytest
from sklearn.calibration import calibration_curve
from sklearn.metrics import accuracy_score, brier_score_loss, log_loss

from analysis.statistics import probabilities
from analysis.statistics.multibootstrap import example_weights
from study.records import Predictions


def gaussian(examples: int, *, signal: float = 1.3, scale: float = 1.0, seed: int = 0) -> Predictions:
    """Two classes whose log-odds are right by construction, and then scaled."""
    rng = np.random.default_rng(seed)
    label = rng.integers(0, 2, examples)
    odds = scale * 2 * signal * ((2 * label - 1) * signal + rng.normal(size=examples))
    logits = np.stack([-odds / 2, odds / 2], axis=1).astype(np.float32)
    return Predictions(example_id=np.arange(examples), label=label, logits=logits)


def several_classes(examples: int = 2_000) -> Predictions:
    rng = np.random.default_rng(1)
    label = rng.integers(0, 4, examples)
    logits = rng.normal(size=(examples, 4))
    logits[np.arange(examples), label] += 1.5
    return Predictions(example_id=np.arange(examples), label=label, logits=logits.astype(np.float32))


def test_scores_are_those_of_scikit_learn() -> None:
    predictions = gaussian(2_000)
    found = probabilities.score(predictions)
    p = np.exp(probabilities.log_probabilities(predictions.logits))
    assert float(found.nll.mean()) == pytest.approx(log_loss(predictions.label, p))
    assert float(found.brier.mean()) == pytest.approx(2 * brier_score_loss(predictions.label, p[:, 1]))
    assert float(found.right.mean()) == accuracy_score(predictions.label, p.argmax(axis=1))


def test_scores_of_several_classes_are_those_of_scikit_learn() -> None:
    predictions = several_classes()
    p = np.exp(probabilities.log_probabilities(predictions.logits))
    found = probabilities.score(predictions)
    assert float(found.nll.mean()) == pytest.approx(log_loss(predictions.label, p))
    assert float(found.brier.mean()) == pytest.approx(((p - np.eye(4)[predictions.label]) ** 2).sum(axis=1).mean())


@pytest.mark.parametrize("scale", [0.5, 1.0, 3.0])
def test_the_temperature_undoes_the_scale(scale: float) -> None:
    assert probabilities.fit_temperature(gaussian(50_000, scale=scale)) == pytest.approx(scale, rel=0.05)


def test_the_temperature_of_several_classes_is_the_best_one() -> None:
    predictions = several_classes()
    found = probabilities.fit_temperature(predictions)
    least = float(probabilities.score(predictions, found).nll.mean())
    for other in (0.95 * found, 1.05 * found):
        assert least < float(probabilities.score(predictions, other).nll.mean())


def test_the_calibration_error_is_that_of_scikit_learns_bins() -> None:
    found = probabilities.score(gaussian(3_000, scale=2.0))
    accuracy, confidence = calibration_curve(found.right, found.confidence, n_bins=15, strategy="quantile")
    theirs = float(np.mean(abs(accuracy - confidence)))
    assert probabilities.calibration_error(found.confidence, found.right) == pytest.approx(theirs, abs=1e-3)


def test_the_interval_of_the_calibration_error_knows_a_calibrated_model_from_one_that_is_not() -> None:
    rng = np.random.default_rng(0)
    weights = example_weights(4_000, rng, 200)
    good = [probabilities.score(gaussian(4_000, seed=seed)) for seed in range(3)]
    bad = [probabilities.score(gaussian(4_000, scale=3.0, seed=seed)) for seed in range(3)]
    value, low, high = probabilities.calibration_error_interval(good, weights, rng)
    assert low <= value <= high < 0.01
    value, low, high = probabilities.calibration_error_interval(bad, weights, rng)
    assert 0.03 < low <= value <= high


def test_a_resample_in_which_all_are_once_has_the_samples_own_error() -> None:
    found = probabilities.score(gaussian(1_500, scale=2.0))
    once = np.full((1, 1_500), 1 / 1_500)
    value, low, high = probabilities.calibration_error_interval([found], once, np.random.default_rng(0))
    own = probabilities.calibration_error(found.confidence, found.right)
    assert (value, low, high) == pytest.approx((own, own, own))


def test_reliability_bins_hold_every_example_once() -> None:
    found = probabilities.score(gaussian(1_001))
    bins = probabilities.reliability(found.confidence, found.right)
    assert sum(one.examples for one in bins) == 1_001
    assert sum(one.right for one in bins) == int(found.right.sum())
    assert [one.confidence for one in bins] == sorted(one.confidence for one in bins)


def test_fewer_examples_than_bins_are_a_bin_each() -> None:
    found = probabilities.score(gaussian(4))
    assert len(probabilities.reliability(found.confidence, found.right)) == 4
    assert math.isfinite(probabilities.calibration_error(found.confidence, found.right))
