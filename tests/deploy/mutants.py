"""Manifests with one thing wrong, and what has to be said of it."""

from collections.abc import Sequence
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


@dataclass(frozen=True, slots=True)
class Mutant:
    """``path`` leads to what is replaced by ``value``: keys, indexes, and names of those in a list, with dots between
    them.  ``said`` is a part of what the checker has to say.
    """

    overlay: str
    where: str
    path: str
    value: Any
    said: str

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


def in_dev(path: str, value: Any, said: str, where: str = TO_STATEFULSET) -> Mutant:
    return Mutant("dev", where, path, value, said)


def in_production(path: str, value: Any, said: str, where: str = TO_STATEFULSET) -> Mutant:
    return Mutant("production", where, path, value, said)


def in_example(path: str, value: Any, said: str, where: str = TO_POSTGRES) -> Mutant:
    return Mutant("sidecar-example", where, path, value, said)


OPTIONS: Final = (
    in_dev(
        f"{KEEPER}.env.WALKEEPER_ID.name", "WALKEEPER_NODE_ID", "unknown environment variable WALKEEPER_NODE_ID"
    ),
    in_dev(f"{KEEPER}.env.WALKEEPER_ID", GONE, "walkeeper-1 is keeper None"),
    in_dev(f"{KEEPER}.env.WALKEEPER_ID", {"name": "WALKEEPER_ID", "value": "1"}, "walkeeper-2 is keeper 1"),
    in_dev(
        f"{KEEPER}.env.WALKEEPER_ID.valueFrom.fieldRef.fieldPath", "metadata.name", "walkeeper-1 does not start"
    ),
    in_dev("spec.ordinals", GONE, "walkeeper-0 does not start"),
    in_dev(f"{KEEPER}.env.+", {"name": "WALKEEPER_SLOT", "value": "a"}, "told slot, which serve does not use"),
    in_dev(f"{KEEPER}.args", ["serve", "--listen-pq=0.0.0.0:5454"], "does not start"),
    in_dev(f"{KEEPER}.args", ["propose"], "told listen-pg, which propose does not use"),
    in_dev(variable("LEAVE_TIMEOUT"), "60", "walkeeper-1 does not start: WALKEEPER_LEAVE_TIMEOUT"),
    in_dev(variable("LOG_FORMAT"), "xml", "walkeeper-3 does not start: WALKEEPER_LOG_FORMAT"),
    in_production(variable("ENABLE_TLS_WAL_SERVICE_API"), "yes", "does not start"),
    in_example(f"{SIDECAR}.env.WALKEEPER_KEEPERS", GONE, "postgres-0 does not start: --keepers is needed"),
)

