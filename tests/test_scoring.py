"""Metrics against scikit-learn's, and that one more metric in the mapping is enough."""

import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from loop_builder import make_data, make_loop
from loop_builder import make_settings as make_loop_settings
from pydantic import ValidationError
from sklearn.metrics import accuracy_score, log_loss
from space_files import SEARCH, write_space
from study_builder import make_settings

from study.scoring import ACCURACY, LOSS, METRICS, Metric, Predictions, score
from study.settings import Search
from study.space.reader import read
from study.stopping import StoppingPolicy, best_epoch, decide
from study.training.evaluation import summarize
from study.training.loop import EpochEnd

SKLEARN = {
    "loss": lambda label, p: log_loss(label, p, labels=range(p.shape[1])),
    "accuracy": lambda label, p: accuracy_score(label, p.argmax(axis=1)),
}


def random_predictions(seed: int, examples: int, classes: int, scale: float) -> Predictions:
    rng = np.random.default_rng(seed)
    return Predictions(
        example_id=rng.permutation(examples),
        label=rng.integers(0, classes, examples),
        logits=(scale * rng.normal(size=(examples, classes))).astype(np.float32),
    )


predictions_strategy = st.builds(
    random_predictions, st.integers(0, 2**32), st.integers(1, 300), st.integers(2, 6), st.sampled_from([0.01, 1, 3])
)


@pytest.mark.parametrize("name", METRICS)
@given(predictions=predictions_strategy)
def test_a_metric_is_scikit_learns(name: str, predictions: Predictions) -> None:
    """For logits within 30 of one another: beyond, scikit-learn replaces probabilities of 0 by the smallest number."""
    logits = predictions.logits.astype(np.float64)
    p = np.exp(logits - logits.max(axis=1, keepdims=True))
    expected = SKLEARN[name](predictions.label, p / p.sum(axis=1, keepdims=True))
    assert METRICS[name].compute(predictions) == pytest.approx(expected, rel=1e-9, abs=1e-12)
    assert score(predictions)[name] == METRICS[name].compute(predictions)


def test_the_loss_of_a_confident_mistake_is_not_capped() -> None:
    """Where a probability is 0 in float64 the loss is still the difference of the logits."""
    predictions = Predictions(
        example_id=np.arange(2), label=np.array([1, 0]), logits=np.array([[2_000, 0], [2_000, 0]], dtype=np.float32)
    )
    assert score(predictions) == {"loss": 1_000.0, "accuracy": 0.5}


@pytest.mark.parametrize("broken", [math.nan, math.inf, -math.inf])
def test_a_logit_that_is_not_finite_leaves_no_score(broken: float) -> None:
    predictions = random_predictions(0, examples=20, classes=2, scale=1)
    finite_before = predictions.finite
    predictions.logits[7, 1] = broken
    assert (finite_before, predictions.finite) == (True, False)
    scores = score(predictions)
    assert scores.keys() == METRICS.keys()
    assert all(math.isnan(value) for value in scores.values())


@pytest.mark.parametrize(
    ("metric", "value", "gain", "finite"),
    [
        (LOSS, 0.3, -0.3, 0.3),
        (ACCURACY, 0.3, 0.3, 0.3),
        (LOSS, math.nan, -math.inf, 100.0),
        (LOSS, math.inf, -math.inf, 100.0),
        (LOSS, -math.inf, -math.inf, 100.0),
        (ACCURACY, math.nan, -math.inf, 0.0),
        (ACCURACY, math.inf, -math.inf, 0.0),
        (LOSS, None, -math.inf, 100.0),
        (ACCURACY, None, -math.inf, 0.0),
    ],
)
def test_a_missing_score_and_one_that_is_not_finite_are_the_worst(
    metric: Metric, value: float | None, gain: float, finite: float
) -> None:
    scores = {} if value is None else {metric.name: value}
    assert metric.gain(scores) == gain
    assert metric.finite(scores) == finite
    assert metric.finite(None) == metric.worst


