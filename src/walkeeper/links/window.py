"""The newest WAL, in memory: what was received from the primary and may still have to be sent.

Slices of receive buffers are kept as they came, contiguous from ``tail_lsn`` to ``end_lsn``, and handed out as views.
Nothing is dropped by itself: whoever knows what is committed calls ``shrink``.

Does not wait and does not know who still needs what.
"""

from bisect import bisect_right
from collections.abc import Sequence
from typing import Final

from walkeeper.lsn import INVALID_LSN, Lsn
from walkeeper.messages import Slice

SLICE_COST_BYTES: Final = 256
"""What keeping a slice costs besides its bytes: the objects around it.  Small commits are mostly that."""

_COMPACT_AT: Final = 1024
"""Dropped slices whose places in the lists are given back together: a list forgets its front in linear time."""


class Window:
    """WAL of [``tail_lsn``, ``end_lsn``).  ``cost_bytes`` is the memory it takes."""

    def __init__(self, begin_lsn: Lsn = INVALID_LSN) -> None:
        self.tail_lsn = begin_lsn
        self.end_lsn = begin_lsn
        self.cost_bytes = 0
        self._begins: list[int] = []
        self._slices: list[memoryview] = []
        self._first = 0

    def start_at(self, lsn: Lsn) -> None:
        """Begin there; only while it is empty."""
        assert not self._slices
        self.tail_lsn = self.end_lsn = lsn

    def append(self, wal: Slice) -> None:
        """``wal`` follows ``end_lsn``; its buffer must not change any more."""
        if not len(wal):
            return
        self._begins.append(self.end_lsn)
        self._slices.append(memoryview(wal))
        self.cost_bytes += len(wal) + SLICE_COST_BYTES
        self.end_lsn = Lsn(self.end_lsn + len(wal))

    def slices(self, begin_lsn: Lsn, end_lsn: Lsn) -> Sequence[memoryview]:
        """The WAL of [begin_lsn, end_lsn), all of which must be here."""
        assert self.tail_lsn <= begin_lsn <= end_lsn <= self.end_lsn
        if begin_lsn == end_lsn:
            return []
        at = bisect_right(self._begins, begin_lsn, self._first) - 1
        pieces: list[memoryview] = []
        while begin_lsn < end_lsn:
            offset = begin_lsn - self._begins[at]
            piece = self._slices[at][offset : offset + end_lsn - begin_lsn]
            pieces.append(piece)
            begin_lsn = Lsn(begin_lsn + len(piece))
            at += 1
        return pieces

    def shrink(self, cost_bytes_max: int, below: Lsn) -> None:
        """Drop the oldest slices that lie below ``below``, until the window costs no more than allowed."""
        while self.cost_bytes > cost_bytes_max and self._first < len(self._slices):
            end = self._begins[self._first] + len(self._slices[self._first])
            if end > below:
                break
            self.cost_bytes -= len(self._slices[self._first]) + SLICE_COST_BYTES
            self._slices[self._first] = _NOTHING
            self._first += 1
            self.tail_lsn = Lsn(end)
        if self._first >= _COMPACT_AT:
            del self._begins[: self._first], self._slices[: self._first]
            self._first = 0


_NOTHING: Final = memoryview(b"")
