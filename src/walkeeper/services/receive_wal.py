"""A proposer's connection: one nursery, three tasks, two memory channels.

::

    read_messages --to_acceptor--> accept_messages --to_writer--> write_replies

Each task owns and closes its own ends, so the end of the stream travels the way the data does: the peer ends, the
reader closes the inbox, the acceptor keeps what has arrived and closes the outbox, the writer sends the last
reply, and the nursery is empty.  Errors travel the same way, as a ``Goodbye`` behind everything that was right.
A reply that nothing has to go before skips the channel: it goes to the kernel in the turn in which it was decided.

A slow disk fills the inbox, the reader stops, and the TCP window closes.  Those two channels are the only places
where data rests.  A peer that has gone does not stop what it had sent from being kept.

Does not decide and does not know files.  Source: the START_WAL_PUSH side of Neon's walproposer protocol.
"""

from collections import deque
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, suppress
from dataclasses import replace
from enum import Enum, auto
from types import TracebackType
from typing import Final

import trio

from walkeeper.errors import OutOfTurn, PeerError, WalkeeperError
from walkeeper.formats.frames import encode_frame
from walkeeper.formats.proposer import coalesce, encode_acceptor_message, parse_proposer_message
from walkeeper.links.link import Link
from walkeeper.links.throttle import throttled_logger
from walkeeper.messages import (
    AcceptorMessage,
    AppendResponse,
    AppendRun,
    Batch,
    PageserverFeedback,
    ProposerElected,
    ProposerGreeting,
)
from walkeeper.services.budget import Budget
from walkeeper.services.copy_in import SILENCE_SECONDS_MAX, CopyEnd, CopyReader
from walkeeper.services.goodbye import GOODBYE_SECONDS_MAX, Goodbye
from walkeeper.services.instruments import Instruments
from walkeeper.timeline.account import Account
from walkeeper.timeline.batch import Gatherer, Received
from walkeeper.timeline.registry import Client, Receiver, ReceiverStatus, Waiting
from walkeeper.timeline.timeline import Timeline

INBOX_MESSAGES_MAX: Final = 256
"""Runs and messages that wait for the disk, as in Neon."""

INBOX_BYTES_MAX: Final = 16 * 1024 * 1024
"""Receive buffers pinned by what waits for the disk and by what is being written: some batches' worth."""

OUTBOX_REPLIES_MAX: Final = 16
"""Replies that wait for the network; behind them the acceptor waits, outside any lock."""

log = throttled_logger()


class PinnedBytes:
    """One connection's receive buffers, out of what all have: the reader takes, the acceptor gives back."""

    def __init__(self, bytes_max: int, budget: Budget) -> None:
        self._bytes_max = bytes_max
        self._budget = budget
        self.taken_bytes = 0
        self._freed = trio.Event()

    def __enter__(self) -> None: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        """What a connection that ends still had is not lost to the others."""
        self.give_back(self.taken_bytes)

    async def take(self, count: int) -> None:
        """Wait until ``count`` fits; one buffer always does.

        Cancellation: while it waits, nothing is taken.
        """
        while not self._fits(count):
            self._freed = trio.Event()
            await self._freed.wait()
        if not self._budget.try_take(count):
            await self._budget.take(count)
        self.taken_bytes += count

    def try_take(self, count: int) -> bool:
        """Take ``count`` if it fits; says whether it did."""
        if not self._fits(count) or not self._budget.try_take(count):
            return False
        self.taken_bytes += count
        return True

    def _fits(self, count: int) -> bool:
        return not self.taken_bytes or self.taken_bytes + count <= self._bytes_max

    def give_back(self, count: int) -> None:
        self.taken_bytes -= count
        self._freed.set()
        self._budget.give_back(count)


Inbox = Received[Batch | Goodbye]


class Unsent(Enum):
    """In the place of a reply: the link has it, but not the kernel."""

    REPLY = auto()


Reply = AcceptorMessage | Goodbye
Outbox = Reply | Unsent | PageserverFeedback


