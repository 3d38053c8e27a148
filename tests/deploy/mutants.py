"""Manifests with one thing wrong, and what has to be said of it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from deploy.manifests import Manifests, load

GONE: Final = object()
"""Instead of a value: without it."""

POD: Final = "spec.template.spec"
KEEPER: Final = f"{POD}.containers.keeper"
SIDECAR: Final = f"{POD}.containers.walkeeper"
TO_STATEFULSET: Final = "StatefulSet/walkeeper"
TO_POSTGRES: Final = "StatefulSet/postgres"
READ: Final = "Service/walkeeper-read"
CLOSED: Final = "NetworkPolicy/walkeeper"
PG: Final = "NetworkPolicy/walkeeper-pg"
MANAGEMENT: Final = "NetworkPolicy/walkeeper-management"
BUDGET: Final = "PodDisruptionBudget/walkeeper"
MONITOR: Final = "ServiceMonitor/walkeeper"
WAITING: Final = "synchronous_standby_names = 'walkeeper';"
SETTINGS: Final = "ConfigMap/postgres data.postgresql|conf"
APART: Final = f"{POD}.affinity.podAntiAffinity.requiredDuringSchedulingIgnoredDuringExecution.0"


@dataclass(frozen=True, slots=True)
class Mutant:
    """``where`` is a kind and a name.  ``path`` leads to what is replaced by ``value``: keys, indexes, and names of those in a
    list, with dots between them; ``+`` is one more of a list.  ``said`` is a part of what the checker has to say; empty: what
    is wrong at this very place.
    """

    overlay: str
    where: str
    path: str
    value: Any
    said: str = ""

    @property
    def place(self) -> str:
        return f"{self.where} {self.path.removesuffix('.+').replace('|', '.')}"

    def is_caught_by(self, sentence: str) -> bool:
        return self.said in sentence if self.said else sentence.startswith(self.place)

    def __str__(self) -> str:
        return f"{self.where} {self.path} {'gone' if self.value is GONE else self.value}"

    def make(self) -> Manifests:
        manifests = load(self.overlay)
        kind, name = self.where.split("/")
        place: Any = manifests.one(kind, name)
        *steps, last = self.path.split(".")
        for step in steps:
            place = place[index_of(place, step)]
        if self.value is GONE:
            del place[index_of(place, last)]
        elif isinstance(place, list) and last == "+":
            place.append(self.value)
        else:
            place[index_of(place, last)] = self.value
        return manifests


def index_of(place: Any, step: str) -> Any:
    if not isinstance(place, list):
        return step.replace("|", ".")
    if step.isdecimal():
        return int(step)
    return [each["name"] for each in place].index(step)


def variable(name: str) -> str:
    return f"{KEEPER}.env.WALKEEPER_{name}.value"


def one_more(name: str, value: str) -> Mapping[str, str]:
    return {"name": f"WALKEEPER_{name}", "value": value}


def in_dev(path: str, value: Any, said: str = "") -> Mutant:
    return mutant("dev", TO_STATEFULSET, path, value, said)


def in_production(path: str, value: Any, said: str = "") -> Mutant:
    return mutant("production", TO_STATEFULSET, path, value, said)


def in_example(path: str, value: Any, said: str = "") -> Mutant:
    return mutant("sidecar-example", TO_POSTGRES, path, value, said)


def mutant(overlay: str, usual: str, path: str, value: Any, said: str) -> Mutant:
    """``path`` may have another object's kind and name in front."""
    where, _, below = path.rpartition(" ")
    return Mutant(overlay, where or usual, below, value, said)


