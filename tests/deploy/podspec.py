"""What the kubelet and the controllers obey of the rendered manifests, and nothing else.

Purpose: the StatefulSet of keepers and its budget as values, exactly as rendered.
Rules: what nobody here plays (another kind of probe, a hook) is refused, never ignored; what is not said has Kubernetes' own
default.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import programs
from deploy.manifests import Manifests, Object, Pod

PLAYED = {"name", "args", "env", "ports", "startupProbe", "livenessProbe", "readinessProbe", "volumeMounts"}
WITHOUT_EFFECT_HERE = {"image", "imagePullPolicy", "resources", "securityContext"}
"""Processes have the machine's own file system and account here, which is not what this is about."""


class NotPlayed(Exception):
    """The manifests ask for something that is not played here; the text says what."""


@dataclass(frozen=True, slots=True)
class Probe:
    """One `httpGet` probe."""

    path: str
    port: int
    initial_delay_seconds: float
    period_seconds: float
    timeout_seconds: float
    success_threshold: int
    failure_threshold: int
    grace_seconds: float
    """How long a container that it has condemned may take to end."""


@dataclass(frozen=True, slots=True)
class Quorum:
    """The StatefulSet of keepers, and what belongs to it."""

    pods: Mapping[int, Pod]
    container: Object
    min_ready_seconds: float
    grace_seconds: float
    budget: int  # minAvailable
    startup: Probe
    liveness: Probe
    readiness: Probe
    data: str  # where the volume is mounted
    secrets: Mapping[str, str]
    """Where each Secret is mounted, by its name."""

    def host_names(self, index: int) -> list[str]:
        """Under which names the headless Service makes a pod known, the longest first."""
        name = self.pods[index].host
        return [name, name.removesuffix(".svc"), ".".join(name.split(".")[:2])]

    @property
    def management_port(self) -> int:
        """Where the management API is in clear text, if only on a pod's own loopback."""
        pod, *_ = self.pods.values()
        return int(pod.environment(self.container)["WALKEEPER_LISTEN_HTTP"].rpartition(":")[2])

    def command(self) -> list[str]:
        """What runs: the image's entry point, and the arguments."""
        return [programs.PROGRAM, *self.container["args"]]


def read_quorum(manifests: Manifests) -> Quorum:
    """The keepers' part."""
    (stateful_set,) = manifests.of("StatefulSet")
    (budget,) = manifests.of("PodDisruptionBudget")
    spec = stateful_set["spec"]
    pod = spec["template"]["spec"]
    (container,) = pod["containers"]
    strange = [
        *(container.keys() - PLAYED - WITHOUT_EFFECT_HERE),
        *(each for each in container["args"] if "$" in each),
    ]
    if strange or "initContainers" in pod or spec["updateStrategy"]["type"] != "RollingUpdate":
        raise NotPlayed(f"{sorted(strange)}, init containers or another way to update")
    (claim,) = spec["volumeClaimTemplates"]
    mounts = {each["name"]: each["mountPath"] for each in container["volumeMounts"]}
    data = mounts.pop(claim["metadata"]["name"])
    secrets = {each["name"]: each["secret"]["secretName"] for each in pod.get("volumes", []) if "secret" in each}
    if mounts.keys() != secrets.keys():
        raise NotPlayed(f"the volumes {sorted(mounts.keys() ^ secrets.keys())}")
    grace = pod.get("terminationGracePeriodSeconds", 30)
    return Quorum(
        pods={pod.ordinal: pod for pod in manifests.pods()},
        container=container,
        min_ready_seconds=spec.get("minReadySeconds", 0),
        grace_seconds=grace,
        budget=budget["spec"]["minAvailable"],
        startup=read_probe(container, "startupProbe", grace),
        liveness=read_probe(container, "livenessProbe", grace),
        readiness=read_probe(container, "readinessProbe", grace),
        data=data,
        secrets={secrets[volume]: place for volume, place in mounts.items()},
    )


def read_probe(container: Mapping[str, Any], kind: str, grace_seconds: float) -> Probe:
    """One probe of a container."""
    probe = container[kind]
    get = probe.get("httpGet")
    if get is None or get.get("scheme", "HTTP") != "HTTP" or "host" in get or "httpHeaders" in get:
        raise NotPlayed(f"a {kind} that is no plain httpGet")
    return Probe(
        path=get["path"],
        port=resolve_port(container, get["port"]),
        initial_delay_seconds=probe.get("initialDelaySeconds", 0),
        period_seconds=probe.get("periodSeconds", 10),
        timeout_seconds=probe.get("timeoutSeconds", 1),
        success_threshold=probe.get("successThreshold", 1),
        failure_threshold=probe.get("failureThreshold", 3),
        grace_seconds=probe.get("terminationGracePeriodSeconds", grace_seconds),
    )


def resolve_port(container: Mapping[str, Any], port: str | int) -> int:
    """The number of a port, which may be a name of the container's."""
    if isinstance(port, int):
        return port
    (number,) = [each["containerPort"] for each in container["ports"] if each["name"] == port]
    return int(number)
