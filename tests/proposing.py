"""A keeper with one timeline in memory, and proposers that connect to it; its disk is as slow as a test says."""

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractContextManager, asynccontextmanager
from functools import partial
from typing import TypeVar, TypeVarTuple

import trio

from keeping import SEGMENT, SERVER, START, TTID, new_disk, timelines_on
from streaming import Client, Connection, copying_session
from walkeeper.acceptor.acceptor import Intent
from walkeeper.acceptor.effects import WriteWal
from walkeeper.control.metrics import Metrics
from walkeeper.formats.backend import ErrorResponse
from walkeeper.formats.frames import encode_frame
from walkeeper.formats.proposer import encode_proposer_message, parse_acceptor_message
from walkeeper.lsn import INVALID_LSN, Lsn
from walkeeper.membership import NO_CONFIGURATION, NO_GENERATION
from walkeeper.messages import (
    APPEND_BYTES_MAX,
    AcceptorGreeting,
    AcceptorMessage,
    AppendRequest,
    AppendResponse,
    ProposerElected,
    ProposerGreeting,
    ProposerMessage,
    Slice,
    VoteRequest,
    VoteResponse,
)
from walkeeper.services.budget import Budget
from walkeeper.services.copy_in import CopyEnd, CopyReader
from walkeeper.services.goodbye import Goodbye
from walkeeper.services.listener import Draining
from walkeeper.services.receive_wal import (
    read_greeting,
    serve_proposer,
)
from walkeeper.terms import Term, TermHistory
from walkeeper.testing.offload import InlineOffload
from walkeeper.testing.wal import WalGenerator
from walkeeper.timeline.registry import Client as ServedClient
from walkeeper.timeline.timeline import Timeline

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

VERSION = 3
GREETING = ProposerGreeting(TTID, NO_CONFIGURATION, SERVER)


class SlowDisk(InlineOffload):
    """Jobs take ``seconds``, half of it before and half after they happen; and WAL its time per byte.

    ``is_in_turn``: they happen without a turn of the scheduler, as brief ones may.
    """

    def __init__(self) -> None:
        super().__init__(lambda: self._half)
        self.seconds = 0.0
        self.bytes_per_second = 0
        self.is_in_turn = False
        self._half = 0.0

    async def __call__(self, function: Callable[[*Ts], T], *args: *Ts) -> T:
        if self.is_in_turn:
            return function(*args)
        self._half = (self.seconds + self._transfer_seconds(function)) / 2
        return await super().__call__(function, *args)

    def _transfer_seconds(self, function: object) -> float:
        intent = function.args[0] if isinstance(function, partial) else getattr(function, "__self__", None)
        if not self.bytes_per_second or not isinstance(intent, Intent):
            return 0.0
        writes = [effect for effect in intent.effects if isinstance(effect, WriteWal)]
        return sum(write.end_lsn - write.begin_lsn for write in writes) / self.bytes_per_second