OPTIONS: Final = (
    in_dev(f"{KEEPER}.env.WALKEEPER_ID.name", "WALKEEPER_NODE_ID", "unknown environment variable WALKEEPER_NODE_ID"),
    in_dev(f"{KEEPER}.env.WALKEEPER_ID", GONE, "walkeeper-1 is keeper None"),
    in_dev(f"{KEEPER}.env.WALKEEPER_ID", {"name": "WALKEEPER_ID", "value": "1"}, "walkeeper-2 is keeper 1"),
    in_dev(f"{KEEPER}.env.WALKEEPER_ID.valueFrom.fieldRef.fieldPath", "metadata.name", "walkeeper-1 does not start"),
    in_dev("spec.ordinals", GONE, "walkeeper-0 does not start"),
    in_dev(f"{KEEPER}.env.+", {"name": "WALKEEPER_SLOT", "value": "a"}, "is told WALKEEPER_SLOT"),
    in_dev(f"{KEEPER}.args", ["serve", "--listen-pq=0.0.0.0:5454"], "does not start"),
    in_dev(f"{KEEPER}.args", ["propose"], "the container keeper runs propose"),
    in_dev(variable("LEAVE_TIMEOUT"), "60", "walkeeper-1 does not start: WALKEEPER_LEAVE_TIMEOUT"),
    in_dev(variable("LOG_FORMAT"), "xml", "walkeeper-3 does not start: WALKEEPER_LOG_FORMAT"),
    in_production(variable("ENABLE_TLS_WAL_SERVICE_API"), "yes", "does not start"),
    in_production(variable("ENABLE_TLS_WAL_SERVICE_API"), "false", "enable-tls-wal-service-api, and that it is off"),
    in_example(f"{SIDECAR}.env.WALKEEPER_KEEPERS", GONE, "postgres-0 does not start: --keepers is needed"),
    in_dev(f"{KEEPER}.args", ["serve", "--no-sync"]),
    in_dev(f"{KEEPER}.args", ["serve", "--init"]),
    in_dev(f"{KEEPER}.command", ["/bin/true"]),
    in_dev(f"{KEEPER}.env.+", one_more("NO_SYNC", "true"), "is told WALKEEPER_NO_SYNC"),
    in_dev(f"{KEEPER}.env.+", one_more("DISK_HANGS_AFTER", "1s"), "is told WALKEEPER_DISK_HANGS_AFTER"),
    in_dev(f"{KEEPER}.env.+", one_more("LEAVE_TIMEOUT", "60s"), "is told something twice"),
    in_dev(f"{KEEPER}.env.+", {"name": "NOTIFY_SOCKET", "value": "/x"}, "is told NOTIFY_SOCKET"),
    in_production(f"{KEEPER}.env.WALKEEPER_ENABLE_TLS_WAL_SERVICE_API", GONE, "is not told WALKEEPER_ENABLE_TLS_WAL"),
    in_production(f"{KEEPER}.env.WALKEEPER_AUTH_TOKEN_PATH", GONE, "is not told WALKEEPER_AUTH_TOKEN_PATH"),
    in_production(f"{KEEPER}.env.WALKEEPER_SSL_CERT_FILE", GONE, "is not told WALKEEPER_SSL_CERT_FILE"),
    in_production(f"{KEEPER}.env.WALKEEPER_PG_AUTH_PUBLIC_KEY_PATH", GONE, "is not told WALKEEPER_PG_AUTH"),
)  # fmt: skip

