"""Serving over a real socket."""

import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import httpx2
import pytest
import trio
import trio.testing
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from certified import Pki
from walkeeper.auth.certificates import Certificates
from walkeeper.control import server
from walkeeper.control.http1 import GRACE_SECONDS, HttpConnection
from walkeeper.control.server import serving_http
from walkeeper.errors import TlsFailed
from walkeeper.links.link import Link
from walkeeper.links.tls_link import accept_tls


async def hello(_request: Request) -> Response:
    return PlainTextResponse("hello")


async def client_of(sock: socket.socket) -> trio.SocketStream:
    """A client that the server has room for, or has decided that it has not."""
    stream = await trio.open_tcp_stream(*sock.getsockname())
    await trio.testing.wait_all_tasks_blocked()
    return stream


async def ask(client: trio.SocketStream) -> None:
    await client.send_all(REQUEST)
    await hear(client)


async def hear(client: trio.SocketStream) -> None:
    answer = b""
    while not answer.endswith(b"hello"):
        received = await client.receive_some()
        assert received, answer
        answer += received


APP = Starlette(routes=[Route("/", hello)])

UPGRADE = b"GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n\r\n"
PRIOR_KNOWLEDGE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
REQUEST = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
ROOM = 4


@pytest.fixture
def sock() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield listening


def url(sock: socket.socket) -> str:
    return f"http://127.0.0.1:{sock.getsockname()[1]}/"


async def test_requests_are_answered_while_the_block_runs_and_not_after(sock: socket.socket) -> None:
    here = url(sock)
    async with httpx2.AsyncClient() as client:
        async with serving_http(APP, sock):
            assert (await client.get(here)).text == "hello"
    async with httpx2.AsyncClient() as client:
        with pytest.raises(httpx2.ConnectError):
            await client.get(here)


async def test_every_connection_is_counted(sock: socket.socket) -> None:
    counted: list[None] = []
    async with serving_http(APP, sock, lambda: counted.append(None)):
        for _ in range(2):
            async with httpx2.AsyncClient() as client:
                await client.get(url(sock))
                await client.get(url(sock))
    assert len(counted) == 2


async def test_a_failure_of_the_block_comes_out_of_it(sock: socket.socket) -> None:
    with pytest.RaisesGroup(ZeroDivisionError, flatten_subgroups=True):
        async with serving_http(APP, sock):
            raise ZeroDivisionError


async def test_the_socket_is_closed_when_the_block_is_cancelled(sock: socket.socket) -> None:
    with trio.CancelScope() as scope:
        async with serving_http(APP, sock):
            scope.cancel()
            await trio.lowlevel.checkpoint()
    assert sock.fileno() == -1


async def test_a_request_that_never_ends_does_not_keep_the_server_from_ending(
    sock: socket.socket, autojump_clock: trio.testing.MockClock
) -> None:
    begun = trio.Event()

    async def never(_request: Request) -> Response:
        begun.set()
        await trio.sleep_forever()
        raise AssertionError

    async def ask(there: str) -> None:
        async with httpx2.AsyncClient(timeout=None) as client:
            with pytest.raises(httpx2.HTTPError):
                await client.get(there)

    async with trio.open_nursery() as nursery:
        there = url(sock)
        async with serving_http(Starlette(routes=[Route("/", never)]), sock):
            nursery.start_soon(ask, there)
            await begun.wait()
            started = trio.current_time()
        assert trio.current_time() - started >= GRACE_SECONDS


async def test_a_newcomer_has_the_place_of_whoever_has_been_idle_longest(
    sock: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "CONNECTIONS_MAX", ROOM)
    async with serving_http(APP, sock), AsyncExitStack() as stack:
        idle = [await stack.enter_async_context(await client_of(sock)) for _ in range(ROOM)]
        await ask(idle[0])
        newcomer = await stack.enter_async_context(await client_of(sock))
        await ask(newcomer)
        assert await idle[1].receive_some() == b""
        for still_here in (idle[0], *idle[2:]):
            await ask(still_here)