@pytest.mark.parametrize("metric", METRICS.values(), ids=lambda metric: metric.name)
def test_more_gain_is_better_in_the_metrics_direction(metric: Metric) -> None:
    assert (metric.signed(0.6) > metric.signed(0.5)) == metric.higher_is_better
    assert metric.best_word == ("highest" if metric.higher_is_better else "lowest")
    assert metric.signed(metric.worst) < metric.signed(0.5)
    assert math.isnan(metric.signed(math.nan))


def brier(predictions: Predictions) -> float:
    """The Brier score (Brier 1950) of class 1."""
    odds = predictions.logits[:, 1].astype(np.float64) - predictions.logits[:, 0]
    return float(((1 / (1 + np.exp(-odds)) - predictions.label) ** 2).mean())


def recall(predictions: Predictions) -> float:
    """The share of the examples of class 1 that are predicted so."""
    return float((predictions.logits.argmax(axis=1) == 1)[predictions.label == 1].mean())


NEW = {
    "brier": Metric(name="brier", higher_is_better=False, worst=1.0, unit="share", compute=brier),
    "recall": Metric(name="recall", higher_is_better=True, worst=0.0, unit="share", compute=recall),
}


@pytest.fixture(params=NEW)
def new(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Metric:
    """One more metric, put into the mapping and nowhere else."""
    metric = NEW[request.param]
    with pytest.raises(ValidationError, match=f"expected loss or accuracy, got '{metric.name}'"):
        make_settings(checkpoint_metric=metric.name)
    assert isinstance(METRICS, dict)
    monkeypatch.setitem(METRICS, metric.name, metric)
    return metric


def test_settings_and_spaces_accept_a_new_metric(tmp_path: Path, new: Metric) -> None:
    settings = make_settings(checkpoint_metric=new.name, early_stopping={"patience": 2, "metric": new.name})
    policy = settings.policy(4)
    assert (policy.checkpoint_metric, policy.metric) == (new.name, new.name)
    assert Search(method="random", trials=3, objective=new.name).objective == new.name
    options = [
        f"checkpoint_metric={new.name}",
        f"early_stopping={{metric: {new.name}}}",
        f"search.objective={new.name}",
    ]
    space = read(write_space(tmp_path, SEARCH), set=options)
    assert {cell.checkpoint_metric for cell in space.cells()} == {new.name}
    assert space.search.objective == new.name


def history(name: str) -> list[Mapping[str, float]]:
    """Four epochs in which the first has the lowest score by ``name`` and the second the highest."""
    return [{"loss": 0.5, "accuracy": 0.5, name: value} for value in (0.2, 0.7, 0.3, 0.4)]


def test_stopping_and_selection_use_the_direction_of_a_new_metric(new: Metric) -> None:
    scores = history(new.name)
    assert best_epoch(scores, new.name) == (2 if new.higher_is_better else 1)
    decision = decide(scores, StoppingPolicy(max_epochs=4, patience=2, metric=new.name, checkpoint_metric=new.name))
    assert decision.stop_epoch == (4 if new.higher_is_better else 3)
    assert decision.best_epoch == (2 if new.higher_is_better else 1)
    assert best_epoch([{"loss": 0.5, "accuracy": 0.5}], new.name) == 0


def test_an_evaluation_has_the_score_of_a_new_metric(new: Metric) -> None:
    predictions = random_predictions(0, examples=50, classes=2, scale=1)
    scores = summarize(predictions).scores
    assert scores.keys() == {"loss", "accuracy", new.name}
    assert scores[new.name] == new.compute(predictions)
    predictions.logits[0] = np.nan
    assert math.isnan(summarize(predictions).scores[new.name])


def test_the_loop_records_a_new_metric_on_validation_and_test(new: Metric) -> None:
    loop = make_loop(make_data("tiny-bert", train=32), make_loop_settings(checkpoint_metric=new.name))
    epochs = [item.record for item in loop.run() if isinstance(item, EpochEnd)]
    assert len(epochs) == 2
    assert all(epoch.validation.keys() == {"loss", "accuracy", new.name} for epoch in epochs)
    best = epochs[best_epoch(loop.validation, new.name) - 1]
    assert best.test is not None
    assert math.isfinite(best.test[new.name])
