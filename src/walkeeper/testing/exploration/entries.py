"""Logs of a small world: each entry is one real WAL record that says which term wrote it.

A log is the tuple of its entries' terms.  Two entries at one position are the same if and only if their terms are, as
in every proof about Raft; its bytes are real, so that scanners and verifiers read them.
"""

from functools import cache
from typing import Final

from walkeeper.formats.xlog_pages import RECORD_HEADER_BYTES
from walkeeper.ids import TenantId, TenantTimelineId, TimelineId
from walkeeper.lsn import Lsn
from walkeeper.messages import ServerInfo
from walkeeper.terms import Term
from walkeeper.testing.wal import WalGenerator

Log = tuple[Term, ...]

SEGMENT_BYTES: Final = 1 << 20
START: Final = Lsn(3 * SEGMENT_BYTES + 0x2760)
"""Where every log begins: somewhere on a page, so that entries are records and nothing else."""
ENTRY_BYTES: Final = 40
ENTRIES_MAX: Final = 100
"""So many fit on the page of START."""

TTID: Final = TenantTimelineId(TenantId(b"t" * 16), TimelineId(b"l" * 16))
SERVER: Final = ServerInfo(pg_version=150005, system_id=77, wal_seg_size=SEGMENT_BYTES)

_TERM_BYTES: Final = 8
_TERM_AT: Final = RECORD_HEADER_BYTES + 2  # behind the mark and the length of a record's main data


@cache
def wal_of(log: Log) -> bytes:
    """The bytes of ``log`` from START on."""
    generator = WalGenerator(START, pg_major=SERVER.pg_major, wal_seg_size=SEGMENT_BYTES)
    for term in log:
        generator.record(term.to_bytes(_TERM_BYTES, "big"))
    assert len(generator.wal) == len(log) * ENTRY_BYTES
    return generator.wal


@cache
def log_of(wal: bytes) -> Log:
    """The whole entries in ``wal``, which begins at START."""
    starts = range(0, len(wal) - ENTRY_BYTES + 1, ENTRY_BYTES)
    return tuple(Term(int.from_bytes(wal[at + _TERM_AT : at + _TERM_AT + _TERM_BYTES], "big")) for at in starts)


def lsn_of(entries: int) -> Lsn:
    """Where a log of so many entries ends."""
    return Lsn(START + entries * ENTRY_BYTES)


def entries_below(lsn: Lsn) -> int:
    """How many whole entries end at or below ``lsn``."""
    return max(lsn - START, 0) // ENTRY_BYTES
