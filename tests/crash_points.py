"""A keeper's storage under a leader's orders, and what must hold after a crash.

``Keeper`` gives the store the effects an acceptor would, and writes down in its ``Ledger`` what it has promised;
``check_recovered`` compares.  Whole keepers, at every operation of their disks: ``simulation/test_power_loss.py``.
"""

from bisect import bisect_right
from dataclasses import dataclass, field, replace
from pathlib import Path

from walkeeper.acceptor.effects import (
    BecomeWhole,
    InitializeFirstSegment,
    KeepControlFile,
    SyncWal,
    TruncateWal,
    WriteWal,
)
from walkeeper.formats.control_file import ControlFile
from walkeeper.formats.segments import next_segment_start
from walkeeper.formats.xlog import first_segment_headers
from walkeeper.ids import TenantId, TenantTimelineId, TimelineId, TimelineNumber
from walkeeper.lsn import INVALID_LSN, Lsn
from walkeeper.messages import ServerInfo
from walkeeper.storage.disk import Disk
from walkeeper.storage.reader import WalReader
from walkeeper.storage.recovery import Recovered
from walkeeper.storage.store import TimelineStore, write_new_timeline
from walkeeper.storage.wal import Segment, segments_in
from walkeeper.terms import Term
from walkeeper.testing.wal import WalGenerator

SEGMENT = 1 << 20
START = Lsn(5 * SEGMENT + 0x2028)
TLI = TimelineNumber(1)
SERVER = ServerInfo(pg_version=150005, system_id=0x1234, wal_seg_size=SEGMENT)
TTID = TenantTimelineId(TenantId(b"t" * 16), TimelineId(b"l" * 16))
DIRECTORY = Path("/timeline")


def new_wal(start: Lsn, total: int, *, fill: int, prev: int = 0, switch: bool = False) -> WalGenerator:
    """Records of up to 50 kB, at least ``total`` bytes of WAL in all, recognizable by ``fill``."""
    wal = WalGenerator(start, pg_major=15, wal_seg_size=SEGMENT, prev=Lsn(prev))
    while wal.lsn < start + total:
        wal.record(bytes([fill]) * (700 + 9973 * (len(wal.records) % 6)))
    if switch:
        wal.switch()
    return wal


def new_timeline(disk: Disk, **changes: object) -> ControlFile:
    """The directory of a timeline without WAL, durable."""
    control_file = replace(ControlFile(ttid=TTID, server=SERVER), **changes)  # type: ignore[arg-type]
    disk.mkdir(DIRECTORY)
    disk.fsync_dir(DIRECTORY.parent)
    write_new_timeline(disk, DIRECTORY, control_file)
    return control_file


def read_stored(store: TimelineStore, lsn: Lsn, length: int) -> bytes:
    """What the store has at ``lsn``: at most ``length`` bytes, never beyond the segment."""
    with store.open_segment(lsn) as segment:
        return segment.read(lsn, length)


@dataclass
class Ledger:
    """What a keeper has promised, and what its disk may hold.

    ``wal`` begins at START; it is everything that was ever handed to the store and not truncated since.  Records end
    at ``ends`` and start at ``starts``.  ``promised`` is the flush_lsn that was reported.  ``coming`` is a control file being kept.
    ``is_whole`` it is said to be, and ``may_be_whole`` from when it was asked to.
    """

    kept: ControlFile
    coming: ControlFile | None = None
    wal: bytes = b""
    ends: list[Lsn] = field(default_factory=lambda: [START])
    starts: list[Lsn] = field(default_factory=lambda: [INVALID_LSN])
    promised: Lsn = INVALID_LSN
    is_whole: bool = False
    may_be_whole: bool = False

    def cut(self, lsn: Lsn) -> None:
        self.wal = self.wal[: lsn - START]
        kept = bisect_right(self.ends, lsn)
        self.ends, self.starts = self.ends[:kept], self.starts[:kept]

    def extend(self, generator: WalGenerator) -> None:
        assert START + len(self.wal) <= generator.start
        self.wal = self.wal.ljust(generator.start - START, b"\0") + generator.wal
        self.ends += [record.end for record in generator.records]
        self.starts += [record.start for record in generator.records]


