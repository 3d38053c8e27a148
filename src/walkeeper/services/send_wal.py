"""A reader's connection: one nursery, a sender of WAL and a listener for what the client says.

The client is a standby, ``pg_receivewal``, a pageserver, another keeper, or the proposer of a term that lacks WAL
of before its time.  Whoever names no term gets committed WAL, which stays what it is.  Whoever names one gets all
that is flushed, for as long as that is the WAL of that term's leader: what was read is sent only if, at the moment
it is handed over, the keeper still has that term and nothing was withdrawn since before the read.

Rules:
* The timeline's lock is never taken: a client that reads slowly holds up nobody.
* One stretch of WAL is all the memory that a client costs.
* WAL that the page cache has is read without a thread.
* Silence is the client's fault only if it was asked, idle or not: clients need not speak unless they are.
* A message is sent whole, or nothing follows it: last words in the middle of one would be read as WAL.

What clients report goes to the timeline's registry.  A pageserver that has everything is sent away when nobody writes.

Does not say the last words: ``services.connection`` does.
Source: PostgreSQL ``replication/walsender.c``; what is sent when is as in Neon's ``send_wal.rs``.
"""

import math
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final, Protocol

import trio

from walkeeper.acceptor.state import AcceptorState
from walkeeper.errors import Closing, PeerError, TermChanged, WalkeeperError, WalNotAvailable
from walkeeper.formats.commands import StartReplication
from walkeeper.formats.frames import encode_copy_data_head, encode_frame
from walkeeper.formats.replication import (
    PrimaryKeepalive,
    encode_keepalive,
    encode_xlog_data_head,
    parse_standby_message,
    postgres_microseconds,
)
from walkeeper.formats.segments import segment_start
from walkeeper.formats.xlog import PAGE_BYTES
from walkeeper.ids import NO_TLI
from walkeeper.links.link import Link
from walkeeper.lsn import INVALID_LSN, Lsn, format_lsn
from walkeeper.messages import PageserverFeedback, Slice
from walkeeper.services.copy_in import CopyEnd, CopyReader
from walkeeper.services.goodbye import GOODBYE_SECONDS_MAX, CaughtUp, Goodbye
from walkeeper.services.instruments import Instruments
from walkeeper.storage.reader import OpenSegment
from walkeeper.terms import Term
from walkeeper.timeline.progress import Position
from walkeeper.timeline.registry import Client, Sender
from walkeeper.timeline.timeline import Timeline

MESSAGE_WAL_BYTES_MAX: Final = 16 * PAGE_BYTES
"""Most WAL in one message: MAX_SEND_SIZE of PostgreSQL, for which its clients are made."""

STRETCH_BYTES_MAX: Final = 4 * MESSAGE_WAL_BYTES_MAX
"""Most committed WAL in one read and one send: what a message costs besides its bytes is shared; more gains nothing."""

KEEPALIVE_SECONDS: Final = 1.0
"""How long a client without new WAL waits for a sign of life, and between two of them."""

RECOVERY_APPLICATION_NAME: Final = "wal_proposer_recovery"
"""A proposer of before 2024 that fetches WAL: it names no term, and is the one this keeper has voted for."""


async def send_wal(
    link: Link,
    source: CopyReader,
    timeline: Timeline,
    command: StartReplication,
    client: Client,
    seconds_max: float,
    instruments: Instruments,
) -> Goodbye:
    """Stream WAL until the client leaves, the timeline closes, or an error ends it; returns how it ended.

    ``seconds_max``: how long the client may take to read what is sent at once.

    Where nobody is left to answer, or the last message is incomplete, that is ``CopyEnd.GONE``.

    Cancellation: at any time; the link is of no use afterwards.
    """
    said = Goodbye(Closing(timeline.ttid))
    with timeline.registry.sending(client) as registered:
        try:
            state = timeline.require_state()
            require_start(state, command.start_lsn)
            require_tli(state, command)
        except WalkeeperError as error:
            return Goodbye(error)
        view = view_of(timeline.progress.position, command, client.application_name)
        bounds = Bounds(state.kept.server.wal_seg_size, state.kept.timeline_start_lsn)
        sender = WalSender(link, timeline, registered, view, bounds, command, seconds_max, instruments)
        said = await sender.serve(source)
    return said  # noqa: RET504  the block ends early when the timeline closes


