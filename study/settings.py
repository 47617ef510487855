"""What can be set: the settings of a cell, the data, and the machines of a study.

Every number that the loop uses is named here, with its unit and its default. Models are frozen, refuse unknown keys,
and know neither files nor positions; :mod:`study.space.reader` adds those to the faults found here.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer, model_validator

Metric = Literal["loss", "accuracy"]

# What the budget of a search may count.
BUDGETS = ("trials", "examples", "gpu_hours")

# The settings that can contradict one another; all others are right or wrong by themselves.
COMPARED = ("epochs", "optimizer_steps", "lr_schedule", "polynomial_power")


def _none_word(value: Any) -> Any:
    """In a space file ``none`` and ``off`` say what ``null`` says."""
    return None if value in ("none", "off") else value


def _auto_word(value: Any) -> Any:
    return None if value == "auto" else value


def _or_auto(value: float | None) -> Any:
    return "auto" if value is None else float(value)


def _one_word(value: Any) -> Any:
    """One axis is a list of one."""
    return (value,) if isinstance(value, str) else value


def _scheduler_word(value: Any) -> Any:
    return {"name": value} if isinstance(value, str) and value not in ("none", "off") else _none_word(value)


def _not_a_bool(value: Any) -> Any:
    """Python takes ``True`` for the number 1; a person who writes ``true`` for a number made a mistake."""
    if isinstance(value, bool):
        raise ValueError("expected a number, not true or false")
    return value


def _two_labels(values: tuple[str | int, str | int]) -> tuple[str | int, str | int]:
    if str(values[0]) == str(values[1]):
        raise ValueError("the two labels are the same")
    return values


PositiveInt = Annotated[int, BeforeValidator(_not_a_bool), Field(gt=0)]
NonNegativeInt = Annotated[int, BeforeValidator(_not_a_bool), Field(ge=0)]
PositiveFloat = Annotated[float, BeforeValidator(_not_a_bool), Field(gt=0, allow_inf_nan=False)]
NonNegativeFloat = Annotated[float, BeforeValidator(_not_a_bool), Field(ge=0, allow_inf_nan=False)]
Fraction = Annotated[float, BeforeValidator(_not_a_bool), Field(ge=0, lt=1)]


class Section(BaseModel):
    """A part of a space: frozen, and without keys that nobody reads."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class EarlyStopping(Section):
    """Stop after ``patience`` evaluations in a row that do not improve ``metric`` by more than ``min_delta``."""

    patience: PositiveInt = 1
    min_delta: NonNegativeFloat = 0.0
    metric: Metric = "loss"


class Settings(Section):
    """One cell: everything that decides how one model is fine-tuned. The defaults are the discussion's."""

    model: str = Field(min_length=1)
    epochs: PositiveInt | None = None
    optimizer_steps: PositiveInt | None = None
    batch_size: PositiveInt = 16
    learning_rate: PositiveFloat = 5e-5
    lr_scaling: Literal["none", "sqrt", "linear"] = "none"
    lr_scaling_base_batch_size: PositiveInt = 16
    lr_schedule: Literal["constant", "linear", "cosine", "polynomial"] = "constant"
    warmup_fraction: Fraction = 0.0
    polynomial_power: PositiveFloat | None = None
    early_stopping: Annotated[EarlyStopping | None, BeforeValidator(_none_word)] = None
    checkpoint_metric: Metric = "accuracy"
    max_gradient_norm: Annotated[PositiveFloat | None, BeforeValidator(_none_word)] = None
    weight_decay: NonNegativeFloat = 0.01
    adam_betas: tuple[Fraction, Fraction] = (0.9, 0.999)
    adam_eps: PositiveFloat = 1e-8
    adam_bias_correction: bool = True
    dropout: Annotated[Fraction | None, BeforeValidator(_none_word)] = None
    seed: NonNegativeInt = 0
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    tf32: bool = False
    compile: bool = False
    micro_batch_size: Literal["auto"] | PositiveInt = "auto"
    log_every_examples: PositiveInt = 2_000

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.epochs is not None and self.optimizer_steps is not None:
            raise ValueError("epochs and optimizer_steps contradict each other: give one of the two")
        if self.epochs is None and self.optimizer_steps is None:
            raise ValueError("nothing says how long to train: give epochs or optimizer_steps")
        if self.polynomial_power is not None and self.lr_schedule != "polynomial":
            raise ValueError(f"polynomial_power has no meaning for the {self.lr_schedule} schedule")
        return self


class Fractions(Section):
    """How the examples are divided."""

    train: Fraction = 0.8
    validation: Fraction = 0.1
    test: Fraction = 0.1

    @model_validator(mode="after")
    def _whole(self) -> Self:
        total = self.train + self.validation + self.test
        if abs(total - 1) > 1e-9:
            raise ValueError(f"the fractions add up to {total:g}, not to 1")
        if min(self.train, self.validation, self.test) <= 0:
            raise ValueError("each of train, validation and test needs a fraction above 0")
        return self


