"""The controllers that matter to pods: of the StatefulSet, and of evictions.

Purpose: replace pods as `kubectl rollout restart`, `kubectl drain` and `kubectl delete pod` do.
Rules: a rolling update goes from the highest number to the lowest, and on when the last one has been ready for
`minReadySeconds`; how those are whose turn is yet to come is nothing to it.  Evictions respect the budget, as `IfHealthyBudget`
says; whatever is gone comes back, all at once (`podManagementPolicy: Parallel`).

Source: Kubernetes' ``pkg/controller/statefulset/stateful_set_control.go``, without the feature MaxUnavailableStatefulSet, which was on
by default in the first releases of 1.35, and makes it no less careful.
"""

from dataclasses import dataclass, field

import trio

from deploy.nodes import LOOK_SECONDS, Kubelet, Pod, until


class EvictionRefused(Exception):
    """It would be one too many (HTTP 429)."""


@dataclass(slots=True)
class Controllers:
    """They see pods through the kubelet."""

    kubelet: Kubelet
    lost_nodes: set[int] = field(default_factory=set)

    async def keep_replicas(self) -> None:
        """Start what is not there, for ever; not on a node that is lost: its pod is still bound to it.

        Cancellation: at any time.
        """
        while True:
            for index in self.kubelet.quorum.pods:
                pod = self.kubelet.pods.get(index)
                if index not in self.lost_nodes and (pod is None or pod.gone.is_set()):
                    self.kubelet.start(index)
            await trio.sleep(LOOK_SECONDS)

    def pod(self, index: int) -> Pod:
        """The pod of that number as it is now."""
        return self.kubelet.pods[index]

    def is_ready(self, index: int) -> bool:
        """Whether there is such a pod, and it is ready, and is not being ended."""
        pod = self.kubelet.pods.get(index)
        return pod is not None and pod.is_healthy

    def is_available(self, index: int) -> bool:
        """As the StatefulSet's controller sees it."""
        pod = self.kubelet.pods.get(index)
        if pod is None or not pod.is_healthy or pod.ready_at is None:
            return False
        return trio.current_time() - pod.ready_at >= self.kubelet.quorum.min_ready_seconds

    def evict(self, index: int) -> Pod:
        """As `kubectl drain` does; raises EvictionRefused."""
        quorum, pod = self.kubelet.quorum, self.pod(index)
        healthy = sum(self.is_ready(each) for each in quorum.pods)
        if healthy - pod.is_healthy < quorum.budget:
            raise EvictionRefused(f"{healthy} healthy, {quorum.budget} wanted")
        pod.delete()
        return pod

    async def wait_ready(self, *indices: int) -> None:
        """Return when these are ready.

        Cancellation: at any time.
        """
        await until(lambda: all(self.is_ready(index) for index in indices))

    async def wait_available(self, index: int) -> None:
        """Return when it is.

        Cancellation: at any time.
        """
        await until(lambda: self.is_available(index))

    async def replace(self, index: int) -> Pod:
        """Delete one, and return what was deleted once the next of its name is ready.

        Cancellation: at any time.
        """
        pod = self.pod(index)
        pod.delete()
        await pod.gone.wait()
        await self.wait_ready(index)
        return pod

    async def rolling_update(self) -> list[Pod]:
        """All of them, one after the other; what was replaced.

        Cancellation: at any time.
        """
        replaced = []
        for index in sorted(self.kubelet.quorum.pods, reverse=True):
            replaced.append(await self.replace(index))
            await self.wait_available(index)
        return replaced