NETWORK: Final = (
    in_dev(variable("PEER_HTTP"), "walkeeper-1.walkeeper.walkeeper.svc:7676", "walkeeper-2 knows"),
    in_dev(variable("KEEPERS"), "walkeeper-1.walkeeper.walkeeper.svc:5454", "lists other keepers than there are"),
    in_production(variable("KEEPER_SSLMODE"), "require", "show its token to whoever answers"),
    in_dev("spec.serviceName", "walkeepers"),
    in_dev("spec.replicas", 5),
    in_production(variable("LISTEN_HTTPS"), "0.0.0.0:7678", "listens on {'pg': 5454, 'https': 7678"),
    in_production(f"{KEEPER}.env.WALKEEPER_SSL_CA_FILE", GONE, "is not told WALKEEPER_SSL_CA_FILE"),
    in_dev(variable("LISTEN_PG"), "0.0.0.0:5432", "listens on {'pg': 5432, "),
    in_dev(variable("LISTEN_PG"), "127.0.0.1:5454", "listens on {'http': 7676, "),
    in_dev(f"{KEEPER}.ports.metrics.containerPort", 7679),
    in_dev(f"{KEEPER}.ports.pg.name", "postgres", "ports.pg is missing"),
    in_dev(f"{KEEPER}.env.WALKEEPER_LISTEN_METRICS", GONE, "is not told WALKEEPER_LISTEN_METRICS"),
    in_dev(f"{READ} spec.ports.pg.targetPort", "pq"),
    in_dev(f"{READ} spec.ports.pg.port", 5432),
    in_dev(f"{READ} spec.selector.app|kubernetes|io/name", "walkeper"),
    in_dev("Service/walkeeper spec.clusterIP", GONE),
    in_dev("Service/walkeeper spec.publishNotReadyAddresses", GONE),
    in_dev(f"{PG} spec.ingress.0.ports.0.port", 5432),
    in_dev("NetworkPolicy/walkeeper-metrics spec.ingress.0.ports.0.port", 7676),
    in_dev(f"{PG} spec.ingress.0.ports.+", {"protocol": "TCP", "port": 7676}),
    in_dev(f"{MANAGEMENT} spec.ingress.0.from", []),
    in_dev(f"{MANAGEMENT} spec.ingress.0.from.+", {"namespaceSelector": {}}),
    in_dev(f"{PG} spec.ingress.0.from.0.podSelector.matchLabels", {"client": "true"}),
    in_dev(f"{CLOSED} spec.policyTypes", ["Ingress"]),
    in_dev(f"{CLOSED} spec.podSelector.matchLabels.app|kubernetes|io/name", "walkeper"),
    in_dev(f"{CLOSED} spec.egress.0", GONE),
    in_dev(f"{CLOSED} spec.egress.0.ports.+", {"protocol": "TCP", "port": 443}),
    in_dev(f"{CLOSED} spec.egress.1.ports.1.port", 7677),
    in_production(f"{MONITOR} spec.jobLabel", "app.kubernetes.io/component"),
    in_production(f"{MONITOR} spec.endpoints.0.port", "http"),
    in_production(f"{MONITOR} spec.endpoints.0.relabelings", GONE),
    in_production(f"{MONITOR} spec.endpoints.0.path", "/stats"),
    in_example("Service/walkeeper-sidecar spec.publishNotReadyAddresses", GONE),
    in_example("Service/walkeeper-sidecar metadata.labels.app|kubernetes|io/name", "walkeeper", "finds 0 ports"),
    in_production(variable("LISTEN_HTTP"), "0.0.0.0:7676", "listens on {'pg': 5454, 'http': 7676, "),
    in_dev(f"{READ} spec.type", "LoadBalancer"),
    in_dev(f"{READ} spec.publishNotReadyAddresses", True),
    in_dev("Service/walkeeper spec.externalIPs", ["192.0.2.1"]),
    in_dev("Service/walkeeper spec.selector", {}),
    in_dev(f"{PG} spec.ingress.0.ports.0.protocol", "UDP"),
    in_dev(f"{PG} spec.ingress.0.ports.0.endPort", 65535),
    in_dev(f"{PG} spec.ingress.0.from.0.namespaceSelector", {"matchLabels": {"x": "y"}}),
    in_dev(f"{MANAGEMENT} spec.ingress.0.from.+", {"ipBlock": {"cidr": "0.0.0.0/0"}}),
    in_dev(f"{MANAGEMENT} spec.ingress.0.from.+", {}),
    in_dev(f"{MANAGEMENT} spec.ingress.0.from.+", {"podSelector": {}}),
    in_dev(f"{MANAGEMENT} spec.policyTypes", ["Egress"]),
    in_dev(f"{CLOSED} spec.egress.1.to", [{"ipBlock": {"cidr": "0.0.0.0/0"}}]),
    in_dev(f"{CLOSED} spec.egress.1.to", [{"podSelector": {"matchLabels": {"app": "nothing"}}}]),
    in_dev(f"{CLOSED} spec.egress.1.ports.0.protocol", "UDP"),
    in_production(f"{MONITOR} spec.endpoints.0.scheme", "https"),
    in_production(f"{MONITOR} spec.endpoints.0.interval", "24h"),
    in_production(f"{MONITOR} spec.namespaceSelector", {"matchNames": ["other"]}),
    in_production(f"{MONITOR} metadata.name", "others", "ServiceMonitor/walkeeper is missing"),
)  # fmt: skip

