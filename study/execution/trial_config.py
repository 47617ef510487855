"""What Ray Tune hands to a worker: one trial is one trajectory, known by its folder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ray.tune.experiment import Trial

from study.storage import TrajectoryFolder

KEY = "trajectory"


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialConfig:
    """A trajectory's folder and name, and the evaluations of its longest cell."""

    folder: str
    name: str
    epochs: int

    def to_tune(self) -> dict[str, Any]:
        """The config as Tune takes it."""
        return {KEY: asdict(self)}

    @classmethod
    def from_tune(cls, config: Mapping[str, Any]) -> TrialConfig:
        """The config that :meth:`to_tune` returned."""
        return cls(**config[KEY])

    @classmethod
    def of(cls, trial: Trial) -> TrialConfig:
        """The config of a trial."""
        return cls.from_tune(trial.config)

    @property
    def trajectory(self) -> TrajectoryFolder:
        """The trajectory's folder."""
        return TrajectoryFolder(Path(self.folder))


def trajectory_of(trial: Trial) -> str:
    """The id of the trajectory that a trial is."""
    return TrialConfig.of(trial).trajectory.id