class Proposer:
    """A proposer of term 1, or the one named, and its connection."""

    def __init__(self, client: Client, term: int = 1, *, version: int = VERSION) -> None:
        self.client = client
        self.term = Term(term)
        self.version = version
        self.wal = WalGenerator(START, pg_major=15, wal_seg_size=SEGMENT)
        self.said: Goodbye | None = None
        self.has_ended = trio.Event()

    def encode(self, *messages: ProposerMessage) -> bytes:
        frames = (encode_frame(b"d", encode_proposer_message(message, self.version)) for message in messages)
        return b"".join(frames)

    async def say(self, *messages: ProposerMessage) -> None:
        await self.client.stream.send_all(self.encode(*messages))

    async def hear(self) -> AcceptorMessage:
        return parse_acceptor_message(await self.client.hear(), self.version)

    async def hear_append(self) -> AppendResponse:
        reply = await self.hear()
        assert isinstance(reply, AppendResponse)
        return reply

    async def hear_flushed(self, lsn: Lsn) -> list[AppendResponse]:
        """Replies up to the one that says that WAL up to ``lsn`` is durable."""
        replies = [await self.hear_append()]
        while replies[-1].flush_lsn < lsn:
            replies.append(await self.hear_append())
        return replies

    def campaign(self) -> list[ProposerMessage]:
        """What comes before WAL."""
        history = TermHistory.of((self.term, START))
        return [
            GREETING,
            VoteRequest(NO_GENERATION, self.term),
            ProposerElected(NO_GENERATION, self.term, START, history),
        ]

    async def be_elected(self) -> None:
        await self.say(*self.campaign())
        assert isinstance(await self.hear(), AcceptorGreeting)
        vote = await self.hear()
        assert isinstance(vote, VoteResponse)
        assert vote.vote_given

    def next_append(self, size: int = 500) -> AppendRequest:
        begin = self.wal.lsn
        self.wal.record(b"w" * size)
        return self.append(begin, self.wal.lsn)

    def append(self, begin: Lsn, end: Lsn) -> AppendRequest:
        return self._append(begin, self.wal.wal[begin - START : end - START])

    def heartbeat(self) -> AppendRequest:
        return self._append(self.wal.lsn, b"")

    def flood(self, size: int) -> list[AppendRequest]:
        """``size`` bytes of WAL and a little, in the largest messages there are."""
        begin = self.wal.lsn
        self.wal.record(bytes(size))
        wal = memoryview(self.wal.wal)[begin - START :]
        return [
            self._append(Lsn(begin + at), wal[at : at + APPEND_BYTES_MAX])
            for at in range(0, len(wal), APPEND_BYTES_MAX)
        ]

    def _append(self, begin: Lsn, wal: Slice) -> AppendRequest:
        end = Lsn(begin + len(wal))
        return AppendRequest(NO_GENERATION, self.term, begin, end, INVALID_LSN, INVALID_LSN, wal)

    async def last_words(self) -> object:
        """What ended the connection on the keeper's side, after everything else that it said."""
        try:
            while True:
                last = await self.client.next_message()
        except EOFError:
            return last.message if isinstance(last, ErrorResponse) else last


class Keeper:
    """A timeline, and the connections to it."""

    def __init__(self, timeline: Timeline, disk: SlowDisk, nursery: trio.Nursery) -> None:
        self.timeline = timeline
        self.disk = disk
        self.draining = Draining()
        self.instruments = Metrics("0")
        self._nursery = nursery
        self._connections = 0

    def connect(
        self,
        term: int = 1,
        *,
        version: int = VERSION,
        keeper_in_lockstep: bool = False,
        client_in_lockstep: bool = False,
    ) -> Proposer:
        connection = Connection.new(keeper_in_lockstep=keeper_in_lockstep, client_in_lockstep=client_in_lockstep)
        proposer = Proposer(connection.client, term, version=version)
        self._connections += 1
        self._nursery.start_soon(self._serve, connection, proposer, self._connections)
        return proposer

    async def _serve(self, connection: Connection, proposer: Proposer, number: int) -> None:
        source = CopyReader(connection.link, copying_session())
        greeting = await read_greeting(source, proposer.version)
        assert not isinstance(greeting, CopyEnd)
        first, early = greeting
        proposer.said = await serve_proposer(
            connection.link,
            source,
            self.timeline,
            client=ServedClient(number),
            version=proposer.version,
            first=first,
            early=early,
            encode_goodbye=encode_goodbye,
            while_serving=self.while_serving,
            instruments=self.instruments,
            budget=Budget(),
        )
        proposer.has_ended.set()
        await connection.link.aclose()

    def while_serving(self) -> AbstractContextManager[trio.CancelScope]:
        return self.draining.while_serving()

    @property
    def flush_lsn(self) -> Lsn:
        return self.timeline.progress.position.flush_lsn


def encode_goodbye(goodbye: Goodbye) -> bytes:
    """Last words that name their reason."""
    name = goodbye.reason.name if isinstance(goodbye.reason, CopyEnd) else type(goodbye.reason).__name__
    return ErrorResponse(name, "00000").encode()


@asynccontextmanager
async def open_keeper() -> AsyncIterator[Keeper]:
    disk = SlowDisk()
    async with timelines_on(new_disk(), disk) as timelines, trio.open_nursery() as nursery:
        yield Keeper(await timelines.create(TTID, SERVER), disk, nursery)
        disk.seconds = disk.bytes_per_second = 0
        nursery.cancel_scope.cancel()
