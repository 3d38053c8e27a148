"""Memory that all connections share, beyond what each may have for itself.

A writer that would take more than there is left is not read from until the disk has caught up with others: its TCP window
closes.  While nothing waits for the disk, nothing would be given back, so then one buffer is let in all the same.  Readers
have half of it at most, so that those who do not read take nothing from writers; one that comes when that is used up is
refused.

Counts receive buffers that wait for the disk, and the WAL that readers are being sent.
"""

from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from math import inf
from typing import Final

import trio

from walkeeper.errors import OutOfMemory
from walkeeper.links.throttle import throttled_logger

READERS_SHARE: Final = 2
"""Readers have one part in so many."""

log = throttled_logger()


class Budget:
    """``bytes_max`` for all connections together."""

    def __init__(self, bytes_max: float = inf) -> None:
        self.bytes_max = bytes_max
        self.queued_bytes = 0
        self.reading_bytes = 0
        self._waiting: deque[tuple[int, trio.Event]] = deque()

    def try_take(self, count: int) -> bool:
        """Take ``count`` for what waits for the disk, if it fits and nobody waits for it; says whether it did."""
        if self._waiting or not self._fits(count):
            return False
        self.queued_bytes += count
        return True

    async def take(self, count: int) -> None:
        """Wait until ``count`` fits; who came first is first.

        Cancellation: while it waits, nothing is taken.
        """
        log.warning("memory is used up: a writer is not read from for a moment", bytes_max=self.bytes_max)
        waiter = (count, trio.Event())
        self._waiting.append(waiter)
        try:
            await waiter[1].wait()
        finally:
            if waiter in self._waiting:
                self._waiting.remove(waiter)
                self._let_in()  # the next one may want less

    def give_back(self, count: int) -> None:
        self.queued_bytes -= count
        self._let_in()

    @contextmanager
    def reading(self, count: int) -> Iterator[None]:
        """A block that needs ``count`` for a reader.  Raises OutOfMemory."""
        if self.reading_bytes + count > self.bytes_max / READERS_SHARE:
            raise OutOfMemory
        self.reading_bytes += count
        try:
            yield
        finally:
            self.reading_bytes -= count
            self._let_in()

    def _fits(self, count: int) -> bool:
        return not self.queued_bytes or self.queued_bytes + self.reading_bytes + count <= self.bytes_max

    def _let_in(self) -> None:
        while self._waiting and self._fits(self._waiting[0][0]):
            count, may_go = self._waiting.popleft()
            self.queued_bytes += count
            may_go.set()
