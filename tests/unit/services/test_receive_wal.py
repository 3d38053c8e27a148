"""A proposer's connection: what arrives is kept and answered in order, and the end travels the same way."""

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractContextManager, asynccontextmanager
from dataclasses import replace
from itertools import pairwise
from typing import TypeVar, TypeVarTuple

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from keeping import SEGMENT, SERVER, START, TTID, new_disk, timelines_on
from streaming import Client, Connection, copying_session
from walkeeper.acceptor.acceptor import Intent
from walkeeper.acceptor.effects import WriteWal
from walkeeper.errors import Malformed, OutOfTurn, WalGap
from walkeeper.formats.backend import ErrorResponse
from walkeeper.formats.frames import encode_frame
from walkeeper.formats.frontend import CopyDone, CopyFail, Query
from walkeeper.formats.proposer import encode_proposer_message, parse_acceptor_message
from walkeeper.lsn import INVALID_LSN, Lsn
from walkeeper.membership import NO_CONFIGURATION, NO_GENERATION
from walkeeper.messages import (
    APPEND_BYTES_MAX,
    AcceptorGreeting,
    AcceptorMessage,
    AppendRequest,
    AppendResponse,
    HotStandbyFeedback,
    PageserverFeedback,
    ProposerElected,
    ProposerGreeting,
    ProposerMessage,
    Slice,
    VoteRequest,
    VoteResponse,
)
from walkeeper.services.copy_in import SILENCE_SECONDS_MAX, CopyEnd, CopyReader
from walkeeper.services.goodbye import GOODBYE_SECONDS_MAX, Goodbye
from walkeeper.services.listener import Draining
from walkeeper.services.receive_wal import (
    INBOX_BYTES_MAX,
    OUTBOX_REPLIES_MAX,
    PinnedBytes,
    read_greeting,
    serve_proposer,
)
from walkeeper.terms import Term, TermHistory
from walkeeper.testing.offload import InlineOffload
from walkeeper.testing.wal import WalGenerator
from walkeeper.timeline.batch import BATCH_BYTES_MAX
from walkeeper.timeline.registry import Client as ServedClient
from walkeeper.timeline.registry import ReceiverStatus
from walkeeper.timeline.timeline import Timeline

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

VERSION = 3
GREETING = ProposerGreeting(TTID, NO_CONFIGURATION, SERVER)


class SlowDisk(InlineOffload):
    """Jobs take ``seconds``, half of it before and half after they happen; and WAL its time per byte."""

    def __init__(self) -> None:
        super().__init__(lambda: self._half)
        self.seconds = 0.0
        self.bytes_per_second = 0
        self._half = 0.0

    async def __call__(self, function: Callable[[*Ts], T], *args: *Ts) -> T:
        self._half = (self.seconds + self._transfer_seconds(function)) / 2
        return await super().__call__(function, *args)

    def _transfer_seconds(self, function: object) -> float:
        intent = getattr(function, "__self__", None)
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


@pytest.fixture
async def keeper(autojump_clock: MockClock) -> AsyncIterator[Keeper]:
    async with open_keeper() as keeper:
        yield keeper


# -- the conversation ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", [2, 3])
async def test_a_proposer_is_greeted_elected_and_its_wal_acknowledged(
    keeper: Keeper, autojump_clock: MockClock, version: int
) -> None:
    proposer = keeper.connect(version=version)
    await proposer.be_elected()
    append = proposer.next_append()
    await proposer.say(append)
    assert (await proposer.hear_append()).flush_lsn == append.end_lsn == keeper.flush_lsn


async def test_messages_that_come_with_the_greeting_are_not_lost(
    keeper: Keeper, autojump_clock: MockClock
) -> None:
    proposer = keeper.connect()
    append = proposer.next_append()
    await proposer.say(*proposer.campaign(), append)
    assert isinstance(await proposer.hear(), AcceptorGreeting)
    assert isinstance(await proposer.hear(), VoteResponse)
    assert (await proposer.hear_append()).flush_lsn == append.end_lsn


async def test_what_standbys_need_comes_with_the_answers(keeper: Keeper, autojump_clock: MockClock) -> None:
    proposer = keeper.connect()
    await proposer.be_elected()
    with keeper.timeline.registry.sending(ServedClient(9)) as sender:
        keeper.timeline.registry.record(sender, HotStandbyFeedback(1, 30, 40))
        await proposer.say(proposer.next_append())
        assert (await proposer.hear_append()).hot_standby == HotStandbyFeedback(1, 30, 40)


