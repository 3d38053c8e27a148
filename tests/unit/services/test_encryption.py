"""TLS on the keeper's port: how it begins, who is let in, and what comes of handshakes that lead to nothing."""

import socket
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import structlog
import trio
import trio.testing
from trio.testing import MockClock

from certified import HOST, Pki, days
from keeping import SERVER, TTID, new_disk, timelines_on
from walkeeper.auth.certificates import Certificates
from walkeeper.control.metrics import Metrics
from walkeeper.errors import NotEncrypted, ServerError, Unreachable
from walkeeper.formats.startup import CancelRequest, GssEncRequest, SslRequest, StartupMessage, encode_options
from walkeeper.links.conninfo import ConnectionInfo, SslMode
from walkeeper.links.link import Link, SocketLink, send_all
from walkeeper.links.postgres import Connection
from walkeeper.links.tls_link import TlsLink
from walkeeper.messages import Slice
from walkeeper.services.admission import OPEN, Gate
from walkeeper.services.connection import LINGER_SECONDS_MAX, STARTUP_SECONDS_MAX
from walkeeper.services.connection import Connection as Service
from walkeeper.services.listener import Draining
from walkeeper.services.strangers import Strangers
from walkeeper.services.turnstile import Turnstile
from walkeeper.timeline.registry import Client as ServedClient

STARTUP = StartupMessage({"user": "test", "options": encode_options(TTID)}).encode()
ALL = 1 << 30
INFO = ConnectionInfo(HOST, options=encode_options(TTID))


class Scene:
    """A keeper's port at the other end of ``link``; each test is one client."""

    def __init__(self, link: Link) -> None:
        self.link = link
        self.metrics = Metrics("0")
        self.ended = trio.Event()
        self.ended_at = 0.0

    async def connect(self, info: ConnectionInfo) -> Connection:
        """As our own client does.  Raises as that does."""
        connection = Connection("keeper", self.link)
        await connection.encrypt(info)
        self.link = connection.link
        await connection.log_in(info, {})
        return connection

    async def receive_all(self) -> bytes:
        said = b""
        while data := await self.link.receive():
            said += data
        return said

    def refusals(self, name: str) -> float | None:
        return self.metrics.registry.get_sample_value("walkeeper_refusals_total", {"error": name})


@asynccontextmanager
async def serving(gate: Gate, link_of: Callable[[socket.socket], Link] = SocketLink) -> AsyncIterator[Scene]:
    here, there = socket.socketpair()
    scene = Scene(link_of(there))

    async def serve() -> None:
        client = ServedClient(1, "db1:4711")
        link = SocketLink(here)
        await Service(
            client, link, timelines, Draining(), Turnstile(), Strangers(9, scene.metrics), scene.metrics, gate=gate
        ).serve()
        scene.ended_at = trio.current_time()
        scene.ended.set()

    async with timelines_on(new_disk()) as timelines, trio.open_nursery() as nursery:
        await timelines.create(TTID, SERVER)
        nursery.start_soon(serve)  # noqa: ASYNC113 - it waits for what the test sends
        yield scene
        nursery.cancel_scope.cancel()
        await scene.link.aclose()


@pytest.fixture
def pki(tmp_path: Path) -> Pki:
    return Pki.begin(tmp_path)


@pytest.fixture
def gate(pki: Pki) -> Gate:
    return Gate(certificates=Certificates(pki.files))


def verifying(pki: Pki) -> ConnectionInfo:
    return replace(INFO, sslmode=SslMode.VERIFY_FULL, sslrootcert=str(pki.root))


# -- who is let in -------------------------------------------------------------------------------------------


async def test_a_client_that_verifies_everything_gets_in_and_all_is_as_without(pki: Pki, gate: Gate) -> None:
    async with serving(gate) as scene:
        connection = await scene.connect(verifying(pki))
        assert isinstance(scene.link, TlsLink)
        assert scene.link.tls.version() == "TLSv1.3"
        assert await connection.query("SHOW wal_segment_size") == [("1MB",)]


async def test_a_client_in_clear_text_is_told_to_use_tls(gate: Gate) -> None:
    async with serving(gate) as scene:
        with pytest.raises(ServerError) as refused:
            await scene.connect(replace(INFO, sslmode=SslMode.DISABLE))
        assert refused.value.message == "must connect with TLS"
        assert scene.refusals("MustUseTls") == 1


async def test_it_gets_in_while_clients_are_changed_over(pki: Pki, gate: Gate) -> None:
    for info in (replace(INFO, sslmode=SslMode.DISABLE), verifying(pki)):
        async with serving(replace(gate, must_encrypt=False)) as scene:
            connection = await scene.connect(info)
            assert await connection.query("SHOW wal_segment_size") == [("1MB",)]


