"""A timeline on a disk in memory, and what a proposer would say to it."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from walkeeper.ids import NodeId, TenantId, TenantTimelineId, TimelineId
from walkeeper.lsn import INVALID_LSN, Lsn
from walkeeper.membership import NO_GENERATION
from walkeeper.messages import AppendResponse, AppendRun, ProposerElected, ServerInfo, VoteRequest
from walkeeper.storage.data_directory import claim
from walkeeper.storage.offload import Offload
from walkeeper.terms import Term, TermHistory
from walkeeper.testing.memory_disk import MemoryDisk
from walkeeper.testing.offload import InlineOffload
from walkeeper.testing.wal import WalGenerator
from walkeeper.timeline.room import DiskLimits
from walkeeper.timeline.timeline import Timeline
from walkeeper.timeline.timelines import Timelines, open_timelines

SEGMENT = 1 << 20
START = Lsn(3 * SEGMENT + 0x2760)
TTID = TenantTimelineId(TenantId(b"t" * 16), TimelineId(b"l" * 16))
SERVER = ServerInfo(pg_version=150005, system_id=77, wal_seg_size=SEGMENT)
DATA = Path("/data")
SAVE_SECONDS = 300.0


def new_disk() -> MemoryDisk:
    disk = MemoryDisk()
    disk.mkdir(DATA)
    disk.syncfs(DATA)
    return disk


@asynccontextmanager
async def timelines_on(
    disk: MemoryDisk, offload: Offload | None = None, limits: DiskLimits | None = None
) -> AsyncIterator[Timelines]:
    """A keeper's timelines, from start to end."""
    directory = claim(disk, DATA, NodeId(3))
    async with open_timelines(
        directory, offload or InlineOffload(), save_seconds=SAVE_SECONDS, limits=limits
    ) as timelines:
        yield timelines
    directory.close()


class Leader:
    """Streams WAL to one timeline."""

    def __init__(self, timeline: Timeline, term: int = 1, start: Lsn = START) -> None:
        self.timeline = timeline
        self.term = Term(term)
        self.wal = WalGenerator(start, pg_major=15, wal_seg_size=SEGMENT)

    async def be_elected(self, history: TermHistory | None = None) -> None:
        await self.timeline.process(VoteRequest(NO_GENERATION, self.term))
        history = history or TermHistory.of((self.term, self.wal.start))
        await self.timeline.process(ProposerElected(NO_GENERATION, self.term, self.wal.start, history))

    def next_run(self, size: int = 500, commit: Lsn = INVALID_LSN) -> AppendRun:
        begin = self.wal.lsn
        self.wal.record(b"w" * size)
        piece = self.wal.wal[begin - self.wal.start :]
        return AppendRun(NO_GENERATION, self.term, begin, self.wal.lsn, commit, INVALID_LSN, (piece,))

    async def append(self, size: int = 500, commit: Lsn = INVALID_LSN) -> AppendResponse:
        reply = await self.timeline.process(self.next_run(size, commit))
        assert isinstance(reply, AppendResponse)
        return reply
