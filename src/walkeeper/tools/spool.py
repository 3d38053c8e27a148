"""Segments that were read ahead of PostgreSQL, in a directory beside the file it asked for.

PostgreSQL starts its restore_command once for every segment, and to start one costs more than to read a segment.  So
one call reads some more, and those that follow find theirs here: they rename it and ask nobody.  That is safe because
only whole segments of committed WAL are put here, whose records were checked, and these never change.

Rules:
* A segment gets its name here when it is durable, and the name ends with the CRC-32C of all of it: what is taken is
  compared with that, which takes a fraction of what reading its records would.
* No pipe, device or symbolic link is touched, and what is wrong in whatever way is as good as missing.
* Nothing is put here that would leave the file system with less than a reserve.
* What recovery has passed is removed, and so is everything when it asks for something that is not here.

Loads nothing that takes long to load.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from crc32c import crc32c

from walkeeper.errors import Corrupt, DiskFull, FileMissing, Malformed
from walkeeper.formats.segments import parse_segment_name
from walkeeper.formats.xlog_pages import LONG_HEADER_BYTES, server_of_segment
from walkeeper.ids import TenantTimelineId
from walkeeper.lsn import Lsn
from walkeeper.storage.disk import Disk, File, ReadableDisk
from walkeeper.storage.durable import remove_if_there
from walkeeper.tools.segment_file import NewFile, check_first_page

RESERVE_SEGMENTS: Final = 16
RESERVE_SHARE: Final = 0.03
"""What reading ahead leaves free, the larger of the two: PostgreSQL recovers on this disk, and needs it for more than WAL."""

_CHUNK_BYTES: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class Spool:
    """The directory ``path``, which exists only while there is something in it.  Everything raises StorageError.

    ``look``: the same disk, through eyes that follow no symbolic link and open nothing but files.
    """

    disk: Disk
    look: ReadableDisk
    path: Path

    @classmethod
    def beside(cls, disk: Disk, look: ReadableDisk, target: Path, ttid: TenantTimelineId) -> "Spool":
        """The spool of ``ttid`` for whoever wants files at ``target``."""
        return cls(disk, look, target.with_name(f"walkeeper-ahead.{ttid.tenant_id}.{ttid.timeline_id}"))

    def entry(self, name: str, crc: int) -> Path:
        """Where the segment ``name`` is whose CRC-32C is ``crc``."""
        return self.path / f"{name}.{crc:08X}"

    def take(self, name: str, target: NewFile, system_id: int | None) -> bool:
        """Move the segment ``name`` to ``target``, durably; False if there is no such segment.

        ``system_id``: of the cluster that it must be of, None if that is not known.  Raises Corrupt if it is a bad one,
        and as ``NewFile.give_way``.
        """
        try:
            for entry in self._entries(name):
                with self.look.open(self.path / entry) as file:
                    _require_good(file, entry, system_id)
                target.give_way(self.path / entry)
                return True
        except FileMissing:  # or somebody else was faster
            pass
        return False

    def _entries(self, name: str) -> Sequence[str]:
        known = re.compile(re.escape(name) + r"\.[0-9A-F]{8}")
        return [each for each in self.look.names(self.path) if known.fullmatch(each)]

    def require_room(self, segment_bytes: int) -> None:
        """Raises DiskFull if another segment would touch the reserve."""
        space = self.disk.space(self.path.parent)
        reserve_bytes = max(RESERVE_SEGMENTS * segment_bytes, int(space.total_bytes * RESERVE_SHARE))
        if space.free_bytes - segment_bytes < reserve_bytes:
            why = f"{space.free_bytes >> 20} MiB are free, and {reserve_bytes >> 20} MiB shall stay free"
            raise DiskFull(why, operation="read ahead into", path=str(self.path))

    def prepare(self) -> None:
        """Make the directory, if it is missing."""
        if not self.look.is_directory(self.path):
            self.disk.mkdir(self.path)

    def clear(self) -> None:
        """Remove everything, and the directory; or whatever is in its place."""
        if self.look.is_directory(self.path):
            self._remove(self.look.names(self.path))
            self.disk.rmdir(self.path)
        else:
            remove_if_there(self.disk, self.path)

    def remove_passed(self, name: str) -> None:
        """Remove what is older than the segment ``name``, which was taken; and the directory with the last."""
        names = self.look.names(self.path)
        passed = [each for each in names if each.partition(".")[0] <= name]
        self._remove(passed)
        if len(passed) == len(names):
            self.disk.rmdir(self.path)

    def _remove(self, names: Sequence[str]) -> None:
        for name in names:
            remove_if_there(self.disk, self.path / name)


def _require_good(file: File, entry: str, system_id: int | None) -> None:
    """Raises Corrupt unless a file is what its name, and ``system_id``, say."""
    name, _, crc = entry.rpartition(".")
    head = file.pread(LONG_HEADER_BYTES, 0)
    try:
        server = server_of_segment(head)
        parsed = parse_segment_name(name, server.wal_seg_size)
        if parsed is None or system_id not in (None, server.system_id):
            raise Malformed("its first page is one of another cluster")
        if (size := file.size()) != server.wal_seg_size:
            raise Malformed(f"it has {size} bytes instead of {server.wal_seg_size}")
        check_first_page(head, Lsn(parsed.segno * server.wal_seg_size), server)
        if (found := _crc_of(file, size)) != int(crc, 16):
            raise Malformed(f"its CRC is {found:08X}")
    except Malformed as error:
        raise Corrupt(str(error), operation="read", path=str(file.path)) from error


def _crc_of(file: File, size: int) -> int:
    crc = 0
    for offset in range(0, size, _CHUNK_BYTES):
        crc = crc32c(file.pread(_CHUNK_BYTES, offset), crc)
    return crc
