"""The GPUs of a running cluster, by the types that Ray reports."""

from __future__ import annotations

import socket
from collections.abc import Iterable, Mapping
from typing import Any

import ray

from study.errors import StudyError
from study.execution.cluster import connect, disconnect

PREFIX = "accelerator_type:"
# Ray itself tries for minutes.
CONNECT_SECONDS = 5.0


def cluster_gpu_types(address: str, *, verbose: bool) -> list[str | None]:
    """The types, such as ``H100``, of the GPUs of the cluster at ``address``, each once; empty where it has none.

    None stands for GPUs whose type Ray does not know. Raises StudyError where no Ray can be reached.
    """
    host, colon, port = address.rpartition(":")
    if colon and port.isdecimal():
        try:
            socket.create_connection((host, int(port)), timeout=CONNECT_SECONDS).close()
        except (OSError, OverflowError, UnicodeError) as error:
            hint = "start it, or leave --address out and give --device NAME"
            raise StudyError(f"no Ray could be reached at {address}: {error}; {hint}") from error
    try:
        connect(address, verbose=verbose)
        return gpu_types(ray.nodes())  # type: ignore[no-untyped-call]  # Ray's own
    finally:
        disconnect()


def gpu_types(nodes: Iterable[Mapping[str, Any]]) -> list[str | None]:
    """The types of the GPUs of those ``nodes``, as ``ray.nodes`` describes them, that are alive."""
    types: dict[str | None, None] = {}
    for node in nodes:
        resources = node["Resources"]
        if node["Alive"] and resources.get("GPU", 0) > 0:
            named = [key.removeprefix(PREFIX) for key in resources if key.startswith(PREFIX)]
            types.update(dict.fromkeys(named or [None]))
    return list(types)
