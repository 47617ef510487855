"""Asks the nodes of a cluster, all at once and within a time limit, whether they can train a study."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import study.execution.cluster  # noqa: F401  # Ray reads its environment, which is set there, when it is imported

# isort: split
import ray
from ray import ObjectRef
from ray.exceptions import GetTimeoutError, RayError, RayTaskError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from study.errors import StudyError
from study.execution.cluster import live_nodes
from study.execution.node_facts import Probe, look, study_probe
from study.execution.node_findings import Answer, Finding, judge
from study.execution.placement import Placement
from study.storage import StudyFolder, read_bytes, write_bytes

# How long a node may take to answer: the start of a process, and of Python in it.
ANSWER_SECONDS = 30.0
POLL_SECONDS = 0.1


def node_name(node: Mapping[str, Any]) -> str:
    """A node's address and the first letters of its id."""
    return f"{node['NodeManagerAddress']} ({node['NodeID'][:6]})"


def node_names() -> dict[str, str]:
    """The names of the live nodes, by their ids."""
    return {node["NodeID"]: node_name(node) for node in live_nodes()}


def on_node(node: str, function: Any, *arguments: object) -> ObjectRef[Any]:
    """Call a remote function on the node of this id, beside whatever runs there."""
    strategy = NodeAffinitySchedulingStrategy(node, soft=False)
    reference: ObjectRef[Any] = function.options(scheduling_strategy=strategy, num_cpus=0, max_retries=0).remote(
        *arguments
    )
    return reference


def end_process(node: str, pid: int) -> None:
    """Kill a process on a node. Ray's own way asks the process, which one that hangs does not hear."""
    on_node(node, _kill, pid)


class Question:
    """What nodes were asked, whose answers may be waited for or looked at now and then."""

    def __init__(self, probe: Probe, nodes: Iterable[str]) -> None:
        self.asked = time.monotonic()
        self.wall = time.time()
        self._references = {node: on_node(node, _look, probe) for node in nodes}

    @property
    def open(self) -> bool:
        """Whether answers are still to come."""
        return bool(self._references)

    def answers(self, *, seconds: float = 0.0) -> dict[str, Answer]:
        """The answers by the node's id, each once, after at most ``seconds``; late ones are errors."""
        references = list(self._references.values())
        ready, _ = ray.wait(references, num_returns=len(references), timeout=seconds) if references else ([], [])
        late = time.monotonic() - self.asked >= ANSWER_SECONDS
        answers = {}
        for node, reference in list(self._references.items()):
            if reference in ready or late:
                answers[node] = self._answer(reference)
                del self._references[node]
        return answers

    def _answer(self, reference: ObjectRef[Any]) -> Answer:
        try:
            facts = ray.get(reference, timeout=0)
        except GetTimeoutError:
            return Answer(facts=None, error=f"no answer within {ANSWER_SECONDS:.0f} s, as with a mount that hangs")
        except RayError as error:
            return Answer(facts=None, error=reason(error))
        now = time.time()
        off = facts.time - now if facts.time > now else min(0.0, facts.time - self.wall)
        return Answer(facts=facts, seconds_off=off)


def ask(probe: Probe, nodes: Sequence[str]) -> dict[str, Answer]:
    """The answers of all ``nodes``, by their ids."""
    return Question(probe, nodes).answers(seconds=ANSWER_SECONDS)


def reason(error: RayError) -> str:
    """Ray's error on one line: what was raised on the node, or how it ended."""
    if isinstance(error, RayTaskError) and error.cause is not None:
        return f"{type(error.cause).__name__}: {error.cause}"
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[-1] if isinstance(error, RayTaskError) else lines[0]


def leave_out_nodes(placement: Placement, folder: StudyFolder, notify: Callable[[str], object]) -> None:
    """Ask every node whether it can train the study, and leave out those that cannot.

    Raises StudyError where the storage would lose records, and where no node can train.
    """
    names = node_names()
    probe = study_probe(folder)
    here = look(probe)
    answers = {next(iter(names)): Answer(facts=here)} if placement.alone else ask(probe, list(names))
    errors: list[Finding] = []
    for node, answer in answers.items():
        for finding in judge(names[node], answer, here, str(folder.path)):
            if finding.unsafe and not placement.alone:
                raise StudyError(f"--storage: the node {finding.node} {finding.text}")
            if finding.level == "error" and not placement.alone:
                placement.leave_out(node, finding.text)
                errors.append(finding)
                notify(f"the node {finding.node} {finding.text}; it is left out")
            elif finding.level != "ok":
                notify(f"warning: the node {finding.node} {finding.text}")
    if errors and len(placement.left_out) == len(names):
        raise StudyError(f"no node can train: {errors[0].node} {errors[0].text}")


