"""What is wrong with manifests: each check yields a sentence for everything that does not fit.

What a manifest says is compared with what the code says: its options and their defaults, its routes, its exit codes.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from math import inf
from pathlib import Path
from typing import Any, Final

import walkeeper
from deploy.manifests import POD_INDEX, Manifests, Object, Pod, Said, load
from walkeeper.control.health import Readiness, health_routes
from walkeeper.control.metrics import Metrics
from walkeeper.daemon.exits import exit_code
from walkeeper.errors import ConfigError, Fenced
from walkeeper.links.address import HTTP_PORT, HTTPS_PORT, KEEPER_PORT, Address
from walkeeper.sidecar.name import DEFAULT_NAME
from walkeeper.terms import Term

CONTAINER_USER: Final = 10001
"""Whom the image runs as."""

MARGIN_SECONDS: Final = 10
"""Beyond leaving and draining: for control files on a slow disk, and for the process to end."""

HANG_SECONDS_MAX: Final = 240
"""From when a disk hangs to the end of its keeper, as deploy/README.md tells: four minutes."""

READ_ONLY_KINDS: Final = {"secret", "configMap"}
CLUSTER_WIDE: Final = {"Namespace", "PriorityClass"}
JOBS: Final = {"serve": "walkeeper", "propose": "walkeeper-sidecar"}
"""What rules and dashboard call those who are scraped."""

NAMED_BY_POD: Final = {"sourceLabels": ["__meta_kubernetes_pod_name"], "targetLabel": "instance"}
"""So that texts are of use, and restarts are those of one series."""

CLIENT_LABEL: Final = {"walkeeper-client": "true"}

SECRETS: Final[Mapping[str, set[str]]] = {
    "walkeeper-tls": {"tls.crt", "tls.key", "ca.crt"},
    "walkeeper-auth-keys": set(),
    "walkeeper-peer-token": {"token"},
    "postgres": {"postgres-password", "keeper-password"},
}
"""Secrets that deploy/README.md tells how to make, and their keys; none: names of the operator's choice."""

PORT_NAMES: Final = {
    ("serve", "listen-pg"): ("pg", KEEPER_PORT),
    ("serve", "listen-http"): ("http", HTTP_PORT),
    ("serve", "listen-https"): ("https", HTTPS_PORT),
    ("serve", "listen-metrics"): ("metrics", 7678),
    ("propose", "listen-http"): ("metrics", 7679),
}
FOR_TOOLS: Final = {"keepers", "keeper-sslmode", "keeper-sslrootcert"}
"""What a keeper does not use, and those do that are run in its pod."""

PROBED: Final = {"serve": "listen-metrics", "propose": "listen-http"}

Check = Callable[[Manifests], Iterator[str]]


def findings(manifests: Manifests) -> Sequence[str]:
    """Everything that is wrong."""
    if wrong := list(check_options(manifests)):
        return wrong  # whoever does not start has nothing that could be compared
    return [sentence for check in CHECKS for sentence in check(manifests)]


# -- what our program is told -------------------------------------------------------------------------------


def check_options(manifests: Manifests) -> Iterator[str]:
    """Every variable and flag exists, is of use to the command, and parses; each pod is a keeper of its own number."""
    for pod, container in manifests.ours():
        try:
            said = pod.said(container)
        except ConfigError as error:
            yield f"{pod.name} does not start: {error}"
            continue
        others = said.given - said.options.keys()
        for name in sorted(others - FOR_TOOLS if said.command == "serve" else others):
            yield f"{pod.name} is told {name}, which {said.command} does not use"
        if said.command == "serve" and said.options["id"] != pod.ordinal:
            yield f"{pod.name} is keeper {said.options['id']}"
        if said.command == "serve" and pod.ordinal < 1:
            yield f"{pod.name}: there is no keeper {pod.ordinal}"


