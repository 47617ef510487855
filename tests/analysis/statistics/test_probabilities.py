"""Scores and calibration of predictions agree with scikit-learn, and with what was planted."""

import math

import numpy as np
import pytest
from sklearn.calibration import calibration_curve
from sklearn.metrics import accuracy_score, brier_score_loss, log_loss

from analysis.statistics import probabilities
from analysis.statistics.probabilities import example_weights
from study.scoring import Predictions


def gaussian(examples: int, *, signal: float = 1.3, scale: float = 1.0, seed: int = 0) -> Predictions:
    """Two classes whose log-odds are calibrated by construction, and then scaled."""
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


def test_scores_agree_with_scikit_learn() -> None:
    predictions = gaussian(2_000)
    scores = probabilities.score_examples(predictions)
    p = np.exp(probabilities.log_probabilities(predictions.logits))
    assert float(scores.nll.mean()) == pytest.approx(log_loss(predictions.label, p))
    assert float(scores.brier.mean()) == pytest.approx(2 * brier_score_loss(predictions.label, p[:, 1]))
    assert float(scores.correct.mean()) == accuracy_score(predictions.label, p.argmax(axis=1))


def test_scores_of_several_classes_agree_with_scikit_learn() -> None:
    predictions = several_classes()
    p = np.exp(probabilities.log_probabilities(predictions.logits))
    scores = probabilities.score_examples(predictions)
    assert float(scores.nll.mean()) == pytest.approx(log_loss(predictions.label, p))
    assert float(scores.brier.mean()) == pytest.approx(((p - np.eye(4)[predictions.label]) ** 2).sum(axis=1).mean())


@pytest.mark.parametrize("scale", [0.5, 1.0, 3.0])
def test_the_temperature_undoes_the_scale(scale: float) -> None:
    assert probabilities.fit_temperature(gaussian(50_000, scale=scale)) == pytest.approx(scale, rel=0.05)


def test_the_temperature_of_several_classes_is_the_best_one() -> None:
    predictions = several_classes()
    temperature = probabilities.fit_temperature(predictions)
    least = float(probabilities.score_examples(predictions, temperature).nll.mean())
    for other in (0.95 * temperature, 1.05 * temperature):
        assert least < float(probabilities.score_examples(predictions, other).nll.mean())


def test_the_calibration_error_agrees_with_scikit_learns_bins() -> None:
    scores = probabilities.score_examples(gaussian(3_000, scale=2.0))
    accuracy, confidence = calibration_curve(scores.correct, scores.confidence, n_bins=15, strategy="quantile")
    theirs = float(np.mean(abs(accuracy - confidence)))
    assert probabilities.calibration_error(scores.confidence, scores.correct) == pytest.approx(theirs, abs=1e-3)


def test_the_interval_of_the_calibration_error_separates_calibrated_from_over_confident_models() -> None:
    rng = np.random.default_rng(0)
    weights = example_weights(4_000, rng, 200)
    good = [probabilities.score_examples(gaussian(4_000, seed=seed)) for seed in range(3)]
    bad = [probabilities.score_examples(gaussian(4_000, scale=3.0, seed=seed)) for seed in range(3)]
    error = probabilities.calibration_error_interval(good, weights, rng)
    assert error.low <= error.value <= error.high < 0.01
    error = probabilities.calibration_error_interval(bad, weights, rng)
    assert 0.03 < error.low <= error.value <= error.high
    assert error.seeds == 3


def test_a_resample_with_every_example_once_has_the_error_of_the_sample() -> None:
    scores = probabilities.score_examples(gaussian(1_500, scale=2.0))
    once = np.full((1, 1_500), 1 / 1_500)
    error = probabilities.calibration_error_interval([scores], once, np.random.default_rng(0))
    own = probabilities.calibration_error(scores.confidence, scores.correct)
    assert (error.value, error.low, error.high) == pytest.approx((own, own, own))


def test_reliability_bins_contain_every_example_once() -> None:
    scores = probabilities.score_examples(gaussian(1_001))
    bins = probabilities.reliability(scores.confidence, scores.correct)
    assert sum(part.examples for part in bins) == 1_001
    assert sum(part.correct for part in bins) == int(scores.correct.sum())
    assert [part.confidence for part in bins] == sorted(part.confidence for part in bins)


def test_fewer_examples_than_bins_have_a_bin_each() -> None:
    scores = probabilities.score_examples(gaussian(4))
    assert len(probabilities.reliability(scores.confidence, scores.correct)) == 4
    assert math.isfinite(probabilities.calibration_error(scores.confidence, scores.correct))
