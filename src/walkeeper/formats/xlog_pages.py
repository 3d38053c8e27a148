"""The headers of WAL pages and records.

WAL is a sequence of 8 KiB pages.  Each begins with a header of 24 bytes, or 40 at the start of a segment, and
records flow through the pages as if the headers were not there.  A record starts at a multiple of 8; its *end*
is the next multiple of 8 behind its last byte, except that an XLOG_SWITCH record ends where the next segment
starts, and the rest of its segment is zero, page headers included.  An end may be a page start: the header
there belongs to what follows.  All positions a keeper speaks of are such ends.

Rules: what PostgreSQL would not write is Malformed, with its LSN and what was wrong.

Does not go from record to record: that is ``formats.xlog``.
Source: PostgreSQL ``access/xlog_internal.h``, ``access/xlogrecord.h`` and ``xlogreader.c``, releases 14 to 18.
"""

from dataclasses import dataclass
from struct import Struct
from typing import Final, NamedTuple

from walkeeper.errors import BadWal, Malformed
from walkeeper.formats.segments import next_segment_start, require_legal_segment_size, segment_start
from walkeeper.ids import TimelineNumber
from walkeeper.lsn import Lsn, format_lsn
from walkeeper.messages import ServerInfo, Slice

PAGE_BYTES: Final = 8192
"""XLOG_BLCKSZ: other values need a PostgreSQL compiled for them and are refused."""

SHORT_HEADER_BYTES: Final = 24
LONG_HEADER_BYTES: Final = 40
RECORD_HEADER_BYTES: Final = 24

MAGICS: Final = {14: 0xD10D, 15: 0xD110, 16: 0xD113, 17: 0xD116, 18: 0xD118}
"""XLOG_PAGE_MAGIC of each PostgreSQL major version whose WAL can be kept."""

XLP_FIRST_IS_CONTRECORD: Final = 0x0001
XLP_LONG_HEADER: Final = 0x0002
XLP_BKP_REMOVABLE: Final = 0x0004
XLP_FIRST_IS_OVERWRITE_CONTRECORD: Final = 0x0008
"""The XLP_* bits of xlp_info.  The last marks the page where PostgreSQL goes on after a crash that tore a record."""
_XLP_ALL_FLAGS: Final = 0x000F

RM_XLOG_ID: Final = 0
XLOG_SWITCH: Final = 0x40

RECORD_BYTES_MAX: Final = 1020 * 1024 * 1024
"""XLogRecordMaxSize since PostgreSQL 16."""
_RECORD_BYTES_MAX_BEFORE_16: Final = 0x3FFFFFFF
"""MaxAllocSize: earlier servers refuse to read a longer record."""

PAGE_MASK: Final = PAGE_BYTES - 1

BARE_TAILS: Final = (8, 16)
"""What can be left, in bytes, of a record that is only a header when a page ends inside it: starts are 8-aligned."""

_SHORT_HEADER = Struct("<HHIQI4x")
_LONG_HEADER_TAIL = Struct("<QII")
_read_short_header = _SHORT_HEADER.unpack_from

read_record_header = Struct("<IIQBB2xI").unpack_from
"""``read_record_header(wal, offset)`` is what ``RecordHeader`` makes names for."""

read_u32 = Struct("<I").unpack_from
"""``read_u32(wal, offset)`` is a tuple of one: xl_tot_len, the only field that no page end can split."""


class PageHeader(NamedTuple):
    """What a page says: ``rem_len`` bytes of the record that was open at its start follow, 0 if none was.

    ``overwrites``: the open record was torn by a crash and never continues.
    """

    tli: TimelineNumber
    rem_len: int
    overwrites: bool


class RecordHeader(NamedTuple):
    """The fixed part of a record.  ``total_bytes`` includes it; ``prev`` is where the record before starts."""

    total_bytes: int
    xid: int
    prev: Lsn
    info: int
    rmid: int
    crc: int

    @classmethod
    def parse(cls, wal: Slice, offset: int = 0) -> "RecordHeader":
        """The header at ``wal[offset:]``, which must be complete; any bytes are one."""
        return cls._make(read_record_header(wal, offset))

    @property
    def is_switch(self) -> bool:
        return self.rmid == RM_XLOG_ID and self.info == XLOG_SWITCH