NETWORK: Final = (
    in_dev(variable("PEER_HTTP"), "walkeeper-1.walkeeper.walkeeper.svc:7676", "walkeeper-2 knows"),
    in_dev(variable("KEEPERS"), "walkeeper-1.walkeeper.walkeeper.svc:5454", "lists other keepers than there are"),
    in_production(variable("KEEPER_SSLMODE"), "require", "show its token to whoever answers"),
    in_dev("spec.serviceName", "walkeepers", "there is no headless Service walkeepers"),
    in_dev("spec.replicas", 5, "walkeeper-5 knows"),
    in_production(variable("LISTEN_HTTPS"), "0.0.0.0:7678", "--listen-https is 7678 instead of 7677"),
    in_production(f"{KEEPER}.env.WALKEEPER_SSL_CA_FILE", GONE, "no --ssl-ca-file to verify the others with"),
    in_dev(variable("LISTEN_PG"), "0.0.0.0:5432", "--listen-pg is 5432 instead of 5454"),
    in_dev(variable("LISTEN_PG"), "127.0.0.1:5454", "and listens on"),
    in_dev(f"{KEEPER}.ports.metrics.containerPort", 7679, "and listens on"),
    in_dev(f"{KEEPER}.ports.pg.name", "postgres", "and listens on"),
    in_dev(f"{KEEPER}.env.WALKEEPER_LISTEN_METRICS", GONE, "and listens on"),
    in_dev("spec.ports.pg.targetPort", "pq", "leads to pq, which is None", "Service/walkeeper-read"),
    in_dev("spec.ports.pg.port", 5432, "port 5432 leads to pg, which is 5454", "Service/walkeeper-read"),
    in_dev("spec.selector.app|kubernetes|io/name", "walkeper", "Service walkeeper-read selects no pod",
           "Service/walkeeper-read"),
    in_dev("spec.clusterIP", GONE, "no headless Service walkeeper", "Service/walkeeper"),
    in_dev("spec.publishNotReadyAddresses", GONE, "hides keepers that are not ready", "Service/walkeeper"),
    in_dev("spec.ingress.0.ports.0.port", 5432, "at a port that its pods do not have", "NetworkPolicy/walkeeper-pg"),
    in_dev("spec.ingress.0.ports.0.port", 7676, "no NetworkPolicy lets in at the port metrics",
           "NetworkPolicy/walkeeper-metrics"),
    in_dev("spec.ingress.0.ports.+", {"protocol": "TCP", "port": 7676}, "lets in at 2 ports with one rule",
           "NetworkPolicy/walkeeper-pg"),
    in_dev("spec.ingress.0.from", [], "everybody is let in at the port 7676", "NetworkPolicy/walkeeper-management"),
    in_dev("spec.ingress.0.from.+", {"namespaceSelector": {}}, "the management API is open to other namespaces",
           "NetworkPolicy/walkeeper-management"),
    in_dev("spec.ingress.0.from.0.podSelector.matchLabels", {"client": "true"}, "are not let in",
           "NetworkPolicy/walkeeper-pg"),
    in_dev("spec.policyTypes", ["Ingress"], "forbids keepers what the others do not allow", "NetworkPolicy/walkeeper"),
    in_dev("spec.podSelector.matchLabels.app|kubernetes|io/name", "walkeper", "NetworkPolicy walkeeper selects no pod",
           "NetworkPolicy/walkeeper"),
    in_dev("spec.egress.0", GONE, "keepers may go out to []", "NetworkPolicy/walkeeper"),
    in_dev("spec.egress.0.ports.+", {"protocol": "TCP", "port": 443}, "instead of asking for names only",
           "NetworkPolicy/walkeeper"),
    in_dev("spec.egress.1.ports.1.port", 7677, "keepers reach each other at", "NetworkPolicy/walkeeper"),
    in_production("spec.jobLabel", "app.kubernetes.io/component", "calls the job keeper", "ServiceMonitor/walkeeper"),
    in_production("spec.endpoints.0.port", "http", "finds 0 ports of Services", "ServiceMonitor/walkeeper"),
    in_production("spec.endpoints.0.relabelings", GONE, "calls a pod by its address", "ServiceMonitor/walkeeper"),
    in_production("spec.endpoints.0.path", "/stats", "asks for /stats", "ServiceMonitor/walkeeper"),
    in_example("spec.publishNotReadyAddresses", GONE, "loses sight of pods", "Service/walkeeper-sidecar"),
    in_example("metadata.labels.app|kubernetes|io/name", "walkeeper", "finds 0 ports", "Service/walkeeper-sidecar"),
)  # fmt: skip

