"""WAL as it comes from a START_REPLICATION stream, of PostgreSQL or of a keeper: contiguous, or not at all.

Does not answer keepalives: it says that an answer was asked for.
Source: PostgreSQL, "Streaming Replication Protocol".
"""

from collections.abc import Sequence
from dataclasses import dataclass

from walkeeper.errors import Malformed
from walkeeper.formats.replication import PrimaryKeepalive, XLogData, parse_sender_message
from walkeeper.links.postgres import Connection
from walkeeper.lsn import Lsn, format_lsn
from walkeeper.messages import Slice


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

    def _require_next(self, lsn: Lsn) -> None:
        if lsn != self.next_lsn:
            expected = format_lsn(self.next_lsn)
            raise Malformed(f"{self.connection.name}: WAL at {format_lsn(lsn)} came, expected it at {expected}")
