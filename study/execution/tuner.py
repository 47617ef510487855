"""How does Ray Tune run the trajectories of a study?

One trial is one trajectory, and a trajectory's folder says how far it came; so Tune is never asked to restore anything.
Each start gives it the trajectories that are left, and what Ray itself writes is thrown away with the next start.
"""

from __future__ import annotations

import contextlib
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, Self, cast

import study.execution.cluster  # noqa: F401  # Ray reads its environment, which is set there, when it is imported

# isort: split
import ray
from ray import tune
from ray.tune.experiment import Trial
from ray.tune.progress_reporter import TrialProgressCallback
from ray.tune.search import Searcher

from study.execution.interruption import Interrupted, Signals
from study.execution.trial_schedulers import PerGroup, trajectory_of
from study.plan.plan import Trajectory
from study.records import Outcome, StudyFolder, TrajectoryFolder, write_atomically
from study.settings import Run

# How long running trajectories may take to save themselves after Ctrl-C: an interval's training and a checkpoint.
SAVE_WITHIN_SECONDS = 60


class Source(Protocol):
    """Where a search's trajectories come from, one after the other."""

    done: bool

    def take(self) -> Trajectory | None: ...  # noqa: D102

    def ended(self, id_: str) -> None: ...  # noqa: D102


class View(Protocol):
    """Who is told what happens, by a trajectory's id; its methods return soon and raise nothing."""

    def started(self, trajectory: str) -> None: ...  # noqa: D102

    def reported(self, trajectory: str, result: Mapping[str, Any]) -> None: ...  # noqa: D102

    def ended(self, trajectory: str, *, error: str | None, cut: bool = False) -> None: ...  # noqa: D102


