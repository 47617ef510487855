"""Scores of a checkpoint: compared with the library's own model, scikit-learn and sums by hand."""

import math
from typing import Any

import hypothesis
import numpy as np
import numpy.typing as npt
import pytest
import torch
import transformers
from hypothesis import given
from hypothesis import strategies as st
from loop_builder import CPU, FAMILIES, LENGTH, make_data, make_loop, make_settings
from sklearn.metrics import accuracy_score, log_loss

from study.models.classifier import Classifier
from study.scoring import Predictions
from study.training import evaluation
from study.training.evaluation import Evaluation, evaluate, summarize


def numbers_of(evaluation: Evaluation) -> dict[str, float]:
    """All numbers of an evaluation by name."""
    names = ("majority_share", "entropy", "confidence", "logit_std")
    return {**evaluation.scores, **{name: getattr(evaluation, name) for name in names}}


def make_predictions(logits: Any, labels: Any) -> Predictions:
    array = np.array(logits, dtype=np.float32)
    return Predictions(example_id=np.arange(len(array)), label=np.array(labels), logits=array)


def make_varied_model(family: str, *, seed: int = 0, dropout: float = 0.0) -> Classifier:
    """A model whose logits differ widely between texts."""
    loop = make_loop(make_data(family, train=8), make_settings(model=family, seed=seed, dropout=dropout))
    with torch.no_grad():
        for parameter in loop.model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.2)
    return loop.model


@given(
    n=st.integers(1, 40), classes=st.integers(2, 4), scale=st.sampled_from([1e-3, 1.0, 3.0]), seed=st.integers(0, 999)
)
@hypothesis.settings(max_examples=50, deadline=None)
def test_scores_are_those_of_scikit_learn(n: int, classes: int, scale: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, n)
    got = summarize(make_predictions(scale * rng.normal(size=(n, classes)), labels))
    logits = got.predictions.logits.astype(np.float64)
    p = np.exp(logits - logits.max(axis=1, keepdims=True))
    p /= p.sum(axis=1, keepdims=True)
    assert got.scores["loss"] == pytest.approx(log_loss(labels, p, labels=range(classes)), rel=1e-9, abs=1e-12)
    assert got.scores["accuracy"] == accuracy_score(labels, logits.argmax(axis=1))


def test_the_loss_of_a_confident_error_is_its_whole_margin() -> None:
    loss = summarize(make_predictions([[0, 5_000], [0, 0]], [0, 0])).scores["loss"]
    assert loss == pytest.approx((5_000 + math.log(2)) / 2)


def test_the_statistics_of_predictions_are_those_computed_by_hand() -> None:
    """Probabilities 3/4 and 1/4, twice 1/2 and 1/2, 1/4 and 3/4; a tie predicts the first class."""
    logits = [[math.log(3), 0], [2, 2], [0, 0], [0, math.log(3)]]
    got = summarize(make_predictions(logits, [0, 1, 1, 1]))
    quarter = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25))
    assert got.scores["loss"] == pytest.approx((-2 * math.log(0.75) + 2 * math.log(2)) / 4)
    assert got.scores["accuracy"] == 0.5
    assert got.majority_share == 0.75
    assert got.entropy == pytest.approx((2 * quarter + 2 * math.log(2)) / 4)
    assert got.confidence == pytest.approx((2 * 0.75 + 2 * 0.5) / 4)
    columns = np.array(logits).T
    assert got.logit_std == pytest.approx(sum(math.sqrt(np.mean((c - c.mean()) ** 2)) for c in columns) / 2)


def test_a_model_that_always_predicts_the_same_has_a_majority_share_of_1() -> None:
    got = summarize(make_predictions([[0.3, -0.2]] * 10, [0, 1] * 5))
    assert got.majority_share == 1.0
    assert got.logit_std == pytest.approx(0.0, abs=1e-7)
    assert got.scores["accuracy"] == 0.5
    assert got.entropy == pytest.approx(math.log(2), abs=0.04)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_single_non_finite_logit_makes_every_number_nan(bad: float) -> None:
    got = summarize(make_predictions([[0, 1], [bad, 0], [1, 0]], [0, 0, 1]))
    numbers = numbers_of(got)
    assert numbers.keys() >= {"loss", "accuracy"}
    assert all(math.isnan(number) for number in numbers.values())
    assert np.array_equal(got.predictions.logits[1], np.array([bad, 0], dtype=np.float32), equal_nan=True)


def test_a_million_losses_are_summed_in_double_precision() -> None:
    """A sum in float32 would be off in the seventh digit."""
    n = 1_000_000
    got = summarize(
        make_predictions(np.tile(np.array([[0.1, 0.0]], dtype=np.float32), (n, 1)), np.zeros(n, dtype=np.int64))
    )
    assert got.scores["loss"] == pytest.approx(math.log1p(math.exp(-float(np.float32(0.1)))), rel=1e-12)


