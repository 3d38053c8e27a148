"""Reading a timeline from disk: what does the control file say, and where does the WAL end?

The end is the end of the last record that is whole, found by reading forward from the persisted commit_lsn, every
checksum and every ``xl_prev`` (invariant 30).  What lies behind it is a torn record or zeroes.

Rules:
* Recovery trusts the disk, not the page cache.  After a failed fsync the cache shows bytes that the disk does not
  have, so what was found beyond commit_lsn is written again and synced before anybody hears of it (invariant 7).
* The control file is never rewritten by reading it (invariant 34).
* WAL that the control file speaks of and that is not there is ``Corrupt``; it is not shortened to fit.
* A disk that is full is no DiskFull here: there is no "as before" to go on from.

Does not truncate: that is the next leader's to say.  Source: Neon's ``xlog_utils.rs`` (find_end_of_wal).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from walkeeper.errors import Corrupt, FileMissing, Malformed
from walkeeper.formats.control_file import ControlFile, parse_control_file
from walkeeper.formats.frames import FRAME_BYTES_MAX
from walkeeper.formats.segments import segment_number, segment_offset, segment_start
from walkeeper.formats.xlog import PAGE_BYTES, RecordVerifier
from walkeeper.ids import NO_TLI, TimelineNumber
from walkeeper.lsn import INVALID_LSN, Lsn, format_lsn
from walkeeper.storage.disk import Disk, File
from walkeeper.storage.durable import remove_if_there
from walkeeper.storage.spare import SPARE, SPARE_BEING_MADE
from walkeeper.storage.wal import SEGMENT_BEING_MADE, no_way_back, partial, segment_path, segments_in

CONTROL_FILE: Final = "safekeeper.control"
CONTROL_FILE_BEING_MADE: Final = "safekeeper.control.partial"
REMOTE_SEGMENT_BEING_MADE: Final = "remote_partial.tmp"
"""Neon's names: either implementation starts on the other's data directory."""

INCOMPLETE: Final = "incomplete"
INCOMPLETE_BEING_MADE: Final = "incomplete.partial"
"""Ours: an empty file that says that the timeline is not whole.  Neon's keepers take no notice of it."""

CONTROL_FILE_BYTES_MAX: Final = 3 * FRAME_BYTES_MAX
"""A control file has some hundred bytes.  At most it holds the longest history that one message can bring and the
largest configuration that another could before their number had a limit: members need up to 18/11 of their bytes
there."""

LEFTOVERS: Final = frozenset(
    {CONTROL_FILE_BEING_MADE, SEGMENT_BEING_MADE, REMOTE_SEGMENT_BEING_MADE, SPARE, SPARE_BEING_MADE}
)
"""What is deleted when a timeline is read: temporary names."""

_CHUNK_BYTES: Final = 1 << 20
"""Read, verified or written again at once."""


@dataclass(frozen=True, slots=True)
class Recovered:
    """A timeline as it is on disk.  ``end_lsn`` is a record end, 0 while there is no WAL and none is known to come.

    ``tli`` is PostgreSQL's timeline id, 0 while there is no WAL.  ``is_whole``: see ``AcceptorState``.
    """

    control_file: ControlFile
    end_lsn: Lsn
    tli: TimelineNumber
    is_whole: bool


def recover(disk: Disk, directory: Path) -> Recovered:
    """Read the timeline in ``directory`` and make sure that all of it is durable.

    Raises Corrupt (the timeline must stay closed), DurabilityLost or another StorageError, but not DiskFull.
    """
    with no_way_back(f"{directory} was being read"):
        control_file = read_control_file(disk, directory)
        require_here(control_file, directory)
        remove_leftovers(disk, directory)
        end_lsn, tli = _recover_wal(disk, directory, control_file)
        disk.fsync_dir(directory)
        is_whole = INCOMPLETE not in disk.names(directory)
    return Recovered(control_file, end_lsn, tli, is_whole)


def require_here(control_file: ControlFile, directory: Path) -> None:
    """Without its WAL a timeline would be taken for an empty one, and a leader would begin it anew: raises Corrupt."""
    if control_file.evicted_at is not None:
        raise Corrupt(
            f"its WAL, up to {format_lsn(control_file.evicted_at)}, is in remote storage, which is not supported yet",
            path=str(directory / CONTROL_FILE),
        )


def _recover_wal(disk: Disk, directory: Path, control_file: ControlFile) -> tuple[Lsn, TimelineNumber]:
    """Where the WAL ends, all content before that made durable; and its timeline id."""
    if control_file.commit_lsn == INVALID_LSN:
        return INVALID_LSN, NO_TLI
    wal = _WalOnDisk(disk, directory, control_file)
    end_lsn = wal.find_end()
    wal.write_again(end_lsn)
    return end_lsn, wal.tli_of_wal_before(end_lsn)


def read_control_file(disk: Disk, directory: Path) -> ControlFile:
    """The control file in ``directory``.  Raises Corrupt if it is missing or not one, else StorageError."""
    path = directory / CONTROL_FILE
    try:
        with disk.open(path) as file:
            return parse_control_file(file.pread(CONTROL_FILE_BYTES_MAX, 0))
    except (FileMissing, Malformed) as error:
        raise Corrupt(str(error), path=str(path)) from error