async def test_without_a_certificate_tls_is_declined_and_insisting_clients_leave() -> None:
    async with serving(OPEN) as scene:
        with pytest.raises(NotEncrypted):
            await scene.connect(replace(INFO, sslmode=SslMode.REQUIRE))
    async with serving(OPEN) as scene:
        await scene.connect(INFO)
        assert isinstance(scene.link, SocketLink)


async def test_gssapi_is_declined_and_tls_may_follow(pki: Pki, gate: Gate) -> None:
    async with serving(gate) as scene:
        await send_all(scene.link, GssEncRequest().encode())
        assert await scene.link.receive() == b"N"
        await scene.connect(verifying(pki))


async def test_connections_live_on_and_new_ones_see_the_new_certificate(pki: Pki, gate: Gate) -> None:
    assert gate.certificates is not None
    async with serving(gate) as old:
        connection = await old.connect(verifying(pki))
        pki.issue()
        gate.certificates.current = Certificates(pki.files).current
        async with serving(gate) as new:
            await new.connect(verifying(pki))
            shown = [scene.link.tls.getpeercert(True) for scene in (old, new) if isinstance(scene.link, TlsLink)]
            assert shown[0] != shown[1]
        assert await connection.query("SHOW wal_segment_size") == [("1MB",)]


async def test_who_insists_on_tls_1_1_does_not_get_in(pki: Pki, gate: Gate, autojump_clock: MockClock) -> None:
    context = pki.client_context()
    context.set_ciphers("ALL:@SECLEVEL=0")
    context.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED
    with pytest.warns(DeprecationWarning, match="TLSv1_1"):
        context.maximum_version = ssl.TLSVersion.TLSv1_1
    async with serving(gate) as scene:
        await send_all(scene.link, SslRequest().encode())
        assert await scene.link.receive() == b"S"
        with pytest.raises((ssl.SSLError, trio.BrokenResourceError)):
            await TlsLink(scene.link, context, HOST).shake_hands()
        await scene.ended.wait()
        assert scene.refusals("TlsFailed") == 1


async def test_an_expired_certificate_is_shown_when_there_is_no_other_and_verifying_clients_leave(
    tmp_path: Path,
) -> None:
    pki = Pki.begin(tmp_path, not_before=days(-9), not_after=days(-1))
    gate = Gate(certificates=Certificates(pki.files))
    async with serving(gate) as scene:
        with pytest.raises(NotEncrypted):
            await scene.connect(verifying(pki))
    async with serving(gate) as scene:
        await scene.connect(replace(INFO, sslmode=SslMode.REQUIRE))


# -- certificates of clients ---------------------------------------------------------------------------------


async def test_a_client_shows_a_certificate_where_one_is_asked_for(
    pki: Pki, tmp_path: Path, autojump_clock: MockClock
) -> None:
    gate = Gate(certificates=Certificates(replace(pki.files, client_ca=pki.root)))
    certificate, key = pki.issue_client()
    async with serving(gate) as scene:
        await scene.connect(replace(verifying(pki), sslcert=str(certificate), sslkey=str(key)))

    (tmp_path / "others").mkdir()
    certificate, key = Pki.begin(tmp_path / "others").issue_client()
    untrusted = replace(verifying(pki), sslcert=str(certificate), sslkey=str(key))
    for info in (verifying(pki), untrusted):
        async with serving(gate) as scene:
            with pytest.raises(Unreachable):
                await scene.connect(info)
            await scene.ended.wait()
            assert scene.refusals("TlsFailed") == 1


# -- direct TLS ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cut", [1, 3, 5, 1000])
async def test_tls_may_begin_without_being_asked_for(cut: int, pki: Pki, gate: Gate) -> None:
    context = pki.client_context()
    context.set_alpn_protocols(["postgresql"])
    async with serving(gate, partial(Torn, cut)) as scene:
        link = TlsLink(scene.link, context, HOST)
        await link.shake_hands()
        connection = Connection("keeper", link)
        await connection.log_in(INFO, {})
        assert await connection.query("SHOW wal_segment_size") == [("1MB",)]


class Torn(SocketLink):
    """Its first bytes travel apart from the rest."""

    def __init__(self, cut: int, sock: socket.socket) -> None:
        super().__init__(sock)
        self._cut = cut
        self._rest = b""

    def send_soon(self, *pieces: Slice) -> None:
        data = b"".join(pieces)
        self._rest += data[self._cut :]
        super().send_soon(data[: self._cut])
        self._cut = ALL

    async def wait_sent(self) -> None:
        await super().wait_sent()
        await trio.testing.wait_all_tasks_blocked()
        rest, self._rest = self._rest, b""
        super().send_soon(rest)
        await super().wait_sent()


