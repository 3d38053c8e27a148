"""Committed WAL as one keeper streams it, written into files in the order in which it comes.

Rules: a keeper that sends no WAL for a while is given up.  It hears now and then how far it was read, since keepers
take silence for absence.

Does not know what is committed: who reads must not ask for more than the keeper has.
Source: PostgreSQL, "Streaming Replication Protocol".
"""

import time
from collections import deque
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Final

import trio

from walkeeper.formats.commands import encode_start_replication
from walkeeper.formats.replication import StandbyStatusUpdate, encode_standby_message, postgres_microseconds
from walkeeper.ids import TenantTimelineId
from walkeeper.links.address import Address
from walkeeper.links.keeper import connect_keeper
from walkeeper.links.postgres import time_limit
from walkeeper.links.wal_stream import WalStream
from walkeeper.lsn import INVALID_LSN, Lsn
from walkeeper.messages import Slice
from walkeeper.tools.segment_file import SegmentFile

STALL_SECONDS_MAX: Final = 10.0
"""For a keeper to send WAL that it has: longer than its disk takes for a read under load."""

REPORT_SECONDS: Final = 10.0
"""Between two reports: PostgreSQL's wal_receiver_status_interval, far below what keepers wait."""


class CommittedWal:
    """A stream and what it has brought too early."""

    def __init__(self, stream: WalStream) -> None:
        self._stream = stream
        self._rest: deque[Slice] = deque()
        self._reported_at = trio.current_time()

    async def copy(self, file: SegmentFile, stop_lsn: Lsn) -> None:
        """Write WAL into ``file``, from where that is up to ``stop_lsn``; the first call begins where the stream does.

        Raises StorageError, and Unreachable, ServerError or PeerError if the keeper does not give it.

        Cancellation: the stream is of no use afterwards.
        """
        while missing := stop_lsn - file.next_lsn:
            if not self._rest:
                self._rest.extend(await self._receive())
            piece = memoryview(self._rest.popleft())
            if len(piece) > missing:
                self._rest.appendleft(piece[missing:])
            file.write([piece[:missing]])

    async def _receive(self) -> Sequence[Slice]:
        """What comes next, at least one slice."""
        slices: Sequence[Slice] = ()
        with time_limit(STALL_SECONDS_MAX, self._stream.connection.name, "WAL"):
            while not slices:
                delivery = await self._stream.receive()
                slices = delivery.slices
                if delivery.reply_requested or trio.current_time() > self._reported_at + REPORT_SECONDS:
                    self._report()
        return slices

    def _report(self) -> None:
        self._reported_at = trio.current_time()
        now = postgres_microseconds(time.time_ns())
        status = StandbyStatusUpdate(self._stream.next_lsn, INVALID_LSN, INVALID_LSN, now, reply_requested=False)
        self._stream.connection.send_copy_soon(encode_standby_message(status))


@asynccontextmanager
async def read_committed(
    address: Address, ttid: TenantTimelineId, begin_lsn: Lsn, *, application_name: str
) -> AsyncIterator[CommittedWal]:
    """Committed WAL of a keeper, from ``begin_lsn`` on.  Raises Unreachable, ServerError, PeerError or ConfigError."""
    async with connect_keeper(address, ttid, application_name) as connection:
        with time_limit(STALL_SECONDS_MAX, connection.name):
            await connection.start_copy(encode_start_replication(begin_lsn))
        yield CommittedWal(WalStream(connection, begin_lsn))
