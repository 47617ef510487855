"""The truth of a planted study: what happens to the runs of each condition, and which verdicts are right.

Everything here can be written in a truth file (:mod:`benchmarks.planted.truth_file`), under the same names.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from benchmarks.planted.noise import Difficulty
from study.settings import Section, Settings
from study.space.axes import PartialSettings, is_part
from study.space.space import Space

Probability = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]


class NoiseTruth(Section):
    """The noise of a study's examples and seeds."""

    difficulty: Difficulty = "laplace"
    """Distribution of the examples' difficulty; ``student`` has three degrees of freedom."""

    seeds: Literal["normal", "student"] = "normal"
    """Distribution of the effects of seeds; ``student`` has four degrees of freedom, and the same variance."""

    class_share: Annotated[float, Field(gt=0, lt=1)] = 0.5
    """Share of the examples with the label 1."""


class Collapse(Section):
    """A fall to the prediction of one class, with a training loss of chance from then on."""

    chance: Probability = 1.0
    """How probable it is for a run."""

    onset: NotNegative = 1.5
    """When, in epochs from the start of training; 0 is a run that never learns."""

    until: Positive | None = None
    """When the run recovers, in epochs; none is never."""

    accuracy: Probability | None = None
    """Accuracy after the fall; none is the prediction of one class."""

    shared: Probability = 0.0
    """Correlation between the runs of one cluster of what decides whether they collapse; 1 is all or none of them."""


class Overfit(Section):
    """A rise of validation loss while training loss continues to fall."""

    chance: Probability = 1.0
    """How probable it is for a run."""

    after: Annotated[int, Field(ge=1)] = 2
    """The last epoch before the rise."""

    scale: Positive = 4.0
    """Factor on the log-odds at the last epoch, reached in equal ratios."""

    loses: NotNegative = 0.0
    """Accuracy lost by the last epoch, in equal parts; 0 is a rise of loss with accuracy kept."""


class RunTruth(Section):
    """What happens to a run. Accuracies and their differences are shares, such as 0.9 and 0.01."""

    accuracy: Probability = 0.9
    """True accuracy that the runs of a condition have at the end, on average over seeds."""

    seed_sd: NotNegative = 0.005
    """Standard deviation over seeds of the true accuracy."""

    shared: Probability = 0.0
    """Share of that variance which runs of one cluster have in common."""

    cluster: tuple[str, ...] = ("seed",)
    """The settings whose equal values make runs one cluster, such as [model, seed]."""

    epoch_sd: NotNegative = 0.002
    """Standard deviation over epochs of the true accuracy of a run."""

    climb: NotNegative = 0.02
    """How far below its end the accuracy starts; the gap closes with the square of the training that is left."""

    curve: tuple[float, ...] | None = None
    """Differences of accuracy from ``accuracy`` after each epoch, in place of ``climb``; the last one holds on."""

    scale: Positive = 1.0
    """Factor on calibrated log-odds: above 1 is over-confident, below 1 under-confident."""

    spurious: NotNegative = 0.0
    """Standard deviation of log-odds that have nothing to do with the label, as a model has that learned by heart."""

    fit: Positive = 0.8
    """Training loss at the end, as a share of the loss that calibrated predictions of this accuracy have."""

    validation: float = 0.0
    """True accuracy on validation less that on test, as a leak or an easier split would make it."""

    collapse: Collapse | None = None
    """A fall to one class; none is none."""

    overfit: Overfit | None = None
    """A rise of validation loss; none is none."""

    non_finite: Probability = 0.0
    """Chance that the loss is NaN from the middle of training on."""

    failed: Probability = 0.0
    """Chance that the run ends with an error in the middle of training."""

    missing: Probability = 0.0
    """Chance that the run was never started."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """The ``values`` of :class:`RunTruth` for the runs whose settings match, each with a ``chance``."""

    match: Mapping[str, tuple[PartialSettings, ...]] = field(default_factory=dict)
    chance: float = 1.0
    values: Mapping[str, Any]

    def matches(self, settings: Settings) -> bool:
        """Whether the rule is for a run with these settings."""
        values = settings.model_dump(mode="json")
        return all(any(is_part(part, values) for part in alternatives) for alternatives in self.match.values())


class Expectation(Section):
    """Which verdicts of a question are right and which are never right, as patterns with ``*`` and ``?``."""

    right: tuple[str, ...] = ()
    """Verdicts that are true."""

    never: tuple[str, ...] | None = None
    """Verdicts that are false; none means all that are neither right nor undetermined. What is in neither list is
    counted as other."""

    never_says: tuple[str, ...] = ()
    """Regular expressions of which none may be found in the sentence."""

    estimate: float | None = None
    """The true value of the answer's estimate, for the coverage of its interval."""

    @model_validator(mode="after")
    def _says_something(self) -> Self:
        if set(self.right) & set(self.never or ()):
            raise ValueError("a verdict is in right and in never")
        return self


@dataclass(frozen=True, slots=True, kw_only=True)
class Truth:
    """The truth of a planted study; with ``null`` every claim of an effect is false."""

    name: str
    about: str
    space: Space
    noise: NoiseTruth
    rules: tuple[Rule, ...]
    expect: Mapping[str, Expectation]
    null: bool = False
