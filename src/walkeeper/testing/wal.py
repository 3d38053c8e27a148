"""A generator of WAL for tests: what PostgreSQL would write, byte for byte, at any position.

Records flow through pages and segments with correct headers, lengths, checksums and ``xl_prev``; pg_waldump reads
what comes out.  The generator knows where each record ends, so that it is also the judge of whoever looks for ends.

    wal = WalGenerator(Lsn(0x149F0D8), pg_major=17, wal_seg_size=1 << 20)
    wal.logical_message("prefix", b"message")
    wal.switch()
    wal.wal, wal.lsn, wal.record_end_at(some_cut)

Does not write records that mean something (except logical messages), nor files.
Source: PostgreSQL ``access/xlogrecord.h``, ``replication/message.h`` and ``xlog.c`` (CopyXLogRecordToWAL).
"""

from bisect import bisect_right
from struct import Struct
from typing import Final

from crc32c import crc32c

from walkeeper.formats.segments import next_segment_start
from walkeeper.formats.xlog import Record, RecordHeader
from walkeeper.formats.xlog_pages import (
    PAGE_BYTES,
    RECORD_HEADER_BYTES,
    RM_XLOG_ID,
    XLOG_SWITCH,
    XLP_BKP_REMOVABLE,
    XLP_FIRST_IS_OVERWRITE_CONTRECORD,
    PageLayout,
    encode_page_header,
)
from walkeeper.lsn import INVALID_LSN, Lsn

XLOG_NOOP: Final = 0x20
XLOG_OVERWRITE_CONTRECORD: Final = 0xD0
RM_LOGICALMSG_ID: Final = 21

# Marks of a record's main data: with a length of one byte, or of four.
_DATA_SHORT, _DATA_LONG = 255, 254

_HEADER_BEFORE_CRC = Struct("<IIQBB2x")
_MESSAGE_HEADER = Struct("<IIQQ")
_OVERWRITTEN = Struct("<Qq")


def encode_record(rmid: int, info: int, data: bytes = b"", *, prev: int = 0, xid: int = 0) -> bytes:
    """One record with main data only, as it is without page headers and padding."""
    body = _main_data(data)
    head = _HEADER_BEFORE_CRC.pack(RECORD_HEADER_BYTES + len(body), xid, prev, info, rmid)
    return head + crc32c(head, crc32c(body)).to_bytes(4, "little") + body


def _main_data(data: bytes) -> bytes:
    if len(data) < 256:
        return bytes((_DATA_SHORT, len(data))) + data if data else b""
    return bytes((_DATA_LONG,)) + len(data).to_bytes(4, "little") + data


def encode_logical_message(prefix: str, message: bytes) -> bytes:
    """The main data of what ``pg_logical_emit_message(false, prefix, message)`` logs, in database 0."""
    name = prefix.encode() + b"\0"
    return _MESSAGE_HEADER.pack(0, 0, len(name), len(message)) + name + message


