"""What is wrong with manifests: each check yields a sentence for everything that does not fit.

Objects are compared with what they have to be (``expected``); what containers are told, with what the code makes of it, and
with each other: options, files, Secrets, the names of keepers.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

from deploy.expected import (
    ELSEWHERE,
    PORT_NAMES,
    SETTINGS,
    differences,
    objects,
    ports,
    variables,
)
from deploy.manifests import Manifests, Object, Pod, Said, load
from walkeeper.daemon.config import TimingConfig
from walkeeper.daemon.leave import SETTLE_SECONDS
from walkeeper.errors import ConfigError
from walkeeper.links.address import KEEPER_PORT, Address
from walkeeper.sidecar.name import DEFAULT_NAME

MARGIN_SECONDS: Final = 10
"""Beyond leaving and draining: for control files on a slow disk, and for the process to end."""

CLUSTER_WIDE: Final = {"Namespace", "PriorityClass"}
JOBS: Final = {"serve": "walkeeper", "propose": "walkeeper-sidecar"}
"""What rules and dashboard call those who are scraped."""

SECRETS: Final[Mapping[str, set[str]]] = {
    "walkeeper-tls": {"tls.crt", "tls.key", "ca.crt"},
    "walkeeper-auth-keys": set(),
    "walkeeper-peer-token": {"token"},
    "postgres": {"postgres-password", "keeper-password"},
}
"""Secrets that deploy/README.md tells how to make, and their keys; none: names of the operator's choice."""

FILES: Final = {
    "ssl-ca-file": "ca.crt",
    "ssl-cert-file": "tls.crt",
    "ssl-key-file": "tls.key",
    "auth-token-path": "token",
}
"""Which key of a Secret an option is for."""

NAMING: Final = {"apiVersion", "kind", "metadata"}
READ_ONLY_KINDS: Final = {"secret", "configMap"}
COMMAND_OF: Final = {"keeper": "serve", "walkeeper": "propose"}
"""What containers of ours do, by their names."""

Check = Callable[[Manifests], Iterator[str]]


def findings(manifests: Manifests) -> Sequence[str]:
    """Everything that is wrong."""
    if wrong := list(check_options(manifests)):
        return wrong  # whoever does not start has nothing that could be compared
    return [sentence for check in CHECKS for sentence in check(manifests)]


def told(manifests: Manifests, command: str) -> Iterator[tuple[Pod, Object]]:
    """The containers that run a command."""
    return ((pod, each) for pod, each in manifests.ours() if pod.said(each).command == command)


def check_objects(manifests: Manifests) -> Iterator[str]:
    """All that is there is as it has to be, nothing is missing, and nothing is too much."""
    wanted = objects(manifests.overlay, TimingConfig().disk_hangs_seconds)
    for kind in sorted({*wanted, *(each["kind"] for each in manifests.objects)}):
        there = {each["metadata"]["name"]: each for each in manifests.of(kind)}
        expected = wanted.get(kind, {})
        for name in sorted({*there, *expected}):
            if name not in there or name not in expected:
                yield f"{kind}/{name} {'is missing' if name in expected else 'should not be there'}"
            else:
                said = {key: each for key, each in there[name].items() if key not in NAMING}
                yield from (f"{kind}/{name} {each}" for each in differences(said, expected[name]))


# -- what our program is told -------------------------------------------------------------------------------


def check_options(manifests: Manifests) -> Iterator[str]:
    """Every variable and flag exists and parses; each pod is a keeper of its own number."""
    for pod, container in manifests.ours():
        try:
            said = pod.said(container)
        except ConfigError as error:
            yield f"{pod.name} does not start: {error}"
            continue
        if said.command != COMMAND_OF.get(container["name"]):
            yield f"{pod.name}: the container {container['name']} runs {said.command}"
        if said.command == "serve" and said.options["id"] != pod.ordinal:
            yield f"{pod.name} is keeper {said.options['id']}"


def check_told(manifests: Manifests) -> Iterator[str]:
    """What containers are told is what has to differ from the defaults, above all from those of durability."""
    expected = variables(manifests.overlay)
    for pod, container in manifests.ours():
        names = [each["name"] for each in container["env"]]
        for name in sorted(expected.symmetric_difference(names)):
            yield f"{pod.name} is {'not ' if name in expected else ''}told {name}"
        if len(names) > len({*names}):
            yield f"{pod.name} is told something twice"
        said = pod.said(container)
        for name in sorted(each for each in said.given if said.options.get(each) is False):
            yield f"{pod.name} is told {name}, and that it is off"
    for pod, container in told(manifests, "propose"):
        primary = pod.environment(container).get("WALKEEPER_PRIMARY")
        if primary != "host=127.0.0.1 port=5432 user=keeper":
            yield f"{pod.name}: the sidecar's primary is {primary}, not the server of its pod"


def check_peers(manifests: Manifests) -> Iterator[str]:
    """Keepers know each other by the names that DNS gives them, at a port that others reach."""
    keepers = [(pod, pod.said(container), container) for pod, container in told(manifests, "serve")]
    expected = [address_of(pod, said) for pod, said, _ in keepers]
    for pod, _, container in keepers:
        listed = pod.environment(container).get("WALKEEPER_PEER_HTTP", "").split(",")
        if listed != expected:
            yield f"{pod.name} knows {listed} instead of {expected}"