class Keeper:
    """An acceptor reduced to the orders it gives its store."""

    def __init__(self, disk: Disk, ledger: Ledger) -> None:
        self.disk = disk
        self.store = TimelineStore(disk, DIRECTORY)
        self.ledger = ledger

    def recover(self) -> Recovered:
        return self.store.recover()

    def save(self, **changes: object) -> None:
        self.ledger.coming = replace(self.ledger.kept, **changes)  # type: ignore[arg-type]
        self.store.perform(KeepControlFile(self.ledger.coming))
        self.ledger.kept, self.ledger.coming = self.ledger.coming, None

    def elect(self, lsn: Lsn, tli: TimelineNumber) -> None:
        """A new leader continues at ``lsn``: term, truncation, the rest of the control file."""
        self.save(term=Term(self.ledger.kept.term + 1))
        self.ledger.promised = min(self.ledger.promised, lsn)
        if not tli:
            self.store.perform(InitializeFirstSegment(lsn, TLI))
        self.store.perform(TruncateWal(lsn, TLI))
        self.ledger.cut(lsn)
        start = self.ledger.kept.timeline_start_lsn or lsn
        commit_lsn = max(self.ledger.kept.commit_lsn, start)
        self.save(timeline_start_lsn=start, local_start_lsn=start, commit_lsn=commit_lsn)

    def append(self, generator: WalGenerator, *, batch: int = 600_000, until: Lsn | None = None) -> None:
        """Stream WAL in batches of uneven slices, promising each once it is synced."""
        self.ledger.extend(generator)
        wal = memoryview(generator.wal)[: None if until is None else until - generator.start]
        for begin in range(0, len(wal), batch):
            part = wal[begin : begin + batch]
            slices = [part[:1], part[1:131], part[131 : batch // 2], part[batch // 2 :]]
            self.store.perform(WriteWal(Lsn(generator.start + begin), [s for s in slices if s], TLI))
            self.store.perform(SyncWal())
            self.ledger.promised = generator.record_end_at(generator.start + begin + len(part))

    def commit(self) -> None:
        self.save(commit_lsn=self.ledger.promised)

    def become_whole(self) -> None:
        self.ledger.may_be_whole = True
        self.store.perform(BecomeWhole())
        self.ledger.is_whole = True


def check_recovered(disk: Disk, ledger: Ledger, recovered: Recovered) -> None:
    assert recovered.control_file in (ledger.kept, ledger.coming)  # invariants 32 and 33
    assert recovered.is_whole in (ledger.is_whole, ledger.may_be_whole)  # invariant 47
    if recovered.end_lsn == INVALID_LSN:
        assert ledger.promised == INVALID_LSN
        assert recovered.control_file.commit_lsn == INVALID_LSN
        return
    assert recovered.end_lsn in ledger.ends  # invariant 24
    assert recovered.end_lsn >= ledger.promised  # invariants 7 and 30
    assert recovered.end_lsn >= recovered.control_file.commit_lsn
    assert recovered.tli == TLI
    assert read_wal(disk, recovered.end_lsn) == ledger.wal[: recovered.end_lsn - START]  # invariant 25
    for segment in segments_in(disk, DIRECTORY, SEGMENT):
        if not segment.is_partial:
            check_complete(disk, ledger, segment)


def check_complete(disk: Disk, ledger: Ledger, segment: Segment) -> None:
    """A file without the suffix is whole and holds nothing but WAL up to its end (invariant 28)."""
    begin = segment.segno * SEGMENT
    head = first_segment_headers(START, server=SERVER, tli=TLI) if begin < START else b""
    expected = head + ledger.wal[max(0, begin - START) :][: SEGMENT - len(head)]
    assert read_file(disk, segment.path.name) == expected


def read_file(disk: Disk, name: str) -> bytes:
    with disk.open(DIRECTORY / name) as file:
        return file.pread(file.size(), 0)


def read_wal(disk: Disk, end_lsn: Lsn) -> bytes:
    """What a sender would read from START to ``end_lsn``.  Padding that never came and has no file is zeroes."""
    reader, wal, lsn = WalReader(disk, DIRECTORY, SEGMENT), bytearray(), START
    while lsn < end_lsn:
        length = min(end_lsn, next_segment_start(lsn + 1, SEGMENT)) - lsn
        wal += reader.read(lsn, length, TLI)
        lsn = Lsn(lsn + length)
    return bytes(wal)


def whole_directory(disk: Disk) -> dict[str, bytes]:
    """Every file of the timeline, by name."""
    return {name: read_file(disk, name) for name in disk.names(DIRECTORY)}
