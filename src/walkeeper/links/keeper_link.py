"""One keeper's link: connect, greet, push WAL, hear acknowledgements; after a loss, again.

Two tasks share a connection.  ``_listen`` takes replies to the proposer.  ``_speak`` waits where ``pump`` must not: for
the kernel to have room, and for a donor.  ``pump`` itself is called by whoever has news and never waits.

A keeper that lacks WAL which is no longer in memory gets it from the keeper that has most, over a second connection;
the primary is never asked for it, and the other keepers do not notice.  It is verified on the way: a donor whose WAL is
damaged is left for another one, and when there is none the keeper waits where it is.

Bounds: at most ``SEND_AHEAD_BYTES`` wait for one keeper besides the kernel's buffer, one delivery of a donor, and
what of an earlier one is held back.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import inf
from typing import Final, Protocol

import trio

from walkeeper.errors import BadWal, ConfigError, PeerError, ServerError, Unreachable, leaves
from walkeeper.formats.frames import encode_copy_data_head
from walkeeper.formats.proposer import encode_append_head, encode_proposer_message, parse_acceptor_message
from walkeeper.formats.xlog import PAGE_BYTES, RecordVerifier
from walkeeper.ids import TenantTimelineId
from walkeeper.links.address import Address
from walkeeper.links.backoff import Backoff
from walkeeper.links.donor import DonorWal
from walkeeper.links.keeper import (
    PROTOCOL_VERSION,
    KeptTimeline,
    ask_standing,
    connect_keeper,
    identify,
    start_push,
    start_recovery,
)
from walkeeper.links.log import Log
from walkeeper.links.postgres import Connection, time_limit
from walkeeper.links.wal_stream import Delivery, WalStream
from walkeeper.lsn import INVALID_LSN, LSN_MAX, Lsn, format_lsn
from walkeeper.messages import AppendRun, Slice
from walkeeper.proposer.actions import Action
from walkeeper.proposer.follower import Phase
from walkeeper.proposer.proposer import Outgoing, Proposer, Stage

SEND_AHEAD_BYTES: Final = 1024 * 1024
"""What is encoded for a keeper before the kernel has taken it: a few system calls' worth."""

HANDSHAKE_SECONDS: Final = 10.0
"""For a keeper to say what it has and to begin the stream; making a timeline costs it some fsyncs."""

SUCCESS_SECONDS: Final = 5.0
"""A conversation that lasted so long was one; a shorter one may fail the same way each time, so pauses grow on."""

DONOR_SILENCE_SECONDS: Final = 10.0
DONOR_PAUSE_SECONDS: Final = 0.5
"""Before a donor is looked for again."""

DAMAGE_REMEDY: Final = (
    "run walkeeper inspect on the data directories of those keepers, bring back one that has this WAL undamaged, and"
    " wipe those that have not, one at a time"
)


class WalSource(Protocol):
    """The WAL that the writer has itself."""

    @property
    def tail_lsn(self) -> Lsn:
        """Its first byte; LSN_MAX if it has none."""

    def slices(self, begin_lsn: Lsn, end_lsn: Lsn) -> Sequence[Slice]:
        """All of [begin_lsn, end_lsn)."""


class NoWal:
    """The source of a writer without any WAL of its own: keepers get it from each other."""

    tail_lsn: Lsn = LSN_MAX

    def slices(self, begin_lsn: Lsn, end_lsn: Lsn) -> Sequence[Slice]:
        raise AssertionError(f"nothing in [{begin_lsn}, {end_lsn}) can be had here")


class _Padding:
    """What follows an XLOG_SWITCH, behind which a keeper's WAL ends before it has come: zeroes, which nobody need have."""

    tail_lsn: Lsn = INVALID_LSN

    def slices(self, begin_lsn: Lsn, end_lsn: Lsn) -> Sequence[Slice]:
        return [bytes(end_lsn - begin_lsn)]


@dataclass(frozen=True, slots=True)
class Introduction:
    """How a writer presents itself to keepers; ``check`` hears what each has, and raises ConfigError to refuse it."""

    ttid: TenantTimelineId
    application_name: str
    check: Callable[[str, KeptTimeline | None], None]


class Company(Protocol):
    """What a link needs of the others: ``links.ensemble``."""

    proposer: Proposer
    introduction: Introduction
    log: Log

    def act(self, happened: Sequence[Action]) -> None:
        """Take in what the keeper's messages led to.  Raises Fenced and StartOver."""

    def pump(self) -> None:
        """Let every keeper hear what there is to say."""

    def keeper_came_or_went(self) -> None:
        """A connection was made or lost."""

    def misplaced(self, error: BaseException) -> None:
        """One more keeper ``is_misplaced``.  Raises ``error`` if that is the end."""

    def address_of(self, place: int) -> Address: ...

    def strand(self) -> None:
        """This keeper needs WAL that no connected one gives.  Raises StartOver when that has lasted too long."""

    def found_donor(self) -> None:
        """A connected one has given some."""


