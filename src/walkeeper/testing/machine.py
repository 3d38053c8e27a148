"""A keeper in a simulated cluster: the real daemon below its sockets, on a disk, a network and a clock that are not.

One life runs from the claim of the data directory to its end: a graceful stop, a kill, a power cut, or a failed sync.
What runs is ``services``, ``timeline`` and ``storage`` as they are; replaced are threads, disk and sockets.

Has no HTTP.  Does not decide when what goes wrong (``faults``) nor what must hold (``witness``).
"""

from collections.abc import Awaitable, Callable
from contextlib import closing
from pathlib import Path
from random import Random
from typing import Final, TypeVar

import trio

from walkeeper.errors import ConfigError, StorageError, WalkeeperError, leaves
from walkeeper.ids import NodeId, TenantTimelineId
from walkeeper.services.listener import Limits, accepting
from walkeeper.storage.data_directory import claim
from walkeeper.testing.memory_disk import MemoryDisk, PowerCut
from walkeeper.testing.network import Host
from walkeeper.testing.offload import InlineOffload
from walkeeper.timeline.room import DiskLimits
from walkeeper.timeline.timelines import Timelines, open_timelines

T = TypeVar("T")

DATA: Final = Path("/data")

DISK_SECONDS: Final = 0.001
"""What a job takes on a disk that is well, on average."""

SAVE_SECONDS: Final = 5.0
DRAIN_SECONDS: Final = 3.0
DISK_LIMITS: Final = DiskLimits(usage_ratio_max=0.98, timeline_bytes_max=0, check_seconds=2.0)
"""A disk that is full is met as such for a moment, and then WAL is refused before the disk does it."""

LIMITS: Final = Limits(reader_seconds_max=60.0, connections_max=1000)


def directory_of(ttid: TenantTimelineId) -> Path:
    """Where a keeper has that timeline."""
    return DATA / str(ttid.tenant_id) / str(ttid.timeline_id)


class Uncounted:
    """Instruments that count nothing."""

    def _hear(self, *what: object, **how: object) -> None: ...

    connection_begins = connection_identified = connection_ends = _hear
    query_received = query_finished = refused = _hear
    message_processed = appends_kept = acknowledged = leader_followed = pageserver_reported = _hear


class KeeperMachine:
    """The machine of one keeper, and the daemon on it while it runs.

    ``lives`` counts its starts, ``disks`` the disks it has had.
    """

    def __init__(self, host: Host, node_id: NodeId, random: Random, tell: Callable[[str], None]) -> None:
        self.host = host
        self.node_id = node_id
        self.random = random
        self.lives = 0
        self.disks = 0
        self.disk_seconds = DISK_SECONDS
        self.timelines: Timelines | None = None
        self._tell = tell
        self._stop = trio.Event()
        self._scope = trio.CancelScope()
        self._ended = trio.Event()
        self._ended.set()
        self._administrators: trio.Nursery | None = None
        self.replace_disk()

    def __str__(self) -> str:
        return self.host.name

    def replace_disk(self) -> None:
        """Put in an empty disk.  Only while nothing runs."""
        assert not self.is_running
        self.disk = MemoryDisk()
        self.disk.mkdir(DATA)
        self.disk.syncfs(DATA)
        self.disks += 1

    @property
    def is_running(self) -> bool:
        return not self._ended.is_set()

    # -- a life -----------------------------------------------------------------------------------------------

    def start(self, nursery: trio.Nursery) -> None:
        """Start the daemon; it ends by itself only when the disk makes it."""
        assert not self.is_running
        self.lives += 1
        self._stop, self._ended, self._scope = trio.Event(), trio.Event(), trio.CancelScope()
        nursery.start_soon(self._live, name=f"{self} life {self.lives}")

    async def _live(self) -> None:
        try:
            with self._scope:
                await self._serve()
        except* PowerCut:
            self._tell(f"{self} is off")
        except* (ConfigError, StorageError) as failures:
            self._tell(f"{self} ends: {next(leaves(failures))}")
            self.disk.end_process()
        finally:
            self.timelines = None
            self.host.go_down(silently=False)
            self._ended.set()

    async def _serve(self) -> None:
        offload = InlineOffload(lambda: self.random.expovariate(2 / self.disk_seconds))
        with closing(claim(self.disk, DATA, self.node_id)) as directory:
            async with open_timelines(
                directory, offload, save_seconds=SAVE_SECONDS, limits=DISK_LIMITS
            ) as self.timelines:
                async with trio.open_nursery() as connections:
                    listener = self.host.listen()
                    async with accepting(listener, self.timelines, connections, Uncounted(), LIMITS):
                        self._administrators = connections
                        try:
                            await self._stop.wait()
                        finally:
                            self._administrators = None
                    connections.cancel_scope.deadline = trio.current_time() + DRAIN_SECONDS

    async def administer(self, request: Callable[[Timelines], Awaitable[T]]) -> T | None:
        """What an operator's request to the daemon returns; None if it is refused, or ends with the daemon.

        ``request`` runs as part of the daemon, as an HTTP request does: no longer than it lives.
        """
        if self._administrators is None or self.timelines is None:
            return None
        timelines, answers, ended = self.timelines, list[T](), trio.Event()

        async def answer() -> None:
            try:
                answers.append(await request(timelines))
            except WalkeeperError as refusal:
                self._tell(f"{self} refuses an operator: {refusal}")
            finally:
                ended.set()

        self._administrators.start_soon(answer)
        await ended.wait()
        return answers[0] if answers else None

    # -- its ends ---------------------------------------------------------------------------------------------

    async def stop(self) -> None:
        """As SIGTERM does."""
        self._stop.set()
        await self._ended.wait()

    async def kill(self) -> None:
        """As SIGKILL does: what was written stays, synced or not."""
        await self._go_off(silently=False)
        self.disk.end_process()

    async def lose_power(self, *, operations: int = 0) -> None:
        """Go off without a word, ``operations`` of the disk from now at the latest, and lose what was not synced."""
        self.disk.cut_power(self.disk.operations + operations, after=self.random.random() < 0.5)
        with trio.move_on_after(self.disk_seconds * (1 + operations)):
            await self._ended.wait()
        await self._go_off(silently=True)
        self.disk.crash(self.random.randrange(100))

    async def _go_off(self, *, silently: bool) -> None:
        self.disk.cut_power(self.disk.operations, after=False)
        self.host.go_down(silently=silently)
        self._scope.cancel(reason="the machine is off")
        await self._ended.wait()
