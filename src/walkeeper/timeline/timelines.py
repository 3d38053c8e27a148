"""All timelines of a keeper: finding, creating, opening at start, closing at the end.

Creating is idempotent: a timeline that exists is returned as it is, and one whose directory was made but never
entered here, because whoever asked went away, is opened as if it had just been made (hazard L2).

Does not know the data directory's layout (``storage.data_directory``) or who asks.
"""

import math
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import structlog
import trio

from walkeeper.acceptor.acceptor import require_member
from walkeeper.acceptor.state import new_control_file
from walkeeper.errors import DurabilityLost, Exists, NotFound, StorageError
from walkeeper.ids import TenantTimelineId
from walkeeper.lsn import INVALID_LSN, Lsn
from walkeeper.membership import NO_CONFIGURATION, Configuration
from walkeeper.messages import ServerInfo
from walkeeper.storage.data_directory import DataDirectory
from walkeeper.storage.offload import Offload
from walkeeper.storage.wal import Observe, unobserved
from walkeeper.timeline.timeline import Timeline
from walkeeper.timeline.upkeep import keep_up

log = structlog.stdlib.get_logger()


class Timelines:
    """The map.  Made by ``open_timelines``."""

    def __init__(self, directory: DataDirectory, offload: Offload, observe: Observe) -> None:
        self._directory = directory
        self._offload = offload
        self._observe = observe
        self._open: dict[TenantTimelineId, Timeline] = {}
        self._shut: dict[TenantTimelineId, StorageError] = {}
        self._creating = trio.Lock()
        self._lost: DurabilityLost | None = None
        self._has_lost = trio.Event()
        self._to_upkeep, self._for_upkeep = trio.open_memory_channel[Timeline](math.inf)  # one item per timeline

    def ttids(self) -> list[TenantTimelineId]:
        """The names of all timelines that can be used."""
        return sorted(self._open)

    def all(self) -> list[Timeline]:
        return list(self._open.values())

    def shut(self) -> dict[TenantTimelineId, StorageError]:
        """The timelines whose files could not be read at start, and why."""
        return dict(self._shut)

    def get(self, ttid: TenantTimelineId) -> Timeline:
        """Raises NotFound, or Exists when it is here but could not be read."""
        if timeline := self._open.get(ttid):
            return timeline
        if error := self._shut.get(ttid):
            raise Exists(ttid, str(error))
        raise NotFound(ttid)

    async def create(
        self,
        ttid: TenantTimelineId,
        server: ServerInfo,
        *,
        configuration: Configuration = NO_CONFIGURATION,
        start_lsn: Lsn = INVALID_LSN,
        commit_lsn: Lsn = INVALID_LSN,
    ) -> Timeline:
        """The timeline of that name, made if it does not exist; parameters of an existing one are not compared.

        Raises NotMember, InvalidTimeline, StorageError, or Exists when it is here but could not be read.

        Cancellation: leaves nothing, or a complete timeline that the next ``create`` or start finds.
        """
        async with self._creating:
            try:
                return self.get(ttid)
            except NotFound:
                pass
            require_member(self._directory.node_id, configuration)
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
                await self._offload(self._directory.create, control_file)
                log.info("timeline created", ttid=str(ttid), pg_version=server.pg_version)
            except Exists:
                log.info("timeline found on disk", ttid=str(ttid))
            except DurabilityLost as lost:
                self._lose(lost)
                raise
            return await self._open_one(ttid)

    async def _open_one(self, ttid: TenantTimelineId) -> Timeline:
        store = self._directory.store(ttid, self._observe)
        timeline = Timeline(ttid, self._directory.node_id, store, self._offload)
        try:
            await timeline.open()
        except DurabilityLost as lost:
            self._lose(lost)
            raise
        self._open[ttid] = timeline
        self._to_upkeep.send_nowait(timeline)
        return timeline

    async def load(self) -> None:
        """Open everything in the data directory.  What cannot be read stays shut, and is logged.

        Raises StorageError when the directory itself cannot be read.

        Cancellation: at any time; what is open is open.
        """
        ttids = await self._offload(self._directory.timelines)
        async with trio.open_nursery() as nursery:
            for ttid in ttids:
                nursery.start_soon(self._load_one, ttid)

    async def _load_one(self, ttid: TenantTimelineId) -> None:
        try:
            await self._open_one(ttid)
        except DurabilityLost:
            raise
        except StorageError as error:
            self._shut[ttid] = error
            log.error("timeline stays shut", ttid=str(ttid), error=str(error))

    async def keep_up(self, save_seconds: float) -> None:
        """Look after every timeline that gets opened, until cancelled.

        Raises DurabilityLost, whoever met it: the process must end, and a connection or a request cannot end it.
        """
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._raise_lost)
            async for timeline in self._for_upkeep:
                nursery.start_soon(keep_up, timeline, save_seconds, name=f"upkeep {timeline.ttid}")

    def _lose(self, lost: DurabilityLost) -> None:
        """A failed sync of a timeline that upkeep does not know yet."""
        self._lost = lost
        self._has_lost.set()

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
    directory: DataDirectory, offload: Offload, *, save_seconds: float, observe: Observe = unobserved
) -> AsyncIterator[Timelines]:
    """Everything in ``directory``, opened, looked after, and closed in the end.

    ``save_seconds``: how long a control file may lag behind what is in memory.  ``observe`` hears of disk
    operations, on the threads that make them.  Raises StorageError when the
    directory cannot be read, and DurabilityLost, from the block, when an fsync has failed.
    """
    timelines = Timelines(directory, offload, observe)
    await timelines.load()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(timelines.keep_up, save_seconds)
        yield timelines
        nursery.cancel_scope.cancel(reason="shutdown")
    await timelines.close()