PROBES: Final = (
    in_dev(f"{KEEPER}.livenessProbe.httpGet.path", "/readyz"),
    in_dev(f"{KEEPER}.readinessProbe.httpGet.path", "/livez"),
    in_dev(f"{KEEPER}.startupProbe.httpGet.path", "/healthz"),
    in_dev(f"{KEEPER}.startupProbe", GONE),
    in_dev(f"{KEEPER}.livenessProbe.httpGet.port", "http"),
    in_dev(f"{KEEPER}.readinessProbe.httpGet.port", "metric"),
    in_dev(f"{KEEPER}.livenessProbe.failureThreshold", 3),
    in_dev(f"{KEEPER}.livenessProbe.failureThreshold", 7),
    in_dev(f"{KEEPER}.startupProbe.failureThreshold", 10),
    in_example(f"{SIDECAR}.livenessProbe.httpGet.path", "/readyz"),
    in_example(f"{SIDECAR}.readinessProbe", GONE),
    in_dev(f"{KEEPER}.livenessProbe.httpGet.scheme", "HTTPS"),
    in_dev(f"{KEEPER}.livenessProbe.periodSeconds", 100000),
    in_dev(f"{KEEPER}.livenessProbe.terminationGracePeriodSeconds", 1),
    in_dev(f"{KEEPER}.readinessProbe.httpGet.host", "192.0.2.1"),
    in_dev(f"{KEEPER}.readinessProbe.failureThreshold", 1000),
    in_dev(f"{KEEPER}.readinessProbe.periodSeconds", 600),
    in_dev(f"{KEEPER}.readinessProbe.initialDelaySeconds", 3000),
    in_example(f"{SIDECAR}.livenessProbe.failureThreshold", 1),
)  # fmt: skip

COMINGS_AND_GOINGS: Final = (
    in_dev(f"{POD}.terminationGracePeriodSeconds", 60),
    in_dev(variable("LEAVE_TIMEOUT"), "10m", "killed after 90 s, and may need 603 s"),
    in_dev(f"{KEEPER}.env.WALKEEPER_LEAVE_TIMEOUT", GONE, "is not told WALKEEPER_LEAVE_TIMEOUT"),
    in_dev(f"{KEEPER}.lifecycle", {"preStop": {"sleep": {"seconds": 5}}}),
    in_dev(f"{BUDGET} spec.minAvailable", 1),
    in_dev(f"{BUDGET} spec.minAvailable", 3),
    in_dev(f"{BUDGET} spec.minAvailable", "50%"),
    in_dev(f"{BUDGET} spec.minAvailable", GONE),
    in_dev(f"{BUDGET} spec.unhealthyPodEvictionPolicy", "AlwaysAllow"),
    in_dev(f"{BUDGET} spec.selector.matchLabels.app|kubernetes|io/component", "keeprs"),
    in_dev("spec.replicas", 1),
    in_dev("spec.updateStrategy.rollingUpdate", {"maxUnavailable": 2}),
    in_dev("spec.updateStrategy.type", "OnDelete"),
    in_dev("spec.podManagementPolicy", "OrderedReady"),
    in_dev("spec.minReadySeconds", GONE),
    in_dev("spec.persistentVolumeClaimRetentionPolicy.whenScaled", "Delete"),
    in_production(f"{POD}.affinity", GONE),
    in_production(f"{POD}.topologySpreadConstraints.0.whenUnsatisfiable", "ScheduleAnyway"),
    in_production(f"{POD}.topologySpreadConstraints.0.labelSelector.matchLabels.app|kubernetes|io/name", "x"),
    in_dev(variable("LEAVE_TIMEOUT"), "1ms", "leaves after 0.001 s, before it goes by what the others say"),
    in_dev(variable("LEAVE_TIMEOUT"), "2s", "leaves after 2 s, before it goes by what the others say"),
    in_dev(f"{BUDGET} spec.maxUnavailable", 2),
    in_dev(f"{BUDGET} spec.selector.matchLabels", {}),
    in_dev("spec.minReadySeconds", 1),
    in_dev("spec.replicas", 0),
    in_example("spec.replicas", 2),
    in_production(f"{POD}.topologySpreadConstraints.0.maxSkew", 5),
    in_production(f"{APART}.labelSelector", {"matchLabels": {}}),
    in_production(f"{APART}.namespaces", ["other"]),
    in_production(f"{POD}.priorityClassName", GONE),
    in_production(f"{POD}.priorityClassName", "unknown"),
    in_production("PriorityClass/walkeeper value", -1000),
    in_production("PriorityClass/walkeeper globalDefault", True),
)  # fmt: skip