@dataclass(frozen=True, slots=True)
class PageLayout:
    """What the WAL of one cluster must look like.  ``wal_seg_size`` and ``record_bytes_max`` in bytes."""

    pg_major: int
    wal_seg_size: int
    magic: int
    record_bytes_max: int

    @classmethod
    def of(cls, pg_major: int, wal_seg_size: int) -> "PageLayout":
        """Raises Malformed for a PostgreSQL version or segment size that cannot be kept."""
        magic = MAGICS.get(pg_major)
        if magic is None:
            raise Malformed(f"WAL of PostgreSQL {pg_major} cannot be read, only of {min(MAGICS)} to {max(MAGICS)}")
        record_bytes_max = RECORD_BYTES_MAX if pg_major >= 16 else _RECORD_BYTES_MAX_BEFORE_16
        return cls(pg_major, require_legal_segment_size(wal_seg_size), magic, record_bytes_max)

    def header_bytes(self, page: int) -> int:
        """How long the header of the page that starts at ``page`` is: its position alone decides."""
        return SHORT_HEADER_BYTES if page & (self.wal_seg_size - 1) else LONG_HEADER_BYTES

    def record_end(self, after: int, *, switch: bool) -> Lsn:
        """The end of the record whose last byte is just below ``after``."""
        return next_segment_start(after, self.wal_seg_size) if switch else Lsn((after + 7) & ~7)

    def read_page_header(self, wal: Slice, offset: int, page: int) -> PageHeader:
        """The header at ``wal[offset:]``, which must be complete, of the page at LSN ``page``.

        Raises Malformed unless it is one that PostgreSQL would write there.
        """
        magic, info, tli, address, rem_len = _read_short_header(wal, offset)
        if magic != self.magic:
            raise bad_page(page, f"xlp_magic is {magic:04X}, PostgreSQL {self.pg_major} writes {self.magic:04X}")
        if address != page:
            raise bad_page(page, f"xlp_pageaddr is {format_lsn(address)}")
        is_long = not page & (self.wal_seg_size - 1)
        flags = info & ~XLP_BKP_REMOVABLE
        if flags != (XLP_FIRST_IS_CONTRECORD if rem_len else 0) | (XLP_LONG_HEADER if is_long else 0):
            self._check_flags(page, flags, rem_len, is_long=is_long)
        if is_long:
            self._check_sizes(wal, offset, page)
        return PageHeader(tli, rem_len, bool(flags & XLP_FIRST_IS_OVERWRITE_CONTRECORD))

    def _check_flags(self, page: int, flags: int, rem_len: int, *, is_long: bool) -> None:
        if flags & ~_XLP_ALL_FLAGS:
            raise bad_page(page, f"xlp_info is {flags:04X}, which has unknown bits")
        if bool(flags & XLP_LONG_HEADER) != is_long:
            raise bad_page(
                page, f"xlp_info is {flags:04X}, but a page has a long header just where a segment starts"
            )
        if bool(flags & XLP_FIRST_IS_CONTRECORD) != bool(rem_len):
            raise bad_page(page, f"xlp_info is {flags:04X}, but xlp_rem_len {rem_len}")
        if rem_len and flags & XLP_FIRST_IS_OVERWRITE_CONTRECORD:
            raise bad_page(page, "it both continues and overwrites a record")

    def _check_sizes(self, wal: Slice, offset: int, page: int) -> None:
        _system_id, wal_seg_size, page_bytes = _LONG_HEADER_TAIL.unpack_from(wal, offset + SHORT_HEADER_BYTES)
        if wal_seg_size != self.wal_seg_size:
            raise bad_page(page, f"xlp_seg_size is {wal_seg_size}, expected {self.wal_seg_size}")
        if page_bytes != PAGE_BYTES:
            raise bad_page(page, f"xlp_xlog_blcksz is {page_bytes}, expected {PAGE_BYTES}")

    def check_continuation(self, page: int, header: PageHeader, missing: int) -> None:
        """Raises Malformed unless ``header`` continues a record of which ``missing`` bytes are to come (0: none)."""
        if header.rem_len != missing and not header.overwrites:
            raise bad_page(page, f"xlp_rem_len is {header.rem_len}, expected {missing}")

    def check_record_length(self, lsn: int, total_bytes: int) -> None:
        """Raises Malformed unless a record at ``lsn`` may have that many bytes.  Zero is what follows the end of WAL."""
        if not RECORD_HEADER_BYTES <= total_bytes <= self.record_bytes_max:
            raise bad_record(lsn, f"xl_tot_len is {total_bytes}")

    def check_start(self, lsn: int) -> None:
        """Raises Malformed unless WAL can be read from ``lsn`` on: 8-aligned, and not inside a page header."""
        offset = lsn & PAGE_MASK
        if lsn & 7 or 0 < offset < self.header_bytes(lsn - offset):
            raise bad_record(lsn, "no record can end here")


def bad_page(page: int, why: str) -> BadWal:
    return BadWal("page", Lsn(page), why)


