"""What manifests have to say, whole objects of them: what is too much is as wrong as what is missing.

Where the code has a default, it is the code's: ports, routes, exit codes, how long a disk may hang.
"""

from collections.abc import Iterator, Mapping
from typing import Any, Final

import walkeeper
from deploy.manifests import Object
from walkeeper.control.health import Readiness, health_routes
from walkeeper.control.metrics import Metrics
from walkeeper.daemon.exits import exit_code
from walkeeper.errors import ConfigError, Fenced
from walkeeper.links.address import HTTP_PORT, HTTPS_PORT, KEEPER_PORT
from walkeeper.membership import majority
from walkeeper.terms import Term

ELSEWHERE: Final = object()
"""Instead of a value: a check of its own looks at it, or it is a matter of size."""

KEEPERS: Final = 3
CONTAINER_USER: Final = 10001
"""Whom the image runs as."""
POSTGRES_USER: Final = 999

IMAGE: Final = f"walkeeper:{walkeeper.__version__}"
LIVENESS_SECONDS: Final = 20
"""Between two looks at a keeper."""

PORT_NAMES: Final = {
    ("serve", "listen-pg"): ("pg", KEEPER_PORT),
    ("serve", "listen-http"): ("http", HTTP_PORT),
    ("serve", "listen-https"): ("https", HTTPS_PORT),
    ("serve", "listen-metrics"): ("metrics", 7678),
    ("propose", "listen-http"): ("metrics", 7679),
}
POSTGRES_PORTS: Final = {"postgres": 5432}

KEEPER_LABELS: Final = {"app.kubernetes.io/name": "walkeeper", "app.kubernetes.io/component": "keeper"}
POSTGRES_LABELS: Final = {"app.kubernetes.io/name": "postgres"}
CLIENT_LABEL: Final = {"walkeeper-client": "true"}
OPERATOR_LABEL: Final = {"walkeeper-operator": "true"}
MONITORING: Final = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}}

NAMED_BY_POD: Final = {"sourceLabels": ["__meta_kubernetes_pod_name"], "targetLabel": "instance"}
"""So that texts are of use, and restarts are those of one series."""

RIGHTS: Final[Object] = {
    "allowPrivilegeEscalation": False,
    "readOnlyRootFilesystem": True,
    "capabilities": {"drop": ["ALL"]},
}

TOLD: Final[Mapping[str, set[str]]] = {
    "dev": {"id", "availability-zone", "datadir", "listen-pg", "listen-http", "listen-metrics", "peer-http",
            "keepers", "leave-timeout", "log-format"},
    "production": {"listen-https", "ssl-ca-file", "ssl-cert-file", "ssl-key-file", "auth-token-path",
                   "keeper-sslmode", "keeper-sslrootcert", "enable-tls-wal-service-api",
                   "pg-auth-public-key-path", "http-auth-public-key-path"},
    "sidecar-example": {"primary", "keepers", "listen-http", "log-format"},
}  # fmt: skip
"""Nothing else is set: every other option has the default that it was made for, above all those of durability."""

SETTINGS: Final = {
    "listen_addresses": "'*'",
    "wal_level": "replica",
    "max_slot_wal_keep_size": "'4GB'",  # or an absent sidecar fills the primary's disk
}
"""Of PostgreSQL.  With synchronous_standby_names the server that the image starts first would wait for ever."""


def variables(overlay: str) -> set[str]:
    """What a container of ours is told, by the names of its variables."""
    told = TOLD[overlay] | (TOLD["dev"] if overlay == "production" else set())
    named = {f"WALKEEPER_{each.replace('-', '_').upper()}" for each in told}
    return named | {"PGPASSWORD"} if overlay == "sidecar-example" else named


def ports(overlay: str) -> dict[str, int]:
    """What a container of ours listens on for others, by name."""
    command = "propose" if overlay == "sidecar-example" else "serve"
    unused = "http" if overlay == "production" else "https"
    return {name: number for (who, _), (name, number) in PORT_NAMES.items() if who == command and name != unused}