def require_start(state: AcceptorState, start_lsn: Lsn) -> None:
    """Raises WalNotAvailable if this keeper has no WAL, or none that old.  A start beyond the end is fine.

    Standbys ask from a segment start: the first segment is readable from there, if this keeper made its head.
    """
    kept = state.kept
    if kept.local_start_lsn == INVALID_LSN:
        raise WalNotAvailable(start_lsn, "state uninitialized, no data to read")
    readable = kept.local_start_lsn
    if readable == kept.timeline_start_lsn:
        readable = segment_start(readable, kept.server.wal_seg_size)
    if start_lsn < readable:
        asked, begin = format_lsn(start_lsn), format_lsn(kept.local_start_lsn)
        why = f"Requested streaming from {asked}, which is before the start of the timeline here, {begin}"
        raise WalNotAvailable(start_lsn, why)


def require_tli(state: AcceptorState, command: StartReplication) -> None:
    """Raises WalNotAvailable if the client would write the WAL here down under another of PostgreSQL's timeline ids.

    Clients trust a server with that.  While there is no WAL nobody knows its id.
    """
    kept, asked = state.wal.tli, command.tli
    if asked is not None and kept not in (NO_TLI, asked):
        raise WalNotAvailable(
            command.start_lsn, f"the WAL here is of PostgreSQL's timeline {kept}, and {asked} was asked for"
        )


# -- who may see what ----------------------------------------------------------------------------------------


class View(Protocol):
    """What a client may see of a timeline."""

    def end_lsn(self, position: Position) -> Lsn:
        """Up to where."""

    def require_readable(self, position: Position) -> None:
        """Raises TermChanged if WAL must not be read, or what was read not be sent."""

    def ended_by(self, position: Position) -> TermChanged | None:
        """What there is no point in waiting for more after, if it has come."""

    @property
    def may_be_complete(self) -> bool:
        """Whether a client can have all there will ever be."""

    @property
    def stretch_bytes_max(self) -> int:
        """Most WAL to read and hand over at once: it cannot be called back."""


@dataclass(frozen=True, slots=True)
class CommittedWal:
    """What a quorum has, in whatever term: it never changes."""

    def end_lsn(self, position: Position) -> Lsn:
        return position.commit_lsn

    def require_readable(self, position: Position) -> None:
        """Committed WAL always is."""

    def ended_by(self, position: Position) -> TermChanged | None:
        """Nothing: it stays what it is."""

    @property
    def may_be_complete(self) -> bool:
        return True

    @property
    def stretch_bytes_max(self) -> int:
        return STRETCH_BYTES_MAX


@dataclass(frozen=True, slots=True)
class FlushedWal:
    """All there is, on behalf of the leader of ``term``; ``log_term`` is that of the last WAL."""

    term: Term
    log_term: Term

    def end_lsn(self, position: Position) -> Lsn:
        return position.flush_lsn

    def require_readable(self, position: Position) -> None:
        if position.term != self.term:
            raise TermChanged(self.term, position.term)

    def ended_by(self, position: Position) -> TermChanged | None:
        if position.last_log_term != self.log_term:
            return TermChanged(self.log_term, position.last_log_term)
        return None

    @property
    def may_be_complete(self) -> bool:
        return False

    @property
    def stretch_bytes_max(self) -> int:
        return MESSAGE_WAL_BYTES_MAX


def view_of(position: Position, command: StartReplication, application_name: str | None) -> View:
    if command.term is not None:
        return FlushedWal(command.term, command.term)
    if application_name == RECOVERY_APPLICATION_NAME:  # asks before it has told anybody of its election
        return FlushedWal(position.term, position.last_log_term)
    return CommittedWal()


