"""Links that are sent to without waiting, in clear text and in TLS."""

import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import pytest
import trio
import trustme
from trio.testing import MockClock

from walkeeper.links.link import Link, SocketLink, send_all
from walkeeper.links.tls_link import TlsLink

MANY = bytes(range(256)) * 20_000  # more than socket buffers hold


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@asynccontextmanager
async def plain_pair() -> AsyncIterator[tuple[Link, Link]]:
    ours, theirs = (SocketLink(each) for each in socket.socketpair())
    try:
        yield ours, theirs
    finally:
        await ours.aclose()
        await theirs.aclose()


@asynccontextmanager
async def tls_pair(authority: trustme.CA) -> AsyncIterator[tuple[TlsLink, "TlsServerLink"]]:
    """Our link, and the server's end as one too."""
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("db").configure_cert(server)
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    authority.configure_trust(client)
    here, there = socket.socketpair()
    ours, theirs = TlsLink(SocketLink(here), client, "db"), TlsServerLink(SocketLink(there), server)
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ours.shake_hands)
            nursery.start_soon(theirs.shake_hands)
        yield ours, theirs
    finally:
        await ours.aclose()
        await theirs.aclose()


class TlsServerLink(TlsLink):
    """The other side, which can end TLS alone."""

    def say_close_notify(self) -> None:
        """End TLS, as servers do before they close, but leave the connection open."""
        with suppress(ssl.SSLWantReadError):  # nobody waits for the other's
            self._tls.unwrap()
        self._send_encrypted()


@pytest.fixture(params=["plain", "tls"])
async def pair(request: pytest.FixtureRequest, authority: trustme.CA) -> AsyncIterator[tuple[Link, Link]]:
    async with plain_pair() if request.param == "plain" else tls_pair(authority) as both:
        yield both


async def receive_all(link: Link, count: int) -> bytes:
    received = bytearray()
    while len(received) < count:
        data = await link.receive()
        assert data, "the stream ended early"
        received += data
    return bytes(received)


async def test_what_is_sent_arrives_in_order(pair: tuple[Link, Link]) -> None:
    ours, theirs = pair
    ours.send_soon(b"one", memoryview(b"two"), b"", b"three")
    ours.send_soon(b"four")
    assert await receive_all(theirs, 15) == b"onetwothreefour"
    assert ours.pending_bytes == 0


async def test_more_than_the_kernel_takes_stays_pending_until_it_is_waited_for(
    pair: tuple[Link, Link],
) -> None:
    ours, theirs = pair
    ours.send_soon(MANY[:100], MANY[100:])
    assert ours.pending_bytes > 0
    received: list[bytes] = []

    async def receive() -> None:
        received.append(await receive_all(theirs, len(MANY)))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(receive)
        await ours.wait_sent()
        assert ours.pending_bytes == 0
    assert received == [MANY]


async def test_a_cancelled_wait_loses_nothing(pair: tuple[Link, Link]) -> None:
    ours, theirs = pair
    ours.send_soon(MANY)
    with trio.CancelScope() as scope:
        scope.cancel()
        await ours.wait_sent()
    assert scope.cancelled_caught
    async with trio.open_nursery() as nursery:
        nursery.start_soon(ours.wait_sent)
        assert await receive_all(theirs, len(MANY)) == MANY


async def test_trying_to_receive_says_whether_there_is_anything(pair: tuple[Link, Link]) -> None:
    ours, theirs = pair
    assert ours.try_receive() is None
    theirs.send_soon(b"x" * 40_000)
    assert await receive_all(ours, 40_000) == b"x" * 40_000
    assert ours.try_receive() is None


async def test_the_end_of_the_stream_is_an_empty_receive(pair: tuple[Link, Link]) -> None:
    ours, theirs = pair
    theirs.send_soon(b"last")
    await theirs.aclose()
    assert await receive_all(ours, 4) == b"last"
    assert await ours.receive() == b""


async def test_an_announced_end_of_tls_is_the_end_of_the_stream(
    autojump_clock: MockClock, authority: trustme.CA
) -> None:
    async with tls_pair(authority) as (ours, theirs):
        theirs.send_soon(b"last")
        theirs.say_close_notify()
        with trio.fail_after(1):
            assert await receive_all(ours, 4) == b"last"
            assert await ours.receive() == b""
        assert ours.try_receive() == b""


async def test_the_end_of_our_side_is_announced_in_tls_and_the_peer_may_still_speak(authority: trustme.CA) -> None:
    async with tls_pair(authority) as (ours, theirs):
        ours.send_soon(b"last")
        await ours.send_eof()
        assert await receive_all(theirs, 4) == b"last"
        assert await theirs.receive() == b""
        assert theirs.tls.read(1) == b""  # an end that nobody announced would be an error here
        await send_all(theirs, b"more")
        assert await receive_all(ours, 4) == b"more"


async def test_sending_after_the_end_of_tls_breaks_the_link(authority: trustme.CA) -> None:
    async with tls_pair(authority) as (_, theirs):
        theirs.say_close_notify()
        with pytest.raises(trio.BrokenResourceError):
            theirs.send_soon(b"more")


async def test_sending_to_a_closed_peer_breaks_the_link() -> None:
    async with plain_pair() as (ours, theirs):
        await theirs.aclose()
        with pytest.raises(trio.BrokenResourceError):
            ours.send_soon(b"x")


async def test_a_certificate_that_is_not_trusted_stops_the_handshake(authority: trustme.CA) -> None:
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    trustme.CA().issue_cert("db").configure_cert(server)
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    authority.configure_trust(client)
    here, there = socket.socketpair()
    ours, theirs = TlsLink(SocketLink(here), client, "db"), TlsServerLink(SocketLink(there), server)

    async def answer() -> None:
        with pytest.raises((ssl.SSLError, trio.BrokenResourceError)):
            await theirs.shake_hands()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(answer)
        with pytest.raises(ssl.SSLCertVerificationError):
            await ours.shake_hands()
        await ours.aclose()
    await theirs.aclose()
