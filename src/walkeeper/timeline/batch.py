"""How many messages share one fsync: everything that waits, within reason.

A batch is one run of contiguous appends of one term and generation, or one other message.  Whatever else is in
the inbox starts the next batch.

Does not read sockets and does not decide.
"""

from dataclasses import dataclass
from typing import Final, Generic, TypeVar

import trio

from walkeeper.messages import AppendRun, join_runs

BATCH_BYTES_MAX: Final = 4 * 1024 * 1024
"""Most WAL in one write and sync: a disk of 10 MB/s still answers twice a second."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Received(Generic[T]):
    """Something on its way to the acceptor, and the receive buffers it pins, in bytes.

    ``arrived_at``: when the first of the WAL in it was received, on Trio's clock; None if it brings none.
    """

    message: AppendRun | T
    pinned_bytes: int
    arrived_at: float | None = None


class Gatherer(Generic[T]):
    """Takes batches out of an inbox.  Used by one task."""

    def __init__(self, inbox: "trio.MemoryReceiveChannel[Received[T]]") -> None:
        self._inbox = inbox
        self._next: Received[T] | None = None

    async def next_batch(self) -> Received[T] | None:
        """Everything that may share one sync, None when the inbox has ended.

        Takes a turn of the scheduler even if one waits: keeping a batch may have taken none (``storage.offload``), and
        others have to run, and cancellations to come in, between two.

        Cancellation: before anything is taken.
        """
        if self._next is not None:
            await trio.lowlevel.checkpoint()
        first = self._next or await self._wait()
        self._next = None
        if first is None or not isinstance(first.message, AppendRun):
            return first
        runs, pinned_bytes, wal_bytes = [first.message], first.pinned_bytes, first.message.wal_bytes
        arrived_at = first.arrived_at
        while following := self._peek():
            run = following.message
            if not isinstance(run, AppendRun) or not runs[-1].is_continued_by(run):
                break
            if wal_bytes + run.wal_bytes > BATCH_BYTES_MAX:
                break
            self._next = None
            runs.append(run)
            pinned_bytes += following.pinned_bytes
            arrived_at = following.arrived_at if arrived_at is None else arrived_at
            wal_bytes += run.wal_bytes
        return Received(join_runs(runs), pinned_bytes, arrived_at) if len(runs) > 1 else first

    async def _wait(self) -> Received[T] | None:
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
