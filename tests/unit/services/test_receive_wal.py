"""A proposer's connection: what arrives is kept and answered in order, and the end travels the same way."""

import socket
from collections.abc import AsyncIterator
from dataclasses import replace
from itertools import pairwise

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from keeping import START
from proposing import GREETING, VERSION, Keeper, open_keeper
from streaming import Connection, Turns, copying_session
from walkeeper.errors import Malformed, WalGap
from walkeeper.formats.backend import ErrorResponse
from walkeeper.formats.frames import PAYLOADS_MAX, encode_frame
from walkeeper.formats.frontend import CopyDone, CopyFail, Query
from walkeeper.formats.proposer import encode_acceptor_message, encode_proposer_message
from walkeeper.links.link import SocketLink
from walkeeper.lsn import INVALID_LSN, Lsn
from walkeeper.membership import NO_GENERATION
from walkeeper.messages import (
    AcceptorGreeting,
    AppendResponse,
    HotStandbyFeedback,
    PageserverFeedback,
    VoteRequest,
    VoteResponse,
)
from walkeeper.services.copy_in import SILENCE_SECONDS_MAX, SILENCE_SLACK, CopyEnd, CopyReader
from walkeeper.services.goodbye import GOODBYE_SECONDS_MAX, Goodbye
from walkeeper.services.receive_wal import (
    INBOX_BYTES_MAX,
    INBOX_MESSAGES_MAX,
    OUTBOX_REPLIES_MAX,
    Outbox,
    Reply,
    ReplyWriter,
    read_greeting,
)
from walkeeper.terms import Term
from walkeeper.timeline.batch import BATCH_BYTES_MAX
from walkeeper.timeline.registry import Client as ServedClient
from walkeeper.timeline.registry import ReceiverStatus

SLACK_SECONDS = SILENCE_SLACK * SILENCE_SECONDS_MAX


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
    """Hazard L4: whoever ends has left the registry."""
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


async def test_a_proposer_that_chatters_lets_others_run(keeper: Keeper, autojump_clock: MockClock) -> None:
    """Votes are read one by one; of appends, which join, hundreds."""
    proposer = keeper.connect()
    await proposer.be_elected()
    with Turns.counted() as turns:
        await proposer.say(*[VoteRequest(NO_GENERATION, Term(1))] * 2000)
        for _ in range(2000):
            await proposer.hear()
        assert turns.count >= 2000
        turns.count = 0
        await proposer.say(*[proposer.heartbeat()] * 10 * PAYLOADS_MAX, proposer.next_append())
        await proposer.hear_flushed(proposer.wal.lsn)
    assert turns.count >= 10


# -- the end -------------------------------------------------------------------------------------------------


async def test_what_a_proposer_said_before_its_end_is_kept_and_answered(
    keeper: Keeper, autojump_clock: MockClock
) -> None:
    """Hazard R3: what has arrived is kept and synced, and told."""
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
    """Hazard R3: also when nobody listens any more."""
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


async def test_half_a_message_is_no_message(keeper: Keeper, autojump_clock: MockClock) -> None:
    """Hazard R1: the connection is at its end, and what comes next comes on another one."""
    proposer = keeper.connect()
    await proposer.be_elected()
    append = proposer.next_append()
    await proposer.say(append)
    await proposer.client.stream.send_all(proposer.encode(proposer.next_append())[:-100])
    assert (await proposer.hear_append()).flush_lsn == append.end_lsn
    await proposer.client.stream.send_stream.aclose()
    await proposer.has_ended.wait()
    assert keeper.flush_lsn == append.end_lsn
    again = keeper.connect()
    await again.say(*proposer.campaign()[:2])
    assert isinstance(await again.hear(), AcceptorGreeting)
    assert isinstance(await again.hear(), VoteResponse)


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
    assert keeper.timeline.account.refused is not None, "whoever asks why commits wait is told"
    assert keeper.timeline.account.refused.why == str(proposer.said.reason)
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


async def test_a_client_that_never_greets_is_given_up_in_the_end(autojump_clock: MockClock) -> None:
    source = CopyReader(Connection.new().link, copying_session())
    before = trio.current_time()
    assert await read_greeting(source, VERSION) is CopyEnd.GONE
    assert trio.current_time() - before == pytest.approx(SILENCE_SECONDS_MAX)