class _Watch(TrialProgressCallback):
    """Tells the view what Tune does, and writes down what failed.

    In the place of Tune's own line for a trial that ends without a result, which it prints at any verbosity.
    """

    def __init__(self, folder: StudyFolder, view: View, scheduler: PerGroup | None) -> None:
        self.folder = folder
        self.view = view
        self.scheduler = scheduler
        self.waiting_for: set[str] | None = None
        self.until = 0.0

    def __getstate__(self) -> dict[str, Any]:
        """Tune keeps a copy of its callbacks on disk, where a view makes no sense; nothing reads it."""
        return {}

    def on_trial_start(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        """Called before a trial's first step, and again when it goes on after a failure."""
        self.view.started(trajectory_of(trial))

    def on_trial_result(
        self, iteration: int, trials: list[Trial], trial: Trial, result: dict[str, Any], **info: Any
    ) -> None:
        """Called after each epoch."""
        self.view.reported(trajectory_of(trial), result)

    def on_trial_complete(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        """Called when a trajectory has come to its end, was cut, or has saved itself to go on later."""
        _forget_metrics(trial)
        if self.folder.stop_file.exists():
            return
        trajectory = self.folder.trajectory(trajectory_of(trial))
        # Storage that nodes share may show an outcome seconds after it was written; what was cut, the scheduler knows.
        cut = self.scheduler is not None and trajectory_of(trial) in self.scheduler.cut and trajectory.outcome() is None
        if cut:
            _write_cut(trajectory)
        self.view.ended(trajectory_of(trial), error=None, cut=cut)

    def on_trial_error(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        """Called when a trial has failed as often as it may."""
        _forget_metrics(trial)
        error, trajectory = trial.get_error(), self.folder.trajectory(trajectory_of(trial))
        text = Path(trial.error_file).read_text() if trial.error_file else str(error)
        log = trajectory.path / "error.log"
        with contextlib.suppress(OSError):  # of a full disk, which ends no study
            write_atomically(log, text.encode())
        reason = f"{_reason(error, text)} (tried {_times(trial.num_failures)})"
        trajectory.write_outcome(Outcome(status="failed", error=reason, log=str(log)))
        self.view.ended(trajectory_of(trial), error=reason)

    def on_step_end(self, iteration: int, trials: list[Trial], **info: Any) -> None:
        """Called several times a second."""
        if not self.folder.stop_file.exists():
            return
        running = {trial.trial_id for trial in trials if trial.status == Trial.RUNNING}
        if self.waiting_for is None:
            self.waiting_for, self.until = running, time.monotonic() + SAVE_WITHIN_SECONDS
        if not self.waiting_for & running or time.monotonic() > self.until:
            raise Interrupted


def _forget_metrics(trial: Trial) -> None:
    """Tune keeps the last values of each metric of each trial, some 30 KB; nobody reads those of one that has ended."""
    trial.run_metadata.metric_n_steps = {}
    trial.run_metadata.metric_analysis = {}


def _reason(error: Exception | None, text: str) -> str:
    """The line of a worker's traceback that says what went wrong."""
    cause = getattr(error, "cause", None) or error
    if isinstance(cause, ray.exceptions.RayActorError):
        return "its process was killed, or its node was lost"
    lines = [line for line in text.strip().splitlines() if line.strip() and not line.startswith((" ", "\t"))]
    return lines[-1] if lines else type(cause).__name__


def _times(number: int) -> str:
    return "once" if number == 1 else f"{number} times"


def _write_cut(trajectory: TrajectoryFolder) -> None:
    """Say that a trial scheduler has cut a trajectory, which then needs its checkpoints no more."""
    epochs, config = trajectory.epochs(), trajectory.config() or {}
    trajectory.write_outcome(
        Outcome(
            status="complete",
            stop_reason="cut",
            epochs=len(epochs),
            train_seconds=sum(epoch.train_seconds for epoch in epochs),
            precision=config.get("precision", ""),
            gpus=config.get("gpus", 0.0),
        )
    )
    shutil.rmtree(trajectory.path / "checkpoints", ignore_errors=True)


class _Suggestions(Searcher):
    """Hands a source's trajectories to Tune, which asks for one whenever there is room."""

    def __init__(self, source: Source, folder: StudyFolder, choose: Callable[[Trajectory], dict[str, Any]]) -> None:
        super().__init__()
        self.source = source
        self.folder = folder
        self.choose = choose
        self.trials: dict[str, str] = {}

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self

    def __reduce__(self) -> tuple[type[Searcher], tuple[()]]:
        """Tune keeps a copy on disk, which nothing reads."""
        return Searcher, ()

    def set_search_properties(self, metric: str | None, mode: str | None, config: dict[str, Any], **spec: Any) -> bool:
        """What is searched stands in the space."""
        return True

    def suggest(self, trial_id: str) -> dict[str, Any] | None:
        """The next trial's part of the config."""
        trajectory = None if self.folder.stop_file.exists() else self.source.take()
        if trajectory is None:
            return cast("dict[str, Any]", Searcher.FINISHED) if self.source.done else None  # so Tune says it
        self.trials[trial_id] = trajectory.id
        return {"trajectory": self.choose(trajectory)}

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Called when a trial has ended in any way."""
        self.source.ended(self.trials[trial_id])

    def save(self, checkpoint_path: str) -> None:
        """Nothing: a source finds by itself where it stood."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing."""


def train(
    folder: StudyFolder,
    trajectories: Sequence[Trajectory] | Source,
    run: Run,
    view: View,
    signals: Signals,
    *,
    scheduler: PerGroup | None = None,
) -> None:
    """Train ``trajectories``, as many at once as the cluster has room for; those of a search as they come.

    Their configs lie ready, and say how many GPUs, or what part of one, each gets. A trajectory that fails more than
    ``run.max_failures`` times is written down as failed, and the rest goes on.
    Raises Interrupted after a signal, once the running ones have saved themselves.
    """
    state = folder.path / "ray"
    shutil.rmtree(state, ignore_errors=True)

    def begin(trajectory: Trajectory) -> dict[str, Any]:
        records = folder.trajectory(trajectory.id)
        records.forget_outcome()
        gpus = (records.config() or {}).get("gpus", run.gpu or 0.0)
        return {"folder": str(records.path), "name": trajectory.name, "epochs": trajectory.epochs, "gpus": gpus}

    cpu = run.cpu

    def resources(config: dict[str, Any]) -> tune.PlacementGroupFactory:
        return tune.PlacementGroupFactory([{"CPU": cpu, "GPU": config["trajectory"]["gpus"]}])

    def fine_tuning(config: dict[str, Any]) -> None:
        from study.training.trajectory import tune_trainable

        tune_trainable(config)

    space: dict[str, Any] = {"cpu_threads": max(1, int(run.cpu)), "stop_file": str(folder.stop_file)}
    search = None
    if isinstance(trajectories, Sequence):
        space["trajectory"] = tune.grid_search([begin(trajectory) for trajectory in trajectories])
    else:
        search = _Suggestions(trajectories, folder, begin)
    tuner = tune.Tuner(
        tune.with_resources(fine_tuning, resources),
        param_space=space,
        tune_config=tune.TuneConfig(
            reuse_actors=True,
            search_alg=search,
            num_samples=1 if search is None else -1,
            scheduler=scheduler,
            trial_name_creator=lambda trial: str(trial.config["trajectory"]["name"]),
            trial_dirname_creator=trajectory_of,
        ),
        run_config=tune.RunConfig(
            name="tune",
            storage_path=str(state),
            failure_config=tune.FailureConfig(max_failures=run.max_failures),
            callbacks=[_Watch(folder, view, scheduler)],
            verbose=0,
        ),
    )
    signals.saving = True
    try:
        tuner.fit()
    except Exception as error:
        if signals.received is None:
            raise
        raise Interrupted from error
    finally:
        signals.saving = False
    if signals.received is not None:
        raise Interrupted
