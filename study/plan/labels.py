"""Settings in a few words, as names of cells, tables and legends show them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from study.settings import EarlyStopping, Settings, setting_type

if TYPE_CHECKING:
    from study.space.axes import PartialSettings
    from study.space.space import Space

# A name has to fit beside the numbers of a table.
SHORT_NAMES: Mapping[str, str] = {
    "learning_rate": "lr",
    "warmup_fraction": "warm-up",
    "batch_size": "batch",
    "optimizer_steps": "steps",
}


def label(key: str, value: object) -> str:
    """One setting in a few words."""
    if key == "early_stopping":
        if not isinstance(value, EarlyStopping):
            return "no early stopping"
        delta = f" min_delta {value.min_delta:g}" if value.min_delta else ""
        return f"patience {value.patience} on {value.metric}{delta}"
    if key == "model":
        return str(value).rstrip("/").rsplit("/", 1)[-1]
    if key == "lr_schedule":
        return str(value)
    if isinstance(value, float):
        return f"{key} {value:g}"
    if isinstance(value, tuple):
        value = list(value)
    return f"{key} {'none' if value is None else value}"


def short_name(key: str) -> str:
    """The name of a setting as a column's heading."""
    return SHORT_NAMES.get(key, key).replace("_", " ")


def cell_name(settings: Settings, axes: Iterable[str]) -> str:
    """The values of the ``axes`` in words; without axes, the model."""
    parts = [(key, getattr(settings, key)) for key in axes or ("model",)]
    return " · ".join(
        label(key, value).replace(key, SHORT_NAMES.get(key, key), 1)
        for key, value in parts
        if value is not None or key != "epochs"
    )


def group_of(space: Space, settings: Settings) -> str:
    """The name of the search of ``space`` that ``settings`` belong to."""
    return _group_name({key: getattr(settings, key) for key in space.per_keys})


def search_groups(space: Space) -> dict[str, PartialSettings]:
    """The searches of ``space`` by name, each with the values of its ``per`` axes."""
    return {
        _group_name({key: setting_type(key).validate_python(value) for key, value in group.items()}): group
        for group in space.groups()
    }


def _group_name(values: Mapping[str, object]) -> str:
    return " · ".join(label(key, value) for key, value in values.items()) or "all"
