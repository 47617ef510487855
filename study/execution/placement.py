"""The nodes that trials may run on: those of the cluster, less the ones that were found unable to train."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from study.execution.cluster import has_resources, live_nodes, trial_needs
from study.settings import Run

# isort: split
from ray import tune
from ray._private import state
from ray.air.execution.resources.placement_group import PlacementGroupResourceManager
from ray.util.placement_group import PlacementGroup, placement_group

# The label by which Ray knows a node.
NODE_LABEL = "ray.io/node-id"


class Placement:
    """Decides where trials with the resources of ``run`` may be placed, while it is :meth:`applied`.

    ``left_out`` has the reason for each node, by its id, that gets no trial; ``alone`` says that no node can join.
    """

    def __init__(self, run: Run, *, alone: bool) -> None:
        self.alone = alone
        self.needs = trial_needs(run)
        self.left_out: dict[str, str] = {}
        self._managers: weakref.WeakSet[PlacementGroupResourceManager] = weakref.WeakSet()

    def suitable_nodes(self) -> list[str]:
        """The ids of the live nodes that have what a trial needs, and that are not left out."""
        return [
            node["NodeID"]
            for node in live_nodes()
            if node["NodeID"] not in self.left_out and has_resources(node["Resources"], self.needs)
        ]

    def leave_out(self, node: str, reason: str) -> None:
        """Place no trial on a node any more."""
        self.left_out[node] = reason
        self.ask_anew()

    def readmit(self, node: str) -> None:
        """Place trials on a node again."""
        if self.left_out.pop(node, None) is not None:
            self.ask_anew()

    def most_at_once(self) -> int | None:
        """How many trials the autoscaler's limits allow at once; None without an autoscaler."""
        most = state.state.get_max_resources_from_cluster_config()
        if most is None:
            return None
        return max(1, min(int(most.get(key, 0) / amount) for key, amount in self.needs.items() if amount))

    def ask_anew(self) -> None:
        """Withdraw what Tune has asked Ray for and not got yet, and ask for it with the nodes as they are now."""
        for manager in self._managers:
            waiting = {request: len(groups) for request, groups in manager._request_to_staged_pgs.items() if groups}
            for request, number in waiting.items():
                for _ in range(number):
                    manager.cancel_resource_request(request)
                for _ in range(number):
                    manager.request_resources(request)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Let Tune ask for the nodes of this placement."""
        replaced: Any = PlacementGroupResourceManager
        request_resources = replaced.request_resources

        def remember_manager(manager: PlacementGroupResourceManager, resource_request: TrialResources) -> None:
            self._managers.add(manager)
            request_resources(manager, resource_request)

        replaced.request_resources = remember_manager
        TrialResources.placement = self
        try:
            yield
        finally:
            replaced.request_resources = request_resources
            TrialResources.placement = None


class TrialResources(tune.PlacementGroupFactory):
    """The resources of one trial, on a node that is chosen when they are asked for.

    ``avoid`` are the ids of the nodes on which the trial has failed; another is taken where there is one.
    """

    placement: Placement | None = None

    def __init__(self, cpu: float, gpu: float, avoid: frozenset[str] = frozenset()) -> None:
        # Among the arguments of the placement group, so that Tune tells this request from others.
        selector: dict[str, Any] = {"bundle_label_selector": [_any_but(avoid)]} if avoid else {}
        super().__init__([{"CPU": cpu, "GPU": gpu}], **selector)
        self.avoid = avoid

    def to_placement_group(self) -> PlacementGroup:
        """Ask Ray for the resources."""
        refused: set[str] = set()
        if self.placement is not None:
            refused |= self.placement.left_out.keys()
            if self.avoid and set(self.placement.suitable_nodes()) - self.avoid:
                refused |= self.avoid
        group: PlacementGroup = placement_group(
            self.bundles, self.strategy, bundle_label_selector=[_any_but(refused)] if refused else None
        )
        return group


def _any_but(nodes: frozenset[str] | set[str]) -> dict[str, str]:
    """Ray's label selector for all other nodes."""
    return {NODE_LABEL: f"!in({','.join(sorted(nodes))})"}
