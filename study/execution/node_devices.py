"""What the device of a trajectory can do, on each node that may train one."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

import study.execution.cluster  # noqa: F401  # Ray reads its environment, which is set there, when it is imported

# isort: split
import ray
from ray.exceptions import RayError

from study.errors import StudyError, enumerate_names
from study.execution.node_checks import reason
from study.execution.node_findings import Finding
from study.execution.placement import NODE_LABEL
from study.records import Precision
from study.settings import Run

# How long all nodes may take; those that are busy then are left to their first trajectory.
LOOK_SECONDS = 60.0
# In place of a node's id: whichever has what a trajectory needs.
ANY_NODE = ""

T = TypeVar("T")


def look_at_devices(
    run: Run, nodes: Mapping[str, str], notify: Callable[[str], None]
) -> tuple[Precision, dict[str, str]]:
    """What ``precision: auto`` comes to on all ``nodes``, ids with names, and why those that cannot train cannot.

    One precision holds for the whole study, so it is bfloat16 only where every node is fast with it. Without nodes yet,
    or while all are busy, the first one that is free decides. Raises StudyError where no node can train.
    """
    looks = _look_on(run, nodes or [ANY_NODE], wait_for_one=True)
    found = {node: precision for node, (precision, _) in looks.items() if precision is not None}
    unusable = {node: error for node, (precision, error) in looks.items() if precision is None}
    if not found:
        raise StudyError(next(iter(unusable.values())))
    slow = [nodes.get(node, "a node") for node, precision in found.items() if precision == "float32"]
    if slow and len(slow) < len(found):
        notify(
            f"precision: auto is float32 for all, because bfloat16 is slow or missing on {enumerate_names(slow)}; "
            "give --set precision=bfloat16 to use it all the same"
        )
    return "float32" if slow else "bfloat16", unusable


def gpu_findings(nodes: Mapping[str, Mapping[str, float]], names: Mapping[str, str]) -> list[Finding]:
    """What a trajectory with one GPU finds on each of ``nodes``, ids with resources, that has any."""
    with_gpus = {node: resources for node, resources in nodes.items() if resources.get("GPU", 0) >= 1}
    looks = _look_on(Run(cpu=1, gpu=1), with_gpus, wait_for_one=False)
    findings = []
    for node, resources in with_gpus.items():
        kinds = [key.removeprefix("accelerator_type:") for key in resources if key.startswith("accelerator_type")]
        gpus = f"{resources['GPU']:g} GPU{'' if resources['GPU'] == 1 else 's'} ({', '.join(kinds) or '?'})"
        if node not in looks:
            findings.append(Finding(level="warning", node=names[node], text=f"has {gpus}, all busy: not looked at"))
            continue
        precision, error = looks[node]
        if precision is None:
            findings.append(Finding(level="error", node=names[node], text=error))
        else:
            findings.append(Finding(level="ok", node=names[node], text=f"has {gpus}, fast with {precision}"))
    return findings


def _look_on(run: Run, nodes: Iterable[str], *, wait_for_one: bool) -> dict[str, tuple[Precision | None, str]]:
    """The precision of a trajectory's device on each of ``nodes`` that is free in time, or why it cannot be used.

    Where none is free within LOOK_SECONDS and ``wait_for_one``, the first that becomes free.
    """
    remote = _remote(run, _looking(run))
    references = {
        node: remote.options(label_selector={NODE_LABEL: node} if node != ANY_NODE else None).remote() for node in nodes
    }
    if not references:
        return {}
    waiting = list(references.values())
    ready, _ = ray.wait(waiting, num_returns=len(waiting), timeout=LOOK_SECONDS)
    if wait_for_one and not ready:
        ready, _ = ray.wait(waiting, num_returns=1)
    looks: dict[str, tuple[Precision | None, str]] = {}
    for node, reference in references.items():
        if reference not in ready:
            ray.cancel(reference, force=True)
            continue
        try:
            looks[node] = ray.get(reference)
        except RayError as error:  # of a node that was lost, or whose process could not start
            looks[node] = None, reason(error)
    return looks


def run_as_trajectory(run: Run, work: Callable[[], T]) -> T:
    """Call ``work`` in a process that has what a trajectory has, and that ends, so that it keeps nothing of a GPU."""
    result: T = ray.get(_remote(run, work).remote())
    return result


def _remote(run: Run, work: Callable[[], Any]) -> Any:
    """Ray ends the process because the function itself, and not only this call of it, is said to need a GPU."""
    return ray.remote(num_cpus=run.cpu, num_gpus=run.gpu or 0)(work)


def _looking(run: Run) -> Callable[[], tuple[Precision | None, str]]:
    gpus, threads = run.gpu or 0.0, max(1, int(run.cpu))

    def look() -> tuple[Precision | None, str]:
        import torch

        from study.training.devices import choose_precision
        from study.training.trajectory_device import DeviceError, check_sharing, trajectory_device

        torch.set_num_threads(threads)
        try:
            check_sharing(gpus)
            return choose_precision("auto", trajectory_device(gpus)), ""
        except DeviceError as error:
            return None, str(error)

    return look
