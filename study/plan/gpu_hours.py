"""GPU hours of trajectories and of what a search may still choose, expected before anything is trained."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from study.models.shapes import EncoderShape
from study.plan.gpu_speeds import TRAINING_PASSES, Gpu, step_rates, update_seconds
from study.plan.plan import Cell, Trajectory, make_plan
from study.settings import LARGEST_MICRO_BATCH, Search, Settings
from study.space.axes import Axis, PartialSettings
from study.space.search_section import relevant_axes
from study.space.space import Space

# All measured on bert-base, on an H100, 2026-11-27. A step of 256 takes 1.29 times as long if layers are not compiled.
UNCOMPILED = 1.29
# Loading, capturing and, once in a process, compiling: the mean over the batch sizes of paper.yaml.
START_SECONDS = 4.1
# On an H200, 2026-11-26: steps that are not captured wait for the host, 26 ms for 12 layers.
EAGER_LAYER_SECONDS = 26e-3 / 12
# A checkpoint holds weights and two moments in float32, and 1.31 GB of it were written in 2.9 s.
CHECKPOINT_BYTES, CHECKPOINT_BYTES_PER_SECOND = 12, 4.5e8
# The share of epochs that are the best so far by some metric, after which test is evaluated too.
TESTED = 0.8
# The longest texts for which layers are compiled by default.
COMPILED_TOKENS = 128
# Settings that decide what a trajectory costs.
COST_KEYS = frozenset({"model", "epochs", "optimizer_steps", "batch_size", "micro_batch_size", "compile"})


@dataclass(frozen=True, slots=True, kw_only=True)
class CostModel:
    """What trajectories of ``space`` cost on one ``gpu``; ``shapes`` are those of its models.

    Every text counts with ``data.max_length`` tokens, which is what the loop pads to up to 128; of longer texts the
    cost is an upper bound. Every trajectory counts to its planned end.
    """

    space: Space
    shapes: Mapping[str, EncoderShape]
    gpu: Gpu

    @property
    def gpus(self) -> float:
        """GPUs that a trajectory holds while it trains on one; several that share one take as long as in turn."""
        return max(1.0, self.space.run.gpu or 1.0)

    def hours(self, trajectories: Iterable[Trajectory]) -> float:
        """GPU hours of ``trajectories``."""
        return self.gpus * math.fsum(map(self.seconds, trajectories)) / 3600

    def seconds(self, trajectory: Trajectory | Cell) -> float:
        """Seconds of a trajectory, or of a cell that has one to itself: start, training, evaluation, checkpoints."""
        shape, training = self.shapes[trajectory.settings.model], self.training_seconds(trajectory)
        sizes = self.space.data.split_sizes(self.space.examples)
        evaluated = trajectory.epochs * (sizes["validation"] + TESTED * sizes["test"])
        operations = evaluated * shape.forward_operations(self.space.data.max_length)
        saving = shape.parameters * CHECKPOINT_BYTES / CHECKPOINT_BYTES_PER_SECOND
        return (
            START_SECONDS
            + training
            + operations / step_rates(self.gpu).operations_per_second
            # Most are saved by the clock: those at epochs' ends have to be worth it.
            + saving * training / (60 * self.space.run.checkpoint_every_minutes)
        )

    def training_seconds(self, trajectory: Trajectory | Cell) -> float:
        """Seconds of a trajectory's optimizer steps."""
        settings, rates = trajectory.settings, step_rates(self.gpu)
        shape = self.shapes[settings.model]
        micro_batch = LARGEST_MICRO_BATCH if settings.micro_batch_size == "auto" else settings.micro_batch_size
        # The layers of all micro-batches; a step of a part of one has all of them too.
        layers = shape.layers * max(trajectory.optimizer_steps, trajectory.examples / micro_batch)
        operations = TRAINING_PASSES * shape.forward_operations(self.space.data.max_length) * trajectory.examples
        busy = layers * rates.layer_seconds + operations / rates.operations_per_second
        if not _compiled(settings, shape, self.space.data.max_length):
            busy *= UNCOMPILED
        busy += trajectory.optimizer_steps * update_seconds(self.gpu, shape)
        return busy if shape.captured else max(busy, layers * EAGER_LAYER_SECONDS)

    def most_hours(
        self, group: PartialSettings, *, trials: float | None = None, examples: float | None = None
    ) -> float:
        """The most GPU hours of so many ``trials``, or of trials of so many ``examples``, of the search of a ``group``.

        Costs grow or fall with each setting, so the dearest trial lies at the ends of the axes.
        """
        possible = make_plan(replace(self.space, axes=_ends(self.space, group), search=Search())).cells
        if trials is not None:
            most = max(map(self.seconds, possible), default=0.0) * len(self.space.values_of("seed")) * trials
        else:
            assert examples is not None
            most = max((self.seconds(one) / one.examples for one in possible), default=0.0) * examples
        return self.gpus * most / 3600


def _compiled(settings: Settings, shape: EncoderShape, tokens: int) -> bool:
    """Whether layers are compiled, as far as it matters: ``auto`` does not where that costs under a second an epoch."""
    if settings.compile == "auto":
        return shape.captured and tokens <= COMPILED_TOKENS
    return settings.compile


def _ends(space: Space, group: PartialSettings) -> tuple[Axis, ...]:
    """The axes of a search of ``group``, those that decide neither its cost nor whether a rule matches at one value."""
    axes = []
    for axis, shortened in zip(space.axes, relevant_axes(space.axes, space.when), strict=True):
        part = axis.part(group) if axis.name in space.search.per else None
        if part is not None:
            axes.append(Axis(name=axis.name, values=(part,)))
        else:
            axes.append(axis if COST_KEYS & set(axis.keys) else shortened)
    return tuple(axes)
