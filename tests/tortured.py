"""A keeper that is talked to, one message at a time, and everything that must hold after it was interrupted.

The keeper's side is the real connection, timeline and store, on a disk, threads, a network and a clock in memory.
"""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from copy import deepcopy
from dataclasses import dataclass
from random import Random

import trio
import trio.testing

from keeping import SAVE_SECONDS, SEGMENT, SERVER, START, TTID
from walkeeper.errors import PeerError, ServerError, Unreachable
from walkeeper.formats.proposer import encode_proposer_message, parse_acceptor_message
from walkeeper.formats.xlog_pages import RECORD_HEADER_BYTES
from walkeeper.ids import NodeId
from walkeeper.links.address import KEEPER_PORT, Address
from walkeeper.links.keeper import PROTOCOL_VERSION, connect_keeper, start_push
from walkeeper.links.postgres import Connection as ClientConnection
from walkeeper.lsn import INVALID_LSN, Lsn
from walkeeper.membership import NO_CONFIGURATION, NO_GENERATION, Generation
from walkeeper.messages import (
    APPEND_BYTES_MAX,
    AcceptorGreeting,
    AcceptorMessage,
    AppendRequest,
    AppendResponse,
    ProposerElected,
    ProposerGreeting,
    ProposerMessage,
    VoteRequest,
    VoteResponse,
)
from walkeeper.services.connection import Connection
from walkeeper.services.listener import Draining
from walkeeper.services.strangers import Strangers
from walkeeper.services.turnstile import Turnstile
from walkeeper.storage.data_directory import claim
from walkeeper.storage.recovery import recover
from walkeeper.terms import Term, TermHistory
from walkeeper.testing.machine import DATA, Uncounted, directory_of
from walkeeper.testing.memory_disk import MemoryDisk
from walkeeper.testing.network import MemoryNetwork
from walkeeper.testing.offload import InlineOffload
from walkeeper.testing.wal import WalGenerator
from walkeeper.timeline.registry import Client
from walkeeper.timeline.timeline import Timeline
from walkeeper.timeline.timelines import Timelines, open_timelines

KEEPER = Address("keeper", KEEPER_PORT)
JOB_SECONDS = 0.001
NO_HISTORY = TermHistory()


class Talk:
    """A proposer's connection that says what it is told to, and hears the answers."""

    def __init__(self, connection: ClientConnection) -> None:
        self.connection = connection
        self._heard: list[AcceptorMessage] = []

    async def say(self, *messages: ProposerMessage) -> None:
        for message in messages:
            self.connection.send_copy_soon(encode_proposer_message(message, PROTOCOL_VERSION))
        await self.connection.wait_sent()

    async def hear(self) -> AcceptorMessage:
        while not self._heard:
            for payload in await self.connection.receive_copies():
                self._heard.append(parse_acceptor_message(payload, PROTOCOL_VERSION))
        return self._heard.pop(0)

    async def hear_flushed(self, lsn: Lsn) -> None:
        """Replies up to the one that says that WAL up to ``lsn`` is durable."""
        while (await self._hear_append()).flush_lsn < lsn:
            pass

    async def hear_all(self, said: Sequence[ProposerMessage]) -> None:
        """Everything that answers ``said``; appends may share an answer."""
        for message in said:
            match message:
                case ProposerGreeting():
                    await self.hear()
                case VoteRequest():
                    while not isinstance(await self.hear(), VoteResponse):
                        pass
                case AppendRequest() if message is said[-1]:
                    await self.hear_flushed(message.end_lsn)
                case _:
                    pass

    async def _hear_append(self) -> AppendResponse:
        reply = await self.hear()
        assert isinstance(reply, AppendResponse)
        return reply


class Writer:
    """What a leader of ``term`` says: its WAL continues that of the leader before it, or cuts it off."""

    def __init__(
        self,
        term: int,
        start: Lsn = START,
        history: TermHistory = NO_HISTORY,
        prev: int = 0,
        generation: Generation = NO_GENERATION,
    ) -> None:
        self.term = Term(term)
        self.generation = generation
        self.history = history.up_to(start).with_term(self.term, start)
        self.wal = WalGenerator(
            start, pg_major=15, wal_seg_size=SEGMENT, system_id=SERVER.system_id, prev=Lsn(prev)
        )

    def vote(self) -> VoteRequest:
        return VoteRequest(self.generation, self.term)

    def elected(self) -> ProposerElected:
        return ProposerElected(self.generation, self.term, self.wal.start, self.history)

    def write(self, size: int, commit_lsn: Lsn = INVALID_LSN) -> list[AppendRequest]:
        """A record of that size, in as many messages as it takes."""
        begin = self.wal.lsn
        self.wal.record(b"w" * size)
        return self.rest(begin, commit_lsn)

    def rest(self, begin: Lsn, commit_lsn: Lsn = INVALID_LSN) -> list[AppendRequest]:
        """All that is written from there on; a heartbeat if there is nothing."""
        requests = []
        for end in map(Lsn, [*range(begin + APPEND_BYTES_MAX, self.wal.lsn, APPEND_BYTES_MAX), self.wal.lsn]):
            requests.append(self._append(begin, end, commit_lsn))
            begin = end
        return requests

    def commit(self) -> AppendRequest:
        return self._append(self.wal.lsn, self.wal.lsn, self.wal.lsn)

    def switch(self) -> AppendRequest:
        """The record that ends a segment, without the zeroes behind it: they come later, or never."""
        record = self.wal.switch()
        return self._append(record.start, Lsn(record.start + RECORD_HEADER_BYTES), INVALID_LSN)

    def _append(self, begin: Lsn, end: Lsn, commit_lsn: Lsn) -> AppendRequest:
        wal = self.wal.between(begin, end)
        return AppendRequest(self.generation, self.term, begin, end, commit_lsn, INVALID_LSN, wal)

    def successor(self) -> "Writer":
        """A leader that cuts off the last record of this one."""
        last = self.wal.records[-1]
        return Writer(self.term + 1, last.start, self.history, self.wal.records[-2].start)

    def heir(self) -> "Writer":
        """A leader that continues the WAL of this one."""
        return Writer(self.term + 1, self.wal.lsn, self.history, self.wal.prev)