@pytest.mark.parametrize("pause_seconds", [SLACK_SECONDS / 2, SILENCE_SECONDS_MAX - SLACK_SECONDS])
async def test_a_proposer_that_speaks_now_and_then_is_given_up_only_after_its_last_word(
    keeper: Keeper, autojump_clock: MockClock, pause_seconds: float
) -> None:
    proposer = keeper.connect()
    await proposer.be_elected()
    for _ in range(5):
        await trio.sleep(pause_seconds)
        await proposer.say(proposer.heartbeat())
        await proposer.hear_append()
    before = trio.current_time()
    await proposer.has_ended.wait()
    assert 0 <= SILENCE_SECONDS_MAX - (trio.current_time() - before) <= SLACK_SECONDS


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


async def test_jobs_that_take_no_turn_of_the_scheduler_do_not_put_off_a_cancellation(
    keeper: Keeper, autojump_clock: MockClock
) -> None:
    proposer = keeper.connect()
    await proposer.be_elected()
    keeper.disk.seconds = 3.0
    appends = [proposer.next_append() for _ in range(100)]
    await proposer.say(*[each for append in appends for each in (append, VoteRequest(NO_GENERATION, Term(1)))])
    await wait_all_tasks_blocked()
    keeper.disk.is_in_turn = True  # from the second one on
    await keeper.timeline.progress.wait_until(lambda position: position.flush_lsn >= appends[0].end_lsn)
    for receiver in keeper.timeline.registry.receivers():
        receiver.scope.cancel()
    await proposer.has_ended.wait()
    assert keeper.flush_lsn < appends[3].end_lsn


async def test_after_a_goodbye_nobody_is_listened_to() -> None:
    """Another task says it, and what the peer sent before it heard of that wakes the reader once more."""
    connection, session = Connection.new(), copying_session()
    source = CopyReader(connection.link, session)
    session.send(ErrorResponse("the disk is full", "53100"))
    await connection.client.say(encode_proposer_message(GREETING, VERSION))
    assert await source.next_payloads() is CopyEnd.GONE


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


async def test_a_queue_that_is_full_of_messages_is_not_the_proposers_silence(
    keeper: Keeper, autojump_clock: MockClock
) -> None:
    proposer = keeper.connect(client_in_lockstep=True)
    await proposer.be_elected()
    keeper.disk.seconds = 2 * SILENCE_SECONDS_MAX
    append = proposer.next_append()
    await proposer.say(append)
    for _ in range(2 * INBOX_MESSAGES_MAX):
        await proposer.say(VoteRequest(NO_GENERATION, Term(1)))
    assert (await proposer.hear_append()).flush_lsn == append.end_lsn
    votes = [await proposer.hear() for _ in range(2 * INBOX_MESSAGES_MAX)]
    assert all(isinstance(vote, VoteResponse) for vote in votes)
    assert proposer.said is None


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
    """Hazard R4: and nobody else waits for it."""
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
        with trio.fail_after(1):
            await keeper.connect(term=2).be_elected()
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
    """Hazard R4."""
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


# -- replies at once ------------------------------------------------------------------------------------------


class Conversation:
    """A writer on a real socket, and what its outbox would hold."""

    def __init__(self) -> None:
        ours, self.peer = socket.socketpair()
        self.peer.setblocking(False)
        self.link = SocketLink(ours)
        self.took_seconds: list[float] = []
        self.writer = ReplyWriter(self.link, VERSION, lambda _: b"goodbye", self.took_seconds.append)
        self.to_writer, self.outbox = trio.open_memory_channel[Outbox](100)
        self.next_lsn = Lsn(1)

    def next_reply(self) -> AppendResponse:
        self.next_lsn = Lsn(self.next_lsn + 1)
        return AppendResponse(NO_GENERATION, Term(1), self.next_lsn)

    def say(self, reply: Reply, arrived_at: float | None = None) -> Outbox | None:
        """What the acceptor does with a reply."""
        unsaid = self.writer.say_now(reply, arrived_at)
        if unsaid is not None:
            self.to_writer.send_nowait(unsaid)
        return unsaid

    def fill_the_kernel(self) -> list[AppendResponse]:
        """Say so much that not all of it is taken; returns all of it."""
        said = [self.next_reply()]
        while self.say(said[-1]) is None:
            said.append(self.next_reply())
        return said

    async def write_to_the_end(self) -> None:
        self.to_writer.close()
        await self.writer.write_replies(self.outbox)
        await self.link.aclose()

    async def finish(self) -> bytes:
        """Let the writer say everything, and hear it."""
        heard = b""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.write_to_the_end)
            while data := await self.hear():
                heard += data
        return heard

    async def hear(self) -> bytes:
        await trio.lowlevel.wait_readable(self.peer)
        return self.peer.recv(1 << 20)

    async def close(self) -> None:
        self.to_writer.close()
        self.outbox.close()
        self.peer.close()
        await self.link.aclose()