def remove_leftovers(disk: Disk, directory: Path) -> None:
    """Delete what an interruption left under a temporary name."""
    for name in disk.names(directory):
        if name in LEFTOVERS:
            remove_if_there(disk, directory / name)


class _WalOnDisk:
    """The segments from the persisted commit_lsn on."""

    def __init__(self, disk: Disk, directory: Path, control_file: ControlFile) -> None:
        self._disk = disk
        self._directory = directory
        self._control_file = control_file
        self._start = control_file.commit_lsn
        self._segment_bytes = control_file.server.wal_seg_size
        self._segments = segments_in(disk, directory, self._segment_bytes)
        self._tli = self._tli_in_names(self._start)

    def find_end(self) -> Lsn:
        """The end of the last whole record.  Raises Corrupt if the WAL does not even reach the start of the scan."""
        self._require_start()
        verifier = self._verifier()
        for _, _, chunk in self._chunks():
            verifier.check(chunk)
            if verifier.stopped:
                break
        assert verifier.record_end >= self._start  # invariant 30
        return verifier.record_end

    def _verifier(self) -> RecordVerifier:
        """Only the first page of a timeline may go on with a record that began before: all else is cut at records."""
        server, start = self._control_file.server, self._start
        may_be_inside = start == self._control_file.timeline_start_lsn and start % PAGE_BYTES == 0
        try:
            return RecordVerifier(
                start,
                pg_major=server.pg_major,
                wal_seg_size=server.wal_seg_size,
                tli=self._tli,
                inside_record=may_be_inside,
            )
        except Malformed as error:
            raise Corrupt(str(error), path=str(self._directory / CONTROL_FILE)) from error

    def _require_start(self) -> None:
        """Committed WAL was promised: the segment that holds its last byte must be there and reach behind it.

        No more than that, since a truncation at commit_lsn that a crash interrupts leaves the file cut right there.
        """
        if self._start <= self._control_file.local_start_lsn:
            return  # there is no WAL yet
        last = Lsn(self._start - 1)
        end = f"holds WAL up to commit_lsn {format_lsn(self._start)}"
        file = self._open(last)
        if file is None:
            path = segment_path(self._directory, self._tli, last, self._segment_bytes)
            raise Corrupt(f"is missing, but {end}", path=str(path))
        with file:
            if file.size() <= segment_offset(last, self._segment_bytes):
                raise Corrupt(f"is too short, but {end}", path=str(file.path))

    def _chunks(self) -> Iterator[tuple[File, Lsn, bytes]]:
        """All that is there from the start on: the file it is in, its LSN, and its bytes, up to a gap."""
        lsn = self._start
        while file := self._open(lsn):
            segment_end = Lsn(segment_start(lsn, self._segment_bytes) + self._segment_bytes)
            with file:
                for chunk in self._chunks_of(file, lsn):
                    yield file, lsn, chunk
                    lsn = Lsn(lsn + len(chunk))
            if lsn < segment_end:
                return  # a short file: an interrupted truncation, or one made in place by an early version

    def _chunks_of(self, file: File, lsn: Lsn) -> Iterator[bytes]:
        offset = segment_offset(lsn, self._segment_bytes)
        while offset < self._segment_bytes:
            chunk = file.pread(min(_CHUNK_BYTES, self._segment_bytes - offset), offset)
            if not chunk:
                return
            yield chunk
            offset += len(chunk)

    def _open(self, lsn: Lsn) -> File | None:
        path = segment_path(self._directory, self._tli, lsn, self._segment_bytes)
        for name in (partial(path), path):
            try:
                return self._disk.open_for_writing(name)
            except FileMissing:
                continue
        return None

    def write_again(self, end_lsn: Lsn) -> None:
        """Make durable what the page cache shows between the start and ``end_lsn``; names are left to the caller.

        Writing makes the pages dirty again: a sync alone would do nothing about those whose sync failed before.
        """
        for file, lsn, chunk in self._chunks():
            if lsn >= end_lsn:
                break
            file.pwritev((memoryview(chunk)[: end_lsn - lsn],), segment_offset(lsn, self._segment_bytes))
            file.fsync()

    def tli_of_wal_before(self, end_lsn: Lsn) -> TimelineNumber:
        """The timeline id of the WAL that ends at ``end_lsn``; 0 if there is none.

        An empty first segment proves nothing: it may have been named for a stream that never began.
        """
        if end_lsn == self._control_file.local_start_lsn and not segment_offset(end_lsn, self._segment_bytes):
            return NO_TLI
        return self._tli_in_names(end_lsn)

    def _tli_in_names(self, lsn: Lsn) -> TimelineNumber:
        """The timeline id in the name of the segment that holds the byte before ``lsn``, or else the byte at it."""
        for position in (lsn - 1, lsn):
            segno = segment_number(position, self._segment_bytes)
            found = {segment.tli for segment in self._segments if segment.segno == segno}
            if len(found) > 1:
                names = [segment.path.name for segment in self._segments if segment.segno == segno]
                raise Corrupt(f"one segment of several timelines: {', '.join(names)}", path=str(self._directory))
            if found:
                return found.pop()
        return NO_TLI