def check_peers(manifests: Manifests) -> Iterator[str]:
    """Keepers know each other by the names that DNS gives them, at a port that others reach."""
    keepers = [(pod, pod.said(container), container) for pod, container in told(manifests, "serve")]
    expected = [address_of(pod, said) for pod, said, _ in keepers]
    for pod, said, container in keepers:
        listed = pod.environment(container).get("WALKEEPER_PEER_HTTP", "").split(",")
        if listed != expected:
            yield f"{pod.name} knows {listed} instead of {expected}"
        if said.options["listen-https"] is not None and said.options["ssl-ca-file"] is None:
            yield f"{pod.name} has no --ssl-ca-file to verify the others with"


def address_of(pod: Pod, said: Said) -> str:
    """Where other keepers ask this one."""
    https: Address | None = said.options["listen-https"]
    return (
        f"{pod.host}:{said.options['listen-http'].port}" if https is None else f"https://{pod.host}:{https.port}"
    )


def told(manifests: Manifests, command: str) -> Iterator[tuple[Pod, Object]]:
    """The containers that run a command."""
    return ((pod, each) for pod, each in manifests.ours() if pod.said(each).command == command)


def check_quorum(manifests: Manifests) -> Iterator[str]:
    """A sidecar lists the keepers of the base, all of them and by their names, and so do tools in the keepers' pods."""
    base = load("base")
    keepers = [Address(pod.host, KEEPER_PORT) for pod in base.pods()]
    (admitted,) = [
        source["podSelector"]["matchLabels"]
        for source in base.one("NetworkPolicy", "walkeeper-pg")["spec"]["ingress"][0]["from"]
        if "namespaceSelector" in source
    ]
    for pod, container in manifests.ours():
        listed = pod.environment(container).get("WALKEEPER_KEEPERS", "")
        if listed != ",".join(map(str, keepers)):
            yield f"{pod.name} lists other keepers than there are: {listed}"
    for pod, container in told(manifests, "serve"):
        said, sent = pod.said(container), pod.environment(container)
        secrets = (sent.get("WALKEEPER_KEEPER_SSLMODE"), sent.get("WALKEEPER_KEEPER_SSLROOTCERT"))
        if said.options["auth-token-path"] and secrets != ("verify-full", str(said.options["ssl-ca-file"])):
            yield f"{pod.name}: tools show its token to whoever answers"
    for pod, _ in told(manifests, "propose"):
        if not admitted.items() <= pod.labels.items():
            yield f"{pod.name} is not let in by the keepers' NetworkPolicy: it lacks {admitted}"


# -- ports and probes ---------------------------------------------------------------------------------------


def listening(said: Said) -> Iterator[tuple[str, int, str]]:
    """Name, number and option of each port that others than the pod itself reach."""
    for (command, option), (name, _) in PORT_NAMES.items():
        address: Address | None = said.options.get(option) if command == said.command else None
        if address is not None and not address.host.startswith("127."):
            yield name, address.port, option


def check_ports(manifests: Manifests) -> Iterator[str]:
    """Container ports are those that the program listens on, by the names and numbers that all of us use."""
    for pod, container in manifests.ours():
        said = pod.said(container)
        ports = {each["name"]: each["containerPort"] for each in container.get("ports", ())}
        opened = {name: number for name, number, _ in listening(said)}
        if ports != opened:
            yield f"{pod.name} has the ports {ports} and listens on {opened}"
        for name, number, option in listening(said):
            usual = PORT_NAMES[said.command, option]
            if (name, number) != usual:
                yield f"{pod.name}: --{option} is {number} instead of {usual[1]}"


def probe_paths() -> set[str]:
    """What the port for probes answers."""
    routes = [*health_routes(lambda: (), Readiness()), Metrics("test").route()]
    return {route.path for route in routes}


def check_probes(manifests: Manifests) -> Iterator[str]:
    """Probes go where there is an answer, and none that ends a keeper asks how the quorum is."""
    for pod, container in manifests.ours():
        said = pod.said(container)
        wanted = {"livenessProbe": "/livez", "readinessProbe": "/readyz"}
        if said.command == "serve":
            wanted["startupProbe"] = "/livez"
        for kind, path in wanted.items():
            asked = container.get(kind, {}).get("httpGet")
            if asked is None:
                yield f"{pod.name} has no {kind} over HTTP"
                continue
            port = {name for name, _, option in listening(said) if option == PROBED[said.command]}
            if asked["port"] not in port:
                yield f"{pod.name}: {kind} asks at the port {asked['port']} instead of {port}"
            if asked["path"] != path or path not in probe_paths():
                yield f"{pod.name}: {kind} asks for {asked['path']} instead of {path}"
        yield from check_patience(pod, said, container)


