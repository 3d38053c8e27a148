"""Who is let in when many come: as many as there is room for; the others are told so, or hear nothing."""

import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import pytest
import structlog
import trio
from trio.testing import MockClock

from keeping import TTID, new_disk, timelines_on
from streaming import Client
from walkeeper.control.metrics import Metrics
from walkeeper.formats.backend import BackendMessage, ErrorResponse, ReadyForQuery
from walkeeper.formats.startup import SslRequest, StartupMessage, encode_options
from walkeeper.links.throttle import LINES_MAX, Throttle
from walkeeper.services.connection import TURNED_AWAY_SECONDS_MAX
from walkeeper.services.listener import TURNED_AWAY_MAX, Limits, SocketListener, accepting

ROOM = 2
ATTEMPTS_MAX = 1000
STARTUP = StartupMessage({"user": "test", "options": encode_options(TTID)})


@pytest.fixture
def clock() -> MockClock:
    return MockClock()


class Port:
    """A keeper that has room for two."""

    def __init__(self, address: tuple[str, int]) -> None:
        self._address = address
        self.metrics = Metrics("0")

    @asynccontextmanager
    async def client(self) -> AsyncIterator[Client]:
        stream = await trio.open_tcp_stream(*self._address)
        async with stream:
            yield Client(trio.StapledStream(stream, stream))

    @property
    def refusals(self) -> float | None:
        return self.metrics.registry.get_sample_value("walkeeper_refusals_total", {"error": "TooManyClients"})


@asynccontextmanager
async def port() -> AsyncIterator[Port]:
    listener = socket.create_server(("127.0.0.1", 0))
    listener.setblocking(False)
    async with timelines_on(new_disk()) as timelines, trio.open_nursery() as connections:
        made = Port(listener.getsockname())
        limits = Limits(reader_seconds_max=600.0, connections_max=ROOM)
        async with accepting(SocketListener(listener), timelines, connections, made.metrics, limits):
            yield made
        connections.cancel_scope.cancel()


async def last_of_startup(client: Client) -> BackendMessage:
    await client.send(STARTUP)
    while not isinstance(message := await client.next_message(), ReadyForQuery | ErrorResponse):
        pass
    return message


async def test_one_too_many_is_told_so_as_postgresql_does_and_there_is_room_when_somebody_has_left() -> None:
    async with port() as keeper:
        async with AsyncExitStack() as stack:
            for _ in range(ROOM):
                second = await stack.enter_async_context(keeper.client())
                assert isinstance(await last_of_startup(second), ReadyForQuery)
            third = await stack.enter_async_context(keeper.client())
            await third.send(SslRequest())
            assert await third.stream.receive_some(1) == b"N"
            answer = await last_of_startup(third)
            assert isinstance(answer, ErrorResponse)
            assert answer.sqlstate == "53300"
            assert keeper.refusals == 1
            await second.stream.send_all(b"X\0\0\0\4")
            assert await second.stream.receive_some(1) == b""
        for _ in range(ATTEMPTS_MAX):  # when the keeper notices that they have gone is its affair
            async with keeper.client() as fourth:
                if isinstance(answer := await last_of_startup(fourth), ReadyForQuery):
                    break
        assert isinstance(answer, ReadyForQuery)


async def test_a_crowd_is_told_of_in_some_lines_and_costs_little(clock: MockClock) -> None:
    crowd = TURNED_AWAY_MAX + 30
    with structlog.testing.capture_logs([Throttle()]) as lines:
        async with port() as keeper, AsyncExitStack() as stack, trio.open_nursery() as nursery:
            for _ in range(ROOM):
                seated = await stack.enter_async_context(keeper.client())
                assert isinstance(await last_of_startup(seated), ReadyForQuery)
            ended, endings = trio.open_memory_channel[None](crowd)

            async def come() -> None:
                async with keeper.client() as client:
                    assert await client.stream.receive_some(1) == b""
                    ended.send_nowait(None)

            for _ in range(crowd):
                nursery.start_soon(come)
            for _ in range(crowd - TURNED_AWAY_MAX):
                await endings.receive()  # at once: the clock stands still
            assert keeper.refusals == crowd
            clock.jump(TURNED_AWAY_SECONDS_MAX)
            for _ in range(TURNED_AWAY_MAX):
                await endings.receive()
            nursery.cancel_scope.cancel()
    assert [line["event"] for line in lines].count("too many clients") == LINES_MAX
