"""What must lie ready before the first trajectory trains?

Encoded data for each model, and a config in each trajectory's folder. Data and models that cannot be used are found
here, before a cluster is asked for anything.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path

from study.data.dataset import open_encoded, prepare
from study.models.classifier import BUILT_IN, load_classifier
from study.plan.plan import Plan, Trajectory
from study.records import StudyFolder
from study.space.reader import Space


def prepare_models(space: Space, models: Iterable[str], *, cache: Path) -> dict[str, Path]:
    """The folder of encoded data for each of ``models``.

    Raises ValueError for data that cannot be read, split or encoded, and for a model that cannot be loaded.
    """
    folders = {}
    for model in models:
        folders[model] = prepare(
            space.data,
            identity=space.identities["data"],
            examples=space.examples,
            model=model,
            model_identity=space.identities[model],
            cache=cache,
        )
        if model not in BUILT_IN:
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
    encoded: dict[str, Path],
    auto_precision: str,
    gpus: Mapping[str, float] | None = None,
) -> None:
    """Say in each trajectory's folder what it trains, and with how many of the ``gpus``, by its id.

    ``auto_precision`` is what ``precision: auto`` has come to.
    """
    cells = {cell.id: cell for cell in plan.cells}
    for trajectory in trajectories:
        precision = trajectory.settings["precision"]
        folder.trajectory(trajectory.id).write_config(
            {
                "name": trajectory.name,
                "settings": dict(trajectory.settings),
                "encoded": str(encoded[trajectory.settings["model"]]),
                "precision": auto_precision if precision == "auto" else precision,
                "policies": [asdict(cells[id_].policy) for id_ in trajectory.cells],
                "optimizer_steps": trajectory.optimizer_steps,
                "checkpoint_metric": cells[trajectory.cells[0]].settings["checkpoint_metric"],
                "checkpoint_every_minutes": space.run.checkpoint_every_minutes,
                "objective": space.search.objective,
                "gpus": (gpus or {}).get(trajectory.id, space.run.gpu or 0.0),
                "keep_best_weights": space.run.keep_best_weights,
            }
        )
