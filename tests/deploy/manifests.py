"""Manifests as data: what kubectl renders, the pods that Kubernetes makes of it, and what their containers are told.

Does not judge: ``findings`` does.
"""

import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from walkeeper.daemon.cli import COMMANDS, read_sources
from walkeeper.daemon.options import effective

Object = dict[str, Any]

ROOT = Path(__file__).resolve().parents[2]
KUSTOMIZE = ROOT / "deploy" / "kustomize"
OVERLAYS = ("dev", "production", "sidecar-example")
OF_KEEPERS = ("dev", "production")
BY_THEMSELVES = {"sidecar-example": ("servicemonitor.yaml", "restore.yaml")}  # with an operator, after a disaster

POD_INDEX = "apps.kubernetes.io/pod-index"
ZONE = "topology.kubernetes.io/zone"
KUBECTL_SECONDS = 60.0
_REFERENCE = re.compile(r"\$\(([A-Za-z_][A-Za-z0-9_]*)\)")
_LABEL_FIELD = re.compile(r"metadata\.labels\['(.+)'\]")


def program(name: str) -> str:
    """A program of the environment that the tests run in."""
    return str(Path(sys.executable).parent / name)


@cache
def render(overlay: str) -> str:
    """What ``kubectl kustomize`` makes of ``base`` or of an overlay."""
    place = KUSTOMIZE / "base" if overlay == "base" else KUSTOMIZE / "overlays" / overlay
    command = [program("kubectl"), "kustomize", str(place)]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=KUBECTL_SECONDS).stdout


def load(overlay: str) -> "Manifests":
    """The same as objects, which the caller may change, and with them what is applied by itself."""
    return Manifests(overlay, deepcopy(_objects(overlay)))


@cache
def _objects(overlay: str) -> list[Object]:
    alone = [(KUSTOMIZE / "overlays" / overlay / name).read_text() for name in BY_THEMSELVES.get(overlay, ())]
    return [each for text in (render(overlay), *alone) for each in yaml.safe_load_all(text)]


@dataclass(frozen=True, slots=True)
class Pod:
    """One pod of a StatefulSet, as its controller makes it and a node's kubelet starts it."""

    owner: Object
    ordinal: int
    zone: str = "a"

    @property
    def name(self) -> str:
        return f"{self.owner['metadata']['name']}-{self.ordinal}"

    @property
    def host(self) -> str:
        """The name that the StatefulSet's Service gives it."""
        return f"{self.name}.{self.owner['spec']['serviceName']}.{self.owner['metadata'].get('namespace')}.svc"

    @property
    def spec(self) -> Object:
        found: Object = self.owner["spec"]["template"]["spec"]
        return found

    @property
    def labels(self) -> Mapping[str, str]:
        """The template's, the controller's, and the node's zone, which newer versions of Kubernetes add."""
        own: Mapping[str, str] = self.owner["spec"]["template"]["metadata"]["labels"]
        return {**own, POD_INDEX: str(self.ordinal), ZONE: self.zone}

    def environment(self, container: Object) -> dict[str, str]:
        """The container's variables, expanded."""
        found: dict[str, str] = {}
        for each in container.get("env", ()):
            found[each["name"]] = self._value(each, found)
        return found

    def _value(self, variable: Object, before: Mapping[str, str]) -> str:
        source = variable.get("valueFrom", {})
        if "secretKeyRef" in source:
            return "secret"
        if "fieldRef" in source:
            return self._field(source["fieldRef"]["fieldPath"])
        return _REFERENCE.sub(lambda match: before.get(match[1], match[0]), variable.get("value", ""))

    def _field(self, path: str) -> str:
        if label := _LABEL_FIELD.fullmatch(path):
            return self.labels.get(label[1], "")
        fields = {"metadata.name": self.name, "metadata.namespace": self.owner["metadata"].get("namespace", "")}
        return str(fields[path])

    def said(self, container: Object) -> "Said":
        """What our program makes of its command line and environment.  Raises ConfigError."""
        return _said(tuple(container["args"]), tuple(self.environment(container).items()))


@dataclass(frozen=True, slots=True)
class Said:
    """A command and its options, by their names.  ``given``: those that are not left to their defaults."""

    command: str
    options: Mapping[str, Any]
    given: set[str]


@cache
def _said(arguments: tuple[str, ...], environment: tuple[tuple[str, str], ...]) -> Said:
    command, flags, variables = read_sources(arguments, dict(environment), COMMANDS)
    options = {
        option.name: None if given is None else option.parse(given.text)
        for option, given in effective(command.shape, flags, variables)
    }
    return Said(command.name, options, {*flags, *variables})


@dataclass(frozen=True, slots=True)
class Manifests:
    """All objects of an overlay."""

    overlay: str
    objects: list[Object]

    def of(self, *kinds: str) -> list[Object]:
        return [each for each in self.objects if each["kind"] in kinds]

    def one(self, kind: str, name: str) -> Object:
        (found,) = [each for each in self.of(kind) if each["metadata"]["name"] == name]
        return found

    def pods(self) -> Iterator[Pod]:
        for owner in self.of("StatefulSet"):
            first = owner["spec"].get("ordinals", {}).get("start", 0)
            for ordinal in range(first, first + owner["spec"]["replicas"]):
                yield Pod(owner, ordinal)

    def ours(self) -> Iterator[tuple[Pod, Object]]:
        """Each container that runs our image, in each pod."""
        for pod in self.pods():
            for container in pod.spec["containers"]:
                if container["image"].split(":")[0].rpartition("/")[2] == "walkeeper":
                    yield pod, container

    def selected(self, namespace: str | None, labels: Mapping[str, str]) -> list[Pod]:
        """The pods in ``namespace`` with all these labels."""
        return [
            pod
            for pod in self.pods()
            if pod.owner["metadata"].get("namespace") == namespace and labels.items() <= pod.labels.items()
        ]
