"""Notices a disk that does not answer.

A blocking call that the kernel never finishes cannot be recalled; a task waits for it, a lock is held, and nothing
fails.  So every call through the offload is remembered while it runs, and the oldest says how the disk is.

A brief job that the event loop does itself hangs with all that could tell of it: then ``/livez`` does not answer.

Does not end anything: ``/livez`` tells whoever can.
"""

from collections.abc import Callable, Sequence
from typing import Final, TypeVar, TypeVarTuple

import trio

from walkeeper.control.collectors import DiskJobs
from walkeeper.control.health import Check
from walkeeper.storage.offload import Offload

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

DISK_SECONDS_MAX: Final = 120.0
"""No single call takes longer on a disk that works: the longest reads one segment, or writes a spare of 1 GiB."""


class WatchedOffload:
    """An ``Offload`` that knows since when its calls have been running."""

    def __init__(self, offload: Offload) -> None:
        self._offload = offload
        self._running: dict[int, float] = {}
        self._calls = 0

    async def __call__(self, function: Callable[[*Ts], T], *args: *Ts) -> T:
        """As the ``Offload`` underneath.

        Cancellation: as there: never abandons the function and is not let in.
        """
        self._calls += 1
        call = self._calls
        self._running[call] = trio.current_time()
        try:
            return await self._offload(function, *args)
        finally:
            del self._running[call]

    def jobs(self) -> DiskJobs:
        """How many calls are running, and since when the oldest, which comes first in the dict."""
        now = trio.current_time()
        return DiskJobs(len(self._running), now - next(iter(self._running.values()), now))

    def checks(self) -> Sequence[Check]:
        """Whether the call that has been running longest may still end."""
        seconds = self.jobs().oldest_seconds
        return [Check("disk", f"no answer for {seconds:.0f} s" if seconds > DISK_SECONDS_MAX else "")]