async def test_a_pageservers_feedback_comes_at_once_in_a_copy_of_the_last_answer(
    keeper: Keeper, autojump_clock: MockClock
) -> None:
    proposer = keeper.connect()
    await proposer.be_elected()
    feedback = PageserverFeedback(remote_consistent_lsn=START)
    with keeper.timeline.registry.sending(ServedClient(9)) as sender:
        keeper.timeline.registry.record(sender, PageserverFeedback())  # there is no answer to copy yet
        await proposer.say(proposer.next_append())
        answer = await proposer.hear_append()
        keeper.timeline.registry.record(sender, feedback)
        assert await proposer.hear_append() == replace(answer, pageserver=feedback)
        await proposer.say(proposer.heartbeat())
        assert (await proposer.hear_append()).pageserver is None


async def test_feedback_for_a_proposer_that_reads_nothing_is_dropped(
    keeper: Keeper, autojump_clock: MockClock
) -> None:
    proposer = keeper.connect(keeper_in_lockstep=True)
    await proposer.be_elected()
    await proposer.say(proposer.next_append())
    with keeper.timeline.registry.sending(ServedClient(9)) as sender:
        for number in range(10 * OUTBOX_REPLIES_MAX):
            keeper.timeline.registry.record(sender, PageserverFeedback(current_timeline_size=number))
    await proposer.say(proposer.next_append())
    assert [reply.flush_lsn for reply in await proposer.hear_flushed(proposer.wal.lsn)][-1] == keeper.flush_lsn


async def test_a_heartbeat_is_answered(keeper: Keeper, autojump_clock: MockClock) -> None:
    proposer = keeper.connect()
    await proposer.be_elected()
    await proposer.say(proposer.heartbeat())
    assert (await proposer.hear_append()).flush_lsn == START


async def test_what_waits_for_a_slow_disk_is_kept_and_answered_as_one(
    keeper: Keeper, autojump_clock: MockClock
) -> None:
    proposer = keeper.connect()
    await proposer.be_elected()
    keeper.disk.seconds = 2.0
    await proposer.say(proposer.next_append())
    await wait_all_tasks_blocked()
    for _ in range(5):
        await proposer.say(proposer.next_append())
        await wait_all_tasks_blocked()
    replies = await proposer.hear_flushed(proposer.wal.lsn)
    assert len(replies) == 2


async def test_a_receiver_is_registered_while_it_is_connected_and_says_how_far_it_got(
    keeper: Keeper, autojump_clock: MockClock
) -> None:
    proposer = keeper.connect()
    greeting, *rest = proposer.campaign()
    await proposer.say(greeting)
    await proposer.hear()
    assert [receiver.status for receiver in keeper.timeline.registry.receivers()] == [ReceiverStatus.VOTING]
    await proposer.say(*rest)
    await proposer.hear()
    await wait_all_tasks_blocked()
    assert [receiver.status for receiver in keeper.timeline.registry.receivers()] == [ReceiverStatus.STREAMING]
    await proposer.client.stream.send_stream.aclose()
    await proposer.has_ended.wait()
    assert keeper.timeline.registry.receivers() == ()


async def test_several_proposers_are_served_at_once_and_the_newest_term_wins(
    keeper: Keeper, autojump_clock: MockClock
) -> None:
    old, new = keeper.connect(), keeper.connect(term=2)
    await old.be_elected()
    await old.say(old.next_append())
    await old.hear_append()
    await new.say(GREETING, VoteRequest(NO_GENERATION, Term(2)))
    assert isinstance(await new.hear(), AcceptorGreeting)
    vote = await new.hear()
    assert isinstance(vote, VoteResponse)
    assert vote.vote_given
    await old.say(old.next_append())
    reply = await old.hear_append()
    assert (reply.term, reply.flush_lsn) == (2, INVALID_LSN)
    assert len(keeper.timeline.registry.receivers()) == 2


# -- the end -------------------------------------------------------------------------------------------------


