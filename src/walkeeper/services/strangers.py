"""Clients that have not said yet who they are: half of all seats at most, so that they keep nobody out who does.

One that comes when there are as many has the place of the one that has been here longest: a client of ours says who it is
at once.

Does not know what they say.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import trio

from walkeeper.errors import TooManyStrangers
from walkeeper.links.throttle import throttled_logger
from walkeeper.services.instruments import Instruments

log = throttled_logger()


class Strangers:
    """Those that are here now, ``strangers_max`` at most."""

    def __init__(self, strangers_max: int, instruments: Instruments) -> None:
        self._strangers_max = strangers_max
        self._instruments = instruments
        self._here: dict[trio.CancelScope, None] = {}  # who came first stands first

    @contextmanager
    def being_one(self) -> Iterator[trio.CancelScope]:
        """A block in which a client says who it is; it is left, cancelled, when its place is needed."""
        if len(self._here) >= self._strangers_max:
            oldest = next(iter(self._here))
            del self._here[oldest]
            oldest.cancel(reason="others want to say who they are")
            self._instruments.refused(TooManyStrangers())
            log.warning("too many strangers: the oldest is dropped", strangers_max=self._strangers_max)
        with trio.CancelScope() as scope:
            self._here[scope] = None
            try:
                yield scope
            finally:
                self._here.pop(scope, None)
