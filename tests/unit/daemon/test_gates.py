"""What is asked of whoever connects, as the daemon was told, and what is said of ports where nothing is."""

import socket
from collections.abc import Sequence
from pathlib import Path
from random import Random

import pytest
import structlog
import trio
from trio.testing import MockClock

from certified import Pki, user_line
from minted import Mint
from walkeeper.control.http1 import HEAD_SECONDS_MAX
from walkeeper.control.metrics import Metrics
from walkeeper.control.scrape import render
from walkeeper.daemon.config import AuthConfig, TlsConfig
from walkeeper.daemon.gates import Gates, open_gates, warn_of_open_port
from walkeeper.errors import ConfigError, TlsFailed
from walkeeper.testing.network import MemoryNetwork

EVERYWHERE = "0.0.0.0"
NO_AUTH, NO_TLS = AuthConfig(), TlsConfig()


@pytest.fixture
def pki(tmp_path: Path) -> Pki:
    return Pki.begin(tmp_path)


def opened(directory: Path, auth: AuthConfig = NO_AUTH, tls: TlsConfig = NO_TLS, *, https: bool = False) -> Gates:
    return open_gates(auth, tls, directory, Metrics("0"), https=https)


def test_nothing_is_on_that_nobody_asked_for(tmp_path: Path) -> None:
    gates = opened(tmp_path)
    assert (gates.pg.verify, gates.pg.users, gates.pg.certificates) == (None, None, None)
    assert (gates.verify_http, gates.encrypt) == (None, None)
    assert not gates.keeping


def test_certificate_and_key_are_looked_for_in_the_data_directory(pki: Pki) -> None:
    gates = opened(pki.directory, tls=TlsConfig(is_on_pg=True))
    assert gates.pg.certificates is not None
    assert gates.pg.must_encrypt
    assert len(gates.keeping) == 1
    assert not opened(pki.directory, tls=TlsConfig(is_on_pg=True, accepts_plaintext=True)).pg.must_encrypt


def test_a_directory_of_keys_for_both_ports_is_read_and_told_of_once(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        Mint.ed25519().write(tmp_path / name / "key")
    both = opened(tmp_path, AuthConfig(pg_key_path=tmp_path / "one", http_key_path=tmp_path / "one"))
    assert both.pg.verify is not None
    assert both.verify_http == both.pg.verify
    assert len(both.keeping) == 1
    each = opened(tmp_path, AuthConfig(pg_key_path=tmp_path / "one", http_key_path=tmp_path / "two"))
    assert each.verify_http != each.pg.verify
    assert len(each.keeping) == 2


def test_https_alone_leaves_the_postgresql_port_as_it_is(pki: Pki) -> None:
    gates = opened(pki.directory, https=True)
    assert gates.pg.certificates is None
    assert gates.encrypt is not None


@pytest.mark.parametrize("seconds", [0.0, HEAD_SECONDS_MAX])
async def test_a_handshake_that_comes_to_nothing_or_to_no_end_is_counted_and_told(
    seconds: float, pki: Pki, autojump_clock: MockClock
) -> None:
    metrics, network = Metrics("0"), MemoryNetwork(Random(1))
    encrypt = open_gates(NO_AUTH, NO_TLS, pki.directory, metrics, https=True).encrypt
    assert encrypt is not None
    listener = network.host("keeper").listen()
    client = await network.connect(network.host("browser"), network.host("keeper"))
    client.send_soon(b"\x16\x03\x01" if seconds else b"GET / HTTP/1.1\r\n\r\n")
    link, _ = await listener.accept()
    began = trio.current_time()
    with structlog.testing.capture_logs() as logs, pytest.raises(TlsFailed), trio.fail_after(60):
        await encrypt(link)
    assert trio.current_time() - began == pytest.approx(seconds, abs=0.1)
    assert [line["event"] for line in logs] == ["HTTPS connection failed"]
    assert b'http_server_connection_errors_total{type="tls"} 1.0\n' in await render(metrics.registry)


@pytest.mark.parametrize(
    "tls",
    [
        TlsConfig(accepts_plaintext=True),
        TlsConfig(client_ca=Path("root.crt")),
        TlsConfig(is_on_pg=True, accepts_plaintext=True, client_ca=Path("root.crt")),
        TlsConfig(is_on_pg=True, certificate=Path("nowhere")),
    ],
)
def test_what_contradicts_itself_or_is_not_there_is_refused(tls: TlsConfig, pki: Pki) -> None:
    with pytest.raises(ConfigError):
        opened(pki.directory, tls=tls)


@pytest.mark.parametrize(
    ("host", "asks", "encrypts", "warns"),
    [
        ("127.0.0.1", False, False, []),
        (EVERYWHERE, True, True, []),
        (EVERYWHERE, True, False, ["a port does not insist on TLS"]),
        (EVERYWHERE, False, True, ["a port is open to whoever reaches it"]),
        (EVERYWHERE, False, False, ["a port is open to whoever reaches it"]),
    ],
)
def test_a_port_that_others_can_reach_is_warned_of_unless_they_are_asked_for_a_proof_in_tls(
    host: str, asks: bool, encrypts: bool, warns: Sequence[str]
) -> None:
    with socket.socket() as sock, structlog.testing.capture_logs() as logs:
        sock.bind((host, 0))
        warn_of_open_port(sock, "--listen-it", "do it", asks=asks, encrypts=encrypts)
    assert [each["event"].split(":")[0] for each in logs] == warns


def test_each_kind_of_proof_is_one_and_users_alone_leave_nobody_to_write(pki: Pki) -> None:
    users, keys = pki.directory / "users", pki.directory / "key"
    users.write_text(user_line("standby"))
    Mint.ed25519().write(keys)
    asking = [
        opened(pki.directory, AuthConfig(users_path=users)),
        opened(pki.directory, AuthConfig(pg_key_path=keys)),
        opened(pki.directory, tls=TlsConfig(is_on_pg=True, client_ca=Path("root.crt"))),
    ]
    for gates in asking:
        with (
            socket.create_server((EVERYWHERE, 0)) as pg,
            socket.create_server(("127.0.0.1", 0)) as http,
            structlog.testing.capture_logs() as logs,
        ):
            gates.warn(pg, http, None)
        said = [each["event"] for each in logs]
        assert not any("is open to whoever" in each for each in said)
        assert any("nobody can write" in each for each in said) == (gates is asking[0])
