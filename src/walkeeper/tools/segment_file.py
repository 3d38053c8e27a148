"""A segment as a file for PostgreSQL: written in order under a temporary name, checked, and named when it is durable.

Rules: whoever looks finds the whole file or none.  What is missing at its end is written as zeroes, not left as a hole:
PostgreSQL may use the file again for other WAL, and must not find the disk full then.

Does not know where WAL comes from.  Source: PostgreSQL ``access/xlog_internal.h``; ``XLogFileInitInternal`` for zeroes.
"""

from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from walkeeper.errors import Malformed
from walkeeper.formats.xlog_pages import LONG_HEADER_BYTES, PageLayout, server_of_segment
from walkeeper.lsn import Lsn
from walkeeper.messages import ServerInfo, Slice
from walkeeper.storage.disk import Disk
from walkeeper.storage.durable import remove_if_there, rename_synced

TEMPORARY_SUFFIX: Final = ".walkeeper"

_ZEROES: Final = bytes(1 << 20)
"""The smallest segment: all sizes are multiples of it."""


class SegmentFile:
    """The segment of ``server`` from ``begin_lsn`` on, to be called ``path``.  As a context manager it leaves no rest.

    ``next_lsn`` is where to go on.  Everything raises StorageError.
    """

    def __init__(self, disk: Disk, path: Path, begin_lsn: Lsn, server: ServerInfo) -> None:
        self.path = path
        self.begin_lsn = begin_lsn
        self.end_lsn = Lsn(begin_lsn + server.wal_seg_size)
        self.next_lsn = begin_lsn
        self._disk = disk
        self._server = server
        self._temporary = path.with_name(path.name + TEMPORARY_SUFFIX)
        self._file = disk.create(self._temporary)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self._file.close()
        remove_if_there(self._disk, self._temporary)

    def write(self, slices: Sequence[Slice]) -> None:
        """Go on with ``slices``, which must not reach beyond the end."""
        self._file.pwritev(slices, self.next_lsn - self.begin_lsn)
        self.next_lsn = Lsn(self.next_lsn + sum(map(len, slices)))
        assert self.next_lsn <= self.end_lsn

    def restart(self) -> None:
        """Forget what was written."""
        self.next_lsn = self.begin_lsn

    def check(self) -> None:
        """Raises Malformed unless the first page is one of the right cluster and position."""
        check_first_page(self._file.pread(LONG_HEADER_BYTES, 0), self.begin_lsn, self._server)

    def finish(self) -> None:
        """Fill the rest with zeroes, and give the file its name, durably."""
        self._write_zeroes()
        self._file.fsync()
        rename_synced(self._disk, self._temporary, self.path)

    def _write_zeroes(self) -> None:
        missing = self.end_lsn - self.next_lsn
        whole, rest = divmod(missing, len(_ZEROES))
        self._file.pwritev([_ZEROES[:rest], *[_ZEROES] * whole], self.next_lsn - self.begin_lsn)


def check_first_page(head: bytes, begin_lsn: Lsn, server: ServerInfo) -> None:
    """Raises Malformed unless ``head``, LONG_HEADER_BYTES of it, begins ``server``'s segment at ``begin_lsn``."""
    found = server_of_segment(head)
    PageLayout.of(server.pg_major, server.wal_seg_size).read_page_header(head, 0, begin_lsn)
    if server.system_id not in (0, found.system_id):
        raise Malformed(f"WAL page at a segment's start: xlp_sysid is {found.system_id}, not {server.system_id}")