PROBES: Final = (
    in_dev(f"{KEEPER}.livenessProbe.httpGet.path", "/readyz", "livenessProbe asks for /readyz instead of /livez"),
    in_dev(f"{KEEPER}.readinessProbe.httpGet.path", "/livez", "readinessProbe asks for /livez instead of /readyz"),
    in_dev(f"{KEEPER}.startupProbe.httpGet.path", "/healthz", "startupProbe asks for /healthz"),
    in_dev(f"{KEEPER}.startupProbe", GONE, "has no startupProbe"),
    in_dev(f"{KEEPER}.livenessProbe.httpGet.port", "http", "livenessProbe asks at the port http"),
    in_dev(f"{KEEPER}.readinessProbe.httpGet.port", "metric", "readinessProbe asks at the port metric"),
    in_dev(f"{KEEPER}.livenessProbe.failureThreshold", 3, "ended after 60 s, before --disk-hangs-after"),
    in_dev(
        f"{KEEPER}.livenessProbe.failureThreshold", 7, "is ended 260 s after its disk, which is more than is told"
    ),
    in_dev(f"{KEEPER}.startupProbe.failureThreshold", 10, "has only 20 s for its start"),
    in_example(f"{SIDECAR}.livenessProbe.httpGet.path", "/readyz", "livenessProbe asks for /readyz"),
    in_example(f"{SIDECAR}.readinessProbe", GONE, "has no readinessProbe"),
)

COMINGS_AND_GOINGS: Final = (
    in_dev(f"{POD}.terminationGracePeriodSeconds", 60, "killed after 60 s, and may need 63 s"),
    in_dev(variable("LEAVE_TIMEOUT"), "10m", "killed after 90 s, and may need 603 s"),
    in_dev(f"{KEEPER}.env.WALKEEPER_LEAVE_TIMEOUT", GONE, "leaves without a look at the others"),
    in_dev(f"{KEEPER}.lifecycle", {"preStop": {"sleep": {"seconds": 5}}}, "has a hook of its own"),
    in_dev("spec.minAvailable", 1, "minAvailable is 1, the majority is 2", "PodDisruptionBudget/walkeeper"),
    in_dev("spec.minAvailable", 3, "minAvailable is 3, the majority is 2", "PodDisruptionBudget/walkeeper"),
    in_dev("spec.minAvailable", "50%", "minAvailable is '50%', the majority is 2", "PodDisruptionBudget/walkeeper"),
    in_dev("spec.minAvailable", GONE, "minAvailable is None", "PodDisruptionBudget/walkeeper"),
    in_dev("spec.unhealthyPodEvictionPolicy", "AlwaysAllow", "evicted without a majority",
           "PodDisruptionBudget/walkeeper"),
    in_dev("spec.selector.matchLabels.app|kubernetes|io/component", "keeprs", "0 PodDisruptionBudgets",
           "PodDisruptionBudget/walkeeper"),
    in_dev("spec.replicas", 1, "minAvailable is 2, the majority is 1"),
    in_dev("spec.updateStrategy.rollingUpdate", {"maxUnavailable": 2}, "not updated one at a time"),
    in_dev("spec.updateStrategy.type", "OnDelete", "not updated one at a time"),
    in_dev("spec.podManagementPolicy", "OrderedReady", "wait for one another"),
    in_dev("spec.minReadySeconds", GONE, "at the first sign of life"),
    in_dev("spec.persistentVolumeClaimRetentionPolicy.whenScaled", "Delete", "takes its disks along"),
    in_production(f"{POD}.affinity", GONE, "may share its machine"),
    in_production(f"{POD}.topologySpreadConstraints.0.whenUnsatisfiable", "ScheduleAnyway", "may share its zone"),
    in_production(f"{POD}.topologySpreadConstraints.0.labelSelector.matchLabels.app|kubernetes|io/name", "x",
                  "kept away from others than keepers"),
)  # fmt: skip

