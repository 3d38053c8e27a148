"""Files for PostgreSQL: written under a name of their own, checked, and given their name when they are durable.

Rules:
* Whoever looks finds a whole file or none.
* No two calls ever write to one file, and of several that make a file of one name only the one that began last gets to
  give it, but for an instant at its beginning and in ``give_way``.  A call that outlives its PostgreSQL must not put a
  file below the hands of the next.
* What is missing at a segment's end is written as zeroes, not left as a hole: PostgreSQL may use the file again for
  other WAL, and must not find the disk full then.

Does not know where WAL comes from.  Source: PostgreSQL ``access/xlog_internal.h``; ``XLogFileInitInternal`` for zeroes.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from crc32c import crc32c

from walkeeper.errors import FileMissing, Malformed, Superseded
from walkeeper.formats.xlog_pages import LONG_HEADER_BYTES, PageLayout, server_of_segment
from walkeeper.lsn import Lsn
from walkeeper.messages import ServerInfo, Slice
from walkeeper.storage.disk import Disk, File
from walkeeper.storage.durable import remove_if_there, rename_synced

TEMPORARY_MARK: Final = ".walkeeper-"
"""Between the name that a file shall have and what tells it from others that shall have the same."""

_ZEROES: Final = bytes(1 << 20)
"""The smallest segment: all sizes are multiples of it."""


@dataclass(frozen=True, slots=True)
class NewFile:
    """A file that shall be called ``path``; ``content`` is what it has so far, under another name.

    Everything raises StorageError.
    """

    disk: Disk
    path: Path
    temporary: Path
    content: File

    def finish(self, path: Path) -> None:
        """Make it durable and call it ``path``, in the same directory.  Raises Superseded if another was begun."""
        self.content.fsync()
        try:
            rename_synced(self.disk, self.temporary, path)
        except FileMissing as error:
            raise self._superseded() from error

    def give_way(self, old: Path) -> None:
        """Call the file at ``old``, which is durable, ``path`` instead.  Raises as ``finish``.

        Not in one moment: no rename on every file system has a third name that must be there as its condition.  To do
        harm a call has to be stopped between these two lines, or right before its temporary is created, for as long as
        a whole later one takes, which begins, finishes, and has its file opened.  What PostgreSQL then finds is a checked segment of the same cluster; if not
        the one it wants, it refuses the page addresses, and recovery ends before the LSN that it must reach, which is
        what operators are told to compare.
        """
        if self.temporary.name not in self.disk.names(self.path.parent):
            raise self._superseded()
        rename_synced(self.disk, old, self.path)

    def _superseded(self) -> Superseded:
        return Superseded("another call has begun to make it", operation="name", path=str(self.path))


@contextmanager
def new_file(disk: Disk, path: Path) -> Iterator[NewFile]:
    """A file that shall be called ``path``.  Others that were begun for that, by whoever, are removed.

    At the end of the block it has got its name, or is gone.  Raises StorageError.
    """
    # First the others, then its own: two that began in the same instant would remove each other's.
    for name in disk.names(path.parent):
        if name.startswith(path.name + TEMPORARY_MARK):
            remove_if_there(disk, path.with_name(name))
    temporary = path.with_name(f"{path.name}{TEMPORARY_MARK}{os.urandom(8).hex()}")
    with disk.create(temporary) as content:
        try:
            yield NewFile(disk, path, temporary, content)
        finally:
            remove_if_there(disk, temporary)


class SegmentFile:
    """A new file as the segment of ``server`` from ``begin_lsn`` on.

    ``next_lsn`` is where to go on, ``crc`` the CRC-32C of what was written.  Everything raises StorageError.
    """

    def __init__(self, file: NewFile, begin_lsn: Lsn, server: ServerInfo) -> None:
        self.begin_lsn = begin_lsn
        self.end_lsn = Lsn(begin_lsn + server.wal_seg_size)
        self._server = server
        self._file = file
        self.restart()

    def restart(self) -> None:
        """Forget what was written."""
        self.next_lsn = self.begin_lsn
        self.crc = 0

    def write(self, slices: Sequence[Slice]) -> None:
        """Go on with ``slices``, which must not reach beyond the end."""
        self._file.content.pwritev(slices, self.next_lsn - self.begin_lsn)
        for piece in slices:
            self.crc = crc32c(piece, self.crc)
        self.next_lsn = Lsn(self.next_lsn + sum(map(len, slices)))
        assert self.next_lsn <= self.end_lsn

    def check(self) -> None:
        """Raises Malformed unless the first page is one of the right cluster and position."""
        check_first_page(self._file.content.pread(LONG_HEADER_BYTES, 0), self.begin_lsn, self._server)

    def finish(self, path: Path) -> None:
        """Fill the rest with zeroes, and give the file its name, durably.  Raises as ``NewFile.finish``."""
        whole, rest = divmod(self.end_lsn - self.next_lsn, len(_ZEROES))
        self._file.content.pwritev([_ZEROES[:rest], *[_ZEROES] * whole], self.next_lsn - self.begin_lsn)
        self._file.finish(path)


def check_first_page(head: bytes, begin_lsn: Lsn, server: ServerInfo) -> None:
    """Raises Malformed unless ``head``, LONG_HEADER_BYTES of it, begins ``server``'s segment at ``begin_lsn``."""
    found = server_of_segment(head)
    PageLayout.of(server.pg_major, server.wal_seg_size).read_page_header(head, 0, begin_lsn)
    if server.system_id not in (0, found.system_id):
        raise Malformed(f"WAL page at a segment's start: xlp_sysid is {found.system_id}, not {server.system_id}")
