"""Memory that all connections share, beyond what each may have for itself.

A writer that would take more than there is left is not read from until the disk has caught up with others: its TCP window
closes.  While nothing waits for the disk, nothing would be given back, so then one buffer is let in all the same.  Readers
have half of it at most, so that those who do not read take nothing from writers; one that comes when that is used up is
refused.

Counts receive buffers that wait for the disk, and the WAL that readers are being sent.
"""

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
        self._freed = trio.Event()

    def try_take(self, count: int) -> bool:
        """Take ``count`` for what waits for the disk, if it fits; says whether it did."""
        if self.queued_bytes and self.queued_bytes + self.reading_bytes + count > self.bytes_max:
            return False
        self.queued_bytes += count
        return True

    async def wait_freed(self) -> None:
        """Return when something was given back.  Cancellation: at any time."""
        log.warning("memory is used up: a writer is not read from for a moment", bytes_max=self.bytes_max)
        await self._freed.wait()

    def give_back(self, count: int) -> None:
        self.queued_bytes -= count
        self._wake()

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
            self._wake()

    def _wake(self) -> None:
        self._freed.set()
        self._freed = trio.Event()
