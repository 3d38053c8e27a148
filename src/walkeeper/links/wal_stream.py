"""WAL as it comes from a START_REPLICATION stream, of PostgreSQL or of a keeper: contiguous, or not at all.

Rules: a reader of keepers reports now and then how far it has read, since they take silence for absence.  What a
primary is told lets commits return, so there ``receive`` only says that an answer was asked for.
Source: PostgreSQL, "Streaming Replication Protocol".
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import trio

from walkeeper.errors import Malformed
from walkeeper.formats.replication import (
    PrimaryKeepalive,
    StandbyStatusUpdate,
    XLogData,
    encode_standby_message,
    parse_sender_message,
    postgres_microseconds,
)
from walkeeper.links.postgres import Connection
from walkeeper.lsn import INVALID_LSN, Lsn, format_lsn
from walkeeper.messages import Slice

REPORT_SECONDS: Final = 10.0
"""Between two reports: PostgreSQL's wal_receiver_status_interval, far below what keepers wait."""


@dataclass(frozen=True, slots=True)
class Delivery:
    """What one look at the stream brought: ``slices`` of WAL from ``begin_lsn`` on, perhaps none."""

    begin_lsn: Lsn
    slices: Sequence[Slice]
    reply_requested: bool


class WalStream:
    """The WAL from ``next_lsn`` on, over a connection that has begun to stream."""

    def __init__(self, connection: Connection, next_lsn: Lsn) -> None:
        self.connection = connection
        self.next_lsn = next_lsn
        self._reported_at = trio.current_time()

    async def receive(self) -> Delivery:
        """At least one message.  Raises Malformed when WAL is missing or repeated; otherwise as the connection does.

        Cancellation: at any time, nothing is lost.
        """
        begin_lsn, slices, reply_requested = self.next_lsn, [], False
        for payload in await self.connection.receive_copies():
            match parse_sender_message(payload):
                case XLogData(wal_start, _, _, wal):
                    self._require_next(wal_start)
                    slices.append(wal)
                    self.next_lsn = Lsn(wal_start + len(wal))
                case PrimaryKeepalive(_, _, asked):
                    reply_requested |= asked
        return Delivery(begin_lsn, slices, reply_requested)

    async def receive_and_report(self) -> Delivery:
        """``receive`` from a keeper, which hears how far it was read when it asks, or has not heard it for long.

        Cancellation: as for ``receive``.
        """
        delivery = await self.receive()
        if delivery.reply_requested or trio.current_time() - self._reported_at >= REPORT_SECONDS:
            self._report()
        return delivery

    def _report(self) -> None:
        """What was read is not claimed to be on any disk.  Raises Unreachable."""
        self._reported_at = trio.current_time()
        now = postgres_microseconds(time.time_ns())
        status = StandbyStatusUpdate(self.next_lsn, INVALID_LSN, INVALID_LSN, now)
        self.connection.send_copy_soon(encode_standby_message(status))

    def _require_next(self, lsn: Lsn) -> None:
        if lsn != self.next_lsn:
            expected = format_lsn(self.next_lsn)
            raise Malformed(f"{self.connection.name}: WAL at {format_lsn(lsn)} came, expected it at {expected}")
