"""Reads the ``search`` section of a space, and checks it against the axes."""

from __future__ import annotations

from collections.abc import Sequence

from study.errors import enumerate_names, quote
from study.settings import COMPARED, Run, Search
from study.space.axes import Axis, WhenRule
from study.space.diagnostics import Diagnostics, Location


def read_search(diagnostics: Diagnostics, raw: object, axes: Sequence[Axis], run: Run | None) -> Search | None:
    """How combinations of the ``axes`` are chosen, or None with the errors noted; a lone word is the method."""
    location: Location = ("search",)
    search = diagnostics.section(Search, {"method": raw} if isinstance(raw, str) else raw, location)
    if search is None:
        return None
    if search.method == "grid":
        for axis in axes:
            if axis.range is not None:
                hint = "give search: {method: random, trials: 20} or method optuna"
                diagnostics.error(
                    ("axes", axis.name), f"a grid needs a list of values, not a range; for a range, {hint}"
                )
        return search
    lists = [axis.name for axis in axes if axis.range is None and axis.name != "seed"]
    for name in search.per:
        if name == "seed":
            diagnostics.error((*location, "per"), "seed is not allowed: every trial is trained with each seed")
        elif name not in lists:
            known = f"the lists are {enumerate_names(lists)}" if lists else "there is none"
            diagnostics.error((*location, "per"), f"{quote(name)} is not an axis with a list of values; {known}")
    searched = [axis for axis in axes if axis.name not in (*search.per, "seed")]
    if not searched:
        diagnostics.error(location, "no axes left to search besides those of `per` and `seed`")
    if search.sampler == "cmaes" and (len(searched) < 2 or any(axis.range is None for axis in searched)):
        reason = "cmaes needs at least two ranges and no lists; give tpe, or move the lists to `per`"
        diagnostics.error((*location, "sampler"), reason)
    if search.gpu_hours is not None and run is not None and run.gpu == 0:
        diagnostics.error((*location, "gpu_hours"), "needs run.gpu > 0; or give trials or examples")
    return search


def relevant_axes(axes: Sequence[Axis], rules: Sequence[WhenRule]) -> list[Axis]:
    """The axes that can make a combination invalid or a rule match; of the others, the first value alone."""
    matched = {key for rule in rules for parts in rule.match.values() for part in parts for key in part}
    keys = {*COMPARED, "model", *matched}
    return [axis if keys & set(axis.keys) else Axis(name=axis.name, values=axis.values[:1]) for axis in axes]