class Data(Section):
    """A labelled text data set of two classes, and how it is split and cut.

    ``label_values`` are the labels of class 0 and of class 1.
    """

    source: str = Field(min_length=1)
    text_column: str = "text"
    label_column: str = "label"
    label_values: Annotated[tuple[str | int, str | int], AfterValidator(_two_labels)] = (0, 1)
    hub_splits: tuple[str, ...] = ("train", "test")
    examples: PositiveInt | None = None
    fractions: Fractions = Fractions()
    split_seed: NonNegativeInt = 0
    max_length: Annotated[int, BeforeValidator(_not_a_bool), Field(ge=8, le=8192)] = 128

    @model_validator(mode="after")
    def _two_columns(self) -> Self:
        if self.text_column == self.label_column:
            raise ValueError(f"the column '{self.text_column}' cannot be text and label at once")
        return self

    def split_sizes(self, examples: int) -> dict[str, int]:
        """Number of examples of each split, of ``examples`` in all; what rounding leaves goes to training."""
        validation = round(self.fractions.validation * examples)
        test = round(self.fractions.test * examples)
        return {"train": examples - validation - test, "validation": validation, "test": test}


class Run(Section):
    """What a trajectory may use of the machines, and what happens when it fails.

    ``gpu`` is None for ``auto``: a whole one for the first trajectory of a kind, which no trial scheduler of a grid
    cuts, and for those after it what it needed.
    """

    cpu: PositiveFloat = 1
    gpu: Annotated[NonNegativeFloat | None, BeforeValidator(_auto_word), PlainSerializer(_or_auto)] = 0
    max_failures: NonNegativeInt = 1
    checkpoint_every_minutes: PositiveFloat = 5
    keep_best_weights: bool = False


class Scheduler(Section):
    """Which trajectories are cut before their end, by Tune's trial schedulers.

    ``asha`` is asynchronous successive halving (Li et al. 2020, "A System for Massively Parallel Hyperparameter
    Tuning"): of those that reach ``grace_epochs`` times a power of ``reduction_factor``, it lets the best 1 in
    ``reduction_factor`` go on. ``median`` is the median stopping rule (Golovin et al. 2017, "Google Vizier"): it cuts
    what never was as good as the median of the others on average.
    """

    name: Literal["asha", "median"]
    grace_epochs: PositiveInt = 1
    reduction_factor: Annotated[int, BeforeValidator(_not_a_bool), Field(ge=2)] = 3


class Search(Section):
    """Which combinations are tried: all of a ``grid``, or as many as the budget lets a sampler choose.

    Each combination of the ``per`` axes' values has the budget to itself, and its own search: so many ``trials``, or
    trials until they have seen so many training ``examples``, or taken so many ``gpu_hours``. A trial is one choice of
    values for the other axes; it is trained with each seed, and its score is the mean of ``objective`` on validation.
    """

    method: Literal["grid", "random", "optuna"] = "grid"
    sampler: Literal["tpe", "cmaes", "nsga2"] | None = None
    trials: Annotated[PositiveInt | None, BeforeValidator(_none_word)] = None
    examples: Annotated[PositiveInt | None, BeforeValidator(_none_word)] = None
    gpu_hours: Annotated[PositiveFloat | None, BeforeValidator(_none_word)] = None
    per: Annotated[tuple[str, ...], BeforeValidator(_one_word)] = ()
    objective: Metric = "accuracy"
    seed: NonNegativeInt = 0
    scheduler: Annotated[Scheduler | None, BeforeValidator(_scheduler_word)] = None

    @property
    def adaptive(self) -> bool:
        """Whether what is tried next depends on what came of the trials before."""
        return self.method == "optuna"

    @property
    def chooser(self) -> str:
        """Who chooses, in words."""
        samplers = {"tpe": "Optuna's TPE", "cmaes": "Optuna's CMA-ES", "nsga2": "Optuna's NSGA-II"}
        return samplers[self.sampler or "tpe"] if self.adaptive else "random search"

    @property
    def budget(self) -> tuple[str, float]:
        """What is counted, and how much of it each search has."""
        return next((key, value) for key in BUDGETS if (value := getattr(self, key)) is not None)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        given = [key for key in BUDGETS if getattr(self, key) is not None]
        if self.method == "grid":
            if useless := [*given, *(key for key in ("sampler", "per") if getattr(self, key))]:
                raise ValueError(f"{useless[0]} has no meaning for a grid: give method random or optuna")
            return self
        if len(given) != 1:
            raise ValueError(f"give one of trials, examples and gpu_hours: {' and '.join(given) or 'none'} given")
        if self.method == "random" and self.sampler:
            raise ValueError("sampler has no meaning for a random search: give method optuna")
        return self


class Reference(Section):
    """A published result that the report sets beside ours."""

    match: dict[str, Any]
    test_loss: float | None = None
    test_accuracy: float | None = None
    source: str
