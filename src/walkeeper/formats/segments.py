"""Segments: the files WAL lies in, and which LSN is where.

A segment holds ``wal_seg_size`` bytes, a power of two from 1 MiB to 1 GiB that is fixed when a cluster is made.
Its file name is three 8-digit upper-case hexadecimal numbers: PostgreSQL's timeline id, then the segment number
split as if LSNs were 32-bit numbers with a high half.  ``.partial`` marks a segment that is still being written.

Does not know what is inside (``formats.xlog``) and does not open files (``storage.wal``).
Source: PostgreSQL ``access/xlog_internal.h`` (XLogFileName, XLByteToSeg, IsValidWalSegSize, IsTLHistoryFileName).
"""

import re
from typing import Final, NamedTuple

from walkeeper.errors import Malformed
from walkeeper.formats.sizes import parse_size
from walkeeper.ids import TimelineNumber
from walkeeper.lsn import Lsn

WAL_SEG_SIZE_MIN: Final = 1 << 20
WAL_SEG_SIZE_MAX: Final = 1 << 30
"""PostgreSQL's WalSegMinSize and WalSegMaxSize, in bytes."""

PARTIAL_SUFFIX: Final = ".partial"

# Both cases are read: tools of other origin have written lower-case names.
_NAME = re.compile(r"([0-9A-Fa-f]{8})([0-9A-Fa-f]{8})([0-9A-Fa-f]{8})(\.partial)?")

_BESIDE_WAL = re.compile(r"[0-9A-F]{8}\.history|[0-9A-F]{24}\.[0-9A-F]{8}\.backup")


class SegmentName(NamedTuple):
    """What the name of a segment file says."""

    tli: TimelineNumber
    segno: int
    partial: bool


def is_legal_segment_size(size: int) -> bool:
    """Whether PostgreSQL would accept ``size`` (in bytes): a power of two from 1 MiB to 1 GiB."""
    return WAL_SEG_SIZE_MIN <= size <= WAL_SEG_SIZE_MAX and size & (size - 1) == 0


def require_legal_segment_size(size: int) -> int:
    """``size`` itself.  Raises Malformed unless it is legal."""
    if not is_legal_segment_size(size):
        raise Malformed(f"a WAL segment cannot have {size} bytes, but a power of two from 1 MiB to 1 GiB")
    return size


def parse_segment_size(text: str) -> int:
    """PostgreSQL's wal_segment_size (``16MB``) -> bytes.  Raises Malformed for one that it would not accept."""
    return require_legal_segment_size(parse_size(text))


def segment_number(lsn: int, size: int) -> int:
    """The number of the segment that holds the byte at ``lsn``."""
    return lsn // size


def segment_offset(lsn: int, size: int) -> int:
    """Where in its segment the byte at ``lsn`` is."""
    return lsn & (size - 1)


def segment_start(lsn: int, size: int) -> Lsn:
    """The first LSN of the segment that holds the byte at ``lsn``."""
    return Lsn(lsn & ~(size - 1))


def next_segment_start(lsn: int, size: int) -> Lsn:
    """The first segment start at or above ``lsn``: ``lsn`` itself if it is one."""
    return Lsn((lsn + size - 1) & ~(size - 1))


def segment_name(tli: int, segno: int, size: int) -> str:
    """``(1, 0x123, 16 MiB)`` -> ``'000000010000000100000023'``, without a suffix."""
    high, low = divmod(segno, _segments_per_half(size))
    return f"{tli:08X}{high:08X}{low:08X}"


def parse_segment_name(name: str, size: int) -> SegmentName | None:
    """The parts of a segment's file name, or None when ``name`` is not one.

    A name whose last number is too large for ``size`` belongs to another segment size and is not one either.
    """
    match = _NAME.fullmatch(name)
    if match is None:
        return None
    tli, high, low = (int(digits, 16) for digits in match.group(1, 2, 3))
    per_half = _segments_per_half(size)
    if low >= per_half:
        return None
    return SegmentName(TimelineNumber(tli), high * per_half + low, match.group(4) is not None)


def is_beside_wal(name: str) -> bool:
    """Whether a file of this name is a history or a backup file: what else PostgreSQL asks an archive for."""
    return _BESIDE_WAL.fullmatch(name) is not None


def _segments_per_half(size: int) -> int:
    """How many segments make 4 GiB, the reach of the low half of an LSN."""
    return (1 << 32) // size
