"""Segments that were read ahead of PostgreSQL, in a directory beside the file it asked for.

PostgreSQL starts its restore_command once for every segment, and to start one costs more than to read a segment.  So
one call reads some more, and those that follow find theirs here: they rename it and ask nobody.  That is safe because
only whole segments of committed WAL are put here, and these never change.

Rules: a segment gets its name here when it is durable; what is taken is checked (its size, and what its first page
says of cluster and position), and what is wrong is as good as missing.  What recovery has passed is removed, and so
is everything when it asks for something that is not here.

Loads nothing that takes long to load.
"""

from dataclasses import dataclass
from pathlib import Path

from walkeeper.errors import FileMissing, Malformed
from walkeeper.formats.segments import parse_segment_name
from walkeeper.formats.xlog_pages import LONG_HEADER_BYTES, server_of_segment
from walkeeper.ids import TenantTimelineId
from walkeeper.lsn import Lsn
from walkeeper.storage.disk import Disk, File
from walkeeper.storage.durable import remove_if_there, remove_tree, rename_synced
from walkeeper.tools.segment_file import check_first_page


@dataclass(frozen=True, slots=True)
class Spool:
    """The directory ``path``, which exists only while there is something in it.  Everything raises StorageError."""

    disk: Disk
    path: Path

    @classmethod
    def beside(cls, disk: Disk, target: Path, ttid: TenantTimelineId) -> "Spool":
        """The spool of ``ttid`` for whoever wants files at ``target``."""
        return cls(disk, target.with_name(f"walkeeper-ahead.{ttid.tenant_id}.{ttid.timeline_id}"))

    def take(self, name: str, target: Path, system_id: int | None) -> bool:
        """Move the segment ``name`` to ``target``, durably; False if there is no such segment, or a bad one.

        ``system_id``: of the cluster that it must be of, None if that is not known.
        """
        try:
            with self.disk.open(self.path / name) as file:
                if not _is_good(file, name, system_id):
                    return False
            rename_synced(self.disk, self.path / name, target)
        except FileMissing:
            return False
        self._remove_passed(name)
        return True

    def prepare(self) -> None:
        """Make the directory, if it is missing."""
        if not self.disk.is_directory(self.path):
            self.disk.mkdir(self.path)

    def clear(self) -> None:
        """Remove everything, and the directory."""
        remove_tree(self.disk, self.path)

    def _remove_passed(self, name: str) -> None:
        names = self.disk.names(self.path)
        passed = [each for each in names if each <= name]
        for each in passed:
            remove_if_there(self.disk, self.path / each)
        if len(passed) == len(names):
            self.disk.rmdir(self.path)


def _is_good(file: File, name: str, system_id: int | None) -> bool:
    """Whether a segment is what its name says."""
    head = file.pread(LONG_HEADER_BYTES, 0)
    try:
        server = server_of_segment(head)
        parsed = parse_segment_name(name, server.wal_seg_size)
        if parsed is None or system_id not in (None, server.system_id):
            return False
        check_first_page(head, Lsn(parsed.segno * server.wal_seg_size), server)
    except Malformed:
        return False
    return file.size() == server.wal_seg_size
