"""What is written: five ways to push WAL, and the frames that carry it.

Every frame is encoded before any clock starts, so that the load generator has nothing to do but send.  The WAL is
what PostgreSQL would write (page headers, lengths, checksums), since a keeper looks at it.  All timelines get the
same WAL: neither WAL nor frames name a timeline.

Does not send anything.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

from walkeeper.formats.frames import encode_copy_data_head
from walkeeper.formats.proposer import encode_append_head
from walkeeper.ids import TimelineNumber
from walkeeper.lsn import Lsn
from walkeeper.membership import NO_GENERATION
from walkeeper.messages import APPEND_BYTES_MAX, AppendRequest, ServerInfo
from walkeeper.terms import Term
from walkeeper.testing.wal import WalGenerator

PROTOCOL: Final = 3
TERM: Final = Term(1)
TLI: Final = TimelineNumber(1)
SEGMENT_BYTES: Final = 16 << 20
PG_VERSION: Final = 150000
SERVER: Final = ServerInfo(pg_version=PG_VERSION, system_id=7241562384010203040, wal_seg_size=SEGMENT_BYTES)

WAL_START: Final = Lsn(SEGMENT_BYTES)
"""At a segment start, as a sidecar begins: the first page header says the PostgreSQL timeline id."""

SMALL_APPENDS: Final = 100_000
"""55 MB: half a second of a fast server when pipelined, and more than any run can send one by one."""

ROW_BYTES: Final = 424
COMMIT_BYTES: Final = 8
"""Main data of the two records of a small append: with headers and padding about 550 bytes together."""

PAGE_IMAGE_BYTES: Final = 8000
BULK_BYTES: Final = 256 << 20
"""Half a second and more, and sixteen segments."""


@dataclass(frozen=True, slots=True)
class Workload:
    """``writers`` connections, each to a timeline of its own.

    ``is_pipelined``: everything is sent as fast as it is taken, and only the last answer is waited for; else each
    writer waits for the answer to an append before it sends the next.  ``aim``: the throughput that the keeper
    should have, as a ratio to the blocking server's.
    """

    name: str
    writers: int
    is_pipelined: bool
    is_bulk: bool
    aim: float


WORKLOADS: Final = (
    Workload("sync1", writers=1, is_pipelined=False, is_bulk=False, aim=0.5),
    Workload("sync16", writers=16, is_pipelined=False, is_bulk=False, aim=0.6),
    Workload("sync100", writers=100, is_pipelined=False, is_bulk=False, aim=1.0),
    Workload("pipe1", writers=1, is_pipelined=True, is_bulk=False, aim=1.0),
    Workload("bulk", writers=1, is_pipelined=True, is_bulk=True, aim=0.9),
)


@dataclass(frozen=True, slots=True)
class Frames:
    """AppendRequests as CopyData frames, one behind the other: frame ``i`` is buffer[starts[i]:starts[i + 1]].

    Its WAL ends at ``end_lsns[i]``.  The last one ends at a record end, so that a keeper reports it as flushed.
    """

    buffer: memoryview
    starts: Sequence[int]
    end_lsns: Sequence[Lsn]

    @property
    def wal_bytes(self) -> int:
        return self.end_lsns[-1] - WAL_START

    def wal_of(self, number: int) -> memoryview:
        """The WAL in a frame, which is its last part."""
        begin = self.end_lsns[number - 1] if number else WAL_START
        end = self.starts[number + 1]
        return self.buffer[end - (self.end_lsns[number] - begin) : end]


def small_frames() -> Frames:
    """One append for each transaction of one row: it begins and ends where a record does."""
    wal, ends = _generate(_write_transaction, SMALL_APPENDS)
    return _frames(wal, ends)


def bulk_frames() -> Frames:
    """Appends of the greatest length, cut wherever that is, as a walproposer cuts what it has to catch up."""
    wal, _ = _generate(_write_page_image, BULK_BYTES // (PAGE_IMAGE_BYTES + 64))
    ends = [Lsn(WAL_START + end) for end in range(APPEND_BYTES_MAX, len(wal), APPEND_BYTES_MAX)]
    return _frames(wal, [*ends, Lsn(WAL_START + len(wal))])


def _write_transaction(generator: WalGenerator) -> None:
    generator.logical_message("row", b"r" * ROW_BYTES)
    generator.record(b"c" * COMMIT_BYTES)


def _write_page_image(generator: WalGenerator) -> None:
    generator.record(b"p" * PAGE_IMAGE_BYTES)


def _generate(write_more: Callable[[WalGenerator], None], times: int) -> tuple[bytes, list[Lsn]]:
    """WAL from WAL_START on, and where it ended each time."""
    generator = WalGenerator(
        WAL_START, pg_major=SERVER.pg_major, wal_seg_size=SEGMENT_BYTES, tli=TLI, system_id=SERVER.system_id
    )
    ends = []
    for _ in range(times):
        write_more(generator)
        ends.append(generator.lsn)
    return generator.wal, ends


def _frames(wal: bytes, ends: Sequence[Lsn]) -> Frames:
    view = memoryview(wal)
    pieces: list[bytes | memoryview] = []
    starts, size = [0], 0
    for begin, end in pairwise([WAL_START, *ends]):
        # What a leader of a quorum of one knows when it sends this: everything before is committed.
        head = encode_append_head(AppendRequest(NO_GENERATION, TERM, begin, end, begin, WAL_START), PROTOCOL)
        frame_head = encode_copy_data_head(len(head) + end - begin)
        pieces += (frame_head, head, view[begin - WAL_START : end - WAL_START])
        size += len(frame_head) + len(head) + end - begin
        starts.append(size)
    return Frames(memoryview(b"".join(pieces)), starts, ends)