@pytest.mark.parametrize("family", FAMILIES)
def test_predictions_are_those_of_the_library_one_text_at_a_time_in_the_order_of_the_split(family: str) -> None:
    classifier = make_varied_model(family)
    split = make_data(family, train=8, evaluated=70).validation
    got = evaluate(classifier, split, device=CPU, precision="float32").predictions
    automatic: Any = transformers.AutoModelForSequenceClassification
    library = automatic.from_config(classifier.model.config).eval()
    library.load_state_dict(classifier.model.state_dict())
    with torch.no_grad():
        texts = zip(split.input_ids, split.lengths, strict=True)
        alone = torch.cat([library(input_ids=torch.from_numpy(ids[:length])[None]).logits for ids, length in texts])
    assert np.allclose(got.logits, alone.numpy(), rtol=1e-4, atol=1e-5)
    assert np.array_equal(got.example_id, split.ids)
    assert np.array_equal(got.label, split.labels)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("size", [1, 7, 69, 70, 1_000])
def test_the_batch_size_of_an_evaluation_changes_no_score(
    monkeypatch: pytest.MonkeyPatch, family: str, size: int
) -> None:
    classifier, split = make_varied_model(family), make_data(family, train=8, evaluated=70).validation
    expected = evaluate(classifier, split, device=CPU, precision="float32")
    monkeypatch.setattr(evaluation, "EVALUATION_BATCH", {"cpu": size})
    rows: list[int] = []
    classifier.register_forward_pre_hook(lambda _, arguments: rows.append(len(arguments[0])))
    got = evaluate(classifier, split, device=CPU, precision="float32")
    assert sum(rows) == 70
    assert max(rows) == min(size, 70)
    assert np.allclose(got.predictions.logits, expected.predictions.logits, rtol=1e-4, atol=1e-5)
    assert numbers_of(got) == pytest.approx(numbers_of(expected), rel=1e-5)


def test_a_batch_of_an_evaluation_that_does_not_fit_is_halved() -> None:
    classifier, split = make_varied_model("tiny-bert"), make_data("tiny-bert", train=8, evaluated=70).validation
    expected = evaluate(classifier, split, device=CPU, precision="float32")
    room, rows = [10], list[int]()

    def refuse(_: torch.nn.Module, arguments: tuple[Any, ...]) -> None:
        if len(arguments[0]) > room[0]:
            raise RuntimeError("CUDA error: out of memory")
        rows.append(len(arguments[0]))

    classifier.register_forward_pre_hook(refuse)
    got = evaluate(classifier, split, device=CPU, precision="float32")
    assert rows == [8] * 8 + [6]  # of 64
    assert np.allclose(got.predictions.logits, expected.predictions.logits, rtol=1e-4, atol=1e-5)
    assert np.array_equal(got.predictions.example_id, split.ids)
    room[0] = 0
    with pytest.raises(RuntimeError, match="out of memory"):
        evaluate(classifier, split, device=CPU, precision="float32")


@pytest.mark.parametrize("size", [1, 3, 20])
def test_evaluation_depends_neither_on_the_micro_batch_nor_on_random_numbers(size: int) -> None:
    """It leaves the random generators in the state that it finds."""
    data = make_data("tiny-bert", train=20)
    loop = make_loop(data, make_settings(batch_size=20, micro_batch_size=size, dropout=0.1))
    before = torch.get_rng_state()
    got = evaluate(loop.model, data.validation, device=CPU, precision="float32")
    assert torch.equal(torch.get_rng_state(), before)
    whole_batch = make_loop(data, make_settings(batch_size=20, dropout=0.1)).model
    expected = evaluate(whole_batch, data.validation, device=CPU, precision="float32")
    assert np.array_equal(got.predictions.logits, expected.predictions.logits)


@pytest.mark.parametrize("training", [True, False])
def test_dropout_is_off_during_an_evaluation_and_the_mode_is_restored(training: bool) -> None:
    classifier, split = make_varied_model("tiny-bert", dropout=0.5), make_data("tiny-bert", train=8).validation
    classifier.train(training)
    first, second = (evaluate(classifier, split, device=CPU, precision="float32") for _ in range(2))
    assert np.array_equal(first.predictions.logits, second.predictions.logits)
    assert classifier.training is training
    assert classifier.model.base_model.training is training


def test_texts_of_like_length_share_a_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluation, "EVALUATION_BATCH", {"cpu": 10})
    classifier, split = make_varied_model("tiny-bert"), make_data("tiny-bert", train=8, evaluated=70).validation
    widths: list[int] = []
    classifier.register_forward_pre_hook(lambda _, arguments: widths.append(arguments[0].shape[1]))
    evaluate(classifier, split, device=CPU, precision="float32")
    assert widths == sorted(int(length) for length in np.sort(split.lengths)[9::10])
    assert widths[0] < LENGTH


def test_bfloat16_is_close_to_float32_and_gives_float32_logits() -> None:
    classifier, split = make_varied_model("tiny-bert"), make_data("tiny-bert", train=8, evaluated=70).validation
    exact = evaluate(classifier, split, device=CPU, precision="float32")
    rough = evaluate(classifier, split, device=CPU, precision="bfloat16")
    logits: npt.NDArray[np.float32] = rough.predictions.logits
    assert logits.dtype == np.float32
    assert not np.array_equal(logits, exact.predictions.logits)
    assert rough.scores["loss"] == pytest.approx(exact.scores["loss"], rel=0.05)
