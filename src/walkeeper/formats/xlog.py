"""Where records end, in WAL that arrives cut at any byte.

* ``RecordScanner`` is the fast one, for the path of every commit.  It jumps to the last page header that says
  where a record ends and walks from there, so most pages are never looked at: damage inside WAL is for
  checksums to find.
* ``RecordVerifier`` is the slow one, for recovery and tools: every header, every checksum, every ``xl_prev``.

Rules: nothing here guesses; what PostgreSQL would not write is Malformed, with its LSN.  A record is never kept
in memory, only its header at most.  The last complete record's end is the same for both, at every cut: the end
that ``flush_lsn`` stands for.  A record that a crash tore is dropped where PostgreSQL goes on behind it (the page
says XLP_FIRST_IS_OVERWRITE_CONTRECORD), and the end stays before it until the next record is complete.  What is behind
an XLOG_SWITCH, up to the next segment, is nobody's: it may be anything but a page of its place, which none would write.

Does not read files, does not decode what records mean, and does not follow a change of PostgreSQL's timeline id.
Source: PostgreSQL ``xlogreader.c`` and ``xlog.c`` (CopyXLogRecordToWAL), releases 14 to 18.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from crc32c import crc32c

from walkeeper.errors import BadWal, Malformed
from walkeeper.formats.segments import next_segment_start
from walkeeper.formats.xlog_pages import (
    BARE_TAILS,
    LONG_HEADER_BYTES,
    MAGICS,
    PAGE_BYTES,
    PAGE_MASK,
    RECORD_HEADER_BYTES,
    RM_XLOG_ID,
    SHORT_HEADER_BYTES,
    XLOG_SWITCH,
    PageLayout,
    RecordHeader,
    bad_record,
    check_tli,
    first_record_header,
    first_segment_headers,
    read_record_header,
    read_u32,
)
from walkeeper.ids import TimelineNumber
from walkeeper.lsn import Lsn, format_lsn
from walkeeper.messages import Slice

__all__ = [
    "LONG_HEADER_BYTES",
    "MAGICS",
    "PAGE_BYTES",
    "RECORD_HEADER_BYTES",
    "SHORT_HEADER_BYTES",
    "DoubtfulSwitch",
    "Record",
    "RecordHeader",
    "RecordScanner",
    "RecordVerifier",
    "first_record_header",
    "first_segment_headers",
    "last_record_start",
]

_JOIN_BELOW_BYTES: Final = 16 * 1024
"""Slices that are smaller on average are joined before a scan: copying one costs less than a turn of the loop."""

_UNKNOWN: Final = -1
"""How much of the open record is missing, where only the next page header can say."""

_CRC_OFFSET: Final = RECORD_HEADER_BYTES - 4
"""Where xl_crc is in a record.  It covers what is behind the header first, then what is before itself."""


class DoubtfulSwitch(BadWal):
    """Only the last bytes of a record are in sight, and they look like those of an XLOG_SWITCH."""

    def __init__(self, lsn: int) -> None:
        why = "it began before this WAL and may be an XLOG_SWITCH; begin at another segment"
        super().__init__("record", Lsn(lsn), why)


# -- finding record ends ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class RecordScanner:
    """Where the last complete record ends, in WAL that arrives in pieces.  A value: ``scan`` returns the next one.

    ``next_lsn`` is the position of the next byte it wants.  ``record_end`` is the end of the last complete record,
    at first the start position; it may lie above ``next_lsn``, by padding that is still to come.  ``tli`` is what
    the pages say, 0 until one was seen.
    """

    next_lsn: Lsn
    record_end: Lsn
    tli: TimelineNumber
    _layout: PageLayout
    _missing: int = 0  # how many bytes of the open record are to come, 0 if none is open
    _bare: bool | None = False  # whether the open record is only a header; None: unknown, it began out of sight
    _carry: bytes = b""  # the start of something that must be read as a whole: at most a page header

    @classmethod
    def start(
        cls, lsn: Lsn, *, pg_major: int, wal_seg_size: int, tli: int = 0, inside_record: bool = False
    ) -> "RecordScanner":
        """A scanner that begins at the record end ``lsn``, a position that needs no look at anything before it.

        With ``inside_record``, ``lsn`` is a page start where a record may be in progress; its rest is skipped.
        Raises Malformed for a version or segment size that cannot be kept, and where no record can end.
        """
        layout = PageLayout.of(pg_major, wal_seg_size)
        layout.check_start(lsn)
        assert not (inside_record and lsn & PAGE_MASK), "only a page header can say how much of a record is left"
        return cls(lsn, lsn, TimelineNumber(tli), layout, _UNKNOWN if inside_record else 0)

    def scan(self, slices: Sequence[Slice]) -> "RecordScanner":
        """The scanner after the WAL in ``slices``, which begins at ``next_lsn`` and may be cut anywhere.

        Raises Malformed; this scanner is as it was.
        """
        if len(slices) > 1 and sum(map(len, slices)) < len(slices) * _JOIN_BELOW_BYTES:
            slices = (b"".join(slices),)
        walk = _Walk(self)
        for wal in slices:
            walk.advance(wal)
        return walk.scanner()


class _Walk:
    """The moving parts of one scan: the window of WAL in sight, and where in it the walk is.

    ``at`` is the LSN of the next byte to interpret.  Three facts say what it is: below ``record_end`` it is
    padding, at a page start a page header, and else part of a record, new or ``missing`` so many bytes.
    """

    __slots__ = ("at", "bare", "begin", "end", "layout", "missing", "record_end", "tli", "wal")

    def __init__(self, scanner: RecordScanner) -> None:
        self.layout = scanner._layout
        self.record_end: int = scanner.record_end
        self.tli: int = scanner.tli
        self.missing = scanner._missing
        self.bare = scanner._bare
        self.wal: Slice = scanner._carry
        self.end: int = scanner.next_lsn
        self.begin = self.at = self.end - len(self.wal)

    def scanner(self) -> RecordScanner:
        return RecordScanner(
            Lsn(self.end),
            Lsn(self.record_end),
            TimelineNumber(self.tli),
            self.layout,
            self.missing,
            self.bare,
            bytes(self.wal[self.at - self.begin :]),
        )

    def advance(self, wal: Slice) -> None:
        """Move the window on to ``wal`` and interpret as much of it as is needed to know the last record end."""
        carry = self.wal[self.at - self.begin :]
        self.wal = bytes(carry) + wal if carry else wal
        self.begin, self.end = self.at, self.end + len(wal)
        while self.missing and self._step():  # what was left open is checked against its continuation
            pass
        if self.end > self.at | PAGE_MASK:
            self._jump()
        while self._step():
            pass

    def _jump(self) -> None:
        """Go to the last page that alone tells where a record ends, if there is one ahead."""
        page = self._last_page()
        nearest = max(self.at + 1, self.record_end)
        while page >= nearest:
            if self._tells_record_end(page):
                self.at, self.missing = page, _UNKNOWN
                return
            page -= PAGE_BYTES

    def _last_page(self) -> int:
        """The start of the last page whose header is complete in the window (or a position below it: none)."""
        page = (self.end - SHORT_HEADER_BYTES) & ~PAGE_MASK
        return page if page + self.layout.header_bytes(page) <= self.end else page - PAGE_BYTES

    def _tells_record_end(self, page: int) -> bool:
        """Whether a walk from ``page`` finds the last record end in the window without knowing what came before.

        Not so where the open record does not end on the page or in the window, where it may be an XLOG_SWITCH, where
        it was torn, and behind an XLOG_SWITCH.  If what is no page is not behind one the walk will find out.
        """
        try:
            _tli, rem_len, overwrites = self.layout.read_page_header(self.wal, page - self.begin, page)
        except BadWal:
            return False
        if overwrites or rem_len in BARE_TAILS:
            return False
        return page + self.layout.header_bytes(page) + rem_len <= min(page + PAGE_BYTES, self.end)

    def _step(self) -> bool:
        """Interpret the next thing; False when all of it is still to come."""
        if self.at >= self.end:
            return False
        if self.at < self.record_end:
            self.at = min(self.record_end, self.end)
            return True
        if not self.at & PAGE_MASK:
            return self._pass_page_header()
        if self.missing:
            return self._pass_open_record()
        return self._pass_whole_records()

    def _pass_page_header(self) -> bool:
        page, header_bytes = self.at, self.layout.header_bytes(self.at)
        if page + header_bytes > self.end:
            return False
        header = self.layout.read_page_header(self.wal, page - self.begin, page)
        check_tli(page, self.tli, header.tli)
        if self.missing == _UNKNOWN:
            self._believe(page, header.rem_len)
        else:
            self.layout.check_continuation(page, header, self.missing)
            self.missing = header.rem_len
        self.tli = header.tli
        self.at = page + header_bytes
        return True

    def _believe(self, page: int, rem_len: int) -> None:
        """Take the state at the start of ``page`` from its header: what came before was not seen."""
        if not rem_len:
            self.record_end = page
        self.missing = rem_len
        self.bare = None if rem_len in BARE_TAILS else False

    def _pass_open_record(self) -> bool:
        room = min(self.end, (self.at | PAGE_MASK) + 1) - self.at
        if self.bare is False:
            return self._pass_record_bytes(min(self.missing, room))
        # The last 8 bytes of a bare header, never split by a page, say whether it is an XLOG_SWITCH.
        if self.missing > 8:
            return self._pass_record_bytes(min(self.missing - 8, room))
        return room >= 8 and self._pass_record_bytes(8, switch=self._is_switch())

    def _is_switch(self) -> bool:
        info, rmid = self.wal[self.at - self.begin : self.at - self.begin + 2]
        switch = (rmid, info) == (RM_XLOG_ID, XLOG_SWITCH)
        if switch and self.bare is None:
            raise DoubtfulSwitch(self.at)
        return switch

    def _pass_record_bytes(self, count: int, *, switch: bool = False) -> bool:
        self.at += count
        self.missing -= count
        if not self.missing:
            self.record_end = self.layout.record_end(self.at, switch=switch)
        return True

    def _pass_whole_records(self) -> bool:
        """Walk from record to record on this page, and open the one that goes on or is a bare header."""
        wal, begin, at = self.wal, self.begin, self.at
        limit = min(self.end, (at | PAGE_MASK) + 1)
        while at + 4 <= limit:
            (total,) = read_u32(wal, at - begin)
            after = at + total
            if after > limit or total <= RECORD_HEADER_BYTES:
                self.layout.check_record_length(at, total)
                self.missing, self.bare = total, total == RECORD_HEADER_BYTES
                break
            at = (after + 7) & ~7
        if at == self.at:
            return self.missing > 0
        self.record_end = at
        self.at = min(at, self.end)
        return True


# -- verifying records --------------------------------------------------------------------------------------


class Record(NamedTuple):
    """A verified record.  ``start`` is its first byte (behind a page header, as pg_waldump prints it)."""

    start: Lsn
    end: Lsn
    header: RecordHeader


class RecordVerifier:
    """Reads WAL record by record from a known record end and believes nothing.

    Checks each page header, length, CRC and ``xl_prev`` (of the first record against ``prev`` if that is given,
    else only that it points back).  At the first contradiction it stops for good: ``stopped`` says why,
    ``record_end`` where the WAL ends.  Behind the last record that is the normal end: zeroes are no record.
    """

    def __init__(
        self,
        lsn: Lsn,
        *,
        pg_major: int,
        wal_seg_size: int,
        tli: int = 0,
        inside_record: bool = False,
        prev: Lsn | None = None,
    ) -> None:
        """Parameters and errors as for ``RecordScanner.start``; ``prev`` is where the record before ``lsn`` starts."""
        self._layout = PageLayout.of(pg_major, wal_seg_size)
        self._layout.check_start(lsn)
        assert not (inside_record and lsn & PAGE_MASK), "only a page header can say how much of a record is left"
        self.record_end = lsn
        self.tli = TimelineNumber(tli)
        self.stopped: BadWal | None = None
        self._prev = prev
        self._at: int = lsn
        self._carry = b""
        self._missing = _UNKNOWN if inside_record else 0
        self._start: int | None = None  # of the open record, None if that began out of sight
        self._head = b""  # the first bytes of the open record, up to a whole header
        self._crc = 0  # of the bytes behind the header so far

    @property
    def next_lsn(self) -> Lsn:
        """The position of the next byte it wants."""
        return Lsn(self._at + len(self._carry))

    def feed(self, wal: Slice) -> list[Record]:
        """The records completed by ``wal``, which begins at ``next_lsn``; none once it has stopped."""
        records: list[Record] = []
        self._read(wal, records)
        return records

    def check(self, wal: Slice) -> None:
        """The same without telling of records, which takes half the time where they are small."""
        self._read(wal, None)

    def _read(self, wal: Slice, records: list[Record] | None) -> None:
        if self.stopped is not None:
            return
        window = memoryview(self._carry + wal if self._carry else wal)
        try:
            while count := self._step(window, records):
                window = window[count:]
                self._at += count
        except BadWal as why:
            self.stopped = why
        self._carry = bytes(window) if self.stopped is None else b""

    def _step(self, window: memoryview, records: list[Record] | None) -> int:
        """Interpret the next thing in ``window``; returns its length in bytes, 0 when more is needed."""
        if self._at < self.record_end:
            return min(self.record_end - self._at, len(window))
        if not self._at & PAGE_MASK:
            return self._read_page_header(window)
        if self._missing:
            return self._read_open_record(window, records)
        return self._read_whole_records(window, records) or self._open_record(window, records)

    def _read_page_header(self, window: memoryview) -> int:
        page, header_bytes = self._at, self._layout.header_bytes(self._at)
        if len(window) < header_bytes:
            return 0
        header = self._layout.read_page_header(window, 0, page)
        check_tli(page, self.tli, header.tli)
        if self._missing != _UNKNOWN:
            self._layout.check_continuation(page, header, self._missing)
        self.tli = header.tli
        self._missing = header.rem_len
        return header_bytes

    def _read_whole_records(self, window: memoryview, records: list[Record] | None) -> int:
        """The good records that lie on this page and in the window as a whole, up to a switch: by far most of them.

        Written out, since this is what takes the time.  What is not good is left to ``_open_record``, which says why.
        """
        limit = min(len(window), PAGE_BYTES - (self._at & PAGE_MASK))
        page, begin, prev, done = bytes(window[:limit]), self._at, self._prev, 0
        while done + RECORD_HEADER_BYTES <= limit:
            total, _xid, said_prev, info, rmid, said_crc = fields = read_record_header(page, done)
            start, after = begin + done, done + total
            if total < RECORD_HEADER_BYTES or after > limit or (rmid == RM_XLOG_ID and info == XLOG_SWITCH):
                break
            crc = crc32c(page[done : done + _CRC_OFFSET], crc32c(page[done + RECORD_HEADER_BYTES : after]))
            if crc != said_crc or said_prev >= start or (said_prev != prev and prev is not None):
                break
            prev, done = Lsn(start), (after + 7) & ~7
            if records is not None:
                records.append(Record(prev, Lsn(begin + done), RecordHeader._make(fields)))
        if done:
            self._prev, self.record_end = prev, Lsn(begin + done)
        return min(done, len(window))

    def _open_record(self, window: memoryview, records: list[Record] | None) -> int:
        """Begin a record that goes on elsewhere; what is in sight is read at once."""
        if len(window) < 4:
            return 0
        (total,) = read_u32(window)
        self._layout.check_record_length(self._at, total)
        self._missing, self._start, self._head, self._crc = total, self._at, b"", 0
        return self._read_open_record(window, records)

    def _read_open_record(self, window: memoryview, records: list[Record] | None) -> int:
        count = min(self._missing, PAGE_BYTES - (self._at & PAGE_MASK), len(window))
        head_bytes = min(count, RECORD_HEADER_BYTES - len(self._head))
        if head_bytes:
            self._head += window[:head_bytes]
        self._crc = crc32c(window[head_bytes:count], self._crc)
        self._missing -= count
        if not self._missing:
            self._close_record(self._at + count, records)
        return count

    def _close_record(self, after: int, records: list[Record] | None) -> None:
        if self._start is None:
            self._close_unseen_record(after)
            return
        crc = crc32c(self._head[:_CRC_OFFSET], self._crc)
        record = self._verified(self._start, after, RecordHeader.parse(self._head), crc)
        if records is not None:
            records.append(record)

    def _verified(self, start: int, after: int, header: RecordHeader, crc: int) -> Record:
        """The record from ``start`` to ``after``, if it is one, and everything moved on behind it."""
        if crc != header.crc:
            raise bad_record(start, f"its CRC is {crc:08X}, xl_crc says {header.crc:08X}")
        if self._prev is not None and header.prev != self._prev:
            raise bad_record(start, f"xl_prev is {format_lsn(header.prev)}, expected {format_lsn(self._prev)}")
        if header.prev >= start:
            raise bad_record(start, f"xl_prev is {format_lsn(header.prev)}, which is not before it")
        self._prev = Lsn(start)
        self.record_end = self._layout.record_end(after, switch=header.is_switch)
        return Record(self._prev, self.record_end, header)

    def _close_unseen_record(self, after: int) -> None:
        """The end of a record whose header was not seen, or only its last bytes; those are in ``_head``."""
        if len(self._head) in BARE_TAILS and tuple(self._head[-8:-6]) == (XLOG_SWITCH, RM_XLOG_ID):
            raise DoubtfulSwitch(after)
        self.record_end = self._layout.record_end(after, switch=False)


def last_record_start(wal: Slice, end: Lsn, *, pg_major: int, wal_seg_size: int) -> Lsn | None:
    """Where the record that ends exactly at ``end`` starts: what ``xl_prev`` of the record behind it must say.

    ``wal`` is the WAL just below ``end`` and begins at a page start.  None: ask with more, the record starts before
    ``wal``, or ``wal`` begins inside what may be an XLOG_SWITCH, as it seems to when the header of its first page is
    damaged.  Raises Malformed if no record ends at ``end`` or if one on the way is damaged, unless in that header.
    """
    begin, layout = Lsn(end - len(wal)), PageLayout.of(pg_major, wal_seg_size)
    try:
        if len(wal) >= layout.header_bytes(begin):
            layout.read_page_header(wal, 0, begin)
    except BadWal:  # behind an XLOG_SWITCH, unless a segment starts with it
        begin = min(next_segment_start(begin, wal_seg_size), end)
    verifier = RecordVerifier(begin, pg_major=pg_major, wal_seg_size=wal_seg_size, inside_record=begin < end)
    records = verifier.feed(wal[len(wal) - (end - begin) :])
    if isinstance(verifier.stopped, DoubtfulSwitch):
        return None
    if verifier.stopped is not None:
        raise verifier.stopped
    if records and records[-1].end == end:
        return records[-1].start
    if records or verifier._start is not None or verifier.record_end not in (begin, end):
        last = format_lsn(verifier.record_end)
        raise Malformed(f"no WAL record ends at {format_lsn(end)}, the last one before it ends at {last}")
    return None
