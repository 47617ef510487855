"""Connects to a Ray cluster, and checks that a study can use its nodes."""

from __future__ import annotations

import gc
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# Read by Ray when it is imported; a user's own values win. Signals are handled below.
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
# Hides all GPUs from the workers that have none.
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "1")
# Read by the C library when a worker starts; keep_freed_memory in study.training.devices is too late for threads.
os.environ.setdefault("MALLOC_ARENA_MAX", "1")
os.environ.setdefault("MALLOC_MMAP_MAX_", "0")
os.environ.setdefault("MALLOC_TRIM_THRESHOLD_", str(2**31 - 1))
# Ray uses a token file where it looks for a cluster by itself, and not where it is given an address. A study's driver
# runs on a node of its cluster, so the token file there is the cluster's.
if (
    any(name in os.environ for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"))
    or Path("~/.ray/auth_token").expanduser().exists()
):
    os.environ.setdefault("RAY_AUTH_MODE", "token")
os.environ["TUNE_DISABLE_SIGINT_HANDLER"] = "1"
os.environ["TUNE_DISABLE_AUTO_CALLBACK_LOGGERS"] = "1"

import ray
from ray._private import state
from ray.util.placement_group import placement_group, remove_placement_group

from study.credentials import hide_command_line
from study.errors import StudyError
from study.settings import Run

# The nodes of a job start within a minute of one another.
GPU_JOINS_WITHIN_SECONDS = 60
# How long a process that asks a cluster for its token may take, and what is said of one that has none.
TOKEN_SECONDS = 20
NO_TOKEN = (
    "asks for no token, so whoever reaches it can run code on its nodes; start it with one (README, On a cluster)"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Cluster:
    """A connected Ray: the address of its dashboard, None where it has none, and whether this process started it."""

    dashboard: str | None
    local: bool


def connect(address: str | None, *, verbose: bool, dashboard: bool = True) -> Cluster:
    """Connect to the Ray at ``address``, or start one on this machine, with or without its dashboard.

    Raises StudyError when there is none, or its address is a client's.
    """
    if address is not None and address.startswith("ray://"):
        raise StudyError(
            f"--address {address}: the study's driver must run inside the cluster; give HOST:6379 from one of its "
            "nodes, or submit the study with `ray job submit`"
        )
    hide_command_line()
    level = logging.INFO if verbose else logging.ERROR
    if not verbose:
        for name in ("ray", "ray.data", "ray.train"):
            logging.getLogger(name).setLevel(level)
        # A failed trial's traceback is in its log, which the summary names.
        logging.getLogger("ray.tune").setLevel(logging.CRITICAL)
    # A closed terminal signals all processes that it started; those of Ray have to live until checkpoints are saved.
    hangup = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        context = ray.init(
            address=address or "local",
            log_to_driver=verbose,
            logging_level=level,
            configure_logging=verbose,
            namespace="study",
            # None starts it if it can: with True, a dashboard that fails to start would end the study.
            include_dashboard=None if dashboard or address is not None else False,
        )
    except (ConnectionError, RuntimeError, ValueError, OSError) as error:
        where = address or "this machine"
        if "InvalidAuthToken" in f"{error} {error.__cause__}":
            raise StudyError(
                f"the Ray at {where} requires its token: copy it from one of its nodes (ray get-auth-token) to "
                f"~/.ray/auth_token, or set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN"
            ) from error
        first = str(error).strip().splitlines()[0]
        raise StudyError(f"no Ray could be reached at {where}: {first}") from error
    finally:
        signal.signal(signal.SIGHUP, hangup)
    url = context.dashboard_url
    return Cluster(dashboard=f"http://{url}" if url else None, local=address is None)


def needs_no_token(cluster: Cluster) -> bool:
    """Whether the connected cluster answers a process that has no token; one of this process's own asks for one."""
    if cluster.local:
        return False
    address = ray.get_runtime_context().gcs_address
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_AUTH_")}
    ask = "import sys; from ray._raylet import GcsClient; GcsClient(address=sys.argv[1]).get_all_node_info(timeout=5)"
    try:
        asked = subprocess.run(
            [sys.executable, "-c", ask, address],
            env=environment | {"RAY_AUTH_MODE": "disabled"},
            capture_output=True,
            timeout=TOKEN_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return False
    return asked.returncode == 0


def check_resources(run: Run, cluster: Cluster) -> str | None:
    """A warning where no node has what a trajectory needs, for a cluster that may grow; None where one has.

    Raises StudyError on a Ray that this process started, which does not grow.
    """
    wanted = trial_needs(run)
    nodes = [node["Resources"] for node in live_nodes()]
    if any(has_resources(node, wanted) for node in nodes):
        return None
    lacking = "GPU" if not any(node.get("GPU", 0) >= wanted["GPU"] for node in nodes) else "CPU"
    message = f"a trajectory needs {wanted[lacking]:g} {lacking} (run.{lacking.lower()}), and no node has it"
    if cluster.local:
        available = 0 if lacking == "GPU" else max(node.get("CPU", 0) for node in nodes)
        raise StudyError(
            f"{message}; run it on a cluster that has one (--address HOST:6379), or give "
            f"--set run.{lacking.lower()}={available:g}"
        )
    return f"{message} yet; waiting for one to join"


def resolve_auto_gpu(
    cluster: Cluster, notify: Callable[[str], None], *, seconds: float = GPU_JOINS_WITHIN_SECONDS
) -> float:
    """What ``gpu: auto`` comes to: 1 where a node has a GPU, otherwise 0.

    Nodes may join a cluster that was there before this process. Where none has a GPU yet, but Ray's autoscaler may
    start one, it is waited for as long as it takes; otherwise for ``seconds``.
    """
    most = state.state.get_max_resources_from_cluster_config() or {}
    if most.get("GPU", 0) > 0 or any(node["Resources"].get("GPU", 0) > 0 for node in live_nodes()):
        return 1.0
    if cluster.local:
        return 0.0
    notify(
        f"run.gpu is auto, and no node has a GPU yet; waiting {seconds:g} s for one to join (--set run.gpu=0 starts on "
        "CPUs at once, --set run.gpu=1 waits as long as it takes)"
    )
    wanted = placement_group([{"GPU": 1}])
    try:
        if wanted.wait(seconds):
            return 1.0
    finally:
        remove_placement_group(wanted)
    notify("no node with a GPU has joined; training on CPUs")
    return 0.0


def trial_needs(run: Run) -> dict[str, float]:
    """The resources of one trial, by Ray's names."""
    return {"CPU": run.cpu, "GPU": run.gpu or 0.0}


def has_resources(node: Mapping[str, float], needs: Mapping[str, float]) -> bool:
    """Whether a node has, in all, the resources that one trial needs."""
    return all(node.get(key, 0) >= amount for key, amount in needs.items())


def live_nodes() -> list[dict[str, Any]]:
    """The nodes that live, as Ray describes them."""
    nodes: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]  # Ray's own
    return [node for node in nodes if node["Alive"]]


def disconnect() -> None:
    """Leave the cluster, or end the Ray that :func:`connect` started."""
    # Ray ends the process with code 1 when one of its objects is released while it shuts down, and the mirror's thread
    # may run the collector at any time.
    gc.collect()
    gc.disable()
    try:
        ray.shutdown()
    finally:
        gc.enable()