# -- where to cut --------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Bounds:
    """What no read and no message crosses: segments (of ``segment_bytes``), and the first byte of the timeline."""

    segment_bytes: int
    timeline_start_lsn: Lsn

    def cut(self, begin_lsn: Lsn, end_lsn: Lsn, bytes_max: int) -> Lsn:
        """Where a piece ends that begins at ``begin_lsn``: with the WAL, or else after a whole page."""
        stop = begin_lsn + bytes_max
        stop = end_lsn if stop >= end_lsn else stop - stop % PAGE_BYTES
        stop = min(stop, segment_start(begin_lsn, self.segment_bytes) + self.segment_bytes)
        return Lsn(min(stop, self.timeline_start_lsn) if begin_lsn < self.timeline_start_lsn else stop)


# -- the stream ----------------------------------------------------------------------------------------------


class WalSender:
    """One stream, and how far it is.  The segment that it reads stays open."""

    def __init__(
        self,
        link: Link,
        timeline: Timeline,
        registered: Sender,
        view: View,
        bounds: Bounds,
        command: StartReplication,
        seconds_max: float,
        instruments: Instruments,
    ) -> None:
        self._link = link
        self._timeline = timeline
        self._registered = registered
        self._progress = timeline.progress
        self._view = view
        self._bounds = bounds
        self._command = command
        self._next_lsn = command.start_lsn
        self._seconds_max = seconds_max
        self._instruments = instruments
        self._ask_at = self._may_be_silent_until()
        self._buffer = bytearray(view.stretch_bytes_max)
        self._segment: OpenSegment | None = None
        self._truncations = 0
        self._idle = trio.CancelScope()
        self._left: Goodbye | None = None

    async def serve(self, source: CopyReader) -> Goodbye:
        """Stream until the end, and say which.

        Cancellation: at any time; the link is of no use afterwards.
        """
        said = Goodbye(CopyEnd.GONE)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._listen, source, nursery.cancel_scope)
            said = await self._send_until_left()
            nursery.cancel_scope.cancel(reason="the stream has ended")
        return said

    async def _listen(self, source: CopyReader, connection: trio.CancelScope) -> None:
        """Read what the client says until it leaves; then the message that is being sent may be finished."""
        left: CopyEnd | PeerError = CopyEnd.GONE
        with source.listening():
            left = await self._last_word(source)
        self._left = Goodbye(left)
        self._idle.cancel(reason="the client has left")
        connection.deadline = trio.current_time() + (0.0 if left is CopyEnd.GONE else GOODBYE_SECONDS_MAX)

    async def _send_until_left(self) -> Goodbye:
        try:
            while self._left is None:
                await self._send_next()
                await trio.lowlevel.checkpoint()  # WAL that is cached and a client that reads: nothing else waits
        except WalkeeperError as error:
            return Goodbye(error)
        except (trio.BrokenResourceError, trio.TooSlowError):
            return Goodbye(CopyEnd.GONE)
        finally:
            self._close()
        return self._left

    async def _send_next(self) -> None:
        """A message of WAL, or a sign of life after a while without any."""
        if trio.current_time() >= self._ask_at:
            await self._ask(self._next_lsn)
        position = self._progress.position
        end_lsn = self._view.end_lsn(position)
        if end_lsn > self._next_lsn:
            await self._send_wal(end_lsn)
        elif changed := self._view.ended_by(position):
            raise changed
        elif not await self._wait_for_more() and self._left is None:
            if self._view.may_be_complete and self._timeline.registry.may_stop(self._registered, end_lsn):
                self._left = Goodbye(CaughtUp(self._registered.client.application_name, end_lsn))
                return
            await self._ask(end_lsn)

    async def _wait_for_more(self) -> bool:
        """Whether something came in time, be it the end of the term."""
        view, next_lsn = self._view, self._next_lsn
        with trio.move_on_after(min(KEEPALIVE_SECONDS, self._seconds_max / 2)) as self._idle:
            await self._progress.wait_until(
                lambda position: view.end_lsn(position) > next_lsn or view.ended_by(position) is not None
            )
            return True
        return False

    async def _send_wal(self, end_lsn: Lsn) -> None:
        """The next stretch of WAL; nothing, if what was read has been withdrawn meanwhile."""
        self._view.require_readable(self._progress.position)
        truncations = self._progress.truncations
        stop_lsn = self._bounds.cut(self._next_lsn, end_lsn, self._view.stretch_bytes_max)
        wal = await self._read(stop_lsn, truncations)
        # From here to the kernel there is no checkpoint.
        self._view.require_readable(self._progress.position)
        if wal is not None and truncations == self._progress.truncations:
            await self._send(self._messages(wal, end_lsn))
            self._next_lsn = self._registered.sent_lsn = stop_lsn

    def _messages(self, wal: memoryview, end_lsn: Lsn) -> Iterator[Slice]:
        """``wal``, which begins at the next position, uncopied in messages as PostgreSQL's clients expect them.

        What it must not cross it does not cross; messages end with pages.
        """
        begin_lsn, now = self._next_lsn, _now()
        size = MESSAGE_WAL_BYTES_MAX - begin_lsn % PAGE_BYTES
        while wal:
            piece, wal = wal[:size], wal[size:]
            head = encode_xlog_data_head(begin_lsn, end_lsn, now)
            yield encode_copy_data_head(len(head) + len(piece)) + head
            yield piece
            begin_lsn, size = Lsn(begin_lsn + size), MESSAGE_WAL_BYTES_MAX

    async def _read(self, stop_lsn: Lsn, truncations: int) -> memoryview | None:
        """WAL from the next position on, None if it was withdrawn: an error counts only if it should be there."""
        try:
            segment = await self._open(self._next_lsn, truncations)
            buffer = memoryview(self._buffer)[: stop_lsn - self._next_lsn]
            return await self._timeline.read(segment, self._next_lsn, buffer)
        except WalkeeperError:
            if truncations == self._progress.truncations:
                raise
            return None

    async def _open(self, lsn: Lsn, truncations: int) -> OpenSegment:
        """The segment of ``lsn``; the one that is open, if nothing was withdrawn since before that."""
        if self._segment is None or lsn not in self._segment or self._truncations != truncations:
            self._close()
            require_tli(self._timeline.require_state(), self._command)
            self._segment, self._truncations = await self._timeline.open_segment(lsn), truncations
        return self._segment

    def _close(self) -> None:
        if self._segment is not None:
            self._segment.close()
            self._segment = None

    async def _ask(self, lsn: Lsn) -> None:
        """Have the client answer, once until it does."""
        self._ask_at = math.inf
        keepalive = PrimaryKeepalive(lsn, _now(), reply_requested=True)
        await self._send([encode_frame(b"d", encode_keepalive(keepalive))])

    def _may_be_silent_until(self) -> float:
        """Half of the time after which it is given up, as PostgreSQL has it."""
        return trio.current_time() + self._seconds_max / 2

    async def _send(self, pieces: Iterable[Slice]) -> None:
        """Raises trio.TooSlowError for a client that does not read; what it costs meanwhile is what these are."""
        self._link.send_soon(*pieces)
        if self._link.pending_bytes:
            with trio.fail_after(self._seconds_max):
                await self._link.wait_sent()

    async def _last_word(self, source: CopyReader) -> CopyEnd | PeerError:
        """How the client ends, after everything else that it says."""
        try:
            while not isinstance(payloads := await source.next_payloads(), CopyEnd):
                self._ask_at = self._may_be_silent_until()
                for payload in payloads:
                    if message := parse_standby_message(payload):
                        if isinstance(message, PageserverFeedback):
                            self._instruments.pageserver_reported()
                        self._timeline.registry.record(self._registered, message)
        except PeerError as error:
            return error
        return payloads


def _now() -> int:
    return postgres_microseconds(time.time_ns())
