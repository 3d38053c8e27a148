"""Notices a disk that does not answer.

A blocking call that the kernel never finishes cannot be recalled; a task waits for it, a lock is held, and nothing
fails.  So every call through the offload is remembered while it runs, and the oldest says how the disk is.

A brief job that the event loop does itself hangs with all that could tell of it: then ``/livez`` does not answer.

What was slow, and what does not answer, is also told in the log.

Does not end anything: ``/livez`` tells whoever can.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeVar, TypeVarTuple

import structlog
import trio

from walkeeper.control.collectors import DiskJobs
from walkeeper.control.health import Check
from walkeeper.formats.control_file import ControlFile
from walkeeper.ids import TenantTimelineId
from walkeeper.links.throttle import throttled_logger
from walkeeper.storage.offload import Brief, Offload
from walkeeper.storage.reader import OpenSegment
from walkeeper.storage.store import TimelineStore

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

TOLD_MAX: Final = 10
"""Calls that are named when more hang: all that have a thread, and some that wait for one."""


SLOW_SECONDS: Final = 1.0
"""A call that took longer, the wait for a thread included, is told of."""

SILENT_SECONDS: Final = 5.0
"""One that has been running for longer is told of while it does."""

log = structlog.stdlib.get_logger()
throttled = throttled_logger()


class Call(NamedTuple):
    """What was asked of the disk, and when on Trio's clock."""

    began: float
    function: Callable[..., Any]
    args: tuple[Any, ...]


class WatchedOffload:
    """An ``Offload`` that knows since when its calls have been running.

    ``seconds_max``: how long a call may take on a disk that works.
    """

    def __init__(self, offload: Offload, seconds_max: float) -> None:
        self._offload = offload
        self._seconds_max = seconds_max
        self._running: dict[int, Call] = {}  # the oldest comes first
        self._calls = 0
        self._told = 0  # of those that had begun by then, silence was told

    async def __call__(self, function: Callable[[*Ts], T], *args: *Ts) -> T:
        """As the ``Offload`` underneath.

        Cancellation: as there: never abandons the function and is not let in.
        """
        self._calls += 1
        call = self._calls
        self._running[call] = Call(trio.current_time(), function, args)
        try:
            return await self._offload(function, *args)
        finally:
            seconds = trio.current_time() - self._running.pop(call).began
            if seconds > SLOW_SECONDS:
                with suppress(
                    OSError, ValueError
                ):  # a log that cannot be written must not undo what the disk has done
                    throttled.warning(
                        "the disk was slow", operation=_what(function, args), seconds=round(seconds, 3)
                    )

    def jobs(self) -> DiskJobs:
        """How many calls are running, and for how long the oldest has been."""
        now = trio.current_time()
        oldest = next(iter(self._running.values()), None)
        return DiskJobs(len(self._running), now - oldest.began if oldest else 0.0)

    def tell_of_silence(self) -> None:
        """To be called every few seconds: tells the log of calls that have had no answer for long, once of each."""
        silent_since = trio.current_time() - SILENT_SECONDS
        for number, call in self._running.items():
            if call.began > silent_since:
                return
            if number > self._told:
                self._told = number
                with suppress(OSError, ValueError):
                    log.error("the disk does not answer", operation=_what(call.function, call.args))

    def checks(self) -> Sequence[Check]:
        """Whether the calls that are running may still end."""
        wedged = [Check("disk", _describe(call)) for call in islice(self._wedged(), TOLD_MAX)]
        return wedged or [Check("disk")]

    def _wedged(self) -> Iterator[Call]:
        """Those that have been running for too long."""
        too_long_since = trio.current_time() - self._seconds_max
        return (call for call in self._running.values() if call.began < too_long_since)


def _describe(call: Call) -> str:
    """Which operation, on which timeline, since when."""
    seconds = trio.current_time() - call.began
    since = datetime.fromtimestamp(time.time() - seconds, UTC).isoformat(timespec="seconds")
    return f"no answer to {_what(call.function, call.args)} for {seconds:.0f} s, since {since}"


def _what(function: Callable[..., Any], args: tuple[Any, ...]) -> str:
    """``function`` is a method of what it is about, or is given it.  Whatever else it may be is named as well as can be."""
    match function:
        case Brief(inner):
            return _what(inner, args)
        case partial():
            return _what(function.func, (*function.args, *args))
        case _:
            pass
    name = getattr(function, "__name__", repr(function))
    match (getattr(function, "__self__", None), *args):
        case TimelineStore() as store, *_:
            return f"{name} of {_place(store.directory, 2)}"
        case OpenSegment() as segment, *_:
            return f"{name} of {_place(segment.path, 3)}"
        case [*_, TimelineStore() as store]:
            return f"{store.doing or 'effects'} of {_place(store.directory, 2)}"
        case _, ControlFile() as made:
            return f"{name} of {made.ttid}"
        case _, TenantTimelineId() as ttid:
            return f"{name} of {ttid}"
        case _:
            return str(name)


def _place(path: Path, parts: int) -> str:
    """The end of a path: tenant, timeline and perhaps a file; where the data directory is the operator knows."""
    return "/".join(path.parts[-parts:])
