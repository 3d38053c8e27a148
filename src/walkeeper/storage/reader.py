"""Reading WAL back, next to the writer and without its lock.

Each read opens the segment it needs and closes it: a descriptor that is kept would go on reading a segment that a
truncation has removed and another leader written anew.

Does not know what is committed: whoever sends what was read knows up to where, and reads of uncommitted WAL are
only believed (errors included) if no truncation came between.  Source: Neon's ``wal_storage.rs`` (WalReader).
"""

from dataclasses import dataclass
from pathlib import Path

from walkeeper.errors import Corrupt, FileMissing, WalNotAvailable
from walkeeper.formats.segments import segment_offset
from walkeeper.ids import TimelineNumber
from walkeeper.lsn import Lsn
from walkeeper.storage.disk import File, ReadableDisk
from walkeeper.storage.wal import partial, segment_path


@dataclass(frozen=True, slots=True)
class WalReader:
    """Reads from the segments in ``directory``, each of ``segment_bytes``.  Any number of threads may use one."""

    disk: ReadableDisk
    directory: Path
    segment_bytes: int

    def read(self, lsn: Lsn, length: int, tli: TimelineNumber) -> bytes:
        """The ``length`` bytes of WAL at ``lsn``, or those up to the end of its segment if that comes first.

        Raises WalNotAvailable if the segment is not there, Corrupt if it is too short, or another StorageError.
        """
        offset = segment_offset(lsn, self.segment_bytes)
        wanted = min(length, self.segment_bytes - offset)
        with self._open(lsn, tli) as file:
            wal = file.pread(wanted, offset)
            if len(wal) < wanted:
                raise Corrupt(f"ends at {offset + len(wal)} instead of {self.segment_bytes}", path=str(file.path))
            return wal

    def _open(self, lsn: Lsn, tli: TimelineNumber) -> File:
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
