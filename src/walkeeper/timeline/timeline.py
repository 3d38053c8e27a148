"""A timeline that many tasks use, and the one narrow place through which its state changes.

``process`` decides, keeps, and becomes.  Waiting for its lock may be cancelled; from there on nothing can stop it,
and if something does all the same, the fuse blows: the timeline then refuses everything until it has been read
again from disk (``timeline.upkeep`` does that).  So an operation is either not begun or complete, in memory and on
disk (invariant 41).

Does not decide (``acceptor``), touch files (``storage``) or know connections (``services``).
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from types import TracebackType
from typing import Final

import structlog
import trio

from walkeeper.acceptor.acceptor import Acceptor, Intent, Kept, new_acceptor
from walkeeper.acceptor.administration import AdminRequest, Checkpoint, require_not_newer
from walkeeper.acceptor.effects import WriteWal
from walkeeper.acceptor.state import AcceptorState
from walkeeper.errors import (
    Blown,
    Closing,
    Corrupt,
    DiskFull,
    DurabilityLost,
    Malformed,
    StorageError,
    TimelineLimit,
    TimelineUnavailable,
    TooFewFiles,
)
from walkeeper.formats.segments import segment_number
from walkeeper.ids import NodeId, TenantTimelineId
from walkeeper.lsn import INVALID_LSN, Lsn
from walkeeper.membership import Configuration
from walkeeper.messages import AcceptorMessage, Batch, PageserverFeedback
from walkeeper.storage.offload import Brief, Offload
from walkeeper.storage.reader import OpenSegment
from walkeeper.storage.store import StoreStatistics, TimelineStore
from walkeeper.timeline.account import Account
from walkeeper.timeline.progress import Position, Progress
from walkeeper.timeline.registry import Receiver, Registry, Sender
from walkeeper.timeline.room import Room

SPARE_PAUSE_SECONDS: Final = 60.0
"""After a spare could not be made: on a disk that is nearly full, spares must not take what commits need."""

NOTHING_HAS_CHANGED: Final = (DiskFull, TooFewFiles)
"""What an operation may end with that has left everything as it was."""

log = structlog.stdlib.get_logger()


def _keep_having_files(intent: Intent, store: TimelineStore) -> Kept:
    """Keep ``intent`` if there are descriptors for all of it: no half of it may end for want of one."""
    store.require_files()
    return intent.keep(store)


def _close_and_remove(store: TimelineStore, remove: Callable[[], bool]) -> bool:
    store.close()
    return remove()


class Fuse:
    """Armed while an operation runs.  Anything but a return, or an error that leaves all as it was, blows it."""

    def __init__(self, on_blown: Callable[[], None]) -> None:
        self.blown_by: BaseException | None = None
        self._on_blown = on_blown

    def __enter__(self) -> None:
        assert self.blown_by is None, "an operation was begun on a timeline whose fuse has blown"

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        if error is not None and not isinstance(error, NOTHING_HAS_CHANGED):
            self.blown_by = error
            self._on_blown()

    def replace(self) -> None:
        self.blown_by = None


@dataclass(frozen=True, slots=True)
class TimelineStatistics:
    """A look at a timeline, taken without its lock.  ``state`` is None while it cannot be used.

    ``pageserver``: the last report of one; ``pageserver_reports``: how many there were since the start.
    ``disk_usage_bytes``: what its segments take; None while that is not known, or there are none.  ``is_over_limit``:
    its WAL is refused, since that is as much as it may.
    """

    ttid: TenantTimelineId
    state: AcceptorState | None
    receivers: tuple[Receiver, ...]
    senders: tuple[Sender, ...]
    blown_by: BaseException | None
    storage: StoreStatistics
    account: Account
    pageserver: PageserverFeedback | None = None
    pageserver_reports: int = 0
    is_corruption_reported: bool = False
    disk_usage_bytes: int | None = None
    is_over_limit: bool = False


class Timeline:
    """One timeline of this keeper.  Shut until ``open`` has read it from disk."""

    def __init__(
        self, ttid: TenantTimelineId, node_id: NodeId, store: TimelineStore, offload: Offload, room: Room
    ) -> None:
        self.ttid = ttid
        self.is_over_limit = False
        """Whether WAL is refused, since the segments take as much as they may."""
        self.progress = Progress()
        self.registry = Registry()
        self.account = Account()
        self.node_id = node_id
        self._store = store
        self._offload = offload
        self._room = room
        self._lock = trio.Lock()
        self._fuse = Fuse(self._on_blown)
        self._is_closing = False
        self._is_being_deleted = False
        self._acceptor: Acceptor | None = None
        self._attention = trio.Event()
        self._no_spare_before = 0.0

    # -- the narrow place -----------------------------------------------------------------------------------

    async def process(self, request: Batch | AdminRequest) -> AcceptorMessage | None:
        """Decide, keep, become; return the reply, if there is one.

        Raises Refused or PeerError (nothing has changed), TimelineUnavailable, DiskFull (DiskLimit among them) or
        TooFewFiles (nothing has changed), or another StorageError (the fuse has blown).

        Cancellation: before the lock nothing has happened; after it everything has.
        """
        try:
            self._lock.acquire_nowait()  # try, then wait: spares a turn of the scheduler
        except trio.WouldBlock:
            await self._lock.acquire()
        try:
            kept = await self._process(request)
        finally:
            self._lock.release()
        return kept.reply

    async def administer(self, request: AdminRequest) -> tuple[AcceptorState, AcceptorState]:
        """The same for those who want to know the state before, and after.

        Cancellation: before the lock nothing has happened; after it everything has.
        """
        async with self._lock:
            before = self._require_open().state
            kept = await self._process(request)
            return before, kept.acceptor.state

    async def _process(self, request: Batch | AdminRequest) -> Kept:
        acceptor = self._require_open()
        intent = acceptor.decide(request)  # pure: may refuse, changes nothing
        if intent.effects:
            self._require_room(intent.written)
            job = self._job_of(intent)
            try:
                with self._to_the_end():
                    if (lsn := intent.truncates_to) is not None:
                        self.progress.withdraw(lsn)  # readers lose sight of it before the disk does
                    kept = await self._offload(job, self._store)  # one hop at most: durable when it returns
                    self._acceptor = kept.acceptor  # no checkpoint since the hop
                if lsn is not None:
                    self.account.truncate(lsn)
                else:
                    self.account.advance(acceptor.state, kept.acceptor.state)
            except NOTHING_HAS_CHANGED:
                self.progress.publish(Position.of(acceptor.state))  # and see it again: it is there
                raise
        else:  # heartbeats, refused votes, greetings: no thread, no sync
            kept = intent.keep(self._store)
            self._acceptor = kept.acceptor
            self.account.advance(acceptor.state, kept.acceptor.state)
        self.progress.publish(Position.of(kept.acceptor.state))
        if self._may_prepare_spare() or self._lags_a_segment(kept.acceptor.state):
            self._attention.set()
        return kept

    @contextmanager
    def _to_the_end(self) -> Iterator[None]:
        """A block that nobody can stop, and that blows the fuse unless it gets to its end."""
        with trio.CancelScope(shield=True), self._fuse:
            yield

    def _job_of(self, intent: Intent) -> Callable[[TimelineStore], Kept]:
        if self._store.is_brief(intent.effects):  # asked first: most are
            return Brief(intent.keep)
        return partial(_keep_having_files, intent) if self._store.needs_files(intent.effects) else intent.keep

    def _require_room(self, written: WriteWal | None) -> None:
        """Raises DiskLimit for WAL where there is no room for it."""
        if written is None:
            return
        try:
            self._room.admit(written.end_lsn - written.begin_lsn, self._usage_bytes(written.end_lsn) or 0)
        except TimelineLimit:
            if not self.is_over_limit:
                self.is_over_limit = True
                bytes_max = self._room.timeline_bytes_max
                log.error(
                    "a timeline takes what it may: its WAL is refused", ttid=str(self.ttid), bytes_max=bytes_max
                )
                self._attention.set()  # upkeep looks whether somebody makes room
            raise

    def _usage_bytes(self, end_lsn: Lsn) -> int | None:
        """What the segments take when the WAL ends at ``end_lsn``."""
        first_segno, acceptor = self._store.statistics.first_segno, self._acceptor
        if first_segno is None or acceptor is None:
            return None
        segment_bytes = acceptor.state.kept.server.wal_seg_size
        return (segment_number(max(end_lsn - 1, 0), segment_bytes) - first_segno + 1) * segment_bytes

    def _require_open(self) -> Acceptor:
        if self._is_closing:
            raise Closing(self.ttid)
        if self._acceptor is None or self._fuse.blown_by is not None:
            raise Blown(self.ttid)
        return self._acceptor

    def require_state(self) -> AcceptorState:
        """The state as it is now.  Raises TimelineUnavailable."""
        return self._require_open().state

    @property
    def usable_state(self) -> AcceptorState | None:
        """The same, None while it cannot be used.  Takes no lock, and less time than ``statistics``."""
        return self._acceptor.state if self._acceptor else None

    def _on_blown(self) -> None:
        if self._acceptor is not None:  # not counted again while it cannot be read
            self.account.fuses_blown += 1
        self._acceptor = None
        self.progress.withdraw(INVALID_LSN)
        self._attention.set()

    # -- from disk and back ---------------------------------------------------------------------------------

    async def open(self) -> None:
        """Read the timeline from disk: at first, and after the fuse has blown.

        Raises StorageError when it cannot be read; the timeline then stays shut.

        Cancellation: before the lock nothing has happened; after it everything has.
        """
        async with self._lock:
            if self._is_closing:
                raise Closing(self.ttid)
            self._fuse.replace()
            with self._fuse:
                recovered = await self._offload(self._store.recover)
                try:
                    self._acceptor = new_acceptor(
                        self.node_id,
                        recovered.control_file,
                        recovered.end_lsn,
                        recovered.tli,
                        is_whole=recovered.is_whole,
                    )
                except Malformed as error:  # no server that is known has such WAL
                    raise Corrupt(str(error)) from error
            self.account.open(self._acceptor.state)
            self.progress.publish(Position.of(self._acceptor.state))

    async def close(self) -> None:
        """Send everybody away, save the control file if it lags, and give the files back.

        Cancellation: at any time; what was kept before is safe, since no promise depends on a tidy end.
        """
        self.registry.cancel_all()
        try:
            await self.save_if_ahead()
        except DurabilityLost:
            raise
        except (StorageError, TimelineUnavailable) as error:
            log.warning("control file not saved", ttid=str(self.ttid), error=str(error))
        self._is_closing = True
        async with self._lock:
            await self._offload(self._store.close)

    async def delete(self, remove: Callable[[], bool], excluding: Configuration | None = None) -> bool:
        """End this timeline for good: send everybody away, wait until they have left, and ``remove`` its files.

        ``remove`` is blocking, and says whether there was anything.  ``excluding`` is the configuration that leaves this
        keeper out, if that is why.  Once it has begun the timeline refuses everything for ever, also when it fails; it can
        be tried again, and after a start the timeline is there as it was, or gone.

        Raises StaleExclusion or TimelineUnavailable (nothing has happened), or StorageError.

        Cancellation: before the lock nothing has happened; after it everything has.
        """
        async with self._lock:
            if self.durability_lost is not None:
                raise self.durability_lost
            if not self._is_being_deleted:
                self._begin_deletion(excluding)
            self._fuse.replace()
            with self._to_the_end():
                await self.registry.wait_left()  # invariant 42: nobody touches what is removed
                return await self._offload(_close_and_remove, self._store, remove)

    def _begin_deletion(self, excluding: Configuration | None) -> None:
        if self._is_closing:
            raise Closing(self.ttid)
        if excluding is not None:
            require_not_newer(self.require_state().kept.configuration, excluding)
        self._is_closing = self._is_being_deleted = True
        self._acceptor = None
        self.progress.withdraw(INVALID_LSN)
        self.registry.cancel_all()
        self._attention.set()  # upkeep has to end

    # -- for readers ----------------------------------------------------------------------------------------

    async def open_segment(self, lsn: Lsn) -> OpenSegment:
        """The segment of ``lsn``, to be read and closed by the caller.  Takes no lock: see ``progress``.

        Raises TimelineUnavailable, WalNotAvailable or StorageError.

        Cancellation: waits for the thread; nothing has changed.
        """
        self._require_open()
        return await self._offload(self._store.open_segment, lsn)

    async def read(self, segment: OpenSegment, lsn: Lsn, buffer: memoryview) -> memoryview:
        """WAL at ``lsn``, as much as ``buffer`` can hold, never beyond ``segment``: in ``buffer`` when it was cached.

        Raises TimelineUnavailable or StorageError.

        Cancellation: waits for the thread; a read changes nothing.
        """
        self._require_open()
        if segment.try_read(lsn, buffer):  # no thread for what needs no waiting
            return buffer
        return memoryview(await self._offload(segment.read, lsn, len(buffer)))

    # -- for upkeep and for those who look ------------------------------------------------------------------

    async def wait_attention(self) -> None:
        """Return when upkeep has something to do: a blown fuse, a spare to make, a control file that lags.

        Cancellation: at any time, nothing is lost.
        """
        await self._attention.wait()
        self._attention = trio.Event()

    @property
    def durability_lost(self) -> DurabilityLost | None:
        """The failed fsync that must end the process, if there was one."""
        return self._fuse.blown_by if isinstance(self._fuse.blown_by, DurabilityLost) else None

    @property
    def is_closing(self) -> bool:
        """Whether it refuses everything from now on."""
        return self._is_closing

    @property
    def is_blown(self) -> bool:
        return self._fuse.blown_by is not None

    async def save_if_ahead(self) -> None:
        """Save the control file if positions in memory have run ahead of it.

        Cancellation: before the lock nothing has happened; after it everything has.
        """
        if self._acceptor is not None:
            heard_lsn = self.registry.remote_consistent_lsn
            if self._acceptor.state.hearing_of(heard_lsn).is_ahead:
                await self.process(Checkpoint(heard_lsn))

    async def prepare_spare(self) -> None:
        """Make the next segment before it is needed.  Takes no lock: nothing is named before ``process`` needs it.

        Cancellation: waits for the thread; a spare is not part of any promise.
        """
        if not self._is_closing and self._may_prepare_spare():
            self._no_spare_before = trio.current_time() + SPARE_PAUSE_SECONDS
            self._room.spend(self._segment_bytes)
            with self.registry.visiting():
                await self._offload(self._store.prepare_spare)
            self._no_spare_before = 0.0

    async def count_segments(self) -> None:
        """See whether segments were removed, and there is room for others.

        Cancellation: waits for the thread; nothing depends on it.
        """
        if self._acceptor is None:
            return
        with self.registry.visiting():
            await self._offload(self._store.count_segments)
        usage_bytes = self.statistics().disk_usage_bytes or 0
        if self.is_over_limit and usage_bytes + self._segment_bytes <= self._room.timeline_bytes_max:
            self.is_over_limit = False
            log.warning(
                "a timeline has room again: its WAL is taken", ttid=str(self.ttid), usage_bytes=usage_bytes
            )

    def _may_prepare_spare(self) -> bool:
        is_wanted = self._store.wants_spare and trio.current_time() >= self._no_spare_before
        return is_wanted and self._room.has_to_spare(self._segment_bytes)

    @property
    def _segment_bytes(self) -> int:
        return self._acceptor.state.kept.server.wal_seg_size if self._acceptor else 0

    def _lags_a_segment(self, state: AcceptorState) -> bool:
        return state.ahead.commit_lsn - state.kept.commit_lsn >= state.kept.server.wal_seg_size

    def statistics(self) -> TimelineStatistics:
        return TimelineStatistics(
            self.ttid,
            self.usable_state,
            self.registry.receivers(),
            self.registry.senders(),
            self._fuse.blown_by,
            self._store.statistics,
            self.account,
            self.registry.pageserver,
            self.registry.pageserver_reports,
            self.registry.is_corruption_reported,
            self._usage_bytes(self._acceptor.state.wal.write_lsn) if self._acceptor else None,
            self.is_over_limit,
        )
