"""The store of one timeline: performs the acceptor's effects, in the order given, and reads it all back.

Rules:
* What ``perform`` has done is durable when it returns, except WAL before its ``SyncWal``.
* A job that performs effects for which ``needs_files`` begins with ``require_files``: none of them wants for a descriptor
  then.
* DiskFull leaves everything as it was.  After any other error the timeline must be read again (``recover``).
* After a failed sync nothing is done and nothing reported as done until then (invariant 29).

One thread at a time, under the timeline's lock, except ``open_segment``, ``wants_spare``, ``prepare_spare`` and
``count_segments``.
Does not decide anything and does not know records: order and content of effects are the acceptor's.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, assert_never

from walkeeper.acceptor.effects import (
    BecomeWhole,
    Effect,
    InitializeFirstSegment,
    KeepControlFile,
    SyncWal,
    TruncateWal,
    WriteWal,
)
from walkeeper.errors import DurabilityLost, StorageError, WalNotAvailable
from walkeeper.formats.control_file import ControlFile, encode_control_file
from walkeeper.formats.segments import segment_number
from walkeeper.formats.xlog import first_segment_headers
from walkeeper.ids import NO_TLI
from walkeeper.lsn import Lsn
from walkeeper.storage.disk import Disk
from walkeeper.storage.durable import remove_if_there, replace_file
from walkeeper.storage.reader import OpenSegment, WalReader
from walkeeper.storage.recovery import (
    CONTROL_FILE,
    CONTROL_FILE_BEING_MADE,
    INCOMPLETE,
    INCOMPLETE_BEING_MADE,
    Recovered,
    recover,
)
from walkeeper.storage.wal import Observe, Wal, observed, segments_in, unobserved

SMALL_WRITE_BYTES_MAX: Final = 32 * 1024
"""The commits of some dozens of clients.  Syncing that takes hardly longer than syncing a single one, and whoever streams
more at once gains more from receiving while the disk works."""

FAILED: Final = "failed"
"""What observers call an effect that failed, whichever it was."""


@dataclass(slots=True)
class StoreStatistics:
    """What a store has done since the start, in bytes and seconds.

    ``saved_at``: when the control file was saved last, or read and found durable, in seconds since 1970.
    ``first_segno``: the number of the first segment, when it was looked last; None if there was none.

    Changed by the thread that has the timeline's lock; who looks without it sees what was true a moment ago.
    """

    written_bytes: int = 0
    written_seconds: float = 0.0
    flushed_seconds: float = 0.0
    saved_at: float | None = None
    first_segno: int | None = None


def write_control_file(disk: Disk, directory: Path, control_file: ControlFile) -> None:
    """Replace the control file in ``directory`` durably (invariants 32 and 33).

    Raises DiskFull (the old one is in place) or another StorageError.
    """
    content = encode_control_file(control_file)
    replace_file(disk, directory / CONTROL_FILE, content, temporary=CONTROL_FILE_BEING_MADE)


def write_new_timeline(disk: Disk, directory: Path, control_file: ControlFile) -> None:
    """Fill the empty ``directory`` of a timeline that is being made: not whole before a leader has said so.

    Raises DiskFull or another StorageError.
    """
    replace_file(disk, directory / INCOMPLETE, b"", temporary=INCOMPLETE_BEING_MADE)
    write_control_file(disk, directory, control_file)


class TimelineStore:
    """The files of one timeline in ``directory``.  ``recover`` comes first, and again after an error.

    ``observe`` hears of write_wal, flush_wal, persist_control_file, initialize_segment, initialize_first_segment,
    truncate_wal and remove_segment: name, seconds, bytes; and of effects that failed, as ``FAILED``.

    ``doing``: the effect that ``perform`` is at, nothing between two, for whoever looks at a disk that does not answer.
    """

    def __init__(self, disk: Disk, directory: Path, *, observe: Observe = unobserved) -> None:
        self._disk = disk
        self.directory = directory
        self.doing = ""
        self._tell = observe
        self.statistics = StoreStatistics()
        self._control_file: ControlFile | None = None
        self._wal: Wal | None = None
        self._tli = NO_TLI
        self._lost: DurabilityLost | None = None

    def recover(self) -> Recovered:
        """Read the timeline from disk and make sure that all of it is durable; at first and after any error.

        Raises Corrupt (the timeline must stay closed), DurabilityLost (the process must end) or another
        StorageError.
        """
        self.doing = ""
        self.close()
        recovered = recover(self._disk, self.directory)
        segment_bytes = recovered.control_file.server.wal_seg_size
        self._wal = Wal(self._disk, self.directory, segment_bytes, self._observe)
        self._control_file, self._tli, self._lost = recovered.control_file, recovered.tli, None
        self.statistics.saved_at = time.time()
        self.count_segments()
        return recovered

    def count_segments(self) -> None:
        """See which segment is the first one.  On any thread, without the lock.  Raises StorageError."""
        assert self._control_file is not None, "recover() comes first"
        segments = segments_in(self._disk, self.directory, self._control_file.server.wal_seg_size)
        self.statistics.first_segno = segments[0].segno if segments else None

    def require_files(self) -> None:
        """Raises TooFewFiles if what comes next in this job, on this thread, could want for descriptors."""
        self._disk.require_files()

    def perform(self, effect: Effect) -> None:
        """Make ``effect`` happen.

        Raises DiskFull (nothing has changed), DurabilityLost (the process must end) or another StorageError
        (anything may have been done of it: ``recover`` comes next).
        """
        if self._lost is not None:
            raise self._lost
        try:
            self._perform(effect)
            self.doing = ""
        except StorageError as error:
            self._tell(FAILED, 0.0, 0)
            if isinstance(error, DurabilityLost):
                self._lost = error
            raise

    def _doing(self, operation: str, size_bytes: int = 0) -> observed:
        self.doing = operation
        return observed(self._observe, operation, size_bytes)

    def _observe(self, operation: str, seconds: float, size_bytes: int) -> None:
        statistics = self.statistics
        if operation == "write_wal":
            statistics.written_bytes += size_bytes
            statistics.written_seconds += seconds
        elif operation == "flush_wal":
            statistics.flushed_seconds += seconds
        elif operation == "persist_control_file":
            statistics.saved_at = time.time()
        self._tell(operation, seconds, size_bytes)

    def _perform(self, effect: Effect) -> None:
        control_file, wal = self._opened()
        match effect:
            case WriteWal(begin_lsn, slices, tli):
                with self._doing("write_wal", effect.end_lsn - begin_lsn):
                    wal.write(begin_lsn, slices, tli)
                self._tli = tli
            case SyncWal():
                with self._doing("flush_wal"):
                    wal.sync()
            case KeepControlFile(changed):
                assert changed.server.wal_seg_size == control_file.server.wal_seg_size
                with self._doing("persist_control_file"):
                    write_control_file(self._disk, self.directory, changed)
                self._control_file = changed
            case InitializeFirstSegment(lsn, tli):
                head = first_segment_headers(lsn, server=control_file.server, tli=tli)
                with self._doing("initialize_first_segment", len(head)):
                    wal.initialize_first_segment(lsn, head, tli)
                self._tli = tli
                self.statistics.first_segno = segment_number(lsn, control_file.server.wal_seg_size)
            case TruncateWal(lsn, tli):
                with self._doing("truncate_wal"):
                    wal.truncate(lsn, tli)
                self._tli = tli
            case BecomeWhole():
                self.doing = "become_whole"
                remove_if_there(self._disk, self.directory / INCOMPLETE)
                self._disk.fsync_dir(self.directory)
            case _:
                assert_never(effect)

    def is_brief(self, effects: Sequence[Effect]) -> bool:
        """Whether a quick disk is done with them at once: they need no files, and what they write is small."""
        return 0 < self._bytes_into_open_segment(effects) <= SMALL_WRITE_BYTES_MAX

    def needs_files(self, effects: Sequence[Effect]) -> bool:
        """Whether ``require_files`` comes first: False for a write into the segment that is open and stays so, and its
        sync."""
        return not self._bytes_into_open_segment(effects)

    def _bytes_into_open_segment(self, effects: Sequence[Effect]) -> int:
        """How much is written, if nothing is done but writing it into the open segment and syncing it; else 0."""
        match effects:
            case [WriteWal() as write, SyncWal()] if self._wal is not None:
                size = write.end_lsn - write.begin_lsn
                return size if self._wal.is_open_for(write.begin_lsn, size) else 0
            case _:
                return 0

    def _opened(self) -> tuple[ControlFile, Wal]:
        assert self._control_file is not None and self._wal is not None, "recover() comes first"
        return self._control_file, self._wal

    def open_segment(self, lsn: Lsn) -> OpenSegment:
        """The segment of ``lsn``, to be read and closed by the caller.  On any thread, without the lock.

        Raises WalNotAvailable if it is not here, or another StorageError.
        """
        assert self._control_file is not None, "recover() comes first"
        if self._tli == NO_TLI:
            raise WalNotAvailable(lsn, "there is no WAL yet")
        return WalReader(self._disk, self.directory, self._control_file.server.wal_seg_size).open(lsn, self._tli)

    @property
    def wants_spare(self) -> bool:
        """Whether ``prepare_spare`` would be worth its while.  On any thread, without the lock."""
        return self._wal is not None and self._wal.wants_spare

    def prepare_spare(self) -> None:
        """Make the segment that will be needed next.  On any thread, without the lock.  Raises StorageError."""
        self.require_files()
        if wal := self._wal:
            wal.prepare_spare()
            self.count_segments()  # somebody may have removed some

    def close(self) -> None:
        """Give the files back; ``recover`` opens them again.  Raises StorageError."""
        if self._wal is not None:
            self._wal.close()
            self._wal = None
