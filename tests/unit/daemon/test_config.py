"""What the daemon can be told: Neon's names and defaults."""

import math
from pathlib import Path

from walkeeper.daemon.config import (
    AuthConfig,
    CommitLsnOptions,
    LimitsConfig,
    ListenConfig,
    LogConfig,
    PeersConfig,
    PlaceConfig,
    ServeConfig,
    StatusOptions,
    SyncOptions,
    TimingConfig,
    TlsConfig,
)
from walkeeper.daemon.options import FlagParser, add_flags, options_of, read_flags, settle
from walkeeper.ids import NodeId
from walkeeper.links.address import Address, HttpAddress


def serve(*arguments: str) -> ServeConfig:
    parser = FlagParser(prog="serve")
    add_flags(parser, options_of(ServeConfig))
    return settle(ServeConfig, read_flags(parser.parse_args(arguments), options_of(ServeConfig)), {})


def test_the_defaults_are_neons() -> None:
    assert serve() == ServeConfig(
        place=PlaceConfig(path=Path("./"), node_id=None, no_sync=False),
        listen=ListenConfig(
            pg=Address("127.0.0.1", 5454),
            http=Address("127.0.0.1", 7676),
            advertise_pg=None,
            availability_zone=None,
        ),
        auth=AuthConfig(pg_key_path=None, http_key_path=None, users_path=None, key_reload_seconds=10.0),
        tls=TlsConfig(
            is_on_pg=False,
            accepts_plaintext=False,
            certificate=Path("server.crt"),
            key=Path("server.key"),
            client_ca=None,
            reload_seconds=60.0,
        ),
        peers=PeersConfig(http=(), leave_seconds=0.0, token_path=None),
        log=LogConfig(format="plain"),
        timing=TimingConfig(control_file_save_interval_seconds=300.0, disk_hangs_seconds=120.0, drain_seconds=3.0),
        limits=LimitsConfig(usage_ratio_max=0.98, check_seconds=10.0, timeline_bytes_max=0, memory_bytes_max=None),
        init=False,
        dump_control_file=None,
    )


def test_every_flag_reaches_its_part() -> None:
    config = serve(
        "-D", "/wal", "--id", "7", "--init", "-l", "[::]:1", "--listen-http=h:2", "--advertise-pg", "me:3", "-n",
        "--availability-zone", "a", "--dump-control-file", "f", "--log-format", "json",
        "--pg-auth-public-key-path", "/keys", "--http-auth-public-key-path", "/http", "--auth-key-reload-period", "1s",
        "--listen-https", "h:4", "--listen-metrics", "h:5", "--pg-auth-users-file", "/users", "--enable-tls-wal-service-api", "--accept-plaintext",
        "--ssl-cert-file", "c", "--ssl-key-file", "k", "--ssl-client-ca-file", "a", "--ssl-cert-reload-period", "2s",
        "--ssl-ca-file", "p",
        "--peer-http", "k2,k3:1,https://k4", "--auth-token-path", "/token", "--leave-timeout", "1m",
        "--control-file-save-interval", "1m", "--shutdown-timeout", "10s", "--disk-hangs-after", "5s",
    )  # fmt: skip
    assert config == ServeConfig(
        place=PlaceConfig(path=Path("/wal"), node_id=NodeId(7), no_sync=True),
        listen=ListenConfig(
            pg=Address("::", 1),
            http=Address("h", 2),
            https=Address("h", 4),
            metrics=Address("h", 5),
            advertise_pg=Address("me", 3),
            availability_zone="a",
        ),
        auth=AuthConfig(
            pg_key_path=Path("/keys"),
            http_key_path=Path("/http"),
            users_path=Path("/users"),
            key_reload_seconds=1.0,
        ),
        tls=TlsConfig(
            is_on_pg=True,
            accepts_plaintext=True,
            certificate=Path("c"),
            key=Path("k"),
            client_ca=Path("a"),
            reload_seconds=2.0,
            peer_ca=Path("p"),
        ),
        peers=PeersConfig(
            http=(HttpAddress("k2", 7676), HttpAddress("k3", 1), HttpAddress("k4", 7677, is_encrypted=True)),
            leave_seconds=60.0,
            token_path=Path("/token"),
        ),
        log=LogConfig(format="json"),
        timing=TimingConfig(control_file_save_interval_seconds=60.0, disk_hangs_seconds=5.0, drain_seconds=10.0),
        limits=LimitsConfig(),
        init=True,
        dump_control_file=Path("f"),
    )


def test_a_timeout_of_readers_of_0_is_off() -> None:
    assert serve().timing.wal_sender_timeout_seconds == 600.0
    assert serve("--wal-sender-timeout", "0s").timing.wal_sender_timeout_seconds == math.inf


def test_a_zone_that_a_node_does_not_have_is_none() -> None:
    assert serve("--availability-zone", "").listen.availability_zone is None


def test_a_disk_may_be_allowed_to_hang_for_ever() -> None:
    assert serve("--disk-hangs-after", "0s").timing.disk_hangs_seconds == math.inf


def test_no_command_takes_what_it_does_not_use() -> None:
    of_all = {
        "keepers", "tenant", "timeline", "system-id", "auth-token-path",
        "keeper-sslmode", "keeper-sslrootcert", "keeper-sslcert", "keeper-sslkey",
    }  # fmt: skip
    of_sync = {"pg-version", "wal-segment-size", "log-format", "timeout"}
    assert {each.name for each in options_of(StatusOptions)} == of_all | {"json"}
    assert {each.name for each in options_of(SyncOptions)} == of_all | of_sync
    assert {each.name for each in options_of(CommitLsnOptions)} == of_all | of_sync | {"sync"}
    for_sync = {each.name for each in options_of(CommitLsnOptions) if each.help.startswith("with --sync: ")}
    assert for_sync == of_sync


def test_names_are_neons_except_for_our_own() -> None:
    neons = {
        "datadir", "id", "init", "listen-pg", "listen-http", "advertise-pg", "availability-zone", "no-sync",
        "dump-control-file", "log-format", "control-file-save-interval",
        "pg-auth-public-key-path", "http-auth-public-key-path", "auth-token-path",
        "listen-https", "enable-tls-wal-service-api",
        "ssl-cert-file", "ssl-key-file", "ssl-cert-reload-period", "ssl-ca-file",
        "max-global-disk-usage-ratio", "global-disk-check-interval", "max-timeline-disk-usage-bytes",
    }  # fmt: skip
    assert {each.name for each in options_of(ServeConfig)} == neons | {
        "disk-hangs-after",
        "auth-key-reload-period",
        "max-connections",
        "listen-metrics",
        "leave-timeout",
        "peer-http",
        "max-memory",
        "shutdown-timeout",
        "wal-sender-timeout",
        "pg-auth-users-file",
        "ssl-client-ca-file",
        "accept-plaintext",
    }
