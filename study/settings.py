"""Everything that can be set: the settings of a cell, its data, the search, and the resources of a trajectory.

Every hyperparameter of the loop is named here, with its unit and its default. Models are frozen and refuse unknown
keys.
The docstring below each field is its documentation: ``make docs`` turns them into ``docs/settings.md`` and
``search_spaces/schema.json``. :mod:`study.space` reads these sections from a file and says where in it an error is.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Annotated, Any, ClassVar, Literal, Self, get_args

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    TypeAdapter,
    WithJsonSchema,
    model_validator,
)

from study.errors import did_you_mean, quote
from study.scoring import METRICS
from study.stopping import StoppingPolicy

# The models that need no download: two layers, 128 wide, random weights.
BUILT_IN_MODELS = ("tiny-bert", "tiny-roberta")

# The largest micro-batch that ``micro_batch_size: auto`` tries on an accelerator.
LARGEST_MICRO_BATCH = 512

# What the budget of a search may count.
BUDGETS = ("trials", "examples", "gpu_hours")


def _none_word(value: Any) -> Any:
    """In a space file ``none`` and ``off`` mean ``null``."""
    return None if value in ("none", "off") else value


def _auto_word(value: Any) -> Any:
    return None if value == "auto" else value


def _or_auto(value: float | None) -> Any:
    return "auto" if value is None else float(value)


def _one_word(value: Any) -> Any:
    """A single axis is a list of one."""
    return (value,) if isinstance(value, str) else value


def _scheduler_word(value: Any) -> Any:
    return {"name": value} if isinstance(value, str) and value not in ("none", "off") else _none_word(value)


def _not_a_bool(value: Any) -> Any:
    """Python takes ``True`` for the number 1; a person who writes ``true`` for a number made a mistake."""
    if isinstance(value, bool):
        raise ValueError("expected a number, not true or false")
    return value


def _known_metric(name: str) -> str:
    if name not in METRICS:
        raise ValueError(f"expected {' or '.join(METRICS)}, got {quote(name)}{did_you_mean(name, METRICS)}")
    return name


def _two_labels(values: tuple[str | int, str | int]) -> tuple[str | int, str | int]:
    if str(values[0]) == str(values[1]):
        raise ValueError("the two labels are the same")
    return values


PositiveInt = Annotated[int, BeforeValidator(_not_a_bool), Field(gt=0)]
NonNegativeInt = Annotated[int, BeforeValidator(_not_a_bool), Field(ge=0)]
PositiveFloat = Annotated[float, BeforeValidator(_not_a_bool), Field(gt=0, allow_inf_nan=False)]
NonNegativeFloat = Annotated[float, BeforeValidator(_not_a_bool), Field(ge=0, allow_inf_nan=False)]
Fraction = Annotated[float, BeforeValidator(_not_a_bool), Field(ge=0, lt=1)]
MetricName = Annotated[str, AfterValidator(_known_metric), WithJsonSchema({"enum": list(METRICS), "type": "string"})]


class Section(BaseModel):
    """A part of a space: frozen, without unknown keys, equal and hashed by its values."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    NEUTRAL: ClassVar[Mapping[str, Any]] = {}
    """The neutral value of each field whose default has changed since its first version; for others, the default."""

    ALSO_NEUTRAL: ClassVar[Mapping[str, Any]] = {}
    """A second neutral value of a field: what earlier versions recorded where the neutral one now stands."""

    @classmethod
    def stored(cls, values: Mapping[str, Any]) -> Self:
        """The section whose JSON values an older version may have written: what they lack had its neutral value."""
        return cls.model_validate(_as_written(cls, values))

    def identity(self) -> dict[str, Any]:
        """The fields that differ from their neutral values, as JSON values: what ids are made of.

        A neutral value is what the code did before the field existed, so that a new field changes no id.
        """
        neutral = _neutral_values(type(self))
        return {name: json_value(value) for name, value in self if value not in neutral[name]}

    @classmethod
    def neutral_values(cls, name: str) -> tuple[Any, ...]:
        """The values of the field ``name`` that change no id: all of them mean the same training."""
        return _neutral_values(cls)[name]


def _as_written(section: type[Section], values: Mapping[str, Any]) -> dict[str, Any]:
    """Stored values with the neutral value of each field that they lack, within their sections too."""
    complete = {**section.NEUTRAL, **values}
    for name, value in values.items():
        field = section.model_fields.get(name)
        inner = _section_of(field.annotation) if field is not None else None
        if inner is not None and isinstance(value, Mapping):
            complete[name] = _as_written(inner, value)
    return complete


def _section_of(annotation: Any) -> type[Section] | None:
    """The section that a field holds, alone or in a union; None for other fields."""
    types = get_args(annotation) or (annotation,)
    return next((kind for kind in types if isinstance(kind, type) and issubclass(kind, Section)), None)


