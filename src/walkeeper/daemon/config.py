"""What the daemon can be told, in parts: each room is handed its part, or the two numbers it needs.

Names and defaults of the flags are Neon's safekeeper's wherever both have the option, so that its tooling starts
a keeper unchanged; only the disk is limited here if nothing is said.  Ours alone: ``--config``, ``--listen-metrics``,
``--max-connections``, ``--peer-http``, ``--leave-timeout``, ``--max-memory``, ``--disk-hangs-after``, ``--auth-key-reload-period``,
``--pg-auth-users-file``, ``--ssl-client-ca-file``, ``--accept-plaintext`` and ``--shutdown-timeout``, and everything of the
sidecar and the tools.

Does not read anything: ``options`` does.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from walkeeper.daemon.options import argument, option, part, rest_of_line, switch
from walkeeper.daemon.values import (
    one_of,
    parse_duration_seconds,
    parse_find,
    parse_limit_seconds,
    parse_memory_bytes,
    parse_node_id,
    parse_path,
    parse_positive,
    parse_ratio,
    parse_size_bytes,
    parse_sslmode,
    parse_text,
    parse_text_if_any,
)
from walkeeper.errors import ConfigError
from walkeeper.ids import NodeId, TenantId, TenantTimelineId, TimelineId
from walkeeper.links.address import (
    Address,
    HttpAddress,
    parse_address,
    parse_http_keepers,
    parse_http_peers,
    parse_keepers,
)
from walkeeper.links.conninfo import SslMode
from walkeeper.messages import ServerInfo
from walkeeper.sidecar.name import DEFAULT_NAME

CONNECTIONS_MAX_DEFAULT: Final = 10_000
"""As many as anybody gets who does not ask for more: idle they cost 10 KiB of memory each, pausing readers half a MiB."""

LOG_FORMATS: Final = ("plain", "json")


@dataclass(frozen=True, slots=True)
class PlaceConfig:
    """Where the WAL is kept, by whom, and whether it is kept at all when the power fails."""

    path: Path = option(
        "datadir", parse_path, short="-D", default="./", metavar="DIR",
        help="the data directory; it must exist",
    )  # fmt: skip
    node_id: NodeId | None = option(
        "id", parse_node_id, metavar="N",
        help="this keeper's number in its quorum; needed once, the data directory remembers it",
    )  # fmt: skip
    no_sync: bool = switch("no-sync", short="-n", help="never fsync: a power failure loses acknowledged WAL")


@dataclass(frozen=True, slots=True)
class ListenConfig:
    """Where others reach this keeper."""

    pg: Address = option(
        "listen-pg", parse_address, short="-l", default="127.0.0.1:5454", metavar="HOST:PORT",
        help="where writers and readers of WAL connect (PostgreSQL protocol); port 0 picks a free one",
    )  # fmt: skip
    http: Address = option(
        "listen-http", parse_address, default="127.0.0.1:7676", metavar="HOST:PORT",
        help="where operators connect: management API, health, metrics; port 0 picks a free one",
    )  # fmt: skip
    https: Address | None = option(
        "listen-https", parse_address, metavar="HOST:PORT",
        help="the same for operators, over TLS, beside --listen-http; if not said, nowhere",
    )  # fmt: skip
    metrics: Address | None = option(
        "listen-metrics", parse_address, metavar="HOST:PORT",
        help="where probes and Prometheus may connect, too: health and metrics only, plain HTTP; if not said, nowhere",
    )  # fmt: skip
    connections_max: int | None = option(
        "max-connections", parse_positive, metavar="N",
        help="how many writers and readers may be connected at once; if not said, as many as the limit of open files"
        f" allows, at most {CONNECTIONS_MAX_DEFAULT}",
    )  # fmt: skip
    advertise_pg: Address | None = option(
        "advertise-pg", parse_address, metavar="HOST:PORT",
        help="accepted for Neon's tooling, not used yet",
    )  # fmt: skip
    availability_zone: str | None = option(
        "availability-zone", parse_text_if_any, metavar="ZONE", help="where this keeper is, for its metrics"
    )


@dataclass(frozen=True, slots=True)
class AuthConfig:
    """Who must show a token, and whose keys vouch for it."""

    pg_key_path: Path | None = option(
        "pg-auth-public-key-path", parse_path, metavar="PATH",
        help="a public key (PEM: Ed25519 or RSA), or a directory of them: writers and readers must show a token (JWT) that one"
        " of them vouches for, as their password; if not said, anybody is let in",
    )  # fmt: skip
    http_key_path: Path | None = option(
        "http-auth-public-key-path", parse_path, metavar="PATH",
        help="the same for operators, who show their token as Neon's clients do (Authorization: Bearer); probes, metrics and"
        " /v1/status need none",
    )  # fmt: skip
    users_path: Path | None = option(
        "pg-auth-users-file", parse_path, metavar="FILE",
        help="users who may read WAL, not write it, and log in with a password (SCRAM-SHA-256); a line for each:"
        " NAME:SCRAM-SHA-256$..., as pg_authid has it, and :TENANT if only one tenant's",
    )  # fmt: skip
    key_reload_seconds: float = option(
        "auth-key-reload-period", parse_limit_seconds, default="10s", metavar="DURATION",
        help="how often it is looked whether keys and users have changed; 0s: never",
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class PeersConfig:
    """Other keepers, and what they are shown."""

    http: tuple[HttpAddress, ...] = option(
        "peer-http", parse_http_peers, default="", metavar="[https://]HOST:PORT,...",
        help="the --listen-http, or --listen-https, of the other keepers of the quorum; this one may be among them. They are shown on the"
        " status page, and this keeper is ready when it has caught up with them",
    )  # fmt: skip
    leave_seconds: float = option(
        "leave-timeout", parse_duration_seconds, default="0s", metavar="DURATION",
        help="after SIGTERM, how long to serve on, not ready, until a majority of --peer-http without this keeper is ready; 0s: it leaves"
        " at once",
    )  # fmt: skip
    token_path: Path | None = option(
        "auth-token-path", parse_path, metavar="FILE",
        help="a token (JWT) for other keepers that ask for one; read again each time",
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class TlsConfig:
    """The certificate of both ports, and who has to encrypt."""

    is_on_pg: bool = switch(
        "enable-tls-wal-service-api", help="writers and readers must connect with TLS, of version 1.2 at least"
    )
    accepts_plaintext: bool = switch(
        "accept-plaintext", help="they may, but need not: for as long as clients are changed over"
    )
    certificate: Path = option(
        "ssl-cert-file", parse_path, default="server.crt", metavar="FILE",
        help="the certificate with its chain (PEM), for TLS on either port; relative to the data directory",
    )  # fmt: skip
    key: Path = option(
        "ssl-key-file", parse_path, default="server.key", metavar="FILE",
        help="its private key (PEM); relative to the data directory",
    )  # fmt: skip
    client_ca: Path | None = option(
        "ssl-client-ca-file", parse_path, metavar="FILE",
        help="authorities (PEM): writers and readers must show a certificate that one of them has signed",
    )  # fmt: skip
    reload_seconds: float = option(
        "ssl-cert-reload-period", parse_limit_seconds, default="60s", metavar="DURATION",
        help="how often it is looked whether certificate and key have changed; 0s: never",
    )  # fmt: skip
    peer_ca: Path | None = option(
        "ssl-ca-file", parse_path, metavar="FILE",
        help="authorities (PEM) that sign the certificates of --peer-http with https://; if not said, the system's",
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class LogConfig:
    format: str = option(
        "log-format", one_of(LOG_FORMATS), default="plain", metavar="|".join(LOG_FORMATS),
        help="how log lines look",
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class TimingConfig:
    """``control_file_save_interval_seconds``: how old unsaved positions may get; ``disk_hangs_seconds``: see ``watch``;
    ``drain_seconds``: see ``run``.
    """

    control_file_save_interval_seconds: float = option(
        "control-file-save-interval", parse_duration_seconds, default="300s", metavar="DURATION",
        help="positions that only memory knows are saved at least this often",
    )  # fmt: skip
    wal_sender_timeout_seconds: float = option(
        "wal-sender-timeout", parse_limit_seconds, default="600s", metavar="DURATION",
        help="a standby or other reader that says nothing, or reads nothing, for so long is sent away; 0s: never",
    )  # fmt: skip
    disk_hangs_seconds: float = option(
        "disk-hangs-after", parse_limit_seconds, default="120s", metavar="DURATION",
        help="a disk operation that has had no answer for so long makes /livez fail, which says which; 0s: never",
    )  # fmt: skip
    drain_seconds: float = option(
        "shutdown-timeout", parse_duration_seconds, default="3s", metavar="DURATION",
        help="after SIGTERM, how long connections may take to finish what they began",
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class LimitsConfig:
    """What WAL may take of the disk, and connections of the memory."""

    usage_ratio_max: float = option(
        "max-global-disk-usage-ratio", parse_ratio, default="0.98", metavar="RATIO",
        help="WAL is refused while more of the file system than that is used, by whomever; 0: until it is full",
    )  # fmt: skip
    check_seconds: float = option(
        "global-disk-check-interval", parse_duration_seconds, default="10s", metavar="DURATION",
        help="how often the file system is looked at, at least: after much WAL that is sooner",
    )  # fmt: skip
    timeline_bytes_max: int = option(
        "max-timeline-disk-usage-bytes", parse_size_bytes, default="0", metavar="SIZE",
        help="WAL is refused to a timeline whose segments take so much; 0: never",
    )  # fmt: skip
    memory_bytes_max: int | None = option(
        "max-memory", parse_memory_bytes, metavar="SIZE",
        help="what all writers and readers together may hold in memory, such as 1GB, at least 16MB; if not said, a quarter of what the"
        " machine, or this process's control group, has",
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class ServeConfig:
    """Everything ``walkeeper serve`` can be told."""

    place: PlaceConfig
    listen: ListenConfig
    auth: AuthConfig
    tls: TlsConfig
    peers: PeersConfig
    log: LogConfig
    timing: TimingConfig
    limits: LimitsConfig
    init: bool = switch("init", help="write or check the id file of the data directory, then exit")
    dump_control_file: Path | None = option(
        "dump-control-file", parse_path, metavar="FILE", help="print this control file as JSON, then exit"
    )


@dataclass(frozen=True, slots=True)
class ApproachConfig:
    """What we show to keepers, and what we want to see of them."""

    token_path: Path | None = option(
        "auth-token-path", parse_path, metavar="FILE",
        help="a token (JWT) for keepers that ask for one; read again for each connection",
    )  # fmt: skip
    sslmode: SslMode = option(
        "keeper-sslmode", parse_sslmode, default="prefer", metavar="MODE",
        help="TLS to keepers, as libpq's sslmode: disable, prefer, require, verify-ca or verify-full",
    )  # fmt: skip
    sslrootcert: str | None = option(
        "keeper-sslrootcert", parse_text, metavar="FILE",
        help="the authorities (PEM) that a keeper's certificate must be signed by, or system; read again for each connection,"
        " as the other two",
    )  # fmt: skip
    sslcert: str | None = option(
        "keeper-sslcert", parse_text, metavar="FILE", help="a certificate to show to keepers that ask for one"
    )
    sslkey: str | None = option("keeper-sslkey", parse_text, metavar="FILE", help="its key")


@dataclass(frozen=True, slots=True)
class QuorumConfig:
    """The keepers, and which WAL of theirs is meant."""

    approach: ApproachConfig
    keepers: tuple[Address, ...] = option(
        "keepers", parse_keepers, metavar="HOST:PORT,...", required=True,
        help="every keeper of the quorum; a majority of them must be up",
    )  # fmt: skip
    tenant_id: TenantId | None = option(
        "tenant", TenantId.parse, metavar="ID", help="the tenant; if not said, PostgreSQL's system identifier"
    )
    timeline_id: TimelineId | None = option(
        "timeline", TimelineId.parse, metavar="ID",
        help="the timeline; if not said, PostgreSQL's system identifier",
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class ProposeOptions:
    """Everything ``walkeeper propose`` can be told."""

    quorum: QuorumConfig
    log: LogConfig
    primary: str = option(
        "primary", parse_text, default=f"application_name={DEFAULT_NAME}", metavar="CONNINFO",
        help="how to reach PostgreSQL, as libpq has it: 'host=... user=...' or a URI; PG* variables count too",
    )  # fmt: skip
    slot_name: str = option(
        "slot",
        parse_text,
        default=DEFAULT_NAME,
        metavar="NAME",
        help="the physical replication slot to make or use",
    )
    http: Address | None = option(
        "listen-http", parse_address, metavar="HOST:PORT",
        help="where probes and Prometheus may connect: health and metrics only; if not said, nowhere",
    )  # fmt: skip
    unsafe_slot: bool = switch(
        "unsafe-slot", help="make the slot although it may fill the primary's disk (max_slot_wal_keep_size = -1)"
    )


@dataclass(frozen=True, slots=True)
class KeptWalConfig:
    """The keepers, and whose WAL of theirs is meant."""

    quorum: QuorumConfig
    system_id: int | None = option(
        "system-id", parse_positive, metavar="N",
        help="the system identifier that tenant and timeline are named after; pg_controldata tells it",
    )  # fmt: skip

    @property
    def says_whose(self) -> bool:
        """Whether it was said which WAL is meant."""
        return self.system_id is not None or None not in (self.quorum.tenant_id, self.quorum.timeline_id)

    def ttid(self, system_id: int | None = None) -> TenantTimelineId:
        """Which WAL is meant; ``system_id`` is what the server itself says, and counts where nothing else was said.

        Raises ConfigError when nobody says it.
        """
        tenant_id, timeline_id = self.quorum.tenant_id, self.quorum.timeline_id
        if (named_after := self.system_id or system_id) is not None:
            derived = TenantTimelineId.of_system(named_after)
            tenant_id, timeline_id = tenant_id or derived.tenant_id, timeline_id or derived.timeline_id
        if tenant_id is None or timeline_id is None:
            raise ConfigError("say whose WAL: --system-id (pg_controldata tells it), or --tenant and --timeline")
        return TenantTimelineId(tenant_id, timeline_id)


@dataclass(frozen=True, slots=True)
class ServerConfig:
    """What some keepers do not tell of the server whose WAL they have."""

    pg_version: int | None = option(
        "pg-version", parse_positive, metavar="N",
        help="PostgreSQL's version, such as 150005, for keepers that do not tell it",
    )  # fmt: skip
    wal_segment_bytes: int | None = option(
        "wal-segment-size", parse_size_bytes, metavar="SIZE",
        help="the size of a WAL segment, such as 16MB, for keepers that do not tell it",
    )  # fmt: skip

    def info(self, system_id: int | None) -> ServerInfo | None:
        """Whose WAL it is, if that was said.  Raises ConfigError when half of it was."""
        if self.pg_version is None and self.wal_segment_bytes is None:
            return None
        if self.pg_version is None or self.wal_segment_bytes is None:
            raise ConfigError("--pg-version and --wal-segment-size go together")
        return ServerInfo(self.pg_version, system_id or 0, self.wal_segment_bytes)


@dataclass(frozen=True, slots=True)
class FencingConfig:
    """How writers are fenced and keepers made whole."""

    server: ServerConfig
    log: LogConfig
    timeout_seconds: float = option(
        "timeout", parse_duration_seconds, default="60s", metavar="DURATION",
        help="give up when it is not done by then",
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class SyncOptions:
    """Everything ``walkeeper sync`` can be told."""

    wal: KeptWalConfig
    fencing: FencingConfig


@dataclass(frozen=True, slots=True)
class CommitLsnOptions:
    """Everything ``walkeeper commit-lsn`` can be told."""

    wal: KeptWalConfig
    fencing: FencingConfig = part("with --sync")
    is_exact: bool = switch(
        "sync", help="run walkeeper sync first, which fences every writer and makes the answer exact"
    )


@dataclass(frozen=True, slots=True)
class FetchOptions:
    """Everything ``walkeeper fetch`` can be told."""

    wal: KeptWalConfig
    server: ServerConfig
    file: str = argument("FILE", parse_text, help="the file that PostgreSQL wants: %f in restore_command")
    path: Path = argument("PATH", parse_path, help="where PostgreSQL wants it: %p in restore_command")
    ahead_bytes: int = option(
        "ahead", parse_size_bytes, default="128MB", metavar="SIZE",
        help="how much WAL to read ahead, in whole segments; it waits beside PATH. 0: none",
    )  # fmt: skip
    no_partial: bool = switch(
        "no-partial", help="the segment in which the WAL ends does not exist, except under its .partial name"
    )
    timeout_seconds: float = option(
        "timeout", parse_duration_seconds, default="30s", metavar="DURATION",
        help="give up when no majority has answered by then",
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class StatusOptions:
    """Everything ``walkeeper status`` can be told."""

    wal: KeptWalConfig
    as_json: bool = switch("json", help="print JSON")


@dataclass(frozen=True, slots=True)
class TopOptions:
    """Everything ``walkeeper top`` can be told."""

    keepers: tuple[HttpAddress, ...] = argument(
        "KEEPERS",
        parse_http_keepers,
        help="[https://]HOST:PORT,...: where the keepers' --listen-http, or --listen-https, is",
    )
    find: str = option(
        "find", parse_find, default="", metavar="TEXT", help="only timelines whose tenant/timeline has this in it"
    )
    token_path: Path | None = option(
        "auth-token-path", parse_path, metavar="FILE",
        help="a token (JWT) for keepers that ask for one; read again each time",
    )  # fmt: skip
    authorities: Path | None = option(
        "ssl-ca-file", parse_path, metavar="FILE",
        help="authorities (PEM) that sign the certificates of KEEPERS with https://; if not said, the system's",
    )  # fmt: skip
    interval_seconds: float = option(
        "interval", parse_duration_seconds, default="2s", metavar="DURATION", help="how often they are asked"
    )
    once: bool = switch("once", help="show it once; exit code 1 when something is red")
    as_json: bool = switch("json", help="print JSON, once; exit code as with --once")


@dataclass(frozen=True, slots=True)
class WhyBlockedOptions:
    """Everything ``walkeeper why-blocked`` can be told."""

    wal: KeptWalConfig
    primary: str | None = option(
        "primary", parse_text, metavar="CONNINFO",
        help="how to reach PostgreSQL, as libpq has it; if not said, it is not asked. Its application_name is the sidecar's",
    )  # fmt: skip
    slot_name: str = option(
        "slot", parse_text, default=DEFAULT_NAME, metavar="NAME", help="the sidecar's replication slot"
    )
    as_json: bool = switch("json", help="print JSON")


@dataclass(frozen=True, slots=True)
class ConfigOptions:
    """Everything ``walkeeper config`` can be told."""

    words: tuple[str, ...] = rest_of_line(
        "WORDS",
        help="show [serve|propose] [its flags] [--json]: what it would run with, and where each value comes from",
    )


@dataclass(frozen=True, slots=True)
class CheckOptions:
    """Everything ``walkeeper check`` can be told."""

    approach: ApproachConfig
    path: Path | None = option(
        "datadir",
        parse_path,
        short="-D",
        metavar="DIR",
        help="check this directory, and the disk it is on, for a keeper",
    )
    primary: str | None = option(
        "primary", parse_text, metavar="CONNINFO",
        help="check this PostgreSQL, as libpq has it. Its application_name is the sidecar's",
    )  # fmt: skip
    keepers: tuple[Address, ...] | None = option(
        "keepers", parse_keepers, metavar="HOST:PORT,...", help="check these keepers"
    )
    system_id: int | None = option(
        "system-id", parse_positive, metavar="N",
        help="of the keepers: whether they have this server's WAL; if not said, that of --primary",
    )  # fmt: skip
    is_strict: bool = switch("strict", help="take a warning for a failure")
    as_json: bool = switch("json", help="print JSON")

    def require_something(self) -> None:
        """Raises ConfigError if there is nothing to check."""
        if self.path is None and self.primary is None and self.keepers is None:
            raise ConfigError(
                "say what to check: -D DIR, --primary CONNINFO, --keepers HOST:PORT,..., or several of them"
            )


@dataclass(frozen=True, slots=True)
class InspectOptions:
    """Everything ``walkeeper inspect`` can be told."""

    path: Path = option(
        "datadir", parse_path, short="-D", default="./", metavar="DIR",
        help="a keeper's data directory, or the directory of one timeline",
    )  # fmt: skip
    tenant_id: TenantId | None = option(
        "tenant", TenantId.parse, metavar="ID", help="only this tenant's timelines"
    )
    timeline_id: TimelineId | None = option("timeline", TimelineId.parse, metavar="ID", help="only this timeline")
    as_json: bool = switch("json", help="print JSON")