def check_patience(pod: Pod, said: Said, container: Object) -> Iterator[str]:
    """A disk that stalls does not get a keeper killed before the keeper itself gives up on it."""
    if said.command != "serve":
        return
    patience = seconds_until_failure(container["livenessProbe"]) if "livenessProbe" in container else inf
    hangs = said.options["disk-hangs-after"]
    if patience < hangs:  # some stalls silence the keeper from the first moment
        yield f"{pod.name} is ended after {patience} s, before --disk-hangs-after"
    if hangs + patience > HANG_SECONDS_MAX:  # of others it says so itself, but not before --disk-hangs-after
        yield f"{pod.name} is ended {hangs + patience:g} s after its disk, which is more than is told"
    start = seconds_until_failure(container["startupProbe"]) if "startupProbe" in container else inf
    if start < said.options["disk-hangs-after"]:
        yield f"{pod.name} has only {start} s for its start"


def seconds_until_failure(probe: Object) -> int:
    """How long a probe goes unanswered before something is done."""
    return int(probe["periodSeconds"]) * int(probe["failureThreshold"])


# -- services and policies ----------------------------------------------------------------------------------


def check_services(manifests: Manifests) -> Iterator[str]:
    """Services lead to ports that their pods have."""
    for service in manifests.of("Service"):
        name = service["metadata"]["name"]
        pods = manifests.selected(service["metadata"].get("namespace"), service["spec"]["selector"])
        if not pods:
            yield f"Service {name} selects no pod"
        for port in service["spec"]["ports"]:
            for pod in pods[:1]:
                number = ports_of(pod).get(port["targetPort"])
                if number != port["port"]:
                    yield f"Service {name}: port {port['port']} leads to {port['targetPort']}, which is {number}"
    for owner in manifests.of("StatefulSet"):
        yield from check_governing_service(manifests, owner)


def ports_of(pod: Pod) -> dict[str, int]:
    """All ports of a pod, by their names."""
    containers = pod.spec["containers"]
    return {port["name"]: port["containerPort"] for each in containers for port in each.get("ports", ())}


def check_governing_service(manifests: Manifests, owner: Object) -> Iterator[str]:
    """The Service that gives pods their names knows each of them; keepers' names are there before they are ready."""
    name = owner["spec"]["serviceName"]
    found = [each for each in manifests.of("Service") if each["metadata"]["name"] == name]
    if not found or found[0]["spec"].get("clusterIP") != "None":
        yield f"StatefulSet {owner['metadata']['name']}: there is no headless Service {name}"
    elif not found[0]["spec"].get("publishNotReadyAddresses") and manifests.overlay != "sidecar-example":
        yield f"Service {name} hides keepers that are not ready from those who would make them ready"


def check_policies(manifests: Manifests) -> Iterator[str]:
    """Every port has its policy, no policy has two kinds of them, and nothing else goes in or out of a keeper."""
    policies = manifests.of("NetworkPolicy")
    for policy in policies:
        name, spec = policy["metadata"]["name"], policy["spec"]
        pods = manifests.selected(policy["metadata"].get("namespace"), spec["podSelector"]["matchLabels"])
        if not pods:
            yield f"NetworkPolicy {name} selects no pod"
        known = {number: port for pod in pods for port, number in ports_of(pod).items()}
        for rule in spec.get("ingress", ()):
            named = [known.get(port["port"]) for port in rule["ports"]]
            if None in named:
                yield f"NetworkPolicy {name} lets in at a port that its pods do not have"
            if len(named) != 1:
                yield f"NetworkPolicy {name} lets in at {len(named)} ports with one rule"
    for pod, container in manifests.ours():
        for name, number, _ in listening(pod.said(container)):
            if not any(number == port["port"] for port, _ in admissions(policies)):
                yield f"{pod.name}: no NetworkPolicy lets in at the port {name}"
    if any(told(manifests, "serve")):
        yield from check_keepers_policies(manifests, policies)


