"""WAL that one keeper gives for another, read record by record before it goes on.

A disk can change what was written to it, and a keeper does not look at WAL again that it has stored.  So nothing that a
donor gives is believed: what goes on are records whose pages, lengths, checksums and ``xl_prev`` are right.

Rules:
* reading begins where a record of the other keeper ends, even if that has had some of the next one already;
* an open record is held back until it is complete, unless it is longer than ``HELD_BYTES_MAX``.  Then what has come of
  it goes on, all but the end: a keeper's WAL ends, whatever follows, where its last complete record does, and so it
  forgets a part of a record when the connection ends.  Whoever sends on ends it unless the rest is verified too;
* verifying takes turns with everybody else, since commits wait for the same processor.

Does not choose donors, and does not know who needs what: ``links.keeper_link``, ``proposer``.
"""

from typing import Final

import trio

from walkeeper.errors import BadWal
from walkeeper.formats.xlog import PAGE_BYTES, RecordVerifier
from walkeeper.links.wal_stream import Delivery, WalStream
from walkeeper.links.window import Window
from walkeeper.lsn import Lsn

HELD_BYTES_MAX: Final = 1024 * 1024
"""Most of an open record that is held back.  PostgreSQL's longest usual ones, with 33 images of pages, are a quarter of
that; legal are 1 GiB, and every keeper that catches up would need so much memory."""

PIECE_BYTES: Final = PAGE_BYTES
"""Verified without a look at what that has cost: a page of the shortest records takes a millisecond on a slow machine."""

RECORDS_PER_TURN: Final = 64
BYTES_PER_TURN: Final = 128 * 1024
"""Verified without a turn of the scheduler, records and bytes: half a millisecond each."""


class DonorWal:
    """What comes from ``stream``; ``window`` is what of it may still have to go on, and ``stop_lsn`` where that ends.

    ``damage`` is why nothing behind ``sound_lsn`` will.
    """

    def __init__(self, stream: WalStream, verifier: RecordVerifier, stop_lsn: Lsn) -> None:
        self.stream = stream
        self.window = Window(stream.next_lsn)
        self.stop_lsn = stop_lsn
        self._verifier = verifier
        self._records = 0
        self._bytes = 0

    @property
    def damage(self) -> BadWal | None:
        return self._verifier.stopped

    @property
    def sound_lsn(self) -> Lsn:
        """Up to where WAL may go on."""
        end_lsn = self.window.end_lsn
        if self.damage is None and end_lsn - self.verified_lsn > HELD_BYTES_MAX:
            return end_lsn
        return self.verified_lsn

    @property
    def verified_lsn(self) -> Lsn:
        """Up to where it is known what the WAL is."""
        return min(self._verifier.record_end, self.window.end_lsn)

    async def take(self, delivery: Delivery) -> None:
        """Take in what came from the stream.  Cancellation: the donor's WAL is then of no more use."""
        for wal in delivery.slices:
            piece = memoryview(wal)[: max(self.stop_lsn - self.window.end_lsn, 0)]
            self.window.append(piece)
            await self._verify(piece)

    async def _verify(self, wal: memoryview) -> None:
        for at in range(0, len(wal), PIECE_BYTES):
            piece = wal[at : at + PIECE_BYTES]
            self._records += len(self._verifier.feed(piece))
            self._bytes += len(piece)
            if self._records >= RECORDS_PER_TURN or self._bytes >= BYTES_PER_TURN:
                self._records = self._bytes = 0
                await trio.lowlevel.checkpoint()
            if self.damage is not None:
                return

    def forget(self, below: Lsn) -> None:
        """What lies below has gone on."""
        self.window.shrink(0, below)
