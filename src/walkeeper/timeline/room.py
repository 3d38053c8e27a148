"""Whether there is room for WAL: on the file system, and in what one timeline may take of it.

On a disk that is full to its last page not even a vote can be saved.  So WAL is refused while there is still a reserve,
and nothing else is: votes, positions and truncations are kept in that reserve, and readers need none.  WAL is let in
again when there is clearly more than the reserve.

The file system is looked at on a thread, beside the commits: now and then, and earlier when what was let in since the
last look may have used half of what was free above the reserve.  What comes before such a look has an answer is let in,
too: the reserve is larger than that.

Does not touch files and does not decide what counts as WAL.
Source of names and words: Neon's ``hadron_check_disk_usage``.  It refuses votes as well, and compares what is used.
"""

import math
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

import structlog
import trio

from walkeeper.errors import FileSystemLimit, StorageError, TimelineLimit
from walkeeper.storage.disk import Space
from walkeeper.storage.wal import Observe, unobserved

LOOK_PAUSE_SECONDS: Final = 0.1
"""Between two looks, however much is let in: each costs a thread some microseconds."""

REFUSING_SECONDS_MAX: Final = 1.0
"""Between two looks while WAL is refused: writers try again every second or two."""

RESERVE_BYTES_MIN: Final = 64 * 1024 * 1024
"""At least so much is kept free, whatever share was said: more than a quick disk takes between two looks."""

SMALL_DISK_SHARE: Final = 8
"""Of a small file system it is this part instead."""

FILLING_RESERVES: Final = 2
"""When no more than so many reserves are free, the log says so before WAL is refused."""

AGAIN_SHARE: Final = 4
"""By this part of the reserve more than the reserve must be free before WAL is let in again, so that it does not come and
go with each file."""

LOOK_AT_DISK: Final = "look_at_disk"
"""What observers call a look."""

log = structlog.stdlib.get_logger()


@dataclass(frozen=True, slots=True)
class DiskLimits:
    """``usage_ratio_max``: up to which part of the file system is used for WAL, by whomever; 0: all of it.
    ``timeline_bytes_max``: what the segments of one timeline may take; 0: anything.
    ``check_seconds``: between two looks while all is well.
    """

    usage_ratio_max: float
    timeline_bytes_max: int
    check_seconds: float


def reserve_of(total_bytes: int, usage_ratio_max: float) -> int:
    """How much of a file system of that size is kept free of WAL."""
    if not usage_ratio_max:
        return 0
    least = min(RESERVE_BYTES_MIN, total_bytes // SMALL_DISK_SHARE)
    return max(least, int(total_bytes * (1.0 - usage_ratio_max)))


class Room:
    """The room that all timelines of a keeper share.  Without ``limits`` nobody looks and nothing is refused."""

    def __init__(self, limits: DiskLimits | None = None, observe: Observe = unobserved) -> None:
        self.timeline_bytes_max = limits.timeline_bytes_max if limits else 0
        self.is_refusing = False
        self.free_bytes: int | None = None
        """As the last look found it; None before."""
        self.reserve_bytes = 0
        self._limits = limits
        self._observe = observe
        self._unspent_bytes = math.inf  # of what may be let in before the next look
        self._is_spent = trio.Event()
        self._is_filling = False
        self._is_blind = False

    def require(self) -> None:
        """Raises FileSystemLimit while WAL is refused."""
        if self.is_refusing:
            raise FileSystemLimit(self.free_bytes or 0, self.reserve_bytes)

    def admit(self, size_bytes: int, usage_bytes: int) -> None:
        """WAL of ``size_bytes`` is about to be written to a timeline that will take ``usage_bytes`` then.

        Raises FileSystemLimit or TimelineLimit.
        """
        self.require()
        if 0 < self.timeline_bytes_max < usage_bytes:
            raise TimelineLimit(self.timeline_bytes_max)
        self.spend(size_bytes)

    def spend(self, size_bytes: int) -> None:
        self._unspent_bytes -= size_bytes
        if self._unspent_bytes < 0:
            self._is_spent.set()

    def has_to_spare(self, size_bytes: int) -> bool:
        """Whether so much may be taken for what is not needed yet."""
        return not self.is_refusing and size_bytes <= self._unspent_bytes

    async def watch(self, look: Callable[[], Awaitable[Space]]) -> None:
        """Look until cancelled."""
        while self._limits is not None:
            await trio.sleep(LOOK_PAUSE_SECONDS)
            seconds = self._limits.check_seconds
            with trio.move_on_after(min(seconds, REFUSING_SECONDS_MAX) if self.is_refusing else seconds):
                await self._is_spent.wait()
            await self.look(look)

    async def look(self, look: Callable[[], Awaitable[Space]]) -> None:
        """Look once; what cannot be seen changes nothing.  Cancellation: as that of ``look``."""
        if self._limits is None:
            return
        self._is_spent = trio.Event()
        began = time.perf_counter()
        try:
            space = await look()
        except StorageError as error:
            if not self._is_blind:
                log.error("the file system cannot be looked at", error=str(error))
            self._is_blind, self._unspent_bytes = True, math.inf  # until it is looked at again, regularly
            return
        self._is_blind = False
        self._observe(LOOK_AT_DISK, time.perf_counter() - began, 0)
        self._judge(space, self._limits.usage_ratio_max)

    def _judge(self, space: Space, usage_ratio_max: float) -> None:
        self.free_bytes = space.free_bytes
        self.reserve_bytes = reserve_of(space.total_bytes, usage_ratio_max)
        seen = {"free_bytes": space.free_bytes, "reserve_bytes": self.reserve_bytes}
        enough_bytes = self.reserve_bytes + (self.reserve_bytes // AGAIN_SHARE if self.is_refusing else 0)
        if self.is_refusing != (space.free_bytes < enough_bytes):
            self.is_refusing = not self.is_refusing
            if self.is_refusing:
                log.error("the disk is nearly full: WAL is refused, reads go on", **seen)
            else:
                log.warning("the disk has room again: WAL is taken", **seen)
        self._warn_in_time(space.free_bytes)
        self._unspent_bytes = math.inf if self.is_refusing else (space.free_bytes - self.reserve_bytes) / 2

    def _warn_in_time(self, free_bytes: int) -> None:
        threshold_bytes = FILLING_RESERVES * self.reserve_bytes
        if self._is_filling:  # it takes as much again to be said anew
            threshold_bytes += self.reserve_bytes // AGAIN_SHARE
        was_filling, self._is_filling = self._is_filling, free_bytes < threshold_bytes
        if self._is_filling and not was_filling and not self.is_refusing:
            log.warning(
                "the disk fills up: WAL will be refused", free_bytes=free_bytes, reserve_bytes=self.reserve_bytes
            )
