"""Epochs are compared with chance, whatever the classes' shares, and with one another, beyond their error."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from study_builder import make_epoch
from synthetic_training import State, SyntheticSplit, measure

from analysis.epoch_tests import ERRORS_OF_CHANGE, EpochTests
from analysis.predictions import PredictionsKey, PredictionStore
from analysis.trajectory_results import Chance
from study.records import Epoch
from study.scoring import METRICS, Predictions
from study.storage import StudyFolder

RUN = "run"


class Validation:
    """One run's epochs on a validation split, and the tests of them."""

    def __init__(self, examples: int, *states: State, positive: float = 0.5, seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        split = SyntheticSplit(examples, rng, positive)
        noise = rng.normal(size=examples)
        predictions = [split.predict(state, noise, rng.normal(size=examples)) for state in states]
        self.epochs = [epoch_of(number, predicted) for number, predicted in enumerate(predictions, start=1)]
        loaded: dict[PredictionsKey, Predictions | None] = {
            (RUN, number, "validation"): predicted for number, predicted in enumerate(predictions, start=1)
        }
        self.tests = EpochTests(
            chance=Chance.of(predictions[0]), predictions=PredictionStore(StudyFolder(Path("nowhere")), loaded)
        )

    @property
    def unpaired(self) -> EpochTests:
        """The tests of an older study, which kept no predictions of these epochs."""
        missing: dict[PredictionsKey, Predictions | None] = {(RUN, e.epoch, "validation"): None for e in self.epochs}
        return replace(self.tests, predictions=PredictionStore(StudyFolder(Path("nowhere")), missing))


def epoch_of(number: int, predictions: Predictions) -> Epoch:
    scores = measure(predictions)
    return make_epoch(
        number,
        validation={name: scores[name] for name in METRICS},
        majority_share=scores["majority_share"],
        logit_std=scores["logit_std"],
    )


@pytest.mark.parametrize("positive", [0.5, 0.9])
def test_chance_is_that_of_the_prior(positive: float) -> None:
    """One class for all of 90 to 10: accuracy .9, loss .325; that is no better than chance, and separates nothing."""
    one_class = Validation(1_000, State(accuracy=None), positive=positive)
    (epoch,) = one_class.epochs
    assert one_class.tests.chance.accuracy == positive
    assert one_class.tests.chance.loss == pytest.approx(-sum(p * math.log(p) for p in (positive, 1 - positive)))
    assert not one_class.tests.better_than_chance(RUN, epoch)
    assert one_class.tests.separates_nothing(epoch, 0.1)


def test_few_points_above_the_prior_are_learned_where_the_loss_shows_it() -> None:
    """90 to 10 and 94.5 % correct: a review of this project found such runs called "never learned"."""
    learned = Validation(1_000, State(accuracy=0.945), positive=0.9)
    (epoch,) = learned.epochs
    assert learned.tests.better_than_chance(RUN, epoch)
    assert not learned.tests.separates_nothing(epoch, 0.17)
    assert not learned.tests.worse_than_chance(RUN, epoch)


@pytest.mark.parametrize(("accuracy", "better"), [(0.55, False), (0.75, True)])
def test_sixty_examples_show_only_what_is_far_above_chance(accuracy: float, better: bool) -> None:
    """The accuracy has to be 19 points above one half, but a calibrated loss may show it earlier."""
    small = Validation(60, State(accuracy=accuracy))
    assert small.tests.better_than_chance(RUN, small.epochs[0]) == better


def test_models_that_know_nothing_are_seldom_better_than_chance() -> None:
    """Random answers with a logit spread: three standard errors of accuracy or loss, one-sided."""
    found = 0
    for seed in range(400):
        nothing = Validation(200, State(accuracy=0.5, spurious=0.3), seed=seed)
        found += nothing.tests.better_than_chance(RUN, nothing.epochs[0])
    assert found <= 4


@pytest.mark.parametrize("examples", [60, 600, 5_000])
def test_a_collapse_of_any_size_separates_nothing(examples: int) -> None:
    collapsed = Validation(examples, State(accuracy=None))
    (epoch,) = collapsed.epochs
    assert collapsed.tests.separates_nothing(epoch, 0.3)
    assert not collapsed.tests.better_than_chance(RUN, epoch)


def test_each_sign_of_a_collapse_suffices() -> None:
    """One class, logits without a spread, or a flat training loss."""
    learned = Validation(600, State(accuracy=0.8))
    (epoch,) = learned.epochs
    assert not learned.tests.separates_nothing(epoch, 0.4)
    assert learned.tests.separates_nothing(epoch, 0.69)
    assert learned.tests.separates_nothing(replace(epoch, majority_share=0.99), 0.4)
    assert learned.tests.separates_nothing(replace(epoch, logit_std=0.01), 0.4)


def test_under_imbalance_a_majority_share_of_the_prior_is_no_collapse() -> None:
    """At 90 to 10 a model that predicts the frequent class for 94 % of the examples separates them."""
    learned = Validation(1_000, State(accuracy=0.945), positive=0.9)
    epoch = replace(learned.epochs[0], majority_share=0.948)
    assert not learned.tests.separates_nothing(epoch, 0.17)
    assert learned.tests.separates_nothing(replace(epoch, majority_share=0.96), 0.17)


def test_a_model_that_knows_its_training_texts_only_is_worse_than_chance() -> None:
    memorised = Validation(600, State(accuracy=0.5, spurious=4.0))
    (epoch,) = memorised.epochs
    assert memorised.tests.worse_than_chance(RUN, epoch)
    assert not memorised.tests.better_than_chance(RUN, epoch)


def test_a_loss_that_is_not_finite_is_not_better_than_chance() -> None:
    broken = Validation(600, State(accuracy=0.9), State(accuracy=math.nan))
    assert not broken.tests.better_than_chance(RUN, broken.epochs[1])


def test_a_change_has_the_paired_error_where_predictions_are_kept() -> None:
    """The standard error of the mean of differences, with one example more that differs; unpaired it is larger."""
    study = Validation(600, State(accuracy=0.9, scale=1.0), State(accuracy=0.9, scale=2.0))
    first, second = study.epochs
    losses = [
        np.logaddexp(0, -(2.0 * p.label - 1) * (p.logits[:, 1] - p.logits[:, 0]))
        for p in (study.tests.predictions.of_epoch(RUN, number, "validation") for number in (1, 2))
        if p is not None
    ]
    difference = np.append(losses[1] - losses[0], -1.0)
    change = study.tests.loss_rise(RUN, first, second)
    assert change.value == pytest.approx(float((losses[1] - losses[0]).mean()), abs=1e-6)
    assert change.error == pytest.approx(difference.std(ddof=1) / math.sqrt(601), rel=1e-4)
    assert study.unpaired.loss_rise(RUN, first, second).error > change.error


@pytest.mark.parametrize("examples", [60, 600])
def test_a_tie_has_the_error_of_one_example(examples: int) -> None:
    same = Validation(examples, State(accuracy=0.9), State(accuracy=0.9))
    fall = same.tests.accuracy_fall(RUN, *same.epochs)
    assert fall.value == 0.0
    assert fall.error == pytest.approx(1 / (examples + 1), rel=0.01)
    assert not fall.beyond_error
    assert not same.tests.accuracy_fell(RUN, *same.epochs)
    assert not same.tests.loss_rose(RUN, *same.epochs)


@pytest.mark.parametrize(("examples", "fell"), [(60, False), (2_000, True)])
def test_a_fall_of_five_points_needs_enough_examples(examples: int, fell: bool) -> None:
    falling = Validation(examples, State(accuracy=0.9), State(accuracy=0.85))
    assert falling.tests.accuracy_fell(RUN, *falling.epochs) == fell


def test_a_fall_of_two_points_does_not_matter_however_certain() -> None:
    falling = Validation(50_000, State(accuracy=0.9), State(accuracy=0.88))
    assert falling.tests.accuracy_fall(RUN, *falling.epochs).beyond_error
    assert not falling.tests.accuracy_fell(RUN, *falling.epochs)


@pytest.mark.parametrize(("scale", "rose"), [(1.05, False), (3.0, True)])
def test_a_rise_of_loss_has_to_matter_and_to_be_beyond_its_error(scale: float, rose: bool) -> None:
    rising = Validation(2_000, State(accuracy=0.9), State(accuracy=0.9, scale=scale))
    assert rising.tests.loss_rose(RUN, *rising.epochs) == rose
    assert not rising.tests.loss_rose(RUN, *reversed(rising.epochs))


@pytest.mark.parametrize("examples", [60, 600])
def test_epochs_that_differ_by_chance_seldom_seem_to_fall(examples: int) -> None:
    """The best of four epochs against the last, with half of the run's noise anew in each epoch."""
    falls = rises = 0
    for seed in range(300):
        states = [State(accuracy=0.88, flicker=0.5)] * 4
        study = Validation(examples, *states, seed=seed)
        best = max(study.epochs, key=lambda epoch: epoch.validation["accuracy"])
        lowest = min(study.epochs, key=lambda epoch: epoch.validation["loss"])
        falls += study.tests.accuracy_fell(RUN, best, study.epochs[-1])
        rises += study.tests.loss_rose(RUN, lowest, study.epochs[-1])
    assert (falls, rises) == (0, 0)
    assert ERRORS_OF_CHANGE == 4