class KeeperLink:
    """The link to the keeper at ``place`` of the proposer's list."""

    def __init__(self, company: Company, place: int, address: Address, source: WalSource) -> None:
        self.place = place
        self.address = address
        self._company = company
        self._proposer = company.proposer
        self._follower = company.proposer.followers[place]
        self._source = source
        self._connection: Connection | None = None
        self._scope = trio.CancelScope()
        self._failure: Unreachable | PeerError | None = None
        self._work = trio.Event()
        self._is_copying = False
        self._was_reached = False
        self._was_introduced = False
        self._heard_since = inf
        self._told = ""
        self._is_told_of = False
        self._is_flapping = False
        self._is_whole: bool | None = None
        self.trouble = ""
        """Why it was lost or not reached, for people; empty when it has been heard since."""
        self.is_misplaced = False
        """Whether it does not belong to this quorum, by what it said last."""
        self.missing_wal = ""
        """What WAL it waits for that nobody has undamaged, for people; empty while it is none."""

    def __str__(self) -> str:
        return f"keeper {self.address}"

    # -- the life of a connection -----------------------------------------------------------------------------

    async def run(self) -> None:
        """Converse for ever.  Raises groups of Fenced, ConfigError and StartOver."""
        backoff = Backoff()
        while True:
            self._was_reached, self._was_introduced, self._heard_since = False, False, inf
            try:
                await self._converse()
            except* (Unreachable, ServerError, PeerError) as lost:
                self._tell_loss(next(leaves(lost)))
            except* ConfigError as misplaced:
                self.is_misplaced = True
                self._tell_loss(next(leaves(misplaced)))
                self._company.misplaced(next(leaves(misplaced)))
            self._is_flapping = self._was_introduced and not self._has_lasted()
            if self._has_lasted():
                backoff.succeeded()
            await trio.sleep(backoff.next_pause_seconds())

    def _has_lasted(self) -> bool:
        return trio.current_time() - self._heard_since > SUCCESS_SECONDS

    async def _converse(self) -> None:
        introduction = self._company.introduction
        async with connect_keeper(self.address, introduction.ttid, introduction.application_name) as connection:
            self._was_reached = True
            self._is_whole = await self._introduce(connection)
            self._was_introduced = True
            self._failure, self._work = None, trio.Event()
            self._connection = connection
            self._proposer.connected(self.place, self._is_whole)
            if not self._is_flapping:
                self._tell_connected()
            self._company.keeper_came_or_went()
            try:
                async with trio.open_nursery() as nursery:
                    self._scope = nursery.cancel_scope
                    nursery.start_soon(self._listen, connection)
                    nursery.start_soon(self._speak, connection)
            finally:
                self._connection = None
                self.missing_wal = ""
                self._proposer.disconnected(self.place)
                self._company.keeper_came_or_went()
        if self._failure is not None:
            raise self._failure

    async def _introduce(self, connection: Connection) -> bool | None:
        """Look at what the keeper has before anything is said that it would remember.

        Returns whether it is whole, None if it does not say.
        """
        with time_limit(HANDSHAKE_SECONDS, str(self), "stream"):
            kept = await identify(connection)
            self._company.introduction.check(str(self), kept)
            is_whole = await ask_standing(connection, kept)
            await start_push(connection)
        return is_whole

    def drop(self, why: str) -> None:
        """End the connection; another one will be made."""
        self._fail(Unreachable(str(self), why))

    def greet_again(self) -> None:
        """Make another connection, for no fault of the keeper's."""
        if self._connection is not None:
            self._connection = None
            self._scope.cancel()

    def _fail(self, error: Unreachable | PeerError) -> None:
        if self._connection is not None:
            self._failure = error
            self._connection = None
            self._scope.cancel()

    def _tell_loss(self, error: BaseException) -> None:
        """One line for each new reason, not one for each attempt, unless it was well in between, or said to be."""
        self.trouble = str(error)
        if self.trouble != self._told or self._has_lasted() or self._is_told_of:
            self._told, self._is_told_of = self.trouble, False
            event = "keeper lost" if self._was_reached else "keeper not reached"
            self._company.log.warning(event, keeper=str(self.address), why=self.trouble)

    def _tell_connected(self) -> None:
        """At once, or when it has lasted if the last connection did not: a keeper may be lost again at each append."""
        self._is_told_of = True
        self._company.log.info("keeper connected", keeper=str(self.address), is_whole=self._is_whole)

    # -- listening --------------------------------------------------------------------------------------------

    async def _listen(self, connection: Connection) -> None:
        while True:
            payloads = await connection.receive_copies()
            now = trio.current_time()
            for payload in payloads:  # one by one: what the first led to holds, even if the next means nothing
                message = parse_acceptor_message(payload, PROTOCOL_VERSION)
                self._company.act(self._proposer.received(self.place, message, now))
            self._heard_since = min(self._heard_since, now)
            self.trouble, self.is_misplaced = "", False
            if not self._is_told_of and self._has_lasted():
                self._tell_connected()
            if self._follower.phase is not Phase.STREAMING or self._proposer.is_asking:
                self._company.pump()  # a quorum may have formed, or have to confirm that it is one

    # -- speaking ---------------------------------------------------------------------------------------------

    def pump(self) -> None:
        """Say what there is to say, without waiting."""
        if self._connection is None or self._is_copying:
            return
        try:
            has_more = self._say(self._connection, self._source)
        except (Unreachable, PeerError) as error:
            self._fail(error)
            return
        if has_more or self._connection.link.pending_bytes or self._needs_donor:
            self._work.set()

    async def _speak(self, connection: Connection) -> None:
        while True:
            self._work = trio.Event()
            self.pump()
            if connection.link.pending_bytes:
                await connection.wait_sent()
            elif self._needs_donor:
                await self._copy_from_donor(connection)
            else:
                await self._work.wait()

    def _say(self, connection: Connection, source: WalSource, until: Lsn | None = None) -> bool:
        """What the proposer has for this keeper; WAL from ``source``, up to ``until``.  Raises Unreachable.

        Returns whether there may be more: the rest has to wait its turn.
        """
        pieces: list[Slice] = []
        size = connection.link.pending_bytes
        while size < SEND_AHEAD_BYTES:
            missing = self._follower.streaming_at < source.tail_lsn
            limit = self._follower.streaming_at if missing else until
            message = self._proposer.next_message(self.place, trio.current_time(), limit)
            if message is None:
                break
            size += _encode(message, source, pieces)
        if pieces:
            connection.send_soon(*pieces)
        return size >= SEND_AHEAD_BYTES

    # -- catching up ------------------------------------------------------------------------------------------

    @property
    def _needs_donor(self) -> bool:
        """Whether this keeper waits for WAL that the writer does not have any more."""
        if not self._is_streaming:
            return False
        return self._follower.streaming_at < min(self._source.tail_lsn, self._proposer.available_lsn)

    @property
    def _is_streaming(self) -> bool:
        return self._proposer.stage is Stage.LEADING and self._follower.phase is Phase.STREAMING

    async def _copy_from_donor(self, connection: Connection) -> None:
        """Send WAL that another keeper has, until the writer's own takes over."""
        if self._follower.durable_lsn > self._follower.streaming_at:
            await self._send(connection, _Padding(), self._follower.durable_lsn)
            return
        place = self._proposer.donor_for(self.place)
        self._tell_missing_wal(self._proposer.damaged_donors(self.place) if place is None else ())
        if place is None:
            if not self.missing_wal:
                self._company.strand()
            await trio.sleep(DONOR_PAUSE_SECONDS)
            return
        donor = self._company.address_of(place)
        self._company.log.info(
            "keeper catches up",
            keeper=str(self.address),
            donor=str(donor),
            from_lsn=format_lsn(self._follower.streaming_at),
        )
        try:
            await self._copy_from(place, connection)
        except (ServerError, PeerError, Unreachable) as error:
            if self._is_own(error, connection):
                raise
            self._company.log.warning("donor lost", keeper=str(self.address), donor=str(donor), why=str(error))
            self._company.strand()
            await trio.sleep(DONOR_PAUSE_SECONDS)

    def _is_own(self, error: Exception, connection: Connection) -> bool:
        return isinstance(error, Unreachable) and error.server == connection.name

    def _tell_missing_wal(self, damaged: Sequence[int]) -> None:
        """Say, once, that those who have the WAL that this keeper needs have it damaged.

        The leadership goes on: another one would have no other keepers, and commits may need none of that WAL.
        """
        names = ", ".join(str(self._company.address_of(place)) for place in damaged)
        wanting = format_lsn(self._follower.streaming_at)
        missing_wal = names and f"{self}: it needs WAL from {wanting} on, which is damaged on {names}"
        if missing_wal and missing_wal != self.missing_wal:
            self._company.log.error(
                "no sound donor", keeper=str(self.address), from_lsn=wanting, damaged=names, remedy=DAMAGE_REMEDY
            )
        self.missing_wal = missing_wal
        if self._follower.is_lacking != bool(missing_wal):
            self._proposer.lacks_wal(self.place, bool(missing_wal))
            self._company.keeper_came_or_went()

    async def _copy_from(self, place: int, connection: Connection) -> None:
        donor, introduction = self._company.address_of(place), self._company.introduction
        verifier = self._verifier()
        async with connect_keeper(donor, introduction.ttid, introduction.application_name) as donor_connection:
            with time_limit(HANDSHAKE_SECONDS, donor_connection.name, "stream"):
                stream = await start_recovery(donor_connection, verifier.next_lsn, self._proposer.term)
            wal = DonorWal(stream, verifier, self._proposer.sound_until(place, self.place))
            self._is_copying = True
            try:
                while self._must_go_on(wal):
                    await self._pass_on(wal, connection)
            except (ServerError, PeerError, Unreachable) as error:
                if not self._is_own(error, connection):
                    self._require_verified(wal, connection)
                raise
            finally:
                self._is_copying = False
        if wal.damage is not None:
            self._leave_damaged(place, wal, wal.damage)
        self._require_verified(wal, connection)
        if wal.damage is not None:
            await trio.sleep(DONOR_PAUSE_SECONDS)

    def _must_go_on(self, wal: DonorWal) -> bool:
        """While something is missing; and to the end of a record, even if the writer has the rest of it."""
        if wal.damage is not None or self._follower.streaming_at >= wal.stop_lsn:
            return False
        return self._needs_donor or (self._is_streaming and self._follower.streaming_at > wal.verified_lsn)

    def _require_verified(self, wal: DonorWal, connection: Connection) -> None:
        """Raises Unreachable if this keeper was sent a part of a record of which nobody knows whether it is sound."""
        if self._follower.streaming_at > wal.verified_lsn:
            raise Unreachable(connection.name, "it has to forget the part that it was sent of a record")

    def _verifier(self) -> RecordVerifier:
        """From where this keeper's last record surely ends.  Only the very first WAL may go on with another one's rest."""
        server, begin_lsn = self._proposer.server, self._follower.durable_lsn
        is_first = begin_lsn == self._proposer.history.entries[0].lsn
        return RecordVerifier(
            begin_lsn,
            pg_major=server.pg_major,
            wal_seg_size=server.wal_seg_size,
            inside_record=is_first and begin_lsn % PAGE_BYTES == 0,
        )

    def _leave_damaged(self, place: int, wal: DonorWal, damage: BadWal) -> None:
        """No more from this donor behind what is sound."""
        self._company.log.warning(
            "donor's WAL is damaged",
            keeper=str(self.address),
            donor=str(self._company.address_of(place)),
            lsn=format_lsn(damage.lsn),
            why=str(damage),
        )
        self._proposer.found_damaged(place, self.place, wal.sound_lsn)

    async def _pass_on(self, wal: DonorWal, connection: Connection) -> None:
        """What of one delivery of the donor is verified, all of it, before the next."""
        await wal.take(await self._receive_with_heartbeats(wal.stream, connection))
        self._company.found_donor()
        await self._send(connection, wal.window, wal.sound_lsn)
        wal.forget(self._follower.streaming_at)

    async def _send(self, connection: Connection, source: WalSource, until: Lsn) -> None:
        while self._is_streaming and self._follower.streaming_at < until:
            self._say(connection, source, until)
            await connection.wait_sent()
            await trio.lowlevel.checkpoint()  # a kernel that takes everything would make us starve the others

    async def _receive_with_heartbeats(self, stream: WalStream, connection: Connection) -> Delivery:
        """WAL from the donor; the keeper that waits for it hears that we are alive.  Raises Unreachable."""
        deadline = trio.current_time() + DONOR_SILENCE_SECONDS
        while (now := trio.current_time()) < deadline:
            with trio.move_on_at(min(deadline, max(now, self._proposer.wakes_at(self.place)))):
                delivery = await stream.receive_and_report()
                if delivery.slices:
                    return delivery
                continue
            self._say(connection, self._source, self._follower.streaming_at)
        raise Unreachable(stream.connection.name, f"no WAL within {DONOR_SILENCE_SECONDS:g} s")


def _encode(message: Outgoing, source: WalSource, pieces: list[Slice]) -> int:
    """Append the CopyData of ``message`` to ``pieces``; returns its length in bytes."""
    if not isinstance(message, AppendRun):
        payload = encode_proposer_message(message, PROTOCOL_VERSION)
        pieces += (encode_copy_data_head(len(payload)), payload)
        return len(payload)
    wal_bytes = message.end_lsn - message.begin_lsn
    wal = source.slices(message.begin_lsn, message.end_lsn) if wal_bytes else ()
    head = encode_append_head(message, PROTOCOL_VERSION)
    pieces.append(encode_copy_data_head(len(head) + wal_bytes) + head)
    pieces += wal
    return len(head) + wal_bytes
