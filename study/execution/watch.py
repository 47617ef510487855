"""What a person has to know while a study trains, and what has to be done about it meanwhile.

Nodes that join, end or cannot train; that nothing can run; a trajectory that waits for a lock, or does not get on.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from study.errors import enumerate_names
from study.execution.cluster import live_nodes
from study.execution.failures import node_of, pid_of
from study.execution.node_checks import Question, end_process, node_name
from study.execution.node_facts import Probe, look
from study.execution.node_findings import judge
from study.execution.placement import Placement
from study.execution.trial_config import TrialConfig
from study.settings import Run
from study.storage import StopFile
from study.terminal.progress import duration

# isort: split
from ray._private import state
from ray.tune.experiment import Trial

# Seconds between two looks at what ends, at nodes, and at what runs.
LOOK_SECONDS, NODES_SECONDS, RUNNING_SECONDS = 1.0, 5.0, 10.0
# Until it is said that nothing runs, and until anything is said again.
NOTHING_SECONDS, AGAIN_SECONDS = 60.0, 600.0
# Until it is said for whom a trajectory waits: a worker that was left behind is given time to end.
WAITING_SECONDS = 30.0
# How often a node that was left out is asked again.
ASK_AGAIN_SECONDS = 60.0
# A trajectory stands still after so many times its usual interval, though never sooner than the seconds after it, and,
# while it has recorded nothing, after as many seconds as loading and compiling a large model may take.
STILL_INTERVALS, STILL_SECONDS, FIRST_SECONDS = 10.0, 60.0, 600.0


@dataclass(slots=True, kw_only=True)
class _Running:
    """A running trial by this process's clock: when it started, and when its progress was last seen to grow."""

    trial: Trial
    pid: int | None
    started: float
    first: float | None = None
    grown: float
    first_progress: int = 0
    progress: int = 0
    other_beat: int = -1
    said: float = -AGAIN_SECONDS

    def see(self, progress: int, now: float) -> None:
        """Note how far it has come."""
        if progress > self.progress:
            if self.first is None:
                self.first, self.first_progress = now, progress
            self.progress, self.grown = progress, now

    def usual_interval(self) -> float | None:
        """Seconds between two records; None before two were seen."""
        if self.first is None or self.progress == self.first_progress:
            return None
        return (self.grown - self.first) / (self.progress - self.first_progress)


