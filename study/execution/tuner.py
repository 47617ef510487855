"""Runs the trajectories of a study under Ray Tune.

One trial is one trajectory, and a trajectory's folder says how far it came; so Tune is never asked to restore anything.
Each start gives it the trajectories that are left, and what Ray itself writes is deleted at the next start.
"""

from __future__ import annotations

import contextlib
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol, Self, cast

import study.execution.cluster  # noqa: F401  # Ray reads its environment, which is set there, when it is imported

# isort: split
from ray import tune
from ray.tune.experiment import Trial
from ray.tune.progress_reporter import TrialProgressCallback
from ray.tune.search import Searcher

from study.execution.failures import Failures
from study.execution.interruption import Interrupted, InterruptHandler
from study.execution.manifest import package_versions
from study.execution.node_facts import code_hash, study_probe
from study.execution.placement import Placement, TrialResources
from study.execution.trial_config import KEY, TrialConfig, trajectory_of
from study.execution.trial_schedulers import PerSearchScheduler
from study.execution.watch import Watch
from study.locks import BEAT_SECONDS
from study.plan.plan import Trajectory
from study.records import Epoch, Outcome, from_line
from study.settings import Run
from study.storage import StudyFolder, TrajectoryFolder, write_bytes

# Time limit for the trajectories to save after Ctrl-C: the rest of an interval and a checkpoint.
SAVE_WITHIN_SECONDS = 60


class TrajectorySource(Protocol):
    """Supplies a search's trajectories, one after the other."""

    done: bool

    def next(self) -> Trajectory | None: ...  # noqa: D102

    def trajectory_ended(self, id_: str) -> None: ...  # noqa: D102


class ProgressListener(Protocol):
    """Hears what happens, by a trajectory's id; its methods return soon and raise nothing."""

    def say(self, text: str) -> None: ...  # noqa: D102

    def on_start(self, trajectory: str) -> None: ...  # noqa: D102

    def on_failure(self, trajectory: str, reason: str) -> None: ...  # noqa: D102

    def on_move(self, trajectory: str, reason: str) -> None: ...  # noqa: D102

    def on_epoch(self, trajectory: str, epoch: Epoch) -> None: ...  # noqa: D102

    def on_end(self, trajectory: str, *, error: str | None, stopped: bool = False) -> None: ...  # noqa: D102


