"""A timeline in memory with a leader, and readers of its WAL."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import TypeVar, TypeVarTuple

import pytest
import trio
import trio.testing

from keeping import SEGMENT, SERVER, START, TTID, Leader, new_disk, timelines_on
from streaming import Client, Connection
from walkeeper.formats.commands import StartReplication
from walkeeper.formats.replication import PrimaryKeepalive, XLogData
from walkeeper.ids import TimelineNumber
from walkeeper.lsn import INVALID_LSN, Lsn
from walkeeper.membership import NO_GENERATION
from walkeeper.messages import (
    AppendRun,
    ProposerElected,
    VoteRequest,
)
from walkeeper.services.copy_in import SILENCE_SECONDS_MAX
from walkeeper.terms import Term, TermHistory
from walkeeper.testing.memory_disk import MemoryDisk
from walkeeper.testing.offload import InlineOffload
from walkeeper.timeline.registry import Client as ServedClient
from walkeeper.timeline.timeline import Timeline

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

SEGMENT_START = Lsn(START - START % SEGMENT)


class Hops(InlineOffload):
    """Jobs take as long as ``seconds`` says, before and after; reads are counted."""

    def __init__(self) -> None:
        super().__init__(lambda: self.seconds)
        self.seconds = 0.0
        self.reads = 0

    async def __call__(self, function: Callable[[*Ts], T], *args: *Ts) -> T:
        self.reads += getattr(function, "__name__", "") == "read"
        return await super().__call__(function, *args)


class Stage:
    """A timeline in term 1 with a leader, and whoever reads from it."""

    def __init__(self, disk: MemoryDisk, hops: Hops, timeline: Timeline, nursery: trio.Nursery) -> None:
        self.disk = disk
        self.hops = hops
        self.timeline = timeline
        self.leader = Leader(timeline)
        self._nursery = nursery

    @property
    def wal(self) -> bytes:
        return self.leader.wal.wal

    async def write(self, size: int = 500) -> Lsn:
        """Flush a record; returns the end of the WAL."""
        await self.leader.append(size)
        return self.leader.wal.lsn

    async def commit(self, size: int = 500) -> Lsn:
        """Flush and commit a record; returns the end of the WAL."""
        end = await self.write(size)
        await self.timeline.process(AppendRun(NO_GENERATION, self.leader.term, end, end, end, INVALID_LSN, ()))
        return end

    async def vote(self, term: int) -> None:
        await self.timeline.process(VoteRequest(NO_GENERATION, Term(term)))

    async def elect(self, term: int, at: Lsn) -> Leader:
        """Let the leader of ``term``, which was voted for, truncate the WAL at ``at``."""
        history = TermHistory.of((1, START), (term, at))
        await self.timeline.process(ProposerElected(NO_GENERATION, Term(term), at, history))
        return Leader(self.timeline, term, at)

    async def replace_wal(self, term: int, at: Lsn, size: int) -> bytes:
        """Elect, and write; returns the WAL from ``at`` on."""
        leader = await self.elect(term, at)
        await leader.append(size)
        return leader.wal.wal

    def connect(
        self,
        start: int,
        term: int | None = None,
        *,
        tli: int | None = None,
        name: str | None = None,
        lockstep: bool = False,
        seconds_max: float = SILENCE_SECONDS_MAX,
    ) -> Client:
        connection = Connection.new(keeper_in_lockstep=lockstep)
        command = StartReplication(
            Lsn(start), None if term is None else Term(term), None if tli is None else TimelineNumber(tli)
        )
        self._nursery.start_soon(
            connection.client.serve,
            connection.link,
            self.timeline,
            command,
            ServedClient(1, application_name=name),
            seconds_max,
        )
        return connection.client


@asynccontextmanager
async def on_stage() -> AsyncIterator[Stage]:
    disk, hops = new_disk(), Hops()
    async with timelines_on(disk, hops) as timelines, trio.open_nursery() as nursery:
        yield Stage(disk, hops, await timelines.create(TTID, SERVER), nursery)
        nursery.cancel_scope.cancel()


async def hear_wal(client: Client) -> XLogData:
    """The next message, which must be WAL."""
    message = await client.hear_sender()
    assert isinstance(message, XLogData)
    return message


async def hear_until(client: Client, end: Lsn) -> list[XLogData]:
    """Messages of WAL up to ``end``, each of which continues the one before; keepalives are not expected."""
    heard = [await hear_wal(client)]
    while (next_lsn := heard[-1].wal_start + len(heard[-1].wal)) < end:
        heard.append(await hear_wal(client))
        assert heard[-1].wal_start == next_lsn
    assert next_lsn == end
    return heard


def joined(messages: list[XLogData]) -> bytes:
    return b"".join(message.wal for message in messages)


async def hear_keepalive(client: Client) -> PrimaryKeepalive:
    message = await client.hear_sender()
    assert isinstance(message, PrimaryKeepalive)
    return message


async def end_of(client: Client) -> object:
    """Why the keeper ended the stream, after whatever it had sent."""
    try:
        while True:
            await client.next_message()
    except EOFError:
        assert client.said is not None
        return client.said.reason


async def last_words(client: Client) -> object:
    """Why the keeper ended the stream, before anything else was sent."""
    with pytest.raises(EOFError):
        await client.next_message()
    return await end_of(client)
