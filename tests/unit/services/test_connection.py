"""A client of the keeper from its first byte on: who is let in, for how long, and what is counted."""

import json
import math
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime

import pytest
import structlog
import trio
from trio.testing import MockClock

from keeping import SERVER, TTID, Leader, new_disk, timelines_on
from streaming import Client, Connection, Turns
from walkeeper import __version__
from walkeeper.control.metrics import Metrics
from walkeeper.errors import BadCommand, NotFound
from walkeeper.formats.backend import BackendMessage, CopyBothResponse, DataRow, ErrorResponse, ReadyForQuery
from walkeeper.formats.frames import encode_frame
from walkeeper.formats.frontend import Query
from walkeeper.formats.proposer import encode_proposer_message
from walkeeper.formats.replication import PrimaryKeepalive, StandbyStatusUpdate
from walkeeper.formats.startup import SslRequest, StartupMessage, encode_options
from walkeeper.ids import NodeId
from walkeeper.links.throttle import LINES_MAX, Throttle
from walkeeper.lsn import format_lsn
from walkeeper.membership import Configuration, Generation, Member
from walkeeper.messages import ProposerGreeting
from walkeeper.services.connection import LINGER_SECONDS_MAX, STARTUP_SECONDS_MAX
from walkeeper.services.connection import Connection as Service
from walkeeper.services.copy_in import SILENCE_SECONDS_MAX
from walkeeper.services.listener import Draining
from walkeeper.services.strangers import Strangers
from walkeeper.services.turnstile import Turnstile
from walkeeper.timeline.registry import Client as ServedClient
from walkeeper.timeline.timelines import Timelines

STARTUP = StartupMessage({"user": "test", "options": encode_options(TTID)})


class Scene:
    """One client and the keeper that serves it; ``ended_at`` is when the keeper had done with it."""

    def __init__(self, client: Client, timelines: Timelines) -> None:
        self.client = client
        self.timelines = timelines
        self.draining = Draining()
        self.metrics = Metrics("0")
        self.ended = trio.Event()
        self.ended_at = 0.0

    async def seconds_until_end(self) -> float:
        began = trio.current_time()
        await self.ended.wait()
        return self.ended_at - began

    async def start_up(self, message: StartupMessage = STARTUP) -> None:
        await self.client.send(message)
        while not isinstance(await self.client.next_message(), ReadyForQuery):
            pass

    async def ask(self, text: str) -> list[BackendMessage]:
        await self.client.send(Query(text))
        said: list[BackendMessage] = []
        while not isinstance(message := await self.client.next_message(), ReadyForQuery):
            said.append(message)
        return said

    async def show(self, name: str) -> str | None:
        """The one value that SHOW answers."""
        _, row, _ = await self.ask(f"SHOW {name}")
        assert isinstance(row, DataRow)
        (value,) = row.values
        return None if value is None else value.decode()

    def refusals(self, error: type[Exception]) -> float | None:
        return self.metrics.registry.get_sample_value("walkeeper_refusals_total", {"error": error.__name__})

    def counted(self, word: str) -> float | None:
        return self.metrics.registry.get_sample_value("safekeeper_pg_queries_received_total", {"query": word})


@asynccontextmanager
async def serving(
    pair: Connection | None = None, reader_seconds_max: float = SILENCE_SECONDS_MAX
) -> AsyncIterator[Scene]:
    pair = pair or Connection.new()

    async def serve() -> None:
        client, turnstile = ServedClient(1, "db1:4711"), Turnstile()
        await Service(
            client,
            pair.link,
            timelines,
            scene.draining,
            turnstile,
            Strangers(9, scene.metrics),
            scene.metrics,
            reader_seconds_max,
        ).serve()
        scene.ended_at = trio.current_time()
        scene.ended.set()

    async with timelines_on(new_disk()) as timelines, trio.open_nursery() as nursery:
        scene = Scene(pair.client, timelines)
        nursery.start_soon(serve)  # noqa: ASYNC113 - it waits for what the test sends
        yield scene
        nursery.cancel_scope.cancel()
        await pair.client.stream.aclose()