class _TuneCallback(TrialProgressCallback):
    """Passes what Tune does on to the listener, and records failures.

    It replaces Tune's own line for a trial that ends without a result, which is printed at any verbosity.
    """

    def __init__(
        self,
        interrupts: InterruptHandler,
        listener: ProgressListener,
        watch: Watch,
        failures: Failures,
        scheduler: PerSearchScheduler | None,
    ) -> None:
        self.interrupts = interrupts
        self.listener = listener
        self.watch = watch
        self.failures = failures
        self.scheduler = scheduler
        self.checked = time.monotonic()
        self.saving: set[str] | None = None
        self.deadline = 0.0

    def __getstate__(self) -> dict[str, Any]:
        """Nothing: Tune writes its callbacks to disk, where a listener makes no sense; nothing reads them."""
        return {}

    def on_trial_start(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        """Called before a trial's first step, and again when it resumes after a failure."""
        self.watch.on_start(trial)
        self.listener.on_start(trajectory_of(trial))

    def on_trial_result(
        self, iteration: int, trials: list[Trial], trial: Trial, result: dict[str, Any], **info: Any
    ) -> None:
        """Called after each epoch."""
        epoch = from_line(result["record"])
        assert isinstance(epoch, Epoch)
        self.failures.on_epoch(trial)
        self.listener.on_epoch(trajectory_of(trial), epoch)

    def on_trial_complete(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        """Called when a trajectory has ended, was stopped by a scheduler, or has saved a checkpoint to resume from."""
        _forget_metrics(trial)
        if self.interrupts.received:
            return
        trajectory = TrialConfig.of(trial).trajectory
        # Shared storage may show an outcome seconds after it was written; what was stopped, the scheduler knows.
        stopped = (
            self.scheduler is not None and trajectory.id in self.scheduler.stopped and trajectory.outcome() is None
        )
        if stopped:
            _write_stopped(trajectory)
        self.listener.on_end(trajectory.id, error=None, stopped=stopped)

    def on_trial_recover(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        """Called when a trial has failed and will be tried again."""
        if moved := self.failures.moved.get(trial.trial_id):
            self.listener.on_move(trajectory_of(trial), moved)
            return
        reason = self.watch.ended.pop(trial.trial_id, None) or _reason(_traceback(trial))
        self.listener.on_failure(trajectory_of(trial), reason)

    def on_trial_error(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        """Called when a trial has failed as often as it may."""
        _forget_metrics(trial)
        trajectory = TrialConfig.of(trial).trajectory
        text = _traceback(trial)
        with contextlib.suppress(OSError):  # of a full disk, which must not end the study
            write_bytes(trajectory.error_log, text.encode())
        reason = self.watch.ended.pop(trial.trial_id, None) or _reason(text)
        reason = f"{reason} (tried {_times(trial.num_failures)})"
        trajectory.write_outcome(Outcome(status="failed", error=reason, log=str(trajectory.error_log)))
        self.listener.on_end(trajectory.id, error=reason)

    def on_step_end(self, iteration: int, trials: list[Trial], **info: Any) -> None:
        """Called several times a second. Raises LockLostError where another process drives the study by now."""
        if time.monotonic() - self.checked > BEAT_SECONDS:
            self.checked = time.monotonic()
            self.interrupts.lease.check()
        self.watch.look(trials)
        if not self.interrupts.received:
            return
        running = {trial.trial_id for trial in trials if trial.status == Trial.RUNNING}
        if self.saving is None:
            self.saving, self.deadline = running, time.monotonic() + SAVE_WITHIN_SECONDS
        if not self.saving & running or time.monotonic() > self.deadline:
            raise Interrupted


def _forget_metrics(trial: Trial) -> None:
    """Drop the metric windows that Tune keeps of an ended trial, some 30 KB, which nobody reads."""
    trial.run_metadata.metric_n_steps = {}
    trial.run_metadata.metric_analysis = {}


def _traceback(trial: Trial) -> str:
    """The tracebacks of a trial's failures, as Tune keeps them."""
    return Path(trial.error_file).read_text() if trial.error_file else str(trial.get_error())


def _reason(text: str) -> str:
    """The line that names the error in the last of a trial's tracebacks."""
    lines = [line for line in text.strip().splitlines() if line.strip() and not line.startswith((" ", "\t"))]
    last = lines[-1] if lines else "unknown"
    return "its process died, or was cut off" if last.startswith("The actor ") else last


def _times(number: int) -> str:
    return "once" if number == 1 else f"{number} times"


def _write_stopped(trajectory: TrajectoryFolder) -> None:
    """Record that a trial scheduler stopped a trajectory, which then needs its checkpoints no more."""
    epochs, config = trajectory.epochs(), trajectory.config()
    assert config is not None
    trajectory.write_outcome(
        Outcome(
            status="complete",
            stop_reason="cut",
            epochs=len(epochs),
            train_seconds=sum(epoch.train_seconds for epoch in epochs),
            precision=config.precision or "",
            gpus=config.gpus,
        )
    )
    trajectory.delete_checkpoints()


class _QueueSearcher(Searcher):
    """Gives a source's trajectories to Tune, which asks for one whenever there is room."""

    def __init__(
        self,
        source: TrajectorySource,
        interrupts: InterruptHandler,
        start: Callable[[Trajectory], TrialConfig],
        most_at_once: Callable[[], int | None],
    ) -> None:
        super().__init__()
        self.source = source
        self.interrupts = interrupts
        self.start = start
        self.most_at_once = most_at_once
        self.trials: dict[str, str] = {}
        self.ended = 0

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self

    def __reduce__(self) -> tuple[type[Searcher], tuple[()]]:
        """Nothing of this: Tune writes it to disk, where nothing reads it."""
        return Searcher, ()

    def set_search_properties(self, metric: str | None, mode: str | None, config: dict[str, Any], **spec: Any) -> bool:
        """Accept Tune's properties: what is searched is the space's matter."""
        return True

    def suggest(self, trial_id: str) -> dict[str, Any] | None:
        """The next trial's part of the config."""
        most = self.most_at_once()
        if most is not None and len(self.trials) - self.ended >= most:
            return None
        trajectory = None if self.interrupts.received else self.source.next()
        if trajectory is None:
            return cast("dict[str, Any]", Searcher.FINISHED) if self.source.done else None  # Tune's protocol
        self.trials[trial_id] = trajectory.id
        return self.start(trajectory).to_tune()

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Called when a trial has ended in any way."""
        self.ended += 1
        self.source.trajectory_ended(self.trials[trial_id])

    def save(self, checkpoint_path: str) -> None:
        """Save nothing: a source finds by itself where it stood."""

    def restore(self, checkpoint_path: str) -> None:
        """Restore nothing."""


def train(
    folder: StudyFolder,
    trajectories: Sequence[Trajectory] | TrajectorySource,
    run: Run,
    listener: ProgressListener,
    interrupts: InterruptHandler,
    *,
    placement: Placement,
    scheduler: PerSearchScheduler | None = None,
) -> None:
    """Train ``trajectories``, as many at once as the cluster has room for; those of a search as they come.

    Their configs are written already. A trajectory that fails more than ``run.max_failures`` times is recorded as
    failed, and the others continue; what its node is the reason of does not count (see :class:`Failures`). Raises
    Interrupted after a signal, once the running ones have saved a checkpoint.
    """

    def start(trajectory: Trajectory) -> TrialConfig:
        records = folder.trajectory(trajectory.id)
        records.forget_outcome()
        return TrialConfig(folder=str(records.path), name=trajectory.name, epochs=trajectory.epochs)

    shutil.rmtree(folder.tune, ignore_errors=True)
    stop, probe = interrupts.stop, study_probe(folder)
    space: dict[str, Any] = {
        "cpu_threads": max(1, int(run.cpu)),
        "stop_file": str(stop.path),
        "run": stop.run,
        "probe": probe,
        "versions": package_versions(),
        "code": code_hash(),
    }
    searcher = None
    if isinstance(trajectories, Sequence):
        space[KEY] = tune.grid_search([start(trajectory).to_tune()[KEY] for trajectory in trajectories])
    else:
        searcher = _QueueSearcher(trajectories, interrupts, start, placement.most_at_once)
    watch = Watch(run, placement, stop, probe, listener.say)
    failures = Failures(placement, watch.leave_out)
    cpu, gpu = run.cpu, run.gpu or 0.0
    tuner = tune.Tuner(
        tune.with_resources(_train_trial, lambda config: TrialResources(cpu, gpu)),
        param_space=space,
        tune_config=tune.TuneConfig(
            reuse_actors=True,
            search_alg=searcher,
            num_samples=1 if searcher is None else -1,
            scheduler=scheduler,
            trial_name_creator=lambda trial: TrialConfig.of(trial).name,
            trial_dirname_creator=trajectory_of,
        ),
        run_config=tune.RunConfig(
            name="tune",
            storage_path=str(folder.tune),
            failure_config=tune.FailureConfig(max_failures=run.max_failures),
            callbacks=[_TuneCallback(interrupts, listener, watch, failures, scheduler)],
            verbose=0,
        ),
    )
    with placement.applied(), failures.applied():
        _fit(tuner, interrupts)


def _train_trial(config: dict[str, Any]) -> None:
    from study.execution.trainable import tune_trainable

    tune_trainable(config)


def _fit(tuner: tune.Tuner, interrupts: InterruptHandler) -> None:
    """Run Tune to its end. Raises Interrupted where a signal ended it."""
    interrupts.saving = True
    try:
        tuner.fit()
    except Exception as error:
        if interrupts.received is None:
            raise
        raise Interrupted from error
    finally:
        interrupts.saving = False
    if interrupts.received is not None:
        raise Interrupted