@cache
def _neutral_values(section: type[Section]) -> Mapping[str, tuple[Any, ...]]:
    also = {name: (value,) for name, value in section.ALSO_NEUTRAL.items()}
    return {
        name: (section.NEUTRAL.get(name, field.default), *also.get(name, ()))
        for name, field in section.model_fields.items()
    }


def json_value(value: Any) -> Any:
    """A field's value as JSON values; of a section, its identity."""
    if isinstance(value, Section):
        return value.identity()
    return list(value) if isinstance(value, tuple) else value


class EarlyStopping(Section):
    """Stop after ``patience`` evaluations in a row that do not improve ``metric`` by more than ``min_delta``."""

    patience: PositiveInt = 1
    """Evaluations in a row without improvement after which training stops; one evaluation per epoch."""

    min_delta: NonNegativeFloat = 0.0
    """Smallest change of the metric that counts as an improvement, in the metric's unit (loss: nats)."""

    metric: MetricName = "loss"
    """Validation metric that has to improve."""


class Settings(Section):
    """One cell: everything that decides how one model is fine-tuned.

    The defaults are those of the discussion that the study began with: AdamW at 5e-5, batch size 16, a constant
    schedule without warm-up.
    """

    ALSO_NEUTRAL: ClassVar[Mapping[str, Any]] = {"compile": False}

    model: str = Field(min_length=1)
    """A hub id, the path of a folder that ``save_pretrained`` wrote, or the built-in ``tiny-bert`` or
    ``tiny-roberta``."""

    epochs: PositiveInt | None = None
    """Length of training in passes over the training split. Give either ``epochs`` or ``optimizer_steps``."""

    optimizer_steps: PositiveInt | None = None
    """Length of training in optimizer steps; the last epoch may then be shorter."""

    batch_size: PositiveInt = 16
    """Effective batch size: examples per optimizer step, however many fit the device at once."""

    learning_rate: PositiveFloat = 5e-5
    """Peak learning rate, reached after warm-up, before ``lr_scaling``."""

    lr_scaling: Literal["none", "sqrt", "linear"] = "none"
    """How the learning rate grows with the batch size: not at all, with its square root (Hoffer et al. 2017), or in
    proportion (Goyal et al. 2017)."""

    lr_scaling_base_batch_size: PositiveInt = 16
    """Batch size at which ``lr_scaling`` leaves the learning rate as it is."""

    lr_schedule: Literal["constant", "linear", "cosine", "polynomial"] = "constant"
    """Shape of the learning rate after warm-up: constant, or decaying to 0 at the last planned optimizer step."""

    warmup_fraction: Fraction = 0.0
    """Share of all planned optimizer steps over which the learning rate rises linearly from 0 to its peak."""

    polynomial_power: PositiveFloat | None = None
    """Power of the ``polynomial`` schedule; none means 1, which is ``linear``."""

    early_stopping: Annotated[EarlyStopping | None, BeforeValidator(_none_word)] = None
    """When to stop before the planned end; none trains to the end."""

    checkpoint_metric: MetricName = "accuracy"
    """Validation metric by which a cell's checkpoint is selected, among those after each epoch."""

    max_gradient_norm: Annotated[PositiveFloat | None, BeforeValidator(_none_word)] = None
    """Gradients are clipped to this total L2 norm; none does not clip."""

    weight_decay: NonNegativeFloat = 0.01
    """AdamW's decoupled weight decay, on all weights but biases and norms."""

    adam_betas: tuple[Fraction, Fraction] = (0.9, 0.999)
    """Decay rates of AdamW's running means of the gradient and of its square."""

    adam_eps: PositiveFloat = 1e-8
    """Term that AdamW adds to the denominator of an update."""

    adam_bias_correction: bool = True
    """Whether AdamW corrects its running means for their start at 0. False is the optimizer of BERT's original code
    (Zhang et al. 2021)."""

    dropout: Annotated[Fraction | None, BeforeValidator(_none_word)] = None
    """Dropout probability everywhere in the model; none keeps the probabilities of the model's own config."""

    seed: NonNegativeInt = 0
    """Seed of the new weights, the order of the examples and dropout."""

    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Precision of matrix products; weights stay in float32. ``auto`` is bfloat16 where the device multiplies it
    faster, and float32 elsewhere, as on GPUs before Ampere (V100, T4); decided once per study."""

    tf32: bool = False
    """Allow TensorFloat-32 in float32 matrix products; has an effect on CUDA devices only."""

    compile: Literal["auto"] | bool = "auto"
    """Compile the encoder's layers with ``torch.compile``. ``auto`` does on CUDA where an epoch is long enough to pay
    for it, with texts of at most 128 tokens; ``false`` trains the same cells without."""

    micro_batch_size: Literal["auto"] | PositiveInt = "auto"
    """Examples that pass through the model at once; gradients are accumulated up to ``batch_size``. ``auto`` starts
    at 64 on a CPU and at 512 on an accelerator, and halves where memory does not suffice."""

    log_every_examples: PositiveInt = 2_000
    """Training loss, gradient norm and learning rate are recorded once per this many examples."""

    @property
    def endless(self) -> bool:
        """Whether the planned length does not shape the learning rate, so that a shorter cell is a prefix of this."""
        return self.lr_schedule == "constant" and self.warmup_fraction == 0 and self.epochs is not None

    @property
    def contradiction(self) -> str:
        """Why these settings cannot be combined; empty if they can."""
        if self.epochs is not None and self.optimizer_steps is not None:
            return "epochs and optimizer_steps contradict each other: give one of the two"
        if self.epochs is None and self.optimizer_steps is None:
            return "the length of training is missing: give epochs or optimizer_steps"
        if self.polynomial_power is not None and self.lr_schedule != "polynomial":
            return f"polynomial_power has no effect on the {self.lr_schedule} schedule"
        return ""

    def policy(self, max_epochs: int) -> StoppingPolicy:
        """When a cell with these settings, of ``max_epochs`` evaluations, stops, and how its checkpoint is selected."""
        early = self.early_stopping
        return StoppingPolicy(
            max_epochs=max_epochs,
            patience=early.patience if early else None,
            min_delta=early.min_delta if early else 0.0,
            metric=early.metric if early else "loss",
            checkpoint_metric=self.checkpoint_metric,
        )


@cache
def setting_type(key: str) -> TypeAdapter[Any]:
    """Validates, parses and dumps a value of the setting ``key`` alone."""
    return TypeAdapter(Settings.model_fields[key].rebuild_annotation())


# The settings that :attr:`Settings.contradiction` compares; all others are valid or invalid by themselves.
COMPARED = ("epochs", "optimizer_steps", "lr_schedule", "polynomial_power")


class Fractions(Section):
    """How the examples are divided into splits; the three fractions add up to 1."""

    train: Fraction = 0.8
    """Share of the examples to train on."""

    validation: Fraction = 0.1
    """Share of the examples for validation, which selects checkpoints and settings."""

    test: Fraction = 0.1
    """Share of the examples for test, which selects nothing."""

    @model_validator(mode="after")
    def _whole(self) -> Self:
        total = self.train + self.validation + self.test
        if abs(total - 1) > 1e-9:
            raise ValueError(f"the fractions add up to {total:g}, not to 1")
        if min(self.train, self.validation, self.test) <= 0:
            raise ValueError("each of train, validation and test needs a fraction above 0")
        return self


class Data(Section):
    """A labelled text data set of two classes, and how it is split and truncated."""

    source: str = Field(min_length=1)
    """A ``.parquet``, ``.csv`` or ``.jsonl`` file (relative to the space file), a hub id, or ``builtin:reviews``."""

    text_column: str = "text"
    """Name of the column that holds the texts."""

    label_column: str = "label"
    """Name of the column that holds the labels."""

    label_values: Annotated[tuple[str | int, str | int], AfterValidator(_two_labels)] = (0, 1)
    """The labels of class 0 and of class 1."""

    hub_splits: tuple[str, ...] = ("train", "test")
    """Splits of a hub data set that are pooled before it is split anew."""

    examples: PositiveInt | None = None
    """Number of examples to use, a random sample of the data; none uses all. A hub data set needs it, for planning."""

    fractions: Fractions = Fractions()
    """How the examples are divided into train, validation and test."""

    split_seed: NonNegativeInt = 0
    """Seed of the sample and of the split; the same for all cells of a study."""

    max_length: Annotated[int, BeforeValidator(_not_a_bool), Field(ge=8, le=8192)] = 128
    """Tokens after which a text is truncated, special tokens included."""

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
    """What one trajectory may use of the machines, and what happens when it fails."""

    cpu: PositiveFloat = 1
    """CPU cores of one trajectory, which are also its threads."""

    gpu: Annotated[NonNegativeFloat | None, BeforeValidator(_auto_word), PlainSerializer(_or_auto)] = 0
    """GPUs of one trajectory: 0 trains on the CPU, and a fraction shares a GPU and its memory. ``auto`` is one GPU
    where the cluster has any, otherwise none."""

    max_failures: NonNegativeInt = 1
    """How often a trajectory that failed is tried again, from its newest checkpoint. Losing its node does not count as
    a failure."""

    checkpoint_every_minutes: PositiveFloat = 5
    """Minutes between checkpoints within an epoch; one more is written at an epoch's end unless that takes over 2 % of
    the time."""

    stall_minutes: PositiveFloat | None = None
    """End the process of a trajectory that has recorded nothing for so many minutes, and try it again, which counts as
    a failure. Without it, one that stands still is only reported. Loading and compiling a large model may take minutes,
    and so may an evaluation."""

    keep_best_weights: bool = False
    """Keep each trajectory's best model, by its ``checkpoint_metric``, with tokenizer and label names."""