async def test_what_a_proposer_said_before_its_end_is_kept_and_answered(
    keeper: Keeper, autojump_clock: MockClock
) -> None:
    proposer = keeper.connect()
    await proposer.be_elected()
    keeper.disk.seconds = 3.0
    await proposer.say(*(proposer.next_append() for _ in range(3)))
    await proposer.client.stream.send_stream.aclose()
    await proposer.hear_flushed(proposer.wal.lsn)
    with pytest.raises(EOFError):
        await proposer.client.next_message()
    assert proposer.said is None


async def test_what_a_proposer_said_is_kept_though_it_has_gone(keeper: Keeper, autojump_clock: MockClock) -> None:
    proposer = keeper.connect()
    await proposer.be_elected()
    keeper.disk.seconds = 3.0
    for _ in range(OUTBOX_REPLIES_MAX + 2):
        await proposer.say(proposer.next_append(), VoteRequest(NO_GENERATION, Term(1)))  # nothing to coalesce
    await proposer.client.stream.aclose()
    await proposer.has_ended.wait()
    assert keeper.flush_lsn == proposer.wal.lsn


@pytest.mark.parametrize(("last_word", "reason"), [(CopyDone(), "DONE"), (CopyFail("no"), "FAILED")])
async def test_a_proposer_that_ends_the_copy_hears_a_goodbye_after_its_replies(
    keeper: Keeper, autojump_clock: MockClock, last_word: CopyDone | CopyFail, reason: str
) -> None:
    proposer = keeper.connect()
    await proposer.be_elected()
    append = proposer.next_append()
    keeper.disk.seconds = 3.0
    await proposer.say(append)
    await proposer.client.send(last_word)
    assert (await proposer.hear_append()).flush_lsn == append.end_lsn
    assert await proposer.last_words() == reason


async def test_gibberish_ends_the_connection_after_all_that_was_right_before_it(
    keeper: Keeper, autojump_clock: MockClock
) -> None:
    proposer = keeper.connect()
    await proposer.be_elected()
    append = proposer.next_append()
    await proposer.say(append)
    await wait_all_tasks_blocked()
    await proposer.client.say(b"gibberish")
    await proposer.say(proposer.next_append())
    assert (await proposer.hear_append()).flush_lsn == append.end_lsn
    assert await proposer.last_words() == "Malformed"
    assert keeper.flush_lsn == append.end_lsn
    assert proposer.said is not None
    assert isinstance(proposer.said.reason, Malformed)


async def test_a_query_is_out_of_turn(keeper: Keeper, autojump_clock: MockClock) -> None:
    proposer = keeper.connect()
    await proposer.be_elected()
    await proposer.client.send(Query("IDENTIFY_SYSTEM"))
    assert await proposer.last_words() == "OutOfTurn"


async def test_a_refusal_ends_the_connection_and_what_follows_it_is_dropped(
    keeper: Keeper, autojump_clock: MockClock
) -> None:
    proposer = keeper.connect()
    await proposer.be_elected()
    first, skipped, third = (proposer.next_append() for _ in range(3))
    await proposer.say(first)
    await wait_all_tasks_blocked()
    before = trio.current_time()
    await proposer.say(third, VoteRequest(NO_GENERATION, Term(7)), skipped)
    assert (await proposer.hear_append()).flush_lsn == first.end_lsn
    assert await proposer.last_words() == "WalGap"
    assert trio.current_time() == before
    assert proposer.said is not None
    assert isinstance(proposer.said.reason, WalGap)
    assert keeper.flush_lsn == first.end_lsn
    assert keeper.timeline.progress.position.term == 1


async def test_a_proposer_that_does_not_listen_to_the_goodbye_is_not_waited_for(
    keeper: Keeper, autojump_clock: MockClock
) -> None:
    proposer = keeper.connect(keeper_in_lockstep=True)
    await proposer.be_elected()
    skipped, sent = proposer.next_append(), proposer.next_append()
    assert skipped.end_lsn == sent.begin_lsn
    before = trio.current_time()
    await proposer.say(sent)
    await proposer.has_ended.wait()
    assert trio.current_time() - before == pytest.approx(GOODBYE_SECONDS_MAX)


