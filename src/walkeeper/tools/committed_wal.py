"""Committed WAL as one keeper streams it, written into files in the order in which it comes.

Rules: a keeper that sends no WAL for a while is given up.

Does not know what is committed: who asks for more than the keeper knows to be waits in vain.
Source: PostgreSQL, "Streaming Replication Protocol".
"""

from collections import deque
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Final

from walkeeper.formats.commands import encode_start_replication
from walkeeper.ids import TenantTimelineId
from walkeeper.links.address import Address
from walkeeper.links.keeper import connect_keeper
from walkeeper.links.postgres import time_limit
from walkeeper.links.wal_stream import WalStream
from walkeeper.lsn import Lsn
from walkeeper.messages import Slice
from walkeeper.tools.segment_file import SegmentFile

STALL_SECONDS_MAX: Final = 10.0
"""For a keeper to send WAL that it has: longer than its disk takes for a read under load."""


class CommittedWal:
    """A stream and what it has brought too early."""

    def __init__(self, stream: WalStream) -> None:
        self._stream = stream
        self._rest: deque[Slice] = deque()

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
                slices = (await self._stream.receive_and_report()).slices
        return slices


@asynccontextmanager
async def read_committed(
    address: Address, ttid: TenantTimelineId, begin_lsn: Lsn, *, application_name: str
) -> AsyncIterator[CommittedWal]:
    """Committed WAL of a keeper, from ``begin_lsn`` on.  Raises Unreachable, ServerError, PeerError or ConfigError."""
    async with connect_keeper(address, ttid, application_name) as connection:
        with time_limit(STALL_SECONDS_MAX, connection.name):
            await connection.start_copy(encode_start_replication(begin_lsn))
        yield CommittedWal(WalStream(connection, begin_lsn))
