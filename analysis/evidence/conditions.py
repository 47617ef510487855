"""Conditions and strata: runs that differ in few settings, so that a difference can be attributed to these.

A *condition* is all settings of a cell but its seed. In a *stratum* everything is fixed but the compared keys, and it
has one arm for each of their values.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from analysis.wording import setting_name
from study.plan.labels import label
from study.settings import Settings

T = TypeVar("T")
# The values of all settings but some; equal and hashed by them.
SettingsKey = tuple[Hashable, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Arm(Generic[T]):
    """The members of a stratum that share the compared value, by seed."""

    settings: Settings
    members: Mapping[int, T]


@dataclass(frozen=True, slots=True, kw_only=True)
class Stratum(Generic[T]):
    """Members that differ in nothing but the compared keys and the seed; ``settings`` are those of the first member.

    Arms are keyed by the compared value in words.
    """

    settings: Settings
    arms: Mapping[str, Arm[T]]

    def shared_seeds(self, first: str, second: str) -> list[int]:
        """The seeds that both arms have."""
        return sorted(self.arms[first].members.keys() & self.arms[second].members.keys())


def settings_key(settings: Settings, without: Iterable[str]) -> SettingsKey:
    """A key that is equal for settings that differ in nothing but ``without``."""
    excluded = set(without)
    return tuple(getattr(settings, key) for key in Settings.model_fields if key not in excluded)


def strata(
    members: Sequence[T],
    settings_of: Callable[[T], Settings],
    *,
    compared: Sequence[str],
    ignored: Sequence[str] = (),
) -> list[Stratum[T]]:
    """The strata of ``members``, in their order; ``ignored`` keys may differ without being compared."""
    members_by_stratum: dict[SettingsKey, dict[str, dict[int, T]]] = {}
    stratum_settings: dict[SettingsKey, Settings] = {}
    arm_settings: dict[tuple[SettingsKey, str], Settings] = {}
    for member in members:
        settings = settings_of(member)
        key = settings_key(settings, [*compared, *ignored, "seed"])
        value = describe(settings, compared)
        members_by_stratum.setdefault(key, {}).setdefault(value, {}).setdefault(settings.seed, member)
        stratum_settings.setdefault(key, settings)
        arm_settings.setdefault((key, value), settings)
    return [
        Stratum(
            settings=stratum_settings[key],
            arms={value: Arm(settings=arm_settings[key, value], members=seeds) for value, seeds in arms.items()},
        )
        for key, arms in members_by_stratum.items()
    ]


def describe(settings: Settings, keys: Iterable[str]) -> str:
    """Some settings in words, as tables and legends show them."""
    return " · ".join(describe_setting(key, settings) for key in keys if _applies(key, settings)) or "all settings"


def describe_setting(key: str, settings: Settings) -> str:
    """One setting in words that need no column heading."""
    value = getattr(settings, key)
    if key == "model":
        return label(key, value)
    if key == "warmup_fraction":
        return f"{value:.0%} warm-up" if value else "no warm-up"
    if key == "learning_rate":
        return f"lr {value:g}"
    if key == "lr_scaling":
        return f"{value} lr scaling" if value != "none" else "no lr scaling"
    if key == "batch_size":
        return f"batch {value:,}"
    if key == "max_gradient_norm":
        return "no clipping" if value is None else f"clipped at {value:g}"
    if key == "adam_betas":
        return f"β {value[0]:g}, {value[1]:g}"
    if key in ("epochs", "optimizer_steps"):
        return f"{value:,} {setting_name(key)}"
    return label(key, value).replace("_", " ")


def _applies(key: str, settings: Settings) -> bool:
    return not (key in ("epochs", "optimizer_steps", "polynomial_power") and getattr(settings, key) is None)


def group_by(members: Sequence[T], settings_of: Callable[[T], Settings], keys: Sequence[str]) -> dict[str, list[T]]:
    """The ``members`` by what :func:`describe` says of these settings, in their order."""
    groups: dict[str, list[T]] = {}
    for member in members:
        groups.setdefault(describe(settings_of(member), keys), []).append(member)
    return groups


def schedule_keys(varying: Sequence[str]) -> tuple[str, ...]:
    """The settings that distinguish schedules in this study: the name, and warm-up and power where they vary."""
    return tuple(key for key in ("lr_schedule", "warmup_fraction", "polynomial_power") if key in varying)
