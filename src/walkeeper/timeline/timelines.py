"""All timelines of a keeper: finding, creating, deleting, opening at start, closing at the end.

Creating is idempotent: a timeline that exists is returned as it is, and one whose directory was made but never
entered here, because whoever asked went away, is opened as if it had just been made (hazard L2).

Deleting is idempotent, too.  It renames the timeline's directory away, durably, before anything of it is removed: a
crash leaves all of it or nothing.  Whoever comes later finds a tombstone.

Does not know the data directory's layout (``storage.data_directory``) or who asks.
"""

import math
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import TypeVar

import structlog
import trio

from walkeeper.acceptor.administration import require_member, require_no_member
from walkeeper.acceptor.state import new_control_file
from walkeeper.errors import (
    Closing,
    Corrupt,
    Deleted,
    DurabilityLost,
    Exists,
    NotFound,
    NotMadeAgain,
    StorageError,
    TimelineUnavailable,
)
from walkeeper.ids import NodeId, TenantId, TenantTimelineId, TimelineId
from walkeeper.lsn import INVALID_LSN, Lsn
from walkeeper.membership import NO_CONFIGURATION, Configuration
from walkeeper.messages import ServerInfo
from walkeeper.storage.data_directory import DataDirectory
from walkeeper.storage.disk import Space
from walkeeper.storage.offload import Offload
from walkeeper.storage.wal import Observe, unobserved
from walkeeper.timeline.room import DiskLimits, Room
from walkeeper.timeline.timeline import Timeline
from walkeeper.timeline.tombstones import Tombstones
from walkeeper.timeline.upkeep import keep_up

T = TypeVar("T")

log = structlog.stdlib.get_logger()


