"""How does a space file ask for a search, and is it one that can be made?"""

from __future__ import annotations

from collections.abc import Sequence

from study.settings import COMPARED, Run, Search
from study.space.axes import Axis, Rule
from study.space.diagnostics import Faults, Where, listed, show


def search(faults: Faults, raw: object, axes: Sequence[Axis], run: Run | None) -> Search | None:
    """How combinations of the ``axes`` are chosen, or None and the faults of it; a lone word is the method."""
    where: Where = ("search",)
    found = faults.section(Search, {"method": raw} if isinstance(raw, str) else raw, where)
    if found is None:
        return None
    if found.method == "grid":
        for axis in axes:
            if axis.range is not None:
                told = "a grid takes lists; for a range, give search: {method: random, trials: 20}, or method optuna"
                faults.add(("axes", axis.name), told)
        return found
    lists = [axis.name for axis in axes if axis.range is None and axis.name != "seed"]
    for name in found.per:
        if name == "seed":
            faults.add((*where, "per"), "every trial is trained with each seed as it is; leave it out")
        elif name not in lists:
            told = f"the lists are {listed(lists)}" if lists else "there is none"
            faults.add((*where, "per"), f"{show(name)} is no axis with a list of values; {told}")
    searched = [axis for axis in axes if axis.name not in (*found.per, "seed")]
    if not searched:
        faults.add(where, "has nothing to choose: give axes beside per and seed")
    if found.sampler == "cmaes" and (len(searched) < 2 or any(axis.range is None for axis in searched)):
        told = "cmaes needs ranges, two of them at least, and no lists; give tpe, or put the lists under per"
        faults.add((*where, "sampler"), told)
    if found.gpu_hours is not None and run is not None and run.gpu == 0:
        told = "counts the hours of GPUs, and run.gpu is 0; give trials or examples"
        faults.add((*where, "gpu_hours"), told)
    return found


def telling(axes: Sequence[Axis], rules: Sequence[Rule]) -> list[Axis]:
    """The axes, each with its first value alone where no other can make a combination wrong or a rule match."""
    matched = {key for rule in rules for values in rule.match.values() for value in values for key in value}
    keys = {*COMPARED, "model", *matched}
    return [axis if keys & axis.values[0].keys() else Axis(name=axis.name, values=axis.values[:1]) for axis in axes]
