"""Log lines that others can bring about as often as they like: some are written, and how many there were besides.

Whoever writes such lines takes its logger from here; ``daemon.logs`` has a ``Throttle`` among its processors.

Does not log, and counts nothing for good: ``/metrics`` does.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, TypeAlias

import structlog
from structlog.types import EventDict, WrappedLogger

THROTTLE_SECONDS: Final = 10.0
"""How long lines of a kind are held back after there were enough: whoever watches still sees that it goes on."""

LINES_MAX: Final = 10
"""Of one kind in that time: enough to see all of a cluster that is set up wrongly, and few enough when a client asks the
same again and again."""

KINDS_MAX: Final = 64
"""That are told apart by their timeline, which clients name as they like; beyond, timelines share."""

_MARK: Final = "throttled"

_Kind: TypeAlias = tuple[object, object, object]


def throttled_logger() -> structlog.stdlib.BoundLogger:
    """A logger for lines that others bring about."""
    return structlog.stdlib.get_logger(**{_MARK: True})


@dataclass(slots=True)
class _Window:
    """From the first line of a kind until ``ends_at``: how many were written, and how many were not."""

    ends_at: float
    said: int = 0
    unsaid: int = 0


class Throttle:
    """A structlog processor: lets through ``LINES_MAX`` of each kind in ``THROTTLE_SECONDS``.

    Kinds differ in their event, ``kind`` and ``ttid``.  The first line after some were held back has their number, as
    ``unsaid``.  ``now`` is in seconds.
    """

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._windows: dict[_Kind, _Window] = {}

    def __call__(self, _logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
        """Raises DropEvent for a line that is held back."""
        if not event.pop(_MARK, False):
            return event
        now = self._now()
        kind = self._kind(event, now)
        window = self._windows.get(kind)
        if window is None or now >= window.ends_at:
            if window is not None and window.unsaid:
                event["unsaid"] = window.unsaid
            window = self._windows[kind] = _Window(now + THROTTLE_SECONDS)
        if window.said >= LINES_MAX:
            window.unsaid += 1
            raise structlog.DropEvent
        window.said += 1
        return event

    def _kind(self, event: EventDict, now: float) -> _Kind:
        kind = (event["event"], event.get("kind"), event.get("ttid"))
        if kind in self._windows:
            return kind
        if len(self._windows) >= KINDS_MAX:
            self._windows = {each: window for each, window in self._windows.items() if now < window.ends_at}
        return kind if len(self._windows) < KINDS_MAX else (*kind[:2], None)