def admissions(policies: Sequence[Object]) -> Iterator[tuple[Object, Sequence[Object]]]:
    """Each port that policies let in at, with from where."""
    for policy in policies:
        for rule in policy["spec"].get("ingress", ()):
            for port in rule["ports"]:
                yield port, rule.get("from", ())


def check_keepers_policies(manifests: Manifests, policies: Sequence[Object]) -> Iterator[str]:
    """All else is forbidden; clients come from everywhere, operators from here, and names and keepers are found."""
    pod, container = next(told(manifests, "serve"))
    ports = {option: number for _, number, option in listening(pod.said(container))}
    closed = [
        each
        for each in policies
        if set(each["spec"]["policyTypes"]) == {"Ingress", "Egress"} and not each["spec"].get("ingress")
    ]
    if len(closed) != 1:
        yield "no NetworkPolicy forbids keepers what the others do not allow"
        return
    management = {ports[option] for option in ("listen-http", "listen-https") if option in ports}
    for port, sources in admissions(policies):
        abroad = [each for each in sources if "namespaceSelector" in each]
        if not sources:
            yield f"everybody is let in at the port {port['port']}"
        if port["port"] in management and abroad:
            yield "the management API is open to other namespaces"
        if port["port"] == ports.get("listen-pg") and CLIENT_LABEL not in [
            each.get("podSelector", {}).get("matchLabels") for each in abroad
        ]:
            yield f"clients with the label {CLIENT_LABEL} are not let in"
    egress = closed[0]["spec"]["egress"]
    outside = {(port["protocol"], port["port"]) for rule in egress if "to" not in rule for port in rule["ports"]}
    if outside != {("UDP", 53), ("TCP", 53)}:
        yield f"keepers may go out to {sorted(outside)} instead of asking for names only"
    inside = {port["port"] for rule in egress if "to" in rule for port in rule["ports"]}
    if inside != {ports.get("listen-pg"), *management}:
        yield f"keepers reach each other at {sorted(inside)} only"


def check_monitors(manifests: Manifests) -> Iterator[str]:
    """Prometheus finds each pod once, under the job that rules and dashboard name."""
    monitors = manifests.of("ServiceMonitor")
    if manifests.overlay in ("production", "sidecar-example") and not monitors:
        yield "there is no ServiceMonitor"
    for monitor in monitors:
        name, spec = monitor["metadata"]["name"], monitor["spec"]
        wanted = spec["selector"]["matchLabels"].items()
        chosen = [
            (each, endpoint)
            for each in manifests.of("Service")
            for endpoint in spec["endpoints"]
            if wanted <= each["metadata"]["labels"].items()
            and endpoint["port"] in [port["name"] for port in each["spec"]["ports"]]
        ]
        if len(chosen) != 1:
            yield f"ServiceMonitor {name} finds {len(chosen)} ports of Services instead of one"
            continue
        service, endpoint = chosen[0]
        pods = manifests.selected(service["metadata"].get("namespace"), service["spec"]["selector"])
        jobs = {JOBS[owner.said(each).command] for owner, each in manifests.ours() if owner in pods}
        job = service["metadata"]["labels"].get(spec.get("jobLabel"))
        if jobs != {job}:
            yield f"ServiceMonitor {name} calls the job {job} instead of {', '.join(sorted(jobs))}"
        if endpoint["path"] not in probe_paths():
            yield f"ServiceMonitor {name} asks for {endpoint['path']}"
        if endpoint.get("relabelings") != [NAMED_BY_POD]:
            yield f"ServiceMonitor {name} calls a pod by its address, which is another one when it comes back"
        if not service["spec"].get("publishNotReadyAddresses"):
            yield f"ServiceMonitor {name} loses sight of pods that are not ready"