@pytest.mark.parametrize("protocols", [[], ["http/1.1"]], ids=["none", "another"])
async def test_but_not_for_another_protocol(protocols: list[str], pki: Pki, gate: Gate) -> None:
    context = pki.client_context()
    context.set_alpn_protocols(protocols)
    async with serving(gate) as scene:
        link = TlsLink(scene.link, context, HOST)
        await link.shake_hands()
        assert await link.receive() == b""
        assert scene.refusals("TlsFailed") == 1


async def test_where_there_is_no_certificate_it_is_the_end() -> None:
    async with serving(OPEN) as scene:
        await send_all(scene.link, b"\x16\x03\x01\x00\xc8\x01\x00\x00")
        assert await scene.receive_all() == b""


# -- what is no handshake ------------------------------------------------------------------------------------


async def test_bytes_behind_the_request_are_not_taken_for_what_comes_encrypted(gate: Gate) -> None:
    async with serving(gate) as scene:
        await send_all(scene.link, SslRequest().encode() + STARTUP)
        said = await scene.receive_all()
        assert said.startswith(b"E")
        assert b"clear text" in said
        assert scene.refusals("Malformed") == 1


@pytest.mark.parametrize("request_", [SslRequest().encode(), b"\x16\x03\x01\x00\xc8\x01\x00\x00"])
async def test_inside_of_tls_it_is_not_asked_for_again(request_: bytes, pki: Pki, gate: Gate) -> None:
    async with serving(gate) as scene:
        connection = Connection("keeper", scene.link)
        await connection.encrypt(verifying(pki))
        scene.link = connection.link
        await send_all(scene.link, request_)
        assert (await scene.receive_all()).startswith(b"E")


async def test_a_cancel_request_inside_of_tls_ends_without_a_word(pki: Pki, gate: Gate) -> None:
    async with serving(gate) as scene:
        connection = Connection("keeper", scene.link)
        await connection.encrypt(verifying(pki))
        scene.link = connection.link
        await send_all(scene.link, CancelRequest(1, 2).encode())
        assert await scene.receive_all() == b""


@pytest.mark.parametrize("noise", [bytes(range(256)) * 200, b"GET / HTTP/1.1\r\n\r\n", STARTUP, b"\x16\x03\x01"])
async def test_noise_instead_of_a_handshake_ends_it_and_only_the_log_says_why(
    noise: bytes, gate: Gate, autojump_clock: MockClock
) -> None:
    async with serving(gate) as scene:
        await send_all(scene.link, SslRequest().encode())
        assert await scene.link.receive() == b"S"
        with structlog.testing.capture_logs() as logs:
            scene.link.send_soon(noise)
            await scene.link.send_eof()
            said = await scene.receive_all()
            await scene.ended.wait()
        assert not said.startswith(b"E")
        assert [each["kind"] for each in logs] == ["TlsFailed"]
        assert scene.refusals("TlsFailed") == 1


async def test_noise_after_the_hello_does_too(pki: Pki, gate: Gate, autojump_clock: MockClock) -> None:
    async with serving(gate) as scene:
        await send_all(scene.link, SslRequest().encode())
        assert await scene.link.receive() == b"S"
        received, to_send = ssl.MemoryBIO(), ssl.MemoryBIO()
        hello = pki.client_context().wrap_bio(received, to_send, server_hostname=HOST)
        with pytest.raises(ssl.SSLWantReadError):
            hello.do_handshake()
        await send_all(scene.link, to_send.read() + bytes(range(256)) * 10)
        await scene.ended.wait()
        assert scene.refusals("TlsFailed") == 1


@pytest.mark.parametrize("beginning", [b"", b"\x16\x03\x01\x02\x00\x01"], ids=["nothing", "some"])
async def test_a_handshake_that_never_ends_is_cut(beginning: bytes, gate: Gate, autojump_clock: MockClock) -> None:
    async with serving(gate) as scene:
        await send_all(scene.link, SslRequest().encode())
        assert await scene.link.receive() == b"S"
        await send_all(scene.link, beginning)
        await scene.ended.wait()
        assert STARTUP_SECONDS_MAX <= scene.ended_at <= STARTUP_SECONDS_MAX + LINGER_SECONDS_MAX


async def test_who_says_nothing_inside_of_tls_is_sent_away_as_any_stranger(
    pki: Pki, gate: Gate, autojump_clock: MockClock
) -> None:
    async with serving(gate) as scene:
        connection = Connection("keeper", scene.link)
        await connection.encrypt(verifying(pki))
        scene.link = connection.link
        assert await scene.receive_all() == b""
        await scene.ended.wait()
        assert scene.ended_at <= STARTUP_SECONDS_MAX + LINGER_SECONDS_MAX
