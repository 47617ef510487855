"""How does Ray Tune run the trajectories of a study?

One trial is one trajectory, and a trajectory's folder says how far it came; so Tune is never asked to restore anything.
Each start gives it the trajectories that are left, and what Ray itself writes is thrown away with the next start.
"""

from __future__ import annotations

import logging
import os
import shlex
import shutil
import signal
import sys
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, Protocol, Self

# Read by Ray when it is imported; a user's own values win. Signals are handled below.
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
# Read by the C library when a worker starts: see keep_freed_memory in study.devices, which comes late for a thread.
os.environ.setdefault("MALLOC_ARENA_MAX", "1")
os.environ.setdefault("MALLOC_MMAP_MAX_", "0")
os.environ.setdefault("MALLOC_TRIM_THRESHOLD_", str(2**31 - 1))
# Ray takes up a token that lies ready where it looks for a cluster by itself, and not where it is given an address. A
# study's driver runs on a node of its cluster, so the token that lies there is the cluster's.
if (
    any(name in os.environ for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"))
    or Path("~/.ray/auth_token").expanduser().exists()
):
    os.environ.setdefault("RAY_AUTH_MODE", "token")
os.environ["TUNE_DISABLE_SIGINT_HANDLER"] = "1"
os.environ["TUNE_DISABLE_AUTO_CALLBACK_LOGGERS"] = "1"

import ray
from ray import tune
from ray.tune.experiment import Trial
from ray.tune.progress_reporter import TrialProgressCallback
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from study.contents import without_credentials
from study.manifest import StudyError
from study.plan import Trajectory
from study.records import Outcome, StudyFolder, write_atomically
from study.settings import Run

# How long running trajectories may take to save themselves after Ctrl-C: an interval's training and a checkpoint.
SAVE_WITHIN_SECONDS = 60
TAKEN_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class View(Protocol):
    """Who is told what happens, by a trajectory's id; its methods return soon and raise nothing."""

    def started(self, trajectory: str) -> None: ...  # noqa: D102

    def reported(self, trajectory: str, result: Mapping[str, Any]) -> None: ...  # noqa: D102

    def ended(self, trajectory: str, *, error: str | None) -> None: ...  # noqa: D102


class Interrupted(Exception):
    """The study was asked to stop, and its trajectories have saved themselves."""


class Signals:
    """Takes SIGINT, SIGTERM and SIGHUP: the first asks the study to save and stop, the second ends it at once.

    While nothing is training yet, ``saving`` is False and the first one raises KeyboardInterrupt.
    """

    def __init__(self, folder: StudyFolder, tell: Callable[[str], None]) -> None:
        self.stop_file = folder.stop_file
        self.tell = tell
        self.saving = False
        self.received: str | None = None
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        self.stop_file.unlink(missing_ok=True)
        for number in TAKEN_SIGNALS:
            self._before[number] = signal.getsignal(number)
        self.take()
        return self

    def take(self) -> None:
        """Take the signals, again where Ray took SIGTERM for itself as it started."""
        for number in TAKEN_SIGNALS:
            signal.signal(number, self._receive)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self.stop_file.unlink(missing_ok=True)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        again, self.received = self.received is not None, signal.Signals(number).name
        if again or not self.saving:
            raise KeyboardInterrupt
        self.stop_file.touch()
        self.tell(f"{self.received}: the running trajectories save themselves; once more to stop at once")


class _Watch(TrialProgressCallback):
    """Tells the view what Tune does, and writes down what failed.

    In the place of Tune's own line for a trial that ends without a result, which it prints at any verbosity.
    """

    def __init__(self, folder: StudyFolder, view: View) -> None:
        self.folder = folder
        self.view = view
        self.waiting_for: set[str] | None = None
        self.until = 0.0

    def __getstate__(self) -> dict[str, Any]:
        """Tune keeps a copy of its callbacks on disk, where a view makes no sense; nothing reads it."""
        return {}

    def on_trial_start(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        """Called before a trial's first step, and again when it goes on after a failure."""
        self.view.started(_id(trial))

    def on_trial_result(
        self, iteration: int, trials: list[Trial], trial: Trial, result: dict[str, Any], **info: Any
    ) -> None:
        """Called after each epoch."""
        self.view.reported(_id(trial), result)

    def on_trial_complete(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        """Called when a trajectory has come to its end, or has saved itself to go on later."""
        if not self.folder.stop_file.exists():
            self.view.ended(_id(trial), error=None)

    def on_trial_error(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        """Called when a trial has failed as often as it may."""
        error, trajectory = trial.get_error(), self.folder.trajectory(_id(trial))
        text = Path(trial.error_file).read_text() if trial.error_file else str(error)
        log = trajectory.path / "error.log"
        write_atomically(log, text.encode())
        reason = f"{_reason(error, text)} (tried {_times(trial.num_failures)})"
        trajectory.write_outcome(Outcome(status="failed", error=reason, log=str(log)))
        self.view.ended(_id(trial), error=reason)

    def on_step_end(self, iteration: int, trials: list[Trial], **info: Any) -> None:
        """Called several times a second."""
        if not self.folder.stop_file.exists():
            return
        running = {trial.trial_id for trial in trials if trial.status == Trial.RUNNING}
        if self.waiting_for is None:
            self.waiting_for, self.until = running, time.monotonic() + SAVE_WITHIN_SECONDS
        if not self.waiting_for & running or time.monotonic() > self.until:
            raise Interrupted


def _id(trial: Trial) -> str:
    return Path(trial.config["folder"]).name


def _reason(error: Exception | None, text: str) -> str:
    """The line of a worker's traceback that says what went wrong."""
    cause = getattr(error, "cause", None) or error
    if isinstance(cause, ray.exceptions.RayActorError):
        return "its process was killed, or its node was lost"
    lines = [line for line in text.strip().splitlines() if line.strip() and not line.startswith((" ", "\t"))]
    return lines[-1] if lines else type(cause).__name__


def _times(number: int) -> str:
    return "once" if number == 1 else f"{number} times"


@dataclass(frozen=True, slots=True, kw_only=True)
class Cluster:
    """A connected Ray: the address of its dashboard, None where it has none."""

    dashboard: str | None
    local: bool


def connect(address: str | None, *, verbose: bool) -> Cluster:
    """Connect to the Ray at ``address``, or start one on this machine.

    Raises StudyError when there is none, or its address is a client's.
    """
    if address is not None and address.startswith("ray://"):
        raise StudyError(
            f"--address {address}: the study's driver must run inside the cluster; give HOST:6379 from one of its "
            "nodes, or hand it in with `ray job submit`"
        )
    shown = [without_credentials(word) for word in sys.orig_argv]
    if shown != sys.orig_argv:  # Ray notes the command line down and shows it on its dashboard
        ray._raylet.setproctitle(shlex.join(shown))  # type: ignore[attr-defined]  # made by Cython
    level = logging.INFO if verbose else logging.ERROR
    if not verbose:
        for name in ("ray", "ray.data", "ray.train"):
            logging.getLogger(name).setLevel(level)
        # A failed trial's traceback goes into its log, which the summary names.
        logging.getLogger("ray.tune").setLevel(logging.CRITICAL)
    try:
        context = ray.init(
            address=address or "local",
            log_to_driver=verbose,
            logging_level=level,
            configure_logging=verbose,
            namespace="study",
        )
    except (ConnectionError, RuntimeError, ValueError, OSError) as error:
        where = address or "this machine"
        if "InvalidAuthToken" in f"{error} {error.__cause__}":
            raise StudyError(
                f"the Ray at {where} asks for its token: copy it from one of its nodes (ray get-auth-token) to "
                f"~/.ray/auth_token, or give RAY_AUTH_MODE=token and RAY_AUTH_TOKEN"
            ) from error
        first = str(error).strip().splitlines()[0]
        raise StudyError(f"no Ray could be reached at {where}: {first}") from error
    url = context.dashboard_url
    return Cluster(dashboard=f"http://{url}" if url else None, local=address is None)


def check_resources(run: Run, cluster: Cluster) -> str | None:
    """What to tell when no node has what a trajectory needs; a cluster that may grow is only told of, not refused.

    Raises StudyError on a Ray of one machine.
    """
    wanted = {"CPU": run.cpu, "GPU": run.gpu or 0}
    nodes = [node["Resources"] for node in _nodes()]
    if any(all(node.get(key, 0) >= amount for key, amount in wanted.items()) for node in nodes):
        return None
    lacking = "GPU" if not any(node.get("GPU", 0) >= run.gpu for node in nodes) else "CPU"
    amount = wanted[lacking]
    message = f"a trajectory asks for {amount:g} {lacking} (run.{lacking.lower()}), and no node has it"
    if cluster.local:
        raise StudyError(
            f"{message}; run it where there is one (--address HOST:6379), or give --set run.{lacking.lower()}="
            f"{0 if lacking == 'GPU' else max(node.get('CPU', 0) for node in nodes):g}"
        )
    return f"{message} yet; waiting for one to join"


def most_gpus() -> float:
    """The most GPUs that one node has."""
    return max((float(node["Resources"].get("GPU", 0)) for node in _nodes()), default=0.0)


def check_shared(folder: StudyFolder) -> None:
    """Raise StudyError unless every node sees the study's folder."""
    token, probe = uuid.uuid4().hex, folder.path / ".shared"
    probe.write_text(token)
    try:
        for node in _nodes():
            strategy = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
            seen = ray.get(_reads.options(scheduling_strategy=strategy, num_cpus=0).remote(str(probe)))
            if seen != token:
                raise StudyError(
                    f"--storage: the node {node['NodeManagerAddress']} does not see {folder.path}; "
                    "give a folder that all nodes share"
                )
    finally:
        probe.unlink(missing_ok=True)


def _nodes() -> list[dict[str, Any]]:
    nodes: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]  # Ray's own
    return [node for node in nodes if node["Alive"]]


@ray.remote
def _reads(path: str) -> str | None:
    try:
        return Path(path).read_text()
    except OSError:
        return None


def measured_precision(run: Run) -> str:
    """What ``precision: auto`` comes to on the device that a trajectory gets."""

    def choose() -> str:
        import torch

        from study.devices import choose_precision, find_device

        torch.set_num_threads(max(1, int(run.cpu)))
        return choose_precision("auto", find_device())

    return str(ray.get(ray.remote(choose).options(num_cpus=run.cpu, num_gpus=run.gpu).remote()))


def train(
    folder: StudyFolder,
    trajectories: Sequence[Trajectory],
    run: Run,
    view: View,
    signals: Signals,
    gpus: Mapping[str, float] | None = None,
) -> None:
    """Train ``trajectories``, whose configs lie ready, as many at once as the cluster has room for.

    ``gpus`` says how many GPUs, or what part of one, a trajectory gets, by its id; else each gets ``run.gpu``.
    A trajectory that fails more than ``run.max_failures`` times is written down as failed, and the rest goes on.
    Raises Interrupted after a signal, once the running ones have saved themselves.
    """
    names = {str(folder.trajectory(trajectory.id).path): trajectory for trajectory in trajectories}
    for trajectory in trajectories:
        folder.trajectory(trajectory.id).forget_outcome()
    state = folder.path / "ray"
    shutil.rmtree(state, ignore_errors=True)

    shares = {str(folder.trajectory(id_).path): gpu for id_, gpu in (gpus or {}).items()}
    cpu, gpu = run.cpu, run.gpu or 0.0

    def resources(config: dict[str, Any]) -> tune.PlacementGroupFactory:
        return tune.PlacementGroupFactory([{"CPU": cpu, "GPU": shares.get(config["folder"], gpu)}])

    def fine_tuning(config: dict[str, Any]) -> None:
        from study.trainable import tune_trainable

        tune_trainable(config)

    tuner = tune.Tuner(
        tune.with_resources(fine_tuning, resources),
        param_space={
            "folder": tune.grid_search(list(names)),
            "cpu_threads": max(1, int(run.cpu)),
            "stop_file": str(folder.stop_file),
            "measure": gpus is None and run.gpu == 1,
        },
        tune_config=tune.TuneConfig(
            reuse_actors=True,
            trial_name_creator=lambda trial: names[trial.config["folder"]].name,
            trial_dirname_creator=lambda trial: names[trial.config["folder"]].id,
        ),
        run_config=tune.RunConfig(
            name="tune",
            storage_path=str(state),
            failure_config=tune.FailureConfig(max_failures=run.max_failures),
            callbacks=[_Watch(folder, view)],
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


def disconnect() -> None:
    """Leave the cluster, or end the Ray that :func:`connect` started."""
    ray.shutdown()