# -- how pods come and go -----------------------------------------------------------------------------------


def check_shutdown(manifests: Manifests) -> Iterator[str]:
    """A keeper has time to leave and to drain."""
    for pod, container in told(manifests, "serve"):
        said = pod.said(container)
        grace = pod.spec["terminationGracePeriodSeconds"]
        leaving, drain = said.options["leave-timeout"], said.options["shutdown-timeout"]
        if leaving <= 0:
            yield f"{pod.name} leaves without a look at the others"
        if grace < leaving + drain + MARGIN_SECONDS:
            yield f"{pod.name} is killed after {grace} s, and may need {leaving + drain:g} s to leave and drain"
        if "lifecycle" in container:
            yield f"{pod.name} has a hook of its own: --leave-timeout is what waits"


def check_disruption(manifests: Manifests) -> Iterator[str]:
    """A majority of keepers stays, whoever takes pods away."""
    for owner in {pod.owner["metadata"]["name"]: pod.owner for pod, _ in told(manifests, "serve")}.values():
        spec, labels = owner["spec"], owner["spec"]["template"]["metadata"]["labels"]
        majority = spec["replicas"] // 2 + 1
        budgets = [
            each
            for each in manifests.of("PodDisruptionBudget")
            if each["spec"]["selector"]["matchLabels"].items() <= labels.items()
        ]
        if len(budgets) != 1:
            yield f"{len(budgets)} PodDisruptionBudgets are for keepers instead of one"
        for budget in budgets:
            # bool and str compare as well, and a percentage is rounded
            if type(budget["spec"].get("minAvailable")) is not int or budget["spec"]["minAvailable"] != majority:
                yield f"minAvailable is {budget['spec'].get('minAvailable')!r}, the majority is {majority}"
            if budget["spec"].get("unhealthyPodEvictionPolicy") != "IfHealthyBudget":
                yield "keepers that are not ready are evicted without a majority of others"
        if spec["updateStrategy"] != {
            "type": "RollingUpdate"
        }:  # maxUnavailable is 1, and is dropped where it is off
            yield "keepers are not updated one at a time"
        if spec["podManagementPolicy"] != "Parallel":
            yield "keepers wait for one another at their start"
        if spec.get("minReadySeconds", 0) < 1:
            yield "the next keeper is updated at the first sign of life of the one before"
    for owner in manifests.of("StatefulSet"):
        retention = owner["spec"].get("persistentVolumeClaimRetentionPolicy")
        if retention != {"whenDeleted": "Retain", "whenScaled": "Retain"}:
            yield f"StatefulSet {owner['metadata']['name']} takes its disks along"


def check_sidecar(manifests: Manifests) -> Iterator[str]:
    """A sidecar that was fenced, or cannot work, stays away; commits wait for it, but not before it can be there."""
    stays_away = sorted((exit_code(ConfigError("")), exit_code(Fenced("", Term(2), Term(1)))))
    rules = [{"action": "Restart", "exitCodes": {"operator": "NotIn", "values": stays_away}}]
    for pod, container in told(manifests, "propose"):
        if container.get("restartPolicy") != "Never" or container.get("restartPolicyRules") != rules:
            yield f"{pod.name}: the sidecar comes back after exit codes other than {stays_away}"
        (files,) = [each["data"] for each in manifests.of("ConfigMap")]
        settings = dict(
            line.split(" = ") for line in files["postgresql.conf"].splitlines() if not line.startswith("#")
        )
        if "synchronous_standby_names" in settings:
            yield "the server that the image starts first would wait for the sidecar for ever"
        if settings.get("max_slot_wal_keep_size", "-1") == "-1":
            yield "an absent sidecar fills the primary's disk"
        if f"SET synchronous_standby_names = '{DEFAULT_NAME}';" not in files["walkeeper.sh"]:
            yield "commits do not wait for the sidecar"