@pytest.fixture
async def conversation() -> AsyncIterator[Conversation]:
    conversation = Conversation()
    yield conversation
    await conversation.close()


def encoded(*replies: AppendResponse) -> bytes:
    return b"".join(encode_frame(b"d", encode_acceptor_message(reply, VERSION)) for reply in replies)


async def test_a_reply_is_with_the_kernel_in_the_turn_in_which_it_was_decided(conversation: Conversation) -> None:
    reply = conversation.next_reply()
    assert conversation.say(reply) is None
    assert conversation.peer.recv(1000) == encoded(reply)


async def test_replies_that_the_kernel_does_not_take_at_once_are_said_whole_once_and_in_order(
    conversation: Conversation,
) -> None:
    said = conversation.fill_the_kernel()
    for _ in range(3):
        said.append(conversation.next_reply())
        assert conversation.say(said[-1]) is said[-1]
    assert await conversation.finish() == encoded(*said)


async def test_a_reply_does_not_overtake_one_that_still_is_in_the_outbox(conversation: Conversation) -> None:
    """Invariant 46."""
    said = conversation.fill_the_kernel()
    said.append(conversation.next_reply())
    conversation.say(said[-1])
    heard = b""
    while conversation.link.pending_bytes:
        heard += conversation.peer.recv(1 << 20)
        await conversation.link.wait_sent()
    said.append(conversation.next_reply())
    assert conversation.say(said[-1]) is said[-1]
    assert heard + await conversation.finish() == encoded(*said)


async def test_replies_are_said_at_once_again_when_the_outbox_has_been_emptied(conversation: Conversation) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(conversation.writer.write_replies, conversation.outbox)
        said = conversation.fill_the_kernel()
        said.append(conversation.next_reply())
        conversation.say(said[-1])
        heard = b""
        while len(heard) < len(encoded(*said)):
            heard += await conversation.hear()
        await wait_all_tasks_blocked()
        assert heard == encoded(*said)
        assert conversation.say(conversation.next_reply()) is None
        nursery.cancel_scope.cancel()


async def test_a_goodbye_is_left_to_the_writer_which_ends_with_it(conversation: Conversation) -> None:
    goodbye = Goodbye(CopyEnd.DONE)
    assert conversation.say(goodbye) is goodbye
    assert await conversation.finish() == b"goodbye"
    assert conversation.writer.said is goodbye


async def test_a_peer_that_has_gone_is_found_by_the_writer(conversation: Conversation) -> None:
    conversation.peer.close()
    for _ in range(3):
        assert conversation.say(conversation.next_reply()) is not None
    conversation.to_writer.close()
    await conversation.writer.write_replies(conversation.outbox)
    assert conversation.writer.said is None


async def test_an_answer_that_waits_for_its_peer_is_measured_when_the_kernel_has_it(
    conversation: Conversation,
) -> None:
    conversation.fill_the_kernel()
    conversation.say(conversation.next_reply(), trio.current_time())
    assert (conversation.writer.queued, conversation.took_seconds) == (2, [])
    await conversation.finish()
    assert (conversation.writer.queued, len(conversation.took_seconds)) == (0, 1)


async def test_an_answer_that_nobody_takes_any_more_is_not_measured(conversation: Conversation) -> None:
    conversation.peer.close()
    conversation.say(conversation.next_reply(), trio.current_time())
    conversation.to_writer.close()
    await conversation.writer.write_replies(conversation.outbox)
    assert (conversation.writer.queued, conversation.took_seconds) == (0, [])
