"""What the device of a trajectory can do, on each node that may train one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import study.execution.cluster  # noqa: F401  # Ray reads its environment, which is set there, when it is imported

# isort: split
import ray
from ray.exceptions import GetTimeoutError, RayError

from study.errors import StudyError, enumerate_names
from study.execution.node_checks import reason
from study.execution.node_findings import Finding
from study.execution.placement import NODE_LABEL
from study.records import Precision
from study.settings import Run

# How long all nodes may take; those that are busy then are left to their first trajectory.
LOOK_SECONDS = 60.0

T = TypeVar("T")


def look_at_devices(
    run: Run, nodes: Mapping[str, str], notify: Callable[[str], None]
) -> tuple[Precision, dict[str, str]]:
    """What ``precision: auto`` comes to on all ``nodes``, ids with names, and why those that cannot train cannot.

    One precision holds for the whole study, so it is bfloat16 only where every node is fast with it. Without nodes yet,
    or while all are busy, the first one that is free decides. Raises StudyError where no node can train.
    """
    look = _looking(run)
    pinned = {node: _remote(run, look).options(label_selector={NODE_LABEL: node}).remote() for node in nodes}
    references = list(pinned.values()) or [_remote(run, look).remote()]
    ready, _ = ray.wait(references, num_returns=len(references), timeout=LOOK_SECONDS)
    if not ready:
        ready, _ = ray.wait(references, num_returns=1)
    found: dict[str, Precision] = {}
    unusable: dict[str, str] = {}
    by_reference = {reference: node for node, reference in pinned.items()}
    for reference in references:
        node = by_reference.get(reference, "")
        if reference not in ready:
            ray.cancel(reference, force=True)
            continue
        try:
            precision, error = ray.get(reference)
        except RayError as ray_error:  # of a node that was lost, or whose process could not start
            precision, error = None, reason(ray_error)
        if precision is None:
            unusable[node] = error
        else:
            found[node] = precision
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
    look = _looking(Run(cpu=1, gpu=1))
    remote = ray.remote(num_cpus=1, num_gpus=1)(look)
    references = {node: remote.options(label_selector={NODE_LABEL: node}).remote() for node in with_gpus}
    if references:
        ray.wait(list(references.values()), num_returns=len(references), timeout=LOOK_SECONDS)
    findings = []
    for node, reference in references.items():
        kinds = [key.removeprefix("accelerator_type:") for key in with_gpus[node] if key.startswith("accelerator_type")]
        gpus = f"{with_gpus[node]['GPU']:g} GPU{'' if with_gpus[node]['GPU'] == 1 else 's'} ({', '.join(kinds) or '?'})"
        try:
            precision, error = ray.get(reference, timeout=0)
        except GetTimeoutError:
            ray.cancel(reference, force=True)
            findings.append(Finding(level="warning", node=names[node], text=f"has {gpus}, all busy: not looked at"))
            continue
        except RayError as ray_error:
            precision, error = None, reason(ray_error)
        if precision is None:
            findings.append(Finding(level="error", node=names[node], text=error))
        else:
            findings.append(Finding(level="ok", node=names[node], text=f"has {gpus}, fast with {precision}"))
    return findings


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