FILES_AND_RIGHTS: Final = (
    in_production(f"{POD}.volumes.tls.secret.secretName", "walkeeper-cert", "nobody makes the Secret walkeeper-cert"),
    in_production(f"{POD}.volumes.tls.secret.defaultMode", 0o644, "the volume tls: defaultMode is 420"),
    in_production(f"{POD}.volumes.peer-token", GONE, "mounts peer-token, which is no volume"),
    in_production(f"{KEEPER}.volumeMounts.tls.subPath", "tls.crt", "the mount of tls in keeper: subPath is 'tls.crt'"),
    in_production(f"{KEEPER}.volumeMounts.tls.readOnly", GONE, "the mount of tls in keeper: readOnly is missing"),
    in_production(f"{KEEPER}.volumeMounts.auth-keys.mountPath", "/etc/keys", "auth-public-key-path is /etc/walkeeper"),
    in_production(variable("SSL_KEY_FILE"), "/etc/walkeeper/tls/tls.pem", "--ssl-key-file is"),
    in_production(variable("AUTH_TOKEN_PATH"), "/etc/walkeeper/peer-token", "--auth-token-path is"),
    in_dev(variable("DATADIR"), "/var/lib/walkeper", "keeps WAL in /var/lib/walkeper, where no disk is"),
    in_dev(f"{POD}.securityContext.runAsUser", 1000),
    in_dev(f"{POD}.securityContext.runAsNonRoot", GONE),
    in_dev(f"{POD}.securityContext.fsGroup", GONE),
    in_dev(f"{POD}.securityContext.fsGroupChangePolicy", "Always"),
    in_dev(f"{POD}.securityContext.seccompProfile.type", "Unconfined"),
    in_dev(f"{KEEPER}.securityContext.readOnlyRootFilesystem", False),
    in_dev(f"{KEEPER}.securityContext.allowPrivilegeEscalation", GONE),
    in_dev(f"{KEEPER}.securityContext.capabilities", {"drop": ["NET_RAW"]}),
    in_dev(f"{KEEPER}.resources.limits.cpu", "1", "stopped by a limit of CPU"),
    in_dev(f"{KEEPER}.resources.requests.memory", GONE, "does not say what it needs"),
    in_dev(f"{KEEPER}.image", "walkeeper:latest"),
    in_dev(f"{POD}.automountServiceAccountToken", True),
    in_dev(f"{POD}.enableServiceLinks", GONE),
    in_dev(f"{POD}.serviceAccountName", "default"),
    in_dev("Service/walkeeper metadata.namespace", "default", "Service walkeeper is not in the namespace"),
    in_dev("Namespace/walkeeper metadata.labels.pod-security|kubernetes|io/enforce", "baseline", "more rights than ours need"),
    in_dev("spec.selector.matchLabels.app|kubernetes|io/name", "walkeper"),
    in_example(f"{SIDECAR}.env.PGPASSWORD.valueFrom.secretKeyRef.key", "password", "nobody makes the Secret postgres"),
    in_dev(f"{KEEPER}.volumeMounts.data.readOnly", True, "the mount of data in keeper: readOnly is True"),
    in_dev("spec.volumeClaimTemplates.0.spec.accessModes", ["ReadOnlyMany"]),
    in_production("spec.volumeClaimTemplates.0.spec.storageClassName", "tmpfs"),
    in_production(variable("SSL_CERT_FILE"), "/etc/walkeeper/tls/ca.crt", "not the Secret's tls.crt"),
    in_production(variable("SSL_CA_FILE"), "/etc/walkeeper/tls/tls.key", "not the Secret's ca.crt"),
    in_production(f"{POD}.volumes.tls.secret.items", [{"key": "tls.crt", "path": "tls.crt"}], "the volume tls: items is"),
    in_production(f"{POD}.volumes.+", {"name": "host", "hostPath": {"path": "/"}}, "the volume host is none of"),
    in_dev(f"{KEEPER}.image", "others:1"),
    in_dev(f"{POD}.containers.+", {"name": "other", "image": "other:1"}),
    in_dev(f"{POD}.initContainers", [{"name": "other", "image": "other:1"}]),
    in_dev(f"{POD}.hostNetwork", True),
    in_dev(f"{POD}.hostPID", True),
    in_dev(f"{KEEPER}.securityContext.privileged", True),
    in_dev(f"{KEEPER}.securityContext.runAsNonRoot", False),
    in_dev(f"{KEEPER}.securityContext.seccompProfile", {"type": "Unconfined"}),
)  # fmt: skip