async def read_greeting(source: CopyReader, version: int) -> tuple[ProposerGreeting, list[memoryview]] | CopyEnd:
    """The first message, which must be a greeting, and the payloads that came with it.

    Raises PeerError for anything else.

    Cancellation: at any time; the connection is of no use afterwards.
    """
    payloads: list[memoryview] | CopyEnd = CopyEnd.GONE
    with source.listening():
        payloads = await source.next_payloads()
    if isinstance(payloads, CopyEnd):
        return payloads
    first = parse_proposer_message(payloads[0], version)
    if not isinstance(first, ProposerGreeting):
        raise OutOfTurn(f"unexpected message {type(first).__name__} instead of greeting")
    return first, payloads[1:]


async def serve_proposer(
    link: Link,
    source: CopyReader,
    timeline: Timeline,
    *,
    client: Client,
    version: int,
    first: ProposerGreeting,
    early: list[memoryview],
    encode_goodbye: Callable[[Goodbye], bytes],
    while_serving: Callable[[], AbstractContextManager[trio.CancelScope]],
    instruments: Instruments,
    budget: Budget,
) -> Goodbye | None:
    """Serve a proposer until it leaves or is sent away; returns the goodbye that was said, None if it just went.

    ``early`` are payloads that arrived together with the greeting.  Reading ends when ``while_serving`` says so, and
    what has been queued is still kept and answered.

    Cancellation: an operation that has begun is finished, the rest is dropped unanswered.
    """
    to_acceptor, inbox = trio.open_memory_channel[Inbox](INBOX_MESSAGES_MAX)
    to_writer, outbox = trio.open_memory_channel[Outbox](OUTBOX_REPLIES_MAX)
    pinned = PinnedBytes(INBOX_BYTES_MAX, budget)
    writer = ReplyWriter(link, version, encode_goodbye, instruments.acknowledged)

    def tell(feedback: PageserverFeedback) -> None:
        with suppress(trio.WouldBlock, trio.ClosedResourceError, trio.BrokenResourceError):
            to_writer.send_nowait(feedback)  # a proposer that is busy hears the next one

    def waiting() -> Waiting:
        return Waiting(inbox.statistics().current_buffer_used, pinned.taken_bytes, writer.queued)

    with timeline.registry.receiving(client, tell, waiting) as receiver, pinned:
        acceptance = Acceptance(timeline, receiver, instruments)
        to_acceptor.send_nowait(Received(first, 0))
        async with trio.open_nursery() as nursery:
            inflow = Inflow(source, to_acceptor, pinned, timeline.account)
            nursery.start_soon(read_messages, inflow, early, version, while_serving)
            nursery.start_soon(accept_messages, acceptance, inbox, writer, to_writer, pinned)
            await writer.write_replies(outbox)
            if writer.said is not None:
                nursery.cancel_scope.cancel(reason="the proposer was sent away")
    return writer.said


class Inflow:
    """The way of messages from the client to the inbox."""

    def __init__(
        self,
        source: CopyReader,
        to_acceptor: "trio.MemorySendChannel[Inbox]",
        pinned: PinnedBytes,
        account: Account,
    ) -> None:
        self.source = source
        self.to_acceptor = to_acceptor
        self._pinned = pinned
        self._account = account

    async def pass_on(self, messages: Iterable[Batch]) -> None:
        """Queue messages as they are parsed; the first carries the weight of all that was received since the last ones.

        Messages are kept in order, so that of a buffer whose first message is kept and whose weight is given back there
        is one at a time.  Appends join before they get here; whatever else there is of takes its own turn of the
        scheduler.
        """
        arrived_at = trio.current_time()
        for message in messages:
            weight = self.source.take_received_bytes()
            if weight and not self._pinned.try_take(weight):
                self.source.stop_listening()
                await self._pinned.take(weight)
            item: Inbox = Received(message, weight)
            if isinstance(message, AppendRun) and message.slices:
                self._account.received_bytes += message.wal_bytes
                item = Received(message, weight, arrived_at)
            try:  # try, then wait: a channel with room costs no turn of the scheduler
                self.to_acceptor.send_nowait(item)
            except trio.WouldBlock:
                self.source.stop_listening()
                await self.to_acceptor.send(item)
            if not isinstance(message, AppendRun):
                await trio.lowlevel.checkpoint()


