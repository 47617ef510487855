"""Prepares what trajectories need: encoded data for each model, and a config in each trajectory's folder.

Data and models that cannot be used are found here, before a cluster is asked for anything.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from study.data.dataset import open_encoded, prepare
from study.models.classifier import load_classifier
from study.plan.plan import Plan, Trajectory
from study.records import Precision, TrajectoryConfig
from study.settings import BUILT_IN_MODELS
from study.space.space import Space
from study.storage import StudyFolder


def prepare_models(space: Space, models: Iterable[str], *, cache: Path) -> dict[str, Path]:
    """The folder of encoded data for each of ``models``.

    Raises ValueError for data that cannot be read, split or encoded, and for a model that cannot be loaded.
    """
    folders = {}
    for model in models:
        folders[model] = prepare(
            space.data,
            identity=space.data_identity,
            model=model,
            model_identity=space.identities[model],
            cache=cache,
        )
        if model not in BUILT_IN_MODELS:
            data = open_encoded(folders[model])
            load_classifier(
                model, classes=len(data.label_names), special=data.special, max_length=data.max_length, dropout=None
            )
    return folders


def write_configs(
    folder: StudyFolder,
    plan: Plan,
    trajectories: Iterable[Trajectory],
    *,
    space: Space,
    encoded: Mapping[str, Path],
    commits: Mapping[str, str | None],
    auto_precision: Precision,
    gpus: float,
) -> None:
    """Write the config of each trajectory, which trains with ``gpus`` GPUs, or a part of one.

    ``auto_precision`` is what ``precision: auto`` came to, ``commits`` has those of hub models.
    """
    cells = {cell.id: cell for cell in plan.cells}
    for trajectory in trajectories:
        precision = trajectory.settings.precision
        folder.trajectory(trajectory.id).write_config(
            TrajectoryConfig(
                name=trajectory.name,
                settings=trajectory.settings,
                encoded=str(encoded[trajectory.settings.model]),
                policies=tuple(cells[id_].policy for id_ in trajectory.cells),
                optimizer_steps=trajectory.optimizer_steps,
                precision=auto_precision if precision == "auto" else precision,
                commit=commits.get(trajectory.settings.model),
                objective=space.search.objective,
                checkpoint_every_minutes=space.run.checkpoint_every_minutes,
                gpus=gpus,
                keep_best_weights=space.run.keep_best_weights,
            )
        )