class Timelines:
    """The map.  Made by ``open_timelines``."""

    def __init__(self, directory: DataDirectory, offload: Offload, observe: Observe, room: Room) -> None:
        self.room = room
        self._directory = directory
        self._offload = offload
        self._observe = observe
        self._open: dict[TenantTimelineId, Timeline] = {}
        self._shut: dict[TenantTimelineId, StorageError] = {}
        self._tombstones = Tombstones()
        self._changing = trio.Lock()  # what there is: one creation or deletion at a time
        self._lost: DurabilityLost | None = None
        self._has_lost = trio.Event()
        self._to_upkeep, self._for_upkeep = trio.open_memory_channel[Timeline](math.inf)  # one item per timeline

    @property
    def node_id(self) -> NodeId:
        """Whose they are."""
        return self._directory.node_id

    def ttids(self) -> list[TenantTimelineId]:
        """The names of all timelines that can be used."""
        return sorted(ttid for ttid, timeline in self._open.items() if not timeline.is_closing)

    def all(self) -> list[Timeline]:
        return list(self._open.values())

    def shut(self) -> dict[TenantTimelineId, StorageError]:
        """The timelines whose files could not be read at start, and why."""
        return dict(self._shut)

    def get(self, ttid: TenantTimelineId) -> Timeline:
        """Raises NotFound, Deleted, Closing, or Exists when it is here but could not be read."""
        if timeline := self._open.get(ttid):
            if timeline.is_closing:
                raise Closing(ttid)
            return timeline
        if error := self._shut.get(ttid):
            raise Exists(ttid, str(error))
        raise Deleted(ttid) if self._tombstones.covers(ttid) else NotFound(ttid)

    async def create(
        self,
        ttid: TenantTimelineId,
        server: ServerInfo,
        *,
        configuration: Configuration = NO_CONFIGURATION,
        start_lsn: Lsn = INVALID_LSN,
        commit_lsn: Lsn = INVALID_LSN,
        revives: bool = False,
    ) -> Timeline:
        """The timeline of that name, made if it does not exist; parameters of an existing one are not compared.

        ``revives``: whoever asks decides about members, so that a newer ``configuration`` than the one that excluded this
        keeper brings its timeline back.  Writers do not.

        Raises NotMember, InvalidTimeline, NotMadeAgain, Closing, StorageError (DiskLimit among them: its WAL would be
        refused), or Exists when it is here but could not be read.

        Cancellation: leaves nothing, or a complete timeline that the next ``create`` or start finds.
        """
        async with self._changing:
            try:
                return self.get(ttid)
            except NotFound:
                pass
            if self._tombstones.covers(ttid, configuration.generation if revives else None):
                raise NotMadeAgain(ttid)
            require_member(self.node_id, configuration)
            self.room.require()
            seconds, nanoseconds = divmod(time.time_ns(), 1_000_000_000)
            control_file = new_control_file(
                ttid,
                server,
                (seconds, nanoseconds),
                configuration=configuration,
                start_lsn=start_lsn,
                commit_lsn=commit_lsn,
            )
            try:
                await self._losing(partial(self._offload, self._directory.create, control_file))
                log.info("timeline created", ttid=str(ttid), pg_version=server.pg_version)
            except Exists:
                log.info("timeline found on disk", ttid=str(ttid))
            self._tombstones.unbury(ttid)
            return await self._open_one(ttid)

    async def delete(self, ttid: TenantTimelineId, *, excluding: Configuration | None = None) -> bool:
        """Delete the timeline here, durably, and remember that; returns whether there was anything of it.

        Its connections are sent away.  ``excluding`` is the configuration that leaves this keeper out, if that is why.

        Raises StillMember, StaleExclusion or TimelineUnavailable (nothing has happened), or StorageError: then it has
        begun, the timeline can only be deleted, and after a start it is as it was, or gone.

        Cancellation: while others are being made, deleted or written to nothing has happened; after that everything has.
        """
        if excluding is not None:
            require_no_member(self.node_id, excluding)
        async with self._changing:
            return await self._delete(ttid, excluding)

    async def delete_tenant(self, tenant_id: TenantId) -> dict[TimelineId, bool]:
        """Delete all timelines of the tenant as ``delete`` does; returns of each whether there was anything of it.

        None of them is made again, nor one that never existed.  Raises the first error when all have been tried; it can
        be tried again.

        Cancellation: between two timelines; it can be tried again.
        """
        async with self._changing:
            self._tombstones.bury_tenant(tenant_id)
            on_disk = await self._offload(self._directory.timelines_of, tenant_id)
            ttids = sorted({*on_disk, *(ttid for ttid in self._open if ttid.tenant_id == tenant_id)})
            deleted: dict[TimelineId, bool] = {}
            errors: list[StorageError | TimelineUnavailable] = []
            for ttid in ttids:
                try:
                    deleted[ttid.timeline_id] = await self._delete(ttid)
                except DurabilityLost:
                    raise
                except (StorageError, TimelineUnavailable) as error:
                    errors.append(error)
            if errors:
                raise errors[0]
            await self._losing(partial(self._offload, self._directory.remove_tenant, tenant_id))
            return deleted

    async def _delete(self, ttid: TenantTimelineId, excluding: Configuration | None = None) -> bool:
        generation = None if excluding is None else excluding.generation
        if self._tombstones.is_deleted(ttid, generation):
            if excluding is None:
                self._tombstones.bury(ttid)  # for good: it may have been excluded only
            return False
        if excluding is not None and (error := self._shut.get(ttid)):
            raise Exists(ttid, str(error))  # nobody knows its generation
        remove = partial(self._directory.remove, ttid)
        if timeline := self._open.get(ttid):
            existed = await self._losing(partial(timeline.delete, remove, excluding))
        else:
            existed = await self._losing(partial(self._offload, remove))
        self._open.pop(ttid, None)  # no checkpoint since the disk has changed
        self._shut.pop(ttid, None)
        self._tombstones.bury(ttid, generation)
        log.info("timeline deleted", ttid=str(ttid), existed=existed)
        return existed

    async def _open_one(self, ttid: TenantTimelineId) -> Timeline:
        timeline = self._timeline_of(ttid)
        await self._losing(timeline.open)
        self._enter(timeline)
        return timeline

    def _timeline_of(self, ttid: TenantTimelineId) -> Timeline:
        store = self._directory.store(ttid, self._observe)
        return Timeline(ttid, self.node_id, store, self._offload, self.room)

    def _enter(self, timeline: Timeline) -> None:
        self._open[timeline.ttid] = timeline
        self._to_upkeep.send_nowait(timeline)

    async def _look(self) -> Space:
        return await self._offload(self._directory.space)

    async def load(self) -> None:
        """Open everything in the data directory.  What is corrupt stays shut, and what cannot be read is tried again later.

        Raises StorageError when the directory itself cannot be read.

        Cancellation: at any time; what is open is open.
        """
        await self.room.look(self._look)
        ttids = await self._offload(self._directory.timelines)
        async with trio.open_nursery() as nursery:
            for ttid in ttids:
                nursery.start_soon(self._load_one, ttid)

    async def _load_one(self, ttid: TenantTimelineId) -> None:
        timeline = self._timeline_of(ttid)
        try:
            await timeline.open()
        except DurabilityLost:
            raise
        except Corrupt as error:
            self._shut[ttid] = error
            log.error("timeline stays shut", ttid=str(ttid), error=str(error))
            return
        except StorageError as error:  # may pass: it is as if the fuse had blown, and upkeep reads it again
            log.error("timeline cannot be read yet", ttid=str(ttid), error=str(error))
        self._enter(timeline)

    async def keep_up(self, save_seconds: float) -> None:
        """Look after every timeline that gets opened, until cancelled.

        Raises DurabilityLost, whoever met it: the process must end, and a connection or a request cannot end it.
        """
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._raise_lost)
            nursery.start_soon(self.room.watch, self._look)
            async for timeline in self._for_upkeep:
                nursery.start_soon(keep_up, timeline, save_seconds, name=f"upkeep {timeline.ttid}")

    async def _losing(self, operation: Callable[[], Awaitable[T]]) -> T:
        """What ``operation`` returns.  A failed sync ends the process, though no timeline's upkeep knows of it."""
        try:
            return await operation()
        except DurabilityLost as lost:
            self._lost = lost
            self._has_lost.set()
            raise

    async def _raise_lost(self) -> None:
        await self._has_lost.wait()
        assert self._lost is not None
        raise self._lost

    async def close(self) -> None:
        """Close them all: control files are saved, files given back.

        Cancellation: at any time; what is not closed by then needs no closing to be safe.
        """
        async with trio.open_nursery() as nursery:
            for timeline in self._open.values():
                nursery.start_soon(timeline.close)


@asynccontextmanager
async def open_timelines(
    directory: DataDirectory,
    offload: Offload,
    *,
    save_seconds: float,
    observe: Observe = unobserved,
    limits: DiskLimits | None = None,
) -> AsyncIterator[Timelines]:
    """Everything in ``directory``, opened, looked after, and closed in the end.

    ``save_seconds``: how long a control file may lag behind what is in memory.  ``observe`` hears of disk
    operations, on the threads that make them.  ``limits``: of what WAL may take of the disk.  Raises StorageError when the
    directory cannot be read, and DurabilityLost, from the block, when an fsync has failed.
    """
    timelines = Timelines(directory, offload, observe, Room(limits, observe))
    await timelines.load()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(timelines.keep_up, save_seconds)
        yield timelines
        nursery.cancel_scope.cancel(reason="shutdown")
    await timelines.close()