FILES_AND_RIGHTS: Final = (
    in_production(f"{POD}.volumes.tls.secret.secretName", "walkeeper-cert", "nobody makes the Secret walkeeper-cert"),
    in_production(f"{POD}.volumes.tls.secret.defaultMode", 0o644, "more than its group to read"),
    in_production(f"{POD}.volumes.peer-token", GONE, "mounts peer-token, which is no volume"),
    in_production(f"{KEEPER}.volumeMounts.tls.subPath", "tls.crt", "mounts a part of tls"),
    in_production(f"{KEEPER}.volumeMounts.tls.readOnly", GONE, "may write to tls"),
    in_production(f"{KEEPER}.volumeMounts.auth-keys.mountPath", "/etc/keys", "auth-public-key-path is /etc/walkeeper"),
    in_production(variable("SSL_KEY_FILE"), "/etc/walkeeper/tls/tls.pem", "--ssl-key-file is"),
    in_production(variable("AUTH_TOKEN_PATH"), "/etc/walkeeper/peer-token", "--auth-token-path is"),
    in_dev(variable("DATADIR"), "/var/lib/walkeper", "keeps WAL in /var/lib/walkeper, where no disk is"),
    in_dev(f"{POD}.securityContext.runAsUser", 1000, "runAsUser is 1000 instead of 10001"),
    in_dev(f"{POD}.securityContext.runAsNonRoot", GONE, "runAsNonRoot is None"),
    in_dev(f"{POD}.securityContext.fsGroup", GONE, "fsGroup is None"),
    in_dev(f"{POD}.securityContext.fsGroupChangePolicy", "Always", "fsGroupChangePolicy is Always"),
    in_dev(f"{POD}.securityContext.seccompProfile.type", "Unconfined", "seccompProfile is"),
    in_dev(f"{KEEPER}.securityContext.readOnlyRootFilesystem", False, "readOnlyRootFilesystem is False"),
    in_dev(f"{KEEPER}.securityContext.allowPrivilegeEscalation", GONE, "allowPrivilegeEscalation is None"),
    in_dev(f"{KEEPER}.securityContext.capabilities", {"drop": ["NET_RAW"]}, "capabilities is"),
    in_dev(f"{KEEPER}.resources.limits.cpu", "1", "stopped by a limit of CPU"),
    in_dev(f"{KEEPER}.resources.requests.memory", GONE, "does not say what it needs"),
    in_dev(f"{KEEPER}.image", "walkeeper:latest", "runs walkeeper:latest"),
    in_dev(f"{POD}.automountServiceAccountToken", True, "automountServiceAccountToken is True"),
    in_dev(f"{POD}.enableServiceLinks", GONE, "enableServiceLinks is None"),
    in_dev(f"{POD}.serviceAccountName", "default", "has no account of its own"),
    in_dev("metadata.namespace", "default", "Service walkeeper is not in the namespace", "Service/walkeeper"),
    in_dev("metadata.labels.pod-security|kubernetes|io/enforce", "baseline", "more rights than ours need",
           "Namespace/walkeeper"),
    in_dev("spec.selector.matchLabels.app|kubernetes|io/name", "walkeper", "does not select its own pods"),
    in_example(f"{SIDECAR}.env.PGPASSWORD.valueFrom.secretKeyRef.key", "password", "nobody makes the Secret postgres"),
)  # fmt: skip

SIDECARS: Final = (
    in_example(f"{SIDECAR}.restartPolicy", "Always", "comes back after exit codes other than [2, 3]"),
    in_example(f"{SIDECAR}.restartPolicyRules.0.exitCodes.values", [3], "comes back after exit codes"),
    in_example(f"{SIDECAR}.restartPolicyRules.0.exitCodes.operator", "In", "comes back after exit codes"),
    in_example(f"{SIDECAR}.env.WALKEEPER_KEEPERS.value", "walkeeper-1.walkeeper.walkeeper.svc:5454",
               "lists other keepers than there are"),
    in_example("spec.template.metadata.labels.walkeeper-client", "yes", "not let in by the keepers' NetworkPolicy"),
    in_example("data.postgresql|conf", "synchronous_standby_names = 'walkeeper'\n", "would wait for the sidecar for ever",
               "ConfigMap/postgres"),
    in_example("data.postgresql|conf", "wal_level = replica\n", "fills the primary's disk", "ConfigMap/postgres"),
    in_example("data.walkeeper|sh", "", "commits do not wait for the sidecar", "ConfigMap/postgres"),
)  # fmt: skip

MUTANTS: Final[Sequence[Mutant]] = (
    *OPTIONS, *NETWORK, *PROBES, *COMINGS_AND_GOINGS, *FILES_AND_RIGHTS, *SIDECARS,
)  # fmt: skip