def objects(overlay: str, disk_hangs_seconds: float) -> Mapping[str, Mapping[str, Object]]:
    """All that an overlay consists of, by kind and name; what is said of an object besides its name and its labels."""
    if overlay == "sidecar-example":
        return example()
    opened = ports(overlay)
    found: dict[str, dict[str, Object]] = {
        "Namespace": {"walkeeper": {}},
        "ServiceAccount": {"walkeeper": {"automountServiceAccountToken": False}},
        "StatefulSet": {"walkeeper": {"spec": keepers(overlay, disk_hangs_seconds)}},
        "Service": {
            "walkeeper": {"spec": headless(KEEPER_LABELS, opened, ready_or_not=True)},
            "walkeeper-read": {"spec": {"selector": KEEPER_LABELS, "ports": leading({"pg": opened["pg"]})}},
        },
        "NetworkPolicy": policies(opened["pg"], opened.get("https") or opened["http"], opened["metrics"]),
        "PodDisruptionBudget": {
            "walkeeper": {
                "spec": {
                    "minAvailable": majority(KEEPERS),
                    "unhealthyPodEvictionPolicy": "IfHealthyBudget",  # or one goes that may have the second copy
                    "selector": {"matchLabels": KEEPER_LABELS},
                }
            }
        },
    }
    if overlay == "production":
        found["PriorityClass"] = {
            "walkeeper": {"value": 1_000_000, "globalDefault": False, "description": ELSEWHERE}
        }
        found["ServiceMonitor"] = {"walkeeper": monitor(KEEPER_LABELS)}
    return found


# -- keepers ------------------------------------------------------------------------------------------------


def keepers(overlay: str, disk_hangs_seconds: float) -> Object:
    """Their StatefulSet."""
    pod: Object = {
        "serviceAccountName": "walkeeper",
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,  # they would be among our variables
        "terminationGracePeriodSeconds": 90,
        "securityContext": identity(CONTAINER_USER),
        "containers": [
            {
                "name": "keeper",
                **ours("serve", ports(overlay)),
                # the file system is synced before there is an answer: ten minutes
                "startupProbe": probe("/livez", period=2, timeout=2, failures=300),
                # Some stalls of the disk silence the keeper from the first moment, and it must not be ended before it
                # gives up by itself; of others it says so then, and is ended after as long again.
                "livenessProbe": {
                    **probe(
                        "/livez",
                        period=LIVENESS_SECONDS,
                        timeout=10,
                        failures=int(disk_hangs_seconds) // LIVENESS_SECONDS,
                    ),
                    "terminationGracePeriodSeconds": 10,
                },
                "readinessProbe": probe("/readyz", period=5, timeout=3, failures=3),
            }
        ],
    }
    claim = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": ELSEWHERE}}}
    if overlay == "production":
        among_keepers = {"labelSelector": {"matchLabels": KEEPER_LABELS}}
        machine = {"topologyKey": "kubernetes.io/hostname", **among_keepers}
        zone = {"topologyKey": "topology.kubernetes.io/zone", "maxSkew": 1, "minDomains": KEEPERS, **among_keepers}
        pod["affinity"] = {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [machine]}}
        pod["topologySpreadConstraints"] = [{**zone, "whenUnsatisfiable": "DoNotSchedule"}]
        pod["priorityClassName"] = "walkeeper"
        pod["volumes"] = ELSEWHERE
        claim["storageClassName"] = "walkeeper"
    return {
        "replicas": KEEPERS,
        "ordinals": {"start": 1},
        "podManagementPolicy": "Parallel",  # or they wait for one another at their start
        "updateStrategy": {
            "type": "RollingUpdate"
        },  # one at a time; another maxUnavailable is dropped where it is off
        "minReadySeconds": 10,  # or the next is updated at the first sign of life of the one before
        **set_of("walkeeper", KEEPER_LABELS, KEEPER_LABELS, pod, claim),
    }


def policies(pg: int, management: int, metrics: int) -> dict[str, Object]:
    """Keepers are closed but for these; the management API can delete timelines, and is for this namespace only."""
    among_keepers = {"podSelector": {"matchLabels": KEEPER_LABELS}}
    clients = {"namespaceSelector": {}, "podSelector": {"matchLabels": CLIENT_LABEL}}
    operators = {"podSelector": {"matchLabels": OPERATOR_LABEL}}
    names = [{"protocol": "UDP", "port": 53}, {"protocol": "TCP", "port": 53}]
    closed = {
        **among_keepers,
        "policyTypes": ["Ingress", "Egress"],
        "ingress": [],
        "egress": [{"ports": names}, {"to": [among_keepers], "ports": [tcp(pg), tcp(management)]}],
    }
    return {
        "walkeeper": {"spec": closed},
        "walkeeper-pg": admitting(KEEPER_LABELS, {pg: [clients, among_keepers]}),
        "walkeeper-management": admitting(KEEPER_LABELS, {management: [among_keepers, operators]}),
        "walkeeper-metrics": admitting(KEEPER_LABELS, {metrics: [MONITORING]}),
    }


