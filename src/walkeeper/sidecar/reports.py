"""What the primary is told: what a quorum has, and what standbys behind the keepers need to see.

Rules: never waits.  Nothing is added while something rests that the kernel did not take: the next report says more, so
a primary that does not read costs one report of memory.

Does not know what is committed, nor when a report is due: ``session``.
Source: PostgreSQL, "Streaming Replication Protocol".
"""

import time
from contextlib import suppress
from dataclasses import replace

from walkeeper.errors import Unreachable
from walkeeper.formats.replication import (
    StandbyMessage,
    StandbyStatusUpdate,
    encode_standby_message,
    postgres_microseconds,
)
from walkeeper.links.postgres import Connection
from walkeeper.lsn import Lsn
from walkeeper.messages import HotStandbyFeedback


class Reports:
    """To the primary behind ``connection``, which streams.  Whoever reads from it, not we, learns that it is lost."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._told_hot_standby: HotStandbyFeedback | None = None

    def status(self, lsn: Lsn, *, reply_requested: bool = False) -> None:
        """All below ``lsn`` is kept."""
        self._send(StandbyStatusUpdate(lsn, lsn, lsn, _postgres_time(), reply_requested))

    def hot_standby(self, needed: HotStandbyFeedback) -> None:
        """What standbys still need to see, if that has changed; at first in any case, for the slot may remember more."""
        if needed != self._told_hot_standby and self._send(replace(needed, timestamp=_postgres_time())):
            self._told_hot_standby = needed

    def _send(self, message: StandbyMessage) -> bool:
        """Whether it was sent."""
        if self._connection.link.pending_bytes:
            return False
        with suppress(Unreachable):
            self._connection.send_copy_soon(encode_standby_message(message))
        return True


def _postgres_time() -> int:
    """Now, in microseconds since 2000-01-01."""
    return postgres_microseconds(time.time_ns())