SIDECARS: Final = (
    in_example(f"{SIDECAR}.restartPolicy", "Always"),
    in_example(f"{SIDECAR}.restartPolicyRules.0.exitCodes.values", [3]),
    in_example(f"{SIDECAR}.restartPolicyRules.0.exitCodes.operator", "In"),
    in_example(f"{SIDECAR}.env.WALKEEPER_KEEPERS.value", "walkeeper-1.walkeeper.walkeeper.svc:5454", "lists other keepers than there are"),
    in_example("spec.template.metadata.labels.walkeeper-client", "yes"),
    in_example(SETTINGS, "synchronous_standby_names = 'walkeeper'\n", "postgresql.conf: synchronous_standby_names is"),
    in_example(SETTINGS, "wal_level = replica\n", "postgresql.conf: max_slot_wal_keep_size is missing"),
    in_example("ConfigMap/postgres data.walkeeper|sh", "", "commits do not wait for the sidecar"),
    in_example(f"{SIDECAR}.env.WALKEEPER_PRIMARY.value", "host=other", "the sidecar's primary is host=other"),
    in_example(f"{SIDECAR}.env.+", one_more("SLOT", "other"), "is told WALKEEPER_SLOT"),
    in_example(f"{SIDECAR}.image", "others:1"),
    in_example(SETTINGS, "fsync = off\n", "postgresql.conf: fsync is 'off', and should not be there"),
    in_example(SETTINGS, "synchronous_commit=off\n", "postgresql.conf: synchronous_commit is 'off'"),
    in_example(SETTINGS, "wal_level = minimal\n", "postgresql.conf: wal_level is 'minimal' instead of 'replica'"),
    in_example(SETTINGS, "max_slot_wal_keep_size = 0\n", "postgresql.conf: max_slot_wal_keep_size is '0'"),
    in_example("ConfigMap/postgres data.pg_hba|conf", "host all all all trust\n", "without a proof: host all all all trust"),
    in_example("ConfigMap/postgres data.walkeeper|sh", f"-- ALTER SYSTEM SET {WAITING}\n", "commits do not wait"),
    in_example("ConfigMap/postgres data.walkeeper|sh", f"# SET {WAITING}\n", "commits do not wait"),
)  # fmt: skip

MUTANTS: Final[Sequence[Mutant]] = (
    *OPTIONS, *NETWORK, *PROBES, *COMINGS_AND_GOINGS, *FILES_AND_RIGHTS, *SIDECARS,
)  # fmt: skip