async def read_messages(
    inflow: Inflow,
    early: list[memoryview],
    version: int,
    while_serving: Callable[[], AbstractContextManager[trio.CancelScope]],
) -> None:
    """Turn what arrives into messages and runs, until the peer ends or speaks wrongly, or the keeper stops."""
    async with inflow.to_acceptor:
        with suppress(trio.BrokenResourceError), while_serving():  # broken: the acceptor has said no and left
            end: CopyEnd | PeerError = CopyEnd.GONE
            with inflow.source.listening():
                end = await _read_to_the_end(inflow, early, version)
            if end is not CopyEnd.GONE:
                await inflow.to_acceptor.send(Received(Goodbye(end), 0))


async def _read_to_the_end(inflow: Inflow, early: list[memoryview], version: int) -> CopyEnd | PeerError:
    payloads: list[memoryview] | CopyEnd = early
    try:
        while not isinstance(payloads, CopyEnd):
            await inflow.pass_on(coalesce(payloads, version))
            payloads = await inflow.source.next_payloads()
    except PeerError as error:
        return error
    return payloads


async def accept_messages(
    acceptance: "Acceptance",
    inbox: "trio.MemoryReceiveChannel[Inbox]",
    writer: "ReplyWriter",
    to_writer: "trio.MemorySendChannel[Outbox]",
    pinned: PinnedBytes,
) -> None:
    """Keep batch after batch; whatever cannot be kept ends the conversation."""
    async with inbox, to_writer:
        gatherer = Gatherer(inbox)
        while (received := await gatherer.next_batch()) is not None:
            reply = await acceptance.answer(received.message)
            pinned.give_back(received.pinned_bytes)
            if reply is not None and (unsaid := writer.say_now(reply, received.arrived_at)) is not None:
                await _pass_back(unsaid, to_writer)
            if isinstance(reply, Goodbye):
                return


async def _pass_back(reply: Outbox, to_writer: "trio.MemorySendChannel[Outbox]") -> None:
    try:
        to_writer.send_nowait(reply)
    except trio.WouldBlock:
        await to_writer.send(reply)


class Acceptance:
    """How a timeline answers one proposer."""

    def __init__(self, timeline: Timeline, receiver: Receiver, instruments: Instruments) -> None:
        self._timeline = timeline
        self._receiver = receiver
        self._instruments = instruments

    async def answer(self, message: Batch | Goodbye) -> Reply | None:
        """Have ``message`` kept; a refusal becomes a goodbye.  Cancellation: as ``Timeline.process``."""
        if isinstance(message, Goodbye):
            return message
        try:
            if isinstance(message, ProposerElected):
                reply = await self._follow(message)
            else:
                reply = await self._timeline.process(message)
        except WalkeeperError as error:
            self._instruments.message_processed(is_accepted=False)
            self._timeline.account.refuse(error)
            return Goodbye(error)
        self._instruments.message_processed(is_accepted=True)
        if isinstance(message, AppendRun) and message.slices:
            self._instruments.appends_kept(len(message.slices))
        return self._timeline.registry.annotate(reply) if isinstance(reply, AppendResponse) else reply

    async def _follow(self, elected: ProposerElected) -> AcceptorMessage | None:
        self._receiver.status = ReceiverStatus.STREAMING
        began = trio.current_time()
        reply = await self._timeline.process(elected)
        self._instruments.leader_followed(trio.current_time() - began)
        log.info("leader accepted", term=elected.term)
        return reply