@pytest.mark.parametrize("beginning", [b"", b"\x00", STARTUP.encode()[:-1]], ids=["nothing", "a byte", "most"])
async def test_a_stranger_that_does_not_say_who_it_is_is_sent_away_in_time(
    beginning: bytes, autojump_clock: MockClock
) -> None:
    async with serving() as scene:
        await scene.client.stream.send_all(beginning)
        assert STARTUP_SECONDS_MAX <= await scene.seconds_until_end() <= STARTUP_SECONDS_MAX + LINGER_SECONDS_MAX


async def test_a_stranger_that_dribbles_gains_no_time(autojump_clock: MockClock) -> None:
    async with serving() as scene, trio.open_nursery() as nursery:

        async def dribble() -> None:
            for byte in STARTUP.encode()[: int(STARTUP_SECONDS_MAX)]:
                await scene.client.stream.send_all(bytes([byte]))
                await trio.sleep(0.99)

        nursery.start_soon(dribble)
        assert await scene.seconds_until_end() <= STARTUP_SECONDS_MAX + LINGER_SECONDS_MAX
        nursery.cancel_scope.cancel()


async def test_a_client_that_was_let_in_may_be_silent_for_longer(autojump_clock: MockClock) -> None:
    async with serving() as scene:
        await scene.start_up()
        await trio.sleep(SILENCE_SECONDS_MAX - 1)
        await scene.client.send(Query("TIMELINE_STATUS"))
        await scene.client.next_message()
        assert await scene.seconds_until_end() <= SILENCE_SECONDS_MAX + LINGER_SECONDS_MAX


async def test_whoever_goes_on_sending_after_the_last_word_is_not_listened_to_for_long(
    autojump_clock: MockClock,
) -> None:
    async with serving() as scene:
        await scene.client.stream.send_all(b"GET / HTTP/1.1\r\n")
        assert isinstance(await scene.client.next_message(), ErrorResponse)
        assert await scene.seconds_until_end() <= LINGER_SECONDS_MAX


async def test_an_idle_client_is_sent_away_when_the_keeper_stops(autojump_clock: MockClock) -> None:
    async with serving() as scene:
        await scene.start_up()
        scene.draining.begin()
        assert await scene.seconds_until_end() <= LINGER_SECONDS_MAX


async def test_a_stranger_that_chatters_lets_others_run() -> None:
    async with serving(Connection.of_sockets(*socket.socketpair())) as scene:
        with Turns.counted() as turns:
            await scene.client.stream.send_all(SslRequest().encode() * 1000 + STARTUP.encode())
            answers = b""
            while not answers.endswith(ReadyForQuery().encode()):
                answers += await scene.client.stream.receive_some()
            assert answers.startswith(b"N" * 1000 + b"R")
            assert turns.count >= 1000


async def test_a_client_that_does_not_wait_for_answers_lets_others_run() -> None:
    async with serving(Connection.of_sockets(*socket.socketpair())) as scene:
        with Turns.counted() as turns:
            await scene.start_up()
            await scene.client.send(*[Query("")] * 1000)
            for _ in range(2 * 1000):
                await scene.client.next_message()
            assert turns.count >= 1000


async def test_a_client_that_repeats_a_refused_query_does_not_flood_the_log() -> None:
    async with serving() as scene:
        await scene.start_up()
        with structlog.testing.capture_logs([Throttle()]) as lines:
            for _ in range(100):
                assert isinstance((await scene.ask("SELECT 1"))[0], ErrorResponse)
                assert isinstance((await scene.ask("IDENTIFY_SYSTEM"))[0], ErrorResponse)
    assert scene.refusals(BadCommand) == 100
    assert len(lines) == 2 * LINES_MAX


