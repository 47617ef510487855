"""Writes made-up studies through the functions that write real ones."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from study.ids import stable_id
from study.plan.plan import Cell, Plan, Trajectory
from study.records import Epoch, Interval, Manifest, Outcome, Record, TrajectoryConfig
from study.scoring import METRICS, Predictions, Scores
from study.settings import Settings
from study.stopping import best_epoch
from study.storage import StudyFolder, TrajectoryFolder

TRAIN, VALIDATION, TEST = 800, 100, 100
CREATED = 1_800_000_000.0


def make_settings(**values: Any) -> Settings:
    """A cell's settings; four epochs of tiny-bert unless ``values`` say otherwise."""
    return Settings.model_validate({"model": "tiny-bert", "epochs": 4, **values})


def make_manifest(**values: Any) -> Manifest:
    """What a made-up study is."""
    return Manifest(
        **{
            "id": "made-up",
            "name": "made-up",
            "created": CREATED,
            "versions": {"torch": "2.13.0", "mlflow": "3.17.2"},
            "git": {"commit": "0123abc", "dirty": True},
            **values,
        }
    )


def make_config(trajectory: Trajectory, **values: Any) -> TrajectoryConfig:
    """What a trajectory trains, with one policy that never stops early."""
    return TrajectoryConfig(
        **{
            "name": trajectory.name,
            "settings": trajectory.settings,
            "encoded": "nowhere",
            "policies": (trajectory.settings.policy(trajectory.epochs),),
            "optimizer_steps": trajectory.optimizer_steps,
            **values,
        }
    )


def make_study(path: Path, axes: Mapping[str, Sequence[Any]], *, name: str = "made-up", **fixed: Any) -> "StudyBuilder":
    """A study of the product of ``axes``, planned and not yet trained."""
    combinations: list[dict[str, Any]] = [{}]
    for key, values in axes.items():
        combinations = [{**combination, key: value} for combination in combinations for value in values]
    return StudyBuilder.planned(path, name, tuple(axes), [make_settings(**fixed | some) for some in combinations])


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyBuilder:
    """A study folder and the means to let its trajectories seem to be trained."""

    folder: StudyFolder
    plan: Plan
    manifest: Manifest

    @classmethod
    def planned(cls, path: Path, name: str, axes: tuple[str, ...], cells: Sequence[Settings]) -> "StudyBuilder":
        plan = make_plan(name, axes, cells)
        manifest = make_manifest(id=stable_id([name, str(path)]), name=name)
        builder = cls(folder=StudyFolder(path), plan=plan, manifest=manifest)
        builder.write()
        return builder

    def write(self, **manifest: Any) -> None:
        """Write what the folder says of the study; ``manifest`` replaces entries of its manifest."""
        self.folder.write_space(f"name: {self.plan.study}\n")
        self.folder.write_plan(self.plan.to_json())
        self.folder.write_manifest(replace(self.manifest, **manifest))

    def train(
        self,
        trajectory: Trajectory,
        *,
        validation_loss: Sequence[float],
        outcome: Outcome | None = None,
        seed: int = 0,
    ) -> TrajectoryFolder:
        """Append the epochs whose validation losses are given, from the first on; with ``outcome``, end there."""
        folder = self.folder.trajectory(trajectory.id)
        folder.write_config(make_config(trajectory))
        history = make_history(trajectory, validation_loss, seed=seed)
        for epoch in (record for record in history if isinstance(record, Epoch)):
            if np.isfinite(epoch.validation["loss"]):
                folder.write_predictions(epoch.epoch, "validation", make_predictions(VALIDATION, seed + epoch.epoch))
            if epoch.test is not None:
                folder.write_predictions(epoch.epoch, "test", make_predictions(TEST, seed + 1_000 + epoch.epoch))
        folder.append(history)
        if outcome is not None:
            folder.write_outcome(outcome)
        return folder