def check_placement(manifests: Manifests) -> Iterator[str]:
    """No two keepers on a machine, and as few as possible in a zone; not for a look on one node."""
    if manifests.overlay == "dev":
        return
    for pod, _ in told(manifests, "serve"):
        apart = (
            pod.spec.get("affinity", {})
            .get("podAntiAffinity", {})
            .get("requiredDuringSchedulingIgnoredDuringExecution", [])
        )
        spread = pod.spec.get("topologySpreadConstraints", [])
        if [each["topologyKey"] for each in apart] != ["kubernetes.io/hostname"]:
            yield f"{pod.name} may share its machine with another keeper"
        if [(each["topologyKey"], each["whenUnsatisfiable"]) for each in spread] != [
            ("topology.kubernetes.io/zone", "DoNotSchedule")
        ]:
            yield f"{pod.name} may share its zone with another keeper"
        for each in (*apart, *spread):
            if not each["labelSelector"]["matchLabels"].items() <= pod.labels.items():
                yield f"{pod.name} is kept away from others than keepers"


# -- files, rights, names -----------------------------------------------------------------------------------


def check_volumes(manifests: Manifests) -> Iterator[str]:
    """Mounts have volumes, Secrets are known and come as whole directories, and only what must is writable."""
    for pod in manifests.pods():
        volumes = {each["name"]: each for each in pod.spec.get("volumes", ())}
        claims = {each["metadata"]["name"] for each in pod.owner["spec"].get("volumeClaimTemplates", ())}
        for volume in volumes.values():
            if "secret" in volume and volume["secret"]["secretName"] not in SECRETS:
                yield f"{pod.name}: nobody makes the Secret {volume['secret']['secretName']}"
            if "secret" in volume and volume["secret"].get("defaultMode", 0o644) & 0o337:
                yield f"{pod.name}: the files of {volume['name']} are for more than its group to read"
        for container in pod.spec["containers"]:
            for mount in container.get("volumeMounts", ()):
                volume = volumes.get(mount["name"], {})
                if not volume and mount["name"] not in claims:
                    yield f"{pod.name} mounts {mount['name']}, which is no volume"
                if "subPath" in mount or "subPathExpr" in mount:
                    yield f"{pod.name} mounts a part of {mount['name']}, which is never renewed"
                if READ_ONLY_KINDS & volume.keys() and not mount.get("readOnly"):
                    yield f"{pod.name} may write to {mount['name']}"
    yield from check_secrets_in_variables(manifests)


def check_secrets_in_variables(manifests: Manifests) -> Iterator[str]:
    for pod, container in manifests.ours():
        for variable in container["env"]:
            wanted = variable.get("valueFrom", {}).get("secretKeyRef")
            if wanted is not None and wanted["key"] not in SECRETS.get(wanted["name"], ()):
                yield f"{pod.name}: nobody makes the Secret {wanted['name']} with {wanted['key']}"
    if manifests.of("Secret"):
        yield "a Secret is among the manifests"


def check_paths(manifests: Manifests) -> Iterator[str]:
    """Files that options name are keys of Secrets that are mounted there; data is on a disk that stays."""
    for pod, container in manifests.ours():
        said = pod.said(container)
        volumes = {each["name"]: each for each in pod.spec.get("volumes", ())}
        claims = {each["metadata"]["name"] for each in pod.owner["spec"].get("volumeClaimTemplates", ())}
        mounts = {Path(each["mountPath"]): each["name"] for each in container.get("volumeMounts", ())}
        for name in sorted(said.given & said.options.keys()):
            path = said.options[name]
            if name == "datadir" and mounts.get(path) not in claims:
                yield f"{pod.name} keeps WAL in {path}, where no disk is"
            elif name != "datadir" and isinstance(path, Path) and not is_mounted(path, mounts, volumes):
                yield f"{pod.name}: --{name} is {path}, and nothing puts it there"


def is_mounted(path: Path, mounts: Mapping[Path, str], volumes: Mapping[str, Object]) -> bool:
    """Whether a Secret is mounted at a path, as a directory of what somebody chose, or as the file of this name."""
    if path in mounts:
        return SECRETS.get(secret_of(volumes, mounts[path])) == set()
    return path.parent in mounts and path.name in SECRETS.get(secret_of(volumes, mounts[path.parent]), ())