def bad_record(lsn: int, why: str) -> BadWal:
    return BadWal("record", Lsn(lsn), why)


def check_tli(page: int, known: int, said: int) -> None:
    """Raises Malformed if the page at ``page`` has another timeline id than the pages before (0: none was seen)."""
    if known and said != known:
        raise bad_page(
            page, f"a switch of PostgreSQL's timeline id is not supported, from {known} to {said} (xlp_tli)"
        )


def first_record_header(wal: Slice, lsn: Lsn, *, pg_major: int, wal_seg_size: int) -> RecordHeader | None:
    """The header of the record that starts at the record end ``lsn``, where ``wal`` begins; None: needs more WAL.

    Steps over a page header at ``lsn`` or in the middle of the record's header.  Does not check the CRC, which
    needs the whole record.  Raises Malformed if there is no record, or one is being continued.
    """
    layout = PageLayout.of(pg_major, wal_seg_size)
    layout.check_start(lsn)
    head, at = b"", int(lsn)
    while len(head) < RECORD_HEADER_BYTES:
        if not at & PAGE_MASK:
            if at + layout.header_bytes(at) > lsn + len(wal):
                return None
            header = layout.read_page_header(wal, at - lsn, at)
            missing = read_u32(head)[0] - len(head) if head else 0
            layout.check_continuation(at, header, missing)
            at += layout.header_bytes(at)
        count = min(RECORD_HEADER_BYTES - len(head), PAGE_BYTES - (at & PAGE_MASK), lsn + len(wal) - at)
        if not count:
            return None
        head += wal[at - lsn : at - lsn + count]
        at += count
    found = RecordHeader.parse(head)
    layout.check_record_length(lsn, found.total_bytes)
    return found


def encode_page_header(
    layout: PageLayout, page: int, *, tli: int, system_id: int, info: int = 0, rem_len: int = 0
) -> bytes:
    """The header of the page at LSN ``page``, long at a segment start.  ``rem_len`` sets the continuation flag."""
    is_long = layout.header_bytes(page) == LONG_HEADER_BYTES
    info |= (XLP_FIRST_IS_CONTRECORD if rem_len else 0) | (XLP_LONG_HEADER if is_long else 0)
    short = _SHORT_HEADER.pack(layout.magic, info, tli, page, rem_len)
    return short + _LONG_HEADER_TAIL.pack(system_id, layout.wal_seg_size, PAGE_BYTES) if is_long else short


def server_of_segment(wal: Slice) -> ServerInfo:
    """Whose WAL a segment says it is, in its first LONG_HEADER_BYTES: of the version only the major one is known.

    For segments of which nobody else knows.  Raises Malformed unless that is a header at a segment's start.
    """
    if len(wal) < LONG_HEADER_BYTES:
        raise Malformed(f"WAL segment: {len(wal)} bytes are too few")
    magic, _info, _tli, page, _rem_len = _read_short_header(wal)
    system_id, wal_seg_size, _page_bytes = _LONG_HEADER_TAIL.unpack_from(wal, SHORT_HEADER_BYTES)
    majors = [major for major, known in MAGICS.items() if known == magic]
    if not majors:
        raise bad_page(
            page, f"xlp_magic is {magic:04X}, which is that of no PostgreSQL from {min(MAGICS)} to {max(MAGICS)}"
        )
    layout = PageLayout.of(majors[0], wal_seg_size)
    layout.read_page_header(wal, 0, segment_start(page, wal_seg_size))
    return ServerInfo(majors[0] * 10000, system_id, wal_seg_size)


def first_segment_headers(lsn: Lsn, *, server: ServerInfo, tli: int) -> bytes:
    """What belongs into a segment before ``lsn`` when the WAL begins there: page headers, and zeroes between.

    No leader ever streams these bytes, and pg_waldump cannot read the segment without them.  The page of ``lsn``
    says that a record which ends at ``lsn`` is being continued; that record never existed here.  Returns as many
    bytes as ``lsn`` is behind its segment's start.  Raises Malformed where no record can start.
    """
    layout = PageLayout.of(server.pg_major, server.wal_seg_size)
    layout.check_start(lsn)
    segment, page = segment_start(lsn, server.wal_seg_size), lsn & ~PAGE_MASK
    head = bytearray(lsn - segment)
    for start in {segment, page} - {lsn}:
        rem_len = lsn - start - layout.header_bytes(start) if start == page else 0
        header = encode_page_header(layout, start, tli=tli, system_id=server.system_id, rem_len=rem_len)
        head[start - segment : start - segment + len(header)] = header
    return bytes(head)