async def test_a_client_whose_queries_are_skipped_lets_others_run() -> None:
    """Nothing is answered before the end of it, which may be far."""
    async with serving(Connection.of_sockets(*socket.socketpair())) as scene:
        with Turns.counted() as turns:
            await scene.start_up()
            await scene.client.stream.send_all(encode_frame(b"P", b"") * 50_000 + encode_frame(b"S", b""))
            while not isinstance(await scene.client.next_message(), ReadyForQuery):
                pass
            assert turns.count >= 50_000 / 300


@pytest.mark.parametrize(("seconds", "milliseconds"), [(1800.0, 1_800_000), (math.inf, 0)], ids=str)
async def test_the_kernel_gives_a_reader_up_no_sooner_than_the_keeper_does(
    seconds: float, milliseconds: int, autojump_clock: MockClock
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        there = socket.create_connection(server.getsockname())
        here, _ = server.accept()
    here.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 60_000)
    async with serving(Connection.of_sockets(here, there), seconds) as scene:
        leader = Leader(await scene.timelines.create(TTID, SERVER))
        await leader.be_elected()
        await leader.append()
        await scene.start_up()
        await scene.client.send(Query(f"START_REPLICATION PHYSICAL {format_lsn(leader.wal.start)}"))
        assert isinstance(await scene.client.next_message(), CopyBothResponse)
        assert isinstance(await scene.client.hear_sender(), PrimaryKeepalive)
        assert here.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == milliseconds


async def test_a_client_cannot_invent_names_to_be_counted() -> None:
    """A prefix is enough for a command, and whatever follows it must not become a label: those are kept for ever."""
    async with serving() as scene:
        await scene.start_up()
        for number in range(3):
            await scene.ask(f"TIMELINE_STATUS{number}")
        assert scene.counted("TIMELINE_STATUS") == 3
        assert scene.counted("TIMELINE_STATUS0") is None


async def test_asking_for_a_timeline_that_does_not_exist_yet_is_no_fault() -> None:
    async with serving() as scene:
        await scene.start_up()
        await scene.ask("IDENTIFY_SYSTEM")
        await scene.ask("NONSENSE")
        assert scene.refusals(NotFound) is None
        assert scene.refusals(BadCommand) == 1


async def test_what_pg_receivewal_asks_is_answered_as_the_server_would(autojump_clock: MockClock) -> None:
    async with serving() as scene:
        await scene.timelines.create(TTID, SERVER)
        await scene.start_up()
        assert await scene.show("wal_segment_size") == "1MB"
        assert await scene.show("data_directory_mode") == "0700"
        assert await scene.show("server_version_num") == "150005"


async def test_a_setting_that_nobody_knows_is_refused_by_name(autojump_clock: MockClock) -> None:
    async with serving() as scene:
        await scene.timelines.create(TTID, SERVER)
        await scene.start_up()
        (error,) = await scene.ask("SHOW work_mem")
        assert isinstance(error, ErrorResponse)
        assert "work_mem" in error.message


async def test_the_status_of_a_timeline_says_how_far_it_is_and_who_is_connected(autojump_clock: MockClock) -> None:
    began = datetime.now(UTC).replace(microsecond=0)  # it is told by the millisecond
    async with serving() as scene:
        timeline = await scene.timelines.create(TTID, SERVER)
        leader = Leader(timeline)
        await leader.be_elected()
        flushed = (await leader.append()).flush_lsn
        reader = ServedClient(5, "db2:4712", "walreceiver")
        with timeline.registry.sending(reader) as sender:
            timeline.registry.record(sender, StandbyStatusUpdate(flushed, flushed, leader.wal.start, 0))
            await scene.start_up()
            status = json.loads(await scene.show("walkeeper_status") or "")
        text, start = format_lsn(flushed), format_lsn(leader.wal.start)
        assert (status["node_id"], status["term"], status["flush_lsn"], status["commit_lsn"]) == (
            3,
            1,
            text,
            start,
        )
        assert began <= datetime.fromisoformat(status["flushed_at"]) <= datetime.fromisoformat(status["now"])
        assert (status["committed_at"], status["refused"]) == (None, None)
        assert status["receivers"] == []
        assert status["senders"] == [
            {
                "connection": 5, "peer": "db2:4712", "application_name": "walreceiver", "sent_lsn": "0/0",
                "write_lsn": text, "flush_lsn": text, "apply_lsn": start,
            }
        ]  # fmt: skip