async def test_whoever_waits_for_an_answer_keeps_its_place(
    sock: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "CONNECTIONS_MAX", ROOM)
    may_answer = trio.Event()
    begun, beginnings = trio.open_memory_channel[None](ROOM)

    async def answer_late(_request: Request) -> Response:
        begun.send_nowait(None)
        await may_answer.wait()
        return PlainTextResponse("hello")

    async with serving_http(Starlette(routes=[Route("/", answer_late)]), sock), AsyncExitStack() as stack:
        waiting = [await stack.enter_async_context(await client_of(sock)) for _ in range(ROOM)]
        for one in waiting:
            await one.send_all(REQUEST)
            await beginnings.receive()
        async with await client_of(sock) as newcomer:
            assert await newcomer.receive_some() == b""
        may_answer.set()
        for one in waiting:
            await hear(one)


async def test_a_client_that_goes_takes_its_request_along(
    sock: socket.socket, autojump_clock: trio.testing.MockClock
) -> None:
    begun, ended = trio.Event(), trio.Event()

    async def never(_request: Request) -> Response:
        begun.set()
        try:
            await trio.sleep_forever()
        finally:
            ended.set()
        raise AssertionError

    async with serving_http(Starlette(routes=[Route("/", never)]), sock):
        async with await trio.open_tcp_stream(*sock.getsockname()) as client:
            await client.send_all(REQUEST)
            await begun.wait()
        with trio.fail_after(2 * GRACE_SECONDS):
            await ended.wait()


@pytest.mark.parametrize("request_bytes", [UPGRADE, PRIOR_KNOWLEDGE])
async def test_nobody_is_offered_http_2_and_whoever_asked_for_it_is_gone_when_gone(
    sock: socket.socket, monkeypatch: pytest.MonkeyPatch, request_bytes: bytes
) -> None:
    monkeypatch.setattr(server, "CONNECTIONS_MAX", ROOM)
    async with serving_http(APP, sock):
        for _ in range(2 * ROOM):
            async with await client_of(sock) as client:
                await client.send_all(request_bytes)
                assert (await client.receive_some()).startswith(b"HTTP/1.1 ")
        async with await client_of(sock) as client:
            await ask(client)


# -- TLS -----------------------------------------------------------------------------------------------------


@asynccontextmanager
async def serving_https(pki: Pki) -> AsyncIterator[tuple[int, list[str]]]:
    """The port, and why handshakes failed."""
    certificates, failures = Certificates(pki.files), list[str]()

    async def encrypt(plain: Link) -> Link:
        try:
            return await accept_tls(plain, certificates.current.http)
        except TlsFailed as error:
            failures.append(str(error))
            raise

    with socket.create_server(("127.0.0.1", 0)) as sock:
        async with serving_http(APP, sock, encrypt=encrypt):
            yield sock.getsockname()[1], failures


async def test_the_same_is_served_over_tls(tmp_path: Path) -> None:
    pki = Pki.begin(tmp_path)
    async with serving_https(pki) as (port, failures), httpx2.AsyncClient(verify=pki.client_context()) as client:
        for _ in range(2):
            assert (await client.get(f"https://localhost:{port}/")).status_code == 200
        with pytest.raises(httpx2.TransportError):
            await client.get(f"http://localhost:{port}/")
        assert len(failures) == 1


async def test_two_ports_have_the_places_together(sock: socket.socket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "CONNECTIONS_MAX", ROOM)
    seated = set[HttpConnection]()
    with socket.create_server(("127.0.0.1", 0)) as second:
        async with (
            serving_http(APP, sock, seated=seated),
            serving_http(APP, second, seated=seated),
            AsyncExitStack() as stack,
        ):
            idle = [await stack.enter_async_context(await client_of(sock)) for _ in range(ROOM)]
            newcomer = await stack.enter_async_context(await client_of(second))
            await ask(newcomer)
            assert await idle[0].receive_some() == b""
            assert len(seated) == ROOM