class Watch:
    """Looks at the cluster now and then, and calls ``say`` with a sentence where something has changed.

    ``ended`` has the reason, by the trial's id, for which it ended a process that did not get on.
    """

    def __init__(
        self, run: Run, placement: Placement, stop: StopFile, probe: Probe, say: Callable[[str], None]
    ) -> None:
        self.run = run
        self.placement = placement
        self.stop = stop
        self.probe = probe
        self.say = say
        self.ended: dict[str, str] = {}
        self.nodes = _by_id()
        self.ending: dict[str, int] = {}
        self.here = look(probe)
        self.asked: list[Question] = []
        self.asking_again: dict[str, float] = {}
        self.running: dict[str, _Running] = {}
        self.looked = self.looked_at_nodes = self.looked_at_running = self.busy = time.monotonic()
        self.said = -AGAIN_SECONDS

    def on_start(self, trial: Trial) -> None:
        """A trial starts, or resumes."""
        now = time.monotonic()
        self.running[trial.trial_id] = _Running(trial=trial, pid=pid_of(trial), started=now, grown=now)

    def leave_out(self, node: str, reason: str, *, for_good: bool = False) -> None:
        """Place no trial on a node any more or, unless ``for_good``, until it answers that it can train."""
        if node in self.placement.left_out:
            return
        self.placement.leave_out(node, reason)
        if not for_good:
            self.asking_again[node] = time.monotonic() + ASK_AGAIN_SECONDS
        self.say(f"the node {self._name(node)} is left out, and what it had runs elsewhere: {reason}")

    def look(self, trials: Sequence[Trial]) -> None:
        """Called several times a second."""
        now = time.monotonic()
        if now - self.looked < LOOK_SECONDS:
            return
        self.looked = now
        self._look_for_ending_nodes()
        if now - self.looked_at_nodes >= NODES_SECONDS:
            self.looked_at_nodes = now
            self._compare_nodes()
            self._take_answers()
            self._look_for_idleness(trials, now)
        if now - self.looked_at_running >= RUNNING_SECONDS:
            self.looked_at_running = now
            for trial in trials:
                if trial.status == Trial.RUNNING and trial.trial_id in self.running:
                    self._look_at_running(self.running[trial.trial_id], now)

    def _name(self, node: str) -> str:
        return node_name(self.nodes[node]) if node in self.nodes else node[:6]

    def _look_for_ending_nodes(self) -> None:
        """Let the trajectories of a node that is about to end save and move, as long as nothing else is asked."""
        ending = state.state.get_draining_nodes()
        new = ending.keys() - self.ending.keys()
        self.ending = ending
        if not new or self.stop.requested():
            return
        self.stop.request_leaving(ending)
        for node in sorted(new):
            left = ending[node] / 1000 - time.time() if ending[node] else 0
            when = f"in {left:.0f} s" if left > 0 else "soon"
            self.say(f"the node {self._name(node)} will end {when}; its trajectories save a checkpoint and move")

    def _compare_nodes(self) -> None:
        before, self.nodes = self.nodes, _by_id()
        count = f"the cluster has {len(self.nodes)} now"
        joined = sorted(self.nodes.keys() - before.keys())
        for node in joined:
            resources = _amounts(self.nodes[node]["Resources"])
            self.say(f"the node {self._name(node)} joined, with {resources}; {count}")
        for node in sorted(before.keys() - self.nodes.keys()):
            what = "it trained nothing" if node in self.placement.left_out else "what it trained resumes elsewhere"
            self.placement.left_out.pop(node, None)
            self.asking_again.pop(node, None)
            self.say(f"the node {node_name(before[node])} was lost; {count}, and {what}")
        again = [node for node, due in self.asking_again.items() if due <= time.monotonic()]
        for node in again:
            self.asking_again[node] = time.monotonic() + ASK_AGAIN_SECONDS
        if joined or again:
            self.asked.append(Question(self.probe, [*joined, *again]))

    def _take_answers(self) -> None:
        """Leave out the nodes that answer that they cannot train, and admit those that can again."""
        for question in self.asked:
            for node, answer in question.answers().items():
                if node not in self.nodes:
                    continue
                findings = judge(self._name(node), answer, self.here, str(self.stop.path.parent))
                errors = [finding.text for finding in findings if finding.level == "error"]
                if errors:
                    self.leave_out(node, errors[0])
                elif node in self.asking_again:
                    del self.asking_again[node]
                    self.placement.readmit(node)
                    self.say(f"the node {self._name(node)} can train now")
                for finding in findings:
                    if finding.level == "warning":
                        self.say(f"the node {finding.node} {finding.text}")
        self.asked = [question for question in self.asked if question.open]

    def _look_for_idleness(self, trials: Sequence[Trial], now: float) -> None:
        waiting = sum(trial.status in (Trial.PENDING, Trial.PAUSED) for trial in trials)
        if not waiting or any(trial.status == Trial.RUNNING for trial in trials):
            self.busy, self.said = now, -AGAIN_SECONDS
        elif now - self.busy > NOTHING_SECONDS and now - self.said > AGAIN_SECONDS:
            self.said = now
            who = f"{waiting} trajectories wait" if waiting > 1 else "a trajectory waits"
            nodes = enumerate_names([self._describe(node) for node in self.nodes]) or "no nodes"
            needs = _amounts(self.placement.needs)
            minutes = (now - self.busy) / 60
            self.say(f"nothing has run for {minutes:.0f} min: {who} for {needs}, and the cluster has {nodes}")

    def _describe(self, node: str) -> str:
        left_out = " (left out)" if node in self.placement.left_out else " (ends)" if node in self.ending else ""
        return f"{_amounts(self.nodes[node]['Resources'])}{left_out}"

    def _look_at_running(self, running: _Running, now: float) -> None:
        """Say for whom a trial waits, or that it does not get on; end it where the space says so."""
        trial = running.trial
        holder = TrialConfig.of(trial).trajectory.lock_holder()
        own = holder is not None and running.pid is not None and holder.pid == running.pid
        if own and holder is not None:
            running.see(holder.progress, now)
        elif holder is not None and holder.beat != running.other_beat:
            running.other_beat, running.grown = holder.beat, now  # it waits for one that lives
        still = now - running.grown
        usual = running.usual_interval()
        limit = FIRST_SECONDS if usual is None else max(STILL_INTERVALS * usual, STILL_SECONDS)
        if self.run.stall_minutes is not None and still > 60 * self.run.stall_minutes:
            self._end(running, still)
            return
        if now - running.said <= AGAIN_SECONDS:
            return
        name = TrialConfig.of(trial).name
        waits = holder is not None and not own and still <= limit
        if waits and now - running.started > WAITING_SECONDS:
            running.said = now
            self.say(f"{name}  waits for its lock, held {holder}")
        elif still > limit:
            running.said = now
            usually = "nothing yet" if usual is None else f"usually something every {max(usual, 1):.0f} s"
            remedy = "" if self.run.stall_minutes is not None else "; --set run.stall_minutes=N restarts such ones"
            self.say(f"{name}  has recorded nothing for {duration(still)} ({usually}){remedy}")

    def _end(self, running: _Running, still: float) -> None:
        """End a trial's process, which Tune then starts again."""
        node = node_of(running.trial)
        if node is not None and running.pid is not None:
            self.ended[running.trial.trial_id] = f"it recorded nothing for {duration(still)} (run.stall_minutes)"
            del self.running[running.trial.trial_id]
            end_process(node, running.pid)


def _by_id() -> dict[str, Mapping[str, Any]]:
    """The live nodes, as Ray describes them, by their ids."""
    return {node["NodeID"]: node for node in live_nodes()}


def _amounts(resources: Mapping[str, float]) -> str:
    """The CPUs and GPUs among resources, in words."""
    return f"{resources.get('CPU', 0):g} CPU and {resources.get('GPU', 0):g} GPU"
