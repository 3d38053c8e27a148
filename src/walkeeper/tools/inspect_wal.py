"""Reading all WAL that is there: every header, every checksum, every ``xl_prev``.

Where something does not verify, reading goes on at the next page from which records verify again, so that one bad
byte does not hide a second one, and damage can be told from the end of the WAL.

Believes the sizes that files had when they were listed; does not judge.
"""

from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping
from typing import Final

from walkeeper.errors import BadWal, StorageError, WalNotAvailable
from walkeeper.formats.segments import segment_number, segment_offset
from walkeeper.formats.xlog import LONG_HEADER_BYTES, PAGE_BYTES, RecordVerifier
from walkeeper.formats.xlog_pages import PageLayout
from walkeeper.ids import TimelineNumber
from walkeeper.lsn import Lsn
from walkeeper.messages import ServerInfo
from walkeeper.storage.reader import WalReader
from walkeeper.tools.inspect_findings import FoundSegment, Stop, Stretch, trouble_of

CHUNK_BYTES: Final = 1 << 20
"""Read at once; progress is told as often."""

_ZEROES: Final = bytes(CHUNK_BYTES)

Advance = Callable[[int], None]
"""Told how many bytes were read."""


class WalScan:
    """The WAL in ``chain``, segments by their number.  Raises Malformed for a server whose WAL cannot be read."""

    def __init__(
        self,
        reader: WalReader,
        server: ServerInfo,
        tli: TimelineNumber,
        chain: Mapping[int, FoundSegment],
        advance: Advance,
    ) -> None:
        self._layout = PageLayout.of(server.pg_major, server.wal_seg_size)
        self._segment_bytes = server.wal_seg_size
        self._segnos = sorted(chain)
        self._reader, self._tli, self._chain, self._advance = reader, tli, chain, advance

    def stretches(self, start: Lsn, *, inside_record: bool) -> Iterator[Stretch]:
        """The records from ``start`` on, and those behind what does not verify.

        ``inside_record`` as for RecordVerifier.  Raises BadWal if no record can end at ``start``.
        """
        stretch = self._stretch(start, inside_record=inside_record)
        yield stretch
        while (page := self._page_with_header(_next_page(stretch.stop.reached))) is not None:
            stretch = self._stretch(page, inside_record=True)
            if stretch.records:
                yield stretch

    def first_page(self) -> Lsn:
        """Where to begin when nobody says: the first page, unless it was made up for a start in mid-segment.

        Then there are only zeroes between its header and the page where the WAL begins.
        """
        begin = Lsn(self._segnos[0] * self._segment_bytes)
        try:
            page = self._read(begin)[LONG_HEADER_BYTES:PAGE_BYTES]
        except (StorageError, WalNotAvailable):
            return begin
        if page != _ZEROES[: len(page)]:
            return begin
        return self._page_with_header(Lsn(begin + PAGE_BYTES)) or begin

    def _stretch(self, start: Lsn, *, inside_record: bool) -> Stretch:
        verifier = RecordVerifier(
            start,
            pg_major=self._layout.pg_major,
            wal_seg_size=self._segment_bytes,
            tli=self._tli,
            inside_record=inside_record,
        )
        begin, count, last, trouble = start, 0, None, ""
        while verifier.stopped is None:
            try:
                wal = self._read(verifier.next_lsn)
            except (StorageError, WalNotAvailable) as error:
                trouble = trouble_of(error) if isinstance(error, StorageError) else str(error)
                break
            if not wal:
                break
            records = verifier.feed(wal)
            self._advance(len(wal))
            if records:
                begin, last = begin if last else records[0].start, records[-1]
                count += len(records)
        return Stretch(begin, verifier.record_end, count, last, self._stop(verifier, trouble))

    def _stop(self, verifier: RecordVerifier, trouble: str) -> Stop:
        reached = Lsn(max(verifier.next_lsn, verifier.record_end))
        if verifier.stopped is not None:
            lsn = verifier.stopped.lsn
            return Stop(lsn, max(lsn, reached), str(verifier.stopped), is_broken=True)
        if trouble:
            return Stop(reached, reached, trouble, is_broken=True)
        return Stop(reached, reached, "there are no more segments", is_broken=False)

    def _read(self, lsn: Lsn) -> bytes:
        """WAL at ``lsn``, at most a chunk; nothing where there is none.  Raises StorageError, WalNotAvailable."""
        segment = self._chain.get(segment_number(lsn, self._segment_bytes))
        left = (segment.size or 0) - segment_offset(lsn, self._segment_bytes) if segment else 0
        return self._reader.read(lsn, min(left, CHUNK_BYTES), self._tli) if left > 0 else b""

    def _page_with_header(self, page: Lsn) -> Lsn | None:
        """The first page at or behind ``page``, in any segment, that begins as a page of WAL does."""
        at: Lsn | None = page
        while at is not None:
            try:
                wal = self._read(at)
            except (StorageError, WalNotAvailable):
                wal = b""
            if (found := self._first_header(wal, at)) is not None:
                return found
            whole = len(wal) - len(wal) % PAGE_BYTES
            at = Lsn(at + whole) if whole else self._next_segment(at)
        return None

    def _next_segment(self, lsn: Lsn) -> Lsn | None:
        """The start of the first segment that is there behind the one of ``lsn``."""
        behind = bisect_right(self._segnos, segment_number(lsn, self._segment_bytes))
        return Lsn(self._segnos[behind] * self._segment_bytes) if behind < len(self._segnos) else None

    def _first_header(self, wal: bytes, begin: Lsn) -> Lsn | None:
        if wal == _ZEROES[: len(wal)]:
            return None
        for offset in range(0, len(wal) - LONG_HEADER_BYTES, PAGE_BYTES):
            try:
                self._layout.read_page_header(wal, offset, begin + offset)
            except BadWal:
                continue
            return Lsn(begin + offset)
        return None


def _next_page(lsn: Lsn) -> Lsn:
    """The first page start behind ``lsn``."""
    return Lsn(lsn - lsn % PAGE_BYTES + PAGE_BYTES)
