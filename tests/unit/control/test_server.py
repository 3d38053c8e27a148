"""Serving over a real socket."""

import socket
from collections.abc import Iterator
from contextlib import ExitStack, suppress

import httpx2
import pytest
import structlog
import trio
import trio.testing
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from walkeeper.control import server
from walkeeper.control.server import GRACE_SECONDS, SEND_SECONDS_MAX, limit_sends, serving_http


async def hello(_request: Request) -> Response:
    return PlainTextResponse("hello")


APP = Starlette(routes=[Route("/", hello)])


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


async def test_a_failure_of_the_block_comes_out_of_it(sock: socket.socket) -> None:
    with pytest.RaisesGroup(ZeroDivisionError, flatten_subgroups=True):
        async with serving_http(APP, sock):
            raise ZeroDivisionError


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


async def test_connections_above_the_limit_are_closed_until_there_is_room_and_told_of_in_one_line(
    sock: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "CONNECTIONS_MAX", 3)
    address, here = sock.getsockname(), url(sock)
    with structlog.testing.capture_logs() as lines, ExitStack() as idle:
        async with serving_http(APP, sock):
            for _ in range(3):
                idle.enter_context(socket.create_connection(address))
            for _ in range(5):
                stream = await trio.open_tcp_stream(*address)
                async with stream:
                    assert await stream.receive_some() == b""
            assert [line["event"] for line in lines] == ["too many HTTP connections"]
            idle.close()
            async with httpx2.AsyncClient() as client:
                while True:  # when the server notices that they have gone is its affair
                    with suppress(httpx2.TransportError):
                        assert (await client.get(here)).text == "hello"
                        break


def test_a_client_that_stops_reading_is_cut_off_by_the_kernel(sock: socket.socket) -> None:
    limit_sends(sock)
    with socket.create_connection(sock.getsockname()):
        accepted, _ = sock.accept()
        with accepted:
            limit = accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT)
    assert limit == SEND_SECONDS_MAX * 1000