@dataclass
class Keeper:
    """A keeper in a nursery of its own: ``scope`` is the whole daemon's."""

    timelines: Timelines
    disk: MemoryDisk
    network: MemoryNetwork
    connections: trio.Nursery
    scope: trio.CancelScope
    connection_scope: trio.CancelScope | None = None

    @property
    def timeline(self) -> Timeline:
        return self.timelines.get(TTID)

    def cancel_connection(self) -> None:
        if self.connection_scope is not None:
            self.connection_scope.cancel()

    def cancel_timeline(self) -> None:
        """What closing a timeline does to those who use it."""
        for timeline in self.timelines.all():
            for receiver in timeline.registry.receivers():
                receiver.scope.cancel()

    def cancel_daemon(self) -> None:
        self.scope.cancel()

    async def accept(self) -> None:
        listener = self.network.host(KEEPER.host).listen()
        while True:
            link, peer = await listener.accept()
            connection = Connection(
                Client(1, peer),
                link,
                self.timelines,
                Draining(),
                Turnstile(),
                Strangers(9, Uncounted()),
                Uncounted(),
            )
            self.connections.start_soon(self._serve, connection)

    async def _serve(self, connection: Connection) -> None:
        with trio.CancelScope() as self.connection_scope:
            await connection.serve()

    @asynccontextmanager
    async def talk(self) -> AsyncIterator[Talk]:
        """A conversation that ends with the block, or is ended by the keeper."""
        with self.network.host("client").home(), suppress(Unreachable, ServerError, PeerError):
            async with connect_keeper(KEEPER, TTID, "test") as connection:
                await start_push(connection)
                yield Talk(connection)


@asynccontextmanager
async def keeper_on(disk: MemoryDisk) -> AsyncIterator[Keeper]:
    """A keeper that runs within the block, or until its ``scope`` is cancelled."""
    offload = InlineOffload(lambda: JOB_SECONDS)
    network = MemoryNetwork(Random(0))
    async with trio.open_nursery() as outer:
        started = trio.Event()
        keepers: list[Keeper] = []

        async def run() -> None:
            with trio.CancelScope() as scope:
                directory = claim(disk, DATA, NodeId(3))
                try:
                    async with open_timelines(directory, offload, save_seconds=SAVE_SECONDS) as timelines:
                        async with trio.open_nursery() as connections:
                            keepers.append(Keeper(timelines, disk, network, connections, scope))
                            connections.start_soon(keepers[0].accept)
                            started.set()
                finally:
                    directory.close()

        outer.start_soon(run)
        await started.wait()
        yield keepers[0]
        keepers[0].scope.cancel()


def check_disk_agrees(keeper: Keeper) -> None:
    """What the timeline says of itself is what a power cut would leave (invariants 3, 7, 22, 33 and 41)."""
    if not keeper.timelines.all():
        return
    state = keeper.timeline.require_state()
    copy = deepcopy(keeper.disk)
    copy.crash(0)
    recovered = recover(copy, directory_of(TTID))
    assert recovered.control_file == state.kept
    assert recovered.end_lsn == state.wal.flush_lsn
    assert recovered.is_whole == state.is_whole


async def check_serves_on(keeper: Keeper, leaders: list[Writer]) -> None:
    """A new leader is elected, and its WAL is kept; it joins the ``leaders`` that were there before."""
    async with keeper.talk() as talk:
        await talk.say(ProposerGreeting(TTID, NO_CONFIGURATION, SERVER))
        greeting = await talk.hear()
        assert isinstance(greeting, AcceptorGreeting)
        term, generation = Term(greeting.term + 7), greeting.configuration.generation
        await talk.say(VoteRequest(generation, term))
        vote = await talk.hear()
        assert isinstance(vote, VoteResponse) and vote.vote_given
        start = vote.flush_lsn or START
        prev = last_record_before(start, vote.term_history, leaders)
        writer = Writer(term, start, vote.term_history, prev, generation)
        leaders.append(writer)
        await talk.say(writer.elected(), *writer.write(300))
        await talk.hear_flushed(writer.wal.lsn)
        return
    raise AssertionError("the keeper ended the conversation")


def last_record_before(lsn: Lsn, history: TermHistory, leaders: Sequence[Writer]) -> Lsn:
    """Where the record begins that ends at ``lsn`` in a log of that history; 0 if it is the first log's start."""
    terms = {entry.term for entry in history.entries}
    for leader in reversed(leaders):
        if leader.term in terms:
            for record in leader.wal.records:
                if record.end == lsn:
                    return record.start
    return INVALID_LSN
