"""A server that does not stop talking: time limits fire all the same, and it fills nobody's memory.

The clock is Trio's fake one, which each receive moves on: nothing here ever waits.
"""

from collections.abc import Callable

import pytest
import trio
from trio.testing import MockClock

from walkeeper.errors import Malformed, Unreachable
from walkeeper.formats.backend import (
    BackendMessage,
    Column,
    CopyBothResponse,
    DataRow,
    NoticeResponse,
    ParameterStatus,
    RowDescription,
)
from walkeeper.formats.frames import PAYLOADS_MAX
from walkeeper.formats.frontend import CopyData
from walkeeper.formats.session import WELCOME
from walkeeper.links.conninfo import ConnectionInfo, SslMode
from walkeeper.links.link import FLOOD_BYTES_MAX
from walkeeper.links.postgres import EVENTS_PER_TURN, Connection, time_limit
from walkeeper.messages import Slice

INFO = ConnectionInfo("db", user="u", sslmode=SslMode.DISABLE)
LIMIT_SECONDS = 1.0


class Flood:
    """A link on which ``first`` arrives, and then ``more`` for ever, in receives of the largest size."""

    pending_bytes = received_bytes = sent_bytes = 0

    def __init__(self, clock: MockClock, *first: BackendMessage, more: Callable[[int], BackendMessage]) -> None:
        self._clock = clock
        self._first = b"".join(message.encode() for message in first)
        self._more = more
        self._count = 0
        self.receives = 0

    async def receive(self, bytes_max: int = FLOOD_BYTES_MAX) -> bytes:
        self.receives += 1
        assert self.receives < 10, "nobody else has had a turn"
        if self.receives == 1:
            return self._first
        self._clock.jump(LIMIT_SECONDS + 1)
        return self._flood()

    def _flood(self) -> bytes:
        data = bytearray()
        while len(data) < FLOOD_BYTES_MAX:
            data += self._more(self._count).encode()
            self._count += 1
        return bytes(data)

    def give_up_after(self, seconds: float) -> None:
        pass

    def try_receive(self, bytes_max: int = FLOOD_BYTES_MAX) -> bytes | None:
        raise NotImplementedError

    def send_soon(self, *pieces: Slice) -> None: ...

    async def wait_sent(self) -> None: ...

    async def send_eof(self) -> None: ...

    async def aclose(self) -> None: ...


def notice(_: int) -> BackendMessage:
    return NoticeResponse("again", "00000")


def setting(_: int) -> BackendMessage:
    return ParameterStatus("in_hot_standby", "off")


@pytest.fixture
def clock() -> MockClock:
    return MockClock()


@pytest.mark.parametrize("more", [notice, setting])
async def test_a_login_ends_in_time_under_a_flood(clock: MockClock, more: Callable[[int], BackendMessage]) -> None:
    flood = Flood(clock, WELCOME[0], more=more)
    with pytest.raises(Unreachable), time_limit(LIMIT_SECONDS, "db"):
        await Connection("db", flood).log_in(INFO, {})


@pytest.mark.parametrize("more", [notice, setting])
async def test_a_question_ends_in_time_under_a_flood(
    clock: MockClock, more: Callable[[int], BackendMessage]
) -> None:
    connection = await logged_in(Flood(clock, *WELCOME, more=more))
    with pytest.raises(Unreachable), time_limit(LIMIT_SECONDS, "db"):
        await connection.query("SHOW x")


@pytest.mark.parametrize("more", [notice, setting])
async def test_a_stream_that_does_not_begin_ends_in_time_under_a_flood(
    clock: MockClock, more: Callable[[int], BackendMessage]
) -> None:
    connection = await logged_in(Flood(clock, *WELCOME, more=more))
    with pytest.raises(Unreachable), time_limit(LIMIT_SECONDS, "db"):
        await connection.start_copy("START_REPLICATION 0/0")


@pytest.mark.parametrize("more", [notice, setting])
async def test_a_stream_without_news_lets_others_run_under_a_flood(
    clock: MockClock, more: Callable[[int], BackendMessage]
) -> None:
    connection = await streaming(Flood(clock, *WELCOME, CopyBothResponse(), more=more))
    with pytest.raises(Unreachable), time_limit(LIMIT_SECONDS, "db"):
        await connection.receive_copies()


async def test_a_stream_of_the_smallest_messages_comes_in_parts_and_lets_others_run(clock: MockClock) -> None:
    connection = await streaming(Flood(clock, *WELCOME, CopyBothResponse(), more=lambda _: CopyData(b"k")))
    received: list[int] = []

    async def receive_for_ever() -> None:
        while True:
            received.append(len(await connection.receive_copies()))

    with pytest.raises(Unreachable), time_limit(LIMIT_SECONDS, "db"):
        await receive_for_ever()
    assert max(received) == PAYLOADS_MAX
    assert sum(received) <= PAYLOADS_MAX + EVENTS_PER_TURN


async def test_no_message_of_a_flood_is_lost_or_twice(clock: MockClock) -> None:
    connection = await streaming(
        Flood(clock, *WELCOME, CopyBothResponse(), more=lambda count: CopyData(b"%d" % count))
    )
    received: list[int] = []
    while len(received) < 10_000:
        with trio.CancelScope() as scope:
            scope.cancel()
            received += map(int, await connection.receive_copies())
        received += map(int, await connection.receive_copies())
    assert received == list(range(len(received)))


async def test_an_answer_of_ever_more_rows_is_malformed(clock: MockClock) -> None:
    columns = RowDescription((Column("a"),))
    connection = await logged_in(Flood(clock, *WELCOME, columns, more=lambda _: DataRow.of("x")))
    with pytest.raises(Malformed):
        await connection.query("SHOW x")


async def test_ever_more_settings_are_malformed(clock: MockClock) -> None:
    flood = Flood(clock, WELCOME[0], more=lambda count: ParameterStatus(f"setting{count}", "x"))
    with pytest.raises(Malformed):
        await Connection("db", flood).log_in(INFO, {})


async def logged_in(flood: Flood) -> Connection:
    connection = Connection("db", flood)
    await connection.log_in(INFO, {})
    return connection


async def streaming(flood: Flood) -> Connection:
    connection = await logged_in(flood)
    await connection.start_copy("START_REPLICATION 0/0")
    return connection