class WalGenerator:
    """WAL from ``start`` on.  ``start`` is a record end: 8-aligned and not inside a page header.

    ``prev`` is where the record before starts.  With ``rem_len``, ``start`` is a page start and the WAL begins with
    the last ``rem_len`` bytes of a record that is not here.
    """

    def __init__(
        self,
        start: Lsn,
        *,
        pg_major: int = 15,
        wal_seg_size: int = 16 << 20,
        tli: int = 1,
        system_id: int = 7241562384010203040,
        prev: Lsn = INVALID_LSN,
        rem_len: int = 0,
    ) -> None:
        self.layout = PageLayout.of(pg_major, wal_seg_size)
        self.layout.check_start(start)
        self.start = start
        self.tli = tli
        self.system_id = system_id
        self.prev = prev
        self.records: list[Record] = []
        self._wal = bytearray()
        self._complete_at: list[int] = []  # the LSN behind the last byte of each record
        self._ends: list[Lsn] = []
        if rem_len:
            assert start % PAGE_BYTES == 0, "only a page header can continue a record"
            self._continue(b"\xa5" * rem_len)
            self._close(switch=False)

    @property
    def lsn(self) -> Lsn:
        """Where the WAL ends so far."""
        return Lsn(self.start + len(self._wal))

    @property
    def wal(self) -> bytes:
        """All of it, from ``start`` to ``lsn``."""
        return bytes(self._wal)

    def between(self, begin: Lsn, end: Lsn) -> bytes:
        """The WAL of [begin, end), all of which must have been written."""
        assert self.start <= begin <= end <= self.lsn
        return bytes(self._wal[begin - self.start : end - self.start])

    def record_end_at(self, lsn: int) -> Lsn:
        """The end of the last record that is complete in the WAL below ``lsn``, ``start`` if none is."""
        complete = bisect_right(self._complete_at, lsn)
        return self._ends[complete - 1] if complete else self.start

    def record(self, data: bytes = b"", *, rmid: int = RM_XLOG_ID, info: int = XLOG_NOOP, xid: int = 0) -> Record:
        """Append one record and the padding behind it."""
        self._header_if_due()
        start = self.lsn
        raw = encode_record(rmid, info, data, prev=self.prev, xid=xid)
        self._flow(raw)
        switch = (rmid, info) == (RM_XLOG_ID, XLOG_SWITCH)
        record = Record(start, self._close(switch=switch), RecordHeader.parse(raw[:RECORD_HEADER_BYTES]))
        self.records.append(record)
        self.prev = start
        return record

    def logical_message(self, prefix: str, message: bytes) -> Record:
        return self.record(encode_logical_message(prefix, message), rmid=RM_LOGICALMSG_ID, info=0)

    def switch(self) -> Record:
        """An XLOG_SWITCH and the zeroes up to the next segment, which have no page headers."""
        return self.record(info=XLOG_SWITCH)

    def record_up_to(self, end: Lsn) -> Record:
        """A record that ends exactly at ``end``, a multiple of 8 with room for a record before it."""
        size = self._room_up_to(end) - RECORD_HEADER_BYTES
        return self.record(bytes(size - (2 if size <= 257 else 5)) if size else b"")

    def torn_record(self, *, pages: int = 0) -> Record:
        """A record that a crash tore, after ``pages`` whole pages of its continuation, and what replaces it.

        Returns the XLOG_OVERWRITE_CONTRECORD record at the start of the page where the next part is missing.
        """
        self._header_if_due()
        torn_at = self.lsn
        room = self._room_up_to(Lsn(torn_at - torn_at % PAGE_BYTES + PAGE_BYTES * (1 + pages)))
        raw = encode_record(RM_XLOG_ID, XLOG_NOOP, bytes(room + PAGE_BYTES), prev=self.prev)
        self._flow(raw, stop_after=room)
        self._page_header(info=XLP_FIRST_IS_OVERWRITE_CONTRECORD)
        return self.record(_OVERWRITTEN.pack(torn_at, 0), info=XLOG_OVERWRITE_CONTRECORD)

    def _room_up_to(self, end: Lsn) -> int:
        """How many bytes of records fit between here and ``end``."""
        room, at = 0, self.lsn
        while at < end:
            page_end = Lsn(at - at % PAGE_BYTES + PAGE_BYTES)
            room += min(page_end, end) - at - (0 if at % PAGE_BYTES else self.layout.header_bytes(at))
            at = page_end
        return room

    def _flow(self, raw: bytes, *, stop_after: int | None = None) -> None:
        """Let a record flow through the pages, all of it or its first bytes, beginning behind a page header."""
        room = min(len(raw), PAGE_BYTES - self.lsn % PAGE_BYTES)
        self._wal += raw[:room]
        self._continue(raw[room:], stop_after=None if stop_after is None else stop_after - room)

    def _continue(self, rest: bytes, *, stop_after: int | None = None) -> None:
        done, stop = 0, len(rest) if stop_after is None else stop_after
        while done < stop:
            self._page_header(rem_len=len(rest) - done)
            room = PAGE_BYTES - self.lsn % PAGE_BYTES
            self._wal += rest[done : done + room]
            done += room

    def _header_if_due(self) -> None:
        if self.lsn % PAGE_BYTES == 0:
            self._page_header()

    def _page_header(self, *, rem_len: int = 0, info: int = 0) -> None:
        self._wal += encode_page_header(
            self.layout,
            self.lsn,
            tli=self.tli,
            system_id=self.system_id,
            info=info | XLP_BKP_REMOVABLE,
            rem_len=rem_len,
        )

    def _close(self, *, switch: bool) -> Lsn:
        self._complete_at.append(self.lsn)
        end = next_segment_start(self.lsn, self.layout.wal_seg_size) if switch else Lsn((self.lsn + 7) & ~7)
        self._ends.append(end)
        self._wal += bytes(end - self.lsn)
        return end