def address_of(pod: Pod, said: Said) -> str:
    """Where other keepers ask this one."""
    https: Address | None = said.options["listen-https"]
    return (
        f"{pod.host}:{said.options['listen-http'].port}" if https is None else f"https://{pod.host}:{https.port}"
    )


def check_quorum(manifests: Manifests) -> Iterator[str]:
    """A sidecar lists the keepers of the base, all of them and by their names, and so do tools in the keepers' pods."""
    keepers = [Address(pod.host, KEEPER_PORT) for pod in load("base").pods()]
    for pod, container in manifests.ours():
        listed = pod.environment(container).get("WALKEEPER_KEEPERS", "")
        if listed != ",".join(map(str, keepers)):
            yield f"{pod.name} lists other keepers than there are: {listed}"
    for pod, container in told(manifests, "serve"):
        said, sent = pod.said(container), pod.environment(container)
        secrets = (sent.get("WALKEEPER_KEEPER_SSLMODE"), sent.get("WALKEEPER_KEEPER_SSLROOTCERT"))
        if said.options["auth-token-path"] and secrets != ("verify-full", str(said.options["ssl-ca-file"])):
            yield f"{pod.name}: tools show its token to whoever answers"


def check_listening(manifests: Manifests) -> Iterator[str]:
    """The program listens where its container, Services, policies and probes say that it does."""
    expected = ports(manifests.overlay)
    for pod, container in manifests.ours():
        opened = listening(pod.said(container))
        if opened != expected:
            yield f"{pod.name} listens on {opened} instead of {expected}"


def listening(said: Said) -> dict[str, int]:
    """Name and number of each port that others than the pod itself reach."""
    addresses = {
        name: said.options.get(option)
        for (command, option), (name, _) in PORT_NAMES.items()
        if command == said.command
    }
    return {name: each.port for name, each in addresses.items() if each and not each.host.startswith("127.")}


def check_shutdown(manifests: Manifests) -> Iterator[str]:
    """A keeper has time to leave and to drain."""
    for pod, container in told(manifests, "serve"):
        said = pod.said(container)
        grace = pod.spec.get("terminationGracePeriodSeconds", 30)
        leaving, drain = said.options["leave-timeout"], said.options["shutdown-timeout"]
        if leaving <= SETTLE_SECONDS:
            yield f"{pod.name} leaves after {leaving:g} s, before it goes by what the others say"
        if grace < leaving + drain + MARGIN_SECONDS:
            yield f"{pod.name} is killed after {grace} s, and may need {leaving + drain:g} s to leave and drain"


# -- those around it ----------------------------------------------------------------------------------------


def check_monitors(manifests: Manifests) -> Iterator[str]:
    """Prometheus finds each pod once, under the job that rules and dashboard name."""
    for monitor in manifests.of("ServiceMonitor"):
        name, spec = monitor["metadata"]["name"], monitor["spec"]
        wanted = spec["selector"]["matchLabels"].items()
        chosen = [
            each
            for each in manifests.of("Service")
            for endpoint in spec["endpoints"]
            if wanted <= each["metadata"]["labels"].items()
            and endpoint["port"] in [port["name"] for port in each["spec"]["ports"]]
        ]
        if len(chosen) != 1:
            yield f"ServiceMonitor {name} finds {len(chosen)} ports of Services instead of one"
            continue
        (service,) = chosen
        pods = manifests.selected(service["metadata"].get("namespace"), service["spec"]["selector"])
        jobs = {JOBS[owner.said(each).command] for owner, each in manifests.ours() if owner in pods}
        job = service["metadata"]["labels"].get(spec.get("jobLabel"))
        if jobs != {job}:
            yield f"ServiceMonitor {name} calls the job {job} instead of {', '.join(sorted(jobs))}"


def check_database(manifests: Manifests) -> Iterator[str]:
    """Commits wait for the sidecar, but not before it can be there, and what is committed is on the disk."""
    for files in [each["data"] for each in manifests.of("ConfigMap")]:
        lines = [line for line in files["postgresql.conf"].splitlines() if line and not line.startswith("#")]
        settings = {name.strip(): value.strip() for name, _, value in (line.partition("=") for line in lines)}
        yield from (f"postgresql.conf: {each}" for each in differences(settings, SETTINGS))
        for line in files["pg_hba.conf"].splitlines():
            if line.split()[-1:] != (["peer"] if line.startswith("local") else ["scram-sha-256"]):
                yield f"pg_hba.conf lets in without a proof: {line}"
        if (
            f"ALTER SYSTEM SET synchronous_standby_names = '{DEFAULT_NAME}';"
            not in files["walkeeper.sh"].splitlines()
        ):
            yield "commits do not wait for the sidecar"


# -- files, rights, names -----------------------------------------------------------------------------------