@ray.remote
def _kill(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


@ray.remote
def _look(probe: Probe) -> Any:
    return look(probe)


def delays(folder: Path, nodes: Sequence[str], *, limit: float) -> dict[str, dict[str, float | None] | str]:
    """Seconds until each node sees a file that the driver made, changed or removed; None: not within ``limit``.

    Each node has looked at all three before, as workers do, so that its caches hold what was there then. Where a node
    does not answer, the reason.
    """
    new, changed, removed = (str(folder / f".probe.{name}") for name in ("new", "changed", "removed"))
    try:
        for path in (changed, removed):
            write_bytes(Path(path), b"before")
        _together(nodes, lambda node: on_node(node, _remember, [new, changed, removed]), ANSWER_SECONDS)
        write_bytes(Path(new), b"new")
        write_bytes(Path(changed), b"after")
        Path(removed).unlink()
        return _together(nodes, lambda node: on_node(node, _notice, new, changed, removed, limit), limit + 10)
    finally:
        for path in (new, changed, removed):
            Path(path).unlink(missing_ok=True)


def turns(folder: Path, first: tuple[str, str], second: tuple[str, str]) -> list[Finding]:
    """Let two nodes, each an id and a name, write the same files: lines in turn, and whole files at once."""
    log, whole = folder / ".probe.log", folder / ".probe.whole"
    name = f"{first[1]} and {second[1]}"
    rounds = 5
    try:
        write_bytes(log, b"")
        for number in range(2 * rounds):
            node = (first, second)[number % 2][0]
            ray.get(on_node(node, _append, str(log), f"{number}\n"), timeout=ANSWER_SECONDS)
        lines = (read_bytes(log) or b"").decode(errors="replace").split()
        found = []
        if lines != [str(number) for number in range(2 * rounds)]:
            text = (
                f"appended {2 * rounds} lines to one file in turn, and {len(lines)} are there: records would be lost "
                "when a trajectory moves; mount without a cache of file sizes (NFS: noac), or use one node"
            )
            found.append(Finding(level="error", node=name, text=text, unsafe=True))
        contents = [str(number) * 4096 for number in (1, 2)]
        references = [
            on_node(node[0], _replace, str(whole), content)
            for node, content in zip((first, second), contents, strict=True)
        ]
        ray.get(references, timeout=ANSWER_SECONDS)
        if (read_bytes(whole) or b"").decode(errors="replace") not in contents:
            text = "replaced one file at the same time, and it is neither's: renames do not replace a file as a whole"
            found.append(Finding(level="error", node=name, text=text, unsafe=True))
    except RayError as error:
        return [Finding(level="error", node=name, text=f"could not write the same files in turn: {reason(error)}")]
    finally:
        for path in (log, whole):
            path.unlink(missing_ok=True)
    return found or [Finding(level="ok", node=name, text="appended to one file in turn, and replaced one at once")]


def _together(nodes: Sequence[str], start: Callable[[str], ObjectRef[Any]], seconds: float) -> dict[str, Any | str]:
    """What each node returns within ``seconds``, or, as text, why it does not."""
    references = {node: start(node) for node in nodes}
    if references:
        ray.wait(list(references.values()), num_returns=len(references), timeout=seconds)
    results: dict[str, Any | str] = {}
    for node, reference in references.items():
        try:
            results[node] = ray.get(reference, timeout=0)
        except GetTimeoutError:
            results[node] = f"no answer within {seconds:.0f} s"
        except RayError as error:
            results[node] = reason(error)
    return results


@ray.remote
def _remember(paths: list[str]) -> None:
    """Look at files, there or not, so that this node's caches know them."""
    for path in map(Path, paths):
        path.exists()
        read_bytes(path)


@ray.remote
def _notice(new: str, changed: str, removed: str, limit: float) -> dict[str, float | None]:
    """Seconds until the new, the changed and the removed file are seen as they are."""
    seen: dict[str, float | None] = {"new": None, "changed": None, "removed": None}
    started = time.monotonic()
    while (passed := time.monotonic() - started) < limit and None in seen.values():
        now = {
            "new": read_bytes(Path(new)) == b"new",
            "changed": read_bytes(Path(changed)) == b"after",
            "removed": not Path(removed).exists(),
        }
        seen |= {what: passed for what, done in now.items() if done and seen[what] is None}
        time.sleep(POLL_SECONDS)
    return seen


@ray.remote
def _append(path: str, text: str) -> None:
    with Path(path).open("ab") as file:
        file.write(text.encode())


@ray.remote
def _replace(path: str, content: str) -> None:
    for _ in range(20):
        write_bytes(Path(path), content.encode())
