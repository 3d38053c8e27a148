"""How many messages share one fsync: everything that waits, within reason.

A batch is one run of contiguous appends of one term and generation, or one other message.  Whatever else is in
the inbox starts the next batch.

And which of them are small: a commit or a few, for which the disk is asked as directly as it allows.

Does not read sockets and does not decide.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

import trio

from walkeeper.acceptor.effects import Effect, SyncWal, WriteWal
from walkeeper.formats.segments import segment_offset
from walkeeper.messages import AppendRun, join_runs

BATCH_BYTES_MAX: Final = 4 * 1024 * 1024
"""Most WAL in one write and sync: a disk of 10 MB/s still answers twice a second."""

SMALL_WRITE_BYTES_MAX: Final = 32 * 1024
"""The commits of some dozens of clients.  Syncing that takes hardly longer than syncing a single one, and whoever streams
more at once gains more from receiving while the disk works."""

T = TypeVar("T")


def is_small_write(effects: Sequence[Effect], segment_bytes: int) -> bool:
    """Whether this is one small write into a segment that is there and stays open, and its sync; nothing else."""
    match effects:
        case [WriteWal() as write, SyncWal()]:
            size = write.end_lsn - write.begin_lsn
            offset = segment_offset(write.begin_lsn, segment_bytes)
            return size <= SMALL_WRITE_BYTES_MAX and 0 < offset < segment_bytes - size
        case _:
            return False


@dataclass(frozen=True, slots=True)
class Received(Generic[T]):
    """Something on its way to the acceptor, and the receive buffers it pins, in bytes."""

    message: AppendRun | T
    pinned_bytes: int


class Gatherer(Generic[T]):
    """Takes batches out of an inbox.  Used by one task."""

    def __init__(self, inbox: "trio.MemoryReceiveChannel[Received[T]]") -> None:
        self._inbox = inbox
        self._next: Received[T] | None = None

    async def next_batch(self) -> Received[T] | None:
        """Everything that may share one sync, None when the inbox has ended.

        Cancellation: while it waits, nothing is lost.
        """
        first = self._next or await self._wait()
        self._next = None
        if first is None or not isinstance(first.message, AppendRun):
            return first
        runs, pinned_bytes, wal_bytes = [first.message], first.pinned_bytes, first.message.wal_bytes
        while following := self._peek():
            run = following.message
            if not isinstance(run, AppendRun) or not runs[-1].is_continued_by(run):
                break
            if wal_bytes + run.wal_bytes > BATCH_BYTES_MAX:
                break
            self._next = None
            runs.append(run)
            pinned_bytes += following.pinned_bytes
            wal_bytes += run.wal_bytes
        return Received(join_runs(runs), pinned_bytes) if len(runs) > 1 else first

    async def _wait(self) -> Received[T] | None:
        try:
            return self._inbox.receive_nowait()
        except trio.WouldBlock:
            pass
        except trio.EndOfChannel:
            return None
        try:
            return await self._inbox.receive()
        except trio.EndOfChannel:
            return None

    def _peek(self) -> Received[T] | None:
        if self._next is None:
            try:
                self._next = self._inbox.receive_nowait()
            except (trio.WouldBlock, trio.EndOfChannel):
                return None
        return self._next