# -- the example --------------------------------------------------------------------------------------------


def example() -> Mapping[str, Mapping[str, Object]]:
    """PostgreSQL with a sidecar."""
    claim = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": ELSEWHERE}}}
    opened = ports("sidecar-example")
    scraped = {"app.kubernetes.io/name": "walkeeper-sidecar"}
    admitted: dict[int, list[Object]] = {POSTGRES_PORTS["postgres"]: [{"podSelector": {}}]}
    return {
        "Namespace": {"walkeeper-example": {}},
        "ServiceAccount": {"postgres": {"automountServiceAccountToken": False}},
        "StatefulSet": {"postgres": {"spec": postgres(claim)}},
        "ConfigMap": {"postgres": {"data": ELSEWHERE}},
        "Service": {
            "postgres": {"spec": headless(POSTGRES_LABELS, POSTGRES_PORTS)},
            "walkeeper-sidecar": {"spec": headless(POSTGRES_LABELS, opened, ready_or_not=True)},
        },
        "NetworkPolicy": {"postgres": admitting(POSTGRES_LABELS, {**admitted, opened["metrics"]: [MONITORING]})},
        "ServiceMonitor": {"walkeeper-sidecar": monitor(scraped)},
        "PersistentVolumeClaim": {"data-postgres-0": {"spec": claim}},
        "Pod": {"restore": {"spec": ELSEWHERE}},
    }


def postgres(claim: Object) -> Object:
    """Its StatefulSet.  A sidecar that was fenced, or cannot work, stays away: it would fence others in a loop."""
    stays_away = sorted((exit_code(ConfigError("")), exit_code(Fenced("", Term(2), Term(1)))))
    server: Object = {
        "name": "postgres",
        "image": "postgres:17",
        "args": [
            *("-c", "config_file=/etc/postgresql/postgresql.conf"),
            *("-c", "hba_file=/etc/postgresql/pg_hba.conf"),
        ],
        "ports": opening(POSTGRES_PORTS),
        "readinessProbe": {
            "exec": {"command": ["pg_isready", "--host=127.0.0.1", "--quiet"]},
            **pace(period=5, timeout=3, failures=3),
        },
        "env": [
            {"name": "PGDATA", "value": "/var/lib/postgresql/data/pgdata"},
            {"name": "POSTGRES_PASSWORD_FILE", "value": "/etc/postgresql-secrets/postgres-password"},
        ],
        "securityContext": RIGHTS,
        **dict.fromkeys(("resources", "volumeMounts"), ELSEWHERE),
    }
    sidecar: Object = {
        "name": "walkeeper",
        **ours("propose", ports("sidecar-example")),
        "securityContext": {**RIGHTS, "runAsUser": CONTAINER_USER, "runAsGroup": CONTAINER_USER},
        "restartPolicy": "Never",
        "restartPolicyRules": [{"action": "Restart", "exitCodes": {"operator": "NotIn", "values": stays_away}}],
        "livenessProbe": probe("/livez", period=10, timeout=5, failures=6),
        "readinessProbe": probe("/readyz", period=5, timeout=3, failures=3),
        "lifecycle": {"preStop": {"sleep": {"seconds": 5}}},  # for the server to send its last WAL
    }
    pod: Object = {
        "serviceAccountName": "postgres",
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": 120,
        "securityContext": identity(POSTGRES_USER),
        "containers": [server, sidecar],
        "volumes": ELSEWHERE,
    }
    labels = {**POSTGRES_LABELS, **CLIENT_LABEL}
    return {"replicas": 1, **set_of("postgres", POSTGRES_LABELS, labels, pod, claim)}


# -- parts of both ------------------------------------------------------------------------------------------


def set_of(name: str, selected: Object, labels: Object, pod: Object, claim: Object) -> Object:
    """A StatefulSet that keeps its disks."""
    return {
        "serviceName": name,
        "persistentVolumeClaimRetentionPolicy": {"whenDeleted": "Retain", "whenScaled": "Retain"},
        "selector": {"matchLabels": selected},
        "template": {"metadata": {"labels": labels, "annotations": ELSEWHERE}, "spec": pod},
        "volumeClaimTemplates": [{"metadata": {"name": "data"}, "spec": claim}],
    }