async def test_gibberish_after_a_refusal_is_of_no_interest(keeper: Keeper, autojump_clock: MockClock) -> None:
    proposer = keeper.connect(keeper_in_lockstep=True)
    await proposer.be_elected()
    skipped, sent = proposer.next_append(), proposer.next_append()
    assert skipped.end_lsn == sent.begin_lsn
    await proposer.say(sent)
    await wait_all_tasks_blocked()  # the goodbye waits for somebody who listens
    await proposer.client.say(b"gibberish")
    await wait_all_tasks_blocked()
    assert await proposer.last_words() == "WalGap"


async def test_a_silent_proposer_is_given_up_in_the_end(keeper: Keeper, autojump_clock: MockClock) -> None:
    proposer = keeper.connect()
    await proposer.be_elected()
    before = trio.current_time()
    await proposer.has_ended.wait()
    assert trio.current_time() - before == pytest.approx(SILENCE_SECONDS_MAX)


async def test_a_timeline_that_closes_sends_its_proposers_away(keeper: Keeper, autojump_clock: MockClock) -> None:
    proposer = keeper.connect()
    await proposer.be_elected()
    await keeper.timeline.close()
    await proposer.has_ended.wait()
    assert proposer.said is None


async def test_a_keeper_that_stops_keeps_and_answers_what_it_has_read_and_reads_no_more(
    keeper: Keeper, autojump_clock: MockClock
) -> None:
    proposer = keeper.connect()
    await proposer.be_elected()
    keeper.disk.seconds = 3.0
    append = proposer.next_append()
    await proposer.say(append)
    await wait_all_tasks_blocked()
    keeper.draining.begin()
    await wait_all_tasks_blocked()
    await proposer.say(proposer.next_append())
    assert (await proposer.hear_append()).flush_lsn == append.end_lsn
    await proposer.has_ended.wait()
    assert keeper.flush_lsn == append.end_lsn


async def test_an_operation_that_has_begun_is_finished_when_the_connection_is_cancelled(
    keeper: Keeper, autojump_clock: MockClock
) -> None:
    proposer = keeper.connect()
    await proposer.be_elected()
    keeper.disk.seconds = 3.0
    append = proposer.next_append()
    await proposer.say(append)
    await wait_all_tasks_blocked()
    for receiver in keeper.timeline.registry.receivers():
        receiver.scope.cancel()
    await proposer.has_ended.wait()
    assert keeper.flush_lsn == append.end_lsn
    assert not keeper.timeline.is_blown


# -- the first message ---------------------------------------------------------------------------------------


async def test_a_connection_begins_with_a_greeting() -> None:
    connection = Connection.new()
    proposer = Proposer(connection.client)
    await proposer.say(VoteRequest(NO_GENERATION, Term(1)))
    with pytest.raises(OutOfTurn):
        await read_greeting(CopyReader(connection.link, copying_session()), VERSION)


async def test_gibberish_is_no_greeting() -> None:
    connection = Connection.new()
    await connection.client.say(b"gibberish")
    with pytest.raises(Malformed):
        await read_greeting(CopyReader(connection.link, copying_session()), VERSION)


async def test_a_client_may_leave_before_it_greets() -> None:
    connection = Connection.new()
    await connection.client.send(CopyDone())
    assert await read_greeting(CopyReader(connection.link, copying_session()), VERSION) is CopyEnd.DONE


async def test_the_greeting_comes_back_with_what_came_along() -> None:
    connection = Connection.new()
    proposer = Proposer(connection.client)
    vote = VoteRequest(NO_GENERATION, Term(1))
    await proposer.say(GREETING, vote)
    greeting = await read_greeting(CopyReader(connection.link, copying_session()), VERSION)
    assert not isinstance(greeting, CopyEnd)
    first, early = greeting
    assert first == GREETING
    assert [bytes(payload) for payload in early] == [encode_proposer_message(vote, VERSION)]


# -- limits --------------------------------------------------------------------------------------------------


async def test_a_slow_disk_stops_the_reader_within_the_budget(keeper: Keeper, autojump_clock: MockClock) -> None:
    proposer = keeper.connect(client_in_lockstep=True)
    await proposer.be_elected()
    keeper.disk.seconds = 1000.0
    sent = 0

    async def push() -> None:
        nonlocal sent
        for append in proposer.flood(INBOX_BYTES_MAX + 2 * BATCH_BYTES_MAX):
            await proposer.say(append)
            sent += append.end_lsn - append.begin_lsn

    async with trio.open_nursery() as nursery:
        nursery.start_soon(push)
        await wait_all_tasks_blocked()
        assert INBOX_BYTES_MAX / 2 < sent <= INBOX_BYTES_MAX + BATCH_BYTES_MAX
        keeper.disk.seconds = 0.0
        await proposer.hear_flushed(proposer.wal.lsn)
    assert keeper.flush_lsn == proposer.wal.lsn