class Scheduler(Section):
    """Stops poor trajectories early, by Tune's trial schedulers; their final results are then unknown.

    ``asha`` is asynchronous successive halving (Li et al. 2020, "A System for Massively Parallel Hyperparameter
    Tuning"), ``median`` the median stopping rule (Golovin et al. 2017, "Google Vizier").
    """

    name: Literal["asha", "median"]
    """``asha`` continues the best 1 in ``reduction_factor`` of the trajectories that reach each rung; ``median`` stops
    a trajectory whose best score is below the median of the others' running means."""

    grace_epochs: PositiveInt = 1
    """Epochs that every trajectory is given. For ``asha`` the first rung; later ones are it times powers of
    ``reduction_factor``."""

    reduction_factor: Annotated[int, BeforeValidator(_not_a_bool), Field(ge=2)] = 3
    """``asha`` continues one in this many trajectories at each rung."""


class Search(Section):
    """Which combinations are tried: all of a ``grid``, or as many as the budget lets a sampler choose.

    Each combination of the ``per`` axes' values has its own search, with the whole budget. A trial is one choice of
    values for the other axes; it is trained with each seed, and its score is the mean of ``objective`` on validation.
    """

    method: Literal["grid", "random", "optuna"] = "grid"
    """``grid`` trains all combinations, ``random`` draws some, ``optuna`` asks a sampler that learns from results."""

    sampler: Literal["tpe", "cmaes", "nsga2"] | None = None
    """Optuna's sampler; none means ``tpe``. Only for ``method: optuna``."""

    trials: Annotated[PositiveInt | None, BeforeValidator(_none_word)] = None
    """Budget of each search in trials. Give one of ``trials``, ``examples`` and ``gpu_hours``."""

    examples: Annotated[PositiveInt | None, BeforeValidator(_none_word)] = None
    """Budget of each search in training examples; the trial that exceeds it is completed."""

    gpu_hours: Annotated[PositiveFloat | None, BeforeValidator(_none_word)] = None
    """Budget of each search in hours of training times GPUs; the trial that exceeds it is completed."""

    per: Annotated[tuple[str, ...], BeforeValidator(_one_word)] = ()
    """Axes whose every value gets its own search with the whole budget, such as ``model``."""

    objective: MetricName = "accuracy"
    """Validation metric that a search optimises."""

    seed: NonNegativeInt = 0
    """Seed of the sampler, the same for every search of a study."""

    scheduler: Annotated[Scheduler | None, BeforeValidator(_scheduler_word)] = None
    """Trial scheduler that stops poor trajectories early; none trains all to their end."""

    @property
    def adaptive(self) -> bool:
        """Whether the next trial depends on the results of those before."""
        return self.method == "optuna"

    @property
    def chooser(self) -> str:
        """The sampler in words."""
        samplers = {"tpe": "Optuna's TPE", "cmaes": "Optuna's CMA-ES", "nsga2": "Optuna's NSGA-II"}
        return samplers[self.sampler or "tpe"] if self.adaptive else "random search"

    @property
    def budget(self) -> tuple[str, float]:
        """The unit that is counted, and how much of it each search has."""
        return next((key, value) for key in BUDGETS if (value := getattr(self, key)) is not None)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        given = [key for key in BUDGETS if getattr(self, key) is not None]
        if self.method == "grid":
            if useless := [*given, *(key for key in ("sampler", "per") if getattr(self, key))]:
                raise ValueError(f"{useless[0]} has no effect on a grid: give method random or optuna")
            return self
        if len(given) != 1:
            raise ValueError(f"give one of trials, examples and gpu_hours: {' and '.join(given) or 'none'} given")
        if self.method == "random" and self.sampler:
            raise ValueError("sampler has no effect on a random search: give method optuna")
        return self


class Reference(Section):
    """A published result that the report shows beside the study's own."""

    match: dict[str, Any]
    """The settings that the result was published for, as they would stand under ``fixed``."""

    test_loss: float | None = None
    """Published test loss, in nats."""

    test_accuracy: float | None = None
    """Published test accuracy, between 0 and 1."""

    source: str
    """Where the result was published."""

    def matches(self, settings: Settings) -> bool:
        """Whether the result was published for these settings; ``match`` must be in canonical form."""
        values = settings.model_dump(mode="json")
        return all(values[key] == value for key, value in self.match.items())