def secret_of(volumes: Mapping[str, Object], name: str) -> str:
    return str(volumes.get(name, {}).get("secret", {}).get("secretName"))


def check_hardening(manifests: Manifests) -> Iterator[str]:
    """Nobody has rights that it does not need."""
    for pod in manifests.pods():
        yield from lacking(
            f"pod {pod.name}", pod.spec, automountServiceAccountToken=False, enableServiceLinks=False
        )
        security = pod.spec.get("securityContext", {})
        yield from lacking(
            f"pod {pod.name}", security, runAsNonRoot=True, seccompProfile={"type": "RuntimeDefault"}
        )
        yield from lacking(f"pod {pod.name}", security, fsGroupChangePolicy="OnRootMismatch")
        accounts = [each["metadata"]["name"] for each in manifests.of("ServiceAccount")]
        if pod.spec.get("serviceAccountName") not in accounts:
            yield f"pod {pod.name} has no account of its own"
        for container in pod.spec["containers"]:
            what = f"container {container['name']} of {pod.name}"
            own = container.get("securityContext", {})
            yield from lacking(
                what,
                own,
                readOnlyRootFilesystem=True,
                allowPrivilegeEscalation=False,
                capabilities={"drop": ["ALL"]},
            )
            resources = container.get("resources", {})
            if {"cpu", "memory"} - resources.get("requests", {}).keys() or "memory" not in resources.get(
                "limits", {}
            ):
                yield f"{what} does not say what it needs"
            if "cpu" in resources.get("limits", {}):
                yield f"{what} is stopped by a limit of CPU, and commits with it"
    for pod, container in manifests.ours():
        security = pod.spec.get("securityContext", {}) | container.get("securityContext", {})
        yield from lacking(
            f"container {container['name']} of {pod.name}", security,
            runAsUser=CONTAINER_USER, runAsGroup=CONTAINER_USER,
        )  # fmt: skip
        if manifests.overlay != "base" and container["image"] != f"walkeeper:{walkeeper.__version__}":
            yield f"{pod.name} runs {container['image']}, this is {walkeeper.__version__}"
    for pod, _ in told(manifests, "serve"):
        yield from lacking(f"pod {pod.name}", pod.spec["securityContext"], fsGroup=CONTAINER_USER)


def lacking(what: str, found: Mapping[str, Any], **wanted: Any) -> Iterator[str]:
    for name, value in wanted.items():
        if found.get(name) != value:
            yield f"{what}: {name} is {found.get(name)} instead of {value}"


def check_names(manifests: Manifests) -> Iterator[str]:
    """Everything is in the one namespace that is made, and selectors choose the pods of their own set."""
    namespaces = [each["metadata"]["name"] for each in manifests.of("Namespace")]
    for each in manifests.objects:
        name = f"{each['kind']} {each['metadata']['name']}"
        if each["kind"] not in CLUSTER_WIDE and [each["metadata"].get("namespace")] != namespaces:
            yield f"{name} is not in the namespace {namespaces}"
    for each in manifests.of("Namespace"):
        if each["metadata"]["labels"].get("pod-security.kubernetes.io/enforce") != "restricted":
            yield f"Namespace {each['metadata']['name']} takes pods with more rights than ours need"
    for owner in manifests.of("StatefulSet"):
        labels = owner["spec"]["template"]["metadata"]["labels"]
        if not owner["spec"]["selector"]["matchLabels"].items() <= labels.items():
            yield f"StatefulSet {owner['metadata']['name']} does not select its own pods"
        if POD_INDEX in labels:
            yield f"{POD_INDEX} is Kubernetes' to say"


CHECKS: Final[Sequence[Check]] = (
    check_peers,
    check_quorum,
    check_ports,
    check_probes,
    check_services,
    check_policies,
    check_monitors,
    check_shutdown,
    check_disruption,
    check_sidecar,
    check_placement,
    check_volumes,
    check_paths,
    check_hardening,
    check_names,
)
