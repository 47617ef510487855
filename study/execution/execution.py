"""One execution of a study on a connected cluster: what is left of its plan, or what its search chooses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.console import Console

from study.errors import StudyError
from study.execution.cluster import Cluster, check_resources, resolve_auto_gpu
from study.execution.interruption import InterruptHandler
from study.execution.manifest import remember_precision
from study.execution.node_checks import leave_out_nodes, node_names
from study.execution.node_devices import look_at_devices
from study.execution.placement import Placement
from study.execution.preparation import write_configs
from study.execution.trial_schedulers import PerSearchScheduler, groups_of_trajectories
from study.execution.tuner import train
from study.models.loading import hub_commit
from study.plan.plan import Plan, Trajectory
from study.records import Precision
from study.search.optuna_search import OptunaSearch
from study.search.trajectory_queue import TrajectoryQueue
from study.settings import Run
from study.space.space import Space
from study.storage import StudyFolder
from study.terminal.progress import Progress


class Execution:
    """Trains the trajectories ``left`` of a plan and, for a search, those that it adds.

    ``encoded`` has the folder of encoded data for each model. Raises StudyError where the cluster lacks what the study
    needs.
    """

    def __init__(
        self,
        space: Space,
        plan: Plan,
        left: Sequence[Trajectory],
        folder: StudyFolder,
        *,
        encoded: Mapping[str, Path],
        cluster: Cluster,
        interrupts: InterruptHandler,
        console: Console,
    ) -> None:
        self.space = space
        self.left = left
        self.folder = folder
        self.encoded = encoded
        # Once, so that what a search chooses later loads the same files, even if the hub has newer ones by then.
        self.commits = {model: hub_commit(model) for model in encoded}
        self.interrupts = interrupts
        self.run = self._resolve_gpus(cluster, console)
        if warning := check_resources(self.run, cluster):
            console.print(warning)
        self.placement = Placement(self.run, alone=cluster.local)
        leave_out_nodes(self.placement, folder, console.print)
        self.precision = self._resolve_precision(console)
        self.search = OptunaSearch(space, plan, folder) if space.searching else None
        self._plan = plan
        started = {trajectory.id: len(folder.trajectory(trajectory.id).epochs()) for trajectory in left}
        self.progress = Progress(left, console, started=started, searching=space.searching)

    @property
    def plan(self) -> Plan:
        """The plan as it stands, with what the search has chosen so far."""
        return self.search.plan if self.search is not None else self._plan

    def train(self) -> None:
        """Train until nothing is left. Raises Interrupted after a signal, once the running ones have saved."""
        with self.progress:
            if self.search is None:
                self.prepare(self.left)
                self._train(self.left)
            else:
                self._train(TrajectoryQueue(self.search, self._prepare_chosen))

    def prepare(self, trajectories: Sequence[Trajectory]) -> None:
        """Write the configs of ``trajectories``."""
        write_configs(
            self.folder,
            self.plan,
            trajectories,
            space=self.space,
            encoded=self.encoded,
            commits=self.commits,
            auto_precision=self.precision,
            gpus=self.run.gpu or 0.0,
        )

    def _prepare_chosen(self, trajectory: Trajectory) -> None:
        self.prepare([trajectory])
        self.progress.add_row(trajectory)

    def _train(self, trajectories: Sequence[Trajectory] | TrajectoryQueue) -> None:
        train(
            self.folder,
            trajectories,
            self.run,
            self.progress,
            self.interrupts,
            placement=self.placement,
            scheduler=self._make_scheduler(),
        )

    def _make_scheduler(self) -> PerSearchScheduler | None:
        """The trial scheduler, with what earlier starts of the study have reported."""
        if self.space.search.scheduler is None:
            return None
        scheduler = PerSearchScheduler(
            self.space.search.scheduler, lambda trajectory: groups_of_trajectories(self.plan).get(trajectory, "")
        )
        scheduler.replay(self.folder, self.plan, self.space.search.objective)
        return scheduler

    def _resolve_gpus(self, cluster: Cluster, console: Console) -> Run:
        """The resources of a trajectory, with a number in place of ``gpu: auto``."""
        run = self.space.run
        if run.gpu is not None:
            return run
        gpu = resolve_auto_gpu(cluster, lambda message: console.print(message, soft_wrap=True))
        if self.space.searching and self.space.search.gpu_hours is not None and not gpu:
            raise StudyError("search.gpu_hours counts GPU hours, and no node has a GPU; give trials or examples")
        return run.model_copy(update={"gpu": gpu})

    def _resolve_precision(self, console: Console) -> Precision:
        """What ``precision: auto`` comes to, measured once for the whole study; a GPU is looked at in any case."""
        manifest = self.folder.manifest()
        assert manifest is not None
        wanted = manifest.precision is None and "auto" in self._precisions()
        found: Precision = "float32"
        if wanted or self.run.gpu:
            names = node_names()
            suitable = {node: names[node] for node in self.placement.suitable_nodes()}
            found, unusable = look_at_devices(self.run, suitable, lambda text: console.print(text, soft_wrap=True))
            for node, reason in unusable.items():
                self.placement.leave_out(node, reason)
                console.print(f"the node {names[node]} is left out: {reason}", soft_wrap=True)
        if wanted:
            remember_precision(self.folder, found)
            return found
        return manifest.precision or "float32"

    def _precisions(self) -> set[str]:
        """The precision settings of what may be trained."""
        if self.space.searching:
            return set(self.space.values_of("precision"))
        return {trajectory.settings.precision for trajectory in self.left}
