"""What a keeper has on its disk, read without asking it: WAL by position, and the control file.

Rules: only reads, and does not mind a keeper at work.  Segments are looked for as PostgreSQL would name them.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from walkeeper.formats.control_file import ControlFile, parse_control_file
from walkeeper.formats.segments import PARTIAL_SUFFIX, segment_name, segment_number, segment_offset
from walkeeper.ids import TenantTimelineId

CONTROL_FILE = "safekeeper.control"


@dataclass(frozen=True, slots=True)
class StoredTimeline:
    """One timeline's directory."""

    directory: Path
    segment_bytes: int
    tli: int = 1

    @classmethod
    def of(cls, data: Path, ttid: TenantTimelineId, segment_bytes: int, tli: int = 1) -> "StoredTimeline":
        return cls(data / str(ttid.tenant_id) / str(ttid.timeline_id), segment_bytes, tli)

    @property
    def control_bytes(self) -> bytes:
        return (self.directory / CONTROL_FILE).read_bytes()

    @property
    def control_file(self) -> ControlFile:
        return parse_control_file(self.control_bytes)

    def wal(self, begin_lsn: int, end_lsn: int) -> bytes:
        """The bytes of [begin_lsn, end_lsn); fewer where the files end."""
        return b"".join(self._pieces(begin_lsn, end_lsn))

    def _pieces(self, begin_lsn: int, end_lsn: int) -> Iterator[bytes]:
        while begin_lsn < end_lsn:
            offset = segment_offset(begin_lsn, self.segment_bytes)
            length = min(end_lsn - begin_lsn, self.segment_bytes - offset)
            with self._segment(begin_lsn).open("rb") as file:
                file.seek(offset)
                yield file.read(length)
            begin_lsn += length

    def _segment(self, lsn: int) -> Path:
        """The file that holds the byte at `lsn`."""
        name = segment_name(self.tli, segment_number(lsn, self.segment_bytes), self.segment_bytes)
        partial = self.directory / (name + PARTIAL_SUFFIX)
        return partial if partial.exists() else self.directory / name