async def test_a_flood_on_a_slow_disk_is_acknowledged_at_least_every_second(
    keeper: Keeper, autojump_clock: MockClock
) -> None:
    proposer = keeper.connect(client_in_lockstep=True)
    await proposer.be_elected()
    keeper.disk.bytes_per_second = 10_000_000

    async def push() -> None:
        for append in proposer.flood(40_000_000):
            await proposer.say(append)

    heard: list[float] = []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(push)
        await wait_all_tasks_blocked()
        while not heard or keeper.flush_lsn < proposer.wal.lsn:
            await proposer.hear_append()
            heard.append(trio.current_time())
    assert heard[-1] - heard[0] > 3
    assert max(later - earlier for earlier, later in pairwise(heard)) < 1


async def test_a_proposer_that_reads_no_replies_is_read_no_further(
    keeper: Keeper, autojump_clock: MockClock
) -> None:
    proposer = keeper.connect(keeper_in_lockstep=True, client_in_lockstep=True)
    await proposer.be_elected()
    sent = 0

    async def push() -> None:
        nonlocal sent
        for _ in range(2000):
            await proposer.say(VoteRequest(NO_GENERATION, Term(1)))
            sent += 1

    async with trio.open_nursery() as nursery:
        nursery.start_soon(push)
        await wait_all_tasks_blocked()
        assert OUTBOX_REPLIES_MAX < sent < 400
        nursery.cancel_scope.cancel()


async def test_a_proposer_that_reads_its_replies_late_gets_them(keeper: Keeper, autojump_clock: MockClock) -> None:
    proposer = keeper.connect(keeper_in_lockstep=True)
    await proposer.be_elected()
    append = proposer.next_append()
    await proposer.say(append)
    await trio.sleep(SILENCE_SECONDS_MAX / 2)
    assert (await proposer.hear_append()).flush_lsn == append.end_lsn
    await proposer.say(proposer.heartbeat())
    assert (await proposer.hear_append()).flush_lsn == append.end_lsn


async def test_a_proposer_that_never_reads_its_replies_is_dropped_in_the_end(
    keeper: Keeper, autojump_clock: MockClock
) -> None:
    proposer = keeper.connect(keeper_in_lockstep=True)
    await proposer.be_elected()
    append = proposer.next_append()
    await proposer.say(append)

    async def talk() -> None:
        while True:
            await proposer.say(proposer.heartbeat())
            await trio.sleep(SILENCE_SECONDS_MAX / 10)

    with trio.fail_after(2 * SILENCE_SECONDS_MAX), pytest.raises(trio.BrokenResourceError):
        await talk()
    await proposer.has_ended.wait()
    assert keeper.flush_lsn == append.end_lsn


async def test_a_budget_lets_in_what_fits_and_makes_the_rest_wait(autojump_clock: MockClock) -> None:
    pinned = PinnedBytes(100)
    await pinned.take(60)
    await pinned.take(40)
    with trio.move_on_after(1) as waiting:
        await pinned.take(1)
    assert waiting.cancelled_caught
    pinned.give_back(40)
    await pinned.take(40)


async def test_a_budget_wakes_who_waits(autojump_clock: MockClock) -> None:
    pinned = PinnedBytes(100)
    await pinned.take(90)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(pinned.take, 70)
        await wait_all_tasks_blocked()
        pinned.give_back(30)  # not enough yet
        await wait_all_tasks_blocked()
        assert nursery.child_tasks
        pinned.give_back(30)


async def test_a_buffer_larger_than_the_budget_is_let_in_alone(autojump_clock: MockClock) -> None:
    pinned = PinnedBytes(100)
    await pinned.take(1000)
    with trio.move_on_after(1) as waiting:
        await pinned.take(1)
    assert waiting.cancelled_caught
    pinned.give_back(1000)
    await pinned.take(1)
