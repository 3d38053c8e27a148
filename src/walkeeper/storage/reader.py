"""Reading WAL back, next to the writer and without its lock.

A segment is opened under whatever name it has at that moment, and may be read through many reads.  It may be removed
by a truncation meanwhile, and be written anew by another leader under the same name: so an open segment is good for as
long as nothing was withdrawn since before it was opened, and whoever keeps one looks.

Does not know what is committed: whoever sends what was read knows up to where, and reads of uncommitted WAL are
only believed (errors included) if no truncation came between.  Source: Neon's ``wal_storage.rs`` (WalReader);
preadv2(2), RWF_NOWAIT.
"""

from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from walkeeper.errors import Corrupt, FileMissing, WalNotAvailable
from walkeeper.formats.segments import segment_start
from walkeeper.ids import TimelineNumber
from walkeeper.lsn import Lsn
from walkeeper.storage.disk import File, ReadableDisk
from walkeeper.storage.wal import partial, segment_path


class OpenSegment:
    """The segment that begins at ``begin_lsn`` (of ``segment_bytes``), to be read.  Any number of threads may."""

    def __init__(self, file: File, begin_lsn: Lsn, segment_bytes: int) -> None:
        self._file = file
        self._begin_lsn = begin_lsn
        self._segment_bytes = segment_bytes

    @property
    def path(self) -> Path:
        """Which file it is."""
        return self._file.path

    def __contains__(self, lsn: Lsn) -> bool:
        return self._begin_lsn <= lsn < self._begin_lsn + self._segment_bytes

    def read(self, lsn: Lsn, length: int) -> bytes:
        """The ``length`` bytes of WAL at ``lsn``, or those up to the end of the segment if that comes first.

        Raises Corrupt if the file is too short, or another StorageError.
        """
        offset = lsn - self._begin_lsn
        wanted = min(length, self._segment_bytes - offset)
        wal = self._file.pread(wanted, offset)
        if len(wal) < wanted:
            raise Corrupt(
                f"ends at {offset + len(wal)} instead of {self._segment_bytes}", path=str(self._file.path)
            )
        return wal

    def try_read(self, lsn: Lsn, buffer: memoryview) -> bool:
        """Fill ``buffer`` with the WAL at ``lsn`` if the page cache has it; never waits.  False: ``read`` it."""
        return self._file.try_pread(buffer, lsn - self._begin_lsn)

    def close(self) -> None:
        """Give the descriptor back."""
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self.close()


@dataclass(frozen=True, slots=True)
class WalReader:
    """Opens the segments in ``directory``, each of ``segment_bytes``.  Any number of threads may use one."""

    disk: ReadableDisk
    directory: Path
    segment_bytes: int

    def open(self, lsn: Lsn, tli: TimelineNumber) -> OpenSegment:
        """The segment of ``lsn``.  Raises WalNotAvailable if it is not there, or another StorageError."""
        return OpenSegment(self._open_file(lsn, tli), segment_start(lsn, self.segment_bytes), self.segment_bytes)

    def read(self, lsn: Lsn, length: int, tli: TimelineNumber) -> bytes:
        """As the segment's ``read``, once.  Raises as ``open`` and that."""
        with self.open(lsn, tli) as segment:
            return segment.read(lsn, length)

    def _open_file(self, lsn: Lsn, tli: TimelineNumber) -> File:
        """The segment under the name it has right now: completion and truncation may rename it while we look.

        One rename can hide it from two looks, partial then final, but not from the third.
        """
        path = segment_path(self.directory, tli, lsn, self.segment_bytes)
        for name in (partial(path), path, partial(path)):
            try:
                return self.disk.open(name)
            except FileMissing:
                continue
        raise WalNotAvailable(lsn, f"there is no segment {path.name}")
