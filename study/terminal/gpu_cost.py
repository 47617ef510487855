"""The GPU hours of a study, in words, in a terminal's width."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from study.models.shapes import find_shape
from study.plan.cell_results import CellResult, unfinished
from study.plan.gpu_hours import CostModel
from study.plan.gpu_speeds import GPUS, Gpu, gpu_named
from study.plan.labels import search_groups
from study.plan.plan import Plan, Trajectory
from study.search.budget import search_budgets
from study.space.space import Space

WIDTH = 80
LABEL = "GPU hours  "
# Up to here the loop pads every text to one length.
ONE_LENGTH = 128


def describe_gpu_hours(space: Space, plan: Plan, results: Sequence[CellResult], gpu: Gpu) -> str:
    """What is left of ``plan`` costs on ``gpu``, or why that is not known."""
    if reason := _unknown(space):
        return wrapped(f"not known: {reason}")
    costs = CostModel(space=space, shapes={model: find_shape(model) for model in space.models}, gpu=gpu)
    left = unfinished(plan, results, pruning=space.search.scheduler is not None)
    on = f"on {'one ' if costs.gpus == 1 else ''}{gpu.name}"
    if plan.open:
        return wrapped(f"{_most(costs, plan, results, left)} {on}, {_basis(costs)}")
    if not left:
        return wrapped("none: nothing is left to train")
    hours = costs.hours(left)
    mean = _duration(hours * 3600 / costs.gpus / len(left))
    return wrapped(f"about {_number(hours)} {on}, {mean} a trajectory on average, {_basis(costs)}")


def describe_cluster_hours(space: Space, plan: Plan, results: Sequence[CellResult], types: Sequence[str | None]) -> str:
    """What is left of ``plan`` costs on each of the ``types`` of a cluster's GPUs; None is one without a known type."""
    if not types:
        return wrapped("not known: no node of the cluster has a GPU; give --device NAME")
    lines = []
    for name in types:
        if name is None:
            lines.append(wrapped("not known: Ray does not say what the cluster's GPUs are; give --device NAME"))
            continue
        try:
            gpu = gpu_named(name)
        except ValueError as error:
            lines.append(wrapped(f"not known: {error}"))
        else:
            lines.append(describe_gpu_hours(space, plan, results, gpu))
    return "\n".join(lines)


def wrapped(text: str) -> str:
    """``text`` behind the label, in lines of a terminal's width."""
    return textwrap.fill(text, WIDTH, initial_indent=LABEL, subsequent_indent=" " * len(LABEL))


def _unknown(space: Space) -> str:
    """Why the hours of ``space`` are not known; empty if they are."""
    if space.run.gpu == 0:
        return "run.gpu is 0, so it trains on CPUs; give --set run.gpu=1"
    if "float32" in (*space.values_of("precision"), *(rule.set.get("precision") for rule in space.when)):
        return "rates were measured in bfloat16, and precision is float32"
    reasons = []
    for model in space.models:
        try:
            find_shape(model)
        except ValueError as error:
            reasons.append(f"{model}: {error}")
    return "; ".join(reasons)


def _most(costs: CostModel, plan: Plan, results: Sequence[CellResult], left: Sequence[Trajectory]) -> str:
    """The hours of what is chosen and ``left``, and of the dearest trials that the searches' budgets still allow."""
    space, hours = costs.space, costs.hours(left)
    unit, _ = space.search.budget
    groups = search_groups(space)
    for search in search_budgets(space, plan, results):
        rest = max(search.budget - search.spent, 0)
        if unit == "gpu_hours":
            hours += rest
        else:
            hours += costs.most_hours(groups[search.group], **{unit: rest})
    return f"at most about {_number(hours)}"


def _basis(costs: CostModel) -> str:
    """What the hours rest on."""
    gpu, shapes = costs.gpu, costs.shapes.values()
    basis = f"from rates measured on {gpu.date}"
    if not gpu.measured:
        basis = f"estimated from the {gpu.name}'s datasheet and the {GPUS[0].name}'s measured rates"
    if not all(shape.captured for shape in shapes):
        families = dict.fromkeys(shape.family for shape in shapes if not shape.captured)
        basis += f"; those of {' and '.join(families)} were not measured, so BERT's stand in"
    if costs.space.data.max_length > ONE_LENGTH:
        basis += f"; all texts count as {costs.space.data.max_length:,} tokens long"
    return basis


def _number(hours: float) -> str:
    return f"{hours:,.0f}" if hours >= 9.95 else f"{hours:.2g}"


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} hours"