def make_plan(name: str, axes: tuple[str, ...], cells: Sequence[Settings]) -> Plan:
    """A plan in which cells that differ only in early stopping share a trajectory, the one that never stops first."""
    groups: dict[str, list[Cell]] = {}
    for settings in cells:
        assert settings.epochs is not None
        trajectory = stable_id({key: value for key, value in settings.identity().items() if key != "early_stopping"})
        cell = Cell(
            id=stable_id(settings.identity()),
            name=" · ".join(f"{key} {getattr(settings, key)}" for key in axes),
            settings=settings,
            trajectory=trajectory,
            epochs=settings.epochs,
            optimizer_steps=settings.epochs * -(-TRAIN // settings.batch_size),
            examples=settings.epochs * TRAIN,
        )
        groups.setdefault(trajectory, []).append(cell)
    trajectories = []
    for id_, group in groups.items():
        first = min(group, key=lambda cell: -(cell.policy.patience or 10**9))
        rest = tuple(cell.id for cell in group if cell is not first)
        trajectories.append(
            Trajectory(
                id=id_,
                name=first.name,
                settings=first.settings,
                cells=(first.id, *rest),
                epochs=first.epochs,
                optimizer_steps=first.optimizer_steps,
                steps_per_epoch=first.optimizer_steps // first.epochs,
                examples=first.examples,
            )
        )
    return Plan(
        study=name,
        axes=axes,
        cells=tuple(cell for group in groups.values() for cell in group),
        trajectories=tuple(trajectories),
    )


def make_history(trajectory: Trajectory, validation_loss: Sequence[float], *, seed: int) -> list[Record]:
    """Four intervals and an evaluation for each validation loss; all else is drawn, the same for the same seed."""
    history: list[Record] = []
    past: list[Scores] = []
    for number, loss in enumerate(validation_loss, start=1):
        rng = np.random.default_rng([seed, number])
        past.append({"loss": loss, "accuracy": float(rng.uniform(0.5, 0.9)) if np.isfinite(loss) else 0.5})
        best = number in {best_epoch(past, metric) for metric in METRICS}
        done = (number - 1) * TRAIN
        rate = trajectory.settings.learning_rate
        for part in range(1, 5):
            seen = done + part * TRAIN // 4
            history.append(
                Interval(
                    examples_seen=seen,
                    optimizer_step=seen * trajectory.steps_per_epoch // TRAIN,
                    train_loss=float(rng.uniform(0.3, 0.8)),
                    gradient_norm=float(rng.uniform(0.5, 2)),
                    learning_rate=rate,
                    time=CREATED + seen / 100,
                )
            )
        history.append(
            make_epoch(
                number,
                examples_seen=number * TRAIN,
                optimizer_step=number * trajectory.steps_per_epoch,
                train_loss=float(rng.uniform(0.3, 0.8)) if np.isfinite(loss) else float("nan"),
                validation=past[-1],
                test={name: float(rng.uniform(0.3, 0.8)) for name in METRICS} if best else None,
                non_finite_steps=0 if np.isfinite(loss) else 3,
                learning_rate=rate,
                time=CREATED + number * TRAIN / 100 + 1,
            )
        )
    return history


def make_epoch(number: int, **values: Any) -> Epoch:
    """An epoch's record, with plain numbers for all that ``values`` leave out."""
    return Epoch(
        **{
            "epoch": number,
            "examples_seen": number * TRAIN,
            "optimizer_step": number * TRAIN // 16,
            "train_loss": 0.5,
            "validation": {"loss": 0.5, "accuracy": 0.8},
            "test": None,
            "gradient_norm_mean": 1.0,
            "gradient_norm_max": 2.0,
            "update_ratio": 1e-3,
            "majority_share": 0.6,
            "entropy": 0.5,
            "confidence": 0.8,
            "logit_std": 1.0,
            "non_finite_steps": 0,
            "learning_rate": 5e-5,
            "train_seconds": 8.0,
            "time": CREATED + number,
            **values,
        }
    )


def make_predictions(examples: int, seed: int) -> Predictions:
    """Logits that have something to do with the labels."""
    rng = np.random.default_rng(seed)
    label = rng.integers(0, 2, examples)
    logits = rng.normal(size=(examples, 2))
    logits[np.arange(examples), label] += 1
    return Predictions(example_id=np.arange(examples), label=label, logits=logits.astype(np.float32))


def ended(stop_reason: Any = "epochs exhausted", **values: Any) -> Outcome:
    """A trajectory that came to its end."""
    return Outcome(
        **{
            "status": "complete",
            "stop_reason": stop_reason,
            "device": "CPU",
            "precision": "float32",
            "micro_batch_size": 16,
            **values,
        }
    )
