"""Names of settings and of runs: what distinguishes them within the study or a part of it, and no more."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from analysis.evidence.conditions import describe, describe_setting
from analysis.results import Results
from study.settings import Settings


@dataclass(frozen=True, slots=True, kw_only=True)
class Naming:
    """Names settings by ``keys``, but for what goes without saying: that nothing stops a cell early.

    ``schedule_implies_warmup`` says that this is also true of no warm-up, because each schedule has one warm-up.
    """

    keys: tuple[str, ...]
    schedule_implies_warmup: bool = False

    @classmethod
    def of(cls, members: Sequence[Settings], keys: Sequence[str]) -> Naming:
        """The names by those of ``keys`` of which ``members`` have several values."""
        unique = dict.fromkeys(keys)
        varying = tuple(key for key in unique if len({getattr(settings, key) for settings in members}) > 1)
        schedules = {(settings.lr_schedule, settings.warmup_fraction) for settings in members}
        implied = "lr_schedule" in varying and len(schedules) == len({name for name, _ in schedules})
        return cls(keys=varying, schedule_implies_warmup=implied)

    def name(self, settings: Settings, *, without: Sequence[str] = ()) -> str:
        """The name of these settings; empty where no key distinguishes them."""
        implied = {"warmup_fraction"} if self.schedule_implies_warmup and not settings.warmup_fraction else set()
        if settings.early_stopping is None:
            implied.add("early_stopping")
        named = [key for key in self.keys if key not in without]
        keys = [key for key in named if key not in implied] or named
        return describe(settings, keys) if keys else ""


def cell_naming(results: Results) -> Naming:
    """How the study's cells are named; by the model where nothing varies."""
    return Naming.of([cell.settings for cell in results.plan.cells], ["model", *results.varying])


def run_naming(results: Results) -> Naming:
    """How the study's trajectories are named."""
    return Naming.of([run.settings for run in results.runs], ["model", *results.varying_trained])


def name_or_model(naming: Naming, settings: Settings, *, without: Sequence[str] = ()) -> str:
    """The name of these settings, or their model where nothing else distinguishes them."""
    return naming.name(settings, without=without) or describe_setting("model", settings)