class ReplyWriter:
    """Sends replies in the order in which they were decided (invariant 46).

    A pageserver's feedback travels in a copy of the last answer to WAL; before there was one it is dropped, as in Neon.
    """

    def __init__(
        self,
        link: Link,
        version: int,
        encode_goodbye: Callable[[Goodbye], bytes],
        acknowledged: Callable[[float], None],
    ) -> None:
        self._acknowledged = acknowledged
        self._link = link
        self._version = version
        self._encode_goodbye = encode_goodbye
        self.said: Goodbye | None = None
        self._answered: AppendResponse | None = None
        # What the acceptor has put into the outbox, until it is with the kernel: when that arrived which it answers.
        self._queued: deque[float | None] = deque()

    @property
    def queued(self) -> int:
        """How many replies wait for a peer that does not read."""
        return len(self._queued)

    def say_now(self, reply: Reply, arrived_at: float | None = None) -> Reply | Unsent | None:
        """Hand ``reply`` to the kernel in the turn in which it was decided, unless something has to go before it.

        ``arrived_at``: when the WAL came that it acknowledges.

        Returns what the outbox has to hold then: ``reply`` itself, what is left to do of it, or nothing.
        """
        unsaid: Reply | Unsent = reply
        if not self._queued and not self._link.pending_bytes and not isinstance(reply, Goodbye):
            unsaid = Unsent.REPLY
            with suppress(trio.BrokenResourceError):  # write_replies will see that too
                self._link.send_soon(self._encode(reply))
                if not self._link.pending_bytes:
                    self._measure(arrived_at)
                    return None
        self._queued.append(arrived_at)
        return unsaid

    async def write_replies(self, outbox: "trio.MemoryReceiveChannel[Outbox]") -> None:
        """Send until the outbox ends or a goodbye has been said.

        When the peer no longer takes anything the rest is dropped unsent, so that the acceptor never waits for it.

        Cancellation: at any time; the connection is of no use afterwards.
        """
        is_listening = True
        async with outbox:
            async for first in outbox:
                waiting = _with_all_that_waits(first, outbox)
                if is_listening:
                    is_listening = await self._send(waiting)
                for _ in range(sum(not isinstance(each, PageserverFeedback) for each in waiting)):
                    arrived_at = self._queued.popleft()
                    if is_listening:
                        self._measure(arrived_at)
                if isinstance(waiting[-1], Goodbye):
                    self.said = waiting[-1]
                    return

    async def _send(self, replies: list[Outbox]) -> bool:
        """Send; False when the peer does not take it."""
        data = b"".join(map(self._encode, replies))
        try:
            self._link.send_soon(data)
            if not self._link.pending_bytes:
                return True
            seconds = GOODBYE_SECONDS_MAX if isinstance(replies[-1], Goodbye) else SILENCE_SECONDS_MAX
            with trio.move_on_after(seconds):
                await self._link.wait_sent()
                return True
            await self._link.aclose()  # reading on would only gather what is never acknowledged
            return False
        except trio.BrokenResourceError:
            return False

    def _measure(self, arrived_at: float | None) -> None:
        if arrived_at is not None:
            self._acknowledged(trio.current_time() - arrived_at)

    def _encode(self, reply: Outbox) -> bytes:
        match reply:
            case Goodbye():
                return self._encode_goodbye(reply)
            case AppendResponse():
                self._answered = reply
            case PageserverFeedback():
                if self._answered is None:
                    return b""
                reply = replace(self._answered, pageserver=reply)
            case Unsent.REPLY:
                return b""
            case _:
                pass
        return encode_frame(b"d", encode_acceptor_message(reply, self._version))


def _with_all_that_waits(first: Outbox, outbox: "trio.MemoryReceiveChannel[Outbox]") -> list[Outbox]:
    """Up to a goodbye: nothing is said behind that."""
    waiting = [first]
    while not isinstance(waiting[-1], Goodbye):
        try:
            waiting.append(outbox.receive_nowait())
        except (trio.WouldBlock, trio.EndOfChannel):
            break
    return waiting