def check_volumes(manifests: Manifests) -> Iterator[str]:
    """Mounts have volumes, which are of known kinds and whole directories, and only what must is writable."""
    for pod in manifests.pods():
        volumes = {each["name"]: each for each in pod.spec.get("volumes", ())}
        for volume in volumes.values():
            yield from (f"{pod.name}: {each}" for each in wrong_with_volume(volume))
        for container in pod.spec["containers"]:
            for mount in container.get("volumeMounts", ()):
                volume = volumes.get(mount["name"], {})
                if not volume and mount["name"] not in pod.claims:
                    yield f"{pod.name} mounts {mount['name']}, which is no volume"
                wanted = {"name": mount["name"], "mountPath": ELSEWHERE}
                if READ_ONLY_KINDS & volume.keys():
                    wanted["readOnly"] = True
                where = f"{pod.name}: the mount of {mount['name']} in {container['name']}: "
                yield from (where + each for each in differences(mount, wanted))
    yield from check_secrets_in_variables(manifests)


def wrong_with_volume(volume: Object) -> Iterator[str]:
    """A Secret is known, for its group only, and whole."""
    name = volume["name"]
    if not volume.keys() & {*READ_ONLY_KINDS, "emptyDir"}:
        yield f"the volume {name} is none of {sorted(READ_ONLY_KINDS)} and emptyDir"
    if "secret" in volume:
        if volume["secret"]["secretName"] not in SECRETS:
            yield f"nobody makes the Secret {volume['secret']['secretName']}"
        wanted = {"secretName": ELSEWHERE, "defaultMode": 0o440}
        yield from (f"the volume {name}: {each}" for each in differences(volume["secret"], wanted))


def check_secrets_in_variables(manifests: Manifests) -> Iterator[str]:
    for pod, container in manifests.ours():
        for variable in container["env"]:
            wanted = variable.get("valueFrom", {}).get("secretKeyRef")
            if wanted is not None and wanted["key"] not in SECRETS.get(wanted["name"], ()):
                yield f"{pod.name}: nobody makes the Secret {wanted['name']} with {wanted['key']}"


def check_paths(manifests: Manifests) -> Iterator[str]:
    """Files that options name are keys of Secrets that are mounted there; data is on a disk that stays."""
    for pod, container in manifests.ours():
        said = pod.said(container)
        volumes = {each["name"]: each for each in pod.spec.get("volumes", ())}
        mounts = {Path(each["mountPath"]): each["name"] for each in container.get("volumeMounts", ())}
        for name in sorted(said.given & said.options.keys()):
            path = said.options[name]
            if name == "datadir" and mounts.get(path) not in pod.claims:
                yield f"{pod.name} keeps WAL in {path}, where no disk is"
            elif name != "datadir" and isinstance(path, Path) and not is_mounted(path, mounts, volumes):
                yield f"{pod.name}: --{name} is {path}, and nothing puts it there"
            if name in FILES and path.name != FILES[name]:
                yield f"{pod.name}: --{name} is {path}, not the Secret's {FILES[name]}"


def is_mounted(path: Path, mounts: Mapping[Path, str], volumes: Mapping[str, Object]) -> bool:
    """Whether a Secret is mounted at a path, as a directory of what somebody chose, or as the file of this name."""
    if path in mounts:
        return SECRETS.get(secret_of(volumes, mounts[path])) == set()
    return path.parent in mounts and path.name in SECRETS.get(secret_of(volumes, mounts[path.parent]), ())


def secret_of(volumes: Mapping[str, Object], name: str) -> str:
    return str(volumes.get(name, {}).get("secret", {}).get("secretName"))


def check_resources(manifests: Manifests) -> Iterator[str]:
    """Everybody says what it needs; how much is a matter of the cluster's."""
    for pod in manifests.pods():
        for container in pod.spec["containers"]:
            what = f"container {container['name']} of {pod.name}"
            requests, limits = (container.get("resources", {}).get(each, {}) for each in ("requests", "limits"))
            if {"cpu", "memory"} - requests.keys() or "memory" not in limits:
                yield f"{what} does not say what it needs"
            if "cpu" in limits:
                yield f"{what} is stopped by a limit of CPU, and commits with it"


def check_names(manifests: Manifests) -> Iterator[str]:
    """Everything is in the one namespace that is made, which takes no others than harmless pods."""
    namespaces = [each["metadata"]["name"] for each in manifests.of("Namespace")]
    for each in manifests.objects:
        name = f"{each['kind']} {each['metadata']['name']}"
        if each["kind"] not in CLUSTER_WIDE and [each["metadata"].get("namespace")] != namespaces:
            yield f"{name} is not in the namespace {namespaces}"
    for each in manifests.of("Namespace"):
        if each["metadata"]["labels"].get("pod-security.kubernetes.io/enforce") != "restricted":
            yield f"Namespace {each['metadata']['name']} takes pods with more rights than ours need"


CHECKS: Final[Sequence[Check]] = (
    check_objects,
    check_told,
    check_peers,
    check_quorum,
    check_listening,
    check_shutdown,
    check_monitors,
    check_database,
    check_volumes,
    check_paths,
    check_resources,
    check_names,
)
