"""Whether the WAL that a keeper gives is what PostgreSQL wrote: every page header, length, checksum and ``xl_prev``.

PostgreSQL ends a recovery where a record does not verify, as if WAL ended there, and opens the database without what
follows.  So one flipped bit must be found before PostgreSQL sees it.

What cannot be told from the WAL in sight is believed:
* The rest of a record that began in an earlier segment, unless WAL from before is there, too, and has its beginning:
  only its length is checked.
* A segment that begins with what may be the last bytes of an XLOG_SWITCH: all of it, for if they are, nothing but
  padding follows.
* The head that a keeper makes for a segment in whose middle its WAL begins, if it is that to the byte.

Pure: does not know where WAL comes from, or what becomes of it.
"""

from walkeeper.errors import Malformed
from walkeeper.formats.segments import next_segment_start
from walkeeper.formats.xlog import (
    LONG_HEADER_BYTES,
    PAGE_BYTES,
    SHORT_HEADER_BYTES,
    DoubtfulSwitch,
    RecordVerifier,
)
from walkeeper.formats.xlog_pages import PageLayout, first_segment_headers, server_of_segment
from walkeeper.ids import TimelineNumber
from walkeeper.lsn import Lsn
from walkeeper.messages import ServerInfo, Slice


class WalCheck:
    """Reads the WAL of ``server`` from a segment's start on, in pieces; ``next_lsn`` is where the next one begins.

    ``before``: whole pages of WAL from just before it, or nothing.  It does not matter what they are like, if only they
    show where the first record begins.  Raises Malformed for a server whose WAL cannot be read.
    """

    def __init__(self, begin_lsn: Lsn, server: ServerInfo, tli: TimelineNumber, before: bytes = b"") -> None:
        self._layout = PageLayout.of(server.pg_major, server.wal_seg_size)
        self._tli = tli
        self._begin_lsn = self.next_lsn = begin_lsn
        self._head = bytearray()  # all there is while nobody knows where records begin
        self._blank_bytes = 0  # of its pages
        self._verifier = self._verifier_behind(before)

    def feed(self, wal: Slice) -> None:
        """Read on."""
        self.next_lsn = Lsn(self.next_lsn + len(wal))
        if self._verifier is not None:
            self._verify(self._verifier, wal)
        else:
            self._head += wal
            self._find_records(is_all=False)

    def require(self, stop_lsn: Lsn) -> None:
        """Raises BadWal if what begins below ``stop_lsn`` is known to be damaged."""
        if self._verifier is None and self.next_lsn >= stop_lsn:
            self._find_records(is_all=True)
        verifier = self._verifier
        if verifier is not None and verifier.stopped is not None and verifier.record_end < stop_lsn:
            raise verifier.stopped

    def is_open(self, stop_lsn: Lsn) -> bool:
        """Whether a record that begins below ``stop_lsn`` goes on behind what was read."""
        verifier = self._verifier
        return verifier is not None and verifier.stopped is None and verifier.record_end < stop_lsn

    def _verify(self, verifier: RecordVerifier, wal: Slice) -> None:
        begin_lsn = self.next_lsn - len(wal)
        verifier.check(wal[max(verifier.next_lsn - begin_lsn, 0) :])
        if isinstance(verifier.stopped, DoubtfulSwitch):
            behind = next_segment_start(verifier.stopped.lsn, self._layout.wal_seg_size)
            self._verifier = self._verifier_at(behind)
            self._verify(self._verifier, wal)

    def _verifier_at(self, lsn: Lsn) -> RecordVerifier:
        layout = self._layout
        return RecordVerifier(
            lsn, pg_major=layout.pg_major, wal_seg_size=layout.wal_seg_size, tli=self._tli, inside_record=True
        )

    def _verifier_behind(self, before: bytes) -> RecordVerifier | None:
        """One that has read ``before`` and knows from there what the segment begins with; None if that did not tell."""
        verifier = self._verifier_at(Lsn(self._begin_lsn - len(before)))
        start_lsn = verifier.record_end
        verifier.check(before)
        return verifier if verifier.stopped is None and verifier.record_end > start_lsn else None

    def _find_records(self, *, is_all: bool) -> None:
        """Begin to verify where pages are not blank any more; ``is_all``: with what there is."""
        while self._page(is_all=is_all) and not self._page(is_all=is_all).strip(b"\0"):
            self._blank_bytes += PAGE_BYTES
        if not is_all and not self._page(is_all=False):
            return
        offset = self._blank_bytes if self._is_made_up() else 0
        self._verifier = self._verifier_at(Lsn(self._begin_lsn + offset))
        head, self._head = bytes(self._head), bytearray()
        self._verify(self._verifier, head)

    def _page(self, *, is_all: bool) -> bytes:
        """The page behind those that are blank, of the segment's first one what is behind its header; empty: not there."""
        page = bytes(self._head[self._blank_bytes : self._blank_bytes + PAGE_BYTES])
        if len(page) < PAGE_BYTES and not is_all:
            return b""
        return page if self._blank_bytes else page[LONG_HEADER_BYTES:]

    def _is_made_up(self) -> bool:
        """Whether all before the first record is what a keeper writes there whose WAL begins with that record."""
        page_lsn, page = Lsn(self._begin_lsn + self._blank_bytes), self._page(is_all=True)
        if not self._blank_bytes or len(page) < SHORT_HEADER_BYTES:
            return False
        try:
            rem_len = self._layout.read_page_header(page, 0, page_lsn).rem_len
            lsn = Lsn(page_lsn + SHORT_HEADER_BYTES + rem_len)
            made = first_segment_headers(lsn, server=server_of_segment(bytes(self._head)), tli=self._tli)
        except Malformed:
            return False
        return rem_len > 0 and self._head[: lsn - self._begin_lsn] == made