def ours(command: str, opened: Mapping[str, int]) -> Object:
    """A container of our image."""
    return {
        "image": IMAGE,
        "imagePullPolicy": "IfNotPresent",
        "args": [command],
        "ports": opening(opened),
        "securityContext": RIGHTS,
        **dict.fromkeys(("env", "resources", "volumeMounts"), ELSEWHERE),
    }


def identity(user: int) -> Object:
    """Whom a pod runs as."""
    return {
        "runAsNonRoot": True,
        "runAsUser": user,
        "runAsGroup": user,
        "fsGroup": user,
        "fsGroupChangePolicy": "OnRootMismatch",
        "seccompProfile": {"type": "RuntimeDefault"},
    }


def answered() -> set[str]:
    """The paths that the port for probes answers."""
    routes = [*health_routes(lambda: (), Readiness()), Metrics("test").route()]
    return {route.path for route in routes}


def probe(path: str, *, period: int, timeout: int, failures: int) -> Object:
    """Over HTTP, at the port where there is an answer and nothing that could be changed."""
    assert path in answered()
    asked = {"path": path, "port": "metrics"}
    return {"httpGet": asked, **pace(period=period, timeout=timeout, failures=failures)}


def pace(*, period: int, timeout: int, failures: int) -> Object:
    return {"periodSeconds": period, "timeoutSeconds": timeout, "failureThreshold": failures}


def headless(selector: Object, opened: Mapping[str, int], *, ready_or_not: bool = False) -> Object:
    """A Service that gives pods names; ``ready_or_not``: for those who would make them ready, and for Prometheus."""
    found: Object = {"clusterIP": "None", "selector": selector, "ports": leading(opened)}
    return {**found, "publishNotReadyAddresses": True} if ready_or_not else found


def leading(opened: Mapping[str, int]) -> list[Object]:
    return [{"name": name, "port": number, "targetPort": name} for name, number in opened.items()]


def opening(opened: Mapping[str, int]) -> list[Object]:
    return [{"name": name, "containerPort": number} for name, number in opened.items()]


def tcp(port: int) -> Object:
    return {"protocol": "TCP", "port": port}


def admitting(labels: Object, sources: Mapping[int, list[Object]]) -> Object:
    """A NetworkPolicy: who is let in at each port."""
    rules = [{"from": each, "ports": [tcp(port)]} for port, each in sources.items()]
    return {"spec": {"podSelector": {"matchLabels": labels}, "policyTypes": ["Ingress"], "ingress": rules}}


def monitor(labels: Object) -> Object:
    """A ServiceMonitor.  Rates in rules and dashboard are of some of these intervals."""
    assert "/metrics" in answered()
    endpoint = {
        "port": "metrics",
        "path": "/metrics",
        "interval": "15s",
        "scrapeTimeout": "10s",
        "relabelings": [NAMED_BY_POD],
    }
    selector = {"matchLabels": labels}
    return {"spec": {"jobLabel": "app.kubernetes.io/name", "selector": selector, "endpoints": [endpoint]}}


# -- comparing ----------------------------------------------------------------------------------------------


def differences(found: Any, wanted: Any, path: str = "") -> Iterator[str]:
    """What is not as it has to be, and where: with dots between keys, indexes, and names of those in a list."""
    if wanted is ELSEWHERE or (found == wanted and type(found) is type(wanted)):
        return
    one, other = keyed(found), keyed(wanted)
    if one is None or other is None:
        yield f"{path} is {found!r} instead of {wanted!r}"
        return
    for key in [*other, *(each for each in one if each not in other)]:
        below = f"{path}.{key}" if path else str(key)
        if key not in other:
            yield f"{below} is {one[key]!r}, and should not be there"
        elif key not in one:
            if other[key] is not ELSEWHERE:
                yield f"{below} is missing"
        else:
            yield from differences(one[key], other[key], below)


def keyed(value: Any) -> Mapping[Any, Any] | None:
    """A list by its names, if all have one of their own, or else by its indexes."""
    if not isinstance(value, list):
        return value if isinstance(value, dict) else None
    names = [each.get("name", index) if isinstance(each, dict) else index for index, each in enumerate(value)]
    return dict(zip(names, value, strict=True)) if len({*names}) == len(names) else dict(enumerate(value))