async def test_a_keeper_tells_its_number_its_version_and_its_clock_of_itself_to_whoever_names_no_timeline(
    autojump_clock: MockClock,
) -> None:
    before = datetime.now(UTC).replace(microsecond=0)  # it is told by the millisecond
    async with serving() as scene:
        await scene.start_up(StartupMessage({"user": "test"}))
        told = json.loads(await scene.show("walkeeper_about") or "")
    assert (told["node_id"], told["version"]) == (3, __version__)
    assert before <= datetime.fromisoformat(told["now"]) <= datetime.now(UTC)


@pytest.mark.parametrize(
    ("options", "advice"),
    [
        ("", "tenantid is required: connect with options="),
        (f"-c tenant_id={TTID.tenant_id}", "timelineid is required: connect with options="),
    ],
)
async def test_who_does_not_say_whose_wal_is_told_how(options: str, advice: str) -> None:
    async with serving() as scene:
        await scene.client.send(StartupMessage({"user": "test", "options": options}))
        while not isinstance(await scene.client.next_message(), ReadyForQuery):
            pass
        await scene.client.send(Query("IDENTIFY_SYSTEM"))
        answer = await scene.client.next_message()
        assert isinstance(answer, ErrorResponse)
        assert answer.message.startswith(advice)


async def test_a_proposer_whose_members_are_others_is_refused_before_the_timeline_is_made() -> None:
    others = Configuration(Generation(1), (Member(NodeId(77), "other", 5454),))
    async with serving() as scene:
        await scene.start_up()
        await scene.client.send(Query("START_WAL_PUSH (proto_version '3')"))
        assert isinstance(await scene.client.next_message(), CopyBothResponse)
        await scene.client.say(encode_proposer_message(ProposerGreeting(TTID, others, SERVER), 3))
        answer = await scene.client.next_message()
        assert isinstance(answer, ErrorResponse)
        assert "is not a member" in answer.message
        assert scene.timelines.ttids() == []


async def test_a_keeper_tells_its_number_whatever_it_has() -> None:
    async with serving() as scene:
        await scene.start_up()
        assert await scene.show("walkeeper_node_id") == str(scene.timelines.node_id)


async def test_a_keeper_tells_whether_it_is_whole() -> None:
    async with serving() as scene:
        await scene.start_up()
        timeline = await scene.timelines.create(TTID, SERVER)
        assert await scene.show("walkeeper_standing") == "incomplete"
        assert json.loads(await scene.show("walkeeper_status") or "")["is_whole"] is False
        leader = Leader(timeline)
        await leader.be_elected()
        await timeline.process(leader.next_run())
        await timeline.process(leader.next_run(commit=leader.wal.lsn))
        assert await scene.show("walkeeper_standing") == "whole"
        assert json.loads(await scene.show("walkeeper_status") or "")["is_whole"] is True


async def test_bytes_are_counted_for_whoever_said_who_it_is(autojump_clock: MockClock) -> None:
    async with serving() as scene:
        options = encode_options(TTID) + " -c availability_zone=a"
        await scene.client.send(StartupMessage({"user": "u", "options": options, "application_name": "app"}))
        while not isinstance(await scene.client.next_message(), ReadyForQuery):
            pass
        labels = {"client_az": "a", "sk_az": "unknown", "app_name": "app", "same_az": "unknown"}
        value = scene.metrics.registry.get_sample_value
        read, written = (
            value("safekeeper_pg_io_bytes_total", labels | {"dir": direction}) for direction in ("read", "write")
        )
        assert read is not None and read > 0
        assert written is not None and written > 0
        await scene.show("walkeeper_node_id")
    assert (value("safekeeper_pg_io_bytes_total", labels | {"dir": "read"}) or 0) > read
